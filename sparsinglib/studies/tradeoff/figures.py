"""Figures 2 and 15, KL beside perplexity, and thresholds carried from one corpus to another."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter

from ...paper import style
from ...suites.suite import Checkpoint
from .sweep import ALL, CETT, HIGHEST, ZEROS, Tradeoff

PAPER = (CETT, "Top-k", "FAT-ε", ZEROS)
OTHERS = (CETT, "top-p", "quantile per layer", "Top-k of outputs")
RULES = {rule: style.other(i) for i, rule in enumerate((CETT, "Top-k", "FAT-ε", "top-p", "Top-k of outputs"))}
RULES |= {"quantile per layer": style.other(5), ZEROS: style.other(6)}


def _name(c: Checkpoint) -> str:
    known = style.ACTIVATION_LABELS.get(c.activation, c.activation)
    return style.name(c.name) if style.name(c.name) != c.name else f"{c.name} ({c.scale} {known})"


def figure_2(tradeoffs: Sequence[Tradeoff], needed: pd.DataFrame) -> style.Picture:
    """Rise of perplexity (%) against activation ratio (%), a column a model: the paper's rules, below it the others.

    ``needed`` is ``numbers.needed`` (checkpoint, rule, rise_pct, activation_ratio, low, high). Points beyond +75 % are
    left to the data.
    """
    with style.context():
        # One model has its two panels side by side, several have them one above the other.
        one = len(tradeoffs) == 1
        fig, panels = style.axes(*((1, 2) if one else (2, len(tradeoffs))), height=2.9 if one else 2.4, sharey=True)
        for column, t in enumerate(tradeoffs):
            for row, (rules, kind) in enumerate(
                ((PAPER, "the paper's rules"), (OTHERS, "CETT and other tools' rules"))
            ):
                ax = panels[row * len(tradeoffs) + column]
                _rule_curves(ax, t, rules)
                ax.set(
                    ylabel="" if column or (one and row) else "rise of perplexity (%)" + ("" if one else f"\n{kind}")
                )
                ax.set(xlabel="activation ratio (%)" if row or one else "")
                ax.set_title(f"{_name(t.checkpoint)}: {kind}" if one else "" if row else _name(t.checkpoint))
        panels[0].set_ylim(-4, 100 * (HIGHEST - 1))
        handles: dict[str, Artist] = {}
        for ax in panels:
            handles |= dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
        fig.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4)
        return fig.says(
            _fewest(needed),
            "Bars: standard errors of the perplexity ratio. Ring: the thresholds that the search finds for +1 %.",
        )


def _fewest(needed: pd.DataFrame, rise: float = 10) -> str:
    """Which rule needs the fewest neurons at +10 %, in how many models, of the paper's rules and of all."""
    wide = needed[needed.rise_pct == rise].pivot(index="checkpoint", columns="rule", values="activation_ratio")
    best = wide[[rule for rule in PAPER if rule in wide]].idxmin(axis=1) == CETT
    ahead, first = (wide.idxmin(axis=1) != CETT) & best, 100 * wide.iloc[0]
    if len(wide) == 1:
        words = ", ".join(f"{rule} {share:.0f} %" for rule, share in first.sort_values().items())
        return f"At +{rise:g} % perplexity {style.name(wide.index[0])} needs of its neurons, by rule: {words}"
    return (
        f"At +{rise:g} % perplexity CETT needs the fewest neurons of the paper's rules in {best.sum()} of {len(wide)} "
        f"models ({style.name(wide.index[0])}: {first[CETT]:.0f} %, Top-k {first['Top-k']:.0f} %)"
        + (f"; another tool's rule needs fewer in {ahead.sum()}" if ahead.any() else "")
    )


def active_by_p(needed: pd.DataFrame) -> style.Picture:
    """Activation ratio (%) that CETT needs at each rise p of perplexity, a line a model, with 90 % intervals.

    ``needed`` (``numbers.needed``): checkpoint, rule, rise_pct, activation_ratio, low, high (fractions; no interval
    where some resamples do not reach p).
    """
    table = needed[needed.rule == CETT].dropna(subset=["activation_ratio"])
    with style.context():
        fig, (ax,) = style.axes(1, 1, height=3.2)
        ends, words = [], []
        for run in style.by_size(table.checkpoint):
            part = table[table.checkpoint == run].sort_values("rise_pct")
            look = style.look_of(run) | {"lw": 1.2, "ms": 4}
            bars = 100 * style.error_bars(part.low, part.activation_ratio, part.high)
            ax.errorbar(part.rise_pct, 100 * part.activation_ratio, np.nan_to_num(bars), capsize=2, **look)
            ends.append((100 * part.activation_ratio.iloc[-1], style.name(run), look["color"]))
            first, last = 100 * part.activation_ratio.iloc[0], 100 * part.activation_ratio.iloc[-1]
            words.append(f"{style.name(run)} {first:.0f} to {last:.0f} %")
        levels = sorted(table.rise_pct.unique())
        ax.set(xscale="log", ylim=(0, None), xlabel="allowed rise p of perplexity (%)", ylabel="activation ratio (%)")
        ax.set_xticks(levels, [f"{level:g}" for level in levels])
        ax.xaxis.set_minor_formatter(NullFormatter())
        style.label_ends(ax, ends)
        message = f"From p = {levels[0]:g} to {levels[-1]:g} % the neurons needed fall: {', '.join(words)}"
        return fig.says(message, "CETT on the mixture; bars: 90 % over resamples of the text.")


def _rule_curves(ax: Axes, t: Tradeoff, rules: Sequence[str]) -> None:
    ax.axhline(0, color="0.5", lw=0.8, ls=":")
    unpruned = t.points[t.points["rule"].isin((ZEROS, ALL))]
    for rule in rules:
        rows = t.points[t.points["rule"] == rule]
        if rows.empty:  # straightforward ReLU where nothing is exactly zero
            continue
        if rule != ZEROS:
            rows = pd.concat([rows, unpruned]).sort_values("activation_ratio")
        look = RULES[rule] | {"ls": "" if rule == ZEROS else "-", "zorder": 3 if rule == CETT else 2}
        ax.errorbar(
            100 * rows["activation_ratio"], 100 * (rows["ppl_ratio"] - 1), 100 * rows["ppl_ratio_se"], lw=1.1,
            ms=9 if rule == ZEROS else 3.5, elinewidth=0.8, label=rule, **look,
        )  # fmt: skip
    if t.found is not None:
        ring = RULES[CETT] | {"ms": 9, "mfc": "none", "mew": 1.4, "ls": "", "label": "CETT-PPL-1 %"}
        ax.plot(100 * t.found.activation_ratio, 100 * (t.found.ppl_ratio - 1), **ring, zorder=4)
    ax.set_xlim(0, min(100, 105 * t.unpruned))


def figure_15(tradeoffs: Sequence[Tradeoff], p: float = 1.0) -> style.Picture:
    """Rise of perplexity (%, logarithmic) and activation ratio (%) against CETT, with CETT-PPL-p % as a ring."""
    with style.context():
        fig, (left, right) = style.axes(1, 2, height=3.2)
        for t in tradeoffs:
            c, rows = t.checkpoint, t.points[t.points["rule"] == CETT].sort_values("parameter")
            look = style.look(c.scale, c.activation) | {"lw": 1.2, "ms": 3.5}
            rise, error = 100 * (rows["ppl_ratio"] - 1), 100 * rows["ppl_ratio_se"]
            seen = rise > 0
            below = np.minimum(error, 0.9 * rise)[seen]
            left.errorbar(rows["parameter"][seen], rise[seen], np.stack([below, error[seen]]), elinewidth=0.8, **look)
            cett = np.insert(rows["parameter"].to_numpy(), 0, 0.0)
            active = 100 * np.insert(rows["activation_ratio"].to_numpy(), 0, t.unpruned)
            right.plot(cett, active, **look)
            right.plot([], [], **look, label=_name(c))
            if t.found is not None:
                ring = look | {"ms": 9, "mfc": "none", "mew": 1.4, "ls": ""}
                left.plot(t.found.cett, max(100 * (t.found.ppl_ratio - 1), 1e-3), **ring)
                right.plot(t.found.cett, 100 * t.found.activation_ratio, **ring)
        left.axhline(p, color="0.3", lw=0.9, ls=":")
        left.annotate(f"p = {p:g} %", (0.72, p), (0, 3), textcoords="offset points", fontsize=8)
        left.set(ylabel="rise of perplexity (%)", yscale="log", ylim=(0.02, 300))
        left.yaxis.set_major_formatter("{x:g}")
        left.yaxis.set_minor_formatter(NullFormatter())
        right.set(ylabel="activation ratio (%)", ylim=(0, 100))
        for ax in (left, right):
            ax.set(xlabel="CETT", xlim=(0, 0.9))
        right.legend(handlelength=3.5)
        found = [t.found.cett for t in tradeoffs if t.found is not None]
        message = f"Perplexity rises and the activation ratio falls with CETT; +{p:g} % is reached at CETT "
        return fig.says(
            message + " to ".join(dict.fromkeys(f"{cett:.2f}" for cett in (min(found), max(found))))
            if found
            else "Perplexity and activation ratio against CETT",
            "Rings: the CETT that the search chose. Points where perplexity did not rise are not on the logarithmic "
            "axis. Bars: standard errors.",
        )


def ppl_and_kl(tradeoffs: Sequence[Tradeoff], data: pd.DataFrame) -> style.Picture:
    """Rise of perplexity (%) against exp(KL) − 1 (%) along CETT, with standard errors: all of it, and its beginning.

    ``data`` is ``numbers.kl_against_ppl``: checkpoint, ppl_ratio, exp_kl and their standard errors.
    """
    with style.context():
        fig, panels = style.axes(1, 2, height=3.3)
        for ax, top in zip(panels, (100 * (HIGHEST - 1), 6), strict=True):
            ax.plot([0, top], [0, top], color="0.3", lw=1, ls=":")
            for t in tradeoffs:
                rows = data[data["checkpoint"] == t.checkpoint.name]
                look = style.look(t.checkpoint.scale, t.checkpoint.activation) | {"lw": 1, "ms": 4}
                x, y = 100 * (rows["exp_kl"] - 1), 100 * (rows["ppl_ratio"] - 1)
                errors = {"xerr": 100 * rows["exp_kl_se"], "yerr": 100 * rows["ppl_ratio_se"]}
                ax.errorbar(x, y, **errors, **look, elinewidth=0.8, capsize=2, label=_name(t.checkpoint))
            ax.set(xlim=(-0.03 * top, top), ylim=(-0.12 * top, top))
            ax.set(xlabel="exp(KL(dense ‖ sparse)) − 1 (%)", ylabel="rise of perplexity (%)")
        panels[0].set_title("the whole range (dotted: equal)")
        panels[1].set_title("where CETT-PPL-1 % is searched")
        panels[0].legend()
        small = data[(data.exp_kl > 1.002) & (data.exp_kl < 1.06)]
        below, fewer = int((small.ppl_ratio < small.exp_kl).sum()), small.fewer_tokens.median()
        return fig.says(
            f"Up to +6 % KL needs {fewer:.1f} times fewer tokens than perplexity for the same relative error; "
            f"perplexity rises less than exp(KL) at {below} of {len(small)} points",
            "Bars: standard errors of either. Times fewer tokens: median over these points.",
        )


def corpora_matrix(table: pd.DataFrame) -> style.Picture:
    """Rise of perplexity (%, ± standard error) on each corpus with thresholds found on each, a panel a model.

    ``table`` (``numbers.corpora_table``): checkpoint, found_on, judged_on, ppl_ratio, ppl_ratio_se, activation_ratio.
    """
    names = table["checkpoint"].unique()
    table = table.assign(rise=100 * (table["ppl_ratio"] - 1))
    reach = max(1.0, float((table.rise - 1).abs().max()))
    with style.context():
        fig, panels = style.axes(1, len(names), height=3.1, **({} if len(names) > 1 else {"width": 5.0}))
        for ax, name in zip(panels, names, strict=True):
            rows = table[table["checkpoint"] == name]
            corpora = list(rows["found_on"].unique())
            cells = rows.assign(text=[f"{r.rise:+.1f}\n± {100 * r.ppl_ratio_se:.1f}" for r in rows.itertuples()])
            wide = cells.pivot(index="found_on", columns="judged_on", values=["rise", "text"])
            rise, text = (wide[name].loc[corpora, corpora] for name in ("rise", "text"))
            look = {"cmap": "PuOr_r", "vmin": 1 - reach, "vmax": 1 + reach, "fmt": "", "cbar": False, "square": True}
            active = rows[rows["found_on"] == rows["judged_on"]].set_index("found_on")["activation_ratio"]
            labels = [f"{c}\n({100 * active[c]:.0f} % active)" for c in corpora]
            sns.heatmap(rise.astype(float), annot=text, ax=ax, yticklabels=labels, annot_kws={"fontsize": 8}, **look)
            ax.tick_params(axis="y", rotation=0)
            ax.tick_params(length=0)
            ax.set(xlabel="judged on", ylabel="thresholds found on", title=style.name(name))
        apart = table[table.found_on != table.judged_on]
        worst = apart.loc[apart.rise.idxmax()]
        return fig.says(
            f"Thresholds for +1 % on one corpus cost {apart.rise.min():+.1f} to {apart.rise.max():+.1f} % on another; "
            f"worst from {worst.found_on} to {worst.judged_on} ({style.name(worst.checkpoint)})",
            "Rise of perplexity (%) ± standard error; in brackets the activation ratio where they were found.",
        )
