"""Runs and their laws (Figures 4 and 11, Table 2, and our own): tidy frames in, a Picture out.

``trend`` is that of ``trends`` (evidence, run, scale, activation, seed, d in 1e9 or 1e6 tokens, activation_ratio),
where it says so with ``used``, the share of fits that use a point: less than a half is warm-up. ``laws`` maps a run
to its law, a function of d. ``limits``: evidence, run, scale, activation, seed, a0, low, high (90 %; fractions),
identified (the points fix the limit).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullFormatter

from ...laws import Posterior, curve
from ...paper import published, style
from .limits import LARGEST, printed

Laws = Mapping[str, Callable[[np.ndarray], np.ndarray]]


def by_kind(panels: Sequence[Axes], frame: pd.DataFrame) -> Iterator[tuple[Axes, str, pd.DataFrame]]:
    """Panels with their evidence and rows, paper and ladder down, ReLU and SiLU across; one without rows says so."""
    for ax, (evidence, activation) in zip(panels, product(("paper", "ladder"), style.ACTIVATIONS), strict=True):
        part = frame[(frame.evidence == evidence) & (frame.activation == activation)]
        label = style.ACTIVATION_LABELS[activation]
        ax.set_title(f"{label} ({style.EVIDENCE_LABELS[evidence]})")
        if part.empty:
            style.empty(ax, f"{evidence}: no {label} run")
        else:
            yield ax, evidence, part


def kinds_of(table: pd.DataFrame) -> list[str]:
    """The kinds of evidence in a table, the paper's first."""
    return [kind for kind in style.EVIDENCE_LABELS if kind in set(table.evidence)]


def around(values: pd.Series, room: float) -> tuple[float, float]:
    """The ends of an axis that shows ``values``, with ``room`` (a share of their range) on either side."""
    room *= np.ptp(values)
    return values.min() - room, values.max() + room


def ticks_1_2_5(ax: Axes) -> None:
    """Plain numbers at 1, 2, 5, 10 … along a logarithmic x axis."""
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_formatter(NullFormatter())


def _which_way(trend: pd.DataFrame) -> str:
    """In how many runs the last five points lie beyond the first five after the first tenth of the tokens."""
    late = trend[trend.d > 0.1 * trend.groupby("run").d.transform("max")].sort_values("d")
    ratios = late.groupby(["activation", "evidence", "run"]).activation_ratio
    change, words = ratios.agg(lambda y: y.iloc[-5:].mean() - y.iloc[:5].mean()).reset_index(), []
    for activation in style.ACTIVATIONS:
        sign = curve.law(activation).sign
        mine = change[change.activation == activation].assign(so=sign * change.activation_ratio > 0)
        counts = mine.groupby("evidence").so.agg(["sum", "size"]).sort_index(ascending=False)
        told = " and ".join(f"{row['sum']} of {row['size']} runs ({kind})" for kind, row in counts.iterrows())
        words.append(f"{style.ACTIVATION_LABELS[activation]} {'rises' if sign > 0 else 'falls'} in {told}")
    return ", ".join(words)


def figure_4(trend: pd.DataFrame, laws: Laws, limits: pd.DataFrame) -> style.Picture:
    """Activation ratio against tokens with each run's law; beside each panel its limits, ours and the printed ones.

    Evidence down, activation across. ``trend`` with ``used``: paler points are warm-up.
    """
    with style.context():
        fig, panels = style.axes(2, 4, height=3.3, gridspec_kw={"width_ratios": [4, 1.3, 4, 1.3]})
        beside, known = dict(zip(panels[::2], panels[1::2], strict=True)), printed().a0
        for right in beside.values():
            right.set_axis_off()
        for left, _, part in by_kind(panels[::2], trend):
            right = beside[left]
            right.set_axis_on()
            mine = limits[limits.run.isin(part.run)]
            fixed = mine[mine.identified]
            theirs = known[known.index.isin(part.run)]
            # An open limit may lie anywhere; it does not stretch the axis.
            shown, names = _curves(left, part, laws)
            left.set_ylim(around(100 * pd.concat([shown, fixed.low, fixed.high, theirs]), 0.06))
            style.label_lines(left, names, 7.5)
            right.set_ylim(left.get_ylim())
            _limits(right, mine, known)
            right.tick_params(axis="y", labelleft=False)
        return fig.says(
            f"With more data the activation ratio of {_which_way(trend)}",
            "Line: law. Pale: warm-up, left out of the fit. Right of each panel the limits: bars are our 90 % "
            "intervals from one joint fit of a panel's runs, hollow where the points do not fix the limit (a triangle "
            "at the edge: it lies beyond); black diamonds are the limits printed in Table 2. Darker: larger."
            f"{_drifted(limits)}",
        )


def _drifted(limits: pd.DataFrame) -> str:
    """Sentences that name the runs whose end lies beyond the interval of their limit, or that go against their law."""
    said = {"The last points lie beyond the limit's interval": "beyond", "On the whole against its law": "against"}
    return "".join(
        f" {words}: {', '.join(map(style.name, limits.run[limits[which]]))}." * bool(limits[which].any())
        for words, which in said.items()
    )


def _curves(ax: Axes, trend: pd.DataFrame, laws: Laws) -> tuple[pd.Series, list[tuple[float, float, str, str]]]:
    """Points and law of each run; gives the activation ratios that must be seen, and ends and names of the lines."""
    shown, ends = [], []
    for run, part in trend.groupby("run"):
        scale, activation = part.scale.iloc[0], part.activation.iloc[0]
        law, look, used = laws[str(run)], style.look(scale, activation), part.used >= 0.5
        for rows, alpha in ((part[used], 0.6), (part[~used], 0.2)):
            ax.plot(rows.d, 100 * rows.activation_ratio, **look | {"ls": ""}, ms=2.6, mew=0, alpha=alpha)
        d = np.linspace(part.d[used].min(), part.d.max(), 200)
        ax.plot(d, 100 * law(d), color=look["color"], lw=1.2)
        # The steep beginning would squeeze what comes after it, and does not stretch the axis.
        shown.append(part.activation_ratio[used & (part.d > 0.03 * part.d.max())])
        if part.seed.iloc[0] == 1:
            seeds = trend[trend.scale == scale].seed.nunique()
            name = f"{scale}, {seeds} seeds" if seeds > 1 else scale
            ends.append((d[-1], 100 * float(law(d)[-1]), name, look["color"]))
    ax.set(xlim=(0, 1.15 * trend.d.max()), ylabel="activation ratio (%)")
    ax.set_xlabel(style.TOKEN_LABELS[published.TOKEN_UNITS[trend.evidence.iloc[0]]])
    return pd.concat(shown), ends


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
    ax.set_xticks(range(len(scales)), scales, fontsize=7, rotation=60)
    ax.set(xlim=(-0.6, len(scales) - 0.3), xlabel="parameters", title="limit")
    ax.grid(axis="x", visible=False)


def figure_11(trend: pd.DataFrame, laws: Laws, model: Posterior) -> style.Picture:
    """The 2.4B run's points with several laws (name to law), drawn on to the end of the paper's axis, and our limit.

    ``model`` is that of all ReLU runs of the paper; its laws are drawn as a band.
    """
    end = float(published.read("figure_axes").query("figure == 11").x_tick_max.iloc[0])
    part = trend[trend.run == "2.4b-relu"]
    with style.context():
        fig, (ax,) = style.axes(1, 1, height=3.6)
        look = style.look("2.4B") | {"ls": "", "clip_on": False}
        ax.plot(part.d, 100 * part.activation_ratio, **look, ms=5, mew=0)
        limit = 100 * model.limits().set_index("run").loc[LARGEST, ["low", "a0", "high"]].astype(float)
        d = np.linspace(part.d.min(), end, 300)
        low, high = 100 * np.quantile(model.curves(LARGEST, d), [0.05, 0.95], axis=0)
        ax.fill_between(d, low, high, color=look["color"], alpha=0.15, lw=0)
        bar = [[limit.a0 - limit.low], [limit.high - limit.a0]]
        label = f"our limit, 90 %: {limit.low:.1f} to {limit.high:.1f} %"
        ax.errorbar(end, limit.a0, bar, **look, ms=5, mfc="white", capsize=3, zorder=4, label=label)
        for (name, law), ink, dash in zip(laws.items(), (style.FIT, style.OTHERS[1]), ("-", "--"), strict=False):
            ax.plot(d, 100 * law(d), color=ink, ls=dash, lw=1.4, label=name)
        ax.axvspan(part.d.max(), end, color="0.93", zorder=0)
        middle, across = (part.d.max() + end) / 2, ax.get_xaxis_transform()
        ax.text(middle, 0.96, "no published points", ha="center", va="center", color="0.4", transform=across)
        ax.set(xlabel=style.TOKEN_LABELS[1e9], ylabel="activation ratio (%)", xlim=(None, end))
        ax.legend(loc="lower left")
        theirs = 100 * printed().a0[LARGEST]
        return fig.says(
            f"The published 2.4B points leave the limit open, {limit.low:.1f} to {limit.high:.1f} % active (90 %); "
            f"{theirs:.2f} % is printed, the abstract's {100 - theirs:.2f} % sparsity",
            f"Points: 2.4B ReLU, published, up to {part.d.max():.0f} billion tokens. Band: 90 % of the laws "
            "through them, from one joint fit of a kind's runs; bar at the right edge: their limits. Table 2's law was "
            "not fitted to these points.",
        )


def seed_trends(frame: pd.DataFrame, value: str, label: str, unit: str, factor: float = 1.0) -> style.Picture:
    """A ladder quantity along training for the scales with several seeds: every seed, its scale's mean and range.

    ``frame``: run, scale, activation, seed, d (1e6 tokens) and the column ``value``, times ``factor``.
    """
    groups = [(key, part) for key, part in frame.groupby(["activation", "scale"]) if part.seed.nunique() > 1]
    with style.context():
        (fig, panels), last = style.grid(len(groups), 4, 2.3), []
        for ax, ((activation, scale), part) in zip(panels, groups, strict=True):
            seeds = [points for _, points in part.sort_values("d").groupby("seed")]
            d = np.linspace(max(points.d.min() for points in seeds), min(points.d.max() for points in seeds), 200)
            lines = np.array([np.interp(d, points.d, factor * points[value]) for points in seeds])
            ink = style.colour(scale, activation)
            ax.fill_between(d, lines.min(0), lines.max(0), color=ink, alpha=0.25, lw=0)
            ax.plot(d, lines.T, color=ink, lw=0.6)
            ax.set_title(f"{scale} {style.ACTIVATION_LABELS[activation]}, {len(lines)} seeds")
            half = lines[:, d > d.max() / 2]
            ax.set_ylim(half.min() - 2 * np.ptp(half), half.max() + 3 * np.ptp(half))
            last.append(float(np.ptp(lines[:, -1])))
        fig.supxlabel(style.TOKEN_LABELS[1e6], fontsize=9)
        fig.supylabel(label, fontsize=9)
        return fig.says(
            f"At their last checkpoint seeds of one size lie {min(last):.2g} to {max(last):.2g} {unit} apart",
            f"{label}. Band: range over seeds.",
        )


def table_2(table: pd.DataFrame, limits: pd.DataFrame) -> style.Picture:
    """Forest plot of Table 2's limits: printed, refit at the number of left-out points nearest to it, and ours.

    ``table`` (``limits.table_2``): run, coefficient, printed, refit; ``limits`` as above.
    """
    rows = table[table.coefficient == "a0"].merge(limits, on="run", suffixes=("", "_again")).set_index("run")
    rows = rows.loc[style.by_size(rows.index)]
    inside = rows.printed.between(rows.low, rows.high)
    with style.context():
        fig, panels = style.axes(1, 2, height=3.0)
        for ax, (_, mine) in zip(panels, rows.groupby("activation"), strict=True):
            fixed = mine[mine.identified]
            ax.set_xlim(around(100 * pd.concat([mine.printed, mine.refit, mine.a0, fixed.low, fixed.high]), 0.08))
            for y, row in enumerate((100 * mine[["low", "high", "a0", "printed", "refit"]]).itertuples()):
                look, open_limit = style.look_of(row.Index) | {"ls": ""}, row.Index not in fixed.index
                ax.plot([row.low, row.high], [y, y], color=look["color"], lw=2, alpha=0.4 if open_limit else 1)
                ax.plot(row.a0, y, **look, mfc="white" if open_limit else look["color"], ms=6)
                ax.plot(row.refit, y + 0.22, "|", color="0.45", ms=9, mew=1.5)
                ax.plot(row.printed, y, "D", color=style.FIT if inside[row.Index] else style.ALARM, ms=4, zorder=4)
                if row.low < ax.get_xlim()[0]:
                    ax.plot(ax.get_xlim()[0], y, "<", color=look["color"], clip_on=False)
            ax.set_yticks(range(len(mine)), [style.name(run) for run in mine.index])
            ax.set(ylim=(len(mine) - 0.5, -0.5), xlabel="limit activation ratio (%)")
        others = inside.drop(LARGEST, errors="ignore")
        and_largest = f", and so does {style.name(LARGEST)}'s, which is open" * bool(inside.get(LARGEST, False))
        return fig.says(
            f"{others.sum()} of Table 2's {len(others)} limits to 1.2B lie within our 90 % interval{and_largest}",
            "Mark and bar: median and 90 % interval from a joint fit of each panel's runs (hollow: limit not fixed; "
            "arrow: the bar goes on). Diamond: Table 2, red outside the interval. Grey tick: the plain "
            "fit nearest to the printed row, over the choices of how many first points to drop.",
        )
