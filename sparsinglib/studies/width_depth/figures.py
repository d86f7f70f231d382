"""Figures 5 and 6: what the paper says of width and depth, and the ladder's shapes with intervals."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from ...laws.two_segments import Bend
from ...paper import style
from . import numbers
from .numbers import MILLIONS

RATIO = "width / depth (hidden size / layers)"
POINT: style.Look = style.look("0.1M", "relu") | {"color": style.ACTIVATION_COLOURS["relu"], "ls": "", "ms": 4.5}


def _ratio_axis(ax: Axes, table: pd.DataFrame, title: str = "") -> None:
    """Logarithmic ratios with the shapes as labels above."""
    ax.set(xscale="log", xlabel=RATIO, xlim=(table.ratio.min() / 1.5, table.ratio.max() * 1.5), title=title)
    ax.xaxis.set_major_formatter("{x:g}")
    top = ax.secondary_xaxis("top")
    top.set_xscale("log")
    top.set_xticks(table.ratio, table["shape"], rotation=60, fontsize=7, color="0.1")
    top.set_xticks([], minor=True)


def _readings(ax: Axes, quantities: tuple[str, ...]) -> None:
    """On the bottom edge: where the paper's numbers come to lie on the ladder, by each way of carrying them over."""
    table = numbers.translation()
    table = table[table.quantity.isin(quantities)]
    low, high = ax.get_xlim()
    for k, (reading, part) in enumerate(table.groupby("reading", sort=False)):
        # Below the axis' edge (marker 6 is a caret), so that no mark can be taken for a measured shape.
        look: style.Look = {"color": style.OTHERS[1 + k], "lw": 1.2, "ls": "-" if len(part) > 1 else ""}
        look |= {"transform": ax.get_xaxis_transform(), "clip_on": False}
        drawn, inside = part.ratio.clip(low, high / 1.03), np.flatnonzero(part.ratio <= high).tolist()
        ax.plot(drawn, [-0.01] * len(part), marker=6, ms=7, markevery=inside, label=str(reading), **look)
        if part.ratio.max() > high:
            ax.plot(high / 1.03, -0.01, marker=">", ms=8, **look)


def figure_5(activation: pd.DataFrame, bend: Bend, main: pd.Series) -> style.Picture:
    """Activation ratio against width / depth: the paper's statements, and the ladder's values at the end of training.

    ``activation`` is ``numbers.sparsity`` (ratio, last and its 90 % interval, limit, identified; percent), ``bend`` the
    "last" of ``numbers.bends``, ``main`` ``numbers.paper_main``.
    """
    with style.context():
        fig, (first, ax) = style.axes(1, 2, height=4.0, width_ratios=[2, 3])
        _paper_activation(first, main)
        _ratio_axis(ax, activation, f"ladder, 0.1M ReLU at {MILLIONS} tokens")
        bars = style.error_bars(activation.last_low, activation["last"], activation.last_high)
        ax.errorbar(activation.ratio, activation["last"], bars, capsize=3, zorder=3, **POINT)
        fixed = activation[activation.identified]
        bars = style.error_bars(fixed.low, fixed.limit, fixed.high)
        grey: style.Look = {"color": style.GREY, "marker": "D", "ms": 3.5, "ls": ""}
        ax.errorbar(fixed.ratio * 1.07, fixed.limit, bars, capsize=2, label="limit, where fixed", **grey)
        ends = pd.concat([activation.last_low, activation.last_high, fixed.low, fixed.high])
        ax.set(ylim=(ends.min() - 1, ends.max() + 1), ylabel="activation ratio (%)")
        message = _draw_laws(ax, activation, bend)
        _readings(ax, ("bottleneck",))
        ax.legend(loc="upper left", fontsize=7.5)
        return fig.says(
            message,
            "Bars: 90 %. Shaded: 90 % interval of the turn. Carets below the axis: the paper's bottleneck of "
            f"{numbers.facts().bottleneck_ratio:g}, carried over to this size in three ways. Left: the points "
            "of the paper's curve are not published; grey ticks are the shapes of its configurations.",
        )


def _draw_laws(ax: Axes, activation: pd.DataFrame, bend: Bend) -> str:
    """Two segments and a line in log(ratio) through the values at the end; gives their misfits in words."""
    line, two, straight = numbers.beside_a_line(activation, bend)
    x = np.geomspace(activation.ratio.min(), activation.ratio.max(), 300)
    low, high = bend.turn_interval
    ax.axvspan(low, high, color="k", alpha=0.08, lw=0)
    label = f"rise, then level (turn {bend.turn:.3g}, {low:.3g} to {high:.3g}): misfit {two:.2g}"
    ax.plot(x, bend.predict(x), color=style.FIT, lw=1.3, label=label)
    label = f"line in log(ratio): misfit {straight:.2g}"
    ax.plot(x, line(np.log2(x)), color=style.OTHERS[4], ls="--", lw=1.5, label=label)
    deepest, widest = activation.sort_values("ratio")["last"].iloc[[0, -1]]
    return (
        f"From the deepest to the widest shape the activation ratio goes from {deepest:.1f} to {widest:.1f} %; "
        f"misfits: {straight:.2g} for a line in log(ratio), {two:.2g} for rise-then-level, where chance gives 1"
    )


def _paper_activation(ax: Axes, main: pd.Series) -> None:
    """The paper's words drawn: a bottleneck, a level, and the one shape whose points are published."""
    facts = numbers.facts()
    beside: style.Look = {"textcoords": "offset points", "fontsize": 8}
    turn, level = facts.bottleneck_ratio, facts.level_above_bottleneck_pct
    ax.plot([turn, facts.x_axis_last_tick], [level, level], color="0.3", ls="--")
    ax.annotate(f"level: {level:g} %", (turn, level), (2, 4), **beside)
    ax.axvline(turn, color="0.3", ls=":")
    low, limit, high = 100 * main[["low", "a0", "high"]].astype(float)
    ax.errorbar(main.ratio, limit, [[limit - low], [high - limit]], capsize=3, **POINT)
    look = beside | {"color": style.ink(POINT["color"]), "ha": "right", "va": "center"}
    ax.annotate("main model,\nour fit", (main.ratio, limit), (-6, 0), **look)
    ax.annotate(f"bottleneck,\nas stated: {turn:g}", (turn, 4.2), (-4, 0), ha="right", **beside)
    ax.text(0.03, 0.97, "the curve's points\nare not published", transform=ax.transAxes, va="top", color="0.4")
    ax.set(xscale="log", xlim=(0.15, 1500), ylim=(4, 9), xlabel=RATIO, ylabel="limit activation ratio (%)")
    ax.xaxis.set_major_formatter("{x:g}")
    ax.set_title("paper, 0.1B ReLU")
    ratios = numbers.paper_shapes().ratio
    ax.plot(ratios, np.full(len(ratios), 0.015), "|", ms=8, color="0.6", transform=ax.get_xaxis_transform())


def figure_6(losses: pd.DataFrame, edge: float) -> style.Picture:
    """Training loss reached by each shape above the best shape's, paired on the same batches.

    ``losses`` is ``numbers.losses`` (ratio, shape, above, above_low, above_high: nats per token, 90 %); ``edge`` is how
    far above the best shape a loss still counts as best.
    """
    facts = numbers.facts()
    low, high = facts.best_interval_min, facts.best_interval_max
    with style.context():
        fig, (ax,) = style.axes(1, 1, height=3.4)
        _ratio_axis(ax, losses)
        bars = style.error_bars(losses.above_low, losses.above, losses.above_high)
        ax.errorbar(losses.ratio, losses.above, bars, capsize=3, zorder=3, **POINT)
        ax.axhspan(0, edge, color="0.5", alpha=0.2, lw=0)
        words = f"grey: within {edge:.3f} nats of the best"
        ax.text(0.01, edge, words, transform=ax.get_yaxis_transform(), va="bottom")
        ax.set_ylabel("loss above the best shape's\n(nats per token)")
        _readings(ax, ("best, lower end", "best, upper end"))
        ax.legend(title=f"paper's best, {low:g} to {high:g}, carried over:", title_fontsize=8, loc="upper right")
        best, lowest = losses[losses.above_low <= edge], losses.ratio[losses.above.idxmin()]
        widest = lowest == losses.ratio.max()
        return fig.says(
            f"Loss is lowest at a width / depth of {lowest:.3g}{', the widest shape' if widest else ''}, within "
            f"{edge:.2g} nats of that from {best.ratio.min():.3g} to {best.ratio.max():.3g}; the deepest shape's is "
            f"{losses.above[losses.ratio.idxmin()]:.2f} nats per token higher",
            f"Ladder, 0.1M ReLU at {MILLIONS} tokens; bars: 90 %, paired by batch. The paper's points are not "
            f"published; it states {low:g} to {high:g} as best, and its main model has "
            f"{facts.main_models_ratio_min:g}.",
        )
