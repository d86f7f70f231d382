"""The authors' numbers and claims, as shipped in ``data/paper`` (arXiv 2411.02335 v4).

The only module that reads ``data/paper``; each file's source is in ``data/paper/README.md``.
"""

import pandas as pd

from ..files import PAPER

EVIDENCE = ("paper", "ladder", "released")
ACTIVATIONS = ("relu", "silu")
TOKEN_UNITS = {"paper": 1e9, "ladder": 1e6, "released": 1e9}  # what laws count tokens in
TABLES = {
    1: "table1_average_performance.csv",
    2: "table2_law_coefficients.csv",
    3: "table3_training.csv",
    4: "table4_commonsense_reasoning.csv",
    5: "table5_reading_comprehension.csv",
    6: "table6_complex_benchmarks.csv",
}


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
