"""Figures 2 and 15, KL beside perplexity, and thresholds carried from one corpus to another."""

import itertools
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter

from ...core.calibration import FAMILIES
from ...paper import style
from ...suites.suite import Checkpoint
from .sweep import ALL, CETT, HIGHEST, ZEROS, Tradeoff

COMPARED = 10  # rise of perplexity (%) at which the message compares the rules
SHOWN = 25  # rise (%) up to which curves are drawn: higher up, all of them run together
PAPER = (CETT, "Top-k", "FAT-ε", ZEROS)
OTHERS = (CETT, *(family for family in FAMILIES if family not in PAPER))
LOOKS = (CETT, "Top-k", "FAT-ε", "top-p", "Top-k of outputs", "quantile per layer", ZEROS)  # in the order of colours
RULES = {rule: style.other(i) for i, rule in enumerate(dict.fromkeys((*LOOKS, *OTHERS)))}
RING: style.Look = {"ms": 9, "mfc": "none", "mew": 1.4, "ls": ""}  # the thresholds that the search finds


def _name(c: Checkpoint) -> str:
    known, named = style.ACTIVATION_LABELS.get(c.activation, c.activation), style.name(c.name)
    return named if named != c.name else f"{c.name} ({c.scale} {known})"


def figure_2(tradeoffs: Sequence[Tradeoff], needed: pd.DataFrame) -> style.Picture:
    """Rise of perplexity (%) against activation ratio (%), a column a model: the paper's rules, below it the others.

    ``needed`` is ``numbers.needed``. Points beyond +25 % are left to the data.
    """
    # One model has its two panels side by side, several have them one above the other.
    n, kinds = len(tradeoffs), {"the paper's rules": PAPER, "CETT and other tools' rules": OTHERS}
    active, rise = "activation ratio (%)", "rise of perplexity (%)"
    with style.context():
        fig, panels = style.axes(*((1, 2) if n == 1 else (2, n)), height=2.9 if n == 1 else 2.4, sharey=True)
        for ax, (rules, t) in zip(panels, itertools.product(kinds.values(), tradeoffs), strict=True):
            _rule_curves(ax, t, rules)
        if n == 1:
            for ax, kind in zip(panels, kinds, strict=True):
                ax.set(title=f"{_name(tradeoffs[0].checkpoint)}: {kind}", xlabel=active)
            panels[0].set_ylabel(rise)
        else:
            for t, upper, lower in zip(tradeoffs, panels[:n], panels[n:], strict=True):
                upper.set_title(_name(t.checkpoint))
                lower.set_xlabel(active)
            for ax, kind in zip(panels[::n], kinds, strict=True):
                ax.set_ylabel(rise)
                words = kind.replace("and ", "and\n")
                ax.text(0.98, 0.97, words, ha="right", va="top", color="0.35", transform=ax.transAxes)
        panels[0].set_ylim(-1.5, SHOWN)
        fig.keys_below(4)
        return fig.says(
            _fewest(needed),
            "Bars: standard errors of the perplexity ratio. Ring: the thresholds that the search finds for +1 %. "
            f"Dotted: dense, and +{COMPARED} %. Curves go on above +{SHOWN} %.",
        )


def _fewest(needed: pd.DataFrame) -> str:
    """In how many models CETT needs the fewest neurons of the paper's rules, and which other rule comes nearest."""
    wide = needed[needed.rise_pct == COMPARED].pivot(index="checkpoint", columns="rule", values="activation_ratio")
    wide = wide.dropna(subset=[CETT])
    if wide.empty:
        return f"Under CETT no model's perplexity rises by {COMPARED} % at any share that was tried"
    first, name = 100 * wide.iloc[0], style.name(wide.index[0])
    if len(wide) == 1:
        words = ", ".join(f"{rule} {share:.0f} %" for rule, share in first.dropna().sort_values().items())
        return f"At +{COMPARED} % perplexity {name} needs of its neurons, by rule: {words}"
    ours = [rule for rule in PAPER if rule in wide]
    best, others = (wide[ours].idxmin(axis=1) == CETT).sum(), wide.drop(columns=ours)
    rule = others.div(wide[CETT], axis=0).min().idxmin()
    ahead = int((others[rule] < wide[CETT]).sum())
    further = f" and needs fewer in {ahead}" if ahead else ""
    return (
        f"At +{COMPARED} % perplexity CETT needs fewer neurons than Top-k and FAT-ε in {best} of {len(wide)} models "
        f"({name}: {first[CETT]:.0f} against {first['Top-k']:.0f} and {first['FAT-ε']:.0f} %); {rule} comes "
        f"nearest{further}"
    )


def active_by_p(needed: pd.DataFrame, corpus: str = "mixture") -> style.Picture:
    """Activation ratio (%) that CETT needs at each rise p of perplexity, a line a model, with 90 % intervals.

    ``needed`` is ``numbers.needed``: no interval where some resamples do not reach p.
    """
    table = needed[needed.rule == CETT].dropna(subset=["activation_ratio"])
    levels = sorted(table.rise_pct.unique())
    with style.context():
        fig, (ax,) = style.axes(1, 1, height=3.2)
        for run in style.by_size(table.checkpoint):
            part = table[table.checkpoint == run].sort_values("rise_pct")
            look = style.look_of(run) | {"capsize": 2, "lw": 1.2, "ms": 4, "label": style.name(run)}
            bars = np.nan_to_num(100 * style.error_bars(part.low, part.activation_ratio, part.high))
            ax.errorbar(part.rise_pct, 100 * part.activation_ratio, bars, **look)
        ax.set(xscale="log", ylim=(0, None), xlabel="allowed rise p of perplexity (%)", ylabel="activation ratio (%)")
        ax.set_xticks(levels, [f"{level:g}" for level in levels])
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.legend(handlelength=3.5)
        return fig.says(
            _needs(table, levels[0], levels[-1]), f"CETT on the text {corpus}; bars: 90 % over resamples of it."
        )


def _needs(table: pd.DataFrame, first: float, last: float) -> str:
    """How many times ReLU's neurons SiLU needs at two rises of perplexity, means over sizes; or each model's shares."""
    ends = table.pivot(index="checkpoint", columns="rise_pct", values="activation_ratio")[[first, last]]
    kinds = ends.groupby(ends.index.str.extract(r"-(relu|silu)\b", expand=False)).mean()
    if len(kinds) == 2:
        ratios = (kinds.loc["silu"] / kinds.loc["relu"]).round(1)
        words = ["as many" if ratio == 1 else f"{ratio:g} times as many" for ratio in ratios]
        return f"SiLU needs {words[0]} neurons as ReLU at p = {first:g} %, {words[1]} at {last:g} %"
    words = [f"{style.name(run)} needs {a:.0f} and {b:.0f} %" for run, (a, b) in (100 * ends).iterrows()]
    return f"At p = {first:g} and {last:g} % {', '.join(words)} of its neurons"


def _rule_curves(ax: Axes, t: Tradeoff, rules: Sequence[str]) -> None:
    for level in (0, COMPARED):
        ax.axhline(level, color="0.5", lw=0.8, ls=":")
    unpruned = t.points[t.points.rule.isin((ZEROS, ALL))]
    for rule in rules:
        rows, alone = t.points[t.points.rule == rule], rule == ZEROS
        if rows.empty:  # straightforward ReLU where nothing is exactly zero
            continue
        if not alone:
            rows = pd.concat([rows, unpruned]).sort_values("activation_ratio")
        look = RULES[rule] | {"ls": "" if alone else "-", "ms": 9 if alone else 3.5, "zorder": 3 if rule == CETT else 2}
        rise, error = 100 * (rows.ppl_ratio - 1), 100 * rows.ppl_ratio_se
        ax.errorbar(100 * rows.activation_ratio, rise, error, lw=1.1, elinewidth=0.8, label=rule, **look)
    ring = RULES[CETT] | RING | {"label": "CETT-PPL-1 %"}
    ax.plot(100 * t.found.activation_ratio, 100 * (t.found.ppl_ratio - 1), **ring, zorder=4)
    ax.set_xlim(0, min(100, 105 * t.unpruned))


def figure_15(tradeoffs: Sequence[Tradeoff]) -> style.Picture:
    """Rise of perplexity (%, logarithmic) and activation ratio (%) against CETT, with CETT-PPL-1 % as a ring."""
    with style.context():
        fig, (left, right) = style.axes(1, 2, height=3.2)
        for t in tradeoffs:
            c, rows = t.checkpoint, t.points[t.points.rule == CETT].sort_values("parameter")
            look = style.look(c.scale, c.activation) | {"lw": 1.2, "ms": 3.5}
            seen = rows[rows.ppl_ratio > 1]
            rise, error = 100 * (seen.ppl_ratio - 1), 100 * seen.ppl_ratio_se
            bars = np.stack([np.minimum(error, 0.9 * rise), error])
            left.errorbar(seen.parameter, rise, bars, elinewidth=0.8, **look)
            active = 100 * np.append(t.unpruned, rows.activation_ratio)
            right.plot(np.append(0, rows.parameter), active, **look, label=_name(c))
            left.plot(t.found.cett, max(100 * (t.found.ppl_ratio - 1), 1e-3), **look | RING)
            right.plot(t.found.cett, 100 * t.found.activation_ratio, **look | RING)
        left.axhline(1, color="0.3", lw=0.9, ls=":")
        left.annotate("p = 1 %", (0.72, 1), (0, 3), textcoords="offset points", fontsize=8)
        left.set(ylabel="rise of perplexity (%)", yscale="log", ylim=(0.02, 300))
        left.yaxis.set_major_formatter("{x:g}")
        left.yaxis.set_minor_formatter(NullFormatter())
        right.set(ylabel="activation ratio (%)", ylim=(-2, 102))
        for ax in (left, right):
            ax.set(xlabel="CETT", xlim=(-0.02, 0.9))
        right.legend(handlelength=3.5)
        found = [t.found.cett for t in tradeoffs]
        ends = " to ".join(dict.fromkeys(f"{cett:.2f}" for cett in (min(found), max(found))))
        return fig.says(
            f"Perplexity rises and the activation ratio falls with CETT; +1 % is reached at CETT {ends}",
            "Large hollow marks: the CETT that the search chose. Points where perplexity did not rise are not on the "
            "logarithmic axis. Bars: standard errors.",
        )


def ppl_and_kl(tradeoffs: Sequence[Tradeoff], data: pd.DataFrame) -> style.Picture:
    """Rise of perplexity (%) against exp(KL) − 1 (%) along CETT, with standard errors: all of it, and its beginning.

    ``data`` is ``numbers.kl_against_ppl``.
    """
    with style.context():
        fig, panels = style.axes(1, 2, height=3.3)
        for ax, top in zip(panels, (100 * (HIGHEST - 1), 6), strict=True):
            ax.plot([0, top], [0, top], color="0.3", lw=1, ls=":")
            for t in tradeoffs:
                c, rows = t.checkpoint, data[data.checkpoint == t.checkpoint.name]
                look = style.look(c.scale, c.activation) | {"lw": 1, "ms": 4, "elinewidth": 0.8, "capsize": 2}
                x, y = 100 * (rows.exp_kl - 1), 100 * (rows.ppl_ratio - 1)
                ax.errorbar(x, y, 100 * rows.ppl_ratio_se, 100 * rows.exp_kl_se, **look, label=_name(c))
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

    ``table`` is ``numbers.corpora_table``.
    """
    table = table.assign(rise=100 * (table.ppl_ratio - 1))
    models, reach = table.groupby("checkpoint", sort=False), max(1.0, float((table.rise - 1).abs().max()))
    look = {"cmap": "PuOr_r", "vmin": 1 - reach, "vmax": 1 + reach, "fmt": "", "cbar": False, "square": True}
    with style.context():
        fig, panels = style.axes(1, len(models), height=3.1, width=None if len(models) > 1 else 5.0)
        for ax, (name, rows) in zip(panels, models, strict=True):
            corpora = rows.found_on.unique()
            cells = rows.assign(text=[f"{r.rise:+z.1f}\n± {100 * r.ppl_ratio_se:.1f}" for r in rows.itertuples()])
            wide = (cells.pivot(index="found_on", columns="judged_on", values=values) for values in ("rise", "text"))
            rise, text = (each.loc[corpora, corpora] for each in wide)
            active = rows[rows.found_on == rows.judged_on].set_index("found_on").activation_ratio
            labels = [f"{c}\n({100 * active[c]:.0f} % active)" for c in corpora]
            style.matrix(ax, rise, annot=text, yticklabels=labels, **look)
            ax.set(xlabel="judged on", ylabel="thresholds found on", title=style.name(str(name)))
        apart = table[table.found_on != table.judged_on]
        worst = apart.loc[apart.rise.idxmax()]
        return fig.says(
            f"Thresholds for +1 % on one corpus cost {apart.rise.min():+z.1f} to {apart.rise.max():+z.1f} % on "
            f"another; worst from {worst.found_on} to {worst.judged_on} ({style.name(worst.checkpoint)})",
            "Rise of perplexity (%) ± standard error; in brackets the activation ratio where they were found.",
        )
