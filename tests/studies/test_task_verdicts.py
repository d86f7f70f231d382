"""Verdicts on downstream tasks from scores made up by hand, so that each rule's outcome is known beforehand."""

import math

import pytest
from task_scores import scores

from sparsinglib.studies.downstream import claims
from sparsinglib.studies.downstream import scores as downstream
from sparsinglib.tasks import offline as offline_tasks
from sparsinglib.tasks.statistics import above_chance, group_means, summarise

EXAMPLES, RIGHT = 40, 32  # of each task; the dense model gets 80 %
PS = (1.0, 5.0, 10.0)
MODELS = ("0.4m-relu", "0.4m-silu")
OWN = offline_tasks.table()[["task", "metric", "group"]]


def answers(model, rule, p, wrong):
    """Scores of one rule, whose first ``wrong[group]`` right answers of the dense model are wrong."""
    lost = OWN.assign(lost=OWN.group.map(wrong).fillna(0).astype(int)).itertuples(index=False)
    return {
        (model, rule, p, task, metric): [0.0] * n + [1.0] * (RIGHT - n) + [0.0] * (EXAMPLES - RIGHT)
        for task, metric, _, n in lost
    }


def scored(lost, dense=0, rivals=None):
    """All that the notebook's study gives: ``lost`` answers by p and group, the same for both models.

    ``rivals`` are those that Top-k and FAT-ε lose at every p (default: as CETT), ``dense`` those the SiLU model lacks.
    """
    cells, theirs = {}, {}
    for model, less in zip(MODELS, (0, dense), strict=True):
        cells |= answers(model, "dense", 0.0, dict.fromkeys(OWN.group, less))
        for p in PS:
            at = {group: less + n for group, n in lost[p].items()}
            cells |= answers(model, f"CETT-PPL-{p:g}%", p, at)
            at = at if rivals is None else dict.fromkeys(at, less + rivals)
            for family in claims.RIVALS:
                theirs |= answers(model, f"{family} at the sparsity of p = {p:g}%", math.nan, at)
    frame, compared = scores(cells), scores(cells | theirs)
    summary = summarise(frame)
    chance = above_chance(summary, OWN.assign(chance=0.5))
    compared["family"] = compared.rule.str.extract("(dense|CETT|Top-k|FAT-ε)")
    return group_means(frame, OWN, chance), summary, frame, compared, chance


def rows_of(*given):
    return {row.id: row for row in claims.own_verdicts("ladder", *given)}


def verdicts(*given):
    return {name: str(row.verdict) for name, row in rows_of(*given).items()}


def everywhere(lost):
    return {p: dict.fromkeys(claims.GROUPS, lost) for p in PS}


NOTHING = everywhere(0)
READING = {p: {"reading_comprehension": lost} for p, lost in zip(PS, (2, 8, 16), strict=True)}


def test_nothing_lost_is_no_harm():
    found = verdicts(*scored(NOTHING))
    assert found["C02"] == found["C04"] == found["C77"] == "holds"
    assert found["C13"] == found["C14"] == "inconclusive"  # reading does not fall: exactly zero is on neither side
    assert found["C22"] == "holds"  # SiLU is exactly ReLU
    assert found["C79"] == "no data"


def test_reading_alone_falls_as_in_the_paper():
    given = scored(READING)
    found = verdicts(*given)
    assert found["C13"] == found["C14"] == "holds"
    assert found["C04"] != "holds"  # two of forty are five points
    expected = -100 * 16 / EXAMPLES  # every cell of the group lost the same share
    assert rows_of(*given)["C13"].our_value.startswith(f"reading: {expected:.1f} (")


def test_the_interval_over_examples_is_that_of_ninety_percent():
    """One task a group lost eight of forty at random places: the mean over tasks has the error of independent means."""
    given = scored({1.0: {}, 5.0: {}, 10.0: {"reading_comprehension": 8}})
    tasks = OWN[OWN.group == "reading_comprehension"].task.nunique()
    share = 8 / EXAMPLES
    half = 1.645 * 100 * math.sqrt(share * (1 - share) / EXAMPLES / tasks)
    low, high = rows_of(*given)["C13"].our_value.partition("(")[2].partition(")")[0].split(" to ")
    assert float(high) - float(low) == pytest.approx(2 * half, rel=0.15)


def test_a_rival_that_loses_less_fails_the_claim_and_one_that_loses_more_does_not():
    assert verdicts(*scored(everywhere(12), rivals=0))["C02"] == "fails"
    assert verdicts(*scored(everywhere(12), rivals=24))["C02"] == "holds"


def test_models_that_differ_are_not_called_comparable():
    assert verdicts(*scored(NOTHING, dense=4))["C22"] == "fails"


def test_at_chance_nothing_can_be_said():
    groups, summary, frame, compared, chance = scored(NOTHING)
    none = chance.assign(testable=False)
    groups = group_means(frame, OWN, none)
    found = rows_of(groups, summary, frame, compared, none)
    for claim in ("C02", "C04", "C13", "C14", "C77", "C22"):
        assert found[claim].verdict == "no data", claim
    assert "above chance" in found["C13"].why


@pytest.mark.parametrize(("few", "open_claims"), [("compared", {"C02"}), ("scores", {"C04", "C13", "C77", "C22"})])
def test_a_handful_of_examples_gives_no_verdict(few, open_claims):
    groups, summary, frame, compared, chance = scored(NOTHING)
    some = lambda rows: rows[rows.example.str.rpartition("/")[2].astype(int) < 19]  # noqa: E731
    cut = (frame, some(compared)) if few == "compared" else (some(frame), compared)
    found, enough = rows_of(groups, summary, *cut, chance), verdicts(groups, summary, frame, compared, chance)
    for claim in ("C02", "C04", "C13", "C77", "C22"):
        assert found[claim].verdict == ("no data" if claim in open_claims else enough[claim]), claim
    assert "20 examples" in found[min(open_claims)].why


@pytest.fixture(scope="module")
def study():
    groups, summary, frame, compared, chance = scored(READING)
    return downstream.TaskScores(list(MODELS), frame, summary, chance, groups, compared, compared)


def test_tables_say_what_was_scored(study):
    printed = downstream.group_table(study)
    reading = printed[(printed.model == "0.4m-relu") & (printed.group == "reading comprehension")].iloc[0]
    assert reading["dense"] == "80.0" and reading["p = 1"].startswith("-5.0") and reading["p = 10"].startswith("-40.0")
    listed = downstream.chance_table(study)
    assert set(listed.enters) == {"yes"} and set(listed.chance) == {50.0}
    assert listed.dense.str.startswith("80.0 ± ").all()


def test_saved_tables_hold_the_printed_rows_and_the_scored(study, tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSINGLIB_FIGURES", str(tmp_path))
    tables = downstream.save_tables(study)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"table_0{n}.csv" for n in (1, 4, 5, 6)]
    reading = tables[5]
    assert set(reading.evidence) == {"paper", "ladder"}
    ours = reading[reading.evidence == "ladder"].set_index(["model", "p_pct"])
    assert ours.score_pct["0.4m-silu", 0.0].tolist() == pytest.approx([80.0] * len(ours.loc[("0.4m-silu", 0.0)]))
    assert ours.change["0.4m-silu", 10.0].tolist() == pytest.approx([-40.0] * len(ours.loc[("0.4m-silu", 10.0)]))
    assert ours.standard_error["0.4m-silu", 0.0].iloc[0] == pytest.approx(100 * math.sqrt(0.8 * 0.2 / (EXAMPLES - 1)))
