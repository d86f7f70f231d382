"""All claims of the paper beside what the notebooks recorded about them; ``python -m sparsinglib.scoreboard``.

No verdict is made here: each comes from a rule in the notebook that measured it (``paper.check``). The command writes
the table in ``figures/claims.csv`` into the README, between its markers.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from IPython.display import Markdown

from ..files import FIGURES, ROOT, output_dir, write_atomically
from . import published as paper
from . import style

EVIDENCE = paper.EVIDENCE
HOLDS, FAILS, NOT_TESTABLE = paper.VERDICTS
PART = "holds in part"  # one statement of the claim holds, another fails
UNMEASURED = paper.NOT_YET
COLUMNS = ["id", "where", "claim", "paper_value", "evidence", "our_value", "verdict", "why", "notebook"]
# What ``data/paper/claims.csv`` notes beside a claim that has no measurement behind it, and what is missing then.
NOTES = {
    "; not measured)": "missing: a measurement; the paper states it without one that could be repeated",
    "(not this paper's result)": "missing: the phones and the engine of the work that the paper cites for it",
}
NOTHING = ("–", "no values", "not published")  # for a value, where none was measured
ARITHMETIC = "arithmetic on the printed numbers, no measurement"  # said in the ``why`` of a verdict that is no more
BEGIN, END = "<!-- claims:begin -->", "<!-- claims:end -->"


def collect(folders: Iterable[Path] | None = None) -> pd.DataFrame:
    """What the notebooks recorded: id, evidence, our_value, verdict, why, notebook; rows in the order of the notebooks.

    ``folders`` hold one JSON file a notebook (default: the shipped results, and those of the run at hand). A later
    folder takes the place of an earlier one for a notebook's evidence of one kind; evidence about a user's own models
    says nothing about the paper and is left out. Raises ValueError for a file that cannot be read, and for a "not
    testable here" without a reason.
    """
    rows: dict[tuple[str, str], list[dict[str, str]]] = {}
    for folder in folders or dict.fromkeys((paper.SHIPPED_RESULTS, output_dir() / "results")):
        found: dict[tuple[str, str], list[dict[str, str]]] = {}
        for path in sorted(folder.glob("*.json")):
            for row in _read(path):
                found.setdefault((row["notebook"], row["evidence"]), []).append(row)
        rows |= found
    ordered = [row for key in sorted(rows) for row in rows[key] if row["evidence"] in EVIDENCE]
    return pd.DataFrame(ordered, columns=["id", "evidence", "our_value", "verdict", "why", "notebook"])


def _read(path: Path) -> list[dict[str, str]]:
    try:
        recorded = json.loads(path.read_text(encoding="utf-8"))
        rows = [{**row, "notebook": recorded["notebook"]} for row in recorded["checks"]]
        silent = [row["id"] for row in rows if row["verdict"] == NOT_TESTABLE and not row["why"].strip()]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path.name} is no file of results ({error!r}); run its notebook again.") from error
    if silent:
        raise ValueError(f"{path.name}: {silent[0]} is called not testable without saying what is missing.")
    return rows


def table(recorded: pd.DataFrame) -> pd.DataFrame:
    """Every claim at least once, in the paper's order: the columns of ``figures/claims.csv``.

    One row for each check recorded; a claim that no notebook recorded has one row with the verdict "not measured yet".
    """
    claims = paper.claims()
    claims["paper_value"] = (claims.paper_value + " " + claims.unit).str.strip()
    full = claims.drop(columns="unit").merge(recorded, on="id", how="left")
    full["verdict"] = full.verdict.fillna(UNMEASURED)
    rank = {name: i for i, name in enumerate(EVIDENCE)}
    full["order"] = full.evidence.map(rank).fillna(0)
    full = full.sort_values(["id", "order", "notebook"], kind="stable")
    return full[COLUMNS].fillna("").reset_index(drop=True)


def read(path: Path = FIGURES / "claims.csv") -> pd.DataFrame:
    """The table as it was saved."""
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def save(claims: pd.DataFrame, folder: Path | None = None) -> Path:
    """Write ``claims.csv``."""
    return style.save_table(claims, "claims", folder)


def combined(verdicts: Iterable[str]) -> str:
    """One verdict for several checks of a claim on one kind of evidence."""
    said = set(verdicts)
    if {HOLDS, FAILS} <= said:
        return PART
    return next((verdict for verdict in (HOLDS, FAILS, UNMEASURED, NOT_TESTABLE) if verdict in said), "")


def verdicts(claims: pd.DataFrame, evidence: Sequence[str] = EVIDENCE) -> pd.DataFrame:
    """One row a claim (index: id), one column for each kind of evidence; "" where it was not held against the claim."""
    board = pd.DataFrame("", index=pd.Index(claims.id.unique(), name="id"), columns=list(evidence))
    for (claim, kind), group in claims[claims.evidence.isin(evidence)].groupby(["id", "evidence"]):
        board.loc[claim, kind] = combined(group.verdict)
    return board


def counts(claims: pd.DataFrame, evidence: Sequence[str] = EVIDENCE) -> pd.DataFrame:
    """Number of claims with each verdict, by evidence; each row adds up to all claims."""
    board = verdicts(claims, evidence)
    names = [HOLDS, PART, FAILS, NOT_TESTABLE, UNMEASURED]
    rows = {kind: [int((board[kind] == name).sum()) for name in (*names, "")] for kind in evidence}
    return pd.DataFrame.from_dict(rows, orient="index", columns=[*names, "no check"]).rename_axis("evidence")


def in_words(claims: pd.DataFrame) -> str:
    """How many claims have a verdict and how many of these measure nothing; how many cannot have one, or wait."""
    board = verdicts(claims)
    judged = board.isin([HOLDS, PART, FAILS]).any(axis=1)
    missing = ~judged & board.index.isin(claims.id[claims.verdict == UNMEASURED])
    untestable = int((~judged & ~missing).sum())
    said = claims[claims.verdict.isin([HOLDS, FAILS])]
    measured = said.id[~said.why.str.contains(ARITHMETIC, regex=False)].nunique()
    return (
        f"Of {len(board)} claims, {int(judged.sum())} could be judged by at least one kind of evidence, "
        f"{int(judged.sum()) - measured} of them by {ARITHMETIC.replace(', no', ' and no')}; "
        f"{untestable} are not testable here, {int(missing.sum())} are not measured yet."
    )


def in_disagreement(claims: pd.DataFrame) -> pd.DataFrame:
    """Claims on which the kinds of evidence differ, holds against fails."""
    board = verdicts(claims)
    said = board.apply(lambda row: {v for v in row if v in (HOLDS, PART, FAILS)}, axis=1)
    return board[said.map(len) > 1]


def one_line_each(claims: pd.DataFrame, evidence: Sequence[str] = EVIDENCE, width: int = 84) -> str:
    """The scoreboard as plain text without numbers: id, claim (cut to ``width``), verdict by evidence."""
    board = verdicts(claims, evidence)
    text = claims.drop_duplicates("id").set_index("id").claim
    short = [c if len(c) <= width else c[: width - 1].rstrip() + "…" for c in text.loc[board.index]]
    missing = set(claims.id[claims.evidence == ""])
    lines = [f"{'':4} {'claim':{width}} " + " ".join(f"{kind:17}" for kind in evidence)]
    for (claim, row), said in zip(board.iterrows(), short, strict=True):
        cells = [UNMEASURED] if claim in missing else [value or "–" for value in row]
        lines.append(f"{claim:4} {said:{width}} " + " ".join(f"{cell:17}" for cell in cells))
    return "\n".join(line.rstrip() for line in lines)


def reasons(claims: pd.DataFrame) -> str:
    """Why what is not testable here is not, one line a reason: what was found, if anything, and the rule or the gap."""
    rows = claims[claims.verdict == NOT_TESTABLE].drop_duplicates(["id", "evidence", "our_value", "why"])
    return "\n".join(f"{row.id} [{row.evidence}] {_found(row)}" for row in rows.itertuples())


def _found(row: Any) -> str:
    """Value and reason of a row without a verdict; the reason alone where nothing was measured."""
    return row.why if row.our_value in NOTHING else f"{row.our_value}; {row.why}"


def prose() -> list[paper.Check]:
    """Claims that the paper itself states without a measurement of its own, found by the notes in ``claims.csv``."""
    rows = []
    for claim in paper.claims().itertuples():
        why = next((reason for note, reason in NOTES.items() if note in claim.claim), "")
        if why:
            rows.append(paper.Check(claim.id, "paper", "–", None, why))
    return rows


def markdown(claims: pd.DataFrame, notebooks: str = "notebooks/", evidence: Sequence[str] = EVIDENCE) -> str:
    """The whole table with our values; each links to the checks of its notebook, which lies at ``notebooks``."""
    lines = [_row("claim", "paper says", *evidence), _row(*["---"] * (len(evidence) + 2))]
    for claim, rows in claims.groupby("id", sort=False):
        first = rows.iloc[0]
        said = first.paper_value or "(in words)"
        cells = ["<br>".join(_cell(row, notebooks) for row in rows[rows.evidence == k].itertuples()) for k in evidence]
        if rows.evidence.eq("").all():
            cells[0] = f"*{UNMEASURED}*"
        lines.append(_row(f"**{claim}** {first.claim} *({first['where']})*", said, *cells))
    return "\n".join(lines)


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _cell(row: Any, notebooks: str) -> str:
    link = f"[{row.notebook.split('_')[0]}]({notebooks}{row.notebook}.ipynb#Checks)"
    value = _found(row) if row.verdict == NOT_TESTABLE else row.why if row.our_value == "–" else row.our_value
    return f"**{row.verdict}**: {value} {link}"


def show(claims: pd.DataFrame, evidence: Sequence[str] = EVIDENCE) -> Markdown:
    """The whole table for a notebook."""
    return Markdown(markdown(claims, "", evidence))


def readme_block(claims: pd.DataFrame) -> str:
    """What stands in the README between the markers, markers included."""
    table_of_counts = counts(claims)
    lines = [_row("evidence", *table_of_counts.columns), _row(*["---"] * (len(table_of_counts.columns) + 1))]
    lines += [_row(str(kind), *map(str, row)) for kind, row in table_of_counts.iterrows()]
    parts = [BEGIN, in_words(claims), "\n".join(lines), "<details>\n<summary>All claims</summary>", markdown(claims)]
    return "\n\n".join([*parts, "</details>", END])


def with_block(text: str, block: str) -> str:
    """``text`` with ``block`` in place of what stood between the markers; raises ValueError if they are not there."""
    start, end = text.find(BEGIN), text.find(END)
    if start < 0 or end < start:
        raise ValueError(f"the text has no lines {BEGIN} and {END}, in this order, to write between.")
    return text[:start] + block + text[end + len(END) :]


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the scoreboard into a README; exit status 2 if it has no place for it."""
    parser = argparse.ArgumentParser(prog="python -m sparsinglib.scoreboard", description=__doc__)
    parser.add_argument(
        "file", nargs="?", type=Path, default=ROOT / "README.md", help="file with the two markers (default: README.md)"
    )
    options = parser.parse_args(arguments)
    try:
        text = options.file.read_text(encoding="utf-8")
        write_atomically(options.file, with_block(text, readme_block(read())))
    except (OSError, ValueError) as error:
        parser.error(f"{options.file.name}: {error}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
