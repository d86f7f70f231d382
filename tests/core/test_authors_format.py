"""The authors' evaluation format: their way to prune by a line of thresholds gives what ours gives."""

import math

import pytest
import torch
from helpers import PlainMLP, golden, golden_model

import sparsinglib as sl


def authors_forward(model, line, ids):
    """A forward pass that prunes by one line of thresholds: a neuron is cut below its threshold / column length."""
    limits = [float(number) for number in line.split(",")]
    with PlainMLP(model, lambda i, gate, value, norm: value.abs() >= limits[i] / norm), torch.no_grad():
        return model(ids).logits


@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_the_exported_line_gives_the_same_logits(activation, ids):
    model = golden_model(activation)
    found = sl.thresholds_for_cett(model, [ids["tiny64"]], 0.3)
    with sl.sparsify(model, found), torch.no_grad():
        ours = model(ids["tiny64"]).logits
    theirs = authors_forward(model, found.as_env(), ids["tiny64"])
    with torch.no_grad():
        dense = model(ids["tiny64"]).logits
    assert float((ours - theirs).abs().max()) < 1e-5
    assert float((ours - dense).abs().max()) > 1e-2


def test_their_printed_thresholds_reach_their_perplexity(ids):
    """The golden run's own thresholds (five digits), read as such a line, give the loss that the authors' code gave."""
    run = next(r for r in golden()["tiny_runs"] if r["strategy"] == "cett" and r["arg"] == 0.1 and "relu" in r["model"])
    model, tokens = golden_model("relu"), ids[run["input"]]
    logits = authors_forward(model, ",".join(map(str, run["thresholds"])), tokens)
    loss = torch.nn.functional.cross_entropy(logits[0, :-1].double(), tokens[0, 1:])
    with torch.no_grad():
        dense = model(tokens).logits
    dense_loss = torch.nn.functional.cross_entropy(dense[0, :-1].double(), tokens[0, 1:])
    assert math.exp(float(loss - dense_loss)) == pytest.approx(run["ppl_ratio"], abs=2e-4)
