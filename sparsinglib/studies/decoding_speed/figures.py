"""Figures of the decoding speed (Appendix L) from recorded timings, the table of ``numbers.recorded``."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ...paper import published as paper
from ...paper import style
from .numbers import CASES, VARIANTS

CASE_COLOURS = {"zeros": "#56B4E9", "cett": "#0072B2", "silu": "#D55E00"}
VARIANT_COLOURS = {"dense": "0.6", "masked": "#E69F00", "sparse": "#009E73"}
THREAD_MARKERS, THREAD_LINES = {1: "o", 2: "s"}, {1: "-", 2: "--"}


def speed_up(table: pd.DataFrame) -> Figure:
    """Speed-up of one FFN of the 2.4B shape against imposed activity, over torch and over itself, with the bound."""
    rows = table[(table.part == "curve") & table.case.isin(CASES)]
    with style.context():
        fig, panels = style.axes(1, 3, 4.0, 3.6)
        for ax, (case, title) in zip(panels, CASES.items(), strict=True):
            _curve(ax, rows[rows.case == case], case)
            ax.set_title(title)
        _ratio_axes(panels, rows)
        panels[0].set_ylabel("speed-up of the FFN")
        handles, labels = panels[0].get_legend_handles_labels()
        fig.legend([_neutral(handle) for handle in handles], labels, loc="outside lower center", ncols=5)
        fig.suptitle("coloured: over dense torch; grey: over our own kernel with all neurons active", fontsize=9)
    return style.save(fig, "decoding_speed_up", rows)


def _neutral(handle: Any) -> Line2D:
    """A legend's handle for curves that have another colour in each panel: black, and hollow for the coloured ones."""
    line = handle if isinstance(handle, Line2D) else handle[0]
    coloured = handle is not line
    look: dict[str, Any] = {"ls": line.get_linestyle(), "marker": line.get_marker(), "ms": 4, "lw": 1}
    return Line2D([], [], color="black" if coloured else line.get_color(), mfc="none" if coloured else None, **look)


def _curve(ax: Axes, rows: pd.DataFrame, case: str) -> None:
    a = np.linspace(0, 1, 201)
    nonzero = {"zeros": a, "cett": np.minimum(1, a * _nonzero_for_active(rows)), "silu": np.ones_like(a)}[case]
    ax.plot(100 * a, 3 / (1 + nonzero + a), color="black", lw=1, label="bound by weights read")
    for threads, part in rows.sort_values("a").groupby("threads"):
        errors = [part.speedup - part.speedup_low, part.speedup_high - part.speedup]
        count = f"{threads} thread{'s' if threads > 1 else ''}"
        look: dict[str, Any] = {"marker": THREAD_MARKERS[threads], "ls": THREAD_LINES[threads], "ms": 4, "lw": 1}
        colour = CASE_COLOURS[case]
        ax.errorbar(100 * part.a, part.speedup, errors, color=colour, capsize=2, label=f"over torch, {count}", **look)
        ax.plot(100 * part.a, part.over_kernel, color="0.55", label=f"over own dense kernel, {count}", **look)
    ax.axhline(1, color="0.5", lw=0.8, ls=":")
    ax.set_xlabel("active neurons a (%)")


def _ratio_axes(panels: list[Axes], rows: pd.DataFrame) -> None:
    """Same range of ratios in all panels, on a scale where twice as fast and half as fast are equally far from 1."""
    seen = rows[["speedup_low", "speedup_high", "over_kernel"]]
    low, high = min(0.8, 0.9 * float(seen.min(axis=None))), max(4.0, 1.1 * float(seen.max(axis=None)))
    for ax in panels:
        ax.set_yscale("log", base=2)
        ax.set_ylim(low, high)
        ax.yaxis.set_major_formatter("{x:g}")


def _nonzero_for_active(rows: pd.DataFrame) -> float:
    """r / a where r was imposed in proportion to a."""
    return float((rows.r / rows.a).max()) if len(rows) else 1.0


def shapes(table: pd.DataFrame) -> Figure:
    """The paper's six FFN shapes at their limits: speed-up over torch and over the own dense kernel, with the bound."""
    rows = table[(table.part == "shapes") & table.case.isin(CASES)]
    with style.context():
        fig, panels = style.axes(2, 2, 5.6, 3.0)
        for ax, (dtype, threads) in zip(panels, _settings(rows), strict=False):
            part = rows[(rows.dtype == dtype) & (rows.threads == threads)]
            _points(ax, part)
            ax.set_title(f"{dtype}, {threads} thread{'s' if threads > 1 else ''}")
            ax.set_ylabel("speed-up")
        _ratio_axes(panels, rows)
        fig.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return style.save(fig, "decoding_shapes", rows)


def _settings(rows: pd.DataFrame) -> list[tuple[str, int]]:
    return [(dtype, threads) for dtype in ("float32", "bfloat16") for threads in sorted(rows.threads.unique())]


def _points(ax: Axes, part: pd.DataFrame) -> None:
    scales = list(dict.fromkeys(part.model))
    for k, (case, colour) in enumerate(CASE_COLOURS.items()):
        rows = part[part.case == case].set_index("model").reindex(scales)
        x = np.arange(len(scales)) + 0.27 * (k - 1)
        errors = [rows.speedup - rows.speedup_low, rows.speedup_high - rows.speedup]
        name = CASES[case].split(":")[0]
        ax.errorbar(
            x, rows.speedup, errors, color=colour, ls="", marker="o", ms=4, capsize=2, label=f"{name}, over torch"
        )
        ax.plot(
            x, rows.over_kernel, ls="", marker="_", ms=9, mew=2, color=colour, label=f"{name}, over own dense kernel"
        )
        ax.hlines(rows.bound, x - 0.13, x + 0.13, color="black", lw=1, label="" if k else "bound by weights read")
    ax.set_xticks(range(len(scales)), scales)
    ax.axhline(1, color="0.5", lw=0.8, ls=":")
    ax.grid(axis="x", visible=False)


def tokens_per_second(table: pd.DataFrame) -> Figure:
    """Tokens per second of whole models, each panel one model on its own scale; the paper's two engines beside them."""
    rows = table[table.kind == "model"]
    names = list(dict.fromkeys(rows.model))
    engines = paper.read("appendix_l_decode_speed")
    with style.context():
        fig, panels = style.axes(1, len(names) + 1, 3.3, 3.4)
        for ax, name in zip(panels, names, strict=False):
            _rates(ax, rows[rows.model == name])
            ax.set_title(name)
        fig.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
        panels[0].set_ylabel("tokens per second")
        ax = panels[-1]
        ax.bar(engines.framework, engines.decode_tokens_per_s, color=["#0072B2", "0.6"], width=0.5)
        ax.set_title("paper: 2.4B ReLU, two engines")
        ax.grid(axis="x", visible=False)
    return style.save(fig, "decoding_tokens_per_second", rows)


def _rates(ax: Axes, rows: pd.DataFrame) -> None:
    groups = list(dict.fromkeys(zip(rows.dtype, rows.threads, strict=True)))
    for k, (variant, label) in enumerate(VARIANTS.items()):
        part = rows[rows.variant == variant].set_index(["dtype", "threads"]).loc[groups]
        rate = 1 / part.seconds
        errors = [rate - 1 / part.seconds_high, 1 / part.seconds_low - rate]
        x = np.arange(len(groups)) + 0.27 * (k - 1)
        ax.bar(x, rate, 0.24, yerr=errors, capsize=2, color=VARIANT_COLOURS[variant], label=label)
    short = {"float32": "f32", "bfloat16": "bf16"}
    ax.set_xticks(range(len(groups)), [f"{short[d]}\n{t} thr." for d, t in groups])
    ax.grid(axis="x", visible=False)
