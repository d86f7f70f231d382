"""The authors' evaluation format: their way to prune by a line of thresholds gives what ours gives."""

import math

import pytest
from helpers import PlainMLP, golden, golden_model, log_chances, logits, losses_of

import sparsinglib as sl


def authors_forward(model, line, ids):
    """A forward pass that prunes by one line of thresholds: a neuron is cut below its threshold / column length."""
    limits = [float(number) for number in line.split(",")]
    with PlainMLP(model, lambda i, gate, value, norm: value.abs() >= limits[i] / norm):
        return logits(model, ids)


@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_the_exported_line_gives_the_same_logits(activation, ids):
    model = golden_model(activation)
    found = sl.thresholds_for_cett(model, [ids["tiny64"]], 0.3)
    with sl.sparsify(model, found):
        ours = logits(model, ids["tiny64"])
    theirs = authors_forward(model, found.as_env(), ids["tiny64"])
    assert float((ours - theirs).abs().max()) < 1e-5
    assert float((ours - logits(model, ids["tiny64"])).abs().max()) > 1e-2


def test_their_printed_thresholds_reach_their_perplexity(ids):
    """The golden run's own thresholds (five digits), read as such a line, give the loss that the authors' code gave."""
    run = next(r for r in golden()["tiny_runs"] if r["strategy"] == "cett" and r["arg"] == 0.1 and "relu" in r["model"])
    model, tokens = golden_model("relu"), ids[run["input"]]
    sparse = authors_forward(model, ",".join(map(str, run["thresholds"])), tokens)
    loss = losses_of(sparse[:, :-1].double().log_softmax(-1), tokens).mean()
    rise = float(loss - losses_of(log_chances(model, tokens), tokens).mean())
    assert math.exp(rise) == pytest.approx(run["ppl_ratio"], abs=2e-4)
