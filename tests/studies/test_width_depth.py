"""Width and depth on synthetic runs with a known bottleneck, hand-computed translations, and whatever is shipped."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from helpers import verdict
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from sparsinglib import laws, paper
from sparsinglib.files import LADDER
from sparsinglib.ladder import recipe
from sparsinglib.laws import two_segments as bend
from sparsinglib.paper.rules import Verdict
from sparsinglib.studies.scaling import trends
from sparsinglib.studies.width_depth import claims, figures, numbers

STEPS = [244, 308, 388, 488, 615, 775, 977, 1230, 1550, 1953, 2461, 3100, 3906, 4922, 6201, 7812, 9843]
STEPS = np.array([*STEPS, 10312, 10663, 11015, 11366, 11718])
RATIOS = np.array([w / n for w, n, _ in recipe.SHAPES])
TURNED = 16 + 0.4 * np.minimum(RATIOS - 12, 0)

MAIN = pd.Series({"a0": 0.0614, "low": 0.051, "high": 0.067, "ratio": 48.0})
FIRST = next(iter(numbers.SHAPES.values()))


def write_run(run, limit, loss, seed=0, trajectory=True, steps=STEPS, speed=None):
    """A run whose activation ratio follows Eq. 4 to ``limit`` and whose loss falls to ``loss``, on shared batches."""
    path, own, shared = trends.LADDER / run.name, np.random.default_rng(seed), np.random.default_rng(99)
    path.mkdir(parents=True)
    tokens = steps * 1024
    record = {"finished": bool(steps[-1] == run.steps), "tokens": int(tokens[-1]), "tokens_per_second": speed}
    (path / "run.json").write_text(json.dumps(record))
    logged = np.arange(65_536, tokens[-1], 65_536)
    values = loss + 1.2 * (logged / 65_536) ** -0.7 + shared.normal(0, 0.03, 200)[: len(logged)]
    frame = pd.DataFrame({"tokens": logged, "loss": values + own.normal(0, 0.004, len(logged))})
    frame.to_csv(path / "training.csv", index=False)
    if trajectory:
        ratio = limit + np.exp(-3.0 - 0.5 * (tokens / 1e6) ** 0.9) + own.normal(0, 4e-4, len(tokens))
        table = pd.DataFrame({"step": steps, "tokens": tokens, "metric": trends.METRIC, "p_pct": 1.0, "value": ratio})
        pd.concat([table, table.assign(p_pct=5.0, value=0.9)]).to_csv(path / "trajectory.csv", index=False)


def truth(ratio):
    """Limits with a bottleneck at 12 and a level of 16 %; losses best between 2 and 20, worst at both ends."""
    limit = 0.16 + 0.004 * np.minimum(ratio - 12, 0)
    return limit, 3.2 + 0.15 * max(0, 2 - ratio) + 0.004 * max(0, ratio - 20)


@pytest.fixture(scope="module", autouse=True)
def full(tmp_path_factory):
    """All nine shapes and two more seeds of the usual one, in place of what is shipped."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trends, "LADDER", tmp_path_factory.mktemp("ladder"))
        for i, run in enumerate(numbers.SHAPES.values()):
            write_run(run, *truth(run.width / run.layers), seed=i, speed=60_000 / run.layers**0.8)
        for seed, shift in ((2, 0.002), (3, -0.002)):
            write_run(recipe.RUNS[f"0.1m-relu-seed{seed}"], 0.16 + shift, 3.2 + shift, seed=20 + seed)
        yield


@pytest.fixture(scope="module")
def measured(full):
    return tables()


def tables():
    table, seeds, points = numbers.shapes(), numbers.seed_errors(), numbers.trend()
    activation = numbers.sparsity(table, points, laws.posterior("relu", points), seeds)
    return table, activation, numbers.losses(table, numbers.loss(), seeds), seeds


# --- two segments ----------------------------------------------------------------------------------------------------


def test_exact_segments_come_back():
    found = bend.fit(RATIOS, TURNED, np.full(9, 1e-3))
    assert found.turn == pytest.approx(12, rel=0.01)
    assert [found.slope, found.level] == pytest.approx([0.4, 16], rel=0.01)
    assert found.turn_open == ""
    assert found.scatter == pytest.approx(0, abs=0.05)


@settings(max_examples=8)
@given(st.integers(0, 10_000))
def test_no_pair_of_segments_that_scipy_finds_fits_better(seed):
    rng = np.random.default_rng(seed)
    y, error = 16 + 0.4 * np.minimum(RATIOS - 8, 0) + rng.normal(0, 0.4, 9), rng.uniform(0.3, 0.6, 9)
    found = bend.fit(RATIOS, y, error, draws=20)
    size = np.hypot(error, found.scatter)

    def misfit(p):
        return (((y - p[2] - p[1] * np.minimum(RATIOS - p[0], 0)) / size) ** 2).sum()

    own = misfit([found.turn, found.slope, found.level])
    starts = [[turn, 0.3, 16] for turn in (2, 5, 9, 15, 25)]
    theirs = [optimize.minimize(misfit, start, method="Nelder-Mead", options={"maxiter": 4000}) for start in starts]
    inside = [r.fun for r in theirs if np.sort(RATIOS)[1] <= r.x[0] <= np.sort(RATIOS)[-2]]
    assert own <= min(inside, default=np.inf) * 1.01 + 1e-6


def test_scatter_is_added_until_chi_square_is_its_expectation():
    y = TURNED + np.random.default_rng(4).normal(0, 0.5, 9)
    found = bend.fit(RATIOS, y, np.full(9, 0.05), draws=20)
    chi_square = ((y - found.predict(RATIOS)) ** 2 / (0.05**2 + found.scatter**2)).sum()
    assert chi_square == pytest.approx(9 - 3, rel=1e-3)


def test_the_intervals_hold_the_truth_about_nine_times_in_ten():
    rng, hits = np.random.default_rng(11), []
    for _ in range(50):
        found = bend.fit(RATIOS, TURNED + rng.normal(0, 0.3, 9), np.full(9, 0.1), draws=200)
        hits.append(found.turn_interval[0] <= 12 <= found.turn_interval[1])
    # 50 draws at 90 %: fewer than 38 would happen once in a thousand; always inside would mean far too wide.
    assert sum(hits) >= 38
    assert np.ptp(found.turn_interval) < 12


def test_a_straight_rise_leaves_the_turn_open_above_and_a_flat_row_has_no_slope():
    noise, error = np.random.default_rng(0).normal(0, 0.2, 9), np.full(9, 0.2)
    assert bend.fit(RATIOS, 5 + 0.1 * RATIOS + noise, error).turn_open in ("high", "both")
    low, high = bend.fit(RATIOS, 16 + noise, error).slope_interval
    assert low < 0 < high


def test_a_turn_at_the_first_points_is_open_below_and_the_level_is_a_mean_of_the_rest():
    x, error = np.arange(1.0, 26), np.full(25, 0.2)
    y = 16 - 3 * (x < 2) + np.random.default_rng(0).normal(0, 0.2, 25)
    found = bend.fit(x, y, error)
    assert found.turn_open == "low"
    assert found.level_interval[0] < found.level < found.level_interval[1]
    assert np.ptp(found.level_interval) == pytest.approx(2 * 1.645 * 0.2 / np.sqrt(24), rel=0.25)


# --- shapes ----------------------------------------------------------------------------------------------------------


def test_nine_shapes_of_one_size():
    sizes = [numbers.parameters(w, n) for w, n, _ in recipe.SHAPES]
    assert len(numbers.SHAPES) == 9
    assert max(sizes) / min(sizes) < 1.05
    assert numbers.parameters(48, 4) == 4 * (4 * 48 * 48 + 3 * 48 * 120) == 105_984


def test_shapes_that_are_not_measured_to_their_end_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(trends, "LADDER", tmp_path)
    first, second, third, *rest = numbers.SHAPES.values()
    write_run(first, 0.15, 3.2, trajectory=False)
    write_run(second, 0.15, 3.2, steps=STEPS[:14])
    for run in rest:
        write_run(run, 0.15, 3.2)
    path = tmp_path / rest[-1].name / "trajectory.csv"
    rows = pd.read_csv(path)
    rows[rows.step < STEPS[-1]].to_csv(path, index=False)  # older than the run
    named = " ".join(run.name for run in (first, second, third, rest[-1]))
    with pytest.raises(ValueError, match=f"their end: {named}. Run python -m sparsinglib.ladder.train {named} and"):
        numbers.shapes()


def test_planted_limits_and_last_values_come_back(measured):
    activation = measured[1]
    for row in activation.itertuples():
        limit = 100 * truth(row.ratio)[0]
        if row.identified:
            assert row.low - 0.1 <= limit <= row.high + 0.1
        by_law = limit + 100 * np.exp(-3.0 - 0.5 * (STEPS[-5:] * 1024 / 1e6) ** 0.9).mean()
        assert row.last == pytest.approx(by_law, abs=0.08)
    assert activation.identified.sum() >= 6


def test_planted_bottleneck_comes_back_and_turns_the_verdict(measured):
    activation = measured[1]
    found = numbers.bends(activation)
    for b in found.values():
        assert b.turn_interval[0] - 1 <= 12 <= b.turn_interval[1] + 1
        assert b.level == pytest.approx(16.0, abs=0.5)
    table = numbers.bend_table(found).set_index("quantity")
    assert table.turn_layers["last"] == pytest.approx(numbers.layers_at(found["last"].turn))
    sharp = activation.assign(last=16 + 0.4 * np.minimum(activation.ratio - 12, 0), last_error=0.05)
    assert verdict(claims.rise(sharp), "C34") == Verdict.HOLDS
    assert verdict(claims.rise(sharp.assign(last=40 - sharp["last"])), "C34") == Verdict.FAILS


def test_a_rise_without_a_bottleneck_is_nearer_to_a_line(measured):
    by_line = 10 + 1.5 * np.log2(measured[1].ratio)
    straight = measured[1].assign(last=by_line, limit=by_line, last_error=0.05)
    found = numbers.bends(straight)
    _, two, line = numbers.beside_a_line(straight, found["last"])
    assert line < 1e-9 < two
    apart = (by_line - found["last"].predict(straight.ratio)) / straight.last_error
    assert two == pytest.approx((apart**2).sum() / (len(straight) - 3))
    assert verdict(claims.rise(straight), "C34") in (Verdict.FAILS, Verdict.INCONCLUSIVE)


def test_a_line_and_a_turn_are_told_apart():
    error, straight = np.full(9, 0.05), 10 + 1.5 * np.log2(RATIOS) + np.random.default_rng(3).normal(0, 0.05, 9)
    assert np.median(bend.ahead_of_line(RATIOS, straight, error, draws=200)) < -1
    assert np.quantile(bend.ahead_of_line(RATIOS, TURNED, error, draws=200), 0.05) > 0
    with pytest.raises(ValueError, match="5 points"):
        bend.ahead_of_line(RATIOS[:5], straight[:5], error[:5])


# --- loss ------------------------------------------------------------------------------------------------------------


def test_loss_reached_and_difference_by_hand(measured):
    rows = {name: pd.read_csv(trends.LADDER / name / "training.csv") for name in numbers.SHAPES}
    by_hand = {name: run.loss[run.tokens > 0.9 * 12_000_000].mean() for name, run in rows.items()}
    for row in measured[2].itertuples():
        assert row.reached == pytest.approx(by_hand[row.run])
        assert row.above == pytest.approx(by_hand[row.run] - min(by_hand.values()))
        assert row.seeds == 1 and row.above_low <= row.above <= row.above_high


def test_loss_verdicts_at_both_ends(measured):
    _, _, losses, seeds = measured
    rows = claims.best_range(losses, seeds)
    assert (verdict(rows, "C37"), verdict(rows, "C39")) == (Verdict.HOLDS, Verdict.HOLDS)
    flat = losses.assign(reached=3.2)
    assert {row.verdict for row in claims.best_range(flat, seeds) if row.evidence == "ladder"} == {Verdict.INCONCLUSIVE}
    falling = losses.assign(reached=3.2 - 0.05 * np.log2(losses.ratio))  # the widest is the best
    rows = claims.best_range(falling, seeds)
    assert (verdict(rows, "C37"), verdict(rows, "C39")) == (Verdict.FAILS, Verdict.HOLDS)


def test_seeds_of_a_shape_are_averaged_and_counted(measured, monkeypatch):
    again = replace(FIRST, name=f"{FIRST.name}-seed2", seed=2)
    monkeypatch.setitem(recipe.RUNS, again.name, again)
    usual = measured[3]["loss"]
    write_run(again, *truth(RATIOS[0]), seed=1)
    path = trends.LADDER / again.name / "training.csv"
    rows = pd.read_csv(trends.LADDER / FIRST.name / "training.csv")
    rows.assign(loss=rows.loss + 0.1).to_csv(path, index=False)
    seeds = numbers.seed_errors()
    losses = numbers.losses(measured[0], numbers.loss(), seeds)
    shutil.rmtree(path.parent)
    assert losses.seeds.tolist() == [2] + [1] * 8 and seeds["loss_freedom"] == 2
    assert seeds["loss"] == pytest.approx(np.sqrt((usual**2 + 0.1**2 / 2) / 2))
    assert losses.error.tolist()[:2] == pytest.approx([seeds["loss"] / np.sqrt(2), seeds["loss"]])


def test_the_other_seeds_widen_the_intervals(measured):
    table, _, _, seeds = measured
    by_hand = [0.162, 0.158]  # the planted limits of the two seeds; what is above them is the same in both
    assert seeds["ratio"] == pytest.approx(np.std(by_hand, ddof=1), rel=0.3) and seeds["ratio_freedom"] == 1
    points = numbers.trend()
    one = points[points.run == points.run.iloc[0]]
    model = laws.posterior("relu", one)
    plain, with_seeds = (numbers.sparsity(table, one, model, e).iloc[0] for e in ({"ratio": 0.0}, seeds))
    wider = (plain.limit - plain.low) ** 2 + (1.645 * 100 * seeds["ratio"]) ** 2
    assert (with_seeds.limit - with_seeds.low) ** 2 == pytest.approx(wider, rel=1e-3)
    assert with_seeds.last_error**2 == pytest.approx(plain.last_error**2 + (100 * seeds["ratio"]) ** 2)


# --- paper -----------------------------------------------------------------------------------------------------------


def test_thirteen_configured_shapes_by_hand():
    shapes = numbers.paper_shapes().set_index("hidden_size")
    assert len(shapes) == 13
    # q, k, v, o are d × d; gate, up, down d × 2.5 d
    assert shapes.params[1024] == pytest.approx(9 * (4 * 1024**2 + 3 * 1024 * 2560) / 1e6)
    assert shapes.in_figures.value_counts().to_dict() == {"not said": 9, "named in the text": 3, "beyond the axis": 1}
    assert shapes.index[shapes.in_figures == "named in the text"].tolist() == [896, 1024, 1408]
    assert shapes.times_usual[1024] == pytest.approx(113.78 / 48, rel=1e-3)
    assert (shapes.ratio.round(2) == paper.read("width_depth_architectures").width_depth_ratio.to_numpy()).all()


def test_translations_by_hand():
    table = numbers.translation().set_index(["quantity", "reading"])
    ratio, layers = table.ratio, table.layers
    assert ratio["bottleneck", "same ratio"] == 114
    assert ratio["bottleneck", "same multiple of the usual ratio"] == pytest.approx(114 / 48 * 12)
    # 1024 × 9 has ratio 113.8; nine layers of the ladder's size are 32 wide.
    assert ratio["bottleneck", "same number of layers"] == pytest.approx(32 / 9, rel=0.01)
    assert layers["best, lower end", "same number of layers"] == pytest.approx(12, rel=0.02)
    assert layers["best, upper end", "same multiple of the usual ratio"] / 4 == pytest.approx(5 / 16, rel=0.02)


def test_cost_grows_with_layers_by_the_planted_power(measured):
    costs = numbers.costs(measured[0])
    (row,) = claims.cost(costs)
    assert row.verdict == Verdict.HOLDS and "0.800" in row.our_value
    by_hand = 6 * (105_984 + 2048 * 48) + 12 * 4 * 256 * 48
    assert costs.set_index("shape").mflop["48×4"] == pytest.approx(by_hand / 1e6)
    assert claims.cost(costs.assign(seconds=100 / costs.layers))[0].verdict == Verdict.FAILS


# --- pictures --------------------------------------------------------------------------------------------------------


def test_the_figures_say_what_is_not_published(measured):
    _, activation, losses, _ = measured
    assert any("not published" in text.get_text() for text in figure_5(activation).axes[0].texts)
    assert "not published" in figures.figure_6(losses, 0.03).note


def figure_5(activation):
    return figures.figure_5(activation, numbers.bends(activation)["last"], MAIN)


def test_the_misfits_of_both_curves_are_named(measured):
    activation = measured[1]
    for name, value in (("bend", np.minimum(activation.ratio, 10)), ("line", np.log2(activation.ratio))):
        drawn = activation.assign(last=5 + value, last_low=4.9 + value, last_high=5.1 + value, last_error=0.06)
        figure = figure_5(drawn)
        found = re.search(r"misfits: (\S+) for a line in log\(ratio\), (\S+) for rise-then-level", figure.message)
        line, bend = map(float, found.groups())
        assert (line < 1 < bend) if name == "line" else (bend < 1 < line)
        assert len(re.findall(r"misfit \d", " ".join(figure.axes[1].get_legend_handles_labels()[1]))) == 2


def test_a_limit_that_the_points_do_not_fix_is_not_drawn(measured):
    activation = measured[1]
    for count in (0, len(activation)):
        panel = figure_5(activation.assign(identified=np.arange(len(activation)) < count)).axes[1]
        bars = [bar for bar in panel.containers if bar.get_label() == "limit, where fixed"]
        assert sum(len(bar.lines[0].get_xdata()) for bar in bars) == count


def test_whatever_is_shipped_can_be_read(monkeypatch):
    monkeypatch.setattr(trends, "LADDER", LADDER)
    table, activation, losses, _ = tables()
    assert len(table) == len(activation) == 9
    assert activation["last"].between(0, 100).all() and (losses.reached > 0).all()
