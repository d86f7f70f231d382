"""Tables 1, 4, 5 and 6: the paper's numbers, its averages computed again, where they part, and the ladder's."""

import numpy as np
import pandas as pd

from ...core.rules import FAT, StraightforwardReLU, TopK
from ...core.thresholds import Thresholds
from ...paper import published
from ...paper.claims import mean_of

COMMONSENSE, READING, COMPLEX = "commonsense_reasoning", "reading_comprehension", "complex"
GROUP_OF_TABLE = {4: COMMONSENSE, 5: READING, 6: COMPLEX}
NAMES = {Thresholds: "CETT", TopK: "Top-k", FAT: "FAT-ε", StraightforwardReLU: "zeros of ReLU"}
ROUNDING = 0.05  # points; what a printed tenth can hide
MODEL = ["scale", "activation", "p_pct"]


def averages() -> pd.DataFrame:
    """Printed and recomputed average (percent) of each model, p and group of Tables 4 to 6; the columns' plain mean."""
    rows = [published.table(number).assign(group=group) for number, group in GROUP_OF_TABLE.items()]
    mean = pd.concat(rows).groupby([*MODEL, "group"], sort=False).score_pct.mean().rename("recomputed_pct")
    printed = published.read("tables4_5_6_printed_averages").set_index([*MODEL, "group"]).avg_printed_pct
    return pd.concat([printed.rename("printed_pct"), mean], axis=1).reset_index()


def changes() -> pd.DataFrame:
    """Change from dense (points) of each model's recomputed average: scale, activation, p_pct, group, change."""
    table, keys = averages(), ["scale", "activation", "group"]
    joined = table.join(table[table.p_pct == 0].set_index(keys).recomputed_pct.rename("dense_pct"), on=keys)
    return joined.assign(change=joined.recomputed_pct - joined.dense_pct)[joined.p_pct > 0].reset_index(drop=True)


def mean_changes() -> pd.DataFrame:
    """Mean change over the ten models by group and p, its 90 % t interval, and what Table 1 prints (points)."""
    printed = published.read("table1_overall_average").set_index(["group", "p_pct"]).mean_delta_vs_dense_pct
    rows = []
    for (group, p), part in changes().groupby(["group", "p_pct"], sort=False):
        mean = mean_of(part.change)
        rows.append((group, p, mean.value, mean.low, mean.high, printed.get((group, p), np.nan)))
    return pd.DataFrame(rows, columns=["group", "p_pct", "change", "low", "high", "printed"])


def inconsistencies() -> pd.DataFrame:
    """Where the tables disagree with themselves by more than rounding: where, printed, recomputed, difference."""
    table = comparisons()[["where", "printed", "recomputed"]]
    table = table.assign(difference=table.printed - table.recomputed)
    return table[table.difference.abs() > ROUNDING + 1e-9].reset_index(drop=True)


def comparisons() -> pd.DataFrame:
    """Averages, changes and means of Tables 1, 4, 5 and 6 beside those that follow from other printed numbers.

    Columns: table, where, printed, recomputed (percent or points).
    """
    rows: list[tuple] = []
    table_of = {group: number for number, group in GROUP_OF_TABLE.items()}
    for r in averages().itertuples():
        table = table_of[r.group]
        where = f"Table {table}, {r.scale} {r.activation}, p = {r.p_pct}: average"
        rows.append((table, where, r.printed_pct, r.recomputed_pct))
    # Table 1's changes against the differences of the averages that Tables 4 and 5 print; its means against theirs.
    first = published.table(1)
    for group, column in ((COMMONSENSE, "table4"), (READING, "table5")):
        average = first.set_index(MODEL)[f"{group}_{column}_avg_pct"]
        for r in first[first.p_pct > 0].itertuples():
            change = average[r.scale, r.activation, r.p_pct] - average[r.scale, r.activation, 0]
            where = f"Table 1, {r.scale} {r.activation}, p = {r.p_pct}, {short(group)}: change"
            rows.append((1, where, getattr(r, f"{group}_delta_printed_pct"), change))
    for r in mean_changes().dropna(subset="printed").itertuples():
        rows.append((1, f"Table 1, mean, p = {r.p_pct}, {short(r.group)}: change", r.printed, r.change))
    dense = published.read("table1_overall_average").query("p_pct == 0").set_index("group").dense_mean_score_pct
    means = averages().query("p_pct == 0").groupby("group").recomputed_pct.mean()
    rows += [(1, f"Table 1, mean, p = 0, {short(group)}: score", dense[group], means[group]) for group in dense.index]
    return pd.DataFrame(rows, columns=["table", "where", "printed", "recomputed"])


def short(group: str) -> str:
    """A group of benchmarks in a word."""
    return group.partition("_")[0]


def table_1(means: pd.DataFrame, evidence: str = "ladder") -> pd.DataFrame:
    """Table 1, tidy: the paper's rows, then the ladder's from ``task_statistics.group_means`` (points).

    Columns: evidence, model, p_pct, group, score_pct (dense) or NaN, change, low, high (90 %), printed_change.
    """
    dense = averages().query("p_pct == 0 and group != @COMPLEX")
    printed = published.table(1).melt(MODEL, [f"{g}_delta_printed_pct" for g in (COMMONSENSE, READING)], "group")
    printed["group"] = printed.group.str.removesuffix("_delta_printed_pct")
    change = changes().query("group != @COMPLEX").merge(printed, on=[*MODEL, "group"])
    rows = pd.concat([dense, change.rename(columns={"value": "printed_change"})])
    rows = _paper(rows).rename(columns={"recomputed_pct": "score_pct"})
    mean = mean_changes().query("group != @COMPLEX").rename(columns={"printed": "printed_change"})
    own = scaled(means[means.p.notna() & (means.group != COMPLEX)]).assign(evidence=evidence)
    columns = ["evidence", "model", "p_pct", "group", "score_pct", "change", "low", "high", "printed_change"]
    parts = [rows, mean.assign(evidence="paper", model="mean"), own]
    return pd.concat(parts).reindex(columns=columns).reset_index(drop=True)


def _paper(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.assign(evidence="paper", model=rows.scale.str.lower() + "-" + rows.activation)


def scaled(own: pd.DataFrame) -> pd.DataFrame:
    """Our scores, changes and errors under the tables' names, in percent and points."""
    names = {"value": "score_pct", "difference": "change", "difference_low": "low", "difference_high": "high"}
    return own.assign(p_pct=own.p, **{name: 100 * own[column] for column, name in names.items()})


def table_4_to_6(number: int, summary: pd.DataFrame, tasks: pd.DataFrame, evidence: str = "ladder") -> pd.DataFrame:
    """Table 4, 5 or 6, tidy: the paper's scores with averages, and the ladder's with errors (percent).

    Columns: evidence, model, p_pct, benchmark, score_pct, standard_error, n, change, low, high. ``summary`` is that of
    ``tasks.evaluate``, ``tasks`` that of ``offline_tasks.table``.
    """
    group = GROUP_OF_TABLE[number]
    means = averages().query("group == @group").rename(columns={"recomputed_pct": "score_pct"})
    theirs = pd.concat([published.table(number), means.assign(benchmark="average (recomputed)")])
    own = summary[summary.p.notna()].merge(tasks[tasks.group == group], on=["task", "metric"])
    own = own.assign(benchmark=own.task + " (" + own.metric + ")", standard_error=100 * own.standard_error)
    columns = ["evidence", "model", "p_pct", "benchmark", "score_pct", "standard_error", "n", "change", "low", "high"]
    parts = [_paper(theirs), scaled(own).assign(evidence=evidence)]
    return pd.concat(parts).reindex(columns=columns).reset_index(drop=True)


def recorded(table: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
    """What ``table_1`` kept of models that are not the paper's, for reading: one row a model and group.

    Dense score (percent), and its change at each p with its 90 % interval (points); ``scores``, a table of
    ``table_4_to_6``, tells on how many examples of each task.
    """
    own = table[table.evidence != "paper"]
    examples = scores[scores.evidence != "paper"].groupby("model").n.min()
    return by_group(own.assign(n=own.model.map(examples)), "n")


def by_group(own: pd.DataFrame, count: str) -> pd.DataFrame:
    """One row a model and group of ``scaled`` scores: the column ``count``, and ``_in_words``; printed values."""
    rows = []
    for (model, group), part in own.groupby(["model", "group"], sort=False):
        row = {"model": model, "group": group.replace("_", " "), count: int(part[count].iloc[0])}
        rows.append(row | _in_words(part))
    return pd.DataFrame(rows)


def _in_words(part: pd.DataFrame) -> dict[str, str]:
    """Dense score (percent) of a model and group, and its change at each p with the interval (points)."""
    by_p = part.set_index("p_pct")
    if by_p.score_pct.isna()[0]:
        return {"dense": "not testable at this scale"}
    changes = {f"p = {r.Index:g}": f"{r.change:+z.1f} ({r.low:+z.1f} to {r.high:+z.1f})" for r in by_p.itertuples()}
    return {"dense": f"{by_p.score_pct[0]:.1f}"} | {name: said for name, said in changes.items() if name != "p = 0"}
