"""All claims beside the verdicts recorded; ``python -m sparsinglib.paper.scoreboard`` writes the page.

No verdict is made here, each comes from ``claims.judge``. The page ``docs/claims.md`` says what ``figures/claims.csv``
says, one row a claim.
"""

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from textwrap import shorten

import pandas as pd

from ..core import arguments
from ..files import FIGURES, ROOT, output_dir, write_atomically
from . import published, style
from .claims import COLUMNS, Row
from .markdown import markdown
from .published import EVIDENCE
from .rules import Verdict, combined

NOT_RECORDED = "no notebook recorded it"
WIDEST = 120  # characters of a cell of the page
PAGE = ROOT / "docs" / "claims.md"
HEAD = """# The paper's claims

One row a claim; the verdict on each kind of evidence with our value and its 90 % interval. The rules stand in
`data/paper/claims.csv`, where they were set down before the results, and `sparsinglib/paper/rules.py` applies them:
*holds*, *fails*, *inconclusive* (measured, the interval decides nothing), *no data* (not measured). What is cut here
stands in full, with the reasons, in `figures/claims.csv`. Written by `python -m sparsinglib.paper.scoreboard`.
"""


def collect(folders: Iterable[Path] | None = None) -> pd.DataFrame:
    """What the notebooks recorded, in their order: id, evidence, our_value, verdict, why.

    ``folders`` hold one JSON file a notebook (default: the shipped results, and those of the run at hand). A later
    folder takes the place of an earlier one for a notebook's evidence of one kind. Evidence about a user's own models
    says nothing about the paper and is left out. Raises ValueError for a file that cannot be read.
    """
    rows: dict[tuple[str, str], list[dict[str, str]]] = {}
    for folder in folders or dict.fromkeys((FIGURES / "results", output_dir() / "results")):
        found: dict[tuple[str, str], list[dict[str, str]]] = {}
        for path in sorted(folder.glob("*.json")):
            for row in _read(path):
                found.setdefault((path.stem, row["evidence"]), []).append(row)
        rows |= found
    ordered = [row for key in sorted(rows) for row in rows[key] if row["evidence"] in EVIDENCE]
    return pd.DataFrame(ordered, columns=list(Row._fields))


def _read(path: Path) -> list[dict[str, str]]:
    try:
        rows: list[dict[str, str]] = json.loads(path.read_text(encoding="utf-8"))["verdicts"]
        silent = [row["id"] for row in rows if Verdict(row["verdict"]) == Verdict.NO_DATA and not row["why"].strip()]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path.name} is no file of results ({error!r}); run its notebook again.") from error
    if silent:
        raise ValueError(f"{path.name}: {silent[0]} has no data and does not say what is missing.")
    return rows


def table(recorded: pd.DataFrame) -> pd.DataFrame:
    """Every claim at least once, in the paper's order: the columns of ``figures/claims.csv``.

    A claim that no notebook recorded has no data, and an ill-posed one says why nothing can be.
    """
    known = published.claims()
    silent = (known.bound + "; " + known.statistic).where(known.rule == "none", NOT_RECORDED)
    full = known.assign(silent=silent).merge(recorded, on="id", how="left")
    full = full.assign(why=full.why.fillna(full.silent)).fillna({"verdict": str(Verdict.NO_DATA)}).fillna("")
    rank = full.evidence.map({"": 0} | {kind: i for i, kind in enumerate(EVIDENCE)})
    return full.assign(rank=rank).sort_values(["id", "rank"], kind="stable")[COLUMNS].reset_index(drop=True)


def read(path: Path = FIGURES / "claims.csv") -> pd.DataFrame:
    """The table as it was saved."""
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def save(claims: pd.DataFrame, folder: Path | None = None) -> Path:
    """Write ``claims.csv`` into ``folder`` (default: ``output_dir()``); gives its path."""
    return style.save_table(claims, "claims", folder)


def verdicts(claims: pd.DataFrame, evidence: Sequence[str] = EVIDENCE) -> pd.DataFrame:
    """One row a claim (index: id), a column for each kind of evidence: the verdict of all its rows together.

    Raises ValueError for an unknown kind.
    """
    kinds = arguments.several("evidence", evidence, arguments.one_of, choices=EVIDENCE)
    ids = pd.Index(claims.id.unique(), name="id")
    board = claims.groupby(["id", "evidence"]).verdict.agg(lambda said: str(combined(said))).unstack()
    full = board.reindex(index=ids, columns=kinds).astype(object)
    return full.fillna(str(Verdict.NO_DATA)).rename_axis(columns=None)


def counts(claims: pd.DataFrame, evidence: Sequence[str] = EVIDENCE) -> pd.DataFrame:
    """Number of claims with each verdict (columns) by evidence (index); each row adds up to all claims."""
    board = verdicts(claims, evidence)
    found = board.apply(lambda said: said.value_counts()).T.reindex(columns=[str(v) for v in Verdict])
    return found.fillna(0).astype(int).rename_axis("evidence")


def by_verdict(claims: pd.DataFrame, evidence: Sequence[str] = EVIDENCE) -> pd.DataFrame:
    """The ids of the claims with each verdict (index; no data is the rest) by evidence (columns)."""
    board = verdicts(claims, evidence)
    told = [str(verdict) for verdict in Verdict if verdict != Verdict.NO_DATA]
    named = {kind: [" ".join(board.index[board[kind] == verdict]) for verdict in told] for kind in board}
    return pd.DataFrame(named, index=pd.Index(told, name="verdict"))


def in_disagreement(claims: pd.DataFrame) -> pd.DataFrame:
    """Claims that hold on one kind of evidence and fail on another."""
    board = verdicts(claims)
    return board[(board == Verdict.HOLDS).any(axis=1) & (board == Verdict.FAILS).any(axis=1)]


def one_row_each(claims: pd.DataFrame) -> pd.DataFrame:
    """The page's table: claim, where, paper says, and a cell for each kind of evidence, none longer than ``WIDEST``."""
    board, rows = verdicts(claims), []
    for claim, group in claims.groupby("id", sort=False):
        first = group.iloc[0]
        row = {"claim": f"{claim} {first.claim}", "where": first["where"], "paper says": first.paper_value}
        for kind in EVIDENCE:
            said = group[(group.evidence == kind) | (group.evidence == "") & (group.why != NOT_RECORDED)]
            found = said.our_value.where(~said.our_value.isin(["–", ""]), said.why).tolist()
            row[kind] = ": ".join([str(board.loc[claim, kind]), "; ".join(found)]).removesuffix(": ")
        rows.append({name: shorten(text, WIDEST, placeholder=" …") for name, text in row.items()})
    return pd.DataFrame(rows)


def page(claims: pd.DataFrame) -> str:
    """The text of ``docs/claims.md``."""
    return "\n".join([HEAD, markdown(counts(claims).reset_index()), "", markdown(one_row_each(claims)), ""])


def main() -> None:
    """Write the page from the table; it ends with a line that says so where there is no table."""
    try:
        write_atomically(PAGE, page(read()))
    except OSError as error:
        sys.exit(f"{error}: notebook 11 writes the table")


if __name__ == "__main__":
    main()
