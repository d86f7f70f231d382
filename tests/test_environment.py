"""pyproject.toml is the one list of dependencies; lock and conda file follow it."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import version

import pytest
import yaml
from packaging.requirements import Requirement

from sparsinglib.files import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LISTS = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
REQUIREMENTS = [Requirement(line) for group in LISTS for line in group]
LOCK = dict(
    line.split("==")
    for line in (ROOT / "requirements.lock").read_text().splitlines()
    if line and not line.startswith("#")
)


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=str)
def test_lock_holds_every_dependency_at_an_allowed_version(requirement):
    locked = {normal(name): number for name, number in LOCK.items()}
    assert requirement.specifier.contains(locked[normal(requirement.name)])


def test_torch_is_locked_so_that_a_cpu_build_fits():
    assert LOCK["torch"] == "2.13.0"
    assert version("torch").split("+")[0] == LOCK["torch"]


def test_lock_names_no_address():
    assert not re.search(r"://|@|--", (ROOT / "requirements.lock").read_text())


def test_conda_file_follows_the_lock():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    pip = next(entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict))
    assert pip == ["-r requirements.lock", "-e ."]
    python = next(e for e in environment["dependencies"] if isinstance(e, str) and e.startswith("python="))
    assert Requirement(f"python{PROJECT['requires-python']}").specifier.contains(python.split("=")[1])


@pytest.mark.slow  # 40 seconds of a core with nothing cached; make lint runs it too
def test_types_of_the_whole_library_pass_mypy():
    done = subprocess.run([sys.executable, "-m", "mypy"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_mypy_reads_the_whole_library_and_lint_runs_it():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]
    assert settings["packages"] == ["sparsinglib"] and "exclude" not in settings and "overrides" not in settings
    assert "-m mypy" in (ROOT / "Makefile").read_text()


def test_ci_runs_the_test_command_of_the_readme():
    assert "make test" in (ROOT / ".ci" / "run").read_text()
    assert "make test" in (ROOT / "README.md").read_text()
