"""The scoreboard: no claim is dropped, no verdict is made up, README and CSV say the same."""

import json

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsinglib.files import FIGURES, ROOT
from sparsinglib.paper import claims as scoreboard
from sparsinglib.paper import published as paper

CLAIMS = FIGURES / "claims.csv"
REMEDY = "run notebook 11 and python -m sparsinglib.scoreboard"


@pytest.fixture
def results(tmp_path):
    folder = tmp_path / "results"
    paper.check(
        "02_two",
        [
            ("C18", "paper", "good", True, "rule"),
            ("C18", "ladder", "bad | worse", False, "rule"),
            ("C19", "paper", "good", True, "rule"),
            ("C19", "paper", "bad", False, "rule"),
            ("C20", "paper", "–", None, "the run's last part is not published"),
            ("C21", "own model", "good", True, "rule"),
            ("C05", "paper", "54.8", True, f"rule; {scoreboard.ARITHMETIC}"),
        ],
        folder,
    )
    paper.check("04_four", [("C20", "ladder", "good", True, "rule")], folder)
    return folder


def test_every_claim_is_there_and_the_unmeasured_are_called_so(results):
    table = scoreboard.table(scoreboard.collect([results]))
    wanted = ["id", "where", "claim", "paper_value", "evidence", "our_value", "verdict", "why", "notebook"]
    assert table.columns.tolist() == wanted
    assert table.id.unique().tolist() == [f"C{i:02d}" for i in range(1, 83)]
    measured = table[table.verdict != "not measured yet"]
    assert measured.id.tolist() == ["C05", "C18", "C18", "C19", "C19", "C20", "C20"]
    assert measured.notebook.tolist() == ["02_two"] * 6 + ["04_four"]
    assert table[table.id == "C21"].verdict.tolist() == ["not measured yet"]  # a user's own model is no evidence here
    assert table[table.id == "C23"].paper_value.tolist() == ["6.14 percent"]


def test_counts_and_words_by_hand(results):
    table = scoreboard.table(scoreboard.collect([results]))
    counts = scoreboard.counts(table)
    assert counts.loc["paper"].to_dict() == {
        "holds": 2,
        "holds in part": 1,
        "fails": 0,
        "not testable here": 1,
        "not measured yet": 0,
        "no check": 78,
    }
    assert counts.loc["ladder"].tolist() == [1, 0, 1, 0, 0, 80]
    assert counts.loc["released"].tolist() == [0, 0, 0, 0, 0, 82]
    assert scoreboard.in_words(table) == (
        "Of 82 claims, 4 could be judged by at least one kind of evidence, 1 of them by arithmetic on the printed "
        "numbers and no measurement; 0 are not testable here, 78 are not measured yet."
    )
    assert scoreboard.in_disagreement(table).index.tolist() == ["C18"]
    assert scoreboard.reasons(table) == "C20 [paper] the run's last part is not published"
    measured = table.assign(our_value="+0.8 (-0.6 to +2.4) points")  # which leaves it open, and has to be seen
    assert scoreboard.reasons(measured).startswith("C20 [paper] +0.8 (-0.6 to +2.4) points; the run's last part")
    assert "**not testable here**: +0.8 (-0.6 to +2.4) points; the run's last" in scoreboard.markdown(measured)


def test_what_is_not_measured_yet_is_not_called_untestable(tmp_path):
    rows = [
        ("C34", "paper", "–", None, "the points are not published"),
        ("C34", "ladder", "2 of 9 shapes", paper.NOT_YET, "needs six"),
        ("C41", "ladder", "relu", True, "rule"),
        ("C41", "ladder", "silu", paper.NOT_YET, "rule"),
    ]
    checks = paper.check("03_three", rows, tmp_path)
    assert checks.verdict.tolist() == ["not testable here", "not measured yet", "holds", "not measured yet"]
    assert paper.show(checks).endswith("1 holds; 0 fails; 1 not testable here; 2 not measured yet")
    table = scoreboard.table(scoreboard.collect([tmp_path]))
    assert scoreboard.verdicts(table).loc[["C34", "C41"], "ladder"].tolist() == ["not measured yet", "holds"]
    said = scoreboard.in_words(table)
    assert "1 could be judged by at least one kind of evidence, 0 of them by" in said
    assert said.endswith("0 are not testable here, 81 are not measured yet.")
    assert "**not measured yet**: 2 of 9 shapes" in scoreboard.markdown(table)


VERDICT = st.sampled_from([True, False, None])
ROWS = st.lists(st.tuples(st.integers(1, 82), st.sampled_from(scoreboard.EVIDENCE), VERDICT), max_size=40)


@settings(max_examples=40, deadline=None)
@given(ROWS)
def test_counts_add_up_to_all_claims(rows):
    names = {True: "holds", False: "fails", None: "not testable here"}
    frame = [(f"C{i:02d}", kind, "x", names[v], "why", "02_two") for i, kind, v in rows]
    columns = ["id", "evidence", "our_value", "verdict", "why", "notebook"]
    table = scoreboard.table(pd.DataFrame(frame, columns=columns))
    counts = scoreboard.counts(table)
    assert (counts.sum(axis=1) == 82).all()
    for kind in scoreboard.EVIDENCE:
        said = {i: {v for j, k, v in rows if (j, k) == (i, kind)} for i in range(1, 83)}
        assert counts.loc[kind, "fails"] == sum(v in ({False}, {False, None}) for v in said.values())
        assert counts.loc[kind, "holds in part"] == sum({True, False} <= v for v in said.values())
        assert counts.loc[kind, "no check"] == sum(not v for v in said.values())
    assert len(table) == len(rows) + 82 - len({i for i, _, _ in rows})


def test_a_later_folder_replaces_what_it_measured_and_leaves_the_rest(results, tmp_path):
    paper.check("02_two", [("C18", "ladder", "new", True, "rule")], tmp_path / "more")
    found = scoreboard.collect([results, tmp_path / "more"])
    assert found[(found.id == "C18")].sort_values("evidence").our_value.tolist() == ["new", "good"]
    assert len(found) == 7


def test_not_testable_needs_a_reason(tmp_path):
    paper.check("02_two", [("C18", "paper", "–", None, " ")], tmp_path)
    with pytest.raises(ValueError, match="C18 is called not testable without saying what is missing"):
        scoreboard.collect([tmp_path])


def test_prose_is_what_the_list_of_claims_marks_as_such():
    assert [row.id for row in scoreboard.prose()] == ["C51", "C81", "C82"]
    assert all(row.verdict is None and row.why.startswith("missing: ") for row in scoreboard.prose())


def test_a_broken_file_of_results_is_named(tmp_path):
    (tmp_path / "02_two.json").write_text('{"notebook": "02')
    with pytest.raises(ValueError, match=r"02_two\.json is no file of results .* run its notebook again"):
        scoreboard.collect([tmp_path])


def test_lines_say_verdict_by_evidence(results):
    lines = scoreboard.one_line_each(scoreboard.table(scoreboard.collect([results]))).splitlines()
    assert len(lines) == 83
    assert lines[18].split()[0] == "C18" and lines[18].split()[-3:] == ["holds", "fails", "–"]
    assert lines[1].endswith("not measured yet")


def test_the_block_goes_between_the_markers_and_is_a_proper_table(results, tmp_path):
    table = scoreboard.table(scoreboard.collect([results]))
    block = scoreboard.readme_block(table)
    rows = [line for line in block.splitlines() if line.startswith("| **C")]
    assert len(rows) == 82
    assert {line.replace("\\|", "").count("|") for line in rows} == {6}
    assert "**fails**: bad \\| worse [02](notebooks/02_two.ipynb#Checks)" in rows[17]
    before = f"above\n{scoreboard.BEGIN}\nold\n{scoreboard.END}\nbelow\n"
    assert scoreboard.with_block(before, block) == f"above\n{block}\nbelow\n"
    assert scoreboard.with_block(scoreboard.with_block(before, block), block) == f"above\n{block}\nbelow\n"


def test_the_command_writes_the_readme_and_refuses_one_without_markers(tmp_path, capsys):
    assert CLAIMS.is_file(), REMEDY
    readme = tmp_path / "README.md"
    readme.write_text("no place\n")
    with pytest.raises(SystemExit) as stop:
        scoreboard.main([str(readme)])
    assert stop.value.code == 2
    assert scoreboard.BEGIN in capsys.readouterr().err
    assert readme.read_text() == "no place\n"
    readme.write_text(f"{scoreboard.BEGIN}{scoreboard.END}\n")
    assert scoreboard.main([str(readme)]) == 0
    assert readme.read_text(encoding="utf-8") == scoreboard.readme_block(scoreboard.read()) + "\n"


def test_the_readme_says_what_the_csv_says():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert scoreboard.BEGIN in text, f"README.md has no {scoreboard.BEGIN}"
    assert scoreboard.with_block(text, scoreboard.readme_block(scoreboard.read())) == text, REMEDY


def test_the_csv_has_the_verdicts_that_the_notebooks_recorded():
    assert CLAIMS.is_file(), REMEDY
    saved = scoreboard.read()
    recorded = [
        (row["id"], row["evidence"], row["verdict"], path.stem)
        for path in sorted(paper.SHIPPED_RESULTS.glob("*.json"))
        for row in json.loads(path.read_text(encoding="utf-8"))["checks"]
        if row["evidence"] in ("paper", "ladder", "released")
    ]
    said = saved[saved.notebook != ""]  # a claim that no notebook recorded has a row without one
    listed = zip(said.id, said.evidence, said.verdict, said.notebook, strict=True)
    assert sorted(recorded) == sorted(listed), REMEDY
    assert set(saved.id) == set(paper.claims().id)
