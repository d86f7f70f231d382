"""Figure 3: mean score against sparsity under each rule, from the ladder's offline tasks."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ...paper import style
from ...tasks.statistics import DENSE

GROUPS = {"commonsense_reasoning": "commonsense", "reading_comprehension": "reading"}
RULES = {  # colour, marker
    "CETT": ("#D55E00", "o"),
    "Top-k": ("#0072B2", "s"),
    "FAT-ε": ("#009E73", "^"),
    "zeros of ReLU": ("#CC79A7", "D"),
}


def figure_3(curves: pd.DataFrame) -> Figure:
    """Score (%) against sparsity (%), models down, the two groups across; bars: 95 % of the change from dense.

    ``curves``: evidence, model, group, family (a key of ``RULES``, or "dense"), n (examples of each task), sparsity
    (0 to 1), value, difference, difference_low, difference_high (0 to 1; NaN in a group with too few tasks above
    chance).
    """
    models = list(dict.fromkeys(curves.model))
    with style.context():
        figure, panels = style.axes(len(models), 2, 4.6, 3.2)
        for ax, (model, group) in zip(panels, ((m, g) for m in models for g in GROUPS), strict=True):
            part = curves[(curves.model == model) & (curves.group == group)]
            ax.set_title(f"{model}, {GROUPS[group]} tasks", parse_math=False)
            if part.value.notna().any():
                _draw(ax, part)
            else:
                style.say(ax, "not testable at this scale:\nfewer than two tasks above chance")
        panels[0].legend()
        first = curves.iloc[0]
        evidence = style.EVIDENCE_LABELS.get(first.evidence, first.evidence)
        title = f"{evidence}; n = {first.n} examples of each task; bars: 95 % intervals of the change from dense"
        figure.suptitle(title, fontsize=10)
    return figure


def in_percent(curves: pd.DataFrame) -> pd.DataFrame:
    """The data of Figure 3 as it is saved: the columns of Table 1's CSV file, with sparsity, all in percent.

    Rounded, so that no change is 0 and not what sums of weights leave of it.
    """
    names = {"value": "score_pct", "difference": "change", "difference_low": "low", "difference_high": "high"}
    scaled = curves.assign(**{name: 100 * curves[name] for name in (*names, "sparsity")})
    renamed = scaled.rename(columns=names | {"p": "p_pct", "sparsity": "sparsity_pct"})
    first = ["evidence", "model", "rule", "family", "p_pct", "group", "tasks", "n"]
    return renamed[[*first, "sparsity_pct", "score_pct", "change", "low", "high"]].round(9)


def _draw(ax: Axes, part: pd.DataFrame) -> None:
    dense = 100 * part[part.family == DENSE].value.iloc[0]
    ax.axhline(dense, color="0.4", ls="--", lw=1, label="dense")
    for family, (colour, marker) in RULES.items():
        rows = part[part.family == family].sort_values("sparsity")
        if rows.empty:
            continue
        value = 100 * rows.value
        low, high = (100 * (rows.difference - rows.difference_low), 100 * (rows.difference_high - rows.difference))
        ax.errorbar(
            100 * rows.sparsity, value, [low.clip(lower=0), high.clip(lower=0)],
            color=colour, marker=marker, ms=4, lw=1.3, elinewidth=0.8, capsize=2, label=family,
        )  # fmt: skip
    ax.set(xlabel="sparsity (%)", ylabel="mean score (%)")
