"""Verdicts on downstream tasks from scores made up by hand, so that each rule's outcome is known beforehand."""

import math

import pandas as pd
import pytest

from sparsinglib.studies.downstream import (
    claims as task_checks,
)
from sparsinglib.studies.downstream import (
    ladder_claims as task_ladder_checks,
)
from sparsinglib.studies.downstream import (
    scores as downstream,
)
from sparsinglib.tasks import offline as offline_tasks
from sparsinglib.tasks.statistics import COLUMNS, above_chance, group_means, summarise

EXAMPLES, RIGHT = 40, 32  # of each task; the dense model gets 80 %
PS = (1.0, 5.0, 10.0)
MODELS = ("0.4m-relu", "0.4m-silu")
OWN = offline_tasks.table()
FLOORS = OWN[["task", "metric"]].assign(chance=0.5)


def scores(model, rule, p, wrong, tasks=OWN):
    """Rows of one rule, whose first ``wrong[group]`` right answers of the dense model are wrong."""
    rows = []
    for task, metric, group in tasks[["task", "metric", "group"]].itertuples(index=False):
        right = [1.0] * RIGHT + [0.0] * (EXAMPLES - RIGHT)
        lost = wrong.get(group, 0)
        right[:lost] = [0.0] * lost
        rows += [(model, rule, p, task, metric, f"{task}/{i}", x) for i, x in enumerate(right)]
    return rows


def study(lost, dense=0, rivals=None):
    """All that the notebook's study gives: ``lost`` answers by p and group, the same for both models.

    ``rivals`` are those that Top-k and FAT-ε lose at every p (default: as CETT), ``dense`` those the SiLU model lacks.
    """
    rows, compared = [], []
    for model, less in zip(MODELS, (0, dense), strict=True):
        everywhere = dict.fromkeys(OWN.group.unique(), less)
        rows += scores(model, "dense", 0.0, everywhere)
        for p in PS:
            at = {group: less + n for group, n in lost[p].items()}
            found = scores(model, f"CETT-PPL-{p:g}%", p, at)
            rows += found
            compared += [(*row, "CETT") for row in found]
            for family in ("Top-k", "FAT-ε"):
                theirs = at if rivals is None else {group: less + rivals for group in at}
                label = f"{family} at the sparsity of p = {p:g}%"
                compared += [(*row, family) for row in scores(model, label, math.nan, theirs)]
        compared += [(*row, "dense") for row in scores(model, "dense", 0.0, everywhere)]
    frame = pd.DataFrame(rows, columns=COLUMNS)
    summary = summarise(frame)
    chance = above_chance(summary, FLOORS)
    groups = group_means(frame, OWN[["task", "metric", "group"]], chance)
    return groups, summary, frame, pd.DataFrame(compared, columns=[*COLUMNS, "family"]), chance


def verdicts(*given):
    return {row.id: row.verdict for row in task_ladder_checks.ladder_checks(*given)}


NOTHING = {p: {"commonsense_reasoning": 0, "reading_comprehension": 0} for p in PS}
AS_THE_PAPER = {
    p: {"commonsense_reasoning": 0, "reading_comprehension": n} for p, n in zip(PS, (0, 8, 16), strict=True)
}


def test_nothing_lost_is_no_harm():
    found = verdicts(*study(NOTHING))
    assert found["C02"] is found["C04"] is found["C77"] is True
    assert found["C13"] is False  # reading does not fall
    assert found["C14"] is None or found["C14"] is False
    assert found["C78"] is None  # the interval holds zero
    assert found["C22"] is True  # SiLU is exactly ReLU
    assert found["C79"] is None


def test_reading_alone_falls_as_in_the_paper():
    given = study(
        {1.0: {"reading_comprehension": 2}, 5.0: {"reading_comprehension": 8}, 10.0: {"reading_comprehension": 16}}
    )
    found = verdicts(*given)
    assert found["C13"] is True and found["C14"] is True and found["C78"] is True
    assert found["C04"] is not True  # two of forty are five points
    rows = {row.id: row.our_value for row in task_ladder_checks.ladder_checks(*given)}
    cells = OWN[OWN.group == "reading_comprehension"]
    expected = -100 * 8 / EXAMPLES  # every cell of the group lost the same share
    assert len(cells) >= 2 and rows["C78"].startswith(f"{expected:+.2f}")


@pytest.mark.parametrize(
    ("changes", "steps", "verdict"),
    [
        ([(-0.38, 0.85), (-2.1, 0.1), (-3.86, -1.38)], [(-0.38, 0.85), (-2, -0.1), (-2.5, -0.6)], True),  # noise first
        ([(0.1, 0.9), (-2.1, 0.1), (-3.86, -1.38)], [(0.1, 0.9), (-2, -0.1), (-2.5, -0.6)], False),  # a clear rise
        ([(-3, -1), (-5, -3), (-4, -2)], [(-3, -1), (-3, -1), (0.2, 2)], False),  # from step to step
        ([(-1, 1), (-1, 1), (-1, 1)], [(-1, 1)] * 3, None),
        ([(-1, 1), (-1, 1), (0.0, 0.0)], [(-1, 1)] * 3, False),  # no fall by the last
    ],
)
def test_noise_is_no_rise_and_a_fall_must_be_shown(changes, steps, verdict):
    frames = (pd.DataFrame(rows, columns=["low", "high"]) for rows in (changes, steps))
    assert task_checks.falls(*frames) is verdict


@pytest.mark.parametrize(
    ("ends", "verdict"),
    [
        ([(-0.5, 0.5)] * 4, True),
        ([(-0.5, 0.5)] * 3 + [(-3, 1)], None),  # three in four are not more than three in four
        ([(-3, 3)] * 4, None),  # that nothing is rejected is no proof
        ([(-0.5, 0.5)] * 3 + [(-3, -1)], False),
    ],
)
def test_no_harm_must_be_shown_and_the_drop_that_is_seen_is_said(ends, verdict):
    changes = pd.DataFrame([((low + high) / 2, low, high) for low, high in ends], columns=["change", "low", "high"])
    found, why = task_checks.generally(changes)
    assert found is verdict
    half_width = (changes.change - changes.low).median()
    assert f"less than {half_width:.1f} points" in why


def test_a_rival_that_loses_less_fails_the_claim_and_one_that_loses_more_does_not():
    everywhere = {p: dict.fromkeys(("commonsense_reasoning", "reading_comprehension"), 12) for p in PS}
    assert verdicts(*study(everywhere, rivals=0))["C02"] is False
    assert verdicts(*study(everywhere, rivals=24))["C02"] is True


def test_models_that_differ_are_not_called_comparable():
    assert verdicts(*study(NOTHING, dense=4))["C22"] is False


def test_at_chance_nothing_can_be_said():
    groups, summary, frame, compared, chance = study(NOTHING)
    none = chance.assign(testable=False)
    groups = group_means(frame, OWN[["task", "metric", "group"]], none)
    found = {row.id: row for row in task_ladder_checks.ladder_checks(groups, summary, frame, compared, none)}
    for claim in ("C02", "C04", "C13", "C14", "C77", "C78", "C22"):
        assert found[claim].verdict is None, claim
    assert found["C78"].our_value == "not testable at this scale"


@pytest.mark.parametrize(("few", "open_claims"), [("compared", {"C02"}), ("scores", {"C04", "C13", "C77", "C22"})])
def test_a_handful_of_examples_gives_no_verdict(few, open_claims):
    groups, summary, frame, compared, chance = study(NOTHING)
    some = lambda rows: rows[rows.example.str.rpartition("/")[2].astype(int) < 19]  # noqa: E731
    cut = (frame, some(compared)) if few == "compared" else (some(frame), compared)
    found = {row.id: row for row in task_ladder_checks.ladder_checks(groups, summary, *cut, chance)}
    enough = verdicts(groups, summary, frame, compared, chance)
    for claim in ("C02", "C04", "C13", "C77", "C22"):
        assert found[claim].verdict is (None if claim in open_claims else enough[claim]), claim
    assert "fewer than 20 examples" in found[min(open_claims)].why


@pytest.mark.parametrize("lost", [16, 0])
def test_a_larger_model_stands_beside_the_paper_s_numbers_without_a_verdict(lost):
    _, _, frame, _, chance = study(NOTHING)
    small = pd.DataFrame(
        [
            row
            for a in ("relu", "silu")
            for row in scores(f"0.1m-{a}", "dense", 0.0, dict.fromkeys(OWN.group.unique(), lost))
        ],
        columns=COLUMNS,
    )
    rows = task_ladder_checks.scale_checks(small, frame, chance)
    assert [row.id for row in rows] == ["C70", "C72", "C74", "C76"]
    assert {row.verdict for row in rows} == {None}  # as C07 to C12: numbers of the paper's models
    if lost:
        assert all(f"{100 * lost / EXAMPLES:+.2f}" in row.our_value for row in rows)


def test_without_a_smaller_model_nothing_stands_beside_them():
    _, _, frame, _, chance = study(NOTHING)
    rows = task_ladder_checks.scale_checks(pd.DataFrame(columns=["model"]), frame, chance)
    assert {(row.our_value, row.verdict) for row in rows} == {("–", None)}


@pytest.mark.parametrize(
    ("changed", "named"),
    [({"p_values": []}, "p_values"), ({"p_values": [100.0]}, "p_values"), ({"tokens": 100}, "tokens"),
     ({"figure_3_examples": 0}, "figure_3_examples"), ({"figure_3_examples": 99}, "figure_3_examples")],
)  # fmt: skip
def test_bad_parameters_are_refused_before_anything_is_loaded(changed, named):
    good = {"p_values": [1.0], "examples": 10, "figure_3_examples": 5, "tokens": 8192}
    downstream.check(**good)
    with pytest.raises(ValueError, match=named):
        downstream.check(**good | changed)


def test_tables_say_what_was_scored(tmp_path):
    groups, summary, frame, compared, chance = study(AS_THE_PAPER)
    s = downstream.Study(list(MODELS), frame, summary, chance, groups, compared, compared)
    printed = downstream.group_table(s)
    reading = printed[(printed.model == "0.4m-relu") & (printed.group == "reading comprehension")].iloc[0]
    assert reading["dense"] == "80.0" and reading["p = 1"].startswith("+0.0") and reading["p = 10"].startswith("-40.0")
    listed = downstream.chance_table(s)
    assert set(listed.enters) == {"yes"} and set(listed.chance) == {50.0}
    assert listed.dense.str.startswith("80.0 ± ").all()


def test_saved_tables_hold_the_printed_rows_and_the_scored(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSINGLIB_FIGURES", str(tmp_path))
    groups, summary, frame, compared, chance = study(AS_THE_PAPER)
    tables = downstream.save_tables(downstream.Study(list(MODELS), frame, summary, chance, groups, compared, compared))
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"table_0{n}.csv" for n in (1, 4, 5, 6)]
    reading = tables[5]
    assert set(reading.evidence) == {"paper", "ladder"}
    ours = reading[reading.evidence == "ladder"].set_index(["model", "p_pct"])
    assert ours.score_pct["0.4m-silu", 0.0].tolist() == pytest.approx([80.0] * len(ours.loc[("0.4m-silu", 0.0)]))
    assert ours.change["0.4m-silu", 10.0].tolist() == pytest.approx([-40.0] * len(ours.loc[("0.4m-silu", 10.0)]))
    assert ours.standard_error["0.4m-silu", 0.0].iloc[0] == pytest.approx(100 * math.sqrt(0.8 * 0.2 / (EXAMPLES - 1)))
