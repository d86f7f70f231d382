"""Killed at any moment and started again, every long run ends with the files of one that was left alone.

Each run is killed with SIGKILL so often, at moments drawn over the time that it takes undisturbed, and started again
each time; where it comes to its end between two kills, a new one is begun. The processes are forked from one that has
imported everything, so that the moments fall on the work and not on the imports.
"""

import dataclasses
import json
import multiprocessing
import os
import random
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import joblib
import numpy as np
import psutil
import pytest
import torch
from made_up import TINY, training_texts, write_notebook
from tqdm import tqdm
from transformers.trainer import safe_globals

import sparsinglib as sl
from sparsinglib import suites, tasks
from sparsinglib.ladder import train
from sparsinglib.ladder.recipe import CONTEXT
from sparsinglib.paper import style
from sparsinglib.reproduce import cli, runner
from sparsinglib.suites import survey
from sparsinglib.tasks import offline

SERVER = multiprocessing.get_context("forkserver")
PRELOADED = ("suites.survey", "tasks", "ladder.train", "reproduce.cli", "paper.style")
SERVER.set_forkserver_preload([f"sparsinglib.{name}" for name in PRELOADED])
DRAW = """
import time
from sparsinglib import files
time.sleep(0.2)
files.write_atomically(files.output_dir() / f"powers_{x}.csv", "\\n".join(str(i**x) for i in range(1000)))
print(sum(i**x for i in range(1000)))
"""
OWN_TASK = """
task: own
dataset_path: json
test_split: test
output_type: multiple_choice
doc_to_text: query
doc_to_target: gold
doc_to_choice: choices
metric_list:
  - metric: acc
dataset_kwargs:
  data_files: {test: FILE}
"""


def write_inputs(folder):
    """What the runs read."""
    folder.mkdir()
    (folder / "text.txt").write_text("One neuron fires, another rests; most of them rest nearly always. " * 80)
    for x in (2, 3):
        write_notebook(folder / f"0{x}_power.ipynb", DRAW, parameters=f"x: int = {x}  # power")
    (folder / "tasks").mkdir()
    rows = [
        {"query": f"{a} + {b} =", "choices": [f" {a + b}", f" {a - b}"], "gold": 0} for a in range(4) for b in (5, 9)
    ]
    (folder / "tasks" / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "tasks" / "own.yaml").write_text(OWN_TASK.replace("FILE", str(folder / "tasks" / "own.jsonl")))
    return folder


# The runs. Each writes into a directory of its own, and is called again with the same one after it was killed.


def suite(inputs, work):
    os.environ["SPARSINGLIB_CACHE"] = str(work / "cache")
    names = ("0.1m-relu", "0.1m-silu")
    checkpoints = tuple(suites.Checkpoint(name, name, "0.1M", name.rpartition("-")[2]) for name in names)
    text = str(inputs / "text.txt")
    mine = suites.Suite("mine", "own", (text,), 64, 512, checkpoints)
    rules = {f"top {k}": sl.TopK(k / 10) for k in range(1, 5)} | {"5 %": survey.PPLIncrease(5.0, text)}
    measured = survey.measure(mine, rules)
    style.save_table(survey.table(measured), "table", work)
    for key, measurement in measured.items():
        if isinstance(measurement.rule, sl.Thresholds):
            measurement.rule.save(work / f"{key.checkpoint}.json")


def ladder_run(inputs, work):
    texts, run = training_texts(), replace(TINY, tokens=40 * CONTEXT)
    train.LOG_TOKENS = CONTEXT  # a checkpoint every 16 steps
    state, shipped = work / "state", work / "shipped"
    train.restore(state, shipped)
    train.train(replace(run, tokens=20 * CONTEXT), texts, state, compiled=False)
    train.publish(run, state, shipped)  # unfinished: with its state, for another machine
    train.restore(work / "elsewhere", shipped)
    train.train(run, texts, work / "elsewhere", compiled=False)
    train.publish(run, work / "elsewhere", shipped)


def evaluation(inputs, work):
    import datasets

    datasets.config.HF_DATASETS_CACHE = work / ".datasets"
    os.chdir(work)
    offline.make = lambda task: [{"query": task, "choices": ["a", "b"], "answer": "a", "gold": 0}] * 40
    offline.build(Path("tasks"))
    model, tokenizer = sl.load("0.1m-relu")
    rules = [sl.TopK(0.2), sl.TopK(0.4), sl.FAT(0.1)]
    table = tasks.evaluate(model, tokenizer, "own", rules, folder=inputs / "tasks", cache=work / "scores")
    style.save_table(table, "scores", work)


def reproduction(inputs, work):
    # What the digests of the records are made from stays as it is while the test runs.
    runner.shipped = lambda: "as shipped"
    notebooks = [str(path) for path in sorted(inputs.glob("*.ipynb"))]
    sys.exit(cli.main([*notebooks, "--out", str(work), "--jobs", "2"]))


RUNS = {run.__name__: run for run in (suite, ladder_run, evaluation, reproduction)}


def child(kind, inputs, work):
    with open(work / "log.txt", "a") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    torch.set_num_threads(1)
    tqdm.set_lock(threading.RLock())  # its own one is a semaphore, which a killed process leaves behind
    if kind:
        RUNS[kind](inputs, work)


def start(kind, inputs, work):
    work.mkdir(exist_ok=True)
    process = SERVER.Process(target=child, args=(kind, inputs, work))
    process.start()
    return process


def kill(process):
    """Kill it; says whether it was still at work. What it had started ends by itself."""
    try:
        started = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        started = []
    process.kill()
    process.join()
    assert not psutil.wait_procs(started, 30)[1], "a process went on without the one that started it"
    return process.exitcode == -signal.SIGKILL


# What the runs leave behind, without what is not a result (locks, logs) and what tells the time.

TIMES = {"seconds", "tokens_per_second", "finished", "commit", "papermill", "execution"}


def plain(value):
    """A value as one that can be compared: tensors as bytes (on disk they hold addresses), nothing that tells time."""
    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), value.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
    if isinstance(value, np.ndarray):
        return str(value.dtype), value.shape, value.tobytes()
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items() if k not in TIMES}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if dataclasses.is_dataclass(value):
        return [type(value).__name__, plain({f.name: getattr(value, f.name) for f in dataclasses.fields(value)})]
    return value


def content(path, work):
    if path.suffix in (".ipynb", ".json"):
        return plain(json.loads(path.read_text().replace(str(work), "")))
    if path.suffix in (".pt", ".pth"):
        with safe_globals():  # the states of numpy's random numbers
            return plain(torch.load(path, weights_only=True))
    if path.suffix == ".pkl":
        return plain(joblib.load(path))
    return path.read_bytes().replace(str(work).encode(), b"")


def left_behind(work):
    newest = {train.last_checkpoint(work / name) for name in ("state", "elsewhere")}
    found = {}
    for path in sorted(path for path in work.rglob("*") if path.is_file()):
        place = path.relative_to(work)
        older = any(part.startswith("checkpoint-") for part in place.parts) and path.parent not in newest
        if older or "locks" in place.parts or any(part.startswith(".") for part in place.parts):
            continue
        if path.suffix not in (".txt", ".log", ".bin"):  # training_args.bin is not read again
            found[place.as_posix()] = content(path, work)
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Inputs, files and seconds of a run that was left alone, made once for each kind."""
    folder = tmp_path_factory.mktemp("undisturbed")
    inputs, made = write_inputs(folder / "inputs"), {}
    start("", inputs, folder / "nothing").join()  # until everything is imported

    def get(kind):
        if kind not in made:
            began = time.monotonic()
            process = start(kind, inputs, folder / kind)
            process.join()
            assert process.exitcode == 0, (folder / kind / "log.txt").read_text()
            seconds = time.monotonic() - began
            made[kind] = inputs, left_behind(folder / kind), seconds
        return made[kind]

    return get


@pytest.mark.parametrize("kills", [5, pytest.param(20, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", RUNS)
def test_killed_and_started_again_it_ends_as_if_left_alone(kind, kills, undisturbed, tmp_path):
    inputs, expected, seconds = undisturbed(kind)
    assert len(expected) > 5
    moments = random.Random(f"{kind} {kills}")
    killed, begun, process = 0, 0, None
    while killed < kills or process.exitcode:
        process = start(kind, inputs, tmp_path / f"run {begun}")
        process.join(moments.uniform(0, seconds) if killed < kills else None)
        if process.exitcode is None and kill(process):
            killed += 1
            continue
        assert process.exitcode == 0, (tmp_path / f"run {begun}" / "log.txt").read_text()
        ended = left_behind(tmp_path / f"run {begun}")
        assert ended.keys() == expected.keys()
        assert [name for name in expected if ended[name] != expected[name]] == []
        begun += 1
