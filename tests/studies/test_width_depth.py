"""Width and depth on synthetic runs with a known bottleneck, hand-computed translations, and whatever is shipped."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from sparsinglib import paper
from sparsinglib.ladder import recipe as ladder
from sparsinglib.laws import two_segments as bend
from sparsinglib.paper import style
from sparsinglib.studies.scaling import (
    limits as law_tables,
)
from sparsinglib.studies.scaling import (
    scale_claims as scale_checks,
)
from sparsinglib.studies.scaling import (
    scales as scaling_tables,
)
from sparsinglib.studies.scaling import (
    trends,
)
from sparsinglib.studies.width_depth import (
    bends as width_depth_bends,
)
from sparsinglib.studies.width_depth import (
    claims as width_depth_checks,
)
from sparsinglib.studies.width_depth import (
    figures as width_depth_figures,
)
from sparsinglib.studies.width_depth import (
    numbers as width_depth,
)

STEPS = [244, 308, 388, 488, 615, 775, 977, 1230, 1550, 1953, 2461, 3100, 3906, 4922, 6201, 7812, 9843]
STEPS = np.array([*STEPS, 10312, 10663, 11015, 11366, 11718])
RATIOS = np.array([w / n for w, n, _ in ladder.SHAPES])

MAIN = pd.Series({"a0": 0.0614, "low": 0.051, "high": 0.067, "ratio": 48.0})


def write_run(folder, run, limit, loss, seed=0, noise=4e-4, trajectory=True, steps=STEPS, speed=None):
    """A run whose activation ratio follows Eq. 4 to ``limit`` and whose loss falls to ``loss``, on shared batches."""
    path, own, shared = folder / run.name, np.random.default_rng(seed), np.random.default_rng(99)
    path.mkdir(parents=True)
    tokens = steps * 1024
    record = {"finished": bool(steps[-1] == run.steps), "tokens": int(tokens[-1]), "tokens_per_second": speed}
    (path / "run.json").write_text(json.dumps(record))
    logged = np.arange(65_536, tokens[-1], 65_536)
    values = loss + 1.2 * (logged / 65_536) ** -0.7 + shared.normal(0, 0.03, 200)[: len(logged)]
    values += own.normal(0, 0.004, len(logged))
    frame = pd.DataFrame({"run": run.name, "step": logged // 1024, "tokens": logged, "loss": values})
    frame.assign(loss_smoothed=values).to_csv(path / "training.csv", index=False)
    if trajectory:
        ratio = limit + np.exp(-3.0 - 0.5 * (tokens / 1e6) ** 0.9) + own.normal(0, noise, len(tokens))
        rows = {"run": run.name, "step": steps, "tokens": tokens, "metric": width_depth.METRIC, "p_pct": 1.0}
        table = pd.DataFrame({**rows, "value": ratio})
        pd.concat([table, table.assign(p_pct=5.0, value=0.9)]).to_csv(path / "trajectory.csv", index=False)


def truth(ratio):
    """Limits with a bottleneck at 12 and a level of 16 %; losses best between 2 and 20, worst at both ends."""
    limit = 0.16 + 0.004 * np.minimum(ratio - 12, 0)
    return limit, 3.2 + 0.15 * max(0, 2 - ratio) + 0.004 * max(0, ratio - 20)


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """All nine shapes and two more seeds of the usual one."""
    folder = tmp_path_factory.mktemp("ladder")
    for i, run in enumerate(width_depth.SHAPES.values()):
        write_run(folder, run, *truth(run.width / run.layers), seed=i, speed=60_000 / run.layers**0.8)
    for seed, shift in ((2, 0.002), (3, -0.002)):
        write_run(folder, ladder.RUNS[f"0.1m-relu-seed{seed}"], 0.16 + shift, 3.2 + shift, seed=20 + seed)
    return folder


def tables(folder):
    table = width_depth.shapes(folder)
    points = width_depth.trend(table, folder)
    fits = law_tables.fit_runs(points)
    activation = width_depth.sparsity(table, points, fits)
    return table, activation, width_depth.losses(table, width_depth.loss(table, folder))


@pytest.fixture(scope="module")
def measured(full):
    return tables(full)


# --- two segments ----------------------------------------------------------------------------------------------------


def test_exact_segments_come_back():
    y = 16 + 0.4 * np.minimum(RATIOS - 12.0, 0)
    found = bend.fit(RATIOS, y, np.full(9, 1e-3))
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
    y = 16 + 0.4 * np.minimum(RATIOS - 12, 0) + np.random.default_rng(4).normal(0, 0.5, 9)
    found = bend.fit(RATIOS, y, np.full(9, 0.05), draws=20)
    chi_square = ((y - found.predict(RATIOS)) ** 2 / (0.05**2 + found.scatter**2)).sum()
    assert chi_square == pytest.approx(9 - 3, rel=1e-3)


def test_the_intervals_hold_the_truth_about_nine_times_in_ten():
    rng, hits = np.random.default_rng(11), []
    for _ in range(50):
        y = 16 + 0.4 * np.minimum(RATIOS - 12, 0) + rng.normal(0, 0.3, 9)
        found = bend.fit(RATIOS, y, np.full(9, 0.1), draws=200)
        hits.append(found.turn_interval[0] <= 12 <= found.turn_interval[1])
    # 50 draws at 90 %: fewer than 38 would happen once in a thousand; always inside would mean far too wide.
    assert sum(hits) >= 38
    assert np.ptp(found.turn_interval) < 12


def test_a_straight_rise_leaves_the_turn_open_above():
    y = 5 + 0.1 * RATIOS + np.random.default_rng(0).normal(0, 0.2, 9)
    assert bend.fit(RATIOS, y, np.full(9, 0.2)).turn_open in ("high", "both")


def test_a_flat_row_has_no_slope():
    y = 16 + np.random.default_rng(0).normal(0, 0.2, 9)
    low, high = bend.fit(RATIOS, y, np.full(9, 0.2)).slope_interval
    assert low < 0 < high


@pytest.mark.parametrize(
    ("x", "y", "error", "message"),
    [
        (RATIOS[:5], np.ones(5), np.ones(5), "5 points.*needs 6"),
        (RATIOS, np.full(9, np.nan), np.ones(9), "finite"),
        (RATIOS, np.ones(9), np.zeros(9), "positive"),
        (np.ones(9), np.ones(9), np.ones(9), "twice"),
    ],
)
def test_bad_points_are_one_clear_error(x, y, error, message):
    with pytest.raises(ValueError, match=message):
        bend.fit(x, y, error)


# --- shapes ----------------------------------------------------------------------------------------------------------


def test_nine_shapes_of_one_size():
    sizes = [width_depth.parameters(w, n) for w, n, _ in ladder.SHAPES]
    assert len(width_depth.SHAPES) == 9
    assert max(sizes) / min(sizes) < 1.05
    assert width_depth.parameters(48, 4) == 4 * (4 * 48 * 48 + 3 * 48 * 120) == 105_984


def test_no_run_at_all_is_a_sentence_and_empty_tables(tmp_path):
    table, activation, losses = tables(tmp_path)
    assert "0 of 9 shapes measured" in width_depth.missing(table)
    assert activation.empty and losses.empty
    assert width_depth_bends.bends(activation) == {}
    assert width_depth.costs(table, tmp_path).empty
    checks = width_depth_checks.bend_checks(activation, {}, MAIN) + width_depth_checks.loss_checks(
        table, losses, activation
    )
    assert {(check.evidence, check.verdict) for check in checks} == {("paper", None), ("ladder", paper.NOT_YET)}


def test_another_suite_leaves_the_paper_alone(tmp_path):
    (tmp_path / "sparsing-law-0.1b-relu").mkdir()
    table = width_depth.shapes(suite=str(tmp_path))
    assert set(table.state) == {"not trained yet"} and width_depth.costs(table).empty
    said = width_depth.missing(table)
    assert "no models of other shapes" in said and "\n" not in said
    checks = trends.told(width_depth_checks.count_checks(table), str(tmp_path))
    assert [check.evidence for check in checks] == ["paper"]


def test_every_state_is_named(tmp_path):
    runs = list(width_depth.SHAPES.values())
    write_run(tmp_path, runs[0], 0.15, 3.2)
    write_run(tmp_path, runs[1], 0.15, 3.2, trajectory=False)
    write_run(tmp_path, runs[2], 0.15, 3.2, steps=STEPS[:14])
    states = width_depth.shapes(tmp_path).set_index("run").state
    expected = ["measured", "not measured yet", "still in training", "not trained yet"]
    assert states[[run.name for run in runs[:4]]].tolist() == expected
    said = width_depth.missing(width_depth.shapes(tmp_path))
    assert said.startswith("ladder: 1 of 9 shapes measured; ")
    for run, state in zip(runs[1:3], expected[1:], strict=False):
        assert f"{run.width}×{run.layers} {state}" in said


def test_a_trajectory_older_than_the_run_is_not_measured(tmp_path):
    run = next(iter(width_depth.SHAPES.values()))
    write_run(tmp_path, run, 0.15, 3.2)
    path = tmp_path / run.name / "trajectory.csv"
    rows = pd.read_csv(path)
    rows[rows.step < STEPS[-1]].to_csv(path, index=False)
    assert "measured" not in width_depth.shapes(tmp_path).state.tolist()


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
    found = width_depth_bends.bends(measured[1])
    for b in found.values():
        assert b.turn_interval[0] - 1 <= 12 <= b.turn_interval[1] + 1
        assert b.level == pytest.approx(16.0, abs=0.5)
    verdicts = {
        c.id: c.verdict for c in width_depth_checks.bend_checks(measured[1], found, MAIN) if c.evidence == "ladder"
    }
    assert verdicts == {"C34": True, "C35": True}
    flipped = measured[1].assign(last=40 - measured[1]["last"], limit=40 - measured[1].limit)
    checks = width_depth_checks.bend_checks(flipped, width_depth_bends.bends(flipped), MAIN)
    assert False in {c.verdict for c in checks if c.id == "C34"}


def test_a_rise_without_a_bottleneck_leaves_the_claim_open(measured):
    by_line = 10 + 1.5 * np.log2(measured[1].ratio)
    straight = measured[1].assign(last=by_line, limit=by_line)
    found = width_depth_bends.bends(straight)
    two, line = width_depth_bends.misfit(straight, found, "last")
    assert line < 1e-9 < two
    apart = (by_line - found["last"].predict(straight.ratio)) / np.hypot(straight.last_error, found["last"].scatter)
    assert two == pytest.approx((apart**2).sum() / (len(straight) - 3))
    rows = width_depth_checks.bend_checks(straight, found, MAIN)
    assert {c.verdict for c in rows if c.id == "C34"} == {None}


def test_a_level_that_still_rises_fails(measured):
    rising = measured[1].assign(last=measured[1]["last"] + 0.5 * np.log2(measured[1].ratio))
    rising = rising.assign(last_low=rising["last"] - 0.1, last_high=rising["last"] + 0.1)
    b = bend.Bend(8.0, (6.0, 10.0), "", 0.4, (0.3, 0.5), 16.0, (15.0, 17.0), 0.0, 9)
    checks = width_depth_checks.bend_checks(rising, {"last": b}, MAIN)
    assert next(c for c in checks if c.id == "C35" and "12M" in c.our_value).verdict is False


# --- loss ------------------------------------------------------------------------------------------------------------


def test_loss_reached_and_paired_difference_by_hand(full, measured):
    by_hand = {}
    for name in width_depth.SHAPES:
        rows = pd.read_csv(full / name / "training.csv")
        by_hand[name] = rows.loss[rows.tokens > 0.9 * 12_000_000]
    best = min(by_hand, key=lambda name: by_hand[name].mean())
    for row in measured[2].itertuples():
        apart = by_hand[row.run].to_numpy() - by_hand[best].to_numpy()
        assert row.reached == pytest.approx(by_hand[row.run].mean())
        assert row.above == pytest.approx(apart.mean())
        if row.run != best:
            assert row.above_high - row.above_low < (row.reached_high - row.reached_low) / 2, "pairing pays"


def test_best_interval_and_loss_verdicts(measured):
    table, activation, losses = measured
    low, high = width_depth_checks.best_interval(losses)
    assert (low, high) == (pytest.approx(28 / 12), pytest.approx(56 / 3))
    checks = {c.id: c for c in width_depth_checks.loss_checks(table, losses, activation) if c.evidence == "ladder"}
    assert [checks[name].verdict for name in ("C37", "C38", "C39")] == [True, True, True]
    flat = losses.assign(above=0.0, above_low=-0.001, above_high=0.001)
    level = {c.id: c.verdict for c in width_depth_checks.loss_checks(table, flat, activation) if c.evidence == "ladder"}
    assert level == {"C37": False, "C38": None, "C39": False}  # the widest shape there is, is inside
    unsure = losses.assign(above_high=np.where(losses.above > 0, losses.above + 1, losses.above_high), above_low=-1)
    told = {
        c.id: c.verdict for c in width_depth_checks.loss_checks(table, unsure, activation) if c.evidence == "ladder"
    }
    assert told == {"C37": None, "C38": None, "C39": None}  # one shape inside, all others not told apart from it
    few = {c.verdict for c in width_depth_checks.loss_checks(table, losses.iloc[:4], activation)}
    assert few == {None, paper.NOT_YET}


def test_the_other_seeds_widen_the_intervals(full, measured):
    seeds = width_depth.seed_errors(full)
    by_hand = [0.162, 0.158]  # the planted limits of the two seeds; what is above them is the same in both
    assert seeds["seeds"] == 2 and seeds["millions"] == pytest.approx(11.999232)
    factor = 6.3138 / 1.6449  # Student's t with one degree of freedom over the normal quantile
    assert seeds["ratio"] == pytest.approx(np.std(by_hand, ddof=1) * factor, rel=0.3)
    table, points = measured[0], width_depth.trend(measured[0], full)
    fits = law_tables.fit_runs(points[points.run == points.run.iloc[0]])
    one = points[points.run == points.run.iloc[0]]
    plain, with_seeds = (width_depth.sparsity(table, one, fits, e).iloc[0] for e in (np.nan, seeds["ratio"]))
    wider = (plain.limit - plain.low) ** 2 + (1.6449 * 100 * seeds["ratio"]) ** 2
    assert (with_seeds.limit - with_seeds.low) ** 2 == pytest.approx(wider, rel=1e-3)
    assert with_seeds.last_error**2 == pytest.approx(plain.last_error**2 + (100 * seeds["ratio"]) ** 2)
    rows = width_depth.loss(table, full)
    wide = width_depth.losses(table, rows, seeds["loss"])
    assert (wide.above_high - wide.above_low).max() > (measured[2].above_high - measured[2].above_low).max()


def test_one_seed_gives_no_spread(tmp_path):
    write_run(tmp_path, ladder.RUNS["0.1m-relu-seed2"], 0.16, 3.2)
    assert np.isnan(width_depth.seed_errors(tmp_path)["ratio"])


# --- the spread between seeds against the dependence on scale --------------------------------------------------------


def scale_limits(spread, seeds=(0.0, 0.004, -0.004)):
    """Limits of five ladder scales, ``spread`` from first to last, the smallest with several seeds."""
    rows = [("0.1M", seed + 1, 0.16 + shift) for seed, shift in enumerate(seeds)]
    rows += [(f"{rung}M", 1, 0.16 + spread * i / 4) for i, rung in enumerate(("0.2", "0.4", "0.8", "1.2"), 1)]
    table = pd.DataFrame(rows, columns=["scale", "seed", "a0"])
    table = table.assign(run=table.scale.str.lower() + "-relu", evidence="ladder", activation="relu")
    return table.assign(low=table.a0 - 1e-3, high=table.a0 + 1e-3, identified=True)


def weak_dependence(limits):
    params = pd.Series({"0.1M": 1e5, "0.2M": 2e5, "0.4M": 4e5, "0.8M": 8e5, "1.2M": 1.2e6})
    return scale_checks.scale_checks(limits, params)


def test_chance_range_is_tukeys():
    wide, deviation, seeds = scaling_tables.chance_range(scale_limits(0.02))
    assert deviation == pytest.approx(0.004) and seeds == 3
    assert wide == pytest.approx(10.881 * 0.004, rel=0.01)  # tables of the studentized range: q(0.95; 5 groups, 2 df)
    assert np.isnan(scaling_tables.chance_range(scale_limits(0.02, seeds=(0.0,)))[0])


@pytest.mark.parametrize(
    ("spread", "seeds", "verdict"),
    [
        (0.02, (0.0,), True),
        (0.035, (0.0,), False),
        (0.035, (0.0, 0.004, -0.004), None),
        (0.06, (0.0, 0.004, -0.004), False),
        (0.035, (0.0, 0.0004, -0.0004), False),
    ],
)
def test_a_wide_span_counts_only_beyond_the_seeds(spread, seeds, verdict):
    check = weak_dependence(scale_limits(spread, seeds))[0]
    assert check.id == "C41" and check.verdict is verdict
    assert ("No scale has two fixed limits" in check.why) == (len(seeds) == 1)


def test_spread_between_seeds_of_where_runs_end():
    rows = [("0.1m-relu", 1, [0.9, 0.2, 0.2, 0.2, 0.2, 0.2]), ("0.1m-relu-seed2", 2, [0.9, 0.1, 0.2, 0.3, 0.2, 0.2])]
    rows += [("0.1m-relu-seed3", 3, [0.9, 0.26, 0.26, 0.26, 0.26, 0.26]), ("0.4m-relu", 1, [0.5] * 6)]
    trend = pd.DataFrame(
        [(run, seed, i + 1, a) for run, seed, ratios in rows for i, a in enumerate(ratios)],
        columns=["run", "seed", "tokens", "activation_ratio"],
    ).assign(evidence="ladder", scale=lambda t: t.run.str[:4].str.upper(), activation="relu")
    spread = scaling_tables.seed_spread(scaling_tables.reached(trend), "reached")
    assert spread.scale.tolist() == ["0.1M"] and spread.seeds.tolist() == [3]
    assert spread["mean"].item() == pytest.approx(0.22) and spread.range.item() == pytest.approx(0.06)
    assert spread.standard_deviation.item() == pytest.approx(0.03464, abs=1e-4)


def test_seeds_widen_the_interval_of_the_change_with_scale():
    def half(limits):
        return float(weak_dependence(limits)[-1].our_value.split(" to ")[1].split(")")[0])

    alone, with_seeds = half(scale_limits(0.02, (0.0,))), half(scale_limits(0.02))
    assert alone == pytest.approx(2 + 0.1 * np.sqrt(2), abs=0.006)
    assert with_seeds == pytest.approx(2 + np.hypot(0.1 * np.sqrt(2), 1.645 * np.sqrt(2) * 0.4), abs=0.006)


# --- paper -----------------------------------------------------------------------------------------------------------


def test_thirteen_configured_shapes_by_hand():
    shapes = width_depth.paper_shapes().set_index("hidden_size")
    assert len(shapes) == 13
    # q, k, v, o are d × d; gate, up, down d × 2.5 d
    assert shapes.params[1024] == pytest.approx(9 * (4 * 1024**2 + 3 * 1024 * 2560) / 1e6)
    assert shapes.in_figures.value_counts().to_dict() == {"not said": 9, "named in the text": 3, "beyond the axis": 1}
    assert shapes.index[shapes.in_figures == "named in the text"].tolist() == [896, 1024, 1408]
    assert shapes.times_usual[1024] == pytest.approx(113.78 / 48, rel=1e-3)
    assert (shapes.ratio.round(2) == paper.read("width_depth_architectures").width_depth_ratio.to_numpy()).all()


def test_translations_by_hand():
    table = width_depth.translation().set_index(["quantity", "reading"]).ratio
    assert table["bottleneck", "same ratio"] == 114
    assert table["bottleneck", "same multiple of the usual ratio"] == pytest.approx(114 / 48 * 12)
    # 1024 × 9 has ratio 113.8; nine layers of the ladder's size are 32 wide.
    assert table["bottleneck", "same number of layers"] == pytest.approx(32 / 9, rel=0.01)
    rows = width_depth.translation().set_index(["quantity", "reading"]).layers
    assert rows["best, lower end", "same number of layers"] == pytest.approx(12, rel=0.02)
    assert rows["best, upper end", "same multiple of the usual ratio"] / 4 == pytest.approx(5 / 16, rel=0.02)


def test_readings_compare_with_our_brackets(measured):
    table = width_depth_checks.readings(width_depth_bends.bends(measured[1]), measured[2])
    row = table[(table.quantity == "best, lower end")].set_index("reading").loc["same ratio"]
    assert (row.low, row.high) == (pytest.approx(1.5), pytest.approx(28 / 12))
    assert row.inside == "no"
    empty = width_depth_checks.readings({}, measured[2].iloc[:0])
    assert set(empty.inside) == {"open"}


def test_cost_grows_with_layers_by_the_planted_power(full, measured):
    check = width_depth_checks.cost_check(width_depth.costs(measured[0], full))[0]
    assert check.verdict is True
    assert f"{2**0.8:.2f} (" in check.our_value
    costs = width_depth.costs(measured[0], full).set_index("shape")
    by_hand = 6 * (105_984 + 2048 * 48) + 12 * 4 * 256 * 48
    assert costs.mflop["48×4"] == pytest.approx(by_hand / 1e6)
    quick = width_depth.costs(measured[0], full).assign(seconds=lambda t: 100 / t.layers)
    assert width_depth_checks.cost_check(quick)[0].verdict is False


def test_recipe_needs_all_three_parts(measured):
    _, activation, losses = measured
    millions = np.arange(1.0, 13)
    runs = {"0.1m-relu": 0.3 - 0.01 * millions, "0.1m-silu": 0.4 + 0.001 * millions}
    frames = [
        pd.DataFrame({"evidence": "ladder", "run": run, "scale": "0.1M", "activation": run[-4:], "seed": 1,
                      "tokens": 1e6 * millions, "activation_ratio": y})
        for run, y in runs.items()
    ]  # fmt: skip
    trend = pd.concat(frames)
    checks = {c.evidence: c for c in width_depth_checks.recipe_checks(trend, losses, activation)}
    assert checks["ladder"].verdict is True and checks["paper"].verdict is None
    rising = trend.assign(activation_ratio=1 - trend.activation_ratio)
    check = width_depth_checks.recipe_checks(rising, losses, activation)[1]
    assert check.verdict is False and "Wrong way: 0.1m-relu" in check.why


def test_the_number_of_our_shapes_tests_nothing(measured):
    assert {check.verdict for check in width_depth_checks.count_checks(measured[0])} == {None}


# --- pictures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shapes", [0, 1, 9])
def test_figures_can_be_drawn_with_any_number_of_shapes(measured, tmp_path, shapes):
    table, activation, losses = (measured[0], *(frame.iloc[:shapes] for frame in measured[1:]))
    five = figure_5(table, activation)
    six = width_depth_figures.figure_6(table, losses, 0.03)
    for name, figure in (("five", five), ("six", six)):
        style.save(figure, name, table, tmp_path)
        assert (tmp_path / f"{name}.png").stat().st_size > 10_000
    assert any("not published" in text.get_text() for text in five.axes[0].texts)


def figure_5(table, activation):
    found = width_depth_bends.bends(activation)
    misfits = {name: width_depth_bends.misfit(activation, found, name) for name in found}
    return width_depth_figures.figure_5(table, activation, found, misfits, MAIN)


def test_the_better_of_two_curves_is_named_with_both_misfits(measured):
    table, activation, _ = measured
    for name, value in (("bend", np.minimum(activation.ratio, 10)), ("line", np.log2(activation.ratio))):
        drawn = activation.assign(last=5 + value, last_low=4.9 + value, last_high=5.1 + value, last_error=0.06)
        figure = figure_5(table, drawn)
        assert ("fits no worse than" if name == "line" else "fits worse than") in figure.message
        assert len(re.findall(r"misfit \d", " ".join(figure.axes[1].get_legend_handles_labels()[1]))) == 2


def test_a_limit_that_the_points_do_not_fix_is_not_drawn(measured):
    table, activation, _ = measured
    for count in (0, len(activation)):
        panel = figure_5(table, activation.assign(identified=np.arange(len(activation)) < count)).axes[1]
        bars = [bar for bar in panel.containers if bar.get_label() == "limit, where fixed"]
        assert sum(len(bar.lines[0].get_xdata()) for bar in bars) == count


def test_whatever_is_shipped_can_be_read():
    table, activation, losses = tables(width_depth.LADDER)
    assert len(table) == 9
    assert len(activation) == (table.state == "measured").sum()
    assert activation["last"].between(0, 100).all() and (losses.reached > 0).all()
