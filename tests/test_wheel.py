"""The package as strangers get it: a wheel, in a fresh environment, outside the checkout."""

import os
import shutil
import subprocess
import sys
import zipfile

import pytest

from sparsinglib.files import ROOT

OLDEST = "5.0.0"  # of transformers, as pyproject.toml says
CALLS = """
import pathlib, warnings
import sparsinglib as sl
warnings.simplefilter("ignore", UserWarning)
assert "site-packages" in sl.__file__, sl.__file__
model, tokenizer = sl.load("0.4m-relu")
text = "The river ran low that summer, and the mill stood still. " * 200
batches = sl.token_batches(text, tokenizer, max_tokens=1024)
found = sl.find_thresholds(model, batches, ppl_increase_pct=5.0)
found.save("thresholds.json")
assert sl.Thresholds.load("thresholds.json") == found and "CETT-PPL-5%" in found.card()
assert 0 < sl.measure(model, batches, "thresholds.json").activation_ratio < 1
with sl.sparsify(model, "thresholds.json"):
    model.generate(batches[0][:1, :8], max_new_tokens=4, do_sample=False)
table = sl.paper.table(2)
assert len(table) == 11, table
try:
    sl.load("0.1m-relu")
except sl.CheckpointError as error:
    assert "0.4m-relu, 0.4m-silu" in str(error) and "checkout" in str(error), error
else:
    raise AssertionError("more of the ladder than the wheel should carry")
print("all calls made")
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy, so that no build folder is left in the checkout, nor one that lies there is taken along."""
    source, out = tmp_path_factory.mktemp("source") / "project", tmp_path_factory.mktemp("wheel")
    skip = shutil.ignore_patterns(
        ".*", "build", "*.egg-info", "__pycache__", "steps", "decayed", "notebooks", "figures"
    )
    shutil.copytree(ROOT, source, ignore=skip)
    pip(sys.executable, "wheel", "--no-deps", "--wheel-dir", str(out), str(source))
    (path,) = out.glob("*.whl")
    return path


def pip(python, *arguments):
    done = subprocess.run([python, "-m", "pip", *arguments, "--quiet"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def fresh(folder, *packages):
    """An environment of its own; torch by itself first, so that the build that lies on this machine's disk is taken."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = str(folder / "bin" / "python")
    pip(python, "install", "torch==2.13.0")
    pip(python, "install", *packages)
    return python


def run(command, where):
    return subprocess.run(command, **where, capture_output=True, text=True, check=False)


def outside(folder):
    """The environment variables of somebody who has no checkout."""
    folder.mkdir()
    known = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "SPARSINGLIB_CACHE", "SPARSINGLIB_FIGURES")}
    return {"cwd": folder, "env": known | {"HF_HUB_OFFLINE": "1"}}


def test_what_the_wheel_carries(wheel):
    assert wheel.stat().st_size < 10 * 2**20
    held = set(zipfile.ZipFile(wheel).namelist())
    models = {f"sparsinglib/data/ladder/0.4m-{kind}/model.safetensors" for kind in ("relu", "silu")}
    assert {name for name in held if name.endswith(".safetensors")} == models
    texts = [path for part in ("paper", "suites", "tasks", "texts") for path in (ROOT / "data" / part).glob("*")]
    assert {f"sparsinglib/{path.relative_to(ROOT).as_posix()}" for path in texts} <= held
    assert "sparsinglib/data/ladder/tokenizer/tokenizer.json" in held
    assert not any(name.startswith(("tests", "notebooks", "benchmarks")) for name in held)


def test_a_stranger_installs_the_wheel_and_measures(wheel, tmp_path):
    """With the core's dependencies alone."""
    python = fresh(tmp_path / "env", str(wheel))
    done = run([python, "-c", CALLS], outside(tmp_path / "elsewhere"))
    assert done.returncode == 0 and "all calls made" in done.stdout, done.stdout + done.stderr


@pytest.mark.slow
def test_the_core_passes_with_the_oldest_transformers(wheel, tmp_path):
    requirements = ["pytest", "hypothesis", "scipy", "joblib", "filelock", f"transformers=={OLDEST}", str(wheel)]
    python = fresh(tmp_path / "env", *requirements)
    shutil.copytree(ROOT / "tests", tmp_path / "tests")
    where = outside(tmp_path / "elsewhere")
    names = ("arguments", "token_batches", "thresholds", "hooks", "measure", "search", "rules", "ffn")
    files = [str(tmp_path / "tests" / "core" / f"test_{name}.py") for name in names]
    options = [
        "-q",
        "-m",
        "not slow and not real",
        "-o",
        f"pythonpath={tmp_path / 'tests'}",
        "-c",
        str(ROOT / "pyproject.toml"),
    ]
    done = run([python, "-m", "pytest", *options, *files], where)
    assert done.returncode == 0, done.stdout[-4000:]


@pytest.mark.slow
@pytest.mark.parametrize("number", ["3.12", "3.13"])
def test_other_pythons(number, wheel, tmp_path):
    """Where they are on this machine, and a build of torch for them on its disk: nobody waits for a gigabyte."""
    python = shutil.which(f"python{number}")
    works = python and subprocess.run([python, "-c", ""], capture_output=True, check=False).returncode == 0
    if not works:
        pytest.skip(f"no Python {number} on this machine")
    subprocess.run([python, "-m", "venv", tmp_path / "env"], check=True)
    inside = str(tmp_path / "env" / "bin" / "python")
    wanted = [inside, "-m", "pip", "install", "--quiet", "--no-index", "torch==2.13.0"]
    if subprocess.run(wanted, capture_output=True, check=False).returncode:
        pytest.skip(f"no torch for Python {number} on this machine's disk")
    pip(inside, "install", str(wheel))
    done = run([inside, "-c", CALLS], outside(tmp_path / "elsewhere"))
    assert done.returncode == 0 and "all calls made" in done.stdout, done.stdout + done.stderr
