"""Statistics of scores on the same examples: standard errors, paired differences, means over groups of tasks."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

DENSE = "dense"
COLUMNS = ["model", "rule", "p", "task", "metric", "example", "score"]
LEVEL = 0.90  # of all intervals of scores
RESAMPLES = 2000
SEED = 2411_02335
ERRORS_ABOVE_CHANCE = 2  # standard errors by which a dense score must beat chance to enter an average
FEWEST_TASKS = 2  # in an average


def summarise(examples: pd.DataFrame) -> pd.DataFrame:
    """One row a model, rule, task and metric from scores of examples (columns ``COLUMNS``); see ``tasks.evaluate``."""
    rows = []
    paired = with_dense(examples)
    for key, part in paired.groupby(["model", "rule", "p", "task", "metric"], sort=False, dropna=False):
        error = float(part.score.std(ddof=1) / math.sqrt(len(part))) if len(part) > 1 else float("nan")
        row = (*key, float(part.score.mean()), error, len(part))
        change, test = (0.0, 0.0, 0.0), math.nan
        if key[1] != DENSE:
            change, test = interval([(part.score - part.dense).to_numpy()]), mcnemar(part.dense, part.score)
        rows.append((*row, *change, test))
    names = ["value", "standard_error", "n", "difference", "difference_low", "difference_high", "p_value"]
    return pd.DataFrame(rows, columns=[*COLUMNS[:5], *names])


def with_dense(examples: pd.DataFrame) -> pd.DataFrame:
    """Add the column ``dense``: the dense model's score on the same example. Raises ValueError if one is missing."""
    on = ["model", "task", "metric", "example"]
    dense = examples[examples.rule == DENSE].set_index(on).score.rename("dense")
    paired = examples.join(dense, on=on)
    if paired.dense.isna().any():
        lost = paired[paired.dense.isna()].iloc[0]
        raise ValueError(f"{lost.model}, {lost.task}: example {lost.example} was not scored by the dense model.")
    return paired


def interval(samples: Sequence[np.ndarray]) -> tuple[float, float, float]:
    """Sum of the samples' means with its bootstrap interval (percentiles, each sample resampled by itself)."""

    def total(*values: np.ndarray, axis: int = -1) -> np.ndarray:
        return sum(value.mean(axis=axis) for value in values)

    centre = float(total(*samples))
    if max(np.ptp(sample) for sample in samples) == 0:
        return centre, centre, centre
    ends = stats.bootstrap(
        [np.asarray(sample) for sample in samples], total, n_resamples=RESAMPLES, confidence_level=LEVEL,
        method="percentile", vectorized=True, rng=np.random.default_rng(SEED),
    ).confidence_interval  # fmt: skip
    return centre, float(ends.low), float(ends.high)


def mcnemar(before: pd.Series, after: pd.Series) -> float:
    """Exact McNemar test of two 0/1 scores of the same examples (two-sided p); NaN for other scores."""
    if not set(before) | set(after) <= {0.0, 1.0}:
        return math.nan
    lost, won = int(((before == 1) & (after == 0)).sum()), int(((before == 0) & (after == 1)).sum())
    return float(stats.binomtest(lost, lost + won).pvalue) if lost + won else 1.0


def above_chance(summary: pd.DataFrame, floors: pd.DataFrame) -> pd.DataFrame:
    """Dense rows of ``summary`` with chance and ``testable``: at least two standard errors above it.

    ``floors`` has the columns task, metric, chance.
    """
    dense = summary[summary.rule == DENSE].merge(floors[["task", "metric", "chance"]], on=["task", "metric"])
    testable = dense.value - dense.chance >= ERRORS_ABOVE_CHANCE * dense.standard_error
    return dense.assign(testable=testable & (dense.value > dense.chance))


def group_means(examples: pd.DataFrame, groups: pd.DataFrame, testable: pd.DataFrame) -> pd.DataFrame:
    """Mean score of each group of tasks, its change from dense and the change's interval, by model, rule and group.

    ``groups`` has the columns task, metric, group; each metric counts once, as in the paper's averages. Only the rows
    of ``above_chance`` that are testable enter. A group with fewer than two such tasks has NaN. The row of the model
    "mean" is the mean over models, on rules that all have.
    """
    kept = testable[testable.testable][["model", "task", "metric"]]
    paired = with_dense(examples).merge(groups[["task", "metric", "group"]], on=["task", "metric"])
    used = paired.merge(kept, on=["model", "task", "metric"])
    rows: list[tuple] = []
    for (model, group), everything in paired.groupby(["model", "group"], sort=False):
        for (rule, p), _ in everything.groupby(["rule", "p"], sort=False, dropna=False):
            part = used[(used.model == model) & (used.group == group) & (used.rule == rule)]
            rows.append((model, rule, p, group, part.task.nunique(), *_mean_change(part)))
    names = ["model", "rule", "p", "group", "tasks", "value", "difference", "difference_low", "difference_high"]
    table = pd.DataFrame(rows, columns=names)
    by_rule = table.dropna(subset="value").groupby(["rule", "p", "group"], sort=False, dropna=False)
    for (rule, p, group), part in by_rule:
        if part.model.nunique() == table.model.nunique() > 1:
            cells = used[(used.rule == rule) & (used.group == group)]
            rows.append(("mean", rule, p, group, cells.task.nunique(), *_mean_change(cells)))
    return pd.DataFrame(rows, columns=names)


def _mean_change(part: pd.DataFrame) -> tuple[float, float, float, float]:
    """Mean score over a group's cells (model × task × metric) and the change from dense; NaN if too few tasks."""
    if part.task.nunique() < FEWEST_TASKS:
        return (math.nan,) * 4
    models = part.model.nunique()
    cells = part.groupby("model").apply(lambda m: len(m[["task", "metric"]].drop_duplicates()), include_groups=False)
    weight = 1 / (models * part.model.map(cells))
    # Metrics and models that share an example are resampled together.
    weighted = part.assign(change=(part.score - part.dense) * weight, level=part.score * weight)
    by_example = weighted.groupby(["task", "example"], sort=False)[["change", "level"]].sum().reset_index()
    samples = [task.change.to_numpy() for _, task in by_example.groupby("task", sort=False)]
    level = sum(task.level.mean() for _, task in by_example.groupby("task", sort=False))
    return (float(level), *interval(samples))
