"""One registry for how a scale, an activation and a kind of evidence look, and the one way a figure is saved."""

import sys
from contextlib import AbstractContextManager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..files import FIGURES, output_dir, replacing

# Okabe and Ito's colours: told apart with every common colour vision deficiency. A ladder scale, a thousandth of a
# paper scale, has its colour, so that the same rung is recognised across the panels.
_RUNGS = ("0.1", "0.2", "0.4", "0.8", "1.2", "2.4")
_COLOURS = ("#56B4E9", "#0072B2", "#009E73", "#E69F00", "#D55E00", "#CC79A7")
_MARKERS = ("o", "s", "^", "D", "v", "P")

SCALES = tuple(f"{rung}{unit}" for unit in "BM" for rung in _RUNGS)
COLOURS = dict(zip(SCALES, _COLOURS * 2, strict=True))
MARKERS = dict(zip(SCALES, _MARKERS * 2, strict=True))

ACTIVATIONS = ("relu", "silu")
ACTIVATION_LABELS = {"relu": "ReLU", "silu": "SiLU"}
ACTIVATION_LINES = {"relu": "-", "silu": "--"}
ACTIVATION_COLOURS = {"relu": "#0072B2", "silu": "#D55E00"}

EVIDENCE_LABELS = {
    "paper": "paper (authors' points)",
    "ladder": "ladder (ours, 1:1000)",
    "released": "released (measured by us)",
}
TOKEN_UNITS = {"paper": 1e9, "ladder": 1e6, "released": 1e9}
TOKEN_LABELS = {1e9: "tokens (billions)", 1e6: "tokens (millions)"}
FIT_COLOUR = "#7F4F24"  # brown, as the paper's fits


def _chinese_fonts() -> list[str]:
    """Names of fonts with Chinese characters: the one in the package mplfonts, else those a system may have."""
    found = find_spec("mplfonts")
    if found and found.origin:
        path = Path(found.origin).parent / "fonts" / "NotoSansCJKsc-Regular.otf"
        if path.is_file():
            font_manager.fontManager.addfont(path)
    known = {font.name for font in font_manager.fontManager.ttflist}
    names: list[str] = ["Noto Sans CJK SC", "WenQuanYi Micro Hei", "PingFang SC", "SimHei"]
    return [name for name in names if name in known][:1]


_CHINESE = _chinese_fonts()
MONOSPACE = ["DejaVu Sans Mono", *_CHINESE]

_RC: Any = {
    "font.size": 9,
    "font.family": ["DejaVu Sans", *_CHINESE],
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "svg.hashsalt": "sparsinglib",
    "figure.constrained_layout.use": True,
}


def _show_in_notebooks() -> None:
    """Let a notebook draw a Figure that is a cell's value; without pyplot, nothing else asks IPython to do so."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    if shell is not None and getattr(shell, "kernel", None) is not None:
        from IPython.core.pylabtools import select_figure_formats

        select_figure_formats(shell, {"png"})


_show_in_notebooks()


def context() -> AbstractContextManager[None]:
    """The settings every figure is drawn and saved with: ``with style.context(): …``."""
    return mpl.rc_context(_RC)


def axes(rows: int, columns: int, width: float = 4.4, height: float = 3.3) -> tuple[Figure, list[Axes]]:
    """A figure of ``rows`` × ``columns`` panels that no interactive backend keeps alive, and its panels row by row.

    ``width`` and ``height`` are one panel's size in inches.
    """
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def say(ax: Axes, text: str) -> None:
    """Write a sentence into an empty panel instead of leaving it blank."""
    ax.set_axis_off()
    ax.text(0.5, 0.5, text, ha="center", va="center", wrap=True, transform=ax.transAxes, color="0.35")


def of_evidence(drawn: tuple[Figure, pd.DataFrame], evidence: str) -> tuple[Figure, pd.DataFrame]:
    """Say above a figure, and in the first column of its data, which kind of evidence it shows."""
    figure, data = drawn
    with context():
        figure.suptitle(EVIDENCE_LABELS.get(evidence, evidence), fontsize=10, parse_math=False)
    labelled = data.copy()
    labelled.insert(0, "evidence", evidence)
    return figure, labelled


def save(fig: Figure, name: str, data: pd.DataFrame, folder: Path | None = None) -> Figure:
    """Write ``name``.png (150 dpi), ``name``.svg and the tidy data behind them as ``name``.csv; return the figure.

    Nothing that changes from run to run (dates, versions, random ids) is written, so the same data give the same
    bytes. ``fig`` is a matplotlib Figure, ``data`` the rows it was drawn from. ``folder`` defaults to ``output_dir()``.
    """
    if data.empty:
        raise ValueError(f"figure {name!r} has no data to save beside it; pass the DataFrame it was drawn from")
    folder = folder or output_dir()
    with context():
        with replacing(folder / f"{name}.png") as file:
            fig.savefig(file, format="png", dpi=150, metadata={"Software": None})
        with replacing(folder / f"{name}.svg") as file:
            fig.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    save_table(data, name, folder)
    return fig


def rounded(table: pd.DataFrame, digits: int = 4) -> pd.DataFrame:
    """A copy with its fractions rounded to so many significant digits; columns of whole numbers stay as they are."""
    return table.apply(lambda column: _rounded(column, digits) if column.dtype.kind == "f" else column)


def _rounded(column: pd.Series, digits: int) -> pd.Series:
    numbers = column[np.isfinite(column)]
    if (numbers % 1 == 0).all():
        return column
    return column.map(lambda value: float(f"{value:.{digits}g}"))


def save_table(table: pd.DataFrame, name: str, folder: Path | None = None) -> Path:
    """Write a table as ``name``.csv, rounded; ``folder`` defaults to ``output_dir()``. Gives the file's path."""
    path = (folder or output_dir()) / f"{name}.csv"
    with replacing(path) as file:
        rounded(table).to_csv(file, index=False, float_format="%.10g", lineterminator="\n")
    return path


def load_table(name: str, folder: Path = FIGURES) -> pd.DataFrame:
    """Read the data that a figure was drawn from, as ``save`` wrote it."""
    return pd.read_csv(folder / f"{name}.csv")
