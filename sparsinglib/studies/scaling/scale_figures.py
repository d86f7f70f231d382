"""Over size (Figures 7, 8, 13 and 14): tidy frames in, a Picture out.

``params`` maps a scale to its parameter count. ``limits``: evidence, run, scale, activation, seed, a0, low, high (90 %;
fractions), identified (the points fix the limit).
"""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter

from ...paper import published, style
from .figures import by_kind, ticks_1_2_5

FLATTEST = 1e-3  # points per token unit, where Figure 8's axis begins
APART = 1.05  # a seed's mark right of the last one's, so that none hides another


def _params_axis(ax: Axes, params: pd.Series, scales: pd.Series) -> None:
    """Parameters on a logarithmic axis whose ticks are the scales by name."""
    known = params.loc[scales.unique()].astype(float)
    ax.set_xscale("log")
    ax.set_xticks(known, known.index)
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.tick_params(axis="x", which="minor", length=0)
    ax.set_xlabel("size (parameters without embedding)")


def _at(part: pd.DataFrame, params: pd.Series) -> np.ndarray:
    """Where each run's mark stands: its parameters, seeds side by side."""
    return params.loc[part.scale].to_numpy(float) * APART ** (part.seed.to_numpy(float) - 1)


def _means(values: pd.Series, scales: pd.Series, params: pd.Series) -> pd.Series:
    """The mean of a scale's seeds, by rising parameters, which are the index."""
    means = values.groupby(scales).mean()
    return means.set_axis(params.loc[means.index]).sort_index()


def figure_7(limits: pd.DataFrame, reached: pd.DataFrame, params: pd.Series) -> style.Picture:
    """Limit against parameters, from zero; for the ladder the ratio at the end, and limits where they are fixed.

    ``reached`` is ``scales.reached`` (the mean of the last checkpoints of each run), ``params`` maps scale to a count.
    """
    printed, fixed = published.table(2).assign(seed=1), limits[limits.identified.astype(bool)]
    top = 100 * max(printed.a0.max(), fixed.high.max(), reached.reached.max())
    with style.context():
        fig, panels = style.axes(1, 2, height=3.4)
        for ax, evidence, what in zip(panels, ("paper", "ladder"), ("limit", "end of training"), strict=True):
            mine = limits[limits.evidence == evidence]
            ax.set_title(f"{style.EVIDENCE_LABELS[evidence]}: {what}")
            if mine.empty:
                style.empty(ax, f"{evidence}: no run measured yet")
                continue
            for activation, part in fixed[fixed.evidence == evidence].groupby("activation"):
                bars = 100 * style.error_bars(part.low, part.a0, part.high)
                look = style.look("", str(activation)) | {"ls": "", "ms": 4, "capsize": 2}
                ax.errorbar(_at(part, params) * APART**0.5, 100 * part.a0, bars, **look)
            if evidence == "paper":
                ax.plot(_at(printed, params) / APART**1.5, 100 * printed.a0, "kD", ms=3.5, ls="")
                opened = _at(mine[~mine.identified.astype(bool)], params)
                low = np.full(len(opened), 0.012)
                ax.plot(opened, low, "|", color=style.GREY, ms=8, transform=ax.get_xaxis_transform())
                ends = printed.rename(columns={"a0": "value"})
            else:
                ends = reached[reached.evidence == evidence].rename(columns={"reached": "value"})
                for activation, part in ends.groupby("activation"):
                    look = style.look("", str(activation)) | {"ls": ""}
                    ax.plot(_at(part, params), 100 * part.value, **look, mfc="white", ms=4)
                    ax.plot(100 * _means(part.value, part.scale, params), color=look["color"], lw=1, alpha=0.6)
            _params_axis(ax, params, mine.scale)
            ax.set(ylim=(0, 1.08 * top), ylabel="activation ratio (%)")
            last = ends.sort_values("scale").groupby("activation").value.last()
            style.label_ends(ax, [(100 * v, style.ACTIVATION_LABELS[a], style.colour("", a)) for a, v in last.items()])
        ours = reached[reached.evidence == "ladder"].groupby(["scale", "activation"]).reached.mean().unstack()
        theirs = printed.pivot(index="scale", columns="activation", values="a0")
        return fig.says(
            "With size printed limits move by {:.1f} points (ReLU) and {:.1f} (SiLU), with the activation by {:.0f} or "
            "more".format(*_moves(theirs))
            + ("; the ladder's ends by {:.1f}, {:.1f} and {:.0f}".format(*_moves(ours)) if ours.shape[1] == 2 else ""),
            "Bars: limits from the points, 90 %; black diamonds: Table 2; grey ticks: runs whose points do not fix a "
            "limit. Ladder: hollow marks are the mean of a run's last five checkpoints, one for each seed, joined at "
            "their mean; bars its limits where they are fixed.",
        )


def _moves(ratios: pd.DataFrame) -> tuple[float, float, float]:
    """Points between sizes, in ReLU and in SiLU, and the least between the two; ``ratios`` has a row a scale."""
    relu, silu = (100 * ratios[activation].dropna() for activation in style.ACTIVATIONS)
    return np.ptp(relu), np.ptp(silu), silu.min() - relu.max()


def figure_8(derivative: pd.DataFrame, slopes: pd.DataFrame) -> style.Picture:
    """Size of dA/dD against tokens per parameter, both logarithmic, where the run has points; ReLU and SiLU apart.

    ``derivative`` (``scales.derivatives``): evidence, run, scale, activation, tokens_per_param, derivative, low, high
    (90 %), inside (the run has points there), identified. Runs whose limit is open are pale and have no band.
    ``slopes`` (``scales.slopes``): of (log_speed or log_speed_by_lnd), evidence, activation, slope, low, high.
    """
    derivative = derivative[derivative.inside]
    with style.context():
        fig, panels = style.axes(2, 2, height=2.7)
        for ax, evidence, part in by_kind(panels, derivative):
            size = 100 * part.derivative.abs()
            # A slope far below the others says no more than that it is small.
            ax.set_ylim(max(0.5 * size[size > 0].quantile(0.02), FLATTEST), 2 * size.max())
            lines = [_slope(ax, line) for _, line in part.groupby("run")]
            ends = pd.DataFrame(lines, columns=["x", "y", "scale", "ink"]).dropna().sort_values("y")
            for x, near in ends.groupby("x"):
                heights = 10 ** style.spread(np.log10(near.y), 0.06 * np.ptp(np.log10(ax.get_ylim())))
                for y, scale, ink in zip(heights, near.scale, near.ink, strict=True):
                    ax.annotate(scale, (x, y), (3, 0), textcoords="offset points", color=ink, fontsize=8, va="center")
            unit = "billion" if evidence == "paper" else "million"
            ax.set(xscale="log", yscale="log", ylabel=f"|dA/dD| (points\nper {unit} tokens)")
            ax.set_xlabel("tokens per parameter")
            ticks_1_2_5(ax)
        return fig.says(
            f"Per token larger ReLU models change less; {_by_size(slopes, 'relu')}",
            "Size of the law's slope where a run has points; bands are 90 % intervals by the model of "
            "all runs. Pale, without a band: the run's limit is open. Since D = tokens per parameter × parameters, "
            f"ln 2 of a doubling is arithmetic, |dA/dlnD| is free of it; SiLU: {_by_size(slopes, 'silu')}.",
        )


def _slope(ax: Axes, line: pd.DataFrame) -> tuple[float, float, str | None, str]:
    """One run's slope with its band, if its limit is fixed; gives where to name it, its name (seed 1) and colour."""
    scale, activation, run, fixed = line.iloc[0][["scale", "activation", "run", "identified"]]
    ink, x, size = style.colour(scale, activation), line.tokens_per_param, 100 * line.derivative.abs()
    ax.plot(x, size, color=ink, lw=1.3, alpha=1 if fixed else 0.35)
    if fixed:
        ends = 100 * line[["low", "high"]].abs()
        crosses = np.sign(line.low) != np.sign(line.high)  # the slope may be zero: the band goes down to the edge
        ax.fill_between(x, ends.min(axis=1).where(~crosses, 1e-9), ends.max(axis=1), color=ink, alpha=0.15, lw=0)
    end = size[size > 1.3 * ax.get_ylim()[0]].index[-1]  # where it ends, or leaves the panel
    return x[end], size[end], None if "seed" in run else scale, ink


def _by_size(slopes: pd.DataFrame, activation: str) -> str:
    """The two speeds of an activation over size, by D and by ln D, each evidence in turn."""
    mine = slopes[slopes.activation == activation].sort_values("evidence", ascending=False)
    by_d, by_ln = mine[mine.of == "log_speed"], mine[mine.of == "log_speed_by_lnd"]
    faster = ", ".join(f"{row.evidence} {row.slope:.2f}" for row in by_d.itertuples())
    rest = ", ".join(f"{row.slope:.2f} ({row.low:.2f} to {row.high:.2f})" for row in by_ln.itertuples())
    opened = "it is open: " if (by_ln.low * by_ln.high < 0).all() else ""
    return f"ln |dA/dD| a doubling: {faster}; by ln D {opened}{rest}"


def figure_13(loss: pd.DataFrame) -> style.Picture:
    """Smoothed training loss along the ladder's runs, and ReLU's less SiLU's, size by size.

    ``loss`` (``trends.loss``): scale, activation, seed, d (1e6 tokens), loss_smoothed (nats per token).
    """
    with style.context():
        fig, (left, right) = style.axes(1, 2, height=3.2)
        if loss.empty:
            for ax in (left, right):
                style.empty(ax, "ladder: no run trained yet")
            return fig.says("Training loss: not measured yet")
        ends, gaps = [], []
        for scale, part in loss[(loss.seed == 1) & (loss.d > 1)].groupby("scale"):
            wide = part.pivot(index="d", columns="activation", values="loss_smoothed")
            for activation, line in wide.items():
                left.plot(line, **style.look(str(scale), str(activation)) | {"marker": None}, lw=1.2)
            ink = style.colour(str(scale))
            ends.append((float(wide.min(axis=1).iloc[-1]), str(scale), ink))
            if len(wide.columns) == 2:
                gap = (wide.relu - wide.silu).dropna()
                right.plot(gap, color=ink, lw=1)
                gaps.append((float(gap.iloc[-(len(gap) // 20) - 1 :].mean()), str(scale), ink))
        seeds = loss.sort_values("d").groupby(["scale", "activation", "seed"]).loss_smoothed.last()
        spread = seeds.groupby(["scale", "activation"]).agg(np.ptp).max()
        last = [end for end, _, _ in ends]
        left.set(ylim=(min(last) - 0.15, max(last) + 1.2), title="solid: ReLU, dashed: SiLU")
        left.set(ylabel="smoothed training loss (nats per token)")
        for end in (-spread, spread):
            right.axhline(end, color="0.3", lw=0.8, ls=":")
        right.axhline(0, color="0.3", lw=0.8)
        right.set(ylabel="ReLU less SiLU (nats per token)", title="difference; dotted: range of seeds at the end")
        for ax, names in ((left, ends), (right, gaps)):
            ax.set(xscale="log", xlim=(1, None), xlabel=style.TOKEN_LABELS[1e6])
            style.label_ends(ax, names)
        widest = max((abs(gap) for gap, _, _ in gaps), default=np.nan)
        return fig.says(
            f"ReLU and SiLU of one size end within {widest:.2f} nats per token; seeds differ by up to {spread:.2f}",
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
        ends, falls = [], True
        for activation, part in losses.groupby("activation"):
            look = style.look("", str(activation))
            ax.plot(_at(part, params), part.final, **look | {"ls": ""}, ms=5, mfc="white")
            means = _means(part.final, part.scale, params)
            ax.plot(means, color=look["color"], ls=look["ls"], lw=1.2)
            ends.append((means.iloc[-1], style.ACTIVATION_LABELS[str(activation)], look["color"]))
            falls &= means.is_monotonic_decreasing
            fixed = part[part.fixed.astype(bool)]
            bars = style.error_bars(fixed.low, fixed.limit, fixed.high)
            ax.errorbar(_at(fixed, params), fixed.limit, bars, **look | {"ls": ""}, ms=4, capsize=3)
        _params_axis(ax, params, losses.scale)
        ax.set_ylabel("training loss (nats per token)")
        style.label_ends(ax, ends)
        count = int(losses.fixed.sum())
        return fig.says(
            f"The loss reached {'falls' if falls else 'does not fall'} with every step in size; "
            f"a limit of the loss is fixed in {count} of {len(losses)} runs",
            "Ladder (the paper prints no values). Hollow: mean over the last twentieth of each run, one mark a seed, "
            "joined at the seeds' mean." + " Filled, with 90 % bars: limits." * bool(count),
        )
