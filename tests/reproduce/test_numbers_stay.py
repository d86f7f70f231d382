"""One result, however it is asked for: again, from another folder, on two threads, under papermill."""

import json
import os
import subprocess
import sys
from pathlib import Path

import papermill
import pytest
import torch
from made_up import write_notebook

CODE = """
import json, os, torch, warnings
import sparsinglib as sl
warnings.simplefilter("ignore")
def numbers(threads=1):
    torch.set_num_threads(threads)
    model, tokenizer = sl.load("0.1m-relu", device_map="cpu")
    batches = sl.token_batches(sl.corpora.load("math", "validation")[:4000], tokenizer, 64, 4, 512)
    found = sl.find_thresholds(model, batches, 5.0)
    result = sl.measure(model, batches, found)
    return [*found.values, found.cett, found.ppl_ratio, result.activation_ratio, result.sparse_ppl, result.kl]
"""
WRITE = "json.dump([os.getcwd(), numbers(), numbers(), numbers(2)], open(target, 'w'))"


@pytest.fixture(scope="module")
def here():
    scope = {}
    exec(CODE, scope)
    return scope["numbers"]


@pytest.fixture(scope="module")
def expected(here):
    return here()


@pytest.fixture
def run_there(tmp_path, monkeypatch):
    """Two threads that spin while they wait for one another take minutes where other work is going on."""
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    return tmp_path


def same(path, expected):
    where, first, second, two_threads = json.loads(path.read_text())
    assert Path(where) == path.parent
    assert first == second == expected, "the same bits on one thread"
    assert two_threads == pytest.approx(expected, rel=1e-5), "sums are formed in another order"
    return True


def test_plain_python_in_another_folder(expected, run_there):
    target = run_there / "numbers.json"
    call = [sys.executable, "-c", f"{CODE}\ntarget = {str(target)!r}\n{WRITE}"]
    subprocess.run(call, cwd=run_there, env=os.environ | {"PYTHONHASHSEED": "5"}, check=True)
    assert same(target, expected)


def test_papermill(expected, run_there):
    target, file = run_there / "numbers.json", run_there / "numbers.ipynb"
    write_notebook(file, CODE, WRITE, parameters="target: str = ''")
    papermill.execute_notebook(str(file), None, {"target": str(target)}, cwd=str(run_there), progress_bar=False)
    assert same(target, expected)


def test_the_seed_does_not_matter(expected, here):
    torch.manual_seed(99)
    assert here() == expected
