"""What a checkpoint looks like: heat map, layer profile, one FFN taken apart, a text coloured by neurons needed.

Each function takes what the library measured and gives a matplotlib Figure and the tidy data it was drawn from.
"""

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from transformers import PreTrainedTokenizerBase

from ...core.measure import Measurement
from ...paper import style
from .anatomy import Anatomy

MOST_TOKENS_DRAWN = 64  # more do not stay legible on one page
COLOURS = "viridis"
SERIES = tuple(style.COLOURS[scale] for scale in ("0.2B", "1.2B", "0.4B", "2.4B", "0.8B"))
INCHES_A_TOKEN = 0.19
BROKEN = "\N{REPLACEMENT CHARACTER}"


def token_pieces(tokenizer: PreTrainedTokenizerBase | None, ids: Sequence[int] | np.ndarray) -> list[str]:
    """Text of each token, readable by itself: spaces as ·, line ends as ⏎, other control characters by their code.

    Tokens that make up one character together show the character once and ‥ for the rest.
    """
    ids = [int(i) for i in ids]
    if tokenizer is None:
        return [str(i) for i in ids]
    pieces: list[str] = []
    while len(pieces) < len(ids):
        start = len(pieces)
        runs = (str(tokenizer.decode(ids[start : start + n], clean_up_tokenization_spaces=False)) for n in range(1, 5))
        whole = next(((n, text) for n, text in enumerate(runs, 1) if text and BROKEN not in text), None)
        length, text = whole or (1, f"<{ids[start]}>")
        pieces += [_visible(text), *["‥"] * (length - 1)]
    return pieces[: len(ids)]


def _visible(text: str) -> str:
    shown = text.replace("\n", "⏎").replace("\t", "⇥").replace(" ", "·")
    return "".join(c if unicodedata.category(c)[0] != "C" else f"<{ord(c):x}>" for c in shown)


def _write(ax: Axes, x: float, y: float, text: str, **options: Any) -> None:
    # parse_math off: a token may hold any number of dollar signs.
    ax.text(x, y, text, parse_math=False, **options)


def _tokens_shown(result: Measurement) -> tuple[np.ndarray, np.ndarray]:
    activation = result.token_activation
    if activation is None or result.kept is None:
        raise ValueError("This measurement kept no layer × token map; call measure(…, keep_tokens=True).")
    return activation[:, :MOST_TOKENS_DRAWN], result.kept[0][:MOST_TOKENS_DRAWN].numpy()


def heat_map(
    results: Mapping[str, Measurement], tokenizer: PreTrainedTokenizerBase | None
) -> tuple[Figure, pd.DataFrame]:
    """Draw activation ratio by layer (down) and token (across), one panel a rule, on one colour scale.

    At most the first 64 tokens are drawn, so that the picture stays legible and its size bounded. Titles give the mean
    over the whole text measured, and say so where it is longer. Raises ValueError if a measurement kept no map.
    """
    shown = {name: _tokens_shown(result) for name, result in results.items()}
    top = max(float(activation.max()) for activation, _ in shown.values())
    layers, tokens = next(iter(shown.values()))[0].shape
    panel = 0.9 + max(0.9, 0.12 * layers)
    with style.context():
        figure = Figure(figsize=(max(6.5, 1.6 + INCHES_A_TOKEN * tokens), panel * len(shown)), layout="constrained")
        panels = figure.subplots(len(shown), 1, squeeze=False)[:, 0]
        rows = []
        for ax, (name, (activation, ids)) in zip(panels, shown.items(), strict=True):
            image = ax.imshow(activation, aspect="auto", cmap=COLOURS, vmin=0, vmax=top, interpolation="nearest")
            _label_tokens(ax, token_pieces(tokenizer, ids))
            ax.set_ylabel("layer")
            ax.set_yticks(range(0, layers, max(1, layers // 6)))
            ax.grid(False)
            mean, count = results[name].activation_ratio, results[name].tokens
            cut = f" over {count:,} tokens, the first {tokens} drawn" if count > tokens else ""
            _write(
                ax, 0, 1.03, f"{name}: activation ratio {100 * mean:.1f} %{cut}", transform=ax.transAxes, fontsize=10
            )
            rows += [
                {"rule": name, "layer": layer, "position": j, "token_id": int(ids[j]), "activation_ratio": value}
                for layer, row in enumerate(activation)
                for j, value in enumerate(row)
            ]
        figure.colorbar(image, ax=list(panels), label="share of neurons active", fraction=0.03, pad=0.01)
    return figure, pd.DataFrame(rows)


def _label_tokens(ax: Axes, pieces: Sequence[str]) -> None:
    ax.set_xticks(range(len(pieces)), pieces, rotation=90, fontsize=7)
    for label in ax.get_xticklabels():
        label.set_parse_math(False)


def layer_profile(results: Mapping[str, Measurement]) -> tuple[Figure, pd.DataFrame]:
    """Draw activation ratio and CETT reached against layer, one line a rule or model."""
    data = pd.concat([r.by_layer.assign(series=name) for name, r in results.items()], ignore_index=True)
    with style.context():
        figure, panels = style.axes(1, 2)
        for ax, column, label in zip(
            panels, ("activation_ratio", "cett"), ("activation ratio (%)", "CETT (%)"), strict=True
        ):
            for index, (name, rows) in enumerate(data.groupby("series", sort=False)):
                colour = SERIES[index % len(SERIES)]
                ax.plot(rows["layer"], 100 * rows[column], marker="o", ms=4, color=colour, label=name)
            ax.set(xlabel="layer", ylabel=label, ylim=(0, None))
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        panels[0].set_title("neurons kept in each layer")
        panels[1].set_title("what leaving the others out costs")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(results))
    return figure, data


def figure_1(anatomy: Anatomy, piece: str) -> tuple[Figure, pd.DataFrame]:
    """Redraw the paper's Figure 1 from one real token: strong and weak neurons, and the output with and without."""
    neurons, output = anatomy.neurons, anatomy.output.sort_values("all_neurons", ascending=False, ignore_index=True)
    strong = int(neurons["strong"].sum())
    with style.context():
        figure, (left, right) = style.axes(1, 2, width=4.6)
        colours = np.where(neurons["strong"], style.ACTIVATION_COLOURS["relu"], "#BBBBBB")
        left.bar(neurons.index, neurons["magnitude"], width=1.0, color=colours)
        left.axhline(anatomy.threshold, color=style.ACTIVATION_COLOURS["silu"], lw=1)
        left.annotate("threshold of the layer", (len(neurons), anatomy.threshold), xytext=(0, 4), ha="right",
                      textcoords="offset points", color=style.ACTIVATION_COLOURS["silu"], fontsize=8)  # fmt: skip
        left.set(xlabel="neuron, strongest first", ylabel="length of its output vector")
        left.set_title(f"layer {anatomy.layer}: {strong} of {len(neurons)} neurons are strong")
        right.plot(output.index, output["all_neurons"], color="0.6", lw=3, label="all neurons")
        right.plot(
            output.index, output["strong_only"], color=style.ACTIVATION_COLOURS["relu"], lw=1, label="strong only"
        )
        right.set(xlabel="dimension of the FFN's output, sorted", ylabel="value")
        right.set_title(f"leaving the weak out changes it by {100 * anatomy.cett:.0f} %")
        right.legend()
        figure.suptitle(f"One FFN on one token, “{piece}”", fontsize=11, parse_math=False)
    return figure, neurons


def coloured_text(
    results: Mapping[str, Measurement], tokenizer: PreTrainedTokenizerBase | None, *, width: int = 88
) -> tuple[Figure, pd.DataFrame]:
    """Write the text with each token on a ground coloured by the share of neurons it needed, mean over layers.

    At most the first 320 tokens; ``width`` is the length of a line in characters.
    """
    rows = []
    for name, result in results.items():
        if result.token_activation is None or result.kept is None:
            raise ValueError("This measurement kept no layer × token map; call measure(…, keep_tokens=True).")
        ids, need = result.kept[0][:320].numpy(), result.token_activation.mean(axis=0)[:320]
        pieces = token_pieces(tokenizer, ids)
        rows += [
            {"series": name, "line": line, "column": column, "token_id": int(i), "token": piece, "activation_ratio": a}
            for (line, column), i, piece, a in zip(_places(pieces, width), ids, pieces, need, strict=True)
        ]
    data = pd.DataFrame(rows)
    lines = data.groupby("series", sort=False)["line"].max() + 1
    norm = Normalize(0, data["activation_ratio"].max())
    with style.context():
        figure = Figure(figsize=(9.5, 0.5 * len(lines) + 0.27 * lines.sum() + 0.6), layout="constrained")
        panels = figure.subplots(len(lines), 1, squeeze=False, height_ratios=[n + 1.5 for n in lines])[:, 0]
        for ax, (name, part) in zip(panels, data.groupby("series", sort=False), strict=True):
            ax.set(xlim=(0, width), ylim=(lines[name], 0))
            ax.set_axis_off()
            mean = 100 * results[name].activation_ratio
            ax.set_title(f"{name}: mean {mean:.1f} % of neurons", loc="left", parse_math=False)
            _draw_tokens(ax, part, norm)
        scale = figure.colorbar(
            ScalarMappable(norm, COLOURS), ax=list(panels), orientation="horizontal",
            fraction=0.06, aspect=60, label="share of neurons active, mean over layers",
        )  # fmt: skip
        scale.outline.set_visible(False)
    return figure, data


def _columns(piece: str) -> float:
    """Width of a token in monospaced characters; Chinese characters are two wide."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in piece) + 0.25


def _places(pieces: Sequence[str], width: int) -> list[tuple[int, float]]:
    places, line, column = [], 0, 0.0
    for piece in pieces:
        if column and column + _columns(piece) > width:
            line, column = line + 1, 0.0
        places.append((line, column))
        column += _columns(piece)
        if piece.endswith("⏎"):
            line, column = line + 1, 0.0
    return places


def _draw_tokens(ax: Axes, part: pd.DataFrame, norm: Normalize) -> None:
    palette = colormaps[COLOURS]
    for row in part.itertuples():
        ground = palette(norm(row.activation_ratio))
        dark = np.dot(ground[:3], (0.299, 0.587, 0.114)) < 0.55
        wide = _columns(row.token)
        ax.add_patch(Rectangle((row.column, row.line + 0.08), wide - 0.1, 0.84, color=ground, lw=0))
        _write(ax, row.column + wide / 2 - 0.05, row.line + 0.53, row.token, ha="center", va="center", fontsize=7.5,
               family=style.MONOSPACE, color="white" if dark else "black")  # fmt: skip
