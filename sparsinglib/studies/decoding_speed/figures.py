"""Figures of the decoding speed (Appendix L): the table of ``numbers.recorded`` in, a Picture out."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from ...paper import published, style
from .numbers import CASES, VARIANTS, most_gain

CASE_LOOKS: dict[str, style.Look] = {
    "zeros": style.look("0.1B", "relu"),
    "cett": style.look("0.8B", "relu"),
    "silu": style.look("0.8B", "silu"),
}
THREADS: dict[int, style.Look] = {1: {"marker": "o", "ls": "-"}, 2: {"marker": "s", "ls": "--"}}
VARIANT_COLOURS = dict(zip(VARIANTS, ("0.65", style.OTHERS[3], style.OTHERS[1]), strict=True))


def speed_up(table: pd.DataFrame) -> style.Picture:
    """Speed-up of one FFN of the 2.4B shape against imposed activity, over torch and over itself, with the bound."""
    rows = table[(table.part == "curve") & table.case.isin(CASES)]
    with style.context():
        fig, panels = style.axes(1, 3, height=3.0, sharey=True)
        for ax, (case, title) in zip(panels, CASES.items(), strict=True):
            _curve(ax, rows[rows.case == case], case)
            ax.set_title(title)
        _ratio_axis(panels[0], rows)
        panels[0].set_ylabel("speed-up of the FFN")
        keys = [Line2D([], [], color="k", lw=1, label="bound by weights read")]
        for threads, look in THREADS.items():
            count = f"{threads} thread{'s' if threads > 1 else ''}"
            for ink, what in (("0.3", "our own dense kernel (colour: case)"), ("0.7", "torch")):
                keys.append(Line2D([], [], color=ink, **look, ms=4, lw=1, label=f"over {what}, {count}"))
        fig.legend(handles=keys, loc="outside lower center", ncols=3)
        few = rows[rows.a == rows.a.min()]
        return fig.says(
            f"At {100 * rows.a.min():g} % active neurons an FFN runs {_by_case(few, 'over_kernel')} times as fast as "
            "the same kernel with all neurons active",
            "One FFN of the 2.4B shape, random weights, imposed activity. Title: geometric means over threads. Colour: "
            "over our kernel with all neurons active (bars: lower quartile of one's times over the other's upper); "
            "grey: over dense torch, which reads memory more slowly (bars: quartiles of the rounds' ratios). Bounds at "
            f"{100 * rows.a.min():g} %: {_by_case(few, 'bound')}.",
        )


def _by_case(rows: pd.DataFrame, column: str) -> str:
    """The geometric mean of each case: "2.3 (ReLU, zeros alone), 2.0 (ReLU, CETT)"."""
    means = np.exp(np.log(rows[column]).groupby(rows.case).mean())
    return ", ".join(f"{means[case]:.1f} ({CASES[case].split(':')[0]})" for case in CASES if case in means)


def _curve(ax: Axes, rows: pd.DataFrame, case: str) -> None:
    a = np.linspace(0, 1, 201)
    # r / a where r was imposed in proportion to a.
    nonzero = {"zeros": a, "cett": np.minimum(1, a * (rows.r / rows.a).max()), "silu": np.ones_like(a)}[case]
    ax.plot(100 * a, 3 / (1 + nonzero + a), color="k", lw=1)
    for threads, part in rows.sort_values("a").groupby("threads"):
        look = THREADS[int(str(threads))] | {"ms": 4, "lw": 1}
        _ratio(ax, 100 * part.a, part, "speedup", color="0.7", **look)
        _ratio(ax, 100 * part.a, part, "over_kernel", color=CASE_LOOKS[case]["color"], **look)
    ax.axhline(1, color="0.5", lw=0.8, ls=":")
    ax.set_xlabel("active neurons (%)")


def _ratio(ax: Axes, x: Any, rows: pd.DataFrame, ratio: str, **look: Any) -> None:
    low, value, high = (rows[f"{ratio}{end}"] for end in ("_low", "", "_high"))
    ax.errorbar(x, value, style.error_bars(low, value, high), capsize=2, **look)


def _ratio_axis(ax: Axes, rows: pd.DataFrame) -> None:
    """A scale of ratios on which twice as fast and half as fast are equally far from 1."""
    seen = rows[["speedup_low", "speedup_high", "over_kernel_low", "over_kernel_high"]]
    ax.set_yscale("log", base=2)
    ax.set_ylim(min(0.8, 0.9 * float(seen.min(axis=None))), max(4.0, 1.1 * float(seen.max(axis=None))))
    ax.yaxis.set_major_formatter("{x:g}")


def shapes(table: pd.DataFrame) -> style.Picture:
    """The paper's FFN shapes at their limits: speed-up over our dense kernel and over torch, the bound, the mean."""
    rows = table[(table.part == "shapes") & table.case.isin(CASES)]
    settings = [(dtype, threads) for dtype in ("float32", "bfloat16") for threads in sorted(rows.threads.unique())]
    with style.context():
        fig, panels = style.grid(len(settings), 2, 2.5, sharey=True)
        for ax, (dtype, threads) in zip(panels, settings, strict=True):
            _points(ax, rows[(rows.dtype == dtype) & (rows.threads == threads)])
            ax.set_title(f"{dtype}, {threads} thread{'s' if threads > 1 else ''}")
        for ax in panels[::2]:
            ax.set_ylabel("speed-up of the FFN")
        _ratio_axis(panels[0], rows)
        keys = [Line2D([], [], **_mark(case), label=CASES[case].split(":")[0]) for case in CASES]
        keys += [Line2D([], [], ls="", marker="_", color="0.7", ms=6, mew=1.5, label="same, over dense torch")]
        keys += [Line2D([], [], color="k", lw=1, label="bound by weights read")]
        fig.legend(handles=keys, loc="outside lower center", ncols=5)
        words = _by_case(rows, "over_kernel")
        return fig.says(
            f"At the paper's limits an FFN runs {words} times as fast as the same kernel with all neurons active",
            "Marks: over our own dense kernel (bars: lower quartile of one's times over the other's upper); pale: over "
            "dense torch (quartiles of the rounds' ratios). Random weights, imposed activity. Last: geometric "
            "mean over sizes, ends of bars too; title: over all panels.",
        )


def _mark(case: str) -> style.Look:
    return CASE_LOOKS[case] | {"ls": "", "ms": 5}


def _points(ax: Axes, part: pd.DataFrame) -> None:
    scales = list(dict.fromkeys(part.model))
    for k, case in enumerate(CASES):
        rows = part[part.case == case].set_index("model").reindex(scales)
        columns = ["bound", *(f"{ratio}{end}" for ratio in ("speedup", "over_kernel") for end in ("", "_low", "_high"))]
        rows.loc["mean", columns] = np.exp(np.log(rows[columns].astype(float)).mean())
        x = np.arange(len(rows)) + 0.27 * (k - 1)
        _ratio(ax, x, rows, "speedup", ls="", marker="_", ms=6, lw=1, color="0.7")
        _ratio(ax, x, rows, "over_kernel", lw=1, **_mark(case))
        ax.hlines(rows.bound, x - 0.13, x + 0.13, color="k", lw=1)
    ax.set_xticks(range(len(scales) + 1), [*scales, "mean"])
    ax.axvline(len(scales) - 0.5, color="0.7", lw=0.8)
    ax.axhline(1, color="0.5", lw=0.8, ls=":")
    ax.grid(axis="x", visible=False)


def tokens_per_second(table: pd.DataFrame) -> style.Picture:
    """Speed of whole models over dense torch, each panel one model; the paper's two engines beside them."""
    rows = table[table.kind == "model"]
    names = list(dict.fromkeys(rows.model))
    engines = published.read("appendix_l_decode_speed")
    with style.context():
        fig, panels = style.axes(1, len(names) + 1, height=2.9)
        for ax, name in zip(panels, names, strict=False):
            _ratios(ax, rows[rows.model == name])
            ax.set_title(style.name(name), parse_math=False)
            ax.set_ylim(0, 1.08 * rows[["speedup_high", "bound"]].max(axis=None))
        fig.keys_below(4)
        panels[0].set_ylabel("speed over dense torch")
        ax = panels[-1]
        inks, names = [VARIANT_COLOURS["sparse"], "0.65"], engines.framework.map(style.name)
        bars = ax.bar(names, engines.decode_tokens_per_s, color=inks, width=0.5)
        ax.bar_label(bars, fmt="%.1f", fontsize=8)
        ax.set(title="paper: two engines", ylabel="tokens per second")
        ax.grid(axis="x", visible=False)
        sparse, printed = rows[rows.variant == "sparse"].speedup, engines.decode_tokens_per_s
        read, predicted = most_gain()["whole model"]
        return fig.says(
            f"The paper's {printed.max() / printed.min():.1f} times (2.4B) compares two engines; in one that reads "
            f"the gate whole, skipping neurons makes it at most {read:.2f} times as fast; with our sparse kernel whole "
            f"models run at {sparse.min():.2f} to {sparse.max():.2f} times dense torch",
            "Marks: median of the rounds' ratios with quartiles; under each axis: tokens a second of dense torch. "
            "Black: the most our kernel can gain over itself, FFNs alone; a mark, against torch, may lie above it. "
            "The paper's two numbers (2.4B ReLU) compare two engines and have no spread. With a free and perfect "
            f"predictor of the active neurons: at most {predicted:.2f} times.",
        )


def _ratios(ax: Axes, rows: pd.DataFrame) -> None:
    groups = list(dict.fromkeys(zip(rows.dtype, rows.threads, strict=True)))
    parts = {v: rows[rows.variant == v].set_index(["dtype", "threads"]).loc[groups] for v in VARIANTS}
    places = np.arange(len(groups))
    for k, variant in enumerate(("masked", "sparse")):
        part, look = parts[variant], style.other(k) | {"color": VARIANT_COLOURS[variant], "ls": "", "ms": 5}
        _ratio(ax, places + 0.2 * k - 0.1, part, "speedup", label=VARIANTS[variant], **look)
    ax.axhline(1, color="0.5", lw=0.8, ls=":", label=VARIANTS["dense"])
    ax.hlines(parts["sparse"].bound, places - 0.3, places + 0.3, color="k", lw=1, label="bound by FFN weights read")
    short = {"float32": "f32", "bfloat16": "bf16"}
    rates = (1 / parts["dense"].seconds).map("{:.3g}/s".format)
    ax.set_xticks(range(len(groups)), [f"{short[d]}\n{t} thr.\n{r}" for (d, t), r in zip(groups, rates, strict=True)])
    ax.set_xlim(-0.5, len(groups) - 0.5)
    ax.grid(axis="x", visible=False)
