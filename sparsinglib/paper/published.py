"""The authors' numbers and claims, as shipped in ``data/paper`` (arXiv 2411.02335 v4), and the table of checks.

The only module that reads ``data/paper``; each file's source is in ``data/paper/README.md``.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from ..files import FIGURES, PAPER, output_dir, write_atomically

EVIDENCE = ("paper", "ladder", "released")
ACTIVATIONS = ("relu", "silu")
TOKEN_UNITS = {"paper": 1e9, "ladder": 1e6, "released": 1e9}  # what laws count tokens in
VERDICTS = ("holds", "fails", "not testable here")
NOT_YET = "not measured yet"  # testable, once what the row names is trained or measured
TABLES = {
    1: "table1_average_performance.csv",
    2: "table2_law_coefficients.csv",
    3: "table3_training.csv",
    4: "table4_commonsense_reasoning.csv",
    5: "table5_reading_comprehension.csv",
    6: "table6_complex_benchmarks.csv",
}
SHIPPED_RESULTS = FIGURES / "results"


class Check(NamedTuple):
    """One claim held against one kind of evidence.

    ``verdict`` is True, False, None for "not testable here", or NOT_YET where a measurement to come will tell.
    """

    id: str
    evidence: str
    our_value: str
    verdict: bool | str | None
    why: str


def read(name: str) -> pd.DataFrame:
    """The shipped file ``name``, with or without ``.csv``. Raises FileNotFoundError that lists the files there are."""
    path = PAPER / (name if name.endswith(".csv") else f"{name}.csv")
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in PAPER.glob("*.csv")))
        raise FileNotFoundError(f"no paper data called {name!r}; there are: {known}")
    return pd.read_csv(path)


def table(number: int) -> pd.DataFrame:
    """Table ``number`` (1 to 6) as printed; units are in the column names."""
    if number not in TABLES:
        raise ValueError(f"the paper has tables {min(TABLES)} to {max(TABLES)}, not {number}")
    return read(TABLES[number])


def trend() -> pd.DataFrame:
    """The authors' trend points behind Figures 4 and 11: scale, activation, tokens (a count), activation_ratio."""
    return read("figure4_figure11_activation_trend").rename(columns={"tokens_passed": "tokens"})


def claims() -> pd.DataFrame:
    """All claims under test, as text: id, where, claim, paper_value ("" where in words), statistic, rule, bound, …"""
    table = pd.read_csv(PAPER / "claims.csv", dtype=str, keep_default_na=False)
    table = table.rename(columns={"section_or_figure": "where"})
    return table.assign(paper_value=(table.printed + " " + table.unit).str.strip().where(table.printed != "", ""))


def old_claims() -> pd.DataFrame:
    """The finer list of 82, until every topic is judged by the rules of ``claims``."""
    names = {"section_or_figure": "where", "value": "paper_value"}
    return pd.read_csv(PAPER / "claims_of_82.csv", dtype=str, keep_default_na=False).rename(columns=names)


def check(notebook: str, rows: Iterable[Check | tuple], folder: Path | None = None) -> pd.DataFrame:
    """The Checks table of one notebook: id, where, claim, paper_value, evidence, our_value, verdict, why.

    ``rows`` holds ``Check`` tuples; the claim's own columns come from ``claims()``. The rows also go to
    ``<notebook>.json`` in ``folder`` (default: ``results`` in ``output_dir()``), from which the scoreboard over all
    notebooks is built. Raises ValueError for an
    unknown claim id or a verdict that is not True, False, None or NOT_YET.
    """
    known = old_claims().set_index("id")
    out = []
    for row in map(lambda r: Check(*r), rows):
        if row.id not in known.index:
            raise ValueError(
                f"unknown claim {row.id!r}; data/paper/claims.csv has {known.index[0]} to {known.index[-1]}"
            )
        if row.verdict not in (None, NOT_YET) and bool(row.verdict) != row.verdict:
            rules = "give the outcome of a rule: True, False, None or NOT_YET"
            raise ValueError(f"{row.id}: verdict is {row.verdict!r}; {rules}")
        claim = known.loc[row.id]
        verdict = VERDICTS[2] if row.verdict is None else VERDICTS[0 if row.verdict else 1]
        if row.verdict == NOT_YET:
            verdict = NOT_YET
        value = f"{claim.paper_value} {claim.unit}".strip()
        out.append((row.id, claim["where"], claim.claim, value, row.evidence, str(row.our_value), verdict, row.why))
    columns = ["id", "where", "claim", "paper_value", "evidence", "our_value", "verdict", "why"]
    result = pd.DataFrame(out, columns=columns)
    folder = folder or output_dir() / "results"
    text = json.dumps({"notebook": notebook, "checks": result.to_dict("records")}, indent=1, ensure_ascii=False)
    write_atomically(folder / f"{notebook}.json", text)
    return result


def show(checks: pd.DataFrame, width: int = 60) -> str:
    """The Checks table as plain text, one claim after another, the same on every screen; for ``print``."""
    lines = []
    for row in checks.itertuples():
        lines.append(f"{row.id} [{row.evidence}] {row.verdict.upper()}: {row.claim}")
        if row.paper_value:
            lines.append(f"    paper: {row.paper_value}")
        lines.append(f"    ours:  {row.our_value}")
        lines.append(f"    why:   {row.why}")
    counts = checks.verdict.value_counts()
    named = [*VERDICTS, NOT_YET] if NOT_YET in counts else VERDICTS
    lines.append("; ".join(f"{counts.get(v, 0)} {v}" for v in named))
    return "\n".join(lines)
