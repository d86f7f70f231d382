"""The numbers, tables and verdicts of the trade-off against cases solved by hand."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import sparsinglib as sl
from sparsinglib import suites
from sparsinglib.studies.tradeoff import claims, figures, numbers
from sparsinglib.studies.tradeoff.sweep import CETT, HIGHEST, ZEROS, Tradeoff

BLOCKS = 40
MOST = 0.5  # activation ratio with every nonzero neuron active
RATIO = np.array([0.02, 0.05, 0.1, 0.2, 0.4])
CHECKPOINT = suites.Checkpoint("made", "made", "0.4M", "relu")
FOUND = sl.Thresholds((0.1,), 0.1, 1.01, 0.001, 0.2, activation_interval=(0.15, 0.25))
MATRIX = ["checkpoint", "found_on", "judged_on", "ppl_ratio", "ppl_ratio_se", "activation_ratio"]


def made(rises: dict[str, np.ndarray], noise=None) -> Tradeoff:
    """A trade-off with given log(perplexity ratio) at RATIO for each rule, the same in every block plus noise.

    Points lie as a sweep gives them: the activation ratio falls.
    """
    counts = np.full(BLOCKS, 32.0)
    rows, sums = [{"rule": ZEROS, "activation_ratio": MOST, "parameter": 0.0}], [np.zeros(BLOCKS)]
    for rule, values in rises.items():
        for a, value in zip(RATIO[::-1], values[::-1], strict=True):
            rows.append({"rule": rule, "activation_ratio": a, "parameter": 1 - a})
            sums.append((value + (noise or {}).get(rule, np.zeros(BLOCKS))) * counts)
    mean = np.array([s.sum() / counts.sum() for s in sums])
    points = pd.DataFrame(rows).assign(checkpoint="made", dense_ppl=20.0, ppl=20 * np.exp(mean), ppl_ratio=np.exp(mean))
    points = points.assign(ppl_ratio_se=0.01, kl=np.where(points.rule == CETT, mean, np.nan), kl_se=0.001)
    falls = pd.DataFrame({"layer": [0, 1], "steps": [39, 39], "wrong": [0, 2], "largest_fall": [0.0, 0.02]})
    falls = falls.assign(fall_error=[0.0, 0.001])
    return Tradeoff(CHECKPOINT, points, np.stack(sums), counts, falls, FOUND)


def line(slope):
    """A rise that is a straight line in log(activation ratio): every number about it can be worked out by hand."""
    return slope * np.log(MOST / RATIO)


@given(st.floats(0.1, 2), st.floats(0.5, 20))
def test_the_activation_ratio_needed_against_a_curve_solved_by_hand(slope, pct):
    target = math.log1p(pct / 100)
    expected = MOST * math.exp(-target / slope)
    assert numbers.resampled_curves(made({CETT: line(slope)}))[0][CETT].needed(target) == pytest.approx(
        expected if expected > RATIO[0] else math.nan, rel=1e-6, nan_ok=True
    )


def test_what_a_curve_does_not_reach_is_not_guessed():
    needed = numbers.needed([made({CETT: line(0.02), "Top-k": line(0.3)})]).set_index(["rule", "rise_pct"])
    assert needed.index.tolist() == [(rule, p) for rule in (CETT, "Top-k") for p in (1, 5, 10)]
    by_hand = [MOST * math.exp(-math.log1p(p / 100) / 0.02) for p in (1, 5)]
    assert needed.activation_ratio[CETT].tolist() == pytest.approx([*by_hand, math.nan], rel=1e-6, nan_ok=True)
    assert math.isnan(needed.low[CETT, 10])  # at 0.4 %, below the last point
    assert needed.activation_ratio["Top-k", 10] == pytest.approx(MOST * 1.1 ** (-1 / 0.3), rel=5e-3)


def test_a_dip_in_a_curve_does_not_count_as_reached():
    # Above 5 % at 0.2, below it again at 0.1: the rule is only safe from above 0.2 on.
    t = made({CETT: np.array([0.5, 0.2, 0.01, 0.08, 0.01])})
    assert 0.2 < numbers.resampled_curves(t)[0][CETT].needed(math.log(1.05)) < 0.4


def test_needed_from_recorded_points():
    points = pd.DataFrame({"rule": ["A"] * 4 + ["B"] * 2, "activation_ratio": [0.1, 0.2, 0.5, 1.0, 0.3, 0.6],
                           "ppl_ratio": [2.0, 1.5, 1.21, 1.0, 1.05, 1.01]})  # fmt: skip
    found = numbers.recorded(points, 21).set_index("rule").iloc[:, 0]
    assert found["A"] == pytest.approx(50, abs=0.2)
    assert np.isnan(found["B"])  # it was not pushed so far
    assert 20 < numbers.recorded(points, 30).iloc[0, 1] < 50


@given(st.floats(0.1, 1), st.floats(0.1, 1))
def test_the_mean_between_two_curves_against_the_integral(a, b):
    (row,) = numbers.advantage([made({CETT: line(a), "Top-k": line(b)})]).itertuples()
    low = max(RATIO[0], MOST * math.exp(-math.log(HIGHEST) / max(a, b)))
    area = (b - a) * (MOST - low - low * math.log(MOST / low))
    assert row.from_activation == pytest.approx(low, rel=1e-6)
    assert row.mean == pytest.approx(area / (MOST - low), rel=4e-3, abs=1e-9)
    assert (row.low, row.high) == pytest.approx((row.mean, row.mean), abs=1e-9)  # no noise, no width


def test_noise_that_both_rules_share_leaves_their_difference_sure():
    shared, own = np.random.default_rng(1).normal(0, 0.1, (2, BLOCKS))
    rises = {CETT: line(0.3), "Top-k": line(0.4)}
    paired, unpaired = (
        next(numbers.advantage([made(rises, {CETT: shared, "Top-k": other})]).itertuples()) for other in (shared, own)
    )
    assert paired.high - paired.low < 0.2 * (unpaired.high - unpaired.low)
    assert unpaired.low < unpaired.mean < unpaired.high


def test_where_the_other_rule_is_ahead_is_found():
    bend = line(0.4) - np.array([0, 0, 0, 0.2, 0])
    noise = {"Top-k": np.random.default_rng(2).normal(0, 0.02, BLOCKS)}
    (row,) = numbers.advantage([made({CETT: line(0.3), "Top-k": bend}, noise)]).itertuples()
    assert row.least_z < -3
    assert row.least_at == pytest.approx(0.2, rel=0.3)
    assert row.least_pct == pytest.approx(100 * math.expm1(0.1 * math.log(MOST / 0.2) - 0.2), rel=0.3)


def violations(t):
    return numbers.violations([t]).set_index("curve")


def test_violations_of_monotonicity_by_hand():
    # From dense on, as CETT grows: 0, 0.5, 0.3, 0.35, 0.1, 0: three of five steps fall, the largest by 0.25.
    wild = violations(made({CETT: np.array([0.0, 0.1, 0.35, 0.3, 0.5])}))
    assert wild.loc["perplexity", ["steps", "wrong"]].tolist() == [5, 3]
    assert wild.loc["perplexity", ["worst", "worst_error"]].tolist() == pytest.approx([0.25, 0], abs=1e-9)
    assert wild.loc["CETT", ["steps", "wrong", "worst", "worst_error"]].tolist() == [78, 2, 0.02, 0.001]
    clean = made({CETT: line(0.3)})
    none = violations(clean).loc[["perplexity", "activation ratio"], ["wrong", "worst"]]
    assert none.to_numpy().tolist() == [[0, 0], [0, 0]]
    # From the smallest activation ratio to the largest, it rises by at most 0.2; the first step, from dense, falls.
    turned = replace(clean, points=clean.points.iloc[[0, *range(5, 0, -1)]].reset_index(drop=True))
    rising = violations(turned).loc["activation ratio"]
    assert rising[["steps", "wrong"]].tolist() == [5, 4] and rising.worst == pytest.approx(0.2)


def test_a_step_within_its_error_is_not_a_wrong_one():
    noise = np.random.default_rng(3).normal(0, 0.2, BLOCKS)
    t = made({CETT: np.array([0.5, 0.4, 0.3, 0.2, 0.21])})  # as CETT grows, the second step falls by 0.01
    for spread, wrong in ((noise * 0, 1), (noise, 0)):
        rises = t.rises.copy()
        rises[2] += 32 * (spread - spread.mean())
        assert violations(replace(t, rises=rises)).wrong["perplexity"] == wrong


def test_kl_beside_perplexity_by_hand():
    found = numbers.kl_against_ppl([made({CETT: line(0.3)})])
    assert (found.ppl_ratio > 1).all()
    assert found.exp_kl.to_numpy() == pytest.approx(found.ppl_ratio.to_numpy())
    assert found.fewer_tokens.to_numpy() == pytest.approx(((0.01 / found.ppl_ratio) / 0.001).to_numpy() ** 2)


def test_the_printed_tables():
    t = made({CETT: line(0.3), "Top-k": line(0.3)})
    assert numbers.summary([t])["active at 1 % (%)"].tolist() == ["20.0 (15.0 to 25.0)"]
    (row,) = numbers.kl_table([t], numbers.kl_against_ppl([t])).itertuples(index=False)
    assert row.CETT == "0.60"  # of the made-up parameters the nearest to the 0.1 that was found


CLEAR = {CETT: line(0.2), "Top-k": line(0.3), "FAT-ε": line(0.4)}


def verdicts(rises, matrix=None):
    suite = suites.Suite("mine", "own", ("code",), 64, 512, (CHECKPOINT,))
    t = [made(rises)]
    return {row.id: row for row in claims.verdicts(suite, numbers.advantage(t), numbers.violations(t), matrix)}


def test_verdicts_follow_the_numbers():
    given = verdicts(CLEAR)
    assert {name: str(row.verdict) for name, row in given.items()} == {"C01": "holds", "C15": "holds", "C81": "no data"}
    assert given["C15"].our_value.endswith("CETT, 2 of 78: 2.56 %")
    assert "two corpora" in given["C81"].why and "seeds" in given["C01"].why
    dip = line(0.3) - np.array([0, 0.5, 0, 0, 0])
    given = verdicts({CETT: dip, "Top-k": line(0.1), "FAT-ε": line(0.4)})
    assert [str(given[name].verdict) for name in ("C01", "C15")] == ["fails", "fails"]


@pytest.mark.parametrize(
    ("away", "verdict"),
    [((1.03, 1.04, 1.05), "holds"), ((1.0, 0.99, 1.0), "fails"), ((1.0, 1.01, 1.2), "inconclusive")],
)
def test_on_other_corpora_the_spread_between_corpora_counts(away, verdict):
    names = ("code", "math", "chinese")
    rows = [("m", a, b, 1.01 if a == b else far, 0.002, 0.2) for a, far in zip(names, away, strict=True) for b in names]
    assert verdicts(CLEAR, pd.DataFrame(rows, columns=MATRIX))["C81"].verdict == verdict


@pytest.mark.parametrize(("away", "written"), [(1.03, "+3.0"), (0.9997, "+0.0")])  # what rounds to nothing has no minus
def test_the_matrix_of_corpora_is_drawn_as_it_is_measured(away, written):
    rows = [("m", a, b, 1.01 if a == b else away, 0.002, 0.2) for a in ("code", "math") for b in ("code", "math")]
    figure = figures.corpora_matrix(pd.DataFrame(rows, columns=MATRIX))
    texts = [text.get_text().partition("\n") for text in figure.axes[0].texts]
    assert texts == [(rise, "\n", "± 0.2") for rise in ("+1.0", written, written, "+1.0")]
    assert f"cost {written} to {written} %" in figure.message
