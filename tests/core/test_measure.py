"""The streaming statistics against brute force, and two halves of a text against the whole."""

import dataclasses
import math
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import PlainMLP, bootstrap, brute_cett, greedy, log_chances, losses_of, noted_passes, padded, tiny_llama
from hypothesis import given, settings
from hypothesis import strategies as st

import sparsinglib as sl

RULES = {
    "relu": sl.StraightforwardReLU(),
    "fat": sl.FAT(0.3),
    "topk": sl.TopK(0.25),
    "thresholds": sl.Thresholds((0.4, 0.7), 0.1, 1.0, None, 0.5),
}


def keep_of(name):
    """The rule's active neurons, written again from its definition."""
    rule = RULES[name]

    def keep(layer, gate, value, norm):
        if name == "relu":
            return gate != 0
        if name == "fat":
            return gate.abs() >= 0.3
        if name == "topk":
            rank = gate.abs().argsort(-1, descending=True).argsort(-1)
            return (rank < 6) & (gate != 0)
        return value.abs() * norm >= rule.values[layer]

    return keep


@pytest.fixture(scope="module")
def setting():
    model = tiny_llama(seed=3, act="relu")
    return model, greedy(model, 30, rows=7)


@pytest.fixture(scope="module", params=RULES)
def case(request, setting):
    """Our measurement, and the plain model's dense and sparse log probabilities, active masks and values."""
    model, text = setting
    result = sl.measure(model, [text[:3], text[3:5], text[5:]], RULES[request.param])
    with PlainMLP(model, keep_of(request.param)) as plain:
        sparse = log_chances(model, text)
    active = torch.stack([torch.cat(plain.active[i]) for i in range(2)]).reshape(2, *text.shape, 24)
    values = [torch.cat(plain.values[i]) for i in range(2)]
    return model, text, result, log_chances(model, text), sparse, active.double(), values


def test_perplexities(case):
    _, text, result, dense, sparse, _, _ = case
    losses = [losses_of(x, text) for x in (dense, sparse)]
    assert result.dense_ppl == pytest.approx(math.exp(losses[0].mean()), rel=1e-5)
    assert result.sparse_ppl == pytest.approx(math.exp(losses[1].mean()), rel=1e-5)
    assert result.ppl_ratio == pytest.approx(math.exp((losses[1] - losses[0]).mean()), rel=1e-5)
    assert result.tokens == text.numel()


def test_kl(case):
    _, _, result, dense, sparse, _, _ = case
    kl = (dense.exp() * (dense - sparse)).sum(-1)
    assert result.kl == pytest.approx(float(kl.mean()), abs=1e-6)
    assert result.kl >= -1e-7
    assert result.kl_se is None, "seven blocks are too few for an error"


def test_activation_ratio_by_layer_position_neuron_and_token(case):
    _, _, result, _, _, active, _ = case
    assert result.activation_ratio == pytest.approx(float(active.mean()), rel=1e-12)
    table = result.by_layer
    assert list(table.columns) == ["layer", "activation_ratio", "cett", "threshold", "neurons"]
    assert table.activation_ratio.tolist() == pytest.approx(active.mean(dim=(1, 2, 3)).tolist(), rel=1e-12)
    assert table.neurons.tolist() == [24, 24] and table.layer.tolist() == [0, 1]
    assert result.by_position.activation_ratio.tolist() == pytest.approx(active.mean(dim=(0, 1, 3)).tolist(), rel=1e-12)
    assert result.by_position.tokens.tolist() == [7] * 30
    assert np.allclose(result.neuron_frequency, active.mean(dim=(1, 2)).numpy(), rtol=1e-6, atol=0)
    assert np.allclose(result.token_activation, active.mean(-1).reshape(2, -1).numpy(), rtol=1e-12)


def test_by_vocabulary(case):
    _, text, result, _, _, active, _ = case
    table = result.by_vocabulary.set_index("token_id")
    assert sorted(table.index) == sorted(set(text.flatten().tolist()))
    for entry, row in table.iterrows():
        here = text == entry
        assert row.tokens == int(here.sum())
        by_token = pd.Series(active[:, here].mean(dim=(0, -1)).numpy())
        assert row.activation_ratio == pytest.approx(by_token.mean(), rel=1e-12)
        assert row.se == pytest.approx(by_token.sem(), abs=1e-9, nan_ok=True)


def test_cett_reached_in_the_sparse_run(case):
    model, _, result, _, _, active, values = case
    for layer in range(2):
        down = model.model.layers[layer].mlp.down_proj.weight.detach().double()
        kept = active[layer].reshape(-1, 24).bool()
        tail = (torch.where(kept, 0.0, values[layer].double()) @ down.T).norm(dim=1)
        whole = (values[layer].double() @ down.T).norm(dim=1)
        expected = torch.where(whole > 0, tail / whole, 0.0).mean()
        assert result.by_layer.cett[layer] == pytest.approx(float(expected), abs=1e-5)
    if isinstance(result.rule, sl.Thresholds):
        down = model.model.layers[1].mlp.down_proj.weight.detach()
        assert result.by_layer.cett[1] == pytest.approx(np.mean(brute_cett(values[1], down, 0.7)), abs=1e-5)
        assert result.by_layer.threshold.tolist() == [0.4, 0.7]
    else:
        assert result.by_layer.threshold.isna().all()


def test_standard_errors_against_the_definition():
    model = tiny_llama(seed=3)
    text = greedy(model, 70, rows=6)
    result = sl.measure(model, [text], sl.FAT(0.2))
    p = log_chances(model, text)
    with PlainMLP(model, lambda i, gate, value, norm: gate.abs() >= 0.2):
        q = log_chances(model, text)
    rise = losses_of(q, text) - losses_of(p, text)
    kl = (p.exp() * (p - q)).sum(-1)
    for per_token, mean, error in ((rise, result.ppl_ratio, result.ppl_ratio_se), (kl, result.kl, result.kl_se)):
        spread = bootstrap(per_token).std() * (mean if per_token is rise else 1)
        assert error == pytest.approx(spread, rel=0.15)


def equal(a, b):
    assert a.activation_ratio == pytest.approx(b.activation_ratio, rel=1e-12)
    for name in ("dense_ppl", "sparse_ppl", "ppl_ratio", "kl"):
        assert getattr(a, name) == pytest.approx(getattr(b, name), rel=1e-5, abs=1e-7), name
    for name in ("by_layer", "by_position", "by_vocabulary"):
        one, other = getattr(a, name), getattr(b, name)
        assert one.shape == other.shape and np.allclose(one, other, rtol=1e-5, atol=1e-7, equal_nan=True), name
    for x, y in zip(a.neuron_frequency, b.neuron_frequency, strict=True):
        assert np.allclose(x, y, rtol=1e-6)


@settings(max_examples=12)
@given(cut=st.integers(1, 6), name=st.sampled_from(sorted(RULES)))
def test_two_parts_add_up_to_the_whole(cut, name, setting):
    model, text = setting
    parts = [sl.measure(model, [text[:cut]], RULES[name]), sl.measure(model, [text[cut:]], RULES[name])]
    whole = sl.measure(model, [text], RULES[name])
    equal(parts[0] + parts[1], whole)
    assert np.allclose((parts[0] + parts[1]).token_activation, whole.token_activation)
    equal(parts[1] + parts[0], whole)


def test_parts_of_unequal_length_add_up(setting):
    model, text = setting
    a, b, c = text[:2, :9], text[2:4, :21], text[4:5]
    rule = RULES["fat"]
    equal(sum(sl.measure(model, [part], rule) for part in (a, b, c)), sl.measure(model, [a, b, c], rule))


def test_what_does_not_add_up(setting):
    model, text = setting
    a = sl.measure(model, [text[:2]], sl.FAT(0.1))
    with pytest.raises(ValueError, match="one rule"):
        a + sl.measure(model, [text[:2]], sl.FAT(0.2))
    for other in (tiny_llama(d_ff=32), tiny_llama(vocab=48), tiny_llama(seed=99)):  # the last of the same shape
        with pytest.raises(ValueError, match="one model"):
            a + sl.measure(other, [text[:2]], sl.FAT(0.1))
    assert (a + dataclasses.replace(a, column_norms=tuple(1.00001 * n for n in a.column_norms))).tokens == 2 * a.tokens


@settings(max_examples=12)
@given(
    before=st.lists(st.integers(0, 6), min_size=7, max_size=7),
    name=st.sampled_from(sorted(RULES)),
    filler=st.one_of(st.integers(0, 39), st.sampled_from([-100, -1, 40])),  # and ids without an embedding
)
def test_padding_is_left_out_everywhere(before, name, filler, setting):
    model, text = setting
    found = sl.measure(model, padded(text, before, 36, filler), RULES[name])
    plain = sl.measure(model, [text], RULES[name])
    assert found.tokens == plain.tokens == 210
    assert all(map(torch.equal, found.neuron_counts, plain.neuron_counts))
    assert torch.equal(found.vocabulary_counts, plain.vocabulary_counts)
    assert (found.dense_ppl, found.ppl_ratio) == pytest.approx((plain.dense_ppl, plain.ppl_ratio), rel=1e-6)
    assert found.by_vocabulary.tokens.tolist() == plain.by_vocabulary.tokens.tolist()
    assert found.by_position.tokens.tolist() == plain.by_position.tokens.tolist()


@pytest.mark.parametrize(
    "rule",
    [RULES["fat"], RULES["relu"], sl.TopP(0.6), sl.OutputTopK(0.4), sl.GateThresholds((0.1, 0.2))],
    ids=repr,
)
def test_counts_do_not_mind_batches_and_padding_at_the_end(rule, setting):
    model, text = setting
    ways = ([text], list(text.split(1)), padded(text, width=37))
    one, *others = (sl.measure(model, batches, rule, kl=False) for batches in ways)
    for other in others:
        assert other.tokens == one.tokens
        assert all(map(torch.equal, other.neuron_counts, one.neuron_counts))
        assert torch.equal(other.vocabulary_counts, one.vocabulary_counts)


def test_topk_over_a_layer_ignores_padding(setting):
    model, text = setting
    rule = sl.TopK(0.25, over="layer")
    plain, found = (sl.measure(model, b, rule).by_layer for b in ([text[:1]], padded(text[:1], width=40, filler=3)))
    assert found.activation_ratio.tolist() == pytest.approx(plain.activation_ratio.tolist(), abs=3e-3)


@pytest.mark.parametrize("rule", [*RULES.values(), sl.TopK(0.25, over="layer")], ids=str)
def test_a_row_of_nothing_but_padding(rule, setting, monkeypatch):
    model, text = setting
    monkeypatch.setattr("sparsinglib.core.forward.LOGIT_BUDGET", 1)  # one row at a time, as with large vocabularies
    found = sl.measure(model, padded([*text[:2], text[0, :0]], filler=3), rule)
    plain = sl.measure(model, [text[:2]], rule)
    assert found.tokens == plain.tokens
    assert found.ppl_ratio == pytest.approx(plain.ppl_ratio, rel=1e-6)
    assert found.by_layer.activation_ratio.tolist() == pytest.approx(plain.by_layer.activation_ratio.tolist())


def test_topk_over_a_token_does_not_depend_on_its_neighbours(setting):
    model, text = setting
    alone = sl.measure(model, [text[:1, :10]], sl.TopK(0.25)).token_activation
    among = sl.measure(model, [text], sl.TopK(0.25)).token_activation[:, :10]
    assert np.array_equal(alone, among)


def test_bare_cett_gets_its_thresholds_on_the_text(setting):
    model, text = setting
    result = sl.measure(model, iter([text]), sl.CETT(0.1))
    found = sl.thresholds_for_cett(model, [text], 0.1)
    assert isinstance(result.rule, sl.Thresholds) and result.rule.values == found.values
    assert result.activation_ratio == pytest.approx(found.activation_ratio, rel=1e-9)


def test_map_of_tokens_is_kept_for_short_texts_or_when_asked(setting, monkeypatch):
    model, text = setting
    kept = lambda **asked: sl.measure(model, [text], sl.FAT(0.1), **asked).token_activation  # noqa: E731
    assert kept(keep_tokens=False) is None
    monkeypatch.setattr(sys.modules["sparsinglib.core.measure"], "MOST_KEPT_TOKENS", 209)
    assert kept() is None and kept(keep_tokens=True).shape == (2, 210)
    monkeypatch.setattr(sys.modules["sparsinglib.core.measure"], "MOST_KEPT_TOKENS", 210)
    assert kept().shape == (2, 210)


def test_without_kl_and_cett(setting):
    model, text = setting
    result = sl.measure(model, [text], sl.FAT(0.1), kl=False, cett=False)
    assert result.kl is None and result.kl_se is None and result.by_layer.cett.isna().all()
    whole = sl.measure(model, [text], sl.FAT(0.1))
    assert result.ppl_ratio == whole.ppl_ratio and whole.by_layer.cett.notna().all()
    both = result + whole
    assert both.kl is None and both.tokens == 420 and both.by_layer.cett.isna().all()


def test_rule_that_keeps_everything_changes_nothing(setting):
    model, text = setting
    result = sl.measure(model, [text], sl.Thresholds((0.0, 0.0), 0.0, 1.0, None, 1.0))
    assert result.ppl_ratio == 1.0 and result.kl == 0.0
    assert result.by_layer.cett.tolist() == [0.0, 0.0]


def test_output_bias_is_no_neuron():
    model = tiny_llama(mlp_bias=True)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.down_proj.bias.normal_(std=5)
    text = torch.randint(0, 40, (2, 20), generator=torch.Generator().manual_seed(0))
    result = sl.measure(model, [text], sl.CETT(0.3))
    assert result.by_layer.cett[0] == pytest.approx(0.3, abs=0.02)
    everything_cut = sl.measure(model, [text], sl.FAT(1e9))
    assert everything_cut.by_layer.cett.tolist() == pytest.approx([1, 1], abs=1e-4)


def test_rule_that_does_not_fit_is_refused_before_any_pass(setting):
    model, text = tiny_llama(act="silu"), setting[1]
    three = sl.Thresholds((0.1, 0.1, 0.1), 0.1, 1.0, None, 0.5)
    for rule, says in ((sl.StraightforwardReLU(), "exact zeros"), (three, "3 layers")):
        with noted_passes(model) as passes, pytest.raises(ValueError, match=says):
            sl.measure(model, [text], rule)
        assert not passes
