"""The estimates by which notebook 08 judges the claims on tasks: the printed tables, and our own models' scores.

Printed scores: ten models taken as a sample, t intervals. Ours: bootstrap over examples, paired with the dense model.
"""

import math
from collections.abc import Sequence

import pandas as pd

from ...paper import published
from ...paper.claims import Estimate, Part, Row, judge, mean_of
from ...tasks import offline
from ...tasks.statistics import DENSE, interval, with_dense
from .tables import COMMONSENSE, COMPLEX, READING, ROUNDING, averages, changes, comparisons, short

GROUPS = (COMMONSENSE, READING)
CHANCE = {"humaneval": 0.0, "mbpp": 0.0, "gsm8k": 0.0, "mmlu": 25.0}  # percent; not known for AGIEval and BBH
LEAST_EXAMPLES = 20  # of each task: an interval over fewer is no interval
RIVALS = ("Top-k", "FAT-ε")
FEW = f"Missing: {LEAST_EXAMPLES} examples of each task"
AT_CHANCE = "Missing: tasks on which models of this scale are above chance"


def paper_verdicts() -> list[Row]:
    """Every claim against the numbers the paper prints in Tables 1, 4, 5 and 6."""
    change = changes().pivot(index=["p_pct", "scale", "activation"], columns="group", values="change")
    dense = averages().query("p_pct == 0 and group != @COMPLEX", local_dict={"COMPLEX": COMPLEX})
    by_activation = dense.pivot(index=["scale", "group"], columns="activation", values="recomputed_pct")
    groups = [mean_of(change.loc[1, group], "points", f"{short(group)}:") for group in GROUPS]
    scores = pd.concat([published.table(4), published.table(5)])
    wide = scores.pivot(index=["scale", "activation", "benchmark"], columns="p_pct", values="score_pct")
    single = [mean_of(part, "points", f"{name}:") for name, part in (wide[1] - wide[0]).groupby("benchmark")]
    found: dict[str, Part] = {
        "C02": "The values of Figure 3's points are not in the paper's text",
        "C04": groups,
        "C05": printed_averages(),
        "C13": mean_of(change.loc[10, READING], "points"),
        "C14": mean_of(change.loc[10, READING] - change.loc[10, COMMONSENSE], "points"),
        "C22": mean_of(by_activation.silu - by_activation.relu, "points"),
        "C77": single,
        "C79": _above_chance(),
    }
    return [judge(claim, "paper", part) for claim, part in found.items()]


def printed_averages() -> list[Estimate]:
    """What Tables 1, 4 and 5 print, computed again from other printed numbers (percent, points).

    Means of Table 1 have two printed digits and come from scores with one: what that rounding can hide is their
    interval.
    """
    found = []
    for r in comparisons().query("table != 6").itertuples():
        mean = r.where.startswith("Table 1, mean")
        hidden, digits = (ROUNDING, 2) if mean else (0.0, 1)
        ends = r.recomputed, r.recomputed - hidden, r.recomputed + hidden
        found.append(Estimate(*ends, note=f"{r.where}:", printed=f"{r.printed:.{digits}f}"))
    return found


def _above_chance() -> list[Estimate]:
    """Dense score less chance (points) of each complex benchmark; without a known chance, anything is possible."""
    found = []
    for name, part in published.table(6).query("p_pct == 0").groupby("benchmark"):
        if name in CHANCE:
            found.append(mean_of(part.score_pct - CHANCE[name], "points", f"{name}:"))
        else:
            found.append(Estimate(part.score_pct.mean(), -math.inf, math.inf, "points", f"{name}:"))
    return found


def own_verdicts(
    evidence: str,
    groups: pd.DataFrame,
    summary: pd.DataFrame,
    scores: pd.DataFrame,
    compared: pd.DataFrame,
    chance: pd.DataFrame,
) -> list[Row]:
    """The claims against the offline tasks; the frames are those of ``scores.TaskScores``."""
    model = "mean" if "mean" in set(groups.model) else groups.model.iloc[0]
    mean = groups[groups.model == model].set_index(["group", "p"])
    answers = _paired(scores if model == "mean" else scores[scores.model == model], chance)
    found: dict[str, Part] = {
        "C04": _changes_of(mean, answers, GROUPS, 1.0),
        "C13": _changes_of(mean, answers, [READING], 10.0),
        "C14": _reading_less_commonsense(scores, chance),
        "C22": _silu_less_relu(scores, chance),
        "C77": _single(summary, chance),
    }
    if not _enough(scores):
        found = dict.fromkeys(found, FEW)
    found = {"C02": _against_rivals(compared, chance) if _enough(compared) else FEW} | found
    found["C79"] = "The claim is about six benchmarks; our two complex tasks were made easy enough for small models"
    return [judge(claim, evidence, part) for claim, part in found.items()]


def _enough(scores: pd.DataFrame) -> bool:
    return bool(scores.groupby("task").example.nunique().min() >= LEAST_EXAMPLES)


def _changes_of(mean: pd.DataFrame, answers: pd.DataFrame, groups: Sequence[str], p: float) -> Part:
    """Change of each group's mean score at p (points); ``answers`` are those it is a mean of."""
    found = []
    for group in groups:
        if (group, p) not in mean.index or math.isnan(mean.value[group, p]):
            return AT_CHANCE if (group, p) in mean.index else f"Missing: scores at p = {p:g} %"
        r = mean.loc[(group, p)]
        value, low, high = (100 * x for x in (r.difference, r.difference_low, r.difference_high))
        step = _step(answers[(answers.group == group) & (answers.p == p)])
        found.append(Estimate(value, low, high, "points", f"{short(group)}:", step=step))
    return found


def _paired(scores: pd.DataFrame, chance: pd.DataFrame) -> pd.DataFrame:
    """Paired changes (points) with each cell's weight in its group's mean, testable tasks of two groups only."""
    kept = chance[chance.testable][["model", "task", "metric"]]
    own = offline.table()[["task", "metric", "group"]]
    part = with_dense(scores).merge(kept, on=["model", "task", "metric"]).merge(own, on=["task", "metric"])
    part = part[part.group != COMPLEX]
    cells = part.drop_duplicates(["model", "task", "metric"]).groupby("group").size()
    return part.assign(change=100 * (part.score - part.dense), weight=1 / part.group.map(cells).astype(float))


def _step(part: pd.DataFrame) -> float:
    """Points by which one answer moves the weighted mean, at most."""
    return float((100 * part.weight / part.groupby("task").example.transform("nunique")).max())


def _pooled(part: pd.DataFrame, note: str = "") -> Estimate:
    """Weighted mean of changes with its interval; what shares an example is resampled together."""
    summed = part.assign(v=part.change * part.weight).groupby(["task", "example"], sort=False).v.sum().reset_index()
    ends = interval([task.v.to_numpy() for _, task in summed.groupby("task", sort=False)])
    return Estimate(*ends, "points", note, step=_step(part))


def _reading_less_commonsense(scores: pd.DataFrame, chance: pd.DataFrame) -> Part:
    part = _paired(scores, chance)
    part = part[part.p == 10]
    if part.groupby("group").task.nunique().reindex(GROUPS).fillna(0).min() < 2:
        return AT_CHANCE
    sign = part.group.map({READING: 1, COMMONSENSE: -1})
    return _pooled(part.assign(change=part.change * sign))


def _against_rivals(compared: pd.DataFrame, chance: pd.DataFrame) -> Part:
    """Score under CETT less that under each rival at the same p's sparsity, mean over models, groups and p."""
    part = _paired(compared, chance)
    if part.empty:
        return AT_CHANCE
    at = part.assign(level=part.rule.str.extract(r"(\d+(?:\.\d+)?)%$", expand=False))
    on = ["model", "task", "metric", "example", "level"]
    found = []
    for family in RIVALS:
        both = at[at.family == "CETT"].merge(at[at.family == family][[*on, "change"]], on=on, suffixes=("", "_rival"))
        weight = both.weight / both.level.nunique() / both.group.nunique()
        found.append(_pooled(both.assign(change=both.change - both.change_rival, weight=weight), f"less {family}:"))
    return found


def _single(summary: pd.DataFrame, chance: pd.DataFrame) -> Part:
    above = chance[chance.testable][["model", "task", "metric"]]
    part = summary[(summary.p == 1) & (summary.metric != "f1")].merge(above, on=["model", "task", "metric"])
    ends = 100 * part[["difference", "difference_low", "difference_high"]]
    return [Estimate(value, low, high, "points") for value, low, high in ends.itertuples(index=False)] or AT_CHANCE


def _silu_less_relu(scores: pd.DataFrame, chance: pd.DataFrame) -> Part:
    """Dense SiLU less dense ReLU on the tasks that both do above chance, same examples."""
    dense = scores[scores.rule == DENSE]
    relu, silu = (dense[dense.model.str.contains(a)] for a in ("relu", "silu"))
    kept = chance[chance.testable].groupby(["task", "metric"]).model.nunique()
    kept = kept[kept == 2].reset_index()[["task", "metric"]]
    both = relu.merge(silu, on=["task", "metric", "example"]).merge(kept)
    if both.empty or both.model_x.nunique() != 1:
        return "Needs one ReLU and one SiLU model, both above chance on a task"
    cells = len(both[["task", "metric"]].drop_duplicates())
    return _pooled(both.assign(change=100 * (both.score_y - both.score_x), weight=1 / cells))
