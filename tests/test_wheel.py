"""The package as strangers get it: a wheel, in a fresh environment, outside the checkout."""

import os
import re
import shutil
import subprocess
import sys
import zipfile

import pytest

from sparsinglib.files import ROOT

TORCH = "torch==2.13.0"
OLDEST = "5.0.0"  # of transformers, as pyproject.toml says
FOR_TESTS = ("pytest", "hypothesis", "scipy", "joblib", "filelock")
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


def fresh(folder, *packages, base=sys.executable):
    """An environment of its own; torch by itself first, so that the build that lies on this machine's disk is taken."""
    subprocess.run([base, "-m", "venv", folder], check=True)
    python = str(folder / "bin" / "python")
    pip(python, "install", TORCH)
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
def test_a_stranger_does_what_the_readme_says(wheel, tmp_path):
    """From the wheel to a file of thresholds, and to a task scored under them."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (extras,) = re.findall(r'pip install "WHEEL(\[.*?\])"', readme)
    python, where = fresh(tmp_path / "env", f"{wheel}{extras}"), outside(tmp_path / "elsewhere")
    program = re.search(r"```python\n(.*?)```", readme, re.DOTALL)[1]
    done = run([python, "-c", program], where)
    assert done.returncode == 0 and (where["cwd"] / "thresholds.json").is_file(), done.stderr
    (command,) = re.findall(r"^python (-m sparsinglib\.tasks .*)$", readme, re.MULTILINE)
    done = run([python, *command.split(), "--limit", "20"], where)
    assert done.returncode == 0 and re.search(r"offline_last_word.*acc", done.stdout), done.stderr


def core_tests(python, folder):
    """Run the core's tests on what is installed for ``python``, from a copy of the tests alone."""
    shutil.copytree(ROOT / "tests", folder / "tests")
    names = ("arguments", "thresholds", "hooks", "measure", "search", "rules", "ffn")
    files = [str(folder / "tests" / "core" / f"test_{name}.py") for name in names]
    settings = ["-c", str(ROOT / "pyproject.toml"), "-o", f"pythonpath={folder / 'tests'}"]
    settings += ["-k", "not true_reason"]  # of families that the oldest transformers cannot make
    call = [python, "-m", "pytest", "-q", "-m", "not slow and not real", *settings, *files]
    done = run(call, outside(folder / "elsewhere"))
    assert done.returncode == 0, done.stdout[-4000:]


@pytest.mark.slow
def test_the_core_passes_with_the_oldest_transformers(wheel, tmp_path):
    core_tests(fresh(tmp_path / "env", *FOR_TESTS, f"transformers=={OLDEST}", str(wheel)), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("number", ["3.12", "3.13"])
def test_other_pythons(number, wheel, tmp_path):
    """Where they are on this machine, and a build of torch for them on its disk: nobody waits for a gigabyte."""
    known = os.environ | {"PYENV_VERSION": number}  # pyenv's too, whichever is chosen in this folder
    found = shutil.which(f"python{number}") or sys.executable
    asked = run([found, "-c", "import sys; print('%d.%d' % sys.version_info[:2], sys.executable)"], {"env": known})
    version, base = asked.stdout.split() or ("", "")
    if version != number:
        pytest.skip(f"no Python {number} on this machine")
    if run([base, "-m", "pip", "install", "--dry-run", "--no-deps", "--no-index", TORCH], {}).returncode:
        pytest.skip(f"no torch for Python {number} on this machine's disk")
    core_tests(fresh(tmp_path / "env", *FOR_TESTS, str(wheel), base=base), tmp_path)
