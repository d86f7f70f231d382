"""Claims on downstream tasks held against our own models' scores on the offline tasks; intervals over examples."""

import itertools
import math

import pandas as pd

from ...paper.published import Check
from ...tasks import offline as offline_tasks
from ...tasks.statistics import DENSE, interval, with_dense
from .claims import (
    COMPARABLE,
    ENDS,
    FALLS,
    MARGIN,
    PRINTED_CHANGE,
    comparable,
    counted,
    every,
    falls,
    generally,
    not_worse,
    points,
)
from .tables import COMMONSENSE, COMPLEX, READING

NOT_OURS = "a number of the paper's models; ours stands beside it"
LEAST_EXAMPLES = 20  # of each task: an interval over fewer is no interval


def ladder_checks(
    groups: pd.DataFrame, summary: pd.DataFrame, scores: pd.DataFrame, compared: pd.DataFrame, chance: pd.DataFrame
) -> list[Check]:
    """The claims that need no number of the paper's models, against the offline tasks; intervals over examples."""
    model = "mean" if "mean" in set(groups.model) else groups.model.iloc[0]
    mean = groups[groups.model == model].set_index(["group", "p"])
    rows = [_ladder_figure_3(compared, chance)]
    rows += [Check(c, "ladder", _cell(mean, g, float(p)), None, NOT_OURS) for c, (g, p) in PRINTED_CHANGE.items()]
    one = [_verdict(mean, g, 1.0) for g in (COMMONSENSE, READING)]
    value = "; ".join(f"{g.partition('_')[0]} {_cell(mean, g, 1.0)}" for g in (COMMONSENSE, READING))
    rows.append(Check("C04", "ladder", value, every(one), f"Rule: both 95 % intervals stay above -{MARGIN:g} point."))
    ps = sorted(p for p in groups.p.dropna().unique() if p > 0)
    value = "; ".join(f"p = {p:g}: {_cell(mean, READING, p)}" for p in ps)
    rows.append(Check("C13", "ladder", value, _falls(mean, scores, chance, ps), f"{FALLS} (over examples)."))
    rows.append(_unlike(scores, chance, mean, ps))
    rows += [
        _ladder_single(summary, chance),
        _ladder_five(mean),
        _ladder_activation(scores, chance),
        _ladder_complex(chance),
    ]
    return [rows[0] if _enough(compared) else _open(rows[0]), *(rows[1:] if _enough(scores) else map(_open, rows[1:]))]


def _enough(scores: pd.DataFrame) -> bool:
    return bool(scores.groupby("task").example.nunique().min() >= LEAST_EXAMPLES)


def _open(row: Check) -> Check:
    """The same without a verdict, for one that rests on a handful of examples."""
    judged = row.verdict in (True, False)
    return row._replace(verdict=None, why=f"fewer than {LEAST_EXAMPLES} examples of a task") if judged else row


def _groups() -> pd.DataFrame:
    return offline_tasks.table()[["task", "metric", "group"]]


def _cell(mean: pd.DataFrame, group: str, p: float) -> str:
    if (group, p) not in mean.index or math.isnan(mean.value[group, p]):
        return "not testable at this scale"
    r = mean.loc[(group, p)]
    return points(100 * r.difference, 100 * r.difference_low, 100 * r.difference_high)


def _verdict(mean: pd.DataFrame, group: str, p: float) -> bool | None:
    if (group, p) not in mean.index or math.isnan(mean.value[group, p]):
        return None
    return not_worse(100 * mean.difference_low[group, p], 100 * mean.difference_high[group, p])


def _falls(mean: pd.DataFrame, scores: pd.DataFrame, chance: pd.DataFrame, ps: list[float]) -> bool | None:
    names = {"difference_low": "low", "difference_high": "high"}
    changes = 100 * mean.loc[READING].reindex(ps)[list(names)].rename(columns=names)
    if changes.isna().any(axis=None):
        return None
    part = _changes(scores, chance)
    part = part[part.group == READING].set_index(["p", "model", "task", "metric", "example"])
    signed = part.change * part.weight
    steps = []
    for before, after in itertools.pairwise(ps):
        step = (signed[after] - signed[before]).rename("step").reset_index()
        steps.append(_pooled(step, step.step)[1:])
    return falls(changes, pd.DataFrame([(changes.low.iloc[0], changes.high.iloc[0]), *steps], columns=["low", "high"]))


def _changes(scores: pd.DataFrame, chance: pd.DataFrame) -> pd.DataFrame:
    """Paired changes (points) with each cell's weight in its group's mean, testable tasks of two groups only."""
    kept = chance[chance.testable][["model", "task", "metric"]]
    own = _groups()
    part = with_dense(scores).merge(kept, on=["model", "task", "metric"]).merge(own, on=["task", "metric"])
    part = part[part.group != COMPLEX]
    cells = part.drop_duplicates(["model", "task", "metric"]).groupby("group").size()
    return part.assign(change=100 * (part.score - part.dense), weight=1 / part.group.map(cells).astype(float))


def _pooled(part: pd.DataFrame, values: pd.Series) -> tuple[float, float, float]:
    """Sum of weighted values by example, with its interval; what shares an example is resampled together."""
    summed = part.assign(v=values).groupby(["task", "example"], sort=False).v.sum().reset_index()
    return interval([task.v.to_numpy() for _, task in summed.groupby("task", sort=False)])


def _unlike(scores: pd.DataFrame, chance: pd.DataFrame, mean: pd.DataFrame, ps: list[float]) -> Check:
    part = _changes(scores, chance)
    part = part[part.p == ps[-1]]
    why = f"Rule: commonsense above -{MARGIN:g} point at every p; reading's change at the last p below commonsense's."
    if part.groupby("group").task.nunique().reindex([COMMONSENSE, READING]).fillna(0).min() < 2:
        return Check("C14", "ladder", "not testable at this scale", None, why)
    sign = part.group.map({READING: 1, COMMONSENSE: -1})
    gap = _pooled(part, part.change * part.weight * sign)
    lower = True if gap[2] < 0 else False if gap[1] > 0 else None
    verdict = every([lower, *(_verdict(mean, COMMONSENSE, p) for p in ps)])
    return Check("C14", "ladder", f"reading less commonsense at p = {ps[-1]:g}: {points(*gap)}", verdict, why)


def _ladder_figure_3(compared: pd.DataFrame, chance: pd.DataFrame) -> Check:
    """CETT against each rival at the same p's sparsity, pooled over models, groups and p."""
    part = _changes(compared, chance)
    why = f"Rule: over models, groups and sparsities, CETT less the rival stays above -{MARGIN:g} point (95 %)."
    if part.empty:
        return Check("C02", "ladder", "not testable at this scale", None, why)
    at = part.assign(level=part.rule.str.extract(r"(\d+(?:\.\d+)?)%$", expand=False))
    cett = at[at.family == "CETT"]
    on = ["model", "task", "metric", "example", "level"]
    found, verdicts = [], []
    for family in ("Top-k", "FAT-ε"):
        both = cett.merge(at[at.family == family][[*on, "change"]], on=on, suffixes=("", "_rival"))
        gap = _pooled(
            both, (both.change - both.change_rival) * both.weight / both.level.nunique() / both.group.nunique()
        )
        found.append(f"less {family}: {points(*gap)}")
        verdicts.append(not_worse(*gap[1:]))
    return Check("C02", "ladder", "; ".join(found), every(verdicts), why)


def _ladder_single(summary: pd.DataFrame, chance: pd.DataFrame) -> Check:
    above = chance[chance.testable][["model", "task", "metric"]]
    part = summary[summary.p == 1].merge(above, on=["model", "task", "metric"])
    part = part[part.metric != "f1"]
    if part.empty:
        return Check("C77", "ladder", "not testable at this scale", None, "no task above chance at p = 1 %")
    names = {"difference": "change", "difference_low": "low", "difference_high": "high"}
    changes = 100 * part[list(names)].rename(columns=names)
    verdict, why = generally(changes)
    why += f" Model × task above chance, p = 1 %, {part.n.min():.0f} examples."
    return Check("C77", "ladder", counted(changes), verdict, why)


def _ladder_five(mean: pd.DataFrame) -> Check:
    known = (READING, 5.0) in mean.index and not math.isnan(mean.value[READING, 5.0])
    low, high = (100 * mean[f"difference_{end}"][READING, 5.0] for end in ("low", "high")) if known else (0.0, 0.0)
    verdict = None if not known or low <= 0 <= high else bool(high < 0)
    why = "Rule: interval below 0; above 0 fails; else too few examples."
    return Check("C78", "ladder", _cell(mean, READING, 5.0), verdict, why)


def _ladder_activation(scores: pd.DataFrame, chance: pd.DataFrame) -> Check:
    """Dense SiLU less dense ReLU on the tasks that both do above chance."""
    why = f"Rule: 95 % interval of SiLU less ReLU, dense, same examples, within ±{COMPARABLE:g} points (tasks only)."
    dense = scores[scores.rule == DENSE]
    by_activation = {a: dense[dense.model.str.contains(a)] for a in ("relu", "silu")}
    kept = chance[chance.testable].groupby(["task", "metric"]).model.nunique()
    kept = kept[kept == 2].reset_index()[["task", "metric"]]
    both = by_activation["relu"].merge(by_activation["silu"], on=["task", "metric", "example"]).merge(kept)
    if both.empty or both.model_x.nunique() != 1:
        return Check("C22", "ladder", "–", None, "needs one ReLU and one SiLU model. " + why)
    cells = len(both[["task", "metric"]].drop_duplicates())
    ends = _pooled(both, 100 * (both.score_y - both.score_x) / cells)
    return Check("C22", "ladder", points(*ends), comparable(*ends[1:]), why)


def _ladder_complex(chance: pd.DataFrame) -> Check:
    part = chance.merge(_groups(), on=["task", "metric"]).query("group == 'complex'")
    value = "; ".join(
        f"{r.model} {r.task.removeprefix('offline_')} {100 * r.value:.1f} (chance {100 * r.chance:.1f})"
        for r in part.itertuples()
    )
    why = "the claim is about six benchmarks; our two were made easy enough for small models"
    return Check("C79", "ladder", value, None, why)


def scale_checks(small: pd.DataFrame, scores: pd.DataFrame, chance: pd.DataFrame) -> list[Check]:
    """C70, C72, C74, C76, numbers of the paper's models: the largest dense model of ours less the smallest beside."""
    own = _groups()
    kept = chance[chance.testable][["model", "task", "metric"]]
    large = scores[scores.rule == DENSE].merge(kept, on=["model", "task", "metric"]).merge(own, on=["task", "metric"])
    rows = []
    why = f"{NOT_OURS}: largest less smallest model, same examples (95 %)"
    for claim, (group, activation, end) in ENDS.items():
        if end != "1.2B":
            continue
        ours = large[(large.group == group) & large.model.str.contains(activation)]
        theirs = small[small.model.str.contains(activation)] if len(small) else small
        if ours.task.nunique() < 2 or theirs.empty:
            rows.append(Check(claim, "ladder", "–", None, why))
            continue
        both = ours.merge(theirs, on=["task", "metric", "example"])
        cells = len(both[["task", "metric"]].drop_duplicates())
        ends = _pooled(both, 100 * (both.score_x - both.score_y) / cells)
        value = f"{both.model_y.iloc[0]} to {both.model_x.iloc[0]}: {points(*ends)} points"
        rows.append(Check(claim, "ladder", value, None, why))
    return rows
