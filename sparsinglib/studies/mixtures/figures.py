"""Figure 12 drawn: curves of ``numbers`` and their gap in, a Picture out."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter
from scipy import stats

from ...paper import style
from .numbers import AXIS_END, CETT_ALIKE, MIXTURES, VANILLA, Curve

# The mixtures were trained with about the same share: of large marks in one place each is seen around the last.
SIZES = dict(zip((VANILLA, *MIXTURES), (0, 7, 11, 15), strict=True))
LOOKS = {name: style.other(i) for i, name in enumerate((VANILLA, *MIXTURES))}


def figure_12(
    found: Mapping[str, Curve],
    gap: pd.DataFrame,
    seeds: tuple[float, int],
    chosen: Mapping[str, Curve],
    within: pd.DataFrame,
) -> style.Picture:
    """Perplexity against activation ratio and, beside it, the gap to the vanilla model at equal activation ratio.

    ``gap`` is ``numbers.gaps``. ``seeds`` (``claims.seed_error``) gives the grey band, where 90 % of the gaps between
    two runs lie that differ in their seed alone. ``chosen`` and ``within`` are the same by CETT within the chosen
    experts (``numbers.chosen_neurons``), drawn dashed.
    """
    with style.context():
        fig, (left, right) = style.axes(1, 2, height=3.6)
        _perplexities(left, found, {n: curve for n, curve in chosen.items() if n != VANILLA})
        here = gap[gap.trained_here.astype(bool)]
        _gaps(right, gap, within, seeds)
        # What is far off where a mixture was never trained would hide the gaps where it was.
        right.set_ylim(-40, max(12, 3 * here.high_pct.max()))
        for ax in (left, right):
            ax.axvline(100 * AXIS_END, color="0.5", lw=0.8, ls=":")
            ax.set(xlabel="activation ratio (%)")
        right.set_xlim(0, None)
        alike = within[within["cett"] == CETT_ALIKE]
        shares = 100 * alike.activation_ratio
        return fig.says(
            f"Against an equally sparse vanilla model mixtures as trained have {_more(here.gap_pct)} perplexity "
            f"(seeds: ± {_by_seeds(seeds):.1f} %); with CETT {CETT_ALIKE} inside their experts too, "
            f"{_more(alike.gap_pct)} at {shares.min():.0f} to {shares.max():.0f} % active",
            "Vanilla: one FFN without experts, cut by CETT. Large marks: the number of experts that a mixture was "
            "trained with. Dashed: those experts, and CETT leaves out neurons of theirs too. Left of the dotted line: "
            "the range of the paper's axis.",
        )


def _more(gaps: pd.Series) -> str:
    """The range of percents as more or less; with its signs where it has both."""
    low, high = gaps.min(), gaps.max()
    if low < 0 < high:
        return f"{low:+z.1f} to {high:+z.1f} %".replace("-", "\N{MINUS SIGN}")
    first, last = sorted((abs(low), abs(high)))
    return f"{first:.1f} to {last:.1f} % {'more' if low >= 0 else 'less'}"


def _by_seeds(seeds: tuple[float, int]) -> float:
    """Percent within which 90 % of the gaps of two runs lie that differ in their seed alone."""
    return float(100 * np.expm1(np.sqrt(2) * seeds[0] * stats.t.ppf(0.95, seeds[1])))


def _perplexities(ax: Axes, found: Mapping[str, Curve], chosen: Mapping[str, Curve]) -> None:
    for name, curve in found.items():
        _draw(ax, name, curve.table, "perplexity")
    for name, curve in chosen.items():
        _draw(ax, name, curve.table, "perplexity", ls="--", label=None)
    shown = np.concatenate([c.perplexity for name, c in found.items() if name != VANILLA])
    ax.set(ylabel="perplexity", yscale="log", xscale="log", title=style.EVIDENCE_LABELS["ladder"])
    ax.set_xlim(1, 130)
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_formatter(NullFormatter())
    # Cut far enough, the vanilla curve leaves any axis on which the mixtures can be told apart.
    ax.set_ylim(0.9 * shown.min(), 1.2 * shown.max())
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 7)))
    ax.yaxis.set_major_formatter("{x:.0f}")
    ax.yaxis.set_minor_formatter(NullFormatter())
    ax.plot([], [], color="0.4", ls="--", lw=1.1, label="and CETT within the experts")
    ax.legend()


def _gaps(ax: Axes, gap: pd.DataFrame, within: pd.DataFrame, seeds: tuple[float, int]) -> None:
    for rows_of, line in ((gap, "-"), (within, "--")):
        for name, rows in rows_of.sort_values("activation_ratio").groupby("series", sort=False):
            _draw(ax, str(name), rows, "gap_pct", ls=line)
            ends = (100 * rows["activation_ratio"], rows["low_pct"], rows["high_pct"])
            ax.fill_between(*ends, alpha=0.15, color=LOOKS[str(name)]["color"], lw=0)
    ax.axhline(0, color="k", lw=1)
    band = _by_seeds(seeds)
    ax.axhspan(-band, band, color="0.85", zorder=0)
    ax.set_ylabel("perplexity above the vanilla model's (%)")
    ax.set_title(f"at equal ratio, 90 %; grey: seeds alone, ± {band:.1f} %")


def _draw(ax: Axes, name: str, rows: pd.DataFrame, column: str, **line: str | None) -> None:
    rows = rows.sort_values("activation_ratio")
    x, y = 100 * rows["activation_ratio"], rows[column]
    label = "vanilla, cut by CETT" if name == VANILLA else f"{name.removeprefix('moe-')} experts"
    ax.plot(x, y, **LOOKS[name] | {"ms": 3.5, "lw": 1.1, "label": label} | line)
    here = rows["trained_here"].to_numpy(bool)
    ax.plot(x[here], y[here], **LOOKS[name] | {"ls": "", "ms": SIZES[name], "mfc": "none", "mew": 1.8, "zorder": 4})
