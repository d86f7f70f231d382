"""Figures of the laws (4, 7, 8, 11, 13, 14 and our own): tidy frames in, a Picture out.

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
from matplotlib.ticker import LogLocator, NullFormatter
from scipy import stats

from ...paper import published as paper
from ...paper import style

Laws = Mapping[str, Callable[[np.ndarray], np.ndarray]]
KINDS = ("paper", "ladder")
HALO: style.Look = {"path_effects": [withStroke(linewidth=2, foreground="white")]}
APART = 1.05  # a seed's mark right of the last one's, so that none hides another


def _params_axis(ax: Axes, params: pd.Series, scales: pd.Series) -> None:
    """Parameters on a logarithmic axis whose ticks are the scales by name."""
    known = sorted(set(scales), key=lambda scale: float(params[scale]))
    ax.set_xscale("log")
    ax.set_xticks([float(params[scale]) for scale in known], known)
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.tick_params(axis="x", which="minor", length=0)
    ax.set_xlabel("size (parameters without embedding)")


def _at(part: pd.DataFrame, params: pd.Series) -> np.ndarray:
    """Where each run's mark stands: its parameters, seeds side by side."""
    return params.loc[part.scale].to_numpy(float) * APART ** (part.seed.to_numpy(float) - 1)


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
    printed = paper.table(2).assign(run=lambda t: t.scale.str.lower() + "-" + t.activation).set_index("run").a0
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
            ends = 100 * pd.concat([shown, fixed.low, fixed.high, printed[printed.index.isin(part.run)]])
            room = 0.06 * np.ptp(ends)
            left.set_ylim(ends.min() - room, ends.max() + room)
            _limits(right, mine, printed)
            right.set_ylim(left.get_ylim())
            right.tick_params(axis="y", labelleft=False)
        return fig.says(
            f"With more data the activation ratio of {_which_way(trend)}",
            "Line: law. Pale: points left out of it as warm-up. Right of each panel the limits: bars are our 90 % "
            "intervals by the model of all runs, hollow where the points do not fix the limit (the bar then "
            "may leave the panel); black diamonds are the limits printed in Table 2. Darker: larger.",
        )


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
        ax.plot(x, 100 * row.a0, **look, mfc=face, ms=4)
        if row.run in printed:
            ax.plot(x + 0.25, 100 * printed[row.run], "kD", ms=3)
    ax.set_xticks(range(len(scales)), [scale.rstrip("BM") for scale in scales], fontsize=7, rotation=60)
    ax.set(xlim=(-0.6, len(scales) - 0.3), xlabel="size", title="limit")
    ax.grid(axis="x", visible=False)


def figure_7(limits: pd.DataFrame, reached: pd.DataFrame, params: pd.Series) -> style.Picture:
    """Limit against parameters, from zero; for the ladder the ratio at the end, and limits where they are fixed.

    ``reached`` is ``scales.reached`` (the mean of the last checkpoints of each run), ``params`` maps scale to a count.
    """
    printed = paper.table(2).assign(seed=1)
    with style.context():
        fig, (left, right) = style.axes(1, 2, height=3.4)
        top = 100 * max(printed.a0.max(), limits[limits.identified.astype(bool)].high.max(), reached.reached.max())
        for ax, evidence in ((left, "paper"), (right, "ladder")):
            mine = limits[limits.evidence == evidence]
            ax.set_title(
                f"{style.EVIDENCE_LABELS[evidence]}: " + ("limit" if evidence == "paper" else "end of training")
            )
            if mine.empty:
                style.empty(ax, f"{evidence}: no run measured yet")
                continue
            for activation, part in mine[mine.identified.astype(bool)].groupby("activation"):
                _intervals(ax, part, params, style.colour("", str(activation)), str(activation))
            if evidence == "paper":
                for _, part in printed.groupby("activation"):
                    ax.plot(_at(part, params) / APART**1.5, 100 * part.a0, "kD", ms=3.5, ls="")
                opened = mine[~mine.identified.astype(bool)]
                at = np.full(len(opened), 0.012)
                ax.plot(_at(opened, params), at, "|", color=style.GREY, ms=8, transform=ax.get_xaxis_transform())
                ends = printed.rename(columns={"a0": "value"})
            else:
                ends = reached[reached.evidence == evidence].rename(columns={"reached": "value"})
                for activation, part in ends.groupby("activation"):
                    look = style.look("", str(activation)) | {"ls": ""}
                    ax.plot(_at(part, params), 100 * part.value, **look, mfc="white", ms=4)
                    mean = part.groupby("scale").value.mean()
                    x = params.loc[mean.index].sort_values()
                    ax.plot(x, 100 * mean.loc[x.index], color=look["color"], lw=1, alpha=0.6)
            _params_axis(ax, params, mine.scale)
            ax.set(ylim=(0, 1.08 * top), ylabel="activation ratio (%)")
            last = ends.sort_values("scale").groupby("activation").value.last()
            style.label_ends(ax, [(100 * v, style.ACTIVATION_LABELS[a], style.colour("", a)) for a, v in last.items()])
        spans = {a: 100 * np.ptp(part.a0) for a, part in printed.groupby("activation")}
        gap = 100 * (printed[printed.activation == "silu"].a0.min() - printed[printed.activation == "relu"].a0.max())
        return fig.says(
            f"Size moves the limit little (printed: {spans['relu']:.1f} points in ReLU, {spans['silu']:.1f} in SiLU); "
            f"the activation function moves it by {gap:.0f} or more",
            "Bars: limits from the points, 90 %; black diamonds: Table 2; grey ticks: runs whose points do not fix a "
            "limit. Ladder: hollow marks are the mean of a run's last five checkpoints, one for each seed, joined at "
            "their mean; bars its limits where they are fixed.",
        )


def _intervals(ax: Axes, part: pd.DataFrame, params: pd.Series, ink: str, activation: str) -> None:
    x = _at(part, params) * APART**0.5
    bars = 100 * style.error_bars(part.low, part.a0, part.high)
    ax.errorbar(x, 100 * part.a0, bars, ls="", color=ink, marker=style.ACTIVATION_MARKERS[activation], ms=4, capsize=2)


def figure_8(derivative: pd.DataFrame) -> style.Picture:
    """Size of dA/dD against tokens per parameter, both logarithmic, where the run has points; ReLU and SiLU apart.

    ``derivative`` (``scales.derivatives``): evidence, run, scale, activation, tokens_per_param, derivative, low, high
    (90 %), inside (the run has points there), identified. Runs whose limit is open are pale and have no band.
    """
    with style.context():
        fig, panels = style.axes(2, 2, height=2.7)
        for i, ax in enumerate(panels):
            evidence, activation = KINDS[i // 2], style.ACTIVATIONS[i % 2]
            part = derivative[
                (derivative.evidence == evidence) & (derivative.activation == activation) & derivative.inside
            ]
            ax.set_title(f"{style.ACTIVATION_LABELS[activation]} ({style.EVIDENCE_LABELS[evidence]})")
            if part.empty:
                style.empty(ax, f"{evidence}: no {style.ACTIVATION_LABELS[activation]} run measured yet")
                continue
            ends = [_slope(ax, line) for _, line in part.groupby("run", sort=True)]
            unit = "billion" if evidence == "paper" else "million"
            ax.set(xscale="log", yscale="log", ylabel=f"|dA/dD| (points\nper {unit} tokens)")
            ax.set_xlabel("tokens per parameter")
            size = 100 * part.derivative.abs()
            ax.set_ylim(0.5 * size[size > 0].quantile(0.02), 2 * size.max())
            ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            ax.xaxis.set_major_formatter("{x:g}")
            ax.xaxis.set_minor_formatter(NullFormatter())
            style.label_ends(ax, [end for end in ends if end is not None], gap=0.08)
        return fig.says(
            _smaller_first(derivative),
            "Size of the law's slope where a run has points; bands are 90 % intervals by the model of "
            "all runs. Pale, without a band: the run's limit is open. Since D = tokens per parameter × parameters, "
            "part of this order is arithmetic.",
        )


def _slope(ax: Axes, line: pd.DataFrame) -> tuple[float, str, str] | None:
    scale, activation, run = line.scale.iloc[0], line.activation.iloc[0], line.run.iloc[0]
    ink, pale = style.colour(scale, activation), not line.identified.iloc[0]
    x, size = line.tokens_per_param, 100 * line.derivative.abs()
    ax.plot(x, size, color=ink, lw=1.3, alpha=0.35 if pale else 1)
    if not pale:
        ends = 100 * line[["low", "high"]].abs()
        crosses = np.sign(line.low) != np.sign(line.high)  # the slope may be zero: the band goes down to the edge
        ax.fill_between(x, ends.min(axis=1).where(~crosses, 1e-9), ends.max(axis=1), color=ink, alpha=0.15, lw=0)
    return None if "seed" in run else (float(size.iloc[-1]), scale, ink)


def _smaller_first(derivative: pd.DataFrame) -> str:
    """How often the smaller of two neighbouring sizes has the larger slope, where both have points."""
    words = []
    for evidence, rows in derivative[derivative.inside].groupby("evidence", sort=False):
        counts = []
        for _, part in rows.groupby("activation"):
            size = part.assign(size=part.derivative.abs()).groupby(["tokens_per_param", "scale"])["size"].mean()
            counts.append((size.unstack().diff(axis=1).iloc[:, 1:].stack() < 0).to_numpy())
        words.append(f"{100 * np.concatenate(counts).mean():.0f} % of the {evidence}'s")
    return f"Smaller models change faster for each token in {' and '.join(words)} comparisons of neighbouring sizes"


def figure_11(trend: pd.DataFrame, laws: Laws) -> style.Picture:
    """The 2.4B run's points with several laws (name to law), each drawn on to the end of the paper's axis."""
    end = float(paper.read("figure_axes").query("figure == 11").x_tick_max.iloc[0])
    with style.context():
        fig, (ax,) = style.axes(1, 1, height=3.6)
        part = trend[trend.run == "2.4b-relu"]
        ax.plot(part.d, 100 * part.activation_ratio, **style.look("2.4B") | {"ls": ""}, ms=5, mew=0)
        ends, inks = [], (style.FIT, style.OTHERS[1], style.OTHERS[4], style.OTHERS[3])
        for (name, law), ink, dash in zip(laws.items(), inks, ("-", "--", "-.", ":"), strict=False):
            d = np.linspace(part.d.min(), end, 300)
            ax.plot(d, 100 * law(d), color=ink, ls=dash, lw=1.4)
            ends.append((100 * float(law(d)[-1]), name.replace(" (", "\n("), ink))
        ax.axvspan(part.d.max(), end, color="0.93", zorder=0)
        middle, across = (part.d.max() + end) / 2, ax.get_xaxis_transform()
        ax.text(middle, 0.96, "no published points", ha="center", va="center", color="0.4", transform=across)
        ax.set(xlabel=style.TOKEN_LABELS[1e9], ylabel="activation ratio (%)", xlim=(None, end))
        style.label_ends(ax, ends, gap=0.13)
        values = [value for value, _, _ in ends]
        return fig.says(
            f"The published 2.4B points end at {part.d.max():.0f} billion tokens; laws through them end "
            f"{min(values):.2f} to {max(values):.2f} % active",
            "Points: 2.4B ReLU, published. Each law is drawn on to the end of the paper's axis.",
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
            f"At the end of training seeds of one size lie {min(last):.2g} to {max(last):.2g} {unit} apart",
            f"{label}. Band: range over seeds.",
        )


def figure_13(loss: pd.DataFrame) -> style.Picture:
    """Smoothed training loss along the ladder's runs, ReLU less SiLU below it, size by size.

    ``loss`` (``trends.loss``): run, scale, activation, seed, d (1e6 tokens), loss_smoothed (nats per token).
    """
    with style.context():
        fig, (left, right) = style.axes(1, 2, height=3.2)
        if loss.empty:
            for ax in (left, right):
                style.empty(ax, "ladder: no run trained yet")
            return fig.says("Training loss: not measured yet")
        ends = []
        first = loss[loss.seed == 1]
        for _, line in first.groupby("run", sort=True):
            scale, activation = line.scale.iloc[0], line.activation.iloc[0]
            look = {k: v for k, v in style.look(scale, activation).items() if k != "marker"}
            left.plot(line.d, line.loss_smoothed, **look, lw=1.2)
            if activation == "relu":
                ends.append((float(line.loss_smoothed.iloc[-1]), scale, look["color"]))
        final = first.sort_values("d").groupby("run").loss_smoothed.last()
        left.set(xscale="log", ylim=(final.min() - 0.15, final.max() + 1.2), xlabel=style.TOKEN_LABELS[1e6])
        left.set(xlim=(1, None), ylabel="smoothed training loss (nats per token)", title="solid: ReLU, dashed: SiLU")
        style.label_ends(left, ends)
        gaps, names = [], []
        for scale, part in first.groupby("scale"):
            both = {a: p.sort_values("d") for a, p in part.groupby("activation")}
            if len(both) < 2:
                continue
            d = both["relu"].d.to_numpy(float)
            gap = both["relu"].loss_smoothed.to_numpy(float) - np.interp(d, both["silu"].d, both["silu"].loss_smoothed)
            late = d > 1
            ink = style.colour(str(scale), "relu")
            right.plot(d[late], gap[late], color=ink, lw=1)
            names.append((float(gap[-max(len(gap) // 20, 1) :].mean()), str(scale), ink))
            gaps.append(gap[-max(len(gap) // 20, 1) :].mean())
        seeds = loss.sort_values("d").groupby(["scale", "activation", "seed"]).loss_smoothed.last()
        spread = seeds.groupby(["scale", "activation"]).agg(lambda s: np.ptp(s) if len(s) > 1 else np.nan).max()
        right.axhspan(-spread, spread, color="0.9", zorder=0)
        right.axhline(0, color="0.3", lw=0.8)
        right.set(xscale="log", xlabel=style.TOKEN_LABELS[1e6], ylabel="ReLU less SiLU (nats per token)")
        right.set_title("difference; grey: range of seeds at the end")
        style.label_ends(right, names)
        widest = max(map(abs, gaps))
        side = "ReLU ends lower" if np.mean(gaps) < 0 else "SiLU ends lower"
        sizes = sum(np.sign(gap) == np.sign(np.mean(gaps)) for gap in gaps)
        message = f"{side} in {sizes} of {len(gaps)} sizes, by at most {widest:.2f} nats per token"
        if widest <= spread:
            message = f"ReLU and SiLU of one size end within {widest:.2f} nats; seeds differ by up to {spread:.2f}"
        return fig.says(
            message,
            "Ladder (the paper prints no losses). Darker: larger. One seed a size; the last twentieth of a run counts.",
        )


def figure_14(losses: pd.DataFrame, params: pd.Series) -> style.Picture:
    """Training loss reached against parameters, every seed; limits only where the points fix them.

    ``losses`` (``scales.loss_limits``): run, scale, activation, seed, limit, low, high, final, common (nats per token
    at the tokens of the shortest run), fixed.
    """
    with style.context():
        fig, (ax,) = style.axes(1, 1, height=3.2)
        if losses.empty:
            style.empty(ax, "ladder: no training loss yet")
            return fig.says("Training loss against size: not measured yet")
        ends = []
        for activation, part in losses.groupby("activation", sort=True):
            look = style.look("", str(activation))
            ax.plot(_at(part, params), part.final, **look | {"ls": ""}, ms=5, mfc="white")
            mean = part.groupby("scale").final.mean()
            x = params.loc[mean.index].sort_values()
            ax.plot(x, mean.loc[x.index], color=look["color"], ls=look["ls"], lw=1.2)
            ends.append((float(mean.loc[x.index].iloc[-1]), style.ACTIVATION_LABELS[str(activation)], look["color"]))
            fixed = part[part.fixed.astype(bool)]
            bars = style.error_bars(fixed.low, fixed.limit, fixed.high)
            ax.errorbar(_at(fixed, params), fixed.limit, bars, **look | {"ls": ""}, ms=4, capsize=3)
        _params_axis(ax, params, losses.scale)
        ax.set_ylabel("training loss (nats per token)")
        style.label_ends(ax, ends)
        means = losses.groupby(["activation", "scale"]).final.mean()
        falls = all(means[a].loc[sorted(means[a].index)].is_monotonic_decreasing for a in losses.activation.unique())
        count = int(losses.fixed.sum())
        return fig.says(
            f"The loss reached {'falls' if falls else 'does not fall'} with every step in size; "
            f"a limit of the loss is fixed in {count} of {len(losses)} runs",
            "Ladder (the paper prints no values). Hollow: mean over the last twentieth of each run, one mark a seed, "
            "joined at the seeds' mean. Filled, with 90 % bars: limits, where the points fix them.",
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
            moves.append(100 * np.ptp(fixed.a0) if len(fixed) else 0.0)
        fig.supxlabel("end of warm-up (tokens a parameter)", fontsize=9)
        fig.supylabel("limit activation ratio (%)", fontsize=9)
        return fig.says(
            f"Where the warm-up ends moves a limit by up to {max(moves):.1f} points, even where the points fix it",
            "Bars: 90 %, with the end of warm-up taken as known; darker: the points fit better. Dashed: printed in "
            "Table 2. Hollow: not fixed by the points (the bar may leave the panel).",
        )


def coverage(table: pd.DataFrame) -> style.Picture:
    """How often intervals of simulated studies hold the truth, against how often they should: a panel a quantity.

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
                ax.plot(100 * part.level, 100 * part.right / part.intervals, **style.other(k), ms=4, lw=1, label=label)
            ax.set(xlim=(45, 100), ylim=(45, 100), xlabel="interval (%)", ylabel="holds the truth (%)", title=kind)
        panels[0].legend()
        ninety = table[(table.level == 0.9) & (table.quantity == "limit")]
        shares = 100 * ninety.right / ninety.intervals
        return fig.says(
            f"90 % intervals of a limit hold the truth in {shares.min():.0f} to {shares.max():.0f} % of simulated runs",
            "Simulated studies of seven runs with seeds, wander and a warm-up; slope: of the limit over scale.",
        )


def _scale_and_activation(run: str) -> tuple[str, str]:
    scale, activation, *_ = run.split("-")
    return scale.upper(), activation


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
                scale, open_limit = _scale_and_activation(run)[0], not ours.identified[run]
                look = style.look(scale, activation) | {"ls": ""}
                low, high = 100 * ours.low[run], 100 * ours.high[run]
                ax.plot([low, high], [y, y], color=look["color"], lw=2, alpha=0.4 if open_limit else 1)
                ax.plot(100 * ours.a0[run], y, **look, mfc="white" if open_limit else look["color"], ms=6)
                ax.plot(100 * rows.refit[run], y + 0.22, "|", color="0.45", ms=9, mew=1.5)
                ax.plot(100 * rows.printed[run], y, "kD", ms=4)
                inside.append(low <= 100 * rows.printed[run] <= high)
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
        return fig.says(
            f"{sum(inside)} of {len(inside)} printed limits lie within our 90 % interval",
            "Mark and bar: median and 90 % interval by the model of all runs (hollow: limit not fixed; the "
            "bar may leave the panel). Black diamond: Table 2. Grey tick: refit at the number nearest to it.",
        )


def _evidence(table: pd.DataFrame) -> list[str]:
    return [kind for kind in style.EVIDENCE_LABELS if kind in set(table.evidence)]


def hold_out(table: pd.DataFrame) -> style.Picture:
    """Error on the last third of each run, laws down, one mark a run, and the mean with its 90 % interval over runs.

    ``table`` (``forecasts.hold_outs``): law, mae_ahead (a fraction), evidence, run.
    """
    laws = table[table.evidence == _evidence(table)[0]].groupby("law").mae_ahead.mean().sort_values().index.tolist()
    with style.context():
        fig, panels = style.axes(1, len(_evidence(table)), height=2.9, sharey=True)
        best: dict[str, str] = {}
        sure: dict[str, bool] = {}
        for ax, kind in zip(panels, _evidence(table), strict=True):
            part = table[table.evidence == kind]
            means = {}
            for y, law in enumerate(laws):
                rows = part[part.law == law]
                for k, run in enumerate(style.by_size(rows.run)):
                    look = style.look(*_scale_and_activation(run)) | {"ls": ""}
                    error = 100 * float(rows[rows.run == run].mae_ahead.iloc[0])
                    ax.plot(error, y - 0.1 + 0.5 * (k / len(rows) - 0.5), **look, ms=4, mew=0, alpha=0.8)
                low, means[law], high = _mean_interval(100 * rows.mae_ahead)
                ax.plot([low, high], [y + 0.33, y + 0.33], color="k", lw=2)
                ax.plot(means[law], y + 0.33, "kD", ms=4)
            ax.set_yticks(range(len(laws)), laws)
            ax.set(xscale="log", ylim=(len(laws) - 0.4, -0.6), title=style.EVIDENCE_LABELS[kind])
            ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            ax.xaxis.set_major_formatter("{x:g}")
            ax.xaxis.set_minor_formatter(NullFormatter())
            ax.set_xlabel("mean absolute error (points of activation ratio)")
            best[kind] = min(means, key=lambda law: means[law])
            wide = part.pivot(index="run", columns="law", values="mae_ahead")
            behind = wide.drop(columns=best[kind]).sub(wide[best[kind]], axis=0)
            sure[kind] = all(_mean_interval(behind[law])[0] > 0 for law in behind)
        words = [
            f"{law} errs least on the {kind}'s runs{'' if sure[kind] else ', not surely'}" for kind, law in best.items()
        ]
        return fig.says(
            f"The last third foretold from the first two: {'; '.join(words)}",
            "One mark a run: blue circles ReLU, orange squares SiLU, darker is larger. Black: mean over runs with its "
            "90 % interval (bootstrap over runs). Surely: paired by run, ahead of every other law at 95 %.",
        )


def _mean_interval(values: pd.Series) -> tuple[float, float, float]:
    """Mean and its 90 % interval when runs are drawn anew."""
    y = values.to_numpy(float)
    means = y[np.random.default_rng(0).integers(len(y), size=(2000, len(y)))].mean(1)
    return float(np.quantile(means, 0.05)), float(y.mean()), float(np.quantile(means, 0.95))


def forecast(table: pd.DataFrame) -> style.Picture:
    """Error of the predicted end of each run with its 90 % interval: evidence down, share of the run seen across.

    ``table`` (``forecasts.forecasts``): run, evidence, share, predicted, low, high, measured, error, inside, flags.
    """
    shares, kinds = sorted(table.share.unique()), _evidence(table)
    rows = [table[table.evidence == kind].run.nunique() for kind in kinds]
    with style.context():
        height = 0.19 * sum(rows) / len(rows) + 0.45
        fig, panels = style.axes(len(kinds), len(shares), height=height, height_ratios=[n + 2 for n in rows])
        for i, ax in enumerate(panels):
            kind, share = kinds[i // len(shares)], shares[i % len(shares)]
            part = table[(table.evidence == kind) & (table.share == share)].set_index("run")
            _forecast_rows(ax, part.loc[style.by_size(part.index)], bool(i % len(shares)))
            ax.set_title(f"{kind}, {100 * share:.0f} % of the tokens seen: {part.inside.sum()} of {len(part)} inside")
        for ax in panels[-len(shares) :]:
            ax.set_xlabel("predicted less measured end (points)")
        return fig.says(
            f"{table.inside.sum()} of {len(table)} forecasts of a run's end hold what came within their 90 % interval",
            "Filled: the part seen fixes the limit. Red: the end lies outside. Arrow: the interval goes on.",
        )


def _forecast_rows(ax: Axes, part: pd.DataFrame, bare: bool) -> None:
    """Intervals about the measured end; an arrow where one runs out of the panel."""
    ends = 100 * part[["low", "high"]].sub(part.measured, axis=0)
    middle = 100 * part.error
    # Wide enough for every prediction and for most intervals: a few long ones would squeeze all the others.
    reach = 1.15 * max(middle.abs().max(), ends.abs().stack().quantile(0.8))
    for i, (run, row) in enumerate(part.iterrows()):
        low, high = ends.iloc[i]
        look = style.look(*_scale_and_activation(str(run))) | {"ls": ""}
        ink = look["color"] if row.inside else style.ALARM
        ax.plot([max(low, -reach), min(high, reach)], [i, i], color=ink, lw=2, alpha=0.7)
        for off, at, marker in ((low < -reach, -reach, "<"), (high > reach, reach, ">")):
            if off:
                ax.plot(at, i, marker=marker, color=ink, ms=5, clip_on=False)
        ax.plot(middle.iloc[i], i, **look | {"color": ink}, ms=4.5, mfc="white" if row.flags else ink)
    ax.set_yticks(range(len(part)), ["" if bare else style.name(str(run)) for run in part.index])
    ax.set(xlim=(-reach, reach), ylim=(len(part) - 0.5, -0.5))
    ax.axvline(0, color="0.4", lw=0.8)


def calibration(table: pd.DataFrame) -> style.Picture:
    """How often 90 % intervals of forecasts held the end of the run, with the 90 % interval of that share (Beta).

    ``table`` (``forecasts.forecasts``): evidence, share, inside.
    """
    groups = list(table.groupby(["evidence", "share"], sort=False))
    with style.context():
        fig, (ax,) = style.axes(1, 1, height=0.55 * len(groups) + 0.7)
        shares, look = [], style.other(0) | {"ls": "", "ms": 6}
        for y, (_, part) in enumerate(groups):
            hits, n = int(part.inside.sum()), len(part)
            low, high = (100 * end for end in stats.binomtest(hits, n).proportion_ci(0.9))
            ax.plot([low, high], [y, y], color=look["color"], lw=1.5)
            ax.plot(100 * hits / n, y, **look)
            ax.text(high + 1, y, f"{hits} of {n}", va="center", fontsize=7.5, color=look["color"])
            shares.append(100 * hits / n)
        ax.axvline(90, color="0.4", lw=0.8, ls="--")
        ax.set_yticks(range(len(groups)), [f"{kind}, {100 * share:.0f} % seen" for (kind, share), _ in groups])
        ax.set(xlim=(0, 112), ylim=(len(groups) - 0.5, -0.5), xlabel="intervals that held the end of the run (%)")
        return fig.says(
            f"90 % intervals of forecasts hold {min(shares):.0f} to {max(shares):.0f} % of the ends of runs",
            "Bars: 90 % interval of the share (Clopper and Pearson); dashed: what 90 % intervals should reach.",
        )


def token_unit(unit: float) -> str:
    """What a token unit is called on an axis: "billions of tokens" for 1e9."""
    return {1e9: "billions of tokens", 1e6: "millions of tokens", 1: "tokens"}.get(unit, f"units of {unit:g} tokens")


def own_run(points: pd.DataFrame, ahead: pd.DataFrame, unit: float, later: pd.DataFrame | None = None) -> style.Picture:
    """One run's points, its law, and what the law says comes next, with the 90 % interval of one checkpoint.

    ``points``: d (in ``unit`` tokens, such as 1e9), activation_ratio, used; ``ahead``: tokens (in ``unit``),
    activation_ratio, low, high, from the first point used to as far as is asked; ``later``: points measured after those
    of ``points``, if any.
    """
    with style.context():
        fig, (ax,) = style.axes(1, 1, height=3.2)
        ink, used, now = style.ACTIVATION_COLOURS["relu"], points.used >= 0.5, points.d.max()
        ax.fill_between(
            ahead.tokens, 100 * ahead.low, 100 * ahead.high, color=ink, alpha=0.2, lw=0, label="90 % interval"
        )
        ax.plot(ahead.tokens, 100 * ahead.activation_ratio, color=style.FIT, lw=1.2, label="law")
        rows = {"left out as warm-up": (points[~used], "0.75", "0.75"), "points used": (points[used], ink, ink)}
        words = ""
        if later is not None and len(later):
            after = later[later.d <= ahead.tokens.max()]
            rows["came later"] = (after, ink, "white")
            low, high = (np.interp(after.d, ahead.tokens, ahead[end]) for end in ("low", "high"))
            count = int(((low <= after.activation_ratio) & (after.activation_ratio <= high)).sum())
            words = f"; {count} of the {len(after)} points that came later lie within the interval"
        for label, (part, edge, face) in rows.items():
            if len(part):
                ax.plot(part.d, 100 * part.activation_ratio, "o", ms=3.5, color=edge, mfc=face, label=label)
        ax.axvline(now, color="0.5", lw=0.8, ls=":")
        ax.set(xlabel=token_unit(unit), ylabel="activation ratio (%)", xlim=(0, None))
        ax.legend(ncols=2)
        end = ahead.iloc[-1]
        return fig.says(
            f"At {end.tokens:.0f} {token_unit(unit)} a checkpoint of this run will be {100 * end.low:.1f} to "
            f"{100 * end.high:.1f} % active{words}",
            "The law is fitted to the points left of the dotted line.",
        )
