"""pyproject.toml is the one list of dependencies; lock and conda file follow it."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from sparsinglib.files import NOTEBOOKS, ROOT

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


def test_torch_is_locked_so_that_a_cpu_build_fits_and_no_address_is_named():
    assert version("torch").split("+")[0] == LOCK["torch"] == "2.13.0"
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


def commands(target):
    """What make would run."""
    return subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_mypy_reads_the_whole_library_and_lint_runs_it():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]
    assert settings["packages"] == ["sparsinglib"] and "exclude" not in settings and "overrides" not in settings
    assert " -m mypy\n" in commands("lint")


def test_ci_runs_the_tests_of_a_newcomer(tmp_path):
    """In the repository, whatever folder it is called from; and those are the tests and every notebook."""
    make = tmp_path / "make"
    make.write_text(f'#!/bin/sh\necho "$PWD $*" > {tmp_path}/called')
    make.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    subprocess.run([ROOT / ".ci" / "run"], cwd=tmp_path, env=environment, check=True)
    assert (tmp_path / "called").read_text() == f"{ROOT} test\n"
    said = commands("test")
    assert "--nbval " in said and " tests\n" in said
    assert all(f"notebooks/{path.name}" in said for path in NOTEBOOKS.glob("[0-9]*.ipynb"))


LINT_IMPORTS = Path(sys.executable).with_name("lint-imports")


def test_who_may_import_whom():
    done = subprocess.run([LINT_IMPORTS], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_a_wrong_import_is_found(tmp_path):
    shutil.copytree(ROOT / "sparsinglib", tmp_path / "sparsinglib", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / "sparsinglib" / "core" / "rules.py").open("a") as file:
        file.write("\nfrom ..paper import style\n")
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run([LINT_IMPORTS], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "sparsinglib.core.rules -> sparsinglib.paper.style" in done.stdout
