"""A full disk is one line that names file and cause; what was done before stays, and work goes on once there is room.

A checkout that cannot be written is enough for who names another folder.

Tested on a disk that is really full (a small tmpfs, where this process may mount one) and, on every machine, with the
kernel's limit on the size of a file.
"""

import contextlib
import dataclasses
import os
import resource
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import torch
from helpers import golden_model
from made_up import TINY, training_texts, write_notebook
from safetensors.torch import load_file

import sparsinglib as sl
from sparsinglib import files, suites
from sparsinglib.ladder import train
from sparsinglib.ladder.recipe import CONTEXT
from sparsinglib.reproduce import cli, notebook_process, runner
from sparsinglib.suites import survey

FULL = r"(No space left on device|File too large|os error 2[78])"


class SmallDisk:
    """A mounted tmpfs that can be filled up."""

    def __init__(self, folder):
        self.folder = folder

    @contextlib.contextmanager
    def full(self):
        filler = self.folder / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(2**12))
        yield
        filler.unlink()


class SmallFiles(SmallDisk):
    """No file of this process may grow beyond a few bytes."""

    @contextlib.contextmanager
    def full(self):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextlib.contextmanager
def mounting(folder, *options):
    folder.mkdir()
    try:
        done = subprocess.run(["mount", *options, str(folder)], capture_output=True, text=True, check=False)
    except OSError as error:
        pytest.skip(f"mount is not to be had: {error}")
    if done.returncode:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def mounted(tmp_path):
    with mounting(tmp_path / "small", "-t", "tmpfs", "-o", "size=4m", "tmpfs") as folder:
        yield folder


@pytest.fixture
def read_only(tmp_path):
    """The checkout, where nobody can write to it."""
    with mounting(tmp_path / "checkout", "--bind", str(files.ROOT)) as folder:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(folder)], check=True)
        yield folder


@pytest.fixture(params=["full disk", "limited size"])
def disk(request, tmp_path):
    return SmallDisk(request.getfixturevalue("mounted")) if request.param == "full disk" else SmallFiles(tmp_path)


def one_line(caught, name):
    message = str(caught.value)
    assert "\n" not in message and name in message and len(message) < 500
    return True


def test_thresholds(disk, ids):
    found = sl.thresholds_for_cett(golden_model("silu"), [ids["tiny64"]], 0.1)
    path = disk.folder / "thresholds.json"
    found.save(path)
    with disk.full(), pytest.raises(OSError, match=FULL) as caught:
        dataclasses.replace(found, cett=0.2).save(path)
    assert one_line(caught, str(path))
    assert sl.Thresholds.load(path) == found
    assert [p.name for p in disk.folder.iterdir()] == ["thresholds.json"]  # no half of a file takes room


def test_survey(disk, tmp_path, monkeypatch):
    text = tmp_path / "own.txt"
    text.write_text("One neuron fires, another rests; most of them rest nearly always. " * 80)
    monkeypatch.setenv("SPARSINGLIB_CACHE", str(disk.folder / "cache"))
    checkpoint = suites.Checkpoint("0.1m-relu", "0.1m-relu", "0.1M", "relu")
    suite = suites.Suite("mine", "own", (str(text),), 64, 256, (checkpoint,))
    calls = []
    monkeypatch.setattr(survey, "measure_model", lambda *a, **k: calls.append(a[2]) or sl.measure(*a, **k))
    one, two = sl.FAT(0.1), sl.FAT(0.2)
    first = survey.table(survey.measure(suite, {"one": one}))
    with disk.full(), pytest.raises(OSError, match=FULL) as caught:
        survey.measure(suite, {"one": one, "two": two})
    assert one_line(caught, str(disk.folder / "cache" / "survey"))
    table = survey.table(survey.measure(suite, {"one": one, "two": two}))
    assert table.iloc[:1].equals(first)
    assert calls == [one, two, two]


def test_ladder_run(disk, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "LOG_TOKENS", 4 * CONTEXT)
    texts = training_texts()
    begun, run = (dataclasses.replace(TINY, tokens=steps * CONTEXT) for steps in (8, 12))
    work = disk.folder / "work"
    train.train(begun, texts, work, compiled=False)
    with disk.full(), pytest.raises(OSError, match=FULL) as caught:
        train.train(run, texts, work, compiled=False)
    assert one_line(caught, str(work))
    assert train.last_checkpoint(work).name == "checkpoint-8"
    train.train(run, texts, work, compiled=False)
    train.train(begun, texts, tmp_path / "whole", compiled=False)
    train.train(run, texts, tmp_path / "whole", compiled=False)
    ended, whole = (load_file(w / "checkpoint-12" / "model.safetensors") for w in (work, tmp_path / "whole"))
    assert all(torch.equal(ended[name], whole[name]) for name in whole)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(28, "No space left on device"), "No space left on device"),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 1 vs 2"), "cannot be written.*free"),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), "^mat1"),
        (FileNotFoundError(2, "No such file or directory", "other"), "'other'"),
        (OSError("not about one file"), "^not about one file$"),
    ],
)
def test_only_errors_of_writing_are_given_a_name(error, message, tmp_path):
    with pytest.raises(type(error) if "cannot" not in message else OSError, match=message), files.naming(tmp_path):
        raise error


FILL = """
import os
if not os.path.exists("FILLER"):
    with open("FILLER", "wb", buffering=0) as file:
        try:
            while file.write(bytes(64)):
                pass
        except OSError:
            pass
"""


def test_reproduction_on_a_full_disk(mounted, tmp_path, capfd):
    filler = mounted / "filler"
    options = ["--out", str(mounted), "--jobs", "1"]
    first = str(write_notebook(tmp_path / "01_first.ipynb", "print(x)"))
    assert cli.main([first, *options]) == 0
    second = str(write_notebook(tmp_path / "02_second.ipynb", FILL.replace("FILLER", str(filler))))
    capfd.readouterr()
    assert cli.main([first, second, *options]) == 1
    said = capfd.readouterr()
    assert "Traceback" not in said.out + said.err
    assert f"No space left on device: '{mounted / 'notebooks' / 'state' / '02_second.json'}'" in said.err
    assert runner.load(mounted / "notebooks" / "state", "01_first").error == ""
    nbformat.read(mounted / "notebooks" / "01_first.ipynb", 4)
    filler.write_bytes(b"")
    assert cli.main([first, second, *options]) == 0
    assert "01_first: unchanged" in capfd.readouterr().out


MEASURES = """
import sparsinglib as sl
from sparsinglib.files import output_dir
model, tokenizer = sl.load("0.1m-relu")
batches = sl.token_batches("The mill stood still. " * 99, tokenizer, 64)
sl.thresholds_for_cett(model, batches, 0.1).save(output_dir() / "t.json")
"""


def test_a_read_only_checkout_needs_no_more_than_out(read_only, tmp_path):
    own = str(write_notebook(tmp_path / "01_own.ipynb", MEASURES))
    environment = os.environ | {"PYTHONPATH": str(read_only), "SPARSINGLIB_CACHE": str(tmp_path / "cache")}
    call = [sys.executable, "-m", "sparsinglib.reproduce", own, "--out", str(tmp_path / "out")]
    done = subprocess.run(call, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert sl.Thresholds.load(tmp_path / "out" / "figures" / "t.json").cett == 0.1


def test_a_notebook_that_cannot_draw_is_the_only_one_to_fail(tmp_path, monkeypatch, capfd):
    def full(*_):
        raise OSError(28, "No space left on device")

    draw = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
    draw += f"with open({str(tmp_path / 'drawn.csv')!r}, 'w') as file:\n    file.write('x' * 10_000)"
    sources = {"01_bad.ipynb": draw, "02_good.ipynb": "print(x)"}
    bad, good = (str(write_notebook(tmp_path / name, source)) for name, source in sources.items())
    assert cli.main([bad, good, "--out", str(tmp_path / "out"), "--jobs", "2"]) == 1
    said = capfd.readouterr()
    assert "01_bad: OSError: [Errno 27] File too large" in said.out
    assert runner.load(tmp_path / "out" / "notebooks" / "state", "02_good").error == ""
    monkeypatch.setattr(files.os, "replace", full)
    assert cli.main([good, "--out", str(tmp_path / "out"), "--again"]) == 1
    said = capfd.readouterr()
    assert "02_good.json" in said.err and "No space left" in said.err and "Traceback" not in said.err


def test_half_an_executed_copy_is_not_kept(tmp_path, monkeypatch):
    def execute(notebook, copy, *_, **__):
        Path(copy).write_text('{"cells": [')
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(notebook_process.papermill, "execute_notebook", execute)
    copy = tmp_path / "01_a.ipynb"
    error = notebook_process.run(str(tmp_path / "x.ipynb"), str(copy), {})
    assert error == f"OSError: [Errno 28] No space left on device: '{copy}'"
    assert list(tmp_path.iterdir()) == []
