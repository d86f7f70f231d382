"""Figures 2 and 15, perplexity ratio against exp(KL), and thresholds carried from one corpus to another.

Each function takes what ``tradeoff`` measured and gives a matplotlib Figure and the tidy data it was drawn from.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ...paper import style
from ...suites.suite import Checkpoint
from .numbers import kl_against_ppl
from .sweep import ALL, CETT, HIGHEST, ZEROS, Tradeoff

# Okabe and Ito's colours, one for each rule; each has a marker of its own too.
RULES = {
    CETT: ("#D55E00", "o"),
    "Top-k": ("#0072B2", "s"),
    "FAT-ε": ("#009E73", "^"),
    ZEROS: ("#000000", "*"),
    "top-p": ("#56B4E9", "v"),
    "quantile per layer": ("#E69F00", "D"),
    "Top-k of outputs": ("#CC79A7", "P"),
}
PAPER = (CETT, "Top-k", "FAT-ε", ZEROS)
OTHERS = (CETT, "top-p", "quantile per layer", "Top-k of outputs")
Look = dict[str, Any]  # keyword arguments of Axes.plot


def _label(c: Checkpoint) -> str:
    return f"{c.scale} {style.ACTIVATION_LABELS.get(c.activation, c.activation)}"


def figure_2(tradeoffs: Sequence[Tradeoff]) -> tuple[Figure, pd.DataFrame]:
    """Draw perplexity against activation ratio (%), one column a checkpoint: the paper's rules, below it the others.

    The ring is CETT-PPL-1 %; bars are standard errors of the perplexity ratio. Points with perplexity beyond 1.75
    times the dense one are in the data and outside the panels.
    """
    with style.context():
        figure, panels = style.axes(2, len(tradeoffs), width=max(3.3, 5.0 - 0.6 * len(tradeoffs)), height=3.1)
        labels = [f"validation perplexity\n({kind})" for kind in ("the paper's rules", "CETT and other tools' rules")]
        for column, t in enumerate(tradeoffs):
            for row, rules in enumerate((PAPER, OTHERS)):
                ax = panels[row * len(tradeoffs) + column]
                _rule_curves(ax, t, rules)
                ax.set(xlabel="activation ratio (%)" if row else "", ylabel="" if column else labels[row])
                if not row:
                    ax.set_title(_label(t.checkpoint))
        handles: dict[str, Artist] = {}
        for ax in panels:
            handles |= dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=min(5, 1 + len(tradeoffs)))
    return figure, pd.concat([t.points for t in tradeoffs], ignore_index=True)


def _rule_curves(ax: Axes, t: Tradeoff, rules: Sequence[str]) -> None:
    dense = float(t.points["dense_ppl"].iloc[0])
    ax.axhline(dense, color="0.5", lw=1, ls=":", label="dense")
    unpruned = t.points[t.points["rule"].isin((ZEROS, ALL))]
    for rule in rules:
        colour, marker = RULES[rule]
        rows = t.points[t.points["rule"] == rule]
        if rows.empty:  # straightforward ReLU where nothing is exactly zero
            continue
        if rule != ZEROS:
            rows = pd.concat([rows, unpruned]).sort_values("activation_ratio")
        ax.errorbar(
            100 * rows["activation_ratio"], rows["ppl"], yerr=rows["dense_ppl"] * rows["ppl_ratio_se"], color=colour,
            marker=marker, ms=11 if rule == ZEROS else 4, lw=1.2, elinewidth=0.8, zorder=3 if rule == CETT else 2,
            ls="none" if rule == ZEROS else "-", label=rule,
        )  # fmt: skip
    if t.found is not None:
        ax.plot(
            100 * t.found.activation_ratio, dense * t.found.ppl_ratio, "o", ms=11, mfc="none", mew=1.6,
            color=RULES[CETT][0], label="CETT-PPL-1 %", zorder=4, ls="none",
        )  # fmt: skip
    ax.set(xlim=(0, min(100, 105 * t.unpruned)), ylim=((1 - 0.06 * (HIGHEST - 1)) * dense, HIGHEST * dense))


def figure_15(tradeoffs: Sequence[Tradeoff]) -> tuple[Figure, pd.DataFrame]:
    """Draw perplexity and activation ratio (%) against CETT, one line a checkpoint, with CETT-PPL-1 % as a ring."""
    data = pd.concat([t.points[t.points["rule"] == CETT] for t in tradeoffs], ignore_index=True)
    with style.context():
        figure, (left, right) = style.axes(1, 2)
        for t in tradeoffs:
            c = t.checkpoint
            rows = t.points[t.points["rule"] == CETT]
            colour = style.COLOURS.get(c.scale, style.ACTIVATION_COLOURS.get(c.activation, "0.2"))
            line, marker = style.ACTIVATION_LINES.get(c.activation, "-"), style.MARKERS.get(c.scale, "o")
            look: Look = {"color": colour, "ls": line, "lw": 1.3, "ms": 4, "marker": marker, "label": _label(c)}
            cett = np.insert(rows["parameter"].to_numpy(), 0, 0.0)
            left.plot(cett, np.insert(rows["ppl"].to_numpy(), 0, rows["dense_ppl"].iloc[0]), **look)
            right.plot(cett, 100 * np.insert(rows["activation_ratio"].to_numpy(), 0, t.unpruned), **look)
            if t.found is not None:
                ring: Look = {"marker": "o", "ms": 11, "mfc": "none", "mew": 1.6, "color": colour, "ls": "none"}
                left.plot(t.found.cett, rows["dense_ppl"].iloc[0] * t.found.ppl_ratio, **ring)
                right.plot(t.found.cett, 100 * t.found.activation_ratio, **ring)
        dense = data["dense_ppl"]
        left.set(ylabel="validation perplexity", ylim=(0.9 * dense.min(), 2.5 * dense.max()))
        right.set(ylabel="activation ratio (%)", ylim=(0, 100))
        for ax in (left, right):
            ax.set(xlabel="CETT", xlim=(0, 1))
        right.legend(title="ring: CETT-PPL-1 %", title_fontsize=8, handlelength=3.5)
    return figure, data


def ppl_and_kl(tradeoffs: Sequence[Tradeoff]) -> tuple[Figure, pd.DataFrame]:
    """Draw the perplexity ratio against exp(KL) along CETT, with standard errors: all of it, and its beginning."""
    data = kl_against_ppl(tradeoffs)
    with style.context():
        figure, panels = style.axes(1, 2)
        for ax, top in zip(panels, (HIGHEST, 1.06), strict=True):
            ax.plot([1, top], [1, top], color="red", lw=1, label="equal")
            for t in tradeoffs:
                c = t.checkpoint
                rows = data[data["checkpoint"] == c.name]
                ax.errorbar(
                    rows["exp_kl"], rows["ppl_ratio"], yerr=rows["ppl_ratio_se"], xerr=rows["exp_kl_se"], lw=1, ms=4,
                    color=style.COLOURS.get(c.scale, style.ACTIVATION_COLOURS.get(c.activation, "0.2")),
                    ls=style.ACTIVATION_LINES.get(c.activation, "-"), marker=style.MARKERS.get(c.scale, "o"),
                    label=_label(c), elinewidth=1, capsize=2,
                )  # fmt: skip
            margin = 0.03 * (top - 1)
            ax.set(xlim=(1 - margin, top), ylim=(1 - 4 * margin, top))
            ax.set(xlabel="exp(KL(dense ‖ sparse))", ylabel="perplexity ratio, sparse / dense")
        panels[0].set_title("the whole range")
        panels[1].set_title("where CETT-PPL-1 % is searched")
        panels[0].legend(handlelength=3.5)
    return figure, data


def corpora_matrix(table: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Draw by how much perplexity rises (%, ± standard error) on each corpus with thresholds found on each."""
    names = table["checkpoint"].unique()
    rise = 100 * (table["ppl_ratio"] - 1)
    limit = max(1.0, float((rise - 1).abs().max()))
    with style.context():
        figure, panels = style.axes(1, len(names), width=4.6, height=3.9)
        for ax, name in zip(panels, names, strict=True):
            rows = table[table["checkpoint"] == name].assign(rise=rise)
            corpora = list(rows["found_on"].unique())
            grid = rows.pivot(index="found_on", columns="judged_on", values="rise").loc[corpora, corpora]
            image = ax.imshow(grid, cmap="PuOr_r", vmin=1 - limit, vmax=1 + limit)
            for r in rows.itertuples():
                dark = abs(r.rise - 1) > 0.6 * limit
                ax.text(
                    corpora.index(r.judged_on), corpora.index(r.found_on), f"{r.rise:.1f} ± {100 * r.ppl_ratio_se:.1f}",
                    ha="center", va="center", fontsize=9, color="white" if dark else "black",
                )  # fmt: skip
            active = rows[rows["found_on"] == rows["judged_on"]].set_index("found_on")["activation_ratio"]
            ax.set_yticks(range(len(corpora)), [f"{c}\n({100 * active[c]:.1f} % active)" for c in corpora])
            ax.set_xticks(range(len(corpora)), corpora)
            ax.set(xlabel="judged on", ylabel="thresholds found on", title=name)
            ax.grid(False)
        figure.colorbar(image, ax=panels, label="rise of perplexity (%); 1 was asked for", fraction=0.04)
    return figure, table
