"""Figure 12 drawn: curves of ``moe`` and their gap in, a matplotlib Figure out."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from ...paper import style
from .numbers import AXIS_END, MIXTURES, VANILLA, Curve, missing

TICKS = (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 7)  # of a decade: perplexities lie within one or two
COLOURS = dict(zip((VANILLA, *MIXTURES), ("#000000", "#0072B2", "#E69F00", "#CC79A7"), strict=True))
MARKERS = dict(zip((VANILLA, *MIXTURES), ("o", "s", "^", "D"), strict=True))


def figure_12(found: Mapping[str, Curve], gap: pd.DataFrame) -> Figure:
    """Draw Figure 12 and, beside it, the gap at equal activation ratio. A panel without data says what is missing."""
    with style.context():
        figure, (left, right) = style.axes(1, 2, width=4.8, height=3.8)
        if not found:
            style.say(left, missing())
        for name, curve in found.items():
            _draw(left, name, curve.table.sort_values("activation_ratio"), "perplexity")
        if found:
            left.set(xlabel="activation ratio (%)", ylabel="perplexity", yscale="log", xlim=(0, None))
            shown = np.concatenate(
                [curve.perplexity for name, curve in found.items() if name != VANILLA or len(found) == 1]
            )
            # Cut far enough, the vanilla curve leaves any axis on which the mixtures can be told apart.
            left.set_ylim(0.9 * shown.min(), 1.2 * shown.max())
            left.yaxis.set_major_locator(LogLocator(subs=TICKS))
            left.yaxis.set_major_formatter("{x:.0f}")
            left.yaxis.set_minor_formatter(NullFormatter())
            left.axvspan(0, 100 * AXIS_END, color="0.93", zorder=0)
            left.set_title(style.EVIDENCE_LABELS["ladder"])
            figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=4)
        if gap.empty:
            style.say(right, "No gap to draw: it needs the vanilla model and a mixture.")
            return figure
        for name, rows in gap.groupby("series", sort=False):
            _draw(right, name, rows, "gap_pct")
            right.fill_between(100 * rows["activation_ratio"], rows["low_pct"], rows["high_pct"], alpha=0.15,
                               color=COLOURS[name], lw=0)  # fmt: skip
        right.axhline(0, color="black", lw=1)
        right.axvspan(0, 100 * AXIS_END, color="0.93", zorder=0)
        right.set(xlabel="activation ratio (%)", ylabel="perplexity above the vanilla model's (%)", xlim=(0, None))
        right.set_title("ladder: gap at equal activation ratio, 90 % bands")
    return figure


def _label(name: str) -> str:
    return "vanilla ReLU, by CETT" if name == VANILLA else f"{name.removeprefix('moe-')} experts"


def _draw(ax: Axes, name: str, rows: pd.DataFrame, column: str) -> None:
    x, y = 100 * rows["activation_ratio"], rows[column]
    ax.plot(x, y, color=COLOURS[name], marker=MARKERS[name], ms=4, lw=1.2, label=_label(name))
    here = rows["trained_here"].to_numpy(bool)
    ax.plot(x[here], y[here], ls="", marker=MARKERS[name], ms=9, mfc="none", color=COLOURS[name])
