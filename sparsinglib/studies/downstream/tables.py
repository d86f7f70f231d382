"""Tables 1, 4, 5 and 6: the paper's numbers, its averages computed again, where they part, and the ladder's."""

import numpy as np
import pandas as pd
from scipy import stats

from ...paper import published

COMMONSENSE, READING, COMPLEX = "commonsense_reasoning", "reading_comprehension", "complex"
GROUP_OF_TABLE = {4: COMMONSENSE, 5: READING, 6: COMPLEX}
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
    table = averages()
    dense = table[table.p_pct == 0].set_index(["scale", "activation", "group"]).recomputed_pct.rename("dense_pct")
    joined = table.join(dense, on=["scale", "activation", "group"])
    return joined.assign(change=joined.recomputed_pct - joined.dense_pct)[joined.p_pct > 0].reset_index(drop=True)


def mean_changes() -> pd.DataFrame:
    """Mean change over the ten models by group and p, its 90 % t interval, and what Table 1 prints (points)."""
    printed = published.read("table1_overall_average").set_index(["group", "p_pct"]).mean_delta_vs_dense_pct
    rows = []
    for (group, p), part in changes().groupby(["group", "p_pct"], sort=False):
        rows.append((group, p, *t_interval(part.change), printed.get((group, p), np.nan)))
    return pd.DataFrame(rows, columns=["group", "p_pct", "change", "low", "high", "printed"])


def t_interval(values: pd.Series) -> tuple[float, float, float]:
    """Mean and 90 % interval over models, taken as a sample of such models."""
    mean, error = float(values.mean()), float(stats.sem(values))
    low, high = stats.t.interval(0.90, len(values) - 1, loc=mean, scale=error)
    return mean, float(low), float(high)


def inconsistencies() -> pd.DataFrame:
    """Where the tables disagree with themselves by more than rounding: where, printed, recomputed, difference."""
    rows = []
    for row in averages().itertuples():
        if abs(row.printed_pct - row.recomputed_pct) > ROUNDING + 1e-9:
            table = next(number for number, group in GROUP_OF_TABLE.items() if group == row.group)
            where = f"Table {table}, {row.scale} {row.activation}, p = {row.p_pct}: average"
            rows.append((where, row.printed_pct, row.recomputed_pct))
    rows += [*_table_1_rows(), *_table_1_means()]
    table = pd.DataFrame(rows, columns=["where", "printed", "recomputed"])
    return table.assign(difference=table.printed - table.recomputed)


def _table_1_rows() -> list[tuple[str, float, float]]:
    """Table 1's changes against the differences of the averages that Tables 4 and 5 print."""
    first, rows = published.table(1), []
    for group, column in ((COMMONSENSE, "table4"), (READING, "table5")):
        average = first.set_index(MODEL)[f"{group}_{column}_avg_pct"]
        for row in first[first.p_pct > 0].itertuples():
            change = average[row.scale, row.activation, row.p_pct] - average[row.scale, row.activation, 0]
            printed = getattr(row, f"{group}_delta_printed_pct")
            if abs(printed - change) > ROUNDING:
                name = f"Table 1, {row.scale} {row.activation}, p = {row.p_pct}, {group.partition('_')[0]}: change"
                rows.append((name, printed, change))
    return rows


def _table_1_means() -> list[tuple[str, float, float]]:
    """Table 1's last column against the mean changes of Tables 4 and 5, both to two digits."""
    table = mean_changes().dropna(subset="printed")
    far = table[(table.printed - table.change).abs() > ROUNDING]
    return [(f"Table 1, mean, p = {r.p_pct}, {r.group.partition('_')[0]}: change", r.printed, r.change)
            for r in far.itertuples()]  # fmt: skip


def table_1(means: pd.DataFrame, evidence: str = "ladder") -> pd.DataFrame:
    """Table 1, tidy: the paper's rows, then the ladder's from ``task_statistics.group_means`` (points).

    Columns: evidence, model, p_pct, group, score_pct (dense) or NaN, change, low, high (90 %), printed_change.
    """
    table = averages()
    dense = table[(table.p_pct == 0) & (table.group != COMPLEX)]
    printed = published.table(1).melt(
        id_vars=MODEL, value_vars=[f"{g}_delta_printed_pct" for g in (COMMONSENSE, READING)]
    )
    printed["group"] = printed.variable.str.removesuffix("_delta_printed_pct")
    change = changes()
    change = change[change.group != COMPLEX].merge(printed, on=[*MODEL, "group"]).rename(
        columns={"value": "printed_change", "recomputed_pct": "score_pct"}
    )  # fmt: skip
    rows = pd.concat([dense.rename(columns={"recomputed_pct": "score_pct"}), change])
    rows["model"] = rows.scale.str.lower() + "-" + rows.activation
    mean = mean_changes().query("group != @COMPLEX").rename(columns={"printed": "printed_change"})
    parts = [rows.assign(evidence="paper"), mean.assign(evidence="paper", model="mean"), _own(means, evidence)]
    columns = ["evidence", "model", "p_pct", "group", "score_pct", "change", "low", "high", "printed_change"]
    return pd.concat(parts)[columns].reset_index(drop=True)


def _own(means: pd.DataFrame, evidence: str) -> pd.DataFrame:
    rows = means[means.p.notna() & (means.group != COMPLEX)]
    return pd.DataFrame(
        {
            "evidence": evidence,
            "model": rows.model,
            "p_pct": rows.p,
            "group": rows.group,
            "score_pct": 100 * rows.value,
            "change": 100 * rows.difference,
            "low": 100 * rows.difference_low,
            "high": 100 * rows.difference_high,
        }
    )


def table_4_to_6(number: int, summary: pd.DataFrame, tasks: pd.DataFrame, evidence: str = "ladder") -> pd.DataFrame:
    """Table 4, 5 or 6, tidy: the paper's scores with averages, and the ladder's with errors (percent).

    Columns: evidence, model, p_pct, benchmark, score_pct, standard_error, n, change, low, high. ``summary`` is that of
    ``tasks.evaluate``, ``tasks`` that of ``offline_tasks.table``.
    """
    group, printed = GROUP_OF_TABLE[number], published.table(number)
    means = averages()
    means = means[means.group == group].rename(columns={"recomputed_pct": "score_pct"})
    theirs = pd.concat([printed, means.assign(benchmark="average (recomputed)")])
    theirs["model"] = theirs.scale.str.lower() + "-" + theirs.activation
    own = summary[summary.p.notna()].merge(tasks[tasks.group == group], on=["task", "metric"])
    own = own.assign(p_pct=own.p, benchmark=own.task + " (" + own.metric + ")", score_pct=100 * own.value)
    for name, column in {"change": "difference", "low": "difference_low", "high": "difference_high"}.items():
        own[name] = 100 * own[column]
    own["standard_error"] *= 100
    columns = ["evidence", "model", "p_pct", "benchmark", "score_pct", "standard_error", "n", "change", "low", "high"]
    parts = [theirs.assign(evidence="paper"), own.assign(evidence=evidence)]
    return pd.concat(parts).reindex(columns=columns).reset_index(drop=True)


def recorded(table: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
    """What ``table_1`` kept of models that are not the paper's, for reading: one row a model and group.

    Dense score (percent), and its change at each p with its 90 % interval (points); ``scores``, a table of
    ``table_4_to_6``, tells on how many examples of each task.
    """
    own = table[table.evidence != "paper"]
    examples = scores[scores.evidence != "paper"].groupby("model").n.min()
    rows = []
    for (model, group), part in own.groupby(["model", "group"], sort=False):
        by_p = part.set_index("p_pct")
        row = {"model": model, "group": group.replace("_", " "), "n": int(examples[model])}
        row["dense"] = f"{by_p.score_pct[0]:.1f}"
        row |= {
            f"p = {p:g}": f"{r.change:+.1f} ({r.low:+.1f} to {r.high:+.1f})" for p, r in by_p.drop(index=0).iterrows()
        }
        rows.append(row)
    return pd.DataFrame(rows)
