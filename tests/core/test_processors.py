"""Searches on an imitation of another kind of processor, and on one and two threads, end at the same thresholds.

ATen and MKL without vector units and oneDNN with the oldest ones round and sum in another order, so that losses differ
in the seventh digit.
"""

import json
import os
import subprocess
import sys

import pytest

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


def search(names, corpus, tokens, environment, threads):
    call = [sys.executable, "-c", CODE, json.dumps([names, corpus, tokens, threads])]
    # Threads that spin while they wait for one another take minutes where other work is going on.
    environment = {**os.environ, "OMP_WAIT_POLICY": "passive", **environment}
    return json.loads(subprocess.run(call, env=environment, check=True, capture_output=True, text=True).stdout)


@pytest.mark.slow
@pytest.mark.parametrize(("names", "corpus", "tokens"), TEXTS, ids=str)
def test_cett_and_thresholds_are_the_same_on_another_processor(names, corpus, tokens):
    first, *others = [search(names, corpus, tokens, *kind) for kind in KINDS]
    for other, (environment, threads) in zip(others, KINDS[1:], strict=True):
        for case, values in first.items():
            assert other[case] == pytest.approx(values, rel=1e-3), f"{case}, {threads} threads, {environment}"
