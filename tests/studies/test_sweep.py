"""The sweep over rules against plain re-computations on tiny models; what it refuses, keeps and draws of a real one."""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import brute_cett, dense_values, downs, greedy, tiny_llama

import sparsinglib as sl
from sparsinglib import suites
from sparsinglib.core import calibration
from sparsinglib.core.calibration import FAMILIES, GateSample, rules_at
from sparsinglib.core.rules import Rule
from sparsinglib.files import SAMPLE
from sparsinglib.paper import style
from sparsinglib.studies.tradeoff import figures, numbers, sweep
from sparsinglib.studies.tradeoff.sweep import ALL, CETT, CETT_GRID, ZEROS

RULES = [sl.FAT(0.1), sl.TopK(0.25), sl.OutputTopK(0.25), sl.TopP(0.7), sl.GateThresholds((0.05, 0.3))]


def test_scan_of_many_rules_is_that_of_each_and_does_not_mind_how_a_text_is_batched(responsive):
    model, ids = responsive
    whole = sweep.scan(model, [ids], RULES, kl=True)
    split = sweep.scan(model, [ids[:5], ids[5:]], RULES, kl=True)
    assert split.activation_ratio == pytest.approx(whole.activation_ratio, abs=1e-4)
    assert whole.dense[:, 1].sum() == ids.shape[0] * (ids.shape[1] - 1)
    for one, other in zip(split.rises, whole.rises, strict=True):
        assert one[:, 0].tolist() == pytest.approx(other[:, 0].tolist(), abs=1e-3)
    for index, rule in enumerate(RULES):
        measured = sl.measure(model, [ids], rule)
        assert whole.activation_ratio[index] == pytest.approx(measured.activation_ratio, abs=1e-9)
        assert math.exp(whole.log_ratio[index]) == pytest.approx(measured.ppl_ratio, rel=1e-6)
        assert whole.kl[index][:, 0].sum() / whole.dense[:, 1].sum() == pytest.approx(measured.kl, rel=1e-5)


def test_scan_leaves_padding_out(responsive):
    model, ids = responsive
    alone = sweep.scan(model, [ids[:1], ids[1:2, :23]], RULES)
    mask = torch.ones(2, 40, dtype=torch.long)
    mask[1, 23:] = 0
    together = sweep.scan(model, [{"input_ids": ids[:2], "attention_mask": mask}], RULES)
    assert together.activation_ratio == pytest.approx(alone.activation_ratio, abs=1e-9)
    assert together.log_ratio == pytest.approx(alone.log_ratio, rel=1e-4)


def test_what_does_not_fit_is_refused_by_name(responsive):
    model, ids = responsive
    with pytest.raises(ValueError, match="at least one rule"):
        sweep.scan(model, [ids], [])
    with pytest.raises(ValueError, match="exact zeros"):
        sweep.scan(model, [ids], [sl.FAT(0.1), sl.StraightforwardReLU()])
    with pytest.raises(ValueError, match="choose from Top-k"):
        GateSample.read(model, [ids]).rule("topp", 0.5)


def test_cett_rules_reach_the_cett_they_are_named_after(responsive):
    model, ids = responsive
    rules = sweep.cett_rules(model, [ids])
    assert [cett for _, cett in rules] == list(CETT_GRID)
    for (_, cett), rule in rules.items():
        tokens, rel = (None, 0.02) if cett == 0.2 else (160, 0.15)  # the whole text for one of them, loops are slow
        for values, down, threshold in zip(dense_values(model, ids), downs(model), rule.values, strict=True):
            assert np.mean(brute_cett(values[:tokens], down, threshold)) == pytest.approx(cett, rel=rel)


@pytest.mark.parametrize("act", ["relu", "silu"])
def test_the_grid_runs_from_nearly_all_nonzero_neurons_to_the_end_of_the_axis(act):
    model = tiny_llama(seed=3, act=act)
    text = greedy(model, 40, rows=16)
    rules = sweep.grid(model, [text], 5)
    families = pd.Series([family for family, _ in rules])
    assert families.iloc[0] == (ZEROS if act == "relu" else ALL)
    assert families.iloc[1:].value_counts().to_dict() == dict.fromkeys(FAMILIES, 5)
    found = sweep.scan(model, [text], list(rules.values()))
    for family in FAMILIES:
        ratio = found.activation_ratio[families == family]
        assert (np.diff(ratio) < 0).all()
        assert ratio[0] < found.activation_ratio[0]
        assert math.exp(found.log_ratio[families == family][-1]) > 1.3 or ratio[-1] < 0.05


def test_the_parameter_of_a_rule_is_its_first_field_whatever_it_is_called(monkeypatch):
    @dataclass(frozen=True)
    class Named(Rule):
        level: float
        note: str = "more"

        def active(self, ffn, neurons, gate, valid=None):
            return sl.TopK(self.level / 10).active(ffn, neurons, gate, valid)

    monkeypatch.setitem(FAMILIES, "new", lambda sample, share: Named(10 * share))
    rules = sweep.grid(tiny_llama(seed=3), [greedy(tiny_llama(seed=3), 40, rows=16)], 5)
    assert [p for family, p in rules if family == "new"] == [r.level for (f, _), r in rules.items() if f == "new"]


def test_every_family_of_rules_has_a_look_and_a_panel():
    assert figures.RULES.keys() == {*figures.PAPER, *figures.OTHERS} >= FAMILIES.keys()
    assert len({tuple(look.items()) for look in figures.RULES.values()}) == len(figures.RULES)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("share", [0.1, 0.3, 0.6])
def test_a_family_s_rule_leaves_about_the_share_aimed_at_in_the_dense_pass(responsive, family, share):
    model, ids = responsive
    rule, kept = GateSample.read(model, [ids]).rule(family, share), []

    def count(ffn, neurons, gate):
        kept.append(rule.active(ffn, neurons, gate).float().mean())

    with sl.hook_ffns(sl.find_ffns(model), count, gate=rule.uses_gate), torch.no_grad():
        model(ids)
    # Top-k rounds to whole neurons of 24.
    assert float(torch.stack(kept).mean()) == pytest.approx(share, abs=0.5 / 24 + 1e-6)


def test_rules_at_meet_the_asked_activation_ratio(ladder):
    model, tokenizer = ladder
    batches = sl.token_batches(SAMPLE.read_text(encoding="utf-8"), tokenizer, 128, 1)[:1]
    rules = rules_at(model, batches, 0.2)
    # In the dense run: quantile of |gate|; the sparse run then moves it a little.
    assert sl.measure(model, batches, rules["FAT-ε"]).activation_ratio == pytest.approx(0.2, abs=0.03)
    assert sl.measure(model, batches, rules["Top-k"]).activation_ratio == pytest.approx(0.2, abs=0.005)


def test_every_neuron_has_a_part_in_eps_however_few_tokens_are_sampled(monkeypatch):
    model = tiny_llama()
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.gate_proj.weight[1::2] *= 10  # a sample of every other neuron would see one kind only
    text = [torch.randint(0, 40, (16, 64), generator=torch.Generator().manual_seed(0))]
    whole = rules_at(model, text, 0.3)["FAT-ε"].eps
    monkeypatch.setattr(calibration, "SAMPLED_SCORES", 16 * 64 * 48 // 2)
    assert rules_at(model, text, 0.3)["FAT-ε"].eps == pytest.approx(whole, rel=0.15)


def test_layer_falls_against_single_neurons_added_up():
    model = tiny_llama(seed=5, act="relu")
    ids = greedy(model, 30, rows=1)[:, :5]  # of few tokens the mean falls too
    found = sweep.layer_falls(model, [ids])
    for layer, (values, down) in enumerate(zip(dense_values(model, ids), downs(model), strict=True)):
        top = float((values.abs() * down.norm(dim=0)).max())
        steps = top * np.geomspace(1e-4, 1.001, sweep.LAYER_POINTS)
        cett = np.array([brute_cett(values, down, t) for t in steps])
        steps = np.diff(cett, axis=0)
        mean, error = steps.mean(axis=1), steps.std(axis=1, ddof=1) / math.sqrt(steps.shape[1])
        assert found["largest_fall"][layer] == pytest.approx(max(0, -mean.min()), abs=1e-5)
        assert found["steps"][layer] == sweep.LAYER_POINTS - 1
        assert found["wrong"][layer] == (mean < -np.maximum(1.645 * error, sweep.NO_FALL)).sum()
    assert found["largest_fall"].max() > 0  # weak vectors do cancel: else this test would test nothing


def suite_of(*checkpoints):
    made_up = tuple(suites.Checkpoint(f"{s}-{a}", "0.1m-relu", s, a) for s, a in checkpoints)
    return suites.Suite("mine", "own", ("code",), 64, 512, made_up)


@pytest.mark.parametrize(
    ("asked", "chosen"),
    [
        ({}, ["B-relu", "B-silu", "C-relu", "C-silu"]),
        ({"small": "A"}, ["A-relu", "C-relu", "C-silu"]),
        ({"small": "C"}, ["C-relu", "C-silu"]),
    ],
)
def test_small_and_large_are_the_ends_with_both_activations(asked, chosen):
    suite = suite_of(("A", "relu"), ("B", "relu"), ("B", "silu"), ("C", "relu"), ("C", "silu"), ("D", "silu"))
    assert [c.name for c in sweep.pick(suite, **asked)] == chosen
    assert [c.name for c in sweep.pick(suite_of(("A", "silu")))] == ["A-silu"]
    with pytest.raises(ValueError, match=r"large = 'E'.*A, B, C, D"):
        sweep.pick(suite, large="E")


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A real checkpoint on a short text, with a cache of its own: its sweep."""
    folder = tmp_path_factory.mktemp("sweep")
    path = folder / "own.txt"
    path.write_text("One neuron fires, another rests; most of them rest nearly always. " * 80, encoding="utf-8")
    suite = suites.Suite("mine", "own", (str(path),), 64, 512, tuple(suites.read("ladder").pick("0.1M", "relu")))
    options = {"corpus": str(path), "tokens": 512, "points": 4}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARSINGLIB_CACHE", str(folder / "cache"))
        (first,) = sweep.sweep(suite, suite.checkpoints, **options)
        patch.setattr(sweep, "scan", lambda *_, **__: pytest.fail("measured again"))
        (second,) = sweep.sweep(suite, suite.checkpoints, **options)
    pd.testing.assert_frame_equal(first.points, second.points)
    assert np.array_equal(first.rises, second.rises)
    return first


def test_a_sweep_has_every_rule_and_its_numbers_agree(swept):
    points = swept.points
    assert set(points.rule) == {CETT, ZEROS, *FAMILIES}
    assert swept.rises.shape == (len(points), len(swept.counts))
    assert np.log(points.ppl_ratio).to_numpy() == pytest.approx(swept.rises.sum(axis=1) / swept.counts.sum())
    assert points[points.rule == ZEROS].ppl_ratio.item() == pytest.approx(1, abs=1e-5)
    assert points.activation_ratio.max() == pytest.approx(swept.unpruned, abs=1e-6)
    assert swept.found.ppl_increase_pct == 1.0
    assert points.kl.notna().sum() == len(CETT_GRID)


def test_figures_of_one_checkpoint(swept, tmp_path):
    needed = numbers.needed([swept])
    figure = figures.figure_2([swept], needed)
    pictures = {"f2": figure, "f15": figures.figure_15([swept]), "by_p": figures.active_by_p(needed)}
    for name, picture in pictures.items():
        style.save(picture, name, numbers.points([swept], "own"), tmp_path)
        assert (tmp_path / f"{name}.png").stat().st_size > 5000
    best = needed[needed.rise_pct == 10].set_index("rule").activation_ratio
    for rule, share in best.dropna().items():
        assert f"{rule} {100 * share:.0f} %" in figure.message
    assert "nan" not in figure.message
    without = figures.figure_2([swept], needed.assign(activation_ratio=np.nan))  # as where cutting costs nothing
    assert "no model's perplexity rises by 10 %" in without.message
    labels = {text.get_text() for text in figure.legends[0].get_texts()}
    assert {CETT, "Top-k", "FAT-ε", ZEROS, "CETT-PPL-1 %", "top-p"} <= labels
    assert [len(ax.containers) for ax in figure.axes] == [4, 4]
