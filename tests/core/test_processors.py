"""On an imitation of another kind of processor, and on one and two threads, searches and notebooks end the same.

ATen and MKL without vector units and oneDNN with the oldest ones round and sum in another order, so that losses differ
in the seventh digit.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sparsinglib.files import CACHE, FIGURES, NOTEBOOKS, OUTPUT, ROOT

OLD = {"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE", "ONEDNN_MAX_CPU_ISA": "SSE41"}
KINDS = [(environment, threads) for environment in ({}, OLD) for threads in (1, 2)]
# Models, corpus and tokens as notebooks and suites have them.
TEXTS = [
    (("0.1m-relu", "0.1m-silu"), "mixture", 8192),
    (("0.1m-relu", "0.1m-silu"), "mixture", 16384),
    (("0.4m-relu", "0.4m-silu"), "mixture", 16384),
    (("0.4m-relu", "0.4m-silu"), "math", 8192),
    (("0.1m-silu", "0.4m-silu"), "code", 16384),
]
CODE = """
import json, sys, warnings
import torch
import sparsinglib as sl
from sparsinglib.texts import corpora
warnings.simplefilter("ignore")
names, corpus, tokens, threads = json.loads(sys.argv[1])
torch.set_num_threads(threads)
found = {}
for name in names:
    model, tokenizer = sl.load(name, device_map="cpu")
    batches = sl.token_batches(corpora.load(corpus, "validation"), tokenizer, 256, 16, tokens)
    for p in (1.0, 5.0, 10.0):
        one = sl.find_thresholds(model, batches, p)
        found[f"{name}, {p:g} %"] = [one.cett, *one.values, one.ppl_ratio, one.activation_ratio]
print(json.dumps(found))
"""


def python(*arguments, check=True, **environment):
    """What a process of its own says. Threads that spin while they wait for others take minutes on a busy machine."""
    environment = {**os.environ, "OMP_WAIT_POLICY": "passive", **environment}
    call = [sys.executable, *map(str, arguments)]
    return subprocess.run(call, cwd=ROOT, env=environment, check=check, capture_output=True, text=True)


def search(names, corpus, tokens, environment, threads):
    return json.loads(python("-c", CODE, json.dumps([names, corpus, tokens, threads]), **environment).stdout)


@pytest.mark.slow
@pytest.mark.parametrize(("names", "corpus", "tokens"), TEXTS, ids=str)
def test_cett_and_thresholds_are_the_same_on_another_processor(names, corpus, tokens):
    first, *others = [search(names, corpus, tokens, *kind) for kind in KINDS]
    for other, (environment, threads) in zip(others, KINDS[1:], strict=True):
        for case, values in first.items():
            assert other[case] == pytest.approx(values, rel=1e-3), f"{case}, {threads} threads, {environment}"


@pytest.fixture(scope="module", params=[(OLD, 1), ({}, 2)], ids=["old processor", "two threads"])
def machine(request, tmp_path_factory):
    """Environment of another machine, where nothing has been computed yet."""
    environment, threads = request.param
    folder = tmp_path_factory.mktemp("machine")
    places = {OUTPUT: str(folder / "figures"), CACHE: str(folder / "cache")}
    return environment | places | {"OMP_NUM_THREADS": str(threads)}


@pytest.mark.slow
@pytest.mark.parametrize("notebook", sorted(NOTEBOOKS.glob("[0-9]*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_prints_and_claims_what_is_stored(machine, notebook):
    """Printed tables by nbval, as in make test; verdicts from what the notebook records."""
    options = ["--nbval", "--nbval-sanitize-with", "tests/nbval_sanitize.cfg", "--nbval-cell-timeout", "2400"]
    done = python("-m", "pytest", "-p", "no:cacheprovider", *options, notebook, check=False, **machine)
    assert done.returncode == 0, done.stdout[-20000:]
    name = f"{notebook.stem}.json"
    if (FIGURES / "results" / name).exists():
        fresh, stored = (
            json.loads((folder / "results" / name).read_text()) for folder in (Path(machine[OUTPUT]), FIGURES)
        )
        assert verdicts(fresh) == verdicts(stored)


def verdicts(results):
    return [(row["id"], row["evidence"], row["verdict"]) for row in results["verdicts"]]
