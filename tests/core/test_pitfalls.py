"""Misbehaviours that a search of this kind can have: each test would fail with one.

Most were measured on the authors' implementation with the same inputs.
"""

import dataclasses
import math
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import GOLDEN, NO_NUMBERS, dense_values, downs, golden, golden_model, hooks_on, noted_passes

import sparsinglib as sl
from sparsinglib.core import crossing, forward, search

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.mark.parametrize("target", [0.0, 1e-12])
def test_tiny_target_prunes_next_to_nothing(target, ids):
    found = sl.thresholds_for_cett(golden_model("silu"), [ids["tiny64"]], target)
    assert found.activation_ratio > 0.999 and max(found.values) < 1e-6 and found.ppl_ratio == pytest.approx(1, abs=1e-6)
    relu = sl.thresholds_for_cett(golden_model("relu"), [ids["tiny64"]], target)
    dense = {"model": "tiny_minicpm_relu", "input": "tiny64", "strategy": "fat", "arg": 0}
    (nonzero,) = [run["activation_ratio"] for run in golden()["tiny_runs"] if run.items() >= dense.items()]
    assert relu.activation_ratio == pytest.approx(nonzero, abs=1e-6)


def mostly_zero(model, share=0.995):
    """Make layer 0's gates negative for all but a few neurons, whatever the token."""
    gate = model.model.layers[0].mlp.gate_proj.weight.data
    gate[: round(share * len(gate))] = 0
    return model


@pytest.mark.parametrize("cett", [0.0, 0.05, 0.5])
def test_layer_with_almost_only_zeros_is_not_fully_active(cett, own_relu, ids):
    model = mostly_zero(own_relu)
    result = sl.measure(model, [ids["tiny64"]], sl.CETT(cett))
    assert result.by_layer.activation_ratio[0] <= 0.01
    if cett:
        found = sl.thresholds_for_cett(model, [ids["tiny64"]], cett)
        values, down = dense_values(model, ids["tiny64"])[0], downs(model)[0]
        assert 0 < found.values[0] < float((values.abs() * down.norm(dim=0)).max())


def test_more_than_99_percent_can_be_pruned(silu, ids):
    found = sl.thresholds_for_cett(silu, [ids["tiny64"]], 0.99)
    assert found.activation_ratio < 0.0085  # the 0.99 quantile stops at 0.00879


@pytest.mark.parametrize("cett", [0.01, 0.1])
def test_token_with_zero_ffn_output(cett, own_relu, ids):
    mlp = own_relu.model.layers[0].mlp
    plain = mlp.forward
    mlp.forward = lambda x: plain(torch.cat([torch.zeros_like(x[:, :1]), x[:, 1:]], dim=1))
    result = sl.measure(own_relu, [ids["tiny64"]], sl.CETT(cett))
    assert not result.by_layer.isna().any().any()
    usual = sl.measure(golden_model("relu"), [ids["tiny64"]], sl.CETT(cett)).by_layer.activation_ratio[0]
    assert result.by_layer.activation_ratio[0] == pytest.approx(usual, abs=0.03)
    assert result.token_activation[0, 0] == 0


def test_layer_that_no_token_uses(own_relu, ids):
    with torch.no_grad():
        own_relu.model.layers[0].mlp.gate_proj.weight.zero_()
    result = sl.measure(own_relu, [ids["tiny64"]], sl.CETT(0.1))
    assert result.by_layer.activation_ratio[0] == 0 and result.by_layer.cett[0] == 0
    assert result.by_layer.activation_ratio[1] > 0.1


def test_ratio_is_measured_and_says_when_not_monotone(ids):
    model, text = golden_model("silu"), ids["tiny64"]
    with pytest.warns(UserWarning, match="not monotone"):
        found = sl.find_thresholds(model, [text], 1.0)
    assert not found.monotone
    assert found.ppl_ratio == pytest.approx(sl.measure(model, [text], found).ppl_ratio, rel=1e-6)
    with warnings.catch_warnings(), pytest.raises(UserWarning) as caught:
        warnings.simplefilter("error")
        sl.find_thresholds(model, [text], 1.0)
    assert caught.value.found == found, "a warning that is made an error holds the result"


@pytest.mark.parametrize("method", ["lattice", "bisection"])
@pytest.mark.parametrize("p", [30.0, 500.0])
def test_target_that_cannot_be_met_says_so(p, method, ids):
    with pytest.warns(UserWarning, match=f"not raised by {p:g} %"):
        found = sl.find_thresholds(golden_model("relu"), [ids["tiny64"]], p, method=method)
    assert not found.target_met
    assert found.ppl_ratio < 1 + p / 100 and found.cett > 0.98


@pytest.mark.parametrize("rise", [lambda c: 0.0, lambda c: 1e-9 * c, lambda c: -1.0], ids=["none", "slow", "falling"])
def test_a_rise_that_never_comes_ends_at_the_largest_cett(rise):
    asked = []
    noted = lambda i: asked.append(i) or (rise(crossing.lattice(i)), 0.0)  # noqa: E731
    fit = crossing.find_crossing(noted, 1e-4, 1.5 * crossing.STEP, -3.0)
    assert fit.log_cett == math.log(crossing.LARGEST_CETT) and len(asked) <= crossing.MOST_POINTS


def test_a_search_that_runs_out_of_points_is_not_complete():
    rise = lambda i: ((i % 5 - 2) * 0.1 + (i % 2) * 0.3, 0.0)  # noqa: E731
    fit = crossing.find_crossing(rise, 0.01, 30 * crossing.STEP, -6.0)
    assert not fit.complete


def ended(monkeypatch, log_cett):
    fit = crossing.Crossing(log_cett, 2.0, {-8: 1.0})
    monkeypatch.setattr(search, "find_crossing", lambda rise, *_: rise(-8) and fit)


def test_an_answer_below_its_target_everywhere_is_not_called_met(monkeypatch, responsive):
    model, text = responsive
    ended(monkeypatch, math.log(0.01))
    with pytest.warns(UserWarning, match="not raised by 20 %"):
        found = sl.find_thresholds(model, [text], 20.0)
    assert not found.target_met and not found.converged


@pytest.mark.parametrize("criterion", ["ppl", "kl"])
def test_a_search_that_ends_away_from_its_target_says_so(monkeypatch, responsive, criterion):
    model, text = responsive
    says = "search ended at"
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        met = sl.find_thresholds(model, [text], 3.0, criterion=criterion)
    rise, target = met.kl if criterion == "kl" else math.log(met.ppl_ratio), math.log(1.03)
    assert met.converged and any(says in str(w.message) for w in heard) == (abs(rise - target) > 0.05 * target)
    # A point above the target was seen, but the answer lies far below it.
    ended(monkeypatch, math.log(met.cett / 2))
    with pytest.warns(UserWarning, match=rf"{says} CETT {met.cett / 2:.3f}.* not 1\.03"):
        found = sl.find_thresholds(model, [text], 3.0, criterion=criterion)
    assert found.target_met and not found.converged and found.cett == pytest.approx(met.cett / 2)


@pytest.mark.parametrize(
    ("mask", "says"),
    [
        (torch.ones(64, 2), r"attention_mask \(64, 2\) does not fit token ids \(2, 64\)"),
        (torch.ones(128), r"attention_mask \(1, 128\) does not fit"),
        (torch.tensor([[0.0] * 40 + [-1e9] * 24] * 2), "attention_mask must hold ones, .* and zeros"),
    ],
    ids=["turned", "flat", "added to scores"],
)
def test_a_mask_of_another_shape_or_kind_is_refused(mask, says, ids):
    rows = ids["tiny64"].reshape(1, -1)[:, :64].repeat(2, 1)
    with pytest.raises(ValueError, match=f"Batch 0: {says}"):
        sl.measure(golden_model("relu"), [{"input_ids": rows, "attention_mask": mask}], sl.TopK(0.2))


def test_words_that_a_model_never_gives_add_nothing_to_kl():
    chance = torch.Generator().manual_seed(0)
    dense, sparse = torch.randn(2, 5, 8, generator=chance)
    ids = torch.randint(1, 8, (1, 6), generator=chance)
    known = torch.ones_like(ids, dtype=torch.bool)
    without = forward.losses_and_kl(sparse[:, 1:], dense[:, 1:], forward.Batch(ids - 1, known, known))
    dense[:, 0] = sparse[:, 0] = -torch.inf
    found = forward.losses_and_kl(sparse, dense, forward.Batch(ids, known, known))
    for one, other in zip(found, without, strict=True):
        assert one.tolist() == pytest.approx(other.tolist(), abs=1e-6)
    assert found[0].equal(forward.losses(sparse, forward.Batch(ids, known, known)))


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        *(("ppl_increase_pct", p, "") for p in (0, -1, float("inf"), "1", *NO_NUMBERS)),
        *(("stop_width", width, "") for width in (0.0, -1e-3, 1.5, *NO_NUMBERS)),
        ("criterion", "loss", " must be one of"),
        ("method", "newton", " must be one of"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused_at_once(option, value, says, relu, ids):
    with noted_passes(relu) as counted, pytest.raises(ValueError, match=option + says):
        sl.find_thresholds(relu, [ids["tiny64"]], **{option: value})
    assert counted == []


def test_losses_of_a_bfloat16_model_are_not_quantised(ids):
    model, _ = sl.load(GOLDEN / "tiny_minicpm_silu", dtype=torch.bfloat16, device_map="cpu")
    found = sl.find_thresholds(model, [ids["greedy64_silu"]], 5.0)
    batch = forward.TokenBatches(model, [ids["greedy64_silu"]]).batches[0]
    losses = forward.losses(forward.logits(model, batch), batch)
    assert losses.dtype == torch.float32
    assert float((losses - losses.bfloat16().float()).abs().max()) > 1e-4, "losses lie on bfloat16's steps"
    assert math.log(found.ppl_ratio) == pytest.approx(math.log(1.05), abs=0.01)
    ratios = [math.log(r) for _, r in found.points]
    assert any(abs(r * 64 - round(r * 64)) > 0.05 for r in ratios), "ratios move in steps of 1/64"


def test_no_autograd_graph_is_kept(responsive):
    model, text = responsive
    kept = []
    handle = model.register_forward_hook(lambda _m, _a, output: kept.append(output.logits.requires_grad))
    assert torch.is_grad_enabled()
    found = sl.find_thresholds(model, [text], 5.0)
    sl.measure(model, [text], found)
    handle.remove()
    assert kept and not any(kept)
    assert torch.is_grad_enabled() and all(p.grad is None for p in model.parameters())
    model(text[:1], labels=text[:1]).loss.backward()
    assert model.model.embed_tokens.weight.grad is not None
    model.zero_grad()


@pytest.mark.parametrize("dead_layer", [0, 1])
@pytest.mark.parametrize("cett", [0.0, 0.05])
def test_zero_output_column_is_never_active_and_changes_nothing_else(cett, dead_layer, silu, own_silu, ids):
    with torch.no_grad():
        own_silu.model.layers[dead_layer].mlp.down_proj.weight[:, 17] = 0
    result = sl.measure(own_silu, [ids["tiny64"]], sl.CETT(cett))
    assert result.neuron_frequency[dead_layer][17] == 0
    assert np.isfinite(result.by_layer.activation_ratio).all() and math.isfinite(result.ppl_ratio)
    usual = sl.measure(silu, [ids["tiny64"]], sl.CETT(cett))
    others, before = (np.delete(m.neuron_frequency[dead_layer], 17).mean() for m in (result, usual))
    assert others == pytest.approx(before, abs=0.003)


def test_text_longer_than_the_context_is_refused(relu):
    text = torch.zeros(1, 300, dtype=torch.long)
    with noted_passes(relu) as counted, pytest.raises(ValueError, match=r"300 tokens.*context is 256.*token_batches"):
        sl.find_thresholds(relu, [text])
    assert counted == []


@pytest.mark.parametrize(
    ("batches", "word"),
    [
        ([], "0 tokens"),
        ([torch.zeros(1, 0, dtype=torch.long)], "not empty"),
        ([torch.tensor([[5]])], "at least two"),
        ([torch.tensor([[5], [6]])], "at least two"),
        ([{"input_ids": torch.tensor([[5, 6]]), "attention_mask": torch.tensor([[1, 0]])}], "at least two"),
        ([{"input_ids": torch.tensor([[5, 6]]), "attention_mask": torch.tensor([[1, 1, 1]])}], "attention_mask"),
        ([torch.tensor([[0.5, 1.0]])], "LongTensor"),
        ([[1, 2, 3]], "LongTensor"),
        ([torch.tensor([[5, 512]])], "vocabulary"),
        ([torch.tensor([[5, -1]])], "vocabulary"),
        (torch.tensor([[5, 6]]), "list of token batches"),
        ("a text", "token_batches"),
        (None, "list of token batches"),
        (Path("tokens.bin"), "list of token batches"),
        (b"text", "list of token batches"),
        (np.zeros((2, 8), int), "list of token batches"),
        (7, "list of token batches"),
        ({"input_ids": torch.zeros(1, 8)}, "list of token batches"),
        ([np.zeros((2, 8))], "float64"),
        ([torch.zeros(2, 8, dtype=torch.bool)], "bool"),
        ([{"ids": torch.zeros(1, 8)}], "no input_ids; it has ids"),
        ([{}], "no input_ids; it has nothing"),
        ([{"input_ids": torch.tensor([[5, 6]]), "labels": torch.tensor([[-100, 6]])}], "labels would not be used"),
        ([{"input_ids": torch.tensor([[5, 6]]), "position_ids": np.array([[3, 4]])}], "position_ids would not be used"),
        ([{"input_ids": torch.tensor([[5, 6]]), "attn_mask": torch.tensor([[1, 0]])}], "attn_mask would not be"),
        ([{"input_ids": torch.tensor([[5, 6]]), "inputs_embeds": torch.ones(1, 2, 4)}], "inputs_embeds would not be"),
        ([{"input_ids": [[5, 6]], "token_type_ids": [[0, 0]]}], "expected a LongTensor of token ids"),
        (["a text"], "got str"),
        ([{"input_ids": torch.tensor([[5, 6]]), "counted": torch.ones(1, 3)}], "counted"),
        ([torch.zeros(2, 2, 2, dtype=torch.long)], "rows"),
    ],
    ids=str,
)
def test_text_that_cannot_be_measured(batches, word, relu):
    with noted_passes(relu) as counted:
        for call in (
            *searched_or_measured(relu, batches),
            lambda: sl.thresholds_for_cett(relu, batches, 0.1),
            lambda: sl.shared_cett([relu], batches),
            lambda: sl.find_thresholds(relu, [torch.tensor([[5, 6, 7]])], held_out=7 if batches is None else batches),
        ):
            with pytest.raises(ValueError, match=word):
                call()
    assert counted == []


def test_two_tokens_are_enough(relu):
    found = sl.find_thresholds(relu, [torch.tensor([[5, 6]])], 1.0)
    assert math.isfinite(found.ppl_ratio)


def test_what_a_tokenizer_adds_does_no_harm(relu, ids):
    batch = {"input_ids": ids["tiny64"], "attention_mask": torch.ones_like(ids["tiny64"])}
    plain = sl.thresholds_for_cett(relu, [ids["tiny64"]], 0.1)
    more = batch | {
        "token_type_ids": torch.zeros_like(ids["tiny64"]),
        "special_tokens_mask": torch.ones_like(ids["tiny64"]),
        "labels": ids["tiny64"],
        "position_ids": np.arange(ids["tiny64"].numel()),
        "overflow_to_sample_mapping": torch.tensor([0]),
        "text": ["a line"],
    }
    assert sl.thresholds_for_cett(relu, [more], 0.1).values == plain.values


def test_labels_may_leave_out_what_the_mask_does(relu, ids):
    text = ids["tiny64"].reshape(1, -1)
    mask = torch.ones_like(text)
    mask[:, -5:] = 0
    batch = {"input_ids": text, "attention_mask": mask}
    labelled = batch | {"labels": text.masked_fill(mask == 0, -100), "position_ids": (mask.cumsum(1) - 1) * mask}
    one, other = (sl.measure(relu, [b], sl.FAT(0.1)).ppl_ratio for b in (batch, labelled))
    assert one == other


@pytest.mark.parametrize("cett", [-0.1, 1.0, float("nan"), "0.1"])
def test_cett_out_of_range(cett, relu, ids):
    with pytest.raises(ValueError, match="CETT"):
        sl.thresholds_for_cett(relu, [ids["tiny64"]], cett)


def searched_or_measured(model, batches):
    return lambda: sl.find_thresholds(model, batches), lambda: sl.measure(model, batches, sl.FAT(0.1))


def test_loss_that_is_not_finite(own_relu, ids):
    with torch.no_grad():
        own_relu.model.norm.weight[0] = float("nan")
    for call in searched_or_measured(own_relu, [ids["tiny64"]]):
        with pytest.raises(ValueError, match=r"dense loss.*not finite"):
            call()
    assert hooks_on(own_relu) == 0


def test_model_in_training_mode_is_refused(ids, own_relu):
    attention = own_relu.model.layers[1].self_attn
    attention.attention_dropout = 0.5
    dropout = r"other scores each time: model\.layers\.1\.self_attn"
    for part, named in ((attention, dropout), (own_relu, "The model is in")):
        part.train()
        for call in searched_or_measured(own_relu, [ids["tiny64"]]):
            with pytest.raises(ValueError, match=rf"{named}.*model\.eval\(\)"):
                call()


def test_result_says_what_it_was_found_on(responsive):
    model, text = responsive
    found = sl.find_thresholds(model, [text], 5.0)
    assert found.tokens == 480 and found.ppl_increase_pct == 5.0 and found.layers == (24, 24)
    assert len(found.provenance["corpus_sha256"]) == 64
    other = sl.thresholds_for_cett(model, [text.flip(0)], 0.1).provenance["corpus_sha256"]
    assert other != found.provenance["corpus_sha256"]
    assert [c for c, _ in found.points] == sorted(c for c, _ in found.points)
    assert any(c == found.cett and r == pytest.approx(found.ppl_ratio) for c, r in found.points)
    assert found.provenance["tokenizer"] is None
    noted = sl.find_thresholds(model, [text], 5.0, tokenizer=SimpleNamespace(name_or_path="some/tokenizer"))
    assert noted == dataclasses.replace(found, provenance=found.provenance | {"tokenizer": "some/tokenizer"})
