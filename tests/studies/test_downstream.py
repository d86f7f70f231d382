"""The paper's tables of tasks: what they say, where they disagree with themselves, and ours beside them."""

import math
import re

import pandas as pd
import pytest
from task_scores import two_groups

from sparsinglib.studies.downstream import claims, figures, tables
from sparsinglib.tasks import statistics


def test_the_papers_inconsistencies_are_found():
    table = tables.inconsistencies().set_index("where")
    assert list(table.index) == [
        "Table 4, 0.1B relu, p = 1: average",  # named in data/paper/README.md
        "Table 6, 0.8B silu, p = 0: average",
        "Table 1, 0.8B relu, p = 10, commonsense: change",
        "Table 1, mean, p = 10, commonsense: change",
    ]
    averages = tables.averages()
    assert averages.notna().all(axis=None) and averages.groupby("group").size()["commonsense_reasoning"] == 40
    assert table.recomputed.iloc[2] == pytest.approx(55.6 - 56.8)
    assert table.difference.iloc[0] == pytest.approx(49.1 - 49.04)


def test_verdicts_on_the_printed_tables():
    found = {row.id: row for row in claims.paper_verdicts()}
    assert found["C05"].our_value.startswith("145 of 148 hold")  # all of Tables 1, 4 and 5 but three
    assert {claim: str(row.verdict) for claim, row in found.items()} == {
        "C02": "no data", "C04": "holds", "C05": "fails", "C13": "holds", "C14": "holds", "C22": "holds",
        "C77": "inconclusive", "C79": "fails",
    }  # fmt: skip


def test_table_1_holds_both_kinds_of_evidence_apart():
    examples, groups, chance = two_groups()
    groups["group"] = "commonsense_reasoning"
    table = tables.table_1(statistics.group_means(examples, groups, chance))
    assert set(table.evidence) == {"paper", "ladder"}
    theirs = table[(table.evidence == "paper") & (table.model == "0.8b-relu") & (table.p_pct == 10)]
    assert theirs.printed_change.tolist() == [-0.2, pytest.approx(theirs.printed_change.iloc[1])]
    assert len(table[(table.evidence == "paper") & (table.model != "mean")]) == 10 * 4 * 2


def test_figure_3_says_what_it_cannot_show():
    rows = []
    for group, value in zip(figures.GROUPS, (0.6, math.nan), strict=True):
        rows.append(("m", group, "dense", math.nan, value, 0, 0, 0))
        rows += [("m", group, family, 0.8, value - 0.1, -0.1, -0.2, 0.05) for family in figures.RULES]
    names = ["model", "group", "family", "sparsity", "value", "difference", "difference_low", "difference_high"]
    curves = pd.DataFrame(rows, columns=names).assign(evidence="ladder", n=75, p=math.nan, rule="r", tasks=3)
    figure = figures.figure_3(curves)
    left, right = figure.axes
    assert re.findall(r"[\d.]+", figure.message) == ["10.0"] * 3
    assert all(f"{family} 0 of 2" in figure.note for family in figures.RULES)
    assert figure.note.startswith("ladder") and {"75", "90"} < set(re.findall(r"\d+", figure.note))
    saved = figures.in_percent(curves.assign(difference=-8.67e-19))
    assert set(saved.change) == {0} and saved.score_pct[0] == 60 and saved.sparsity_pct[1] == 80
    assert [bars.get_label() for bars in left.containers] == list(figures.RULES)
    assert all(bars.lines[0].get_ydata()[0] == pytest.approx(-10) for bars in left.containers)
    assert "not testable at this scale" in right.texts[0].get_text()
