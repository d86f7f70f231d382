"""Figure 3: mean score against sparsity under each rule, from the ladder's offline tasks."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from ...paper import style
from ...tasks.statistics import DENSE
from .tables import NAMES, scaled

GROUPS = {"commonsense_reasoning": "commonsense", "reading_comprehension": "reading"}
ZEROS = "zeros of ReLU"
RULES = {family: style.other(6 if family == ZEROS else i) for i, family in enumerate(NAMES.values())}
MATCHED = tuple(RULES)[:3]  # rules at equal sparsity; zeros have their own


def figure_3(curves: pd.DataFrame) -> style.Picture:
    """Change of the score from dense (points) at the sparsity of CETT-PPL-p %, models down, the two groups across.

    ``curves``: evidence, model, group, family (a key of ``RULES``, or "dense"), p (percent; NaN for zeros of ReLU), n
    (examples of each task), sparsity, value, difference and its 90 % interval difference_low, difference_high (0 to 1;
    NaN in a group with too few tasks above chance).
    """
    models = list(dict.fromkeys(curves.model))
    with style.context():
        fig, panels = style.axes(len(models), 2, height=2.6, sharey=True)
        for ax, (model, group) in zip(panels, ((m, g) for m in models for g in GROUPS), strict=True):
            part = curves[(curves.model == model) & (curves.group == group)]
            title = f"{style.name(model)}, {GROUPS[group]} tasks"
            if part.value.notna().any():
                _draw(ax, part)
                title += f" (dense: {100 * part[part.family == DENSE].value.iloc[0]:.0f} %)"
            else:
                style.empty(ax, "not testable at this scale: fewer than two tasks above chance")
            ax.set_title(title, parse_math=False)
        fig.keys_below(4)
        judged = curves[(curves.family != DENSE) & curves.difference.notna()]
        lost = judged.assign(lost=judged.difference_high < 0).groupby("family")
        lost = lost.agg(mean=("difference", "mean"), lost=("lost", "sum"), of=("lost", "size")).reindex(list(RULES))
        lost, first = lost.dropna(), curves.iloc[0]
        costs = [f"{rule} {-100 * mean:z.1f}" for rule, mean in lost["mean"].items() if rule in MATCHED]
        costs[0] = costs[0].replace(" ", " costs ") + " points of task score"
        counts = ", ".join(f"{r.Index} {r.lost:.0f} of {r.of:.0f}" for r in lost.itertuples())
        whose = style.EVIDENCE_LABELS.get(first.evidence, "a model outside the study")
        return fig.says(
            f"At equal sparsity {', '.join(costs)}",
            f"{whose}; {first.n} examples of each task. Bars: 90 % "
            "interval of the change on the same examples. Costs: mean over models, groups of tasks and sparsities; of "
            f"these comparisons the interval lies below zero in: {counts}. The paper's points are not published.",
        )


def _draw(ax: Axes, part: pd.DataFrame) -> None:
    """One place for each p, in which the rules stand side by side at about equal sparsity."""
    cett, zeros = part[part.family == "CETT"].sort_values("p"), part[part.family == ZEROS]
    ax.axhline(0, color="0.4", lw=0.9)
    for k, (family, look) in enumerate(RULES.items()):
        rows = part[part.family == family].sort_values("sparsity")
        x = [-1] if family == ZEROS else np.arange(len(rows)) + 0.15 * (k - 1)
        change, low, high = (100 * rows[f"difference{end}"] for end in ("", "_low", "_high"))
        if len(rows):
            bars = style.error_bars(low, change, high)
            ax.errorbar(x, change, bars, ls="", **look, ms=5, lw=1.2, capsize=3, label=family)
    labels = {x: f"{100 * row.sparsity:.0f} %\n(p = {row.p:g} %)" for x, row in enumerate(cett.itertuples())}
    labels |= {-1: f"{100 * zeros.sparsity.iloc[0]:.0f} %\n(zeros)"} if len(zeros) else {}
    ax.set_xticks(list(labels), list(labels.values()))
    ax.grid(axis="x", visible=False)
    ax.set(xlabel="sparsity", ylabel="change of score (points)")


def in_percent(curves: pd.DataFrame) -> pd.DataFrame:
    """The data of Figure 3 as it is saved: the columns of Table 1's CSV file, with sparsity, all in percent.

    Rounded, so that no change is 0 and not what sums of weights leave of it.
    """
    table = scaled(curves).assign(sparsity_pct=100 * curves.sparsity)
    first = ["evidence", "model", "rule", "family", "p_pct", "group", "tasks", "n"]
    return table[[*first, "sparsity_pct", "score_pct", "change", "low", "high"]].round(9)
