"""Hundreds of damaged files: each gives one clear error that names the file, never a traceback from inside a library.

Files are damaged at random (bytes cut, changed, repeated; values swapped for others) and by hand where it would hurt.
"""

import json
import math
import multiprocessing
import random
import resource
import shutil
from collections.abc import Iterable
from pathlib import Path

import pandas as pd
import pytest
import yaml
from helpers import GOLDEN, golden_model

import sparsinglib as sl
from sparsinglib import laws, suites
from sparsinglib.core.checkpoints import CheckpointError
from sparsinglib.files import SUITES
from sparsinglib.studies.scaling import trends
from sparsinglib.suites.suite import SuiteError

ODD = [None, True, -1, 0, 1e308, "", "x" * 5000, [], {}, [[]], "../../etc", "\0", 10**400, "nan", [None] * 3]


def damaged(data: bytes, seed: int) -> bytes:
    """Bytes of a file after one random accident."""
    rng = random.Random(seed)
    at, length = rng.randrange(len(data)), rng.randrange(1, 64)
    return rng.choice(
        [
            lambda: data[:at],
            lambda: data[:at] + data[at + length :],
            lambda: data[:at] + rng.randbytes(length) + data[at + length :],
            lambda: data[:at] + data[at : at + length] * 3 + data[at + length :],
            lambda: data.replace(b":", b"", 1),
            lambda: b"\xef\xbb\xbf" + data[at:],
            lambda: data[::-1],
        ]
    )()


def swapped(entry: dict, seed: int) -> dict:
    """A mapping with one value, or one name, replaced by something odd."""
    rng = random.Random(seed)
    name = rng.choice(sorted(entry))
    changed = dict(entry)
    if rng.random() < 0.3:
        changed[rng.choice(["", "naem", "__class__", "py/object", name + " "])] = changed.pop(name)
    else:
        changed[name] = rng.choice(ODD)
    return changed


def attempt(read, path: Path, kind: type[Exception]) -> list:
    """What reading gives, [] if it was refused: by one short error of that kind that names the file, and no other."""
    try:
        return [read(path)]
    except kind as error:
        message = str(error)
        assert path.stem in message, f"{message[:200]!r} does not name the file"
        assert len(message) < 1000
        return []


def tried(versions: Iterable[bytes | str], path: Path, read, kind: type[Exception]) -> tuple[int, list]:
    """How many of the versions of a file are refused, and what is read of the others."""
    found = []
    for version in versions:
        path.write_bytes(version.encode() if isinstance(version, str) else version)
        found.append(attempt(read, path, kind))
    return found.count([]), [one for ones in found for one in ones]


def on_cpu(path: Path):
    return sl.load(path, device_map="cpu")


@pytest.fixture(scope="module")
def thresholds_file(tmp_path_factory, ids):
    path = tmp_path_factory.mktemp("thresholds") / "thresholds.json"
    sl.thresholds_for_cett(golden_model("silu"), [ids["tiny64"]], 0.1).save(path)
    return path


def test_damaged_thresholds(thresholds_file, tmp_path):
    good, data = sl.Thresholds.load(thresholds_file), thresholds_file.read_bytes()
    versions = (damaged(data, seed) for seed in range(120))
    refused, loaded = tried(versions, tmp_path / "damaged.json", sl.Thresholds.load, ValueError)
    # What is still readable as thresholds has sound values: applying it cannot go wrong in silence.
    assert all(len(t.values) == len(good.values) and min(t.values) >= 0 for t in loaded)
    assert refused > 80


def test_swapped_entries_of_thresholds(thresholds_file, tmp_path):
    entry = json.loads(thresholds_file.read_text())
    versions = (json.dumps(swapped(entry, seed)) for seed in range(120))
    refused, _ = tried(versions, tmp_path / "swapped.json", sl.Thresholds.load, ValueError)
    assert refused > 96  # nearly every entry matters


def read_hostile(folder: Path):
    ffns = sl.find_ffns(sl.load(GOLDEN / "tiny_minicpm_silu", device_map="cpu")[0])
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + 500 * 2**20,) * 2)
    for path in sorted(folder.iterdir()):
        for thresholds in attempt(sl.Thresholds.load, path, ValueError):
            with pytest.raises(ValueError):
                thresholds.check(ffns)


def test_hostile_thresholds_allocate_nothing_large(thresholds_file, tmp_path):
    entry = json.loads(thresholds_file.read_text())
    hostile = [
        "[" * 200_000,
        '{"values": ' + "[" * 100_000 + "]" * 100_000 + "}",
        json.dumps({**entry, "values": [0.1] * 1_000_000}),
        json.dumps({**entry, "layers": [10**15] * len(entry["values"])}),
        json.dumps({**entry, "cett": "9" * 10**6}),
        json.dumps({**entry, "__reduce__": ["os.system", ["true"]]}),
    ]
    for index, text in enumerate(hostile):
        (tmp_path / f"hostile_{index}.json").write_text(text)
    # In a process of its own, whose memory has a limit and no past.
    reader = multiprocessing.get_context("forkserver").Process(target=read_hostile, args=(tmp_path,))
    reader.start()
    reader.join(60)
    reader.kill()  # if it still reads
    reader.join()
    assert reader.exitcode == 0


def test_damaged_suites(tmp_path):
    good = (SUITES / "ladder.yaml").read_bytes()
    versions = (damaged(good, seed) for seed in range(80))
    refused, loaded = tried(versions, tmp_path / "damaged.yaml", suites.read, SuiteError)
    assert refused > 20 and all(suite.checkpoints for suite in loaded)


def test_swapped_entries_of_suites(tmp_path):
    entry = yaml.safe_load((SUITES / "example.yaml").read_text())
    versions = [swapped(entry, seed) for seed in range(60)]
    versions += [{**entry, "checkpoints": [swapped(entry["checkpoints"][0], seed)]} for seed in range(60)]
    refused, _ = tried(map(yaml.safe_dump, versions), tmp_path / "swapped.yaml", suites.read, SuiteError)
    assert refused > 96


def test_a_suite_runs_nothing(tmp_path):
    path = tmp_path / "hostile.yaml"
    mark = tmp_path / "ran"
    path.write_text(f"checkpoints: !!python/object/apply:os.system ['touch {mark}']\n")
    with pytest.raises(SuiteError, match="hostile"):
        suites.read(path)
    assert not mark.exists()


def fit_own(path: Path):
    rows = trends.own(str(path))
    return laws.fit("relu", rows.d.to_numpy(), rows.activation_ratio.to_numpy())


def test_damaged_tables_of_a_run(tmp_path):
    tokens = [i * 1e9 for i in range(1, 25)]
    good = tmp_path / "good.csv"
    ratio = [0.07 + 0.05 * 2.718 ** (-0.1 * i) for i in range(1, 25)]
    pd.DataFrame({"tokens": tokens, "activation_ratio": ratio}).to_csv(good, index=False)
    assert fit_own(good).a0 == pytest.approx(0.07, abs=0.02)
    path = tmp_path / "damaged.csv"
    fitted = []
    for seed in range(60):
        path.write_bytes(damaged(good.read_bytes(), seed))
        try:
            fitted.append(fit_own(path))
        except (ValueError, FileNotFoundError) as error:
            assert len(str(error)) < 1000 and "Traceback" not in str(error)
    assert len(fitted) < 35 and not any(math.isnan(fit.a0) for fit in fitted)


@pytest.mark.parametrize("name", ["tiny_minicpm_relu", "tiny_minicpm_hub_layout"])
def test_damaged_checkpoints(name, tmp_path):
    folder = tmp_path / name
    shutil.copytree(GOLDEN / name, folder)
    files = [f for f in sorted(folder.iterdir()) if f.name not in ("expected_token_ids.json", "generation_config.json")]
    refused = 0
    for seed in range(48):
        file = files[seed % len(files)]
        good = file.read_bytes()
        file.write_bytes(damaged(good, seed))
        loaded = attempt(on_cpu, folder, CheckpointError)
        refused += not loaded
        for model, _ in loaded:  # a change that does not show: weights are finite and the model runs
            assert sl.measure(model, [model.dummy_inputs["input_ids"]], sl.FAT(0.0), kl=False).tokens
        file.write_bytes(good)
    assert refused > 20


def test_swapped_entries_of_a_config(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(GOLDEN / "tiny_minicpm_relu", folder)
    config = json.loads((folder / "config.json").read_text())
    read = 0
    for seed in range(60):
        (folder / "config.json").write_text(json.dumps(swapped(config, seed)))
        read += len(attempt(on_cpu, folder, CheckpointError))
    assert 0 < read < 50  # transformers lets most of the entries be anything
