"""Figures 5 and 6: what the paper says of width and depth, and the ladder's nine shapes with intervals."""

import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ...laws.two_segments import Bend
from ...paper import published as paper
from ...paper import style
from . import numbers as width_depth
from .numbers import MILLIONS

POINT: dict[str, Any] = {"ls": "", "marker": "s", "ms": 4.5, "capsize": 3, "color": style.ACTIVATION_COLOURS["relu"]}
HOLLOW: dict[str, Any] = {"ls": "", "marker": "s", "ms": 7, "mfc": "white", "color": style.ACTIVATION_COLOURS["relu"]}
RATIO = "width / depth (hidden size / layers)"


def _facts() -> pd.Series:
    return paper.read("width_depth").set_index("item").value


def _ratio_axis(ax: Axes, table: pd.DataFrame, drawn: pd.DataFrame, title: str) -> None:
    """Logarithmic ratios with the shapes as labels above, grey where ``drawn`` has no such shape."""
    ax.set(xscale="log", xlabel=RATIO, xlim=(table.ratio.min() / 1.5, table.ratio.max() * 1.5), title=title)
    ax.xaxis.set_major_formatter("{x:g}")
    top = ax.secondary_xaxis("top")
    top.set_xscale("log")
    top.set_xticks(table.ratio, table["shape"], rotation=60, fontsize=7)
    top.set_xticks([], minor=True)
    for label, run in zip(top.get_xticklabels(), table.run, strict=True):
        label.set_color("0.1" if run in set(drawn.run) else "0.65")


def _readings(ax: Axes, quantities: tuple[str, ...], name: str) -> None:
    """On the bottom edge: where the paper's numbers come to lie on the ladder, by each way of carrying them over."""
    table = width_depth.translation()
    table = table[table.quantity.isin(quantities)]
    looks = zip(("#009E73", "#E69F00", "#CC79A7"), ("-", "--", ":"), strict=True)
    for (reading, part), (colour, line) in zip(table.groupby("reading", sort=False), looks, strict=True):
        look: dict[str, Any] = {
            "marker": 6,
            "ms": 7,
            "lw": 1.2,
            "ls": line if len(part) > 1 else "",
            "color": colour,
            "clip_on": False,
        }
        label = f"paper's {name}, {reading}"
        # Below the axis' edge (marker 6 is a caret), so that no mark can be taken for a measured shape.
        low, high = ax.get_xlim()
        across = ax.get_xaxis_transform()
        ax.plot(part.ratio.clip(low, high), [-0.01] * len(part), transform=across, label=label, zorder=3, **look)
        if part.ratio.max() > high:
            ax.plot(high, -0.01, transform=across, **look | {"marker": ">", "ms": 8})


def _bars(part: pd.DataFrame, value: str, low: str, high: str) -> np.ndarray:
    """Error bars from the interval's ends, 2 × shapes."""
    return np.stack([part[value] - part[low], part[high] - part[value]]).clip(0)


def _hollow(ax: Axes, part: pd.DataFrame, name: str, label: str) -> None:
    """Values that the points do not fix: hollow, and a triangle on the edge for one beyond the axis."""
    bottom, top = ax.get_ylim()
    rim = 0.02 * (top - bottom)
    inside = part[part[name].between(bottom, top)]
    if len(part):
        ax.plot(inside.ratio, inside[name], label=label, **HOLLOW)
    for off, edge, marker in ((part[name] < bottom, bottom + rim, "v"), (part[name] > top, top - rim, "^")):
        if off.any():
            look = HOLLOW | {"marker": marker, "clip_on": False, "label": "the same, beyond the axis"}
            ax.plot(part.ratio[off], np.full(off.sum(), edge), **look)


def _draw_bend(ax: Axes, table: pd.DataFrame, b: Bend | None) -> None:
    if b is None:
        return
    x = np.geomspace(table.ratio.min(), table.ratio.max(), 300)
    low, high = b.turn_interval
    side = {"": "", "low": ", open below", "high": ", open above", "both": ", open"}[b.turn_open]
    ax.axvspan(low, high, color=style.FIT_COLOUR, alpha=0.13, lw=0)
    label = f"rise, then level: turn {b.turn:.3g} ({low:.3g} to {high:.3g}{side})"
    ax.plot(x, b.predict(x), color=style.FIT_COLOUR, lw=1.2, label=label)


def _legend(ax: Axes) -> None:
    """Below the panel, where it covers no point."""
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16))


def _paper_activation(ax: Axes, main: pd.Series) -> None:
    """The paper's words drawn: a bottleneck, a level, and the one shape whose points are published."""
    facts, colour = _facts(), style.COLOURS["0.1B"]
    turn, level = float(facts.bottleneck_ratio), float(facts.level_above_bottleneck_pct)
    ax.plot([turn, float(facts.x_axis_last_tick)], [level, level], color="0.3", ls="--", label="level, as stated")
    ax.axvline(turn, color="0.3", ls=":", label=f"bottleneck, as stated: {turn:g}")
    bars = [[100 * (main.a0 - main.low)], [100 * (main.high - main.a0)]]
    label = "main 0.1B model, our fit, 90 %"
    ax.errorbar(main.ratio, 100 * main.a0, bars, marker="o", ls="", capsize=3, color=colour, label=label)
    ax.set(xscale="log", xlim=(0.15, 1500), xlabel=RATIO, ylabel="limit activation ratio (%)")
    ax.xaxis.set_major_formatter("{x:g}")
    ax.set_title("paper, 0.1B ReLU: the curve's points\nare not published")
    _configured(ax)


def _configured(ax: Axes) -> None:
    """Ticks along the bottom for the authors' thirteen configured shapes."""
    ratios = width_depth.paper_shapes().ratio
    ticks: dict[str, Any] = {"ls": "", "marker": "|", "ms": 9, "color": "0.5", "label": "configured shapes"}
    ax.plot(ratios, np.full(len(ratios), 0.025), transform=ax.get_xaxis_transform(), **ticks)
    _legend(ax)


def figure_5(table: pd.DataFrame, activation: pd.DataFrame, found: Mapping[str, Bend], main: pd.Series) -> Figure:
    """Activation ratio against width / depth: the paper's statements, the ladder's limits, its values at the end.

    ``table`` is ``width_depth.shapes``, ``activation`` ``sparsity``, ``found`` ``bends``, ``main``
    ``paper_main``. Limits that the points do not fix are hollow and without a bar. Bars are 90 % intervals, the brown
    band that of the turn; carets on the bottom edge are the paper's bottleneck, carried over in three ways.
    """
    with style.context():
        fig, (first, *panels) = style.axes(1, 3, 4.2, 5.0)
        _paper_activation(first, main)
        titles = ("ladder: limit (ReLU law)", f"ladder: at {MILLIONS} tokens (last {width_depth.LAST} checkpoints)")
        for ax, title, name in zip(panels, titles, ("limit", "last"), strict=True):
            if activation.empty:
                ax.set_title(title)
                style.say(ax, textwrap.fill(width_depth.missing(table), 36))
                continue
            _ratio_axis(ax, table, activation, title)
            loose = ~activation.identified.astype(bool) if name == "limit" else activation.ratio < 0
            part, ends = activation[~loose], ("low", "high") if name == "limit" else ("last_low", "last_high")
            if len(part):
                ax.errorbar(part.ratio, part[name], _bars(part, name, *ends), label="90 % interval", **POINT)
            # One axis for both panels, which a limit that is open does not stretch: it may be anywhere.
            told = activation[activation.identified.astype(bool)]
            ends = pd.concat([activation.last_low, activation.last_high, told.low, told.high])
            ax.set_ylim(ends.min() - 1, ends.max() + 1)
            _hollow(ax, activation[loose], name, "limit not fixed over all drops")
            _draw_bend(ax, table, found.get(name))
            _readings(ax, ("bottleneck",), f"{float(_facts().bottleneck_ratio):g}")
            ax.set_ylabel("limit activation ratio (%)" if name == "limit" else "activation ratio (%)")
            _legend(ax)
        return fig


def _paper_loss() -> str:
    """What the paper says of the loss, in words: no value of the curve is published."""
    names = ("best_interval_min", "best_interval_max", "main_models_ratio_min")
    low, high, main = (float(_facts()[name]) for name in names)
    stated = f"As stated for 0.1B ReLU: best from a ratio of {low:g} to {high:g}; the main model has {main:g}."
    return f"paper: the curve's points are not published. {stated}"


def figure_6(table: pd.DataFrame, losses: pd.DataFrame, edge: float) -> Figure:
    """Training loss against width / depth: the paper's statement above, the ladder's limits, the loss reached.

    ``losses`` is ``width_depth.losses``; ``edge`` is how far above the best shape (nats) a loss still counts as best.
    The right panel shows paired differences from the best shape, on the same batches.
    """
    with style.context():
        fig, (limit, above) = style.axes(1, 2, 4.8, 5.0)
        fig.suptitle(_paper_loss(), fontsize=8.5)
        titles = ("ladder: limit training loss", f"ladder: loss at {MILLIONS} tokens above the best")
        for ax, title in zip((limit, above), titles, strict=True):
            if losses.empty:
                ax.set_title(title)
                style.say(ax, textwrap.fill(width_depth.missing(table), 36))
                continue
            _ratio_axis(ax, table, losses, title)
        if losses.empty:
            return fig
        sure = losses.fixed.astype(bool)
        if sure.any():
            part = losses[sure]
            limit.errorbar(part.ratio, part.limit, _bars(part, "limit", "low", "high"), label="limit, 90 %", **POINT)
        limit.set_ylim(losses.reached.min() - 1.2 * np.ptp(losses.reached), losses.reached.max() + 0.1)
        _hollow(limit, losses[~sure], "limit", "limit not fixed by the points")
        reached: dict[str, Any] = {
            "ls": "",
            "marker": "_",
            "ms": 10,
            "color": "0.2",
            "label": f"loss reached at {MILLIONS} tokens",
        }
        limit.plot(losses.ratio, losses.reached, **reached)
        limit.set_ylabel("training loss (nats per token)")
        bars = _bars(losses, "above", "above_low", "above_high")
        above.errorbar(losses.ratio, losses.above, bars, label="paired, 90 % interval", **POINT)
        above.axhspan(0, edge, color="0.5", alpha=0.2, lw=0, label=f"within {edge:.3f} nats of the best")
        above.set_ylabel("loss above the best shape's (nats per token)")
        best = f"{float(_facts().best_interval_min):g} to {float(_facts().best_interval_max):g}"
        _readings(above, ("best, lower end", "best, upper end"), best)
        _legend(limit)
        _legend(above)
        return fig
