"""The trade-off study against plain re-computations on tiny models, and its numbers against cases solved by hand."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import PlainMLP, brute_cett, dense_values, downs, greedy, plain_losses, tiny_llama
from hypothesis import given
from hypothesis import strategies as st

import sparsinglib as sl
from sparsinglib import suites
from sparsinglib.core.calibration import FAMILIES, GateSample
from sparsinglib.paper import style
from sparsinglib.studies.tradeoff import claims, numbers
from sparsinglib.studies.tradeoff import figures as tradeoff_figures
from sparsinglib.studies.tradeoff import sweep as tradeoff
from sparsinglib.studies.tradeoff.sweep import ALL, CETT, CETT_GRID, ZEROS, Tradeoff
from sparsinglib.suites import survey


def kept_top(size, share):
    """The share with the largest sizes in each row, by sorting; sizes are distinct and nonzero here."""
    order = size.argsort(dim=-1, descending=True).argsort(dim=-1)
    return order < max(1, round(share * size.shape[-1]))


def kept_top_p(gate, p):
    kept = torch.zeros_like(gate, dtype=torch.bool)
    for place in np.ndindex(*gate.shape[:-1]):
        row = gate[place].abs().double().tolist()
        reached = 0.0
        for i in sorted(range(len(row)), key=lambda i: -row[i]):
            if reached >= p * sum(row):
                break
            kept[place][i] = True
            reached += row[i]
    return kept


CASES = {
    "fat": (sl.FAT(0.1), lambda i, gate, value, norm: gate.abs() >= 0.1),
    "top-k": (sl.TopK(0.25), lambda i, gate, value, norm: kept_top(gate.abs(), 0.25)),
    "outputs": (sl.OutputTopK(0.25), lambda i, gate, value, norm: kept_top(value.abs() * norm, 0.25)),
    "top-p": (sl.TopP(0.7), lambda i, gate, value, norm: kept_top_p(gate, 0.7)),
    "layers": (sl.GateThresholds((0.05, 0.3)), lambda i, gate, value, norm: gate.abs() >= (0.05, 0.3)[i]),
}


@pytest.mark.parametrize("name", CASES)
def test_scan_against_a_plain_sparse_run(responsive, name):
    model, ids = responsive
    rule, keep = CASES[name]
    found = tradeoff.scan(model, [ids], [rule])
    with PlainMLP(model, keep) as seen:
        rise = plain_losses(model, ids) - plain_losses(tiny_llama(seed=3), ids)
    share = torch.stack([torch.cat(seen.active[i]).double().mean() for i in (0, 1)]).mean()
    assert found.activation_ratio[0] == pytest.approx(float(share), abs=1e-3)
    assert found.log_ratio[0] == pytest.approx(float(rise.mean()), rel=2e-2, abs=2e-4)
    assert found.counts.sum() == ids.shape[0] * (ids.shape[1] - 1)


def test_scan_of_many_rules_is_that_of_each_and_does_not_mind_how_a_text_is_batched(responsive):
    model, ids = responsive
    rules = [rule for rule, _ in CASES.values()]
    whole = tradeoff.scan(model, [ids], rules, kl=True)
    split = tradeoff.scan(model, [ids[:5], ids[5:]], rules, kl=True)
    assert split.activation_ratio == pytest.approx(whole.activation_ratio, abs=1e-4)
    assert split.rises == pytest.approx(whole.rises, abs=1e-3)
    for index, rule in enumerate(rules):
        measured = sl.measure(model, [ids], rule)
        assert whole.activation_ratio[index] == pytest.approx(measured.activation_ratio, abs=1e-9)
        assert math.exp(whole.log_ratio[index]) == pytest.approx(measured.ppl_ratio, rel=1e-6)
        assert whole.kl[index].sum() / whole.counts.sum() == pytest.approx(measured.kl, rel=1e-5)


def test_scan_leaves_padding_out(responsive):
    model, ids = responsive
    rules = [rule for rule, _ in CASES.values()]
    alone = tradeoff.scan(model, [ids[:1], ids[1:2, :23]], rules)
    mask = torch.ones(2, 40, dtype=torch.long)
    mask[1, 23:] = 0
    together = tradeoff.scan(model, [{"input_ids": ids[:2], "attention_mask": mask}], rules)
    assert together.activation_ratio == pytest.approx(alone.activation_ratio, abs=1e-9)
    assert together.log_ratio == pytest.approx(alone.log_ratio, rel=1e-4)


def test_scan_refuses_what_does_not_fit(responsive):
    model, ids = responsive
    with pytest.raises(ValueError, match="at least one rule"):
        tradeoff.scan(model, [ids], [])
    with pytest.raises(ValueError, match="exact zeros"):
        tradeoff.scan(model, [ids], [sl.FAT(0.1), sl.StraightforwardReLU()])


def test_cett_rules_reach_the_cett_they_are_named_after(responsive):
    model, ids = responsive
    rules = tradeoff.cett_rules(model, [ids])
    assert [cett for _, cett in rules] == list(CETT_GRID)
    values = dense_values(model, ids)
    for (_, cett), rule in rules.items():
        for layer, down in enumerate(downs(model)):
            reached = np.mean(brute_cett(values[layer][:160], down, rule.values[layer]))
            whole = np.mean(brute_cett(values[layer], down, rule.values[layer])) if cett == 0.2 else reached
            assert reached == pytest.approx(cett, rel=0.15)
            assert whole == pytest.approx(cett, rel=0.02) or cett != 0.2


@pytest.mark.parametrize("act", ["relu", "silu"])
def test_the_grid_runs_from_nearly_all_nonzero_neurons_to_the_end_of_the_axis(act, relu, silu, ids):
    model = tiny_llama(seed=3, act=act)
    text = greedy(model, 40, rows=16)
    rules = tradeoff.grid(model, [text], 5)
    families = pd.Series([family for family, _ in rules])
    assert families.iloc[0] == (ZEROS if act == "relu" else ALL)
    assert families.iloc[1:].value_counts().to_dict() == dict.fromkeys(FAMILIES, 5)
    found = tradeoff.scan(model, [text], list(rules.values()))
    for family in FAMILIES:
        ratio = found.activation_ratio[families == family]
        assert (np.diff(ratio) < 0).all()
        assert ratio[0] < found.activation_ratio[0]
        assert math.exp(found.log_ratio[families == family][-1]) > 1.3 or ratio[-1] < 0.05


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("share", [0.1, 0.3, 0.6])
def test_a_family_s_rule_leaves_about_the_share_aimed_at(responsive, family, share):
    model, ids = responsive
    rule = GateSample.read(model, [ids]).rule(family, share)
    with PlainMLP(model) as dense, torch.no_grad():
        model(ids)
    assert dense.values  # the share is counted in the dense pass, on which the rule was set
    kept = []

    def count(ffn, neurons, gate):
        kept.append(rule.active(ffn, neurons, gate).float().mean())

    with sl.hook_ffns(sl.find_ffns(model), count, gate=rule.uses_gate), torch.no_grad():
        model(ids)
    # Top-k rounds to whole neurons of 24.
    assert float(torch.stack(kept).mean()) == pytest.approx(share, abs=0.5 / 24 + 1e-6)


def test_an_unknown_family_is_named(responsive):
    with pytest.raises(ValueError, match="choose from Top-k"):
        GateSample.read(responsive[0], [responsive[1]]).rule("topp", 0.5)


def test_layer_falls_against_single_neurons_added_up():
    model = tiny_llama(seed=1, act="relu")
    ids = greedy(model, 30, rows=1)
    found = tradeoff.layer_falls(model, [ids])
    for layer, (values, down) in enumerate(zip(dense_values(model, ids), downs(model), strict=True)):
        top = float((values.abs() * down.norm(dim=0)).max())
        steps = top * np.geomspace(1e-4, 1.001, tradeoff.LAYER_POINTS)
        cett = np.array([brute_cett(values, down, t) for t in steps])
        fall = np.maximum.accumulate(cett) - cett
        steps = np.diff(cett, axis=0)
        mean, error = steps.mean(axis=1), steps.std(axis=1, ddof=1) / math.sqrt(steps.shape[1])
        assert found["largest_fall"][layer] == pytest.approx(max(0, -mean.min()), abs=1e-5)
        assert found["steps"][layer] == tradeoff.LAYER_POINTS - 1
        assert found["wrong"][layer] == (mean < -np.maximum(1.645 * error, tradeoff.NO_FALL)).sum()
        assert found["falling_tokens"][layer] == pytest.approx((fall.max(axis=0) > 0.01).mean(), abs=0.04)
    assert found["falling_tokens"].max() > 0  # weak vectors do cancel: else this test would test nothing


# ---- numbers ----

BLOCKS = 40
RATIO = np.array([0.02, 0.05, 0.1, 0.2, 0.4])


def made(rises: dict[str, np.ndarray], noise=None, most=0.5) -> Tradeoff:
    """A trade-off with given log(perplexity ratio) at RATIO for each rule, the same in every block plus noise."""
    noise = {} if noise is None else noise
    counts = np.full(BLOCKS, 32.0)
    rows = [{"rule": ZEROS, "activation_ratio": most, "parameter": 0.0}]
    sums = [np.zeros(BLOCKS)]
    for rule, values in rises.items():
        for a, value in zip(RATIO, values, strict=True):
            rows.append({"rule": rule, "activation_ratio": a, "parameter": 1 - a})
            sums.append((value + noise.get(rule, np.zeros(BLOCKS))) * counts)
    points = pd.DataFrame(rows)
    mean = np.array([s.sum() / counts.sum() for s in sums])
    points = points.assign(checkpoint="made", dense_ppl=20.0, ppl=20 * np.exp(mean), ppl_ratio=np.exp(mean))
    points = points.assign(ppl_ratio_se=0.01, kl=np.where(points.rule == CETT, mean, np.nan), kl_se=0.001)
    falls = pd.DataFrame({"layer": [0, 1], "steps": [39, 39], "wrong": [0, 2], "largest_fall": [0.0, 0.02]})
    falls = falls.assign(fall_error=[0.0, 0.001], falling_tokens=[0.1, 0.3])
    checkpoint = suites.Checkpoint("made", "made", "0.4M", "relu")
    return Tradeoff(checkpoint, points, np.stack(sums), counts, falls)


def line(slope, most=0.5):
    """A rise that is a straight line in log(activation ratio): every number about it can be worked out by hand."""
    return slope * np.log(most / RATIO)


@given(st.floats(0.1, 2), st.floats(0.5, 20))
def test_the_activation_ratio_needed_against_a_curve_solved_by_hand(slope, pct):
    t = made({CETT: line(slope)})
    target = math.log1p(pct / 100)
    expected = 0.5 * math.exp(-target / slope)
    assert numbers.resampled_curves(t)[0][CETT].needed(target) == pytest.approx(
        expected if expected > RATIO[0] else math.nan, rel=1e-6, nan_ok=True
    )


def test_what_a_curve_does_not_reach_is_not_guessed():
    found = numbers.needed([made({CETT: line(0.02)})])
    assert found.activation_ratio[0] == pytest.approx(0.5 * math.exp(-math.log(1.01) / 0.02), rel=1e-6)
    assert found.activation_ratio[1] == pytest.approx(0.5 * math.exp(-math.log(1.05) / 0.02), rel=1e-6)
    assert math.isnan(found.activation_ratio[2]) and math.isnan(found.low[2])  # at 0.4 %, below the last point


def test_a_dip_in_a_curve_does_not_count_as_reached():
    # Above 5 % at 0.2, below it again at 0.1: the rule is only safe from above 0.2 on.
    t = made({CETT: np.array([0.5, 0.2, 0.01, 0.08, 0.01])})
    assert 0.2 < numbers.resampled_curves(t)[0][CETT].needed(math.log(1.05)) < 0.4


@given(st.floats(0.1, 1), st.floats(0.1, 1))
def test_the_mean_between_two_curves_against_the_integral(a, b):
    t = made({CETT: line(a), "Top-k": line(b)})
    (row,) = numbers.advantage([t]).itertuples()
    low = max(RATIO[0], 0.5 * math.exp(-math.log(tradeoff.HIGHEST) / max(a, b)))
    area = (b - a) * (0.5 - low - low * math.log(0.5 / low))
    assert row.from_activation == pytest.approx(low, rel=1e-6)
    assert row.mean == pytest.approx(area / (0.5 - low), rel=4e-3, abs=1e-9)
    assert (row.low, row.high) == pytest.approx((row.mean, row.mean), abs=1e-9)  # no noise, no width


def test_noise_that_both_rules_share_leaves_their_difference_sure():
    rng = np.random.default_rng(1)
    shared, own = rng.normal(0, 0.1, (2, BLOCKS))
    paired = made({CETT: line(0.3), "Top-k": line(0.4)}, {CETT: shared, "Top-k": shared})
    unpaired = made({CETT: line(0.3), "Top-k": line(0.4)}, {CETT: shared, "Top-k": own})
    widths = [(t["high"] - t["low"])[0] for t in (numbers.advantage([x]) for x in (paired, unpaired))]
    assert widths[0] < 0.2 * widths[1]
    (row,) = numbers.advantage([unpaired]).itertuples()
    assert row.low < row.mean < row.high


def test_where_the_other_rule_is_ahead_is_found():
    bend = line(0.4) - np.array([0, 0, 0, 0.2, 0])
    noise = {"Top-k": np.random.default_rng(2).normal(0, 0.02, BLOCKS)}
    (row,) = numbers.advantage([made({CETT: line(0.3), "Top-k": bend}, noise)]).itertuples()
    assert row.least_z < -3
    assert row.least_at == pytest.approx(0.2, rel=0.3)
    assert row.least_pct == pytest.approx(100 * math.expm1(0.1 * math.log(0.5 / 0.2) - 0.2), rel=0.3)


def in_order_of_cett(t: Tradeoff) -> Tradeoff:
    """CETT's points as a sweep gives them: CETT rises while the activation ratio falls."""
    order = [0, *range(len(t.points) - 1, 0, -1)]
    return Tradeoff(t.checkpoint, t.points.iloc[order].reset_index(drop=True), t.rises[order], t.counts, t.falls)


def test_violations_of_monotonicity_by_hand():
    # From dense on, as CETT grows: 0, 0.5, 0.3, 0.35, 0.1, 0: three of five steps fall, the largest by 0.25.
    wild = numbers.violations([in_order_of_cett(made({CETT: np.array([0.0, 0.1, 0.35, 0.3, 0.5])}))])
    wild = wild.set_index("curve")
    assert wild.loc["perplexity", ["steps", "wrong"]].tolist() == [5, 3]
    assert wild.loc["perplexity", ["worst", "worst_error"]].tolist() == pytest.approx([0.25, 0], abs=1e-9)
    assert wild.loc["CETT", ["steps", "wrong", "worst", "worst_error"]].tolist() == [78, 2, 0.02, 0.001]
    # The points as they stand, from the smallest activation ratio to the largest, rise by at most 0.2; the first falls.
    rising = numbers.violations([made({CETT: line(0.3)})]).set_index("curve").loc["activation ratio"]
    assert rising[["steps", "wrong"]].tolist() == [5, 4] and rising.worst == pytest.approx(0.2)
    clean = numbers.violations([in_order_of_cett(made({CETT: line(0.3)}))]).set_index("curve")
    assert clean.loc[["perplexity", "activation ratio"], ["wrong", "worst"]].to_numpy().tolist() == [[0, 0], [0, 0]]


def test_a_step_within_its_error_is_not_a_wrong_one():
    noise = np.random.default_rng(3).normal(0, 0.2, BLOCKS)
    values = np.array([0.5, 0.4, 0.3, 0.2, 0.21])  # in order of CETT, the second step falls by 0.01
    for spread, wrong in ((noise * 0, 1), (noise, 0)):
        t = in_order_of_cett(made({CETT: values}, {CETT: np.zeros(BLOCKS)}))
        rises = t.rises.copy()
        rises[2] += 32 * (spread - spread.mean())
        found = numbers.violations([Tradeoff(t.checkpoint, t.points, rises, t.counts, t.falls)]).set_index("curve")
        assert found.wrong["perplexity"] == wrong


def test_kl_beside_perplexity_by_hand():
    t = made({CETT: line(0.3)})
    found = numbers.kl_against_ppl([t])
    assert found.exp_kl.to_numpy() == pytest.approx(found.ppl_ratio.to_numpy())
    log_ratio = np.log(found.ppl_ratio)
    assert found.fewer_tokens.to_numpy() == pytest.approx(((0.01 / found.ppl_ratio) / 0.001).to_numpy() ** 2)
    assert (log_ratio > 0).all()


# ---- verdicts ----


def found(activation_ratio, low, high):
    return sl.Thresholds((0.1,), 0.1, 1.01, 0.001, activation_ratio, activation_interval=(low, high))


def verdicts(t, matrix=None):
    rows = claims.verdicts(suite_of(("A", "relu")), numbers.advantage([t]), numbers.violations([t]), matrix)
    return {row.id: row for row in rows}


def test_verdicts_hold_where_the_numbers_say_so():
    given = verdicts(in_order_of_cett(made({CETT: line(0.2), "Top-k": line(0.3), "FAT-ε": line(0.4)})))
    assert {name: str(row.verdict) for name, row in given.items()} == {"C01": "holds", "C15": "holds", "C81": "no data"}
    assert given["C15"].our_value.endswith("CETT, 2 of 78: 2.56 %")
    assert "two corpora" in given["C81"].why and "seeds" in given["C01"].why


def test_verdicts_fail_where_the_numbers_say_so():
    dip = line(0.3) - np.array([0, 0.5, 0, 0, 0])
    given = verdicts(in_order_of_cett(made({CETT: dip, "Top-k": line(0.1), "FAT-ε": line(0.4)})))
    assert [str(given[name].verdict) for name in ("C01", "C15")] == ["fails", "fails"]


@pytest.mark.parametrize(
    ("away", "verdict"),
    [((1.03, 1.04, 1.05), "holds"), ((1.0, 0.99, 1.0), "fails"), ((1.0, 1.01, 1.2), "inconclusive")],
)
def test_on_other_corpora_the_spread_between_corpora_counts(away, verdict):
    names = ("code", "math", "chinese")
    rows = [("m", a, b, 1.01 if a == b else far, 0.002, 0.2) for a, far in zip(names, away, strict=True) for b in names]
    columns = ["checkpoint", "found_on", "judged_on", "ppl_ratio", "ppl_ratio_se", "activation_ratio"]
    t = in_order_of_cett(made({CETT: line(0.2), "Top-k": line(0.3), "FAT-ε": line(0.4)}))
    assert verdicts(t, pd.DataFrame(rows, columns=columns))["C81"].verdict == verdict


def test_what_is_needed_and_the_printed_tables():
    t = made({CETT: line(0.02), "Top-k": line(0.3)})
    t = Tradeoff(**{**t.__dict__, "found": found(0.2, 0.15, 0.25)})
    at_ten = numbers.needed([t]).query("rise_pct == 10").set_index("rule").activation_ratio
    assert at_ten.index.tolist() == [CETT, "Top-k"]
    assert np.isnan(at_ten[CETT]), "its curve ends before"
    assert at_ten["Top-k"] == pytest.approx(0.5 * 1.1 ** (-1 / 0.3), rel=5e-3)
    assert numbers.summary([t])["active at 1 % (%)"].tolist() == ["20.0 (15.0 to 25.0)"]
    assert len(numbers.kl_table([t], numbers.kl_against_ppl([t]))) == 1


# ---- suites ----


def suite_of(*checkpoints):
    made_up = tuple(suites.Checkpoint(f"{s}-{a}", "0.1m-relu", s, a) for s, a in checkpoints)
    return suites.Suite("mine", "own", ("code",), 64, 512, made_up)


def test_small_and_large_are_the_ends_with_both_activations():
    three = suite_of(("A", "relu"), ("B", "relu"), ("B", "silu"), ("C", "relu"), ("C", "silu"), ("D", "silu"))
    assert [c.name for c in tradeoff.pick(three)] == ["B-relu", "B-silu", "C-relu", "C-silu"]
    assert [c.name for c in tradeoff.pick(three, small="A")] == ["A-relu", "C-relu", "C-silu"]
    assert [c.name for c in tradeoff.pick(three, small="C")] == ["C-relu", "C-silu"]
    assert [c.name for c in tradeoff.pick(suite_of(("A", "silu")))] == ["A-silu"]
    with pytest.raises(ValueError, match=r"large = 'E'.*A, B, C, D"):
        tradeoff.pick(three, large="E")


@pytest.mark.parametrize(
    ("options", "message"),
    [({"points": 1}, "points"), ({"tokens": 100}, "tokens"), ({"corpus": "wikipdia"}, "no corpus and no file")],
)
def test_bad_settings_are_refused_before_anything_is_loaded(options, message, monkeypatch):
    monkeypatch.setattr(survey, "loaded", lambda c: pytest.fail("a model was loaded"))
    suite = suites.read("ladder")
    with pytest.raises(ValueError, match=message):
        tradeoff.sweep(suite, suite.checkpoints, **options)


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A real checkpoint on a short text, with a cache of its own; and how often it was measured in two calls."""
    folder = tmp_path_factory.mktemp("sweep")
    path = folder / "own.txt"
    path.write_text("One neuron fires, another rests; most of them rest nearly always. " * 80, encoding="utf-8")
    suite = suites.Suite("mine", "own", (str(path),), 64, 512, tuple(suites.read("ladder").pick("0.1M", "relu")))
    calls = []
    scan = tradeoff.scan
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARSINGLIB_CACHE", str(folder / "cache"))
        patch.setattr(tradeoff, "scan", lambda *a, **k: calls.append(1) or scan(*a, **k))
        first = tradeoff.sweep(suite, suite.checkpoints, corpus=str(path), tokens=512, points=4)
        made_calls = len(calls)
        second = tradeoff.sweep(suite, suite.checkpoints, corpus=str(path), tokens=512, points=4)
        yield first, second, (made_calls, len(calls))


def test_a_sweep_is_done_once(swept):
    first, second, calls = swept
    assert calls[0] == calls[1] > 0
    pd.testing.assert_frame_equal(first[0].points, second[0].points)
    assert np.array_equal(first[0].rises, second[0].rises)


def test_a_sweep_has_every_rule_and_its_numbers_agree(swept):
    ((t,), _, _) = swept
    assert set(t.points["rule"]) == {CETT, ZEROS, *FAMILIES}
    assert t.rises.shape == (len(t.points), len(t.counts))
    assert np.log(t.points["ppl_ratio"]).to_numpy() == pytest.approx(t.rises.sum(axis=1) / t.counts.sum())
    assert t.points.loc[t.points["rule"] == ZEROS, "ppl_ratio"].item() == pytest.approx(1, abs=1e-5)
    assert t.points["activation_ratio"].max() == pytest.approx(t.unpruned, abs=1e-6)
    assert t.found.ppl_increase_pct == 1.0
    assert t.points["kl"].notna().sum() == len(CETT_GRID)


def test_figures_of_one_checkpoint(swept, tmp_path):
    ((t,), _, _) = swept
    needed = numbers.needed([t])
    figure = tradeoff_figures.figure_2([t], needed)
    data = {"f2": figure, "f15": tradeoff_figures.figure_15([t]), "by_p": tradeoff_figures.active_by_p(needed)}
    for name, picture in data.items():
        style.save(picture, name, numbers.points([t], "own"), tmp_path)
        assert (tmp_path / f"{name}.png").stat().st_size > 5000
    best = needed[needed.rise_pct == 10].set_index("rule").activation_ratio
    for rule, share in best.dropna().items():
        assert f"{rule} {100 * share:.0f} %" in figure.message
    upper, lower = figure.axes
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert {CETT, "Top-k", "FAT-ε", ZEROS, "CETT-PPL-1 %", "top-p"} <= set(labels)
    assert len(upper.containers) == 4 and len(lower.containers) == 4


def test_the_matrix_of_corpora_is_drawn_as_it_is_measured():
    rows = [("m", a, b, 1.01 + 0.02 * (a != b), 0.002, 0.2) for a in ("code", "math") for b in ("code", "math")]
    columns = ["checkpoint", "found_on", "judged_on", "ppl_ratio", "ppl_ratio_se", "activation_ratio"]
    figure = tradeoff_figures.corpora_matrix(pd.DataFrame(rows, columns=columns))
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts == ["+1.0\n± 0.2", "+3.0\n± 0.2", "+3.0\n± 0.2", "+1.0\n± 0.2"]
    assert "+3.0 to +3.0 %" in figure.message


def test_needed_from_recorded_points():
    points = pd.DataFrame({"rule": ["A"] * 4 + ["B"] * 2, "activation_ratio": [0.1, 0.2, 0.5, 1.0, 0.3, 0.6],
                           "ppl_ratio": [2.0, 1.5, 1.21, 1.0, 1.05, 1.01]})  # fmt: skip
    found = numbers.recorded(points, 21).set_index("rule").iloc[:, 0]
    assert found["A"] == pytest.approx(50, abs=0.2)
    assert np.isnan(found["B"])  # it was not pushed so far
    assert 20 < numbers.recorded(points, 30).iloc[0, 1] < 50
