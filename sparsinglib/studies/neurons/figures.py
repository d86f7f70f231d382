"""Figures on neurons and tokens (9, 10, 16 and our own): tidy frames in, a Picture out."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm
from matplotlib.lines import Line2D

from ...paper import style
from .tokens import ALL


def _label(activation: str) -> str:
    return style.ACTIVATION_LABELS.get(activation, activation)


def _name(corpus: str) -> str:
    return corpus.rpartition("/")[2]


def figure_9(table: pd.DataFrame, largest: pd.DataFrame) -> style.Picture:
    """Sorted activation frequencies, mean over layers, a panel a corpus.

    ``table`` (``frequency.curve_table`` at that position): checkpoint, scale, activation, corpus, neurons_pct,
    frequency_pct. ``largest`` (``frequency.largest``): position, activation, scales, halves, activations (points).
    """
    corpora = list(dict.fromkeys(table.corpus))
    with style.context():
        fig, panels = style.axes(1, len(corpora), height=2.8, sharey=True)
        for ax, corpus in zip(panels, corpora, strict=True):
            _curves(ax, table[table.corpus == corpus])
            ax.set_title(_name(corpus), parse_math=False)
        fig.supxlabel("share of neurons, most frequent first (%)", fontsize=9)
        panels[0].set_ylabel("activation frequency (% of tokens)")
        _keys(panels[-1], table)
        note = "Distance: mean gap between two sorted curves. Darker: larger."
        return fig.says(_alike(largest, str(table.position.iloc[0])), note)


def _alike(largest: pd.DataFrame, position: str) -> str:
    """How far curves of one activation lie apart, beside the distance of the two activations."""
    rows = largest[largest.position == position].dropna(subset=["scales"])
    if rows.empty:
        return "How often each neuron is active, most frequent first"
    words = " or ".join(f"{r.scales:.0f} ({_label(r.activation)})" for r in rows.itertuples())
    between = rows.activations.min()
    other = "" if np.isnan(between) else f", ReLU and SiLU at least {between:.0f}"
    return f"Sorted curves of two sizes lie at most {words} points apart in the mean{other}"


def _curves(ax: Axes, part: pd.DataFrame) -> None:
    for _, line in part.groupby("checkpoint", sort=False):
        look = style.look(line.scale.iloc[0], line.activation.iloc[0]) | {"marker": None}
        ax.plot(line.neurons_pct, line.frequency_pct, lw=1.2, **look)
    ax.set(xlim=(0, 100), ylim=(0, 100))


def _keys(ax: Axes, table: pd.DataFrame) -> None:
    """Names of the smallest and the largest model of each activation, in its colour and line."""
    keys = []
    for activation, scales in table.groupby("activation", sort=False).scale:
        for scale in dict.fromkeys((scales.min(), scales.max())):
            look = style.look(scale, activation) | {"marker": None}
            keys.append(Line2D([], [], **look, label=f"{scale} {_label(activation)}"))
    ax.legend(handles=keys, loc="upper right")


def figure_16(table: pd.DataFrame) -> style.Picture:
    """The same for first, middle and last layer (down): smallest and largest model, and a band that holds all sizes."""
    positions, corpora = (list(dict.fromkeys(table[name])) for name in ("position", "corpus"))
    gaps = []
    with style.context():
        fig, panels = style.axes(len(positions), len(corpora), height=1.9, sharex=True, sharey=True)
        for ax, (position, corpus) in zip(panels, ((p, c) for p in positions for c in corpora), strict=True):
            part = table[(table.position == position) & (table.corpus == corpus)]
            for activation, rows in part.groupby("activation", sort=False):
                wide = rows.pivot(index="neurons_pct", columns="checkpoint", values="frequency_pct")
                wide = wide[list(dict.fromkeys(rows.checkpoint))]  # smallest first, as in a suite
                wide = wide.interpolate(method="index", limit_direction="both")  # sizes may have other widths
                ink = style.colour("", str(activation))
                ax.fill_between(wide.index, wide.min(axis=1), wide.max(axis=1), color=ink, alpha=0.2, lw=0)
                gaps.append((position, activation, (wide.iloc[:, 0] - wide.iloc[:, -1]).abs().mean()))
                _curves(ax, rows[rows.checkpoint.isin(wide.columns[[0, -1]])])
        for ax, corpus in zip(panels, corpora, strict=False):
            ax.set_title(_name(corpus), parse_math=False)
        for ax, position in zip(panels[:: len(corpora)], positions, strict=True):
            ax.set_ylabel(position)
        fig.supxlabel("share of neurons, most frequent first (%)", fontsize=9)
        fig.supylabel("activation frequency (% of tokens)", fontsize=9)
        _keys(panels[len(corpora) - 1], table)
        mean = pd.DataFrame(gaps, columns=["position", "activation", "gap"])
        mean = mean.groupby(["position", "activation"]).gap.mean().groupby("position").mean()
        words = ", ".join(f"{mean[position]:.0f} points in the {position}" for position in positions)
        several = bool(table.groupby("activation").checkpoint.nunique().max() > 1)
        said = f"Smallest and largest model differ by {words}"
        alone = "How often each neuron is active in the first, middle and last layer"
        lines = "Lines: smallest and largest model; band: from least to most of all sizes. "
        return fig.says(
            said if several else alone,
            f"{lines if several else ''}In the title: gap between the two, mean over neurons, corpora, ReLU and SiLU. "
            "C47 is judged on neighbouring sizes, which lie closer together.",
        )


def distances(table: pd.DataFrame, positions: Sequence[str]) -> style.Picture:
    """How far curves lie apart by layer: median over corpora and pairs, bars from least to most.

    ``table`` (``frequency.distances``): activation ("both" for ReLU against SiLU), corpus, position, kind ("halves",
    "scales", "activations"), distance_pp. The message has the medians at the first of ``positions``.
    """
    labels = {"halves": "two halves of the text", "scales": "two sizes", "activations": "ReLU against SiLU"}
    series = table.groupby(["kind", "activation"], sort=False).size().index
    middle: dict[str, list[float]] = {kind: [] for kind in labels}
    step = 0.8 / max(1, len(series))
    keys = []
    with style.context():
        fig, (ax,) = style.axes(1, 1, height=3.2)
        for k, (kind, activation) in enumerate(sorted(series, key=lambda s: list(labels).index(s[0]))):
            rows = table[(table.kind == kind) & (table.activation == activation)].groupby("position").distance_pp
            rows = rows.agg(["median", "min", "max"]).reindex(positions)
            look = style.other(1) if kind == "activations" else style.look("", activation)
            look |= {"mfc": "none"} if kind == "halves" else {}
            label = labels[kind] if kind == "activations" else f"{_label(activation)}: {labels[kind]}"
            bars = style.error_bars(rows["min"], rows["median"], rows["max"])
            x = np.arange(len(positions)) + step * (k - (len(series) - 1) / 2)
            ax.errorbar(x, rows["median"], bars, ms=5, capsize=3, **look | {"ls": ""})
            middle[kind].append(rows["median"].iloc[0])
            keys.append(Line2D([], [], **look | {"ls": ""}, ms=5, label=label))
        ax.set_xticks(range(len(positions)), positions)
        ax.grid(axis="x", visible=False)
        ax.set(ylim=(-0.8, None), ylabel="distance of curves (points)")
        fig.legend(handles=keys, loc="outside right center")
        return fig.says(
            _differ(middle) or "No two curves to compare",
            "Distance: mean gap between two sorted curves. Mark: median over corpora and pairs of models; bar: least "
            f"to most. Title: medians, {positions[0]}.",
        )


def _differ(medians: dict[str, list[float]]) -> str:
    """How far curves lie apart, at most two kinds of pairs: "Sizes differ by 2 points, ReLU and SiLU by 21"."""
    subjects = {"scales": "sizes", "activations": "ReLU and SiLU", "halves": "two halves of the text"}
    words: list[str] = []
    for kind, subject in subjects.items():
        if found := sorted({f"{median:.0f}" for median in medians[kind]}, key=float):
            words.append(f"{subject} {'by' if words else 'differ by'} {' to '.join(found)}{'' if words else ' points'}")
    said = ", ".join(words[:2])
    return said[:1].upper() + said[1:]


def overlap(table: pd.DataFrame, share: float) -> style.Picture:
    """Overlap of the most frequent neurons of two corpora in percent, one matrix a model; diagonal: two halves.

    ``table`` (``frequency.top_overlap``): checkpoint, corpus_a, corpus_b, overlap, chance (fractions).
    """
    names = style.by_size(table.checkpoint)
    corpora = list(dict.fromkeys([*table.corpus_a, *table.corpus_b]))
    columns = -(-len(names) // 2) if len(names) > 3 else len(names)
    with style.context():
        fig, panels = style.grid(len(names), columns, 2.0 if columns > 2 else 3.2)
        for i, (ax, name) in enumerate(zip(panels, names, strict=True)):
            part = table[table.checkpoint == name]
            cells = pd.DataFrame(np.nan, index=corpora, columns=corpora)
            for row in part.itertuples():
                cells.loc[row.corpus_a, row.corpus_b] = cells.loc[row.corpus_b, row.corpus_a] = 100 * row.overlap
            short = [_name(c)[:9] for c in corpora]
            look = {"cmap": "viridis", "vmin": 0, "vmax": 100, "cbar": False, "square": True, "fmt": ".0f"}
            style.matrix(ax, cells, annot=True, xticklabels=short, yticklabels=False, **look)
            if i % columns == 0:
                ax.set_yticks(np.arange(len(corpora)) + 0.5, short)
            ax.tick_params(axis="x", rotation=45)
            ax.set_title(style.name(name), parse_math=False)
        return fig.says(
            _least_shared(table),
            f"Share (%) of the {100 * share:.0f} % most active neurons on one corpus that are among those of the other;"
            " diagonal: two halves of one corpus.",
        )


def _least_shared(table: pd.DataFrame) -> str:
    apart = table[table.corpus_a != table.corpus_b]
    halves, chance = 100 * table[table.corpus_a == table.corpus_b].overlap, 100 * table.chance.mean()
    words = f"chance: {chance:.0f} %" + (f"; two halves of one corpus: {_from_to(halves)}" if len(halves) else "")
    if apart.empty:
        return f"The same neurons are active in two halves of a corpus ({words})"
    pairs = {pair: 100 * rows.overlap for pair, rows in apart.groupby(["corpus_a", "corpus_b"])}
    a, b = max(pairs, key=lambda pair: pairs[pair].mean())
    said = f"{_name(a)} and {_name(b)} share {_from_to(pairs.pop((a, b)))} of their most active neurons"
    if pairs:
        said = f"{said[:1].upper()}{said[1:]}, other pairs {_from_to(pd.concat(pairs.values()))}"
    return f"{said} ({words})"


def _from_to(values: pd.Series) -> str:
    return f"{values.min():.0f} to {values.max():.0f} %"


def figure_10(table: pd.DataFrame, pairs: pd.DataFrame) -> style.Picture:
    """Activation ratio of each vocabulary entry, one model against another: activations down, pairs across.

    ``table`` (``tokens.pair_entries``): activation, a, b, token_id, ratio_a, ratio_b (fractions); ``pairs``
    (``tokens.pair_table``): a, b, rank_correlation, halves_correlation, share_near.
    """
    groups = list(table.groupby(["activation", "a", "b"], sort=False))
    columns = max(len({(a, b) for (kind, a, b), _ in groups if kind == k}) for (k, _, _), _ in groups)
    numbers = pairs.set_index(["a", "b"])
    with style.context():
        fig, panels = style.grid(len(groups), columns, 2.1 if columns > 2 else 3.2)
        drawn = []
        for ax, ((_, a, b), part) in zip(panels, groups, strict=True):
            low, high = (100 * float(f(part[["ratio_a", "ratio_b"]].to_numpy())) for f in (np.min, np.max))
            edge = 0.04 * (high - low) + 0.1
            extent = (max(0, low - edge), high + edge) * 2
            drawn.append(ax.hexbin(100 * part.ratio_a, 100 * part.ratio_b, gridsize=30, extent=extent, mincnt=1, lw=0))
            ax.plot(extent[:2], extent[:2], color=style.ALARM, lw=1)
            ax.set(xlim=extent[:2], ylim=extent[:2], xlabel=style.name(a), ylabel=style.name(b), aspect="equal")
            ax.locator_params(nbins=4)
            row = numbers.loc[(a, b)]
            near = f"near {100 * row.share_near:.0f} %\nshuffled {100 * row.shuffled_near:.0f} %"
            ax.set_title(f"rank corr. {row.rank_correlation:z.2f}\n{near}", fontsize=8)
        # One colour scale for all panels: cells of one panel are only then comparable with those of another.
        norm = LogNorm(1, max(2, *(int(np.asarray(cells.get_array(), dtype=float).max()) for cells in drawn)))
        for cells in drawn:
            cells.set(norm=norm, cmap="viridis")
        fig.colorbar(ScalarMappable(norm, "viridis"), ax=panels, shrink=0.6, label="entries in a cell", pad=0.01)
        ends = pairs.groupby("activation", sort=False).rank_correlation.agg(["min", "max"])
        words = [f"{row['min']:z.2f} to {row['max']:z.2f} ({_label(str(a))})" for a, row in ends.iterrows()]
        halves = pairs.halves_correlation.dropna()
        if len(halves):
            words.append(f"one model on two halves of the text {halves.min():z.2f} to {halves.max():z.2f}")
        return fig.says(
            f"Tokens that need many neurons in one size tend to in another: rank correlation {', '.join(words)}",
            "Activation ratio (%) of each vocabulary entry, mean over its occurrences. Line: equal. Near: entries "
            "whose two ratios differ by 20 % at most; shuffled: where entries are paired at random.",
        )


def kinds(table: pd.DataFrame, order: Sequence[str]) -> style.Picture:
    """Activation ratio by kind of token, one mark a corpus with its 90 % interval, a panel a model.

    ``table`` (``tokens.kind_table``): checkpoint, corpus, kind, activation_ratio, low, high (fractions).
    """
    names, corpora = (list(dict.fromkeys(table[c])) for c in ("checkpoint", "corpus"))
    shown = [k for k in order if k in set(table.kind)]
    with style.context():
        fig, panels = style.axes(1, len(names), height=0.36 * len(shown) + 0.8, sharey=True)
        words = []
        for ax, name in zip(panels, names, strict=True):
            for k, corpus in enumerate(corpora):
                part = table[(table.checkpoint == name) & (table.corpus == corpus)]
                y = part.kind.map(shown.index) + (corpus != ALL) * 0.16 * (k - (len(corpora) - 2) / 2)
                bars = 100 * style.error_bars(part.low, part.activation_ratio, part.high)
                look = style.other(k + 1) | {"ls": "", "ms": 5, "label": _name(corpus)}
                look |= {"marker": "|", "ms": 13, "mew": 2, "color": "0.3", "capsize": 3} if corpus == ALL else {}
                ax.errorbar(100 * part.activation_ratio, y, xerr=bars, **look)
            ax.set_yticks(range(len(shown)), shown)
            ax.set(ylim=(len(shown) - 0.5, -0.5), xlabel="activation ratio (%)")
            mine = table[table.checkpoint == name]
            words.append(f"{style.name(name)} needs {_ends(mine[mine.corpus == ALL].set_index('kind'))}")
            ax.set_xlim(90 * mine.low.min(), 105 * mine.high.max())
            ax.set_title(style.name(name), parse_math=False)
        fig.keys_below(len(corpora))
        note = "Mean over tokens with its 90 % interval, the vocabulary entries of a kind drawn anew."
        return fig.says("; ".join(words), note)


def _ends(rows: pd.DataFrame) -> str:
    """The kinds (index) that need most and fewest neurons, with those whose interval contains the end's mean."""
    words = []
    for word, end in (("most", rows.activation_ratio.max()), ("fewest", rows.activation_ratio.min())):
        held = (rows.low <= end) & (end <= rows.high) | (rows.activation_ratio == end)  # of one entry no interval
        alike = rows[held].activation_ratio
        values = dict.fromkeys(f"{100 * value:.0f}" for value in (alike.min(), alike.max()))
        kinds = " and ".join(f"“{kind}”" for kind in alike.index)
        words.append(f"{word} for {kinds} ({' to '.join(values)} %)")
    return ", ".join(words)


def extremes(table: pd.DataFrame, order: Sequence[str]) -> style.Picture:
    """The entries that need most (above) and fewest neurons (below), written beside their activation ratio.

    ``table`` (``tokens.extremes``): checkpoint, side, token, kind, activation_ratio, low, high (fractions).
    """
    names = list(dict.fromkeys(table.checkpoint))
    inks = {k: style.OTHERS[i % len(style.OTHERS)] for i, k in enumerate(order)}
    longest = int(table.groupby("checkpoint").size().max())
    with style.context():
        fig, panels = style.axes(1, len(names), height=0.17 * longest + 0.7)
        words = []
        for ax, name in zip(panels, names, strict=True):
            part = table[table.checkpoint == name].sort_values("activation_ratio", ascending=False, kind="stable")
            _ranked(ax, part, inks)
            ax.set_title(style.name(name), parse_math=False)
            ends = 100 * part.groupby("side").activation_ratio.mean()
            words.append(f"{ends['most']:.0f} and {ends['fewest']:.0f} % ({style.name(name)})")
        keys = [Line2D([], [], ls="", marker="s", color=inks[k], label=k) for k in order if k in set(table.kind)]
        fig.legend(handles=keys, loc="outside lower center", ncols=4)
        return fig.says(
            f"The {longest // 2} entries that need most neurons and the {longest // 2} that need fewest average "
            + ", ".join(words),
            "Mean activation ratio over an entry's occurrences, with its 90 % interval; · is a space, ⏎ a line end.",
        )


def _ranked(ax: Axes, part: pd.DataFrame, inks: dict[str, str]) -> None:
    """One line an entry, the most expensive on top, a gap between the two ends."""
    most = int((part.side == "most").sum())
    y = np.arange(len(part)) + 1.5 * (np.arange(len(part)) >= most)
    bars = 100 * style.error_bars(part.low, part.activation_ratio, part.high)
    ax.barh(y, 100 * part.activation_ratio, xerr=bars, color=[inks[k] for k in part.kind], height=0.7, ecolor="0.3")
    # A run of one sign is written as the sign and its count: white space can be as wide as the page.
    texts = part.token.str.replace(r"(.)\1{3,}", lambda run: f"{run[1]}×{len(run[0])}", regex=True)
    texts = texts.str.replace(r"^<(\d+)>$", r"piece no. \1", regex=True)  # bytes of no character by themselves
    ax.set_yticks(y, texts, family=style.monospace(), fontsize=8, parse_math=False)
    ax.axhline(most + 0.25, color="0.5", lw=0.8, ls=":")
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.set_xlabel("activation ratio (%)")
