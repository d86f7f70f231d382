"""What a checkpoint looks like: heat map, layers, one FFN taken apart, a text coloured by the neurons it needs."""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from transformers import PreTrainedTokenizerBase

from ...core.measure import Measurement
from ...paper import style
from ...texts.pieces import token_pieces
from .ffn_output import FFNOutput

MOST_TOKENS_DRAWN = 44  # of a heat map: more are not legible in a README
MOST_TOKENS_WRITTEN = 320
LINE_WIDTH = 100  # characters


def token_table(results: Mapping[str, Measurement], tokenizer: PreTrainedTokenizerBase | None) -> pd.DataFrame:
    """Share of neurons by layer and token of the first text kept.

    Columns: rule, layer, position, token_id, token, activation_ratio (a fraction).
    Raises ValueError if a measurement kept no map.
    """
    frames = []
    for name, result in results.items():
        if result.token_activation is None or result.by_token is None:
            raise ValueError("This measurement kept no layer × token map; call measure(…, keep_tokens=True).")
        ids = result.by_token[0].numpy()[:MOST_TOKENS_WRITTEN]
        active = pd.DataFrame(result.token_activation[:, : len(ids)]).rename_axis(index="layer", columns="position")
        frame = active.stack().rename("activation_ratio").reset_index()
        pieces = np.array(token_pieces(tokenizer, ids), dtype=object)
        frames.append(frame.assign(rule=name, token_id=ids[frame.position], token=pieces[frame.position]))
    return pd.concat(frames, ignore_index=True)[["rule", "layer", "position", "token_id", "token", "activation_ratio"]]


def heat_map(table: pd.DataFrame, results: Mapping[str, Measurement]) -> style.Picture:
    """Activation ratio by layer (down) and token (across), one panel a rule, on one colour scale.

    ``table`` is ``token_table``, of which the first tokens are drawn; ``results`` give each rule's mean and KL.
    """
    table = table[table.position < MOST_TOKENS_DRAWN]
    top, layers = 100 * table.activation_ratio.max(), table.layer.nunique()
    pieces = table.drop_duplicates("position").sort_values("position").token.tolist()
    with style.context():
        fig, panels = style.axes(len(results), 1, height=0.45 + 0.13 * min(max(layers, 6), 24), sharex=True)
        for ax, (name, result) in zip(panels, results.items(), strict=True):
            cells = 100 * table[table.rule == name].pivot(index="layer", columns="position", values="activation_ratio")
            ax.imshow(cells, aspect="auto", cmap="viridis", vmin=0, vmax=top, interpolation="nearest")
            kl = "" if result.kl is None else f", KL {result.kl:.3f}"
            ax.set_title(f"{name}: {100 * result.activation_ratio:.1f} % active{kl}", parse_math=False)
            ax.set_ylabel("layer")
            ax.set_yticks(range(0, layers, max(1, layers // 6)))
            ax.grid(False)
        look: style.Look = {"rotation": 90, "fontsize": 8, "family": style.monospace(), "parse_math": False}
        panels[-1].set_xticks(range(len(pieces)), pieces, **look)
        fig.colorbar(panels[0].images[0], ax=panels, label="neurons active (%)", fraction=0.025, pad=0.01)
        first = next(iter(results))
        spread = np.ptp(100 * table[table.rule == first].groupby("position").activation_ratio.mean())
        message = f"{first} gives some of these tokens {spread:.0f} points more neurons than others"
        costs = {name: result.kl for name, result in results.items() if result.kl is not None}
        if len(costs) > 1:
            others = " and ".join(f"{costs[n] / costs[first]:.1f} ({n})" for n in list(costs)[1:])
            message += f"; with as many neurons the predictions move {others} times as far"
        return fig.says(
            message,
            f"The first {len(pieces)} tokens of a text. How far predictions move from dense: KL, over all of it.",
        )


def layer_profile(table: pd.DataFrame, subject: str) -> style.Picture:
    """Activation ratio and CETT of each layer, one line a model.

    ``table``: ``Measurement.by_layer`` (layer, activation_ratio, cett, neurons; fractions) with the model's name in
    ``series``; ``subject`` is the rule that all have in common.
    """
    labels = {"activation_ratio": ("activation ratio (%)", 100), "cett": ("CETT reached", 1)}
    models = [(str(name), rows) for name, rows in table.groupby("series", sort=False)]
    with style.context():
        fig, panels = style.axes(1, 2, height=2.7)
        for ax, (column, (label, unit)) in zip(panels, labels.items(), strict=True):
            ends = []
            for k, (name, rows) in enumerate(models):
                look = style.look_of(name, k) | {"ls": "-"}
                ax.plot(rows.layer, unit * rows[column], **look, ms=4)
                ends.append((rows.layer.iloc[-1], unit * rows[column].iloc[-1], style.name(name), look["color"]))
            ax.set(xlabel="layer", ylabel=label, ylim=(0, None))
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
            style.label_lines(ax, ends)
        shares = {}
        for name, rows in models:
            share, mean = 100 * rows.activation_ratio, 100 * np.average(rows.activation_ratio, weights=rows.neurons)
            shares[name] = (mean, share.min(), share.max())
        return fig.says(
            _needs(subject, "{} needs {:.0f} % of its neurons (single layers {:.0f} to {:.0f} %)", shares),
            "Means over tokens. CETT: length of the output that is skipped, over that of the full output.",
        )


def layers_by_p(table: pd.DataFrame) -> style.Picture:
    """Activation ratio (%) of each layer (down) at each allowed rise p of perplexity (across), a panel a model.

    ``table``: series (name), p_pct, layer, activation_ratio (a fraction).
    """
    models, few = table.groupby("series", sort=False), table.layer.nunique() <= 12
    look = {"cmap": "viridis", "vmin": 0, "vmax": 100 * table.activation_ratio.max(), "cbar": not few, "annot": few}
    height = 0.55 + 0.2 * min(table.layer.nunique() + 3, 20)
    with style.context():
        fig, panels = style.axes(1, len(models), height=height)
        words, every = [], True
        for ax, (series, part) in zip(panels, models, strict=True):
            name, cells = style.name(str(series)), part.pivot(index="layer", columns="p_pct", values="activation_ratio")
            style.matrix(ax, 100 * cells, fmt=".0f", **look)
            ax.set_xticklabels([f"{p:g}" for p in cells.columns], rotation=0)
            ax.set(title=name, xlabel="allowed rise p of perplexity (%)", ylabel="layer")
            written = (100 * cells).round()
            shed = written.iloc[:, 0] - written.iloc[:, -1]
            most = [str(layer) for layer in shed.index[shed == shed.max()]]
            layers = f"layer{'s' if len(most) > 1 else ''} {' and '.join(most)}"
            words.append(f"{layers} of {name} ({shed.max():.0f} points)")
            every = every and bool((shed > 0).all())
        ends = f"From p = {table.p_pct.min():g} to {table.p_pct.max():g} %"
        note = "Neurons active (%). Thresholds are found and measured on the beginning of the text alone."
        return fig.says(
            f"{ends} {'each layer sheds' if every else 'layers shed'} neurons, most: {', '.join(words)}", note
        )


def figure_1(taken: FFNOutput, piece: str) -> style.Picture:
    """The paper's Figure 1 from one real token: strong and weak neurons, and the output with and without the weak."""
    neurons, output = taken.neurons, taken.output.sort_values("all_neurons", ascending=False, ignore_index=True)
    strong, ink = int(neurons["strong"].sum()), style.ACTIVATION_COLOURS["relu"]
    with style.context():
        fig, (left, right) = style.axes(1, 2, height=2.8)
        left.bar(neurons.index, neurons["magnitude"], width=1.0, color=np.where(neurons["strong"], ink, "#BBBBBB"))
        left.axhline(taken.threshold, color="k", lw=1)
        left.annotate("threshold of the layer", (len(neurons), taken.threshold), xytext=(0, 4), ha="right",
                      textcoords="offset points", fontsize=8)  # fmt: skip
        left.set(xlabel="neuron, strongest first", ylabel="length of its output vector")
        right.plot(output.index, output["all_neurons"], color="0.6", lw=3, label="all neurons")
        right.plot(output.index, output["strong_only"], color=ink, lw=1, label="strong only")
        right.set(xlabel="dimension of the FFN's output, sorted", ylabel="value")
        right.legend()
        return fig.says(
            f"{strong} of {len(neurons)} neurons make the output: without the other {len(neurons) - strong} it changes "
            f"by {100 * taken.cett:.0f} % of its length",
            f"The FFN of layer {taken.layer} on one token, “{piece}”. A neuron's output vector is its value times its "
            "column of down_proj.",
        )


def coloured_text(table: pd.DataFrame, subject: str, titles: Mapping[str, str] | None = None) -> style.Picture:
    """Write the text with each token on a ground coloured by the share of neurons it needed, mean over layers.

    ``table`` is ``token_table``, one text for each of its rules or models, above which stands its title (default: its
    name and mean); ``subject`` is the rule or model that all have in common.
    """
    parts, shares = {}, {}
    for rule, part in table.groupby("rule", sort=False):
        need = part.groupby("position").agg(token=("token", "first"), share=("activation_ratio", "mean"))
        parts[rule] = need.assign(place=_places(need.token.tolist()), wide=need.token.map(_columns))
        shares[str(rule)] = 100 * need.share.agg(["mean", "min", "max"])
    titles = titles or {rule: f"{style.name(rule)}: {share['mean']:.1f} % active" for rule, share in shares.items()}
    lines = [1 + max(line for line, _ in part.place) for part in parts.values()]
    used = max((part.place.str[1] + part.wide).max() for part in parts.values())
    norm = Normalize(0, 100 * max(part.share.max() for part in parts.values()))
    with style.context():
        height = (0.3 * len(lines) + 0.22 * sum(lines) + 0.5) / len(lines)
        fig, panels = style.axes(len(parts), 1, height=height, height_ratios=[n + 1.5 for n in lines])
        for ax, (rule, part), count in zip(panels, parts.items(), lines, strict=True):
            ax.set(xlim=(0, used), ylim=(count, 0))
            ax.set_axis_off()
            ax.set_title(titles[str(rule)], parse_math=False)
            _write_tokens(ax, part, norm, min(9.5, 750 / used))
        bar: style.Look = {"orientation": "horizontal", "fraction": 0.05, "aspect": 60, "pad": 0.02}
        scale = fig.colorbar(ScalarMappable(norm, style.TEXT_COLOURS), ax=panels, **bar)
        scale.set_label("neurons active (%), mean over layers")
        scale.outline.set_visible(False)
        first = "{} needs {:.0f} % of the neurons on a short text (single tokens {:.0f} to {:.0f} %)"
        return fig.says(_needs(subject, first, shares))


def _needs(subject: str, first: str, shares: Mapping[str, Iterable[float]]) -> str:
    """A message about a rule or model: names with their mean, least and most share (%), the ``first`` in more words."""
    known = re.fullmatch(r"CETT-PPL-(\S+)%", subject)
    under = f"For {known[1]} % more perplexity" if known else f"{subject}:"
    forms = [first] + ["{} {:.0f} % ({:.0f} to {:.0f} %)"] * (len(shares) - 1)
    words = [form.format(style.name(n), *share) for form, (n, share) in zip(forms, shares.items(), strict=True)]
    return f"{under} {', '.join(words)}"


def _columns(piece: str) -> float:
    """Width of a token in monospaced characters; Chinese characters are two wide."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in piece) + 0.25


def _places(pieces: Sequence[str]) -> list[tuple[int, float]]:
    """Line and column of each token."""
    places, line, column = [], 0, 0.0
    for piece in pieces:
        if column and column + _columns(piece) > LINE_WIDTH:
            line, column = line + 1, 0.0
        places.append((line, column))
        line, column = (line + 1, 0.0) if piece.endswith("⏎") else (line, column + _columns(piece))
    return places


def _write_tokens(ax: Axes, part: pd.DataFrame, norm: Normalize, size: float) -> None:
    looks = style.shades(100 * part.share, float(norm.vmax or 1))
    for row, (ground, ink) in zip(part.itertuples(), looks, strict=True):
        (line, column), wide = row.place, row.wide
        ax.add_patch(Rectangle((column, line + 0.06), wide - 0.1, 0.88, color=ground, lw=0))
        # parse_math off: a token may hold any number of dollar signs.
        ax.text(column + wide / 2 - 0.05, line + 0.53, row.token, ha="center", va="center", fontsize=size, color=ink,
                family=style.monospace(), parse_math=False)  # fmt: skip
