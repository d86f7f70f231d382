"""Verdicts from estimates: each rule on cases worked by hand, what holds for any estimate, and how a row is written."""

import json
import math
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from sparsinglib.paper import claims, figures, published, scoreboard
from sparsinglib.paper.claims import exact, judge, mean_of, of_draws, proportion, record_verdicts, with_error
from sparsinglib.paper.rules import Estimate, Verdict, bounds, combined, equivalent, matches, not_worse, share, sign

HOLDS, FAILS, OPEN, NO_DATA = Verdict.HOLDS, Verdict.FAILS, Verdict.INCONCLUSIVE, Verdict.NO_DATA


def between(low, high, **more):
    return Estimate((low + high) / 2, low, high, **more)


@pytest.mark.parametrize(
    ("rule", "ends", "verdict"),
    [
        (lambda e: sign(e, ">"), (0.1, 2), HOLDS),
        (lambda e: sign(e, ">"), (-0.1, 2), OPEN),
        (lambda e: sign(e, ">"), (-2, -0.1), FAILS),
        (lambda e: sign(e, ">"), (0, 2), OPEN),  # at zero is not above it
        (lambda e: sign(e, "<"), (-2, -0.1), HOLDS),
        (lambda e: sign(e, "<"), (0.1, 2), FAILS),
        (lambda e: equivalent(e, 2), (-1.9, 1.9), HOLDS),
        (lambda e: equivalent(e, 2), (1.5, 1.9), HOLDS),  # sure of a difference, and that it is small
        (lambda e: equivalent(e, 2), (-1, 2.1), OPEN),
        (lambda e: equivalent(e, 2), (2.1, 3), FAILS),
        (lambda e: equivalent(e, 2), (-3, -2.1), FAILS),
        (lambda e: not_worse(e, 1), (-0.9, -0.2), HOLDS),
        (lambda e: not_worse(e, 1), (-1.5, -0.2), OPEN),  # below zero alone does not fail it
        (lambda e: not_worse(e, 1), (-3, -1.1), FAILS),
        (lambda e: share(e, 75), (75, 90), HOLDS),
        (lambda e: share(e, 75), (60, 80), OPEN),
        (lambda e: share(e, 75), (50, 74), FAILS),
        (lambda e: share(e, 5, "<"), (0, 5), HOLDS),
        (lambda e: share(e, 5, "<"), (6, 9), FAILS),
        (lambda e: share(e, 90, "="), (80, 95), HOLDS),
        (lambda e: share(e, 90, "="), (40, 60), FAILS),
        (lambda e: share(e, 90, "="), (95, 100), FAILS),  # too wide is as wrong as too narrow
    ],
)
def test_rules_by_hand(rule, ends, verdict):
    assert rule(between(*ends)) == verdict


@pytest.mark.parametrize(
    ("ends", "printed", "rounding", "verdict"),
    [
        ((6.0, 6.3), "6.14", False, HOLDS),
        ((6.2, 6.3), "6.14", False, FAILS),
        ((4.085, 4.085), "4.1", True, HOLDS),
        ((4.04, 4.04), "4.1", True, FAILS),
        ((-0.295, -0.295), "-0.30", True, HOLDS),  # two digits were printed: half of the second counts
        ((-0.28, -0.28), "-0.30", True, FAILS),
        ((49.05, 49.05), "49.0", True, HOLDS),
        ((49.04, 49.04), "49.1", True, FAILS),
    ],
)
def test_matches_by_hand(ends, printed, rounding, verdict):
    assert matches(between(*ends, printed=printed), rounding) == verdict


NUMBER = st.floats(-50, 50)
RULES = {
    "sign": lambda e: sign(e, ">"),
    "equivalent": lambda e: equivalent(e, 2.0),
    "not worse": lambda e: not_worse(e, 1.0),
    "share": lambda e: share(e, 5.0),
}


@given(st.sampled_from(sorted(RULES)), NUMBER, st.floats(0, 10), st.floats(0, 10))
def test_less_certainty_never_decides_more(name, value, half, more):
    narrow = RULES[name](Estimate(value, value - half, value + half))
    wide = RULES[name](Estimate(value, value - half - more, value + half + more))
    assert wide in (narrow, OPEN)


@given(NUMBER, st.floats(0, 10), st.floats(0.1, 10))
def test_both_sides_are_treated_alike(value, half, bound):
    there, back = (Estimate(v, v - half, v + half) for v in (value, -value))
    assert sign(there, ">") == sign(back, "<")
    assert equivalent(there, bound) == equivalent(back, bound)
    if equivalent(there, bound) == HOLDS:
        assert not_worse(there, bound) == not_worse(back, bound) == HOLDS


@given(st.lists(st.sampled_from(list(Verdict)), max_size=6))
def test_all_parts_have_to_hold_and_one_that_fails_decides(parts):
    said = combined(parts)
    assert (said == NO_DATA) == (not parts or set(parts) == {NO_DATA})
    assert (said == FAILS) == (FAILS in parts)
    assert (said == HOLDS) == (bool(parts) and set(parts) == {HOLDS})


@given(st.floats(-5, 5), st.floats(0.01, 3))
def test_close_means_a_tenth_of_the_half_width(value, half):
    (bound,) = bounds("sign", "> 0")
    estimate = Estimate(value, value - half, value + half)
    gap = min(abs(value), abs(value - half), abs(value + half)) / half
    assume(abs(gap - 0.1) > 1e-6)
    assert bound.close(estimate) == (gap < 0.1)
    assert not bound.close(exact(0.0))


@pytest.mark.parametrize(
    ("low", "high", "step", "said"),
    [
        (-0.9, 1.1, 0.06, "the estimate, 2 answers from another verdict"),  # 0.1 above -1
        (-0.9, 1.1, 0.11, "the estimate, 1 answer from another verdict"),
        (-1.05, 0.9, 0.04, "the estimate, 2 answers from another verdict"),  # 0.05 below
        (-0.9, 1.1, 0.0, "the estimate"),
    ],
)
def test_a_verdict_near_its_bound_says_how_many_answers_decide_it(low, high, step, said):
    row = judge("C14", "ladder", between(low + 1, high + 1, step=step))  # below zero: the bound is 0
    assert row.why.endswith(f"Close to the bound (a tenth of the half width): {said}.")
    assert "answer" not in judge("C14", "ladder", between(0.5, 2.5, step=0.1)).why


def test_intervals_against_their_formulas():
    values = [1.0, 2.0, 4.0]
    found = mean_of(values)
    half = stats.t.ppf(0.95, 2) * np.std(values, ddof=1) / math.sqrt(3)
    assert (found.value, found.low, found.high) == pytest.approx((7 / 3, 7 / 3 - half, 7 / 3 + half))
    assert with_error(1, 2).high == pytest.approx(1 + 2 * 1.6448536)
    draws = of_draws(range(101))
    assert (draws.value, draws.low, draws.high) == (50, 5, 95)
    none = proportion(0, 10)  # Clopper and Pearson: (1 - x)^10 = 0.05
    assert (none.low, none.high) == pytest.approx((0, 100 * (1 - 0.05**0.1)))
    for wrong in ((math.nan, 0, 1), (0, math.nan, 1), (0, 1, -1)):
        with pytest.raises(ValueError, match="what is missing"):
            Estimate(*wrong)
    with pytest.raises(ValueError, match="1 values have no spread"):
        mean_of([3.0])


def test_values_are_written_with_two_digits_of_their_error():
    assert str(Estimate(-0.2934, -0.901, 0.322, "points", "reading")) == "reading -0.29 (-0.90 to 0.32) points"
    assert str(between(10.0, 30.0, unit="%")) == "20 (10 to 30) %"
    assert str(exact(54.7744, "percent")) == "54.8 percent"
    assert str(exact(0.0)) == "0"


def test_every_bound_in_the_list_of_claims_can_be_read():
    table = published.claims()
    assert table.id.is_unique
    parts = {row.id: bounds(row.rule, row.bound) for row in table.itertuples()}
    assert [name for name, found in parts.items() if not found] == ["C20"]
    assert {name for name, found in parts.items() if len(found) == 2} == {
        "C18", "C19", "C33", "C34", "C44", "C53", "C54", "C62"}  # fmt: skip
    assert [parts[name][0].each.at for name in ("C79", "C77")] == [(-2.0, 2.0), (-1.0,)]
    assert parts["C15"][0].at == (5.0,)
    assert parts["C54"][1].missing and parts["C62"][1].rule is None
    with pytest.raises(ValueError, match="'about 3' of the rule 'sign' cannot be read"):
        bounds("sign", "about 3")


def test_a_row_says_value_verdict_and_rule():
    row = judge("C04", "ladder", [between(-0.5, 0.5, note="reading"), between(-0.4, 0.1, note="commonsense")])
    assert row.verdict == HOLDS and row.why == "Rule: not worse, 1 point."
    assert row.our_value == "reading 0.00 (-0.50 to 0.50); commonsense -0.15 (-0.40 to 0.10)"
    near = judge("C04", "ladder", between(-0.98, 0.5, note="reading"))
    assert near.verdict == HOLDS and near.why.endswith("Close to the bound (a tenth of the half width): reading.")


def test_parts_are_told_apart_and_a_missing_one_leaves_the_claim_open():
    row = judge("C18", "ladder", between(-2, -1), between(-1, 1))
    assert (row.verdict, row.our_value) == (OPEN, "(a) -1.50 (-2.00 to -1.00); (b) 0.0 (-1.0 to 1.0)")
    assert "(a) holds, (b) inconclusive" in row.why
    row = judge("C18", "ladder", between(-2, -1), "no run is long enough.")
    assert row.verdict == OPEN and row.why.endswith("(a) holds, (b) no data. no run is long enough.")
    assert judge("C18", "ladder", between(1, 2), "no run is long enough").verdict == FAILS
    row = judge("C18", "released", "the checkpoints are not here")
    assert (row.verdict, row.our_value, row.why) == (NO_DATA, "–", "the checkpoints are not here.")
    with pytest.raises(ValueError, match="C18 has 2 parts"):
        judge("C18", "ladder", between(-2, -1))
    with pytest.raises(ValueError, match="unknown claim 'C99'"):
        judge("C99", "ladder", between(-2, -1))
    with pytest.raises(ValueError, match="say what is missing"):
        judge("C01", "ladder", [])


def test_what_the_list_itself_calls_missing_or_only_shows():
    found = judge("C54", "paper", [between(6, 7, printed="6.48")])
    assert found.verdict == OPEN and "the points end at 2.9e11 of 8e11 tokens" in found.why
    assert judge("C54", "paper", [between(8, 9, printed="6.48")]).verdict == FAILS
    shown = judge("C62", "paper", exact(4.085, "x", printed="4.1"), exact(2.17, "x", "at most"))
    assert (shown.verdict, shown.our_value) == (HOLDS, "(a) 4.08 x; (b) at most 2.17 x")


def test_a_share_of_cases_counts_those_that_surely_hold():
    cases = [between(-0.5, 0.5)] * 6 + [between(-1.5, 0.7)] * 2  # two are open
    row = judge("C77", "paper", cases)
    assert (row.verdict, row.our_value) == (HOLDS, "6 of 8 hold, 0 fail: 75 (75 to 100) %")
    assert judge("C77", "paper", cases[1:]).verdict == OPEN
    assert judge("C77", "paper", [*cases[:2], *[between(-3, -2)] * 3]).verdict == FAILS
    assert judge("C05", "paper", [exact(1.04, printed="1.0"), exact(2.0, printed="2.1")]).verdict == FAILS


def test_of_many_estimates_the_nearest_to_failing_is_shown():
    row = judge("C01", "ladder", [between(i, i + 2, note=f"model {i}") for i in range(-1, 9)])
    assert row.verdict == OPEN
    assert row.our_value == "2 inconclusive, 8 hold of 10; nearest to failing: model -1 0.0 (-1.0 to 1.0)"


def test_verdicts_are_recorded_with_the_claim(tmp_path, monkeypatch):
    rows = [judge("C61", "paper", between(-1, 1, unit="points")), judge("C61", "ladder", "no 2.4M run")]
    table = record_verdicts("04_scale", rows, tmp_path)
    assert table.columns.tolist() == claims.COLUMNS
    assert table.paper_value.tolist() == ["6.48 in 6.14 to 7.82 percent"] * 2
    assert table.verdict.tolist() == ["holds", "no data"]
    saved = json.loads((tmp_path / "04_scale.json").read_text(encoding="utf-8"))
    records = [told | {"margin": row.margin} for told, row in zip(table.to_dict("records"), rows, strict=True)]
    assert saved == {"notebook": "04_scale", "verdicts": records}
    monkeypatch.setenv("SPARSINGLIB_FIGURES", str(tmp_path / "elsewhere"))  # read when it is written, not at import
    record_verdicts("04_scale", rows)
    assert (tmp_path / "elsewhere" / "results" / "04_scale.json").is_file()


@pytest.mark.parametrize(
    ("claim", "given", "margin"),
    [
        ("C01", between(1, 3), 1.0),  # sign: the lower end is a half width above zero
        ("C01", between(-6, -2), -1.0),
        ("C01", between(-1, 2), 0.0),
        ("C02", between(-0.5, 0.5), 1.0),  # not worse than by 1
        ("C01", [between(1, 3), between(2, 4)], 1.0),  # the least
        ("C01", exact(5), claims.FURTHEST),
        ("C01", "not measured", None),
    ],
)
def test_the_margin_counts_half_widths_from_the_interval_to_the_bound(claim, given, margin):
    assert judge(claim, "ladder", given).margin == (None if margin is None else pytest.approx(margin))


@given(st.floats(-5, 5), st.floats(0.01, 5))
def test_the_margin_s_sign_is_the_verdict(value, half):
    row = judge("C01", "ladder", Estimate(value, value - half, value + half))
    assert np.sign(row.margin) == {HOLDS: 1, FAILS: -1, OPEN: 0}[row.verdict]


def marks(figure):
    return [line.get_xdata()[0] for line in figure.axes[0].lines if line.get_ls() == "None"]


def test_the_margin_is_recorded_and_drawn(tmp_path):
    given = [("C01", "ladder", between(1, 3)), ("C02", "ladder", between(-3, -2)), ("C03", "paper", "none")]
    record_verdicts("01_one", [judge(*row) for row in given], tmp_path)
    recorded = scoreboard.collect([tmp_path])
    assert recorded.margin.tolist()[:2] == [pytest.approx(1), pytest.approx(-2)] and np.isnan(recorded.margin[2])
    figure = figures.claims_forest(recorded)
    known = len(published.claims())
    assert [int(number) for number in re.findall(r"\d+", figure.message)] == [known, 1, 1, 0]
    assert sorted(marks(figure)) == pytest.approx([-2, 1])
    worse = recorded[recorded.id == "C02"].assign(evidence="ladder", id="C01")  # a second row of one claim, that fails
    figure = figures.claims_forest(pd.concat([recorded, worse]))
    assert marks(figure) == pytest.approx([-2, -2])
    assert len(figure.axes[0].texts) == known - 2
