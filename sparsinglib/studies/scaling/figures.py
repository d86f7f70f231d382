"""Figures of the laws (Figures 4, 7, 8, 11, 13, 14 and our own checks): tidy frames in, matplotlib Figures out."""

import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from ...laws import fitting as laws
from ...paper import published as paper
from ...paper import style
from . import trends

PERCENT = 100
LIMIT_MARKS = {"fixed": "", "one drop": "*"}
LIMIT_LINES = {"fixed": "--", "one drop": "-."}
SEED_LINES: dict[int, Any] = {1: "-", 2: ":", 3: (0, (1, 4))}  # dashes are for limits
APART = 1.04  # one activation's marks right of the other's, and a seed's of the last, so that none hides another


def _marks(scale: str, seed: int) -> dict[str, Any]:
    """Marker of a run; seed 2 hollow, seed 3 crosses, so that runs of one scale can be told apart."""
    look: dict[str, Any] = {"marker": style.MARKERS[scale], "mew": 0, "ms": 3.2}
    if seed > 1:
        look |= {"mfc": "none", "mew": 0.7} if seed == 2 else {"marker": "x", "mew": 0.7}
    return look


def _dots(ax: Axes, x: pd.Series, y: pd.Series, scale: str, seed: int, alpha: float = 0.75) -> None:
    ax.plot(x, y, ls="", color=style.COLOURS[scale], alpha=alpha, **_marks(scale, seed))


def _run_panel(ax: Axes, trend: pd.DataFrame, fits: Mapping[str, laws.Fit], limits: pd.DataFrame | None) -> None:
    """Points, law (line) and limit (its line by ``state``, none where it is open) of each run in ``trend``."""
    shown: list[float] = []
    states = set()
    for run, part in trend.groupby("run", sort=True):
        scale, fit = part.scale.iloc[0], fits[str(run)]
        row = None if limits is None else limits[limits.run == run].iloc[0]
        state = "fixed" if row is None else row.state
        open_limit = state == "open"
        states.add(state)
        seed = int(part.seed.iloc[0])
        name = f"{scale}{f' seed {seed}' if seed > 1 else ''}"
        label = f"{name}: " + ("open" if open_limit else f"{PERCENT * fit.a0:.2f} %{LIMIT_MARKS[state]}")
        used = part.d >= fit.tokens[0]
        _dots(ax, part.d[used], PERCENT * part.activation_ratio[used], scale, seed)
        _dots(ax, part.d[~used], PERCENT * part.activation_ratio[~used], scale, seed, 0.25)
        shown += [*fit.activation_ratio, *([] if open_limit else [fit.a0])]
        d = np.linspace(fit.tokens[0], part.d.max(), 200)
        ax.plot(d, PERCENT * fit.predict(d), color=style.COLOURS[scale], lw=1, ls=SEED_LINES[min(seed, 3)])
        ax.plot(
            [], [], color=style.COLOURS[scale], lw=1, ls=SEED_LINES[min(seed, 3)], label=label, **_marks(scale, seed)
        )
        if not open_limit:
            ax.axhline(PERCENT * fit.a0, color=style.COLOURS[scale], ls=LIMIT_LINES[state], lw=0.8)
    first = trend.iloc[0]
    ax.set_xlabel(style.TOKEN_LABELS[style.TOKEN_UNITS[first.evidence]])
    ax.set_ylabel("activation ratio (%)")
    low, high = PERCENT * min(shown), PERCENT * max(shown)
    room = 0.12 * (high - low)
    ax.set(xlim=(0, None), ylim=(low - room, high + room))
    ax.plot([], [], color="0.3", lw=1, label="line: fit")
    for state, label in (("fixed", "dashed: limit, fixed"), ("one drop", "dash-dot*: at one drop")):
        if state in states:
            ax.plot([], [], color="0.3", lw=0.8, ls=LIMIT_LINES[state], label=label)
    ax.plot([], [], color="0.3", ls="", marker="o", ms=3.2, mew=0, alpha=0.25, label="pale: warm-up")
    ax.legend(
        title="limit of each run (* fixed at the chosen drop only; open: not fixed)",
        title_fontsize=8,
        ncols=3,
        columnspacing=1,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.14),
    )


def _two_by_evidence(
    trend: pd.DataFrame, fits: Mapping[str, laws.Fit], limits: pd.DataFrame | None
) -> tuple[Figure, list[Axes]]:
    """Evidence down, activation across; a panel without runs says so."""
    fig, panels = style.axes(2, 2, 5.2, 4.4)
    for i, ax in enumerate(panels):
        evidence, activation = ("paper", "ladder")[i // 2], style.ACTIVATIONS[i % 2]
        part = trend[(trend.evidence == evidence) & (trend.activation == activation)]
        ax.set_title(f"{style.EVIDENCE_LABELS[evidence]}, {style.ACTIVATION_LABELS[activation]}")
        if part.empty:
            style.say(ax, f"{evidence}: no {style.ACTIVATION_LABELS[activation]} run measured yet")
        else:
            _run_panel(ax, part, fits, limits)
    return fig, panels


def figure_4(trend: pd.DataFrame, fits: Mapping[str, laws.Fit], limits: pd.DataFrame | None = None) -> Figure:
    """Activation ratio against tokens with fits and limits: paper above, ladder below, ReLU left, SiLU right.

    ``trend`` is ``trends.activation`` of one or both kinds of evidence; ``fits`` maps run to its fit; ``limits`` (of
    ``law_tables.limits``) says how far the points fix each limit.
    """
    with style.context():
        return _two_by_evidence(trend, fits, limits)[0]


def figure_11(trend: pd.DataFrame, curves: Mapping[str, laws.Fit]) -> Figure:
    """The 2.4B run's points with several laws, each extended to the tokens the paper trained for (C60)."""
    end = float(paper.old_claims().set_index("id").paper_value["C60"]) / style.TOKEN_UNITS["paper"]
    with style.context():
        fig, (ax,) = style.axes(1, 1, 6.4, 4.0)
        part = trend[trend.run == "2.4b-relu"]
        look: dict[str, Any] = {"ls": "", "marker": style.MARKERS["2.4B"], "ms": 5.5, "mew": 0, "color": "0.25"}
        ax.plot(part.d, PERCENT * part.activation_ratio, label="2.4B ReLU, published points", **look)
        colours = ("#7F4F24", "#0072B2", "#009E73", "#E69F00")
        for (name, fit), colour, dash in zip(curves.items(), colours, ("-", "--", "-.", ":"), strict=False):
            d = np.linspace(part.d.min(), end, 300)
            ax.plot(d, PERCENT * fit.predict(d), color=colour, ls=dash, lw=1.4, label=name)
        ax.axvspan(part.d.max(), end, color="0.9", zorder=0)
        middle, across = (part.d.max() + end) / 2, ax.get_xaxis_transform()
        ax.text(middle, 0.96, "no published points", ha="center", va="center", color="0.4", transform=across)
        ax.set(xlabel=style.TOKEN_LABELS[1e9], ylabel="activation ratio (%)", title="Figure 11: 2.4B ReLU (paper)")
        ax.legend(loc="upper right", bbox_to_anchor=(1, 0.92))
        return fig


def _by_params(ax: Axes, table: pd.DataFrame, params: pd.Series, ends: tuple[float, float] | None = None) -> None:
    """Columns value, low, high, fixed against parameter count, a line an activation through its seeds' means.

    Where ``table`` has wide_low, wide_high and state, they are a second, thin interval, and "one drop" is a hollow mark
    with a bar. Values that the points do not fix are hollow, join no line and do not stretch the axis, whose ``ends``
    may be given: a triangle points to those beyond.
    """
    scale = table[table.fixed] if table.fixed.any() else table
    room = 0.15 * max(scale.high.max() - scale.low.min(), 0.1 * scale.value.abs().max())
    bottom, top = ends or (scale.low.min() - room, scale.high.max() + room)
    inside = 0.04 * (top - bottom)
    for shift, (activation, part) in enumerate(table.groupby("activation", sort=True)):
        shifts = APART ** (shift + part.seed.to_numpy(float) - 1)
        points = part.assign(n=params.loc[part.scale].to_numpy(float) * shifts).sort_values(["n", "seed"])
        look: dict[str, Any] = {"color": style.ACTIVATION_COLOURS[activation]}
        label = style.ACTIVATION_LABELS[activation]
        fixed, open_ones = points[points.fixed], points[~points.fixed]
        bars = np.abs(fixed[["low", "high"]].to_numpy(float) - fixed[["value"]].to_numpy(float)).T
        if len(fixed):
            ax.errorbar(fixed.n, fixed.value, bars, marker="o", ms=4, capsize=3, ls="", label=f"{label}, fixed", **look)
            if "state" in fixed:
                ax.vlines(fixed.n, fixed.wide_low, fixed.wide_high, lw=0.8, **look)
                once = fixed[fixed.state == "one drop"]
                hollow: dict[str, Any] = {"marker": "o", "ms": 4, "mfc": "white", "ls": ""}
                ax.plot(once.n, once.value, zorder=5, **hollow, **look)
            mean = fixed.groupby("scale")[["n", "value"]].mean().sort_values("n")
            ax.plot(mean.n, mean.value, ls=style.ACTIVATION_LINES[activation], **look)
        for row in open_ones.itertuples():
            marker = "^" if row.value > top else "v" if row.value < bottom else "o"
            at = top - inside if row.value > top else bottom + inside if row.value < bottom else row.value
            ax.plot(row.n, at, ls="", marker=marker, ms=7, mfc="white", color=look["color"], clip_on=False)
        if len(open_ones):
            note = f"{label}, open (triangle: beyond the axis)"
            ax.plot([], [], ls="", marker="o", ms=7, mfc="white", color=look["color"], label=note)
    ax.set(xscale="log", ylim=(bottom, top), xlabel="non-embedding parameters")


def figure_7(limits: pd.DataFrame, params: pd.Series) -> Figure:
    """Limit activation ratio against parameters with 90 % intervals: one row an evidence, ReLU left, SiLU right.

    ``params`` maps scale to a parameter count.
    """
    with style.context():
        kinds = ("paper", "ladder")
        fig, panels = style.axes(2, 2, 4.6, 3.4)
        for i, ax in enumerate(panels):
            evidence, activation = kinds[i // 2], style.ACTIVATIONS[i % 2]
            part = limits[(limits.evidence == evidence) & (limits.activation == activation)]
            ax.set_title(f"{style.EVIDENCE_LABELS[evidence]}, {style.ACTIVATION_LABELS[activation]}")
            if part.empty:
                style.say(ax, f"{evidence}: no {style.ACTIVATION_LABELS[activation]} run measured yet")
                continue
            ends = {"low": part.low, "high": part.high, "wide_low": part.pooled_low, "wide_high": part.pooled_high}
            shown = part.assign(value=PERCENT * part.a0, **{name: PERCENT * end for name, end in ends.items()})
            _by_params(ax, shown.assign(fixed=part.identified.astype(bool)), params)
            ax.set_ylabel("limit activation ratio (%)")
        looks: dict[str, dict[str, Any]] = {
            "fixed, also over all numbers of dropped points": {"marker": "o", "ms": 4},
            "fixed at the chosen number only": {"marker": "o", "ms": 4, "mfc": "white"},
            "open (triangle: beyond the axis)": {"marker": "o", "ms": 7, "mfc": "white"},
            "thick: 90 % at the chosen number": {"lw": 1.8},
            "thin: over all numbers (may run off the panel)": {"lw": 0.8},
        }
        handles = [
            Line2D([], [], color="0.3", label=name, **{"ls": "-" if "lw" in k else "", **k})
            for name, k in looks.items()
        ]
        fig.legend(handles=handles, ncols=3, loc="outside lower center")
        return fig


LINEAR = 1e-5  # of Figure 8's axis: below it the scale is linear, so that both signs can be drawn


def figure_8(derivative: pd.DataFrame) -> Figure:
    """dA/dD against tokens per parameter, one line a run (of ``scaling_tables.derivatives``).

    Dotted beyond the run's points, pale where they leave its limit open.
    """
    with style.context():
        fig, panels = style.axes(1, 2, 5.2, 3.8)
        for ax, evidence in zip(panels, ("paper", "ladder"), strict=True):
            part = derivative[derivative.evidence == evidence]
            ax.set_title(style.EVIDENCE_LABELS[evidence])
            if part.empty:
                style.say(ax, f"{evidence}: no run measured yet")
                continue
            for _run, line in part.groupby("run", sort=True):
                scale, activation = line.scale.iloc[0], line.activation.iloc[0]
                look: dict[str, Any] = {"color": style.COLOURS[scale]}
                look["alpha"] = 0.3 if line.state.iloc[0] == "open" else 1
                ax.plot(line.tokens_per_param, line.derivative.where(~line.inside), ls=":", lw=0.9, **look)
                seen = line.derivative.where(line.inside)
                ax.plot(line.tokens_per_param, seen, ls=style.ACTIVATION_LINES[activation], **look)
            ax.axhspan(-LINEAR, LINEAR, color="0.9", lw=0, zorder=0)
            unit = style.TOKEN_LABELS[style.TOKEN_UNITS[evidence]].removeprefix("tokens (").removesuffix(")")
            ax.set(xlabel="tokens per parameter", ylabel=f"dA / dD (1 / {unit} of tokens)")
            ax.set_yscale("symlog", linthresh=LINEAR)
            dots = Line2D([], [], color="0.3", ls=":", lw=0.9, label="beyond the run's points")
            pale = Line2D([], [], color="0.3", alpha=0.3, label="pale: limit open")
            zone = Patch(color="0.9", label=f"linear axis (below {LINEAR:g})")
            ax.legend(
                handles=[*_keys(part), dots, pale, zone], ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.14)
            )
        return fig


def _keys(part: pd.DataFrame) -> list[Line2D]:
    """Legend of scale colours and activation line styles."""
    scales = [Line2D([], [], color=style.COLOURS[s], label=s) for s in sorted(part.scale.unique())]
    kinds = [a for a in style.ACTIVATIONS if a in set(part.activation)]
    lines = [Line2D([], [], color="0.3", ls=style.ACTIVATION_LINES[a], label=style.ACTIVATION_LABELS[a]) for a in kinds]
    return scales + lines


def along_training(frame: pd.DataFrame, value: str, label: str, title: str, factor: float = 1) -> Figure:
    """A ladder quantity times ``factor`` against tokens: a line a run, a panel an activation (Figure 13, dead neurons).

    What is 0 somewhere, as dead neurons are, stands on an axis that is linear up to 0.1 and logarithmic above; the
    first millions of a loss, in which all runs fall alike, would squeeze what tells them apart, so it starts below.
    """
    with style.context():
        fig, panels = style.axes(1, 2, 4.6, 3.6)
        fig.suptitle(title, fontsize=10)
        if frame.empty:
            for ax in panels:
                style.say(ax, textwrap.fill(trends.missing(frame), 50))
            return fig
        zeros = bool((frame[value] == 0).any())
        for ax, activation in zip(panels, style.ACTIVATIONS, strict=True):
            part = frame[frame.activation == activation]
            ax.set_title(style.ACTIVATION_LABELS[activation])
            for run, line in part.groupby("run", sort=True):
                scale, seed = line.scale.iloc[0], int(line.seed.iloc[0])
                name = f"{scale}, seed {seed}" if seed > 1 else scale if part.scale.nunique() > 1 else str(run)
                look: dict[str, Any] = {"color": style.COLOURS[scale], "ls": SEED_LINES[min(seed, 3)]}
                ax.plot(line.d, factor * line[value], lw=1.1, label=name, **look)
            ax.set(xlabel=style.TOKEN_LABELS[1e6], ylabel=label, xscale="log")
            if zeros:
                ax.set_yscale("symlog", linthresh=0.1, linscale=0.5)
                ax.yaxis.set_major_formatter("{x:g}")
                ax.set_ylim(-0.02, 1.4 * factor * frame[value].max())
            else:
                ends = factor * frame.sort_values("d").groupby("run")[value].last()
                ax.set_ylim(ends.min() - 0.05 * np.ptp(ends) - 0.05, ends.min() + 2.2 * (ends.max() - ends.min() + 0.2))
                ax.set_xlim(frame.d[factor * frame[value] < ax.get_ylim()[1]].min() / 1.2, None)
            if len(part):
                ax.legend(ncols=1)
        if absent := trends.missing(frame):
            fig.suptitle(title + "\n" + textwrap.fill(absent, 90), fontsize=8)
        return fig


def figure_14(losses: pd.DataFrame, params: pd.Series) -> Figure:
    """Limit training loss against parameters with intervals and the loss reached; of ``scaling_tables.loss_limits``."""
    with style.context():
        fig, (ax,) = style.axes(1, 1, 6.6, 3.6)
        fig.suptitle("Figure 14: limit training loss (ladder; the paper prints no values)", fontsize=10)
        if losses.empty:
            style.say(ax, "ladder: no training loss yet")
            return fig
        shown = losses.rename(columns={"limit": "value"})
        _by_params(ax, shown, params, (0.75 * losses.final.min(), 1.04 * losses.final.max()))
        for shift, (activation, part) in enumerate(losses.groupby("activation", sort=True)):
            label = f"{style.ACTIVATION_LABELS[activation]}, loss reached"
            look: dict[str, Any] = {
                "color": style.ACTIVATION_COLOURS[activation],
                "mfc": "white",
                "ls": "",
                "marker": "s",
                "ms": 5,
            }
            ax.plot(params.loc[part.scale].to_numpy(float) * APART**shift, part.final, label=label, **look)
        ax.set_ylabel("limit training loss (nats per token)")
        ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1))
        return fig


def limit_by_drop(fits: Mapping[str, list[laws.Fit]], printed: Mapping[str, float]) -> Figure:
    """How the limit moves with the number of dropped points: the printed limit dashed, unfixed limits hollow."""
    with style.context():
        runs = [run for run in fits if run in printed]
        fig, panels = style.axes(-(-len(runs) // 4), 4, 3.0, 2.5)
        for ax in panels[len(runs) :]:
            ax.set_axis_off()
        for ax, run in zip(panels, runs, strict=False):
            a0 = np.array([PERCENT * f.a0 for f in fits[run]])
            bars = np.array([PERCENT * 1.645 * f.standard_errors["a0"] for f in fits[run]])
            loose = np.array([bool(f.flags) for f in fits[run]])
            x, colour = np.arange(len(a0)), style.COLOURS[run.split("-")[0].upper()]
            ax.errorbar(x[~loose], a0[~loose], bars[~loose], ls="", marker="o", ms=3.5, color=colour, capsize=2)
            ax.plot(x[loose], a0[loose], ls="", marker="o", ms=4, mfc="white", color=colour)
            reach = 0.4 * PERCENT * np.ptp(fits[run][0].activation_ratio)
            low, high = PERCENT * printed[run] - reach, PERCENT * printed[run] + reach
            for off, edge, marker in ((a0 < low, low + 0.04 * reach, "v"), (a0 > high, high - 0.04 * reach, "^")):
                ax.plot(x[off], np.full(off.sum(), edge), ls="", marker=marker, color="0.4", ms=4)
            ax.set_ylim(low, high)
            ax.axhline(PERCENT * printed[run], color=style.FIT_COLOUR, ls="--", lw=1)
            ax.set_title(run)
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        fig.supxlabel("leading points dropped")
        fig.supylabel("limit activation ratio (%)")
        fig.suptitle(
            "Bars: 1.645 standard errors. Dashed: printed. Hollow: not fixed by the points, or at a bound. "
            "Triangles: off the panel.",
            fontsize=9,
        )
        return fig
