"""Suites are read and checked; their measurements are made once, by content, and are the same wherever they run."""

import dataclasses
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from filelock import Timeout

import sparsinglib as sl
from sparsinglib import suites
from sparsinglib.core import checkpoints
from sparsinglib.core.rules import Rule
from sparsinglib.suites import survey
from sparsinglib.suites.suite import SuiteError

TEXT = "One neuron fires, another rests; most of them rest nearly always. " * 80


@pytest.fixture
def text_file(tmp_path):
    path = tmp_path / "own.txt"
    path.write_text(TEXT, encoding="utf-8")
    return str(path)


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """A cache of its own, in which the corpora need not be prepared again because only a text file is read."""
    monkeypatch.setenv("SPARSINGLIB_CACHE", str(tmp_path / "cache"))


def suite_of(text_file, name="0.4m-relu", tokens=512):
    checkpoint = suites.Checkpoint(name=name, source=name, scale="0.4M", activation="relu")
    return suites.Suite("mine", "own", (text_file,), 64, tokens, (checkpoint,))


class Mine(Rule):
    """A rule of the reader's own."""

    uses_gate = False


@pytest.fixture
def calls(cached, monkeypatch):
    """One entry for each model that was measured."""
    calls = []
    monkeypatch.setattr(survey, "measure_model", lambda *a, **k: calls.append(1) or sl.measure(*a, **k))
    return calls


FAT = {"fat": sl.FAT(0.1)}


def table_of(suite, rules=FAT, **options):
    return survey.table(survey.measure(suite, rules, **options))


def test_shipped_suites_are_read():
    ladder = suites.read("ladder")
    assert ladder.evidence == "ladder"
    assert {c.name for c in ladder.checkpoints} | set(ladder.missing) == {
        f"{scale}m-{act}" for scale in (0.1, 0.2, 0.4, 0.8, 1.2) for act in ("relu", "silu")
    }
    assert len(suites.read("released").checkpoints) == 10
    assert suites.read("example").evidence == "own"
    assert [c.name for c in ladder.pick("0.4M", "silu")] == ["0.4m-silu"]


def test_a_directory_of_downloads_takes_the_place_of_the_hub(tmp_path):
    with pytest.raises(SuiteError, match="none of its checkpoints"):
        suites.read(tmp_path)
    (tmp_path / "sparsing-law-0.1b-relu").mkdir()
    found = suites.read(tmp_path)
    assert [c.name for c in found.checkpoints] == ["0.1b-relu"]
    assert found.checkpoints[0].source == str(tmp_path / "sparsing-law-0.1b-relu")
    assert len(found.missing) == 9
    assert "1.2b-silu" in found.gaps()


GOOD = 'evidence: own\ncheckpoints:\n  - {name: 0.4m-relu, scale: "0.4M", activation: relu}\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]", "mapping"),
        ("checkpoints: [}", "YAML"),
        ("evidence: own", "checkpoints"),
        ("checkpoints: []", "checkpoints: list should have at least 1 item"),
        (GOOD + "corpra: [code]\n", "did you mean corpora"),
        (GOOD + "tokens: many\n", r"tokens: input should be a valid integer, got 'many'"),
        (GOOD + "sequence_length: 1\n", "sequence_length: .*greater than or equal to 2, got 1"),
        (GOOD + "corpora: code\n", "corpora: input should be a valid list, got 'code'"),
        (GOOD.replace("own", "paper"), "evidence: .*'released' or 'own', got 'paper'"),
        (GOOD.replace('"0.4M"', "4"), "quote it"),
        (GOOD.replace(", activation: relu", ""), "checkpoints 1 activation is missing"),
        (GOOD.replace("name:", "nmae:"), "did you mean name"),
        (GOOD + '  - {name: 0.4m-relu, scale: "0.4M", activation: relu}\n', "two checkpoints are called"),
        (GOOD.replace("0.4m-relu", "no-such-model"), "none of its checkpoints"),
        (GOOD.replace("relu}", "relu, revision: main}"), "only a model on the hub has a revision"),
    ],
)
def test_a_bad_suite_is_named(tmp_path, text, message):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(SuiteError, match=message):
        suites.read(path)


def test_relative_paths_are_read_from_the_suites_folder(tmp_path, monkeypatch):
    (tmp_path / "models" / "mine").mkdir(parents=True)
    (tmp_path / "mine.txt").write_text("one")
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD.replace("0.4m-relu,", "mine, source: models/mine,") + "corpora: [mine.txt, code, gone.txt]\n")
    there = suites.read(path)
    monkeypatch.chdir("/")
    assert suites.read(path) == there
    assert there.checkpoints[0].source == str(tmp_path / "models" / "mine")
    assert there.corpora == (str(tmp_path / "mine.txt"), "code", "gone.txt")
    with pytest.raises(SuiteError, match=r"no corpus and no file called gone\.txt; corpora: .*mixture"):
        suites.validate_suite(there)


def test_a_path_from_another_folder_is_not_there(tmp_path, monkeypatch):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    path = tmp_path / "elsewhere" / "mine.yaml"
    path.write_text(GOOD.replace("0.4m-relu,", "mine, source: ./a/b,"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SuiteError, match="none of its checkpoints is there"):
        suites.read(path)


def test_an_unknown_suite_lists_the_known_and_what_is_no_name_is_no_suite():
    with pytest.raises(SuiteError, match="ladder, released"):
        suites.read("leader")
    for given in (None, 3, "", " "):
        with pytest.raises(ValueError, match="suite must be a path, got"):
            suites.read(given)


@pytest.mark.parametrize(("options", "said"), [({"tokens": 0}, "tokens must be a whole number of at least 2, got 0"),
                                               ({"jobs": 0}, "jobs must be a whole number of at least 1, got 0"),
                                               ({"suite": "ladder"}, r"takes a suite, as suites\.read\(name\)"),
                                               ({"rules": [sl.FAT(0.1)]}, "a dict of rules by name"),
                                               ({"checkpoints": ["0.1m-relu"]}, "those of a suite.*got '0.1m-relu'"),
                                               ({"tokens": "many"}, "tokens must be a whole"),
                                               ({"rules": {"a": 0.1}}, "the rule must be Thresholds")])  # fmt: skip
def test_what_cannot_be_measured_is_said_before_a_model_is_loaded(options, said, text_file, monkeypatch):
    monkeypatch.setattr(survey, "loaded", None)
    with pytest.raises(ValueError, match=said):
        survey.measure(**{"suite": suite_of(text_file), "rules": FAT} | options)


def test_a_measurement_equals_the_library_s(cached, text_file):
    (result,) = survey.measure(suite_of(text_file), FAT).values()
    model, tokenizer = sl.load("0.4m-relu")
    direct = sl.measure(model, sl.token_batches(TEXT, tokenizer, 64, 8, 512), sl.FAT(0.1), kl=False)
    assert result.activation_ratio == pytest.approx(direct.activation_ratio, abs=1e-12)
    assert result.ppl_ratio == pytest.approx(direct.ppl_ratio, rel=1e-6)


def test_a_cett_is_given_thresholds_on_the_text(cached, text_file):
    (result,) = survey.measure(suite_of(text_file), {"cett": sl.CETT(0.2)}).values()
    assert isinstance(result.rule, sl.Thresholds) and result.rule.cett == 0.2


def test_what_was_measured_is_not_measured_again(calls, text_file):
    suite = suite_of(text_file)
    (first,), (second,) = (survey.measure(suite, FAT).values() for _ in range(2))
    assert len(calls) == 1
    assert torch.equal(first.neuron_counts[0], second.neuron_counts[0])
    survey.measure(suite, {"fat": sl.FAT(0.2)})
    assert len(calls) == 2


def test_a_rule_of_the_readers_own_is_measured_each_time(cached, text_file, monkeypatch):
    """It keeps its name when the reader edits it, as in a notebook."""
    suite, ratios = suite_of(text_file), []
    for share in (1, 0):
        monkeypatch.setattr(Mine, "active", lambda self, ffn, neurons, gate, valid=None: neurons.abs() * share > 0)  # noqa: B023
        ratios += table_of(suite, {"mine": Mine()}).activation_ratio.tolist()
    assert ratios[0] > ratios[1] == 0


def test_another_text_or_checkpoint_of_the_same_name_is_measured_anew(calls, text_file, tmp_path):
    """In one session, and whatever the files' times say."""
    copy = tmp_path / "copy"
    shutil.copytree(checkpoints.locate("0.4m-relu")[0], copy, ignore=shutil.ignore_patterns("*.csv", "*.json"))
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        source = checkpoints.LADDER_TOKENIZER if name.startswith("token") else checkpoints.LADDER / "0.4m-relu"
        shutil.copy(source / name, copy)
    suite = suite_of(text_file, str(copy))
    before = table_of(suite)
    weights = copy / "model.safetensors"
    times = weights.stat().st_atime_ns, weights.stat().st_mtime_ns
    shutil.copy(checkpoints.LADDER / "0.4m-silu" / "model.safetensors", copy)
    os.utime(weights, ns=times)
    after = table_of(suite)
    assert len(calls) == 2
    twin = shutil.copytree(copy, tmp_path / "twin")
    alone = table_of(suite_of(text_file, str(twin)))
    assert before.dense_ppl[0] != after.dense_ppl[0] == alone.dense_ppl[0]
    Path(text_file).write_text(TEXT.replace("One", "Two"))  # of the same length
    survey.measure(suite, FAT)
    assert len(calls) == 4


def test_a_file_added_to_a_folder_of_texts_counts(tmp_path):
    task = survey.Task(None, sl.FAT(0.1), survey.Text(str(tmp_path), 512, 64))
    (tmp_path / "a.txt").write_text(TEXT)
    before = survey._text_digests(task)
    assert survey._text_digests(task) == before
    (tmp_path / "b.txt").write_text(TEXT)
    assert survey._text_digests(task) != before


def test_a_branch_of_the_hub_that_moved_counts(monkeypatch, tmp_path):
    """Its name stays the same; the commit does not."""
    at = [tmp_path / "snapshots" / (commit * 40) / "config.json" for commit in "ab"]
    monkeypatch.setattr(survey, "cached_file", lambda *_, **__: str(at[0]))
    checkpoint = suites.Checkpoint("mine", "owner/name", "1B", "relu", "main")
    before = survey._checkpoint_digest(checkpoint)
    assert survey._checkpoint_digest(checkpoint) == before
    at.reverse()
    assert survey._checkpoint_digest(checkpoint) != before


def test_what_another_process_is_making_is_left_for_later():
    calls = []

    def make(task):
        assert survey.WAIT.get() == 0
        calls.append(task)
        if task == 0 and calls.count(0) < 3:
            raise Timeout("lock")
        return 10 * task

    assert survey.run(make, [0, 1, 2]) == [0, 10, 20]
    assert calls == [0, 1, 2, 0, 0]
    assert survey.WAIT.get() == -1


def in_parts(path, tokens, parts):
    checkpoint = suite_of(str(path)).checkpoints[0]
    texts = [survey.Text(str(path), tokens, 64, part, parts) for part in range(parts)]
    return survey.run(survey.measured, [survey.Task(checkpoint, sl.StraightforwardReLU(), text) for text in texts])


def test_parts_add_up_to_the_whole(cached, tmp_path):
    long = tmp_path / "long.txt"
    long.write_text(TEXT * 16, encoding="utf-8")
    (whole,), (one, other) = (in_parts(long, 3 * survey.BATCH_TOKENS, parts) for parts in (1, 2))
    assert (one + other).tokens == whole.tokens > 2 * survey.BATCH_TOKENS
    assert all(torch.equal(a, b) for a, b in zip((one + other).neuron_counts, whole.neuron_counts, strict=True))


def test_a_text_too_short_for_its_parts_says_what_to_do(cached, text_file):
    with pytest.raises(ValueError, match=r"own\.txt: [\d,]+ tokens, of the 16,384 asked .* 2 batches.*longer.*lower"):
        in_parts(text_file, 4 * survey.BATCH_TOKENS, 4)


def test_two_processes_give_what_one_gives(cached, text_file, tmp_path, monkeypatch):
    suite, rules = suite_of(text_file), FAT | {"relu": sl.StraightforwardReLU()}
    one = table_of(suite, rules)
    monkeypatch.setenv("SPARSINGLIB_CACHE", str(tmp_path / "other"))
    assert table_of(suite, rules, jobs=2).equals(one)


def test_thresholds_of_a_perplexity_increase(cached, text_file):
    suite = suite_of(text_file, name="0.8m-relu", tokens=1024)
    (result,) = survey.measure(suite, {"5 %": survey.PPLIncrease(5.0, text_file)}).values()
    assert isinstance(result.rule, sl.Thresholds)
    assert result.ppl_ratio == pytest.approx(result.rule.ppl_ratio)
    assert result.ppl_ratio == pytest.approx(1.05, abs=0.01)


def test_windows_are_no_longer_than_the_model_s_context(cached, text_file):
    suite = dataclasses.replace(suite_of(text_file), sequence_length=4096)
    (result,) = survey.measure(suite, FAT).values()
    assert result.by_position.position.max() == 255
    assert result.tokens == 512


def test_no_scheduler_at_the_address(cached, text_file, monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setenv(survey.DASK, "tcp://127.0.0.1:1")
    with pytest.raises(ValueError, match="no dask scheduler"):
        survey.measure(suite_of(text_file), FAT)


def start(*arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "distributed.cli.dask_" + arguments[0], *arguments[1:], "--no-dashboard"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def kill_when_busy(address, worker, killed):
    """Kill the worker process with SIGKILL once the scheduler says that it is at work."""
    from distributed import Client

    with Client(address, set_as_default=False) as client:
        for _ in range(600):
            busy = [name for name, keys in client.processing().items() if keys]
            names = {info["id"]: where for where, info in client.scheduler_info()["workers"].items()}
            if names.get("first") in busy:
                worker.send_signal(signal.SIGKILL)
                killed.append(worker.wait())
                return
            time.sleep(0.05)


def test_a_killed_worker_changes_nothing(cached, text_file, tmp_path, monkeypatch):
    distributed = pytest.importorskip("distributed")
    suite = suite_of(text_file, tokens=1024)
    rules = {f"top {k}": sl.TopK(k / 20) for k in range(1, 13)}
    alone = table_of(suite, rules)
    monkeypatch.setenv("SPARSINGLIB_CACHE", str(tmp_path / "cluster"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    scheduler = start("scheduler", "--host", address)
    workers = [start("worker", address, "--no-nanny", "--nthreads", "1", "--name", n) for n in ("first", "second")]
    try:
        with distributed.Client(address, timeout="60s", set_as_default=False) as client:
            client.wait_for_workers(2, timeout=120)
        killed = []
        thread = threading.Thread(target=kill_when_busy, args=(address, workers[0], killed))
        thread.start()
        monkeypatch.setenv(survey.DASK, address)
        together = table_of(suite, rules)
        thread.join()
        assert killed == [-signal.SIGKILL]
        assert together.equals(alone)
    finally:
        for process in (*workers, scheduler):
            process.kill()
            process.wait()
