"""The table of all claims: no claim is dropped, no verdict is made up, page and CSV say the same."""

import json

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsinglib.files import FIGURES
from sparsinglib.paper import published, scoreboard
from sparsinglib.paper.claims import COLUMNS, Row, record_verdicts
from sparsinglib.paper.rules import Verdict, combined

REMEDY = "make store writes both anew"
IDS = published.claims().id.tolist()


@pytest.fixture
def results(tmp_path):
    folder = tmp_path / "results"
    rows = [
        Row("C18", "paper", "good", Verdict.HOLDS, "rule"),
        Row("C18", "ladder", "bad | worse", Verdict.FAILS, "rule"),
        Row("C19", "paper", "good", Verdict.HOLDS, "rule"),
        Row("C19", "paper", "bad", Verdict.FAILS, "rule"),
        Row("C54", "paper", "–", Verdict.NO_DATA, "the run's last part is not published"),
        Row("C21", "own", "good", Verdict.HOLDS, "rule"),
    ]
    record_verdicts("02_two", rows, folder)
    record_verdicts("04_four", [Row("C54", "ladder", "so so", Verdict.INCONCLUSIVE, "rule")], folder)
    return folder


def test_every_claim_is_there_and_those_without_a_record_say_so(results):
    table = scoreboard.table(scoreboard.collect([results]))
    assert table.columns.tolist() == COLUMNS
    assert table.id.unique().tolist() == IDS
    recorded = table[table.evidence != ""]
    assert recorded.id.tolist() == ["C18", "C18", "C19", "C19", "C54", "C54"]  # a user's own model is no evidence here
    silent = table[table.evidence == ""].set_index("id")
    assert set(silent.verdict) == {"no data"}
    assert silent.why["C20"].startswith("ill-posed; none: for the mirrored law")
    assert silent.why["C21"] == scoreboard.NOT_RECORDED


def test_counts_by_hand(results):
    table = scoreboard.table(scoreboard.collect([results]))
    counts = scoreboard.counts(table)
    assert counts.columns.tolist() == ["holds", "fails", "inconclusive", "no data"]
    assert counts.loc["paper"].tolist() == [1, 1, 0, len(IDS) - 2]
    assert counts.loc["ladder"].tolist() == [0, 1, 1, len(IDS) - 2]
    assert counts.loc["released"].tolist() == [0, 0, 0, len(IDS)]
    assert scoreboard.by_verdict(table).paper.to_dict() == {"holds": "C18", "fails": "C19", "inconclusive": ""}
    assert scoreboard.in_disagreement(table).index.tolist() == ["C18"]


ROWS = st.lists(
    st.tuples(st.sampled_from(IDS), st.sampled_from(scoreboard.EVIDENCE), st.sampled_from(list(Verdict))), max_size=40
)


@settings(max_examples=40)
@given(ROWS)
def test_counts_add_up_to_all_claims(rows):
    recorded = pd.DataFrame([(i, kind, "x", str(v), "why") for i, kind, v in rows], columns=list(Row._fields[:5]))
    table = scoreboard.table(recorded)
    counts = scoreboard.counts(table)
    assert (counts.sum(axis=1) == len(IDS)).all()
    for kind in scoreboard.EVIDENCE:
        said = [combined(v for j, k, v in rows if (j, k) == (i, kind)) for i in IDS]
        assert counts.loc[kind].tolist() == [said.count(verdict) for verdict in Verdict]
        for verdict, ids in scoreboard.by_verdict(table)[kind].items():
            assert ids.split() == [i for i, found in zip(IDS, said, strict=True) if found == verdict]
    assert len(table) == len(rows) + len(IDS) - len({i for i, _, _ in rows})


def test_a_later_folder_replaces_what_it_measured_and_leaves_the_rest(results, tmp_path):
    record_verdicts("02_two", [Row("C18", "ladder", "new", Verdict.HOLDS, "rule")], tmp_path / "more")
    found = scoreboard.collect([results, tmp_path / "more"])
    assert found[found.id == "C18"].sort_values("evidence").our_value.tolist() == ["new", "good"]
    assert len(found) == 6


def test_no_data_needs_a_reason_and_a_broken_file_is_named(tmp_path):
    record_verdicts("02_two", [Row("C18", "paper", "–", Verdict.NO_DATA, " ")], tmp_path)
    with pytest.raises(ValueError, match="C18 has no data and does not say what is missing"):
        scoreboard.collect([tmp_path])
    for broken in ('{"notebook": "02', json.dumps({"verdicts": [{"id": "C18", "verdict": "maybe", "why": "x"}]})):
        (tmp_path / "02_two.json").write_text(broken)
        with pytest.raises(ValueError, match=r"02_two\.json is no file of results .* run its notebook again"):
            scoreboard.collect([tmp_path])


def test_the_page_has_one_row_a_claim_and_no_long_cell(results, tmp_path):
    long = Row("C01", "ladder", "word " * 60, Verdict.HOLDS, "rule")
    record_verdicts("01_one", [long], results)
    path = scoreboard.save(scoreboard.table(scoreboard.collect([results])), tmp_path)
    text = scoreboard.page(scoreboard.read(path))
    rows = [line for line in text.splitlines() if line.startswith("| C")]
    assert [row.split()[1] for row in rows] == IDS
    cells = [row.strip("|").replace("\\|", "¦").split("|") for row in rows]
    assert {len(row) for row in cells} == {6}
    assert max(len(cell.strip()) for row in cells for cell in row) <= 120
    (row,) = [row for row in rows if row.startswith("| C18")]
    assert row.endswith("| holds: good | fails: bad \\| worse | no data |")


def test_the_page_says_what_the_csv_says_shipped_and_written_anew(tmp_path, monkeypatch):
    expected = scoreboard.page(scoreboard.read())
    assert scoreboard.PAGE.read_text(encoding="utf-8") == expected, REMEDY
    monkeypatch.setattr(scoreboard, "PAGE", tmp_path / "docs" / "claims.md")
    scoreboard.main()
    assert scoreboard.PAGE.read_text(encoding="utf-8") == expected


def test_the_csv_has_the_verdicts_that_the_notebooks_recorded():
    recorded = scoreboard.table(scoreboard.collect([FIGURES / "results"]))
    pd.testing.assert_frame_equal(scoreboard.read(), recorded, check_dtype=False, obj=REMEDY)
