"""Figures on neurons and tokens (9, 10, 16 and our own): tidy frames in, matplotlib Figure and the same frame out."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ...paper import style

SPARE = tuple(style.COLOURS.values())[:6]
CORPUS_MARKERS = ("o", "s", "^", "D", "v", "P")
MATRIX = "viridis"


def _colours(scales: Iterable[str]) -> dict[str, str]:
    """The registry's colour of each scale, or one of its colours in turn for a scale it does not know."""
    return {s: style.COLOURS.get(s, SPARE[i % len(SPARE)]) for i, s in enumerate(dict.fromkeys(scales))}


def _line(activation: str) -> str:
    return style.ACTIVATION_LINES.get(activation, ":")


def _label(activation: str) -> str:
    return style.ACTIVATION_LABELS.get(activation, activation)


def _name(corpus: str) -> str:
    return corpus.rpartition("/")[2]


def frequency(table: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Sorted activation frequencies: corpora across (two by two if there is one position), positions down."""
    positions, corpora = (list(dict.fromkeys(table[name])) for name in ("position", "corpus"))
    one = len(positions) == 1
    rows, columns = (-(-len(corpora) // 2), min(2, len(corpora))) if one else (len(positions), len(corpora))
    colours = _colours(table.scale)
    with style.context():
        figure, panels = style.axes(rows, columns, *((4.0, 2.9) if one else (2.9, 2.5)))
        for ax in panels[len(positions) * len(corpora) :]:
            ax.set_axis_off()
        for ax, (position, corpus) in zip(panels, ((p, c) for p in positions for c in corpora), strict=False):
            part = table[(table.position == position) & (table.corpus == corpus)]
            for _, line in part.groupby("checkpoint", sort=False):
                first = line.iloc[0]
                look: dict[str, Any] = {"color": colours[first.scale], "ls": _line(first.activation)}
                ax.plot(line.neurons_pct, line.frequency_pct, lw=1.3, **look)
            ax.set(xlim=(0, 100), ylim=(0, 100))
            ax.set_title(_name(corpus) if one else f"{position}, {_name(corpus)}", parse_math=False)
        figure.supxlabel("share of neurons, most frequent first (%)", fontsize=9)
        figure.supylabel("activation frequency (% of tokens)", fontsize=9)
        keys = [Line2D([], [], color=c, lw=2, label=s) for s, c in colours.items()]
        keys += [Line2D([], [], color="0.3", ls=_line(a), label=_label(a)) for a in dict.fromkeys(table.activation)]
        figure.legend(handles=keys, loc="outside right upper")
    return figure, table


def distances(table: pd.DataFrame, positions: Sequence[str]) -> tuple[Figure, pd.DataFrame]:
    """Distance of curves by layer, a panel an activation: between scales, between halves of a text, to the other."""
    corpora = list(dict.fromkeys(table.corpus))
    activations = [a for a in dict.fromkeys(table.activation) if a != "both"]
    looks = {"halves": ("0.55", "one checkpoint, two halves of the text"), "scales": ("#0072B2", "two scales"),
             "activations": ("#D55E00", "two activation functions, one scale")}  # fmt: skip
    with style.context():
        figure, panels = style.axes(1, len(activations), 4.8, 3.6)
        top = float(table.distance_pp.max())
        for ax, activation in zip(panels, activations, strict=False):
            mine = table[table.activation.isin([activation, "both"])]
            for offset, (kind, (colour, _)) in zip((-0.22, 0, 0.22), looks.items(), strict=True):
                for marker, corpus in zip(CORPUS_MARKERS * len(corpora), corpora, strict=False):
                    part = mine[(mine.kind == kind) & (mine.corpus == corpus)]
                    x = part.position.map({name: i for i, name in enumerate(positions)}).astype(float) + offset
                    ax.plot(x, part.distance_pp, ls="", marker=marker, ms=4.5, color=colour, mfc="none")
            ax.set_xticks(range(len(positions)), [p.replace(" ", "\n", 1) for p in positions])
            ax.set(ylim=(0, 1.05 * top), ylabel="distance of curves (percentage points)", title=_label(activation))
        keys = [Line2D([], [], ls="", marker="o", color=colour, label=label) for colour, label in looks.values()]
        keys += [
            Line2D([], [], ls="", marker=m, color="0.3", mfc="none", label=_name(c))
            for m, c in zip(CORPUS_MARKERS * len(corpora), corpora, strict=False)
        ]
        figure.legend(handles=keys, loc="outside lower center", ncols=4)
    return figure, table


def overlap(table: pd.DataFrame, share: float) -> tuple[Figure, pd.DataFrame]:
    """Overlap of the most frequent neurons of two corpora in percent, one matrix a checkpoint."""
    names = list(dict.fromkeys(table.checkpoint))
    corpora = list(dict.fromkeys([*table.corpus_a, *table.corpus_b]))
    columns = min(4, len(names))
    with style.context():
        figure, panels = style.axes(-(-len(names) // columns), columns, 2.9 if columns > 1 else 4.2, 2.9)
        for ax in panels[len(names) :]:
            ax.set_axis_off()
        for ax, name in zip(panels, names, strict=False):
            part = table[table.checkpoint == name]
            cells = np.full((len(corpora), len(corpora)), np.nan)
            for row in part.itertuples():
                i, j = corpora.index(row.corpus_a), corpora.index(row.corpus_b)
                cells[i, j] = cells[j, i] = 100 * row.overlap
            ax.imshow(cells, cmap=MATRIX, vmin=0, vmax=100)
            for (i, j), value in np.ndenumerate(cells):
                if not np.isnan(value):
                    ax.text(j, i, f"{value:.0f}", ha="center", va="center", color="black" if value > 60 else "white")
            ax.set_xticks(range(len(corpora)), [_name(c) for c in corpora], rotation=45, ha="right")
            ax.set_yticks(range(len(corpora)), [_name(c) for c in corpora])
            ax.grid(False)
            ax.set_title(name, parse_math=False)
        chance = 100 * table.chance.mean()
        figure.colorbar(ScalarMappable(Normalize(0, 100), MATRIX), ax=panels, shrink=0.7,
                        label=f"overlap of the top {100 * share:.0f} % of neurons (%)")  # fmt: skip
        title = ["two corpora; diagonal: two halves of one corpus", f"chance gives {chance:.0f} %"]
        figure.suptitle(("; " if columns > 1 else "\n").join(title), fontsize=9)
    return figure, table


def against(table: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Activation ratio of each vocabulary entry, one model against another, a panel a pair; red: y = x."""
    groups = list(table.groupby(["activation", "a", "b"], sort=False))
    columns = min(4, len(groups))
    with style.context():
        figure, panels = style.axes(-(-len(groups) // columns), columns, 3.3, 3.1)
        for ax in panels[len(groups) :]:
            ax.set_axis_off()
        drawn = []
        for ax, ((_, a, b), part) in zip(panels, groups, strict=False):
            low, high = (100 * float(f(part[["ratio_a", "ratio_b"]].to_numpy())) for f in (np.min, np.max))
            edge = 0.04 * (high - low) + 0.1
            extent = (max(0, low - edge), high + edge) * 2
            drawn.append(ax.hexbin(100 * part.ratio_a, 100 * part.ratio_b, gridsize=45, extent=extent, mincnt=1, lw=0))
            ax.plot(extent[:2], extent[:2], color="red", lw=1)
            ax.set(xlim=extent[:2], ylim=extent[:2], xlabel=f"{a}: activation ratio (%)", ylabel=f"{b} (%)")
            ax.set_aspect("equal")
            ax.locator_params(nbins=5)
            ax.set_title(f"{len(part)} entries")
        # One colour scale for all panels: cells of one panel are only then comparable with those of another.
        norm = LogNorm(1, max(2, *(int(np.asarray(cells.get_array(), dtype=float).max()) for cells in drawn)))
        for cells in drawn:
            cells.set(norm=norm, cmap=MATRIX)
        figure.colorbar(ScalarMappable(norm, MATRIX), ax=panels, shrink=0.7, label="vocabulary entries in a cell")
    return figure, table


def _kind_colours(kinds: Sequence[str]) -> dict[str, str]:
    return dict(
        zip(kinds, ("#0072B2", "#56B4E9", "#D55E00", "#E69F00", "#009E73", "#7F4F24", "#CC79A7", "0.4"), strict=True)
    )


def kinds(table: pd.DataFrame, order: Sequence[str]) -> tuple[Figure, pd.DataFrame]:
    """Activation ratio by kind of token, one mark a corpus, a panel a model."""
    names, corpora = (list(dict.fromkeys(table[c])) for c in ("checkpoint", "corpus"))
    shown = [k for k in order if k in set(table.kind)]
    colours = dict(zip(corpora, ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00") * 9, strict=False))
    with style.context():
        figure, panels = style.axes(1, len(names), 4.6, 0.34 * len(shown) + 1.4)
        for ax, name in zip(panels, names, strict=True):
            for marker, corpus in zip(CORPUS_MARKERS * len(corpora), corpora, strict=False):
                part = table[(table.checkpoint == name) & (table.corpus == corpus)]
                y = part.kind.map(shown.index)
                ax.plot(100 * part.activation_ratio, y, ls="", marker=marker, ms=6, color=colours[corpus], alpha=0.85,
                        label=_name(corpus))  # fmt: skip
            ax.set_yticks(range(len(shown)), shown)
            ax.set(ylim=(len(shown) - 0.5, -0.5), xlabel="activation ratio (%), mean over tokens")
            ax.set_xlim(0, 106 * table[table.checkpoint == name].activation_ratio.max())
            ax.set_title(name, parse_math=False)
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(corpora))
    return figure, table


def extremes(table: pd.DataFrame, order: Sequence[str]) -> tuple[Figure, pd.DataFrame]:
    """The entries that need most (above) and fewest neurons (below), written beside their activation ratio."""
    names = list(dict.fromkeys(table.checkpoint))
    colours = _kind_colours(order)
    longest = int(table.groupby("checkpoint").size().max())
    with style.context():
        figure, panels = style.axes(1, len(names), 4.4, 0.2 * longest + 1.3)
        for ax, name in zip(panels, names, strict=True):
            _ranked(ax, table[table.checkpoint == name], colours)
            ax.set_title(name, parse_math=False)
        keys = [Line2D([], [], ls="", marker="o", color=colours[k], label=k) for k in order if k in set(table.kind)]
        figure.legend(handles=keys, loc="outside lower center", ncols=4)
    return figure, table


def _ranked(ax: Axes, part: pd.DataFrame, colours: dict[str, str]) -> None:
    """One line an entry, the most expensive on top, a gap between the two ends."""
    part = part.sort_values("activation_ratio", ascending=False, kind="stable")
    most = int((part.side == "most").sum())
    y = np.arange(len(part)) + 1.5 * (np.arange(len(part)) >= most)
    ax.barh(y, 100 * part.activation_ratio, color=[colours[k] for k in part.kind], height=0.7)
    ax.set_yticks(y, part.token, family=style.MONOSPACE, fontsize=7.5)
    for label in ax.get_yticklabels():
        label.set_parse_math(False)
    ax.axhline(most + 0.25, color="0.5", lw=0.8, ls=":")
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.set_xlabel("activation ratio (%)")
