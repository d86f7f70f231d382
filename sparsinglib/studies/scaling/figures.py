"""Runs and their laws (Figures 4 and 11, Table 2, and our own): tidy frames in, a Picture out.

``trend`` is that of ``trends`` (evidence, run, scale, activation, seed, d in 1e9 or 1e6 tokens, activation_ratio),
where it says so with ``used``, the share of fits that use a point: less than a half is warm-up. ``laws`` maps a run
to its law, a function of d. ``limits``: evidence, run, scale, activation, seed, a0, low, high (90 %; fractions),
identified (the points fix the limit).
"""

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke
from scipy import stats

from ...laws import Posterior
from ...paper import published, style
from .limits import LARGEST, printed

Laws = Mapping[str, Callable[[np.ndarray], np.ndarray]]
KINDS = ("paper", "ladder")
HALO: style.Look = {"path_effects": [withStroke(linewidth=3, foreground="white")]}


def _changes(trend: pd.DataFrame) -> pd.Series:
    """By how much each run's last five points lie above its first five after the first tenth of its tokens."""

    def change(part: pd.DataFrame) -> float:
        late = part[part.d > 0.1 * part.d.max()].sort_values("d").activation_ratio
        return float(late.iloc[-5:].mean() - late.iloc[:5].mean())

    return pd.Series({run: change(part) for run, part in trend.groupby("run")})


def _which_way(trend: pd.DataFrame) -> str:
    change, words = _changes(trend), []
    kinds = trend.drop_duplicates("run").set_index("run").activation
    for activation, verb, sign in (("relu", "falls", -1), ("silu", "rises", 1)):
        mine = sign * change[kinds == activation] > 0
        count = f"every one of {len(mine)} runs" if mine.all() else f"{mine.sum()} of {len(mine)} runs"
        words.append(f"{style.ACTIVATION_LABELS[activation]} {verb} in {count}")
    return ", ".join(words)


def figure_4(trend: pd.DataFrame, laws: Laws, limits: pd.DataFrame) -> style.Picture:
    """Activation ratio against tokens with each run's law; beside each panel its limits, ours and the printed ones.

    Evidence down, activation across. ``trend`` with ``used``: paler points are warm-up.
    """
    known = printed().a0
    with style.context():
        ratios = {"width_ratios": [4, 1.3, 4, 1.3]}
        fig, panels = style.axes(2, 4, height=3.3, gridspec_kw=ratios)
        for i, (left, right) in enumerate(zip(panels[::2], panels[1::2], strict=True)):
            evidence, activation = KINDS[i // 2], style.ACTIVATIONS[i % 2]
            part = trend[(trend.evidence == evidence) & (trend.activation == activation)]
            left.set_title(f"{style.ACTIVATION_LABELS[activation]} ({style.EVIDENCE_LABELS[evidence]})")
            if part.empty:
                style.empty(left, f"{evidence}: no {style.ACTIVATION_LABELS[activation]} run measured yet")
                right.set_axis_off()
                continue
            shown = _curves(left, part, laws)
            mine = limits[limits.run.isin(part.run)]
            fixed = mine[mine.identified.astype(bool)]
            # An open limit may lie anywhere; it does not stretch the axis.
            ends = 100 * pd.concat([shown, fixed.low, fixed.high, known[known.index.isin(part.run)]])
            room = 0.06 * np.ptp(ends)
            left.set_ylim(ends.min() - room, ends.max() + room)
            right.set_ylim(left.get_ylim())
            _limits(right, mine, known)
            right.tick_params(axis="y", labelleft=False)
        return fig.says(
            f"With more data the activation ratio of {_which_way(trend)}",
            "Line: law. Pale: points left out of it as warm-up. Right of each panel the limits: bars are our 90 % "
            "intervals by the model of all runs, hollow where the points do not fix the limit (a triangle at "
            "the edge: it lies beyond); black diamonds are the limits printed in Table 2. Darker: larger."
            f"{_drifted(trend, limits)}",
        )


def _drifted(trend: pd.DataFrame, limits: pd.DataFrame) -> str:
    """A sentence that names the runs whose end lies beyond the interval of their limit."""
    end = limits.run.map(trend.sort_values("d").groupby("run").activation_ratio.apply(lambda ratio: ratio[-5:].mean()))
    beyond = np.where(limits.activation == "relu", end < limits.low, end > limits.high)
    names = [style.name(run) for run in limits.run[beyond]]
    return f" Late points have left their law's limit behind: {', '.join(names)}." if names else ""


def _curves(ax: Axes, trend: pd.DataFrame, laws: Laws) -> pd.Series:
    """Points and law of each run, named at its end; gives the activation ratios that must be seen."""
    shown, ends = [], []
    for run, part in trend.groupby("run", sort=True):
        scale, activation = part.scale.iloc[0], part.activation.iloc[0]
        law, look, used = laws[str(run)], style.look(scale, activation), part.used >= 0.5
        for rows, alpha in ((part[used], 0.6), (part[~used], 0.2)):
            ax.plot(rows.d, 100 * rows.activation_ratio, **look | {"ls": ""}, ms=2.6, mew=0, alpha=alpha)
        d = np.linspace(part.d[used].min(), part.d.max(), 200)
        ax.plot(d, 100 * law(d), color=look["color"], lw=1.2)
        # The steep beginning would squeeze what comes after it, and does not stretch the axis.
        shown.append(part.activation_ratio[used & (part.d > 0.03 * part.d.max())])
        if part.seed.iloc[0] == 1:
            ends.append((d[-1], 100 * float(law(d)[-1]), scale, look["color"]))
    ax.set(xlim=(0, 1.12 * trend.d.max()), ylabel="activation ratio (%)")
    ax.set_xlabel(style.TOKEN_LABELS[1e9 if trend.evidence.iloc[0] == "paper" else 1e6])
    wide, high = trend.d.max(), 100 * np.ptp(pd.concat(shown))
    for d, y, scale, ink in ends:
        close = [other - y for at, other, *_ in ends if 0 < abs(other - y) < 0.06 * high and abs(at - d) < 0.12 * wide]
        down = -5 * np.sign(close[0]) if close else 0
        ax.annotate(scale, (d, y), (3, down), textcoords="offset points", color=ink, fontsize=7.5, va="center", **HALO)
    return pd.concat(shown)


def _limits(ax: Axes, limits: pd.DataFrame, printed: pd.Series) -> None:
    """Limit of each run with its interval, scales across, beside the printed one."""
    scales = sorted(limits.scale.unique())
    for row in limits.itertuples():
        look = style.look(row.scale, row.activation) | {"ls": ""}
        x = scales.index(row.scale) + 0.22 * (row.seed - 1)
        face = look["color"] if row.identified else "white"
        ax.plot([x, x], [100 * row.low, 100 * row.high], color=look["color"], lw=1, alpha=1 if row.identified else 0.35)
        seen = np.clip(100 * row.a0, *ax.get_ylim())
        look["marker"] = {-1: "v", 0: look["marker"], 1: "^"}[int(np.sign(100 * row.a0 - seen))]
        ax.plot(x, seen, **look, mfc=face, ms=4, clip_on=False)
        if row.run in printed:
            ax.plot(x + 0.25, 100 * printed[row.run], "kD", ms=3)
    ax.set_xticks(range(len(scales)), [scale.rstrip("BM") for scale in scales], fontsize=7, rotation=60)
    ax.set(xlim=(-0.6, len(scales) - 0.3), xlabel="size", title="limit")
    ax.grid(axis="x", visible=False)


def figure_11(trend: pd.DataFrame, laws: Laws, model: Posterior) -> style.Picture:
    """The 2.4B run's points with several laws (name to law), drawn on to the end of the paper's axis, and our limit.

    ``model`` is that of all ReLU runs of the paper; its laws are drawn as a band.
    """
    end = float(published.read("figure_axes").query("figure == 11").x_tick_max.iloc[0])
    with style.context():
        fig, (ax,) = style.axes(1, 1, height=3.6)
        part, look = trend[trend.run == LARGEST], style.look("2.4B") | {"ls": "", "clip_on": False}
        ax.plot(part.d, 100 * part.activation_ratio, **look, ms=5, mew=0)
        limit = 100 * model.limits().set_index("run").loc[LARGEST, ["low", "a0", "high"]].astype(float)
        d = np.linspace(part.d.min(), end, 300)
        low, high = 100 * np.quantile(model.curves(LARGEST, d), [0.05, 0.95], axis=0)
        ax.fill_between(d, low, high, color=look["color"], alpha=0.15, lw=0)
        bar = [[limit.a0 - limit.low], [limit.high - limit.a0]]
        ax.errorbar(end, limit.a0, bar, **look, ms=5, mfc="white", capsize=3, zorder=4)
        inks = (style.FIT, style.OTHERS[1])
        ends = [(limit.low, f"our limit, 90 %:\n{limit.low:.1f} to {limit.high:.1f} %", look["color"])]
        for (name, law), ink, dash in zip(laws.items(), inks, ("-", "--"), strict=False):
            ax.plot(d, 100 * law(d), color=ink, ls=dash, lw=1.4)
            ends.append((100 * float(law(d)[-1]), name.replace(" (", "\n("), ink))
        ax.axvspan(part.d.max(), end, color="0.93", zorder=0)
        middle, across = (part.d.max() + end) / 2, ax.get_xaxis_transform()
        ax.text(middle, 0.96, "no published points", ha="center", va="center", color="0.4", transform=across)
        ax.set(xlabel=style.TOKEN_LABELS[1e9], ylabel="activation ratio (%)", xlim=(None, end))
        style.label_ends(ax, ends, gap=0.13, x=1.03)
        theirs = 100 * printed().a0[LARGEST]
        return fig.says(
            f"The published 2.4B points leave the limit open, {limit.low:.1f} to {limit.high:.1f} % active (90 %); "
            f"{theirs:.2f} % is printed, the abstract's {100 - theirs:.2f} % sparsity",
            f"Points: 2.4B ReLU, published, up to {part.d.max():.0f} billion tokens. Band: 90 % of the laws "
            "through them by the model of all runs; bar at the right edge: their limits. Table 2's law was not fitted "
            "to these points.",
        )


def residuals(trend: pd.DataFrame, laws: Laws) -> style.Picture:
    """Point less law, in percentage points, along each run of the paper, the points left out as warm-up shaded."""
    runs = style.by_size(trend[trend.evidence == "paper"].run)
    with style.context():
        fig, panels = style.grid(len(runs), 4, 1.7, sharey=True)
        late = []
        for ax, run in zip(panels, runs, strict=True):
            part = trend[trend.run == run]
            apart = 100 * (part.activation_ratio - laws[run](part.d.to_numpy(float))).to_numpy(float)
            used = (part.used >= 0.5).to_numpy()
            look = style.look(part.scale.iloc[0], part.activation.iloc[0]) | {"ls": ""}
            ax.plot(part.d, apart, **look, ms=3)
            ax.axhline(0, color="0.4", lw=0.8)
            if not used.all():
                ax.axvspan(0, (part.d[~used].max() + part.d[used].min()) / 2, color="0.88", zorder=0)
            ax.set_title(style.name(run))
            ax.set_xlim(0, None)
            late.append(np.abs(apart[used]))
        reach = 4 * np.quantile(np.concatenate(late), 0.9)
        panels[0].set_ylim(-reach, reach)
        fig.supxlabel(style.TOKEN_LABELS[1e9], fontsize=9)
        fig.supylabel("point less law (points)", fontsize=9)
        middle = np.median(np.concatenate(late))
        return fig.says(
            f"After warm-up the laws pass the published points at a median distance of {middle:.2f} points",
            "Grey: points left out as warm-up; some of them lie beyond the axis.",
        )


def seed_trends(frame: pd.DataFrame, value: str, label: str, unit: str, factor: float = 1.0) -> style.Picture:
    """A ladder quantity along training for the scales with several seeds: every seed, its scale's mean and range.

    ``frame``: run, scale, activation, seed, d (1e6 tokens) and the column ``value``, times ``factor``.
    """
    groups = [(key, part) for key, part in frame.groupby(["activation", "scale"]) if part.seed.nunique() > 1]
    with style.context():
        fig, panels = style.grid(max(len(groups), 1), 4, 2.3)
        if not groups:
            style.empty(panels[0], "ladder: no scale has two seeds yet")
            return fig.says(f"{label}: the spread of seeds is not measured yet")
        last = []
        for ax, ((activation, scale), part) in zip(panels, groups, strict=True):
            grid = np.linspace(part.groupby("seed").d.min().max(), part.groupby("seed").d.max().min(), 200)
            lines = np.array(
                [np.interp(grid, p.d, factor * p[value]) for _, p in part.sort_values("d").groupby("seed")]
            )
            ink = style.colour(scale, activation)
            ax.fill_between(grid, lines.min(0), lines.max(0), color=ink, alpha=0.25, lw=0)
            ax.plot(grid, lines.T, color=ink, lw=0.6)
            ax.set_title(f"{scale} {style.ACTIVATION_LABELS[activation]}, {len(lines)} seeds")
            half = lines[:, grid > grid.max() / 2]
            ax.set_ylim(half.min() - 2 * np.ptp(half), half.max() + 3 * np.ptp(half))
            last.append(float(np.ptp(lines[:, -1])))
        fig.supxlabel(style.TOKEN_LABELS[1e6], fontsize=9)
        fig.supylabel(label, fontsize=9)
        return fig.says(
            f"At their last checkpoint seeds of one size lie {min(last):.2g} to {max(last):.2g} {unit} apart",
            f"{label}. Band: range over seeds.",
        )


def limit_by_cut(table: pd.DataFrame) -> style.Picture:
    """How each limit of the paper moves with where the warm-up ends; the printed limit as a line, darker: more weight.

    ``table`` (``limits.by_cut``): run, scale, activation, cut (tokens a parameter), weight, a0, low, high, identified,
    printed.
    """
    table = table[table.printed.notna()]
    with style.context():
        runs = style.by_size(table.run)
        fig, panels = style.grid(len(runs), 4, 1.9)
        moves = []
        for ax, run in zip(panels, runs, strict=True):
            part = table[table.run == run].sort_values("cut")
            ink = style.look(part.scale.iloc[0], part.activation.iloc[0])["color"]
            for row in part.itertuples():
                alpha = 0.35 + 0.65 * row.weight / part.weight.max()
                ax.plot([row.cut] * 2, [100 * row.low, 100 * row.high], color=ink, alpha=alpha, lw=1.2)
                ax.plot(row.cut, 100 * row.a0, "o", ms=3.5, color=ink, mfc=ink if row.identified else "white")
            fixed = part[part.identified.astype(bool)]
            shown = fixed if len(fixed) else part
            ends = 100 * pd.concat([shown.low, shown.high, part.printed])
            ax.set_ylim(ends.min() - 0.1 * np.ptp(ends), ends.max() + 0.1 * np.ptp(ends))
            ax.axhline(100 * part.printed.iloc[0], color=style.FIT, ls="--", lw=1)
            ax.set_title(style.name(run))
            moves.append((100 * np.ptp(fixed.a0) if len(fixed) else 0.0, style.name(run)))
        fig.supxlabel("end of warm-up (tokens a parameter)", fontsize=9)
        fig.supylabel("limit activation ratio (%)", fontsize=9)
        return fig.says(
            f"Where the warm-up ends moves a limit by up to {max(moves)[0]:.1f} points ({max(moves)[1]}), even where "
            "the points fix it",
            "Bars: 90 %, with the end of warm-up taken as known; darker: the points fit better. Dashed: printed in "
            "Table 2. Hollow: not fixed by the points (the bar may leave the panel).",
        )


def coverage(table: pd.DataFrame) -> style.Picture:
    """How often intervals of simulated runs hold the truth, against how often they should: a panel a quantity.

    ``table`` (``data/laws/coverage.csv``): design, activation, quantity, level, intervals, right.
    """
    with style.context():
        kinds = list(table.quantity.unique())
        fig, panels = style.axes(1, len(kinds), height=3.0)
        for ax, kind in zip(panels, kinds, strict=True):
            ax.plot([0, 100], [0, 100], color="0.5", lw=0.8, ls="--")
            groups = table[table.quantity == kind].groupby(["design", "activation"])
            for k, ((design, activation), part) in enumerate(groups):
                label = f"{style.ACTIVATION_LABELS[str(activation)]}, {design} checkpoints"
                share = part.right / part.intervals
                low, high = stats.beta.ppf([[0.05], [0.95]], part.right + 0.5, part.intervals - part.right + 0.5)
                bars = 100 * style.error_bars(low, share, high)
                ax.errorbar(100 * part.level + 0.5 * k, 100 * share, bars, **style.other(k), ms=4, lw=1, label=label)
            ax.set(xlim=(45, 100), ylim=(45, 100), xlabel="interval (%)", ylabel="holds the truth (%)", title=kind)
        panels[0].legend()
        ninety = table[table.level == 0.9].groupby(["quantity", "activation"])[["right", "intervals"]].sum()
        shares = (100 * ninety.right / ninety.intervals).unstack()
        words = [f"{kind} {row.relu:.0f} % (ReLU), {row.silu:.0f} % (SiLU)" for kind, row in shares.iterrows()]
        return fig.says(
            f"How often 90 % intervals hold the truth in simulated runs: {'; '.join(words)}",
            "Simulated sets of seven runs with seeds, wander and a warm-up; slope: of the limit over scale. Bars: 90 % "
            "of the share (Jeffreys). Above the dashed line intervals are wider than they need be.",
        )


def table_2(table: pd.DataFrame, limits: pd.DataFrame) -> style.Picture:
    """Forest plot of Table 2's limits: printed, refit at the number of left-out points nearest to it, and ours.

    ``table`` (``limits.table_2``): run, coefficient, printed, refit; ``limits`` as above.
    """
    rows = table[table.coefficient == "a0"].set_index("run")
    runs = style.by_size(rows.index)
    ours = limits.set_index("run").loc[runs]
    with style.context():
        fig, panels = style.axes(1, 2, height=3.0)
        inside = []
        for ax, activation in zip(panels, style.ACTIVATIONS, strict=True):
            mine = [run for run in runs if run.split("-")[1] == activation]
            for y, run in enumerate(mine):
                look, open_limit = style.look_of(run) | {"ls": ""}, not ours.identified[run]
                low, high = 100 * ours.low[run], 100 * ours.high[run]
                ax.plot([low, high], [y, y], color=look["color"], lw=2, alpha=0.4 if open_limit else 1)
                ax.plot(100 * ours.a0[run], y, **look, mfc="white" if open_limit else look["color"], ms=6)
                ax.plot(100 * rows.refit[run], y + 0.22, "|", color="0.45", ms=9, mew=1.5)
                inside.append(low <= 100 * rows.printed[run] <= high)
                ink = style.FIT if inside[-1] else style.ALARM
                ax.plot(100 * rows.printed[run], y, "D", color=ink, ms=4, zorder=4)
            ax.set_yticks(range(len(mine)), [style.name(run) for run in mine])
            values = 100 * pd.concat([rows.printed[mine], rows.refit[mine], ours.a0[mine]])
            fixed = ours.loc[mine][ours.identified[mine].astype(bool)]
            values = pd.concat([values, 100 * fixed.low, 100 * fixed.high])
            room = 0.08 * np.ptp(values)
            ax.set(
                xlim=(values.min() - room, values.max() + room),
                ylim=(len(mine) - 0.5, -0.5),
                xlabel="limit activation ratio (%)",
            )
            for row in np.flatnonzero(100 * ours.low[mine] < ax.get_xlim()[0]):
                ax.plot(ax.get_xlim()[0], row, "<", color=style.look_of(mine[row])["color"], clip_on=False)
        return fig.says(
            f"{sum(inside)} of {len(inside)} printed limits lie within our 90 % interval",
            "Mark and bar: median and 90 % interval by the model of all runs (hollow: limit not fixed; arrow: "
            "the bar goes on). Diamond: Table 2, red outside the interval. Grey tick: refit at the nearest number.",
        )
