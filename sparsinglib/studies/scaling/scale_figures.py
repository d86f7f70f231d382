"""Over size (Figures 7, 8, 13 and 14): tidy frames in, a Picture out.

``params`` maps a scale to its parameter count. ``limits``: evidence, run, scale, activation, seed, a0, low, high (90 %;
fractions), identified (the points fix the limit).
"""

from itertools import pairwise
from typing import Any

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


def figure_7(limits: pd.DataFrame, ends: pd.DataFrame, params: pd.Series) -> style.Picture:
    """Limit against parameters, from zero; for the ladder the ratio at the end of training, every seed.

    ``ends`` is ``trends.ends``, ``params`` maps scale to a count.
    """
    printed, theirs = published.table(2).assign(seed=1), limits[limits.evidence == "paper"]
    fixed, opened = theirs[theirs.identified], theirs[~theirs.identified]
    with style.context():
        fig, (left, right) = style.axes(1, 2, height=3.4, sharey=True)
        left.set(title=f"{style.EVIDENCE_LABELS['paper']}: limit", ylabel="activation ratio (%)")
        _marks(left, fixed, fixed.a0, params, APART**0.5)
        _marks(left, opened, opened.a0, params, APART**0.5, mfc="white", alpha=0.6)
        left.plot(_at(printed, params) / APART**0.5, 100 * printed.a0, "kD", ms=3.5, ls="")
        right.set_title(f"{style.EVIDENCE_LABELS['ladder']}: end of training")
        _marks(right, ends, ends.activation_ratio, params)
        for activation, part in ends.groupby("activation"):
            means = 100 * _means(part.activation_ratio, part.scale, params)
            right.plot(means, color=style.colour("", str(activation)), lw=1, alpha=0.6)
        left.set_ylim(0, 108 * max(printed.a0.max(), fixed.high.max(), ends.high.max()))
        for ax, rows in ((left, printed.assign(value=printed.a0)), (right, ends.assign(value=ends.activation_ratio))):
            _params_axis(ax, params, rows.scale)
            last = rows.sort_values("scale").groupby("activation").last().itertuples()
            names = [(style.ACTIVATION_LABELS[row.Index], style.colour("", row.Index), row) for row in last]
            # Above the marks and their bars.
            style.label_lines(ax, [(params[row.scale], 100 * row.value + 3, name, ink) for name, ink, row in names])
        theirs = _moves(printed.groupby(["scale", "activation"]).a0.mean())
        ours = _moves(ends.groupby(["scale", "activation"]).activation_ratio.mean())
        return fig.says(
            f"ReLU and SiLU of one size lie at least {theirs[0]:.0f} points apart in the paper, {ours[0]:.0f} on our "
            f"ladder; over all sizes each moves by less than {theirs[1]} (paper) and {ours[1]} (ladder)",
            "Bars: 90 %. Left: limits from the points, hollow where these do not fix them; black diamonds: Table 2. "
            "Right: where exp(KL) is up by 1 % on 65,536 tokens, a mark a seed, joined at their mean; most intervals "
            "are shorter than a mark. The title takes Table 2 and these means.",
        )


def _marks(ax: Axes, rows: pd.DataFrame, values: pd.Series, params: pd.Series, aside: float = 1, **more: Any) -> None:
    """Values with their 90 % intervals (fractions) at each run's parameters, times ``aside``."""
    for activation, part in rows.groupby("activation"):
        bars = 100 * style.error_bars(part.low, values[part.index], part.high)
        look = style.look("", str(activation)) | {"ls": "", "ms": 4, "capsize": 2} | more
        ax.errorbar(_at(part, params) * aside, 100 * values[part.index], bars, **look)


def _moves(ratios: pd.Series) -> tuple[float, int]:
    """Least points between ReLU and SiLU of one size, and the whole number above those between sizes of either."""
    relu, silu = (100 * ratios.xs(activation, level="activation") for activation in style.ACTIVATIONS)
    return (silu - relu).min(), int(max(np.ptp(relu), np.ptp(silu))) + 1


def figure_8(derivative: pd.DataFrame) -> style.Picture:
    """Size of dA/dD against tokens per parameter, both logarithmic, where the run has points; ReLU and SiLU apart.

    ``derivative`` (``scales.derivatives``): evidence, run, scale, activation, tokens_per_param, derivative, low, high
    (90 %), inside (the run has points there), identified. Runs whose limit is open are pale and have no band.
    """
    derivative = derivative[derivative.inside]
    with style.context():
        fig, panels = style.axes(2, 2, height=2.7)
        for ax, evidence, part in by_kind(panels, derivative):
            size = 100 * part.derivative.abs()
            ax.set(xscale="log", yscale="log")
            # A slope far below the others says no more than that it is small.
            ax.set_ylim(max(0.5 * size[size > 0].quantile(0.02), FLATTEST), 2 * size.max())
            lines = [_slope(ax, line) for _, line in part.groupby("run")]
            low, high = part.tokens_per_param.min(), part.tokens_per_param.max()
            ax.set_xlim(low / 1.1, high * (high / low) ** 0.15)
            style.label_lines(ax, [line for line in lines if line[2]])
            unit = "billion" if evidence == "paper" else "million"
            ax.set(ylabel=f"|dA/dD| (points\nper {unit} tokens)")
            ax.set_xlabel("tokens per parameter")
            ticks_1_2_5(ax)
        found, steps = _steps(derivative, "ladder")
        ours = f"; our small models: {found} of {steps}" * bool(steps)
        return fig.says(
            "The larger a published run, the less it changes per token: {} of {} steps of size{}".format(
                *_steps(derivative, "paper"), ours
            ),
            "Steepness |dA/dD| of each law where its run has points, within the range that all small models reach or, "
            "for published runs, the paper's axis; without 2.4B. Bands: 90 %; pale, without a band: the run's limit is "
            "open. A step counts where the larger run is lower all along.",
        )


def _steps(derivative: pd.DataFrame, evidence: str) -> tuple[int, int]:
    """Steps of size after which a line (seed 1) lies lower wherever both sizes have points, and all such steps."""
    lower = []
    rows = derivative[(derivative.evidence == evidence) & ~derivative.run.str.contains("seed")]
    for _, part in rows.groupby("activation"):
        lines = [line for _, line in part.assign(size=part.derivative.abs()).groupby("scale")]
        both = (a.merge(b, on="tokens_per_param") for a, b in pairwise(lines))
        lower += [bool((pair.size_y < pair.size_x).all()) for pair in both]
    return sum(lower), len(lower)


def _slope(ax: Axes, line: pd.DataFrame) -> tuple[float, float, str, str]:
    """One run's slope with its band, if its limit is fixed; gives where to name it, its name (seed 1) and colour."""
    scale, activation, run, fixed = line.iloc[0][["scale", "activation", "run", "identified"]]
    ink, x, size = style.colour(scale, activation), line.tokens_per_param, 100 * line.derivative.abs()
    ax.plot(x, size, color=ink, lw=1.3, alpha=1 if fixed else 0.35)
    if fixed:
        ends = 100 * line[["low", "high"]].abs()
        crosses = np.sign(line.low) != np.sign(line.high)  # the slope may be zero: the band goes down to the edge
        ax.fill_between(x, ends.min(axis=1).where(~crosses, 1e-9), ends.max(axis=1), color=ink, alpha=0.15, lw=0)
    end = size[size > 1.3 * ax.get_ylim()[0]].index[-1]  # where it ends, or leaves the panel
    return x[end], size[end], "" if "seed" in run else scale, ink


def figure_13(loss: pd.DataFrame) -> style.Picture:
    """Smoothed training loss along the ladder's runs, and ReLU's less SiLU's, size by size.

    ``loss`` (``trends.loss``): scale, activation, seed, d (1e6 tokens), loss_smoothed (nats per token).
    """
    with style.context():
        fig, (left, right) = style.axes(1, 2, height=3.2)
        ends, gaps = [], []
        for scale, part in loss[(loss.seed == 1) & (loss.d > 1)].groupby("scale"):
            wide = part.pivot(index="d", columns="activation", values="loss_smoothed")
            for activation, line in wide.items():
                left.plot(line, **style.look(str(scale), str(activation)) | {"marker": None}, lw=1.2)
            ink = style.colour(str(scale))
            ends.append((wide.index[-1], float(wide.min(axis=1).iloc[-1]), str(scale), ink))
            gap = (wide.relu - wide.silu).dropna()
            right.plot(gap, color=ink, lw=1)
            gaps.append((gap.index[-1], float(gap.iloc[-(len(gap) // 20) - 1 :].mean()), str(scale), ink))
        seeds = loss.sort_values("d").groupby(["scale", "activation", "seed"]).loss_smoothed.last()
        spread = seeds.groupby(["scale", "activation"]).agg(np.ptp).max()
        last = [end for _, end, _, _ in ends]
        left.set(ylim=(min(last) - 0.15, max(last) + 1.2), title="solid: ReLU, dashed: SiLU")
        left.set(ylabel="smoothed training loss (nats per token)")
        for end in (-spread, spread):
            right.axhline(end, color="0.3", lw=0.8, ls=":")
        right.axhline(0, color="0.3", lw=0.8)
        right.set(ylabel="ReLU less SiLU (nats per token)", title="difference; dotted: range of seeds at the end")
        for ax, names in ((left, ends), (right, gaps)):
            ax.set(xscale="log", xlim=(1, 1.5 * loss.d.max()), xlabel=style.TOKEN_LABELS[1e6])
            ticks_1_2_5(ax)
            style.label_lines(ax, names)
        widest = max(abs(gap) for _, gap, _, _ in gaps)
        return fig.says(
            f"With the same seed ReLU and SiLU of one size end within {widest:.2f} nats per token; seeds differ by up "
            f"to {spread:.2f}",
            "Ladder (the paper prints no losses). Darker: larger. The last twentieth of a run counts. Means over "
            "seeds: Figure 14.",
        )


def figure_14(losses: pd.DataFrame, params: pd.Series) -> style.Picture:
    """Training loss reached against parameters, every seed; limits only where the points fix them.

    ``losses`` (``scales.loss_limits``): run, scale, activation, seed, limit, low, high, final, common (nats per token
    at the tokens of the shortest run), fixed.
    """
    with style.context():
        fig, (ax,) = style.axes(1, 1, height=3.2)
        falls = True
        for activation, part in losses.groupby("activation"):
            look = style.look("", str(activation))
            ax.plot(_at(part, params), part.final, **look | {"ls": ""}, ms=5, mfc="white")
            means = _means(part.final, part.scale, params)
            ax.plot(means, color=look["color"], ls=look["ls"], lw=1.2, label=style.ACTIVATION_LABELS[str(activation)])
            falls &= means.is_monotonic_decreasing
            fixed = part[part.fixed]
            bars = style.error_bars(fixed.low, fixed.limit, fixed.high)
            ax.errorbar(_at(fixed, params), fixed.limit, bars, **look | {"ls": ""}, ms=4, capsize=3)
        _params_axis(ax, params, losses.scale)
        ax.set_ylabel("training loss (nats per token)")
        ax.legend()
        count = int(losses.fixed.sum())
        return fig.says(
            f"The loss reached {'falls' if falls else 'does not fall'} with every step in size, for ReLU as for SiLU",
            "Ladder (the paper prints no values). Hollow: mean over the last twentieth of each run, one mark a seed, "
            f"joined at the seeds' mean. A limit of the loss is fixed in {count} of {len(losses)} runs"
            + ("; filled, with 90 % bars." if count else "."),
        )
