"""Figure 12 drawn: curves of ``numbers`` and their gap in, a Picture out."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter
from scipy import stats

from ...paper import style
from .numbers import AXIS_END, MIXTURES, VANILLA, Curve, missing

LOOKS = {name: style.other(i) for i, name in enumerate((VANILLA, *MIXTURES))}


def figure_12(found: Mapping[str, Curve], gap: pd.DataFrame, seeds: tuple[float, int] | None = None) -> style.Picture:
    """Perplexity against activation ratio and, beside it, the gap to the vanilla model at equal activation ratio.

    ``gap`` (``numbers.gaps``): series, activation_ratio (a fraction), gap_pct, low_pct, high_pct (90 %), trained_here.
    ``seeds``: standard deviation of a run's loss (nats) over its seeds and its degrees of freedom; the grey band is
    where 90 % of the gaps between two runs lie that differ in their seed alone.
    """
    with style.context():
        fig, (left, right) = style.axes(1, 2, height=3.3)
        if not found:
            style.empty(left, missing())
        for name, curve in found.items():
            _draw(left, name, curve.table.sort_values("activation_ratio"), "perplexity")
        if found:
            mixtures = [c.perplexity for name, c in found.items() if name != VANILLA or len(found) == 1]
            shown = np.concatenate(mixtures)
            left.set(xlabel="activation ratio (%)", ylabel="perplexity", yscale="log", xlim=(0, None))
            # Cut far enough, the vanilla curve leaves any axis on which the mixtures can be told apart.
            left.set_ylim(0.9 * shown.min(), 1.2 * shown.max())
            left.yaxis.set_major_locator(LogLocator(subs=(1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 7)))
            left.yaxis.set_major_formatter("{x:.0f}")
            left.yaxis.set_minor_formatter(NullFormatter())
            left.legend()
            left.set_title(style.EVIDENCE_LABELS["ladder"])
        if gap.empty:
            style.empty(right, "No gap to draw: it needs the vanilla model and a mixture.")
            return fig.says("Mixtures of experts against a plain FFN: not measured yet")
        for name, rows in gap.groupby("series", sort=False):
            _draw(right, str(name), rows, "gap_pct")
            ink = LOOKS[str(name)]["color"]
            right.fill_between(
                100 * rows["activation_ratio"], rows["low_pct"], rows["high_pct"], alpha=0.15, color=ink, lw=0
            )
        right.axhline(0, color="k", lw=1)
        here = gap[gap.trained_here.astype(bool)]
        # What is far off where a mixture was never trained would hide the gaps where it was.
        right.set_ylim(-3, max(12, 3 * here.high_pct.max()))
        title = "at equal activation ratio, 90 %"
        if seeds:
            band = 100 * np.expm1(np.sqrt(2) * seeds[0] * stats.t.ppf(0.95, seeds[1]))
            right.axhspan(-band, band, color="0.85", zorder=0)
            title += f"; grey: seeds alone (± {band:.1f} %)"
        for ax in (left, right):
            ax.axvline(100 * AXIS_END, color="0.5", lw=0.8, ls=":")
        right.set(xlabel="activation ratio (%)", ylabel="perplexity above the plain FFN's (%)", xlim=(0, None))
        right.set_title(title)
        words = ", ".join(f"{r.series.removeprefix('moe-')} experts {r.gap_pct:+.1f} %" for r in here.itertuples())
        worse = int((here.low_pct > 0).sum())
        return fig.says(
            f"Where they were trained, {worse} of {len(here)} mixtures have a higher perplexity than a plain FFN cut "
            f"to the same share ({words})",
            "Large marks: the number of experts that a mixture was trained with, the one fair comparison. Left of the "
            "dotted line: the range of the paper's axis.",
        )


def _label(name: str) -> str:
    return "plain FFN, cut by CETT" if name == VANILLA else f"{name.removeprefix('moe-')} experts"


def _draw(ax: Axes, name: str, rows: pd.DataFrame, column: str) -> None:
    x, y = 100 * rows["activation_ratio"], rows[column]
    ax.plot(x, y, **LOOKS[name], ms=3.5, lw=1.1, label=_label(name))
    here = rows["trained_here"].to_numpy(bool)
    ax.plot(x[here], y[here], ls="", **LOOKS[name], ms=9, mfc="white", mew=1.8, zorder=4)
