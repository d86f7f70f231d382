"""Every command line explains itself, and answers a bad argument with one line that names it, before any work."""

import re
import subprocess
import sys

import pytest

from sparsinglib.files import NOTEBOOKS
from sparsinglib.ladder import ends, train, trajectory
from sparsinglib.ladder.recipe import RUNS
from sparsinglib.reproduce import cli

PROGRAMS = {"reproduce": cli, "ladder.train": train, "ladder.trajectory": trajectory, "ladder.ends": ends}
FIRST = str(NOTEBOOKS / "00_measure_one_checkpoint.ipynb")


@pytest.fixture
def said(capsys):
    def run(program, *arguments):
        with pytest.raises(SystemExit) as stop:
            PROGRAMS[program].main(list(arguments))
        return stop.value.code, *capsys.readouterr()

    return run


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_explains_every_option(program, said):
    code, out, _ = said(program, "--help")
    assert code == 0 and f"python -m sparsinglib.{program}" in out
    options = out.partition("options:")[2]
    entries = [" ".join(entry.split()) for entry in re.split(r"\n  (?=-)", options) if entry.strip()]
    assert entries
    for entry in entries:
        left = re.match(r"(-\w, )?--?[\w-]+( NN \[NN \.\.\.\]| [A-Z_]+(=VALUE)?)?", entry)[0]
        assert len(entry) > len(left) + 10, f"{program}: {left} is not explained"


RUN_TWICE = """
import importlib, sys
for program in sys.argv[1:]:
    importlib.import_module(program.rpartition(".")[0])
    print(program * (program in sys.modules), end="")
"""


def test_no_package_imports_a_program_of_its_own():
    """Python warns of one that it finds imported, since it then runs beside itself."""
    programs = [f"sparsinglib.{name}{'.__main__' * (name == 'reproduce')}" for name in PROGRAMS]
    done = subprocess.run([sys.executable, "-c", RUN_TWICE, *programs], capture_output=True, text=True, check=True)
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("program", "arguments", "named"),
    [
        ("reproduce", ["nosuch.ipynb"], "nosuch.ipynb"),
        ("reproduce", ["--notebooks", "77"], "No notebook 77; there are 00_"),
        ("reproduce", ["--suite", "nosuch"], "no suite called nosuch: give example, ladder"),
        ("reproduce", ["--jobs", "0"], "--jobs"),
        ("reproduce", ["--set", "nothing"], "name=value"),
        ("reproduce", [FIRST, "--set", "modle=x"], "the parameter modle; did you mean model?"),
        ("reproduce", [FIRST, "--set", "window=one"], "window takes a value like"),
        ("reproduce", [FIRST, "--store", "--set", "window=128"], "--store"),
        ("ladder.train", ["nosuch"], "no run is called nosuch; the runs: 0.1m-relu, "),
        ("ladder.train", ["0.1m-relu", "--minutes", "0"], "--minutes"),
        ("ladder.train", ["0.1m-relu", "--minutes", "soon"], "soon"),
        ("ladder.trajectory", [], "NAME"),
        ("ladder.trajectory", ["nosuch"], "no run is called nosuch; the runs: 0.1m-relu, "),
        ("ladder.trajectory", ["0.1m-relu", "--all"], "or --all"),
        ("ladder.ends", ["nosuch"], "no run is called nosuch; the runs: 0.1m-relu, "),
    ],
)
def test_a_bad_argument_is_named_in_one_line_before_anything_runs(
    program, arguments, named, said, tmp_path, monkeypatch
):
    monkeypatch.setattr(cli, "OUT", tmp_path / "build")
    code, out, err = said(program, *arguments)
    assert code == 2 and not out and not any(tmp_path.iterdir())
    usage, _, message = err.partition(f"python -m sparsinglib.{program}: error: ")
    assert usage.startswith("usage:") and named in message
    assert message.count("\n") == 1


def test_a_run_without_checkpoints_says_how_to_get_them(said, tmp_path, monkeypatch):
    monkeypatch.setattr(trajectory, "LADDER", tmp_path)
    monkeypatch.setattr(trajectory, "WORK", tmp_path)
    code, _, _ = said("ladder.trajectory", "0.1m-relu")
    assert code == "0.1m-relu has no checkpoints: train it with python -m sparsinglib.ladder.train 0.1m-relu"


@pytest.mark.parametrize("arguments", [["--list"], ["--list", "0.1m-relu"], []])
def test_a_list_of_runs_trains_nothing(arguments, capsys, monkeypatch):
    for name in ("training_texts", "restore", "train", "publish", "decay_branch"):
        monkeypatch.setattr(train, name, lambda *_, name=name, **__: pytest.fail(f"{name} was called"))
    train.main(arguments)
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["name", *RUNS]
