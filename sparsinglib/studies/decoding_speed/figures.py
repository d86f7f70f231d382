"""Figures and tables of the decoding speed (Appendix L) from recorded timings: benchmarks/decoding.py's table in.

Nothing here measures, so the same recording gives the same pictures. Times are seconds for each token, of one FFN
(kind "ffn") or a whole model (kind "model"); speed-ups are medians of the rounds' ratios, with their quartiles.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ...files import DATA, ROOT
from ...paper import published as paper
from ...paper import style

RECORDED = DATA / "decoding" / "recorded.csv"
BENCHMARK = ROOT / "benchmarks" / "decoding.py"
CASES = {
    "zeros": "ReLU, zeros alone",
    "cett": "ReLU, CETT: up for nonzero gates,\ndown for active neurons",
    "silu": "SiLU, CETT: all of up,\ndown for active neurons",
}
CASE_COLOURS = {"zeros": "#56B4E9", "cett": "#0072B2", "silu": "#D55E00"}
VARIANTS = {"dense": "dense torch", "masked": "masked (sparsify)", "sparse": "sparse kernel"}
VARIANT_COLOURS = {"dense": "0.6", "masked": "#E69F00", "sparse": "#009E73"}
THREAD_MARKERS, THREAD_LINES = {1: "o", 2: "s"}, {1: "-", 2: "--"}
LARGEST = "2.4B"
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


def recorded(measure_again: bool = False) -> pd.DataFrame:
    """The recorded timings, after measuring them again on this machine if asked for; with bound and bandwidth.

    Added columns: ``bound``, the most that reading fewer weights can gain, 3 / (1 + share of up + share of down);
    ``over_kernel``, the gain over the same kernel with all neurons active; ``of_memory``, the time that reading the
    weights needed takes at the memory's measured speed, over the time taken. Raises RuntimeError, with what the
    benchmark said, if measuring fails.
    """
    path = RECORDED
    if measure_again:
        path = ROOT / "build" / "decoding.csv"
        # The runner gives each notebook one thread; the benchmark sets its own.
        environment = {name: value for name, value in os.environ.items() if name not in THREAD_VARIABLES}
        command = [sys.executable, str(BENCHMARK), "--out", str(path)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"benchmarks/decoding.py failed:\n{done.stderr[-2000:]}")
    return prepared(path)


def prepared(path: Path) -> pd.DataFrame:
    """Read a recording; raises FileNotFoundError that names the remedy."""
    if not path.is_file():
        raise FileNotFoundError(f"{path.name} is missing: run python benchmarks/decoding.py.")
    table = pd.read_csv(path)
    up = table.r.where(table.case != "silu", 1)
    table["bound"] = 3 / (1 + up + table.a)
    block = ["part", "model", "dtype", "threads"]
    memory = table[table.kind == "memory"].set_index(block)
    speed = (memory.bytes / memory.seconds).groupby(level=block).max()
    whole = table[table.case == "all"].set_index(block).seconds
    keys = pd.MultiIndex.from_frame(table[block])
    table["of_memory"] = table.bytes / table.seconds / speed.reindex(keys).to_numpy()
    table["over_kernel"] = whole.reindex(keys).to_numpy() / table.seconds
    return table


def machine(table: pd.DataFrame) -> str:
    """What was measured on, in a line or two."""
    row = table.iloc[0]
    versions = ", ".join(f"{name} {row[name]}" for name in ("python", "torch", "numba", "transformers"))
    return (
        f"{row.cpu}, {row.cores} cores; {versions}; median of {row.rounds} interleaved rounds; "
        f"other load when the run began: {row.load:.1f} runnable processes"
    )


def memory_table(table: pd.DataFrame) -> pd.DataFrame:
    """Measured reading speed, GB/s (1e9 bytes), at the largest shape: the fastest of three plain reads."""
    rows = table[(table.kind == "memory") & (table.model == LARGEST) & (table.part == "shapes")]
    speed = (rows.bytes / rows.seconds / 1e9).groupby(rows.threads).max()
    return speed.round(1).rename("GB/s").rename_axis("threads").reset_index()


def shape_table(table: pd.DataFrame) -> pd.DataFrame:
    """One FFN at each of the paper's shapes: all neurons active, and at the paper's limit activation ratios."""
    rows = table[(table.part == "shapes") & (table.variant == "sparse")]
    return pd.DataFrame(
        {
            "shape": rows.model,
            "case": rows.case,
            "weights": rows.dtype,
            "threads": rows.threads,
            "r (%)": (100 * rows.r).round(1),
            "a (%)": (100 * rows.a).round(1),
            "bound": rows.bound.round(2),
            "over dense torch": _spread(rows),
            "over own dense": rows.over_kernel.round(2),
            "of memory speed (%)": (100 * rows.of_memory).round().astype(int),
        }
    )


def _spread(rows: pd.DataFrame) -> list[str]:
    return [f"{r.speedup:.2f} ({r.speedup_low:.2f}–{r.speedup_high:.2f})" for r in rows.itertuples()]


def model_table(table: pd.DataFrame) -> pd.DataFrame:
    """Greedy decoding of whole models under their own thresholds, tokens/s, and how many tokens agree with masking."""
    rows = table[table.kind == "model"].copy()
    keys = ["model", "dtype", "threads"]
    rate = (1 / rows.set_index([*keys, "variant"]).seconds).unstack().rename(columns=VARIANTS)
    sparse = rows[rows.variant == "sparse"].set_index(keys)
    rate = rate.map("{:.3g}".format)
    rate["over dense torch"] = pd.Series(_spread(sparse), index=sparse.index)
    rate["bound of FFNs"] = sparse.bound.round(2)
    same = [f"{row.agree:.0f} of {row.tokens:.0f}" for row in sparse.itertuples()]
    rate["same tokens"] = pd.Series(same, index=sparse.index)
    columns = [*VARIANTS.values(), "over dense torch", "bound of FFNs", "same tokens"]
    units = {name: f"{name} (tokens/s)" for name in VARIANTS.values()}
    return rate.loc[sparse.index, columns].rename(columns=units).reset_index()


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
