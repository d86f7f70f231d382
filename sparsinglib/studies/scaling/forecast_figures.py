"""What laws say in advance, against what came (notebooks 02 and 05): tidy frames in, a Picture out.

``evidence`` is a column of all tables; errors and ends are fractions.
"""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from scipy import stats

from ...paper import style
from .figures import kinds_of, ticks_1_2_5


def hold_out(table: pd.DataFrame) -> style.Picture:
    """Error on the last third of each run, laws down, one mark a run, and the mean with its 90 % interval over runs.

    ``table`` (``forecasts.hold_outs``): law, mae_ahead (a fraction), evidence, run.
    """
    kinds = kinds_of(table)
    laws = table[table.evidence == kinds[0]].groupby("law").mae_ahead.mean().sort_values().index.tolist()
    with style.context():
        fig, panels = style.axes(1, len(kinds), height=2.9, sharey=True)
        words = []
        for ax, kind in zip(panels, kinds, strict=True):
            errors = 100 * table[table.evidence == kind].pivot(index="run", columns="law", values="mae_ahead")
            for y, law in enumerate(laws):
                for k, run in enumerate(style.by_size(errors.index)):
                    height = y - 0.1 + 0.5 * (k / len(errors) - 0.5)
                    ax.plot(errors[law][run], height, **style.look_of(run) | {"ls": ""}, ms=4, mew=0, alpha=0.8)
                low, mean, high = _mean_interval(errors[law])
                ax.plot([low, high], [y + 0.33, y + 0.33], color="k", lw=2)
                ax.plot(mean, y + 0.33, "kD", ms=4)
            ax.set_yticks(range(len(laws)), laws)
            ax.set(xscale="log", ylim=(len(laws) - 0.4, -0.6), title=style.EVIDENCE_LABELS[kind])
            ticks_1_2_5(ax)
            ax.set_xlabel("mean absolute error (points of activation ratio)")
            best = errors.mean().idxmin()
            behind = errors.drop(columns=best).sub(errors[best], axis=0)
            sure = all(_mean_interval(behind[law])[0] > 0 for law in behind)
            words.append(f"{best} errs least on the {kind}'s runs{'' if sure else ', not surely'}")
        return fig.says(
            f"Predicting the last third of a run from the first two: {'; '.join(words)}",
            "One mark a run: blue circles ReLU, orange squares SiLU, darker is larger. Black: mean over runs with its "
            "90 % interval (bootstrap over runs)."
            + " Not surely: paired by run, not ahead of every other law at 95 %."
            * ("not surely" in "".join(words)),
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
    shares, kinds = sorted(table.share.unique()), kinds_of(table)
    rows = [table[table.evidence == kind].run.nunique() for kind in kinds]
    with style.context():
        height = 0.19 * sum(rows) / len(rows) + 0.45
        fig, panels = style.axes(len(kinds), len(shares), height=height, height_ratios=[n + 2 for n in rows])
        # Wide enough for every prediction and for most intervals: a few long ones would squeeze all the others.
        far = 100 * table[["low", "high"]].sub(table.measured, axis=0).abs().max(axis=1)
        errors = 100 * table.error.abs()
        far = np.maximum(far.groupby(table.evidence).quantile(0.8), errors.groupby(table.evidence).max())
        for i, ax in enumerate(panels):
            kind, share = kinds[i // len(shares)], shares[i % len(shares)]
            part = table[(table.evidence == kind) & (table.share == share)].set_index("run")
            _forecast_rows(ax, part.loc[style.by_size(part.index)], bool(i % len(shares)), 1.15 * far[kind])
            ax.set_title(f"{kind}, {100 * share:.0f} % of the tokens seen: {part.inside.sum()} of {len(part)} inside")
        for ax in panels[-len(shares) :]:
            ax.set_xlabel("predicted − measured end (points)")
        wide = ((table.high - table.low) / table.to_come.abs()).groupby([table.evidence, table.share]).median()
        return fig.says(
            f"The 90 % interval holds the end of the run in {table.inside.sum()} of {len(table)} forecasts, but is "
            f"{wide.min():.1f} to {wide.max():.1f} times as wide as the change still to come",
            "Widths: medians of a panel's runs. "
            + "Filled: the part seen fixes the limit. " * bool((table["flags"] == "").any())
            + "Red: the end lies outside. Arrow: the interval goes on.",
        )


def _forecast_rows(ax: Axes, part: pd.DataFrame, bare: bool, reach: float) -> None:
    """Intervals about the measured end; an arrow where one runs out of the panel, which goes to ``reach`` points."""
    for i, (run, row) in enumerate(part.iterrows()):
        low, high = 100 * (row[["low", "high"]] - row.measured)
        look = style.look_of(str(run)) | {"ls": ""}
        ink = look["color"] if row.inside else style.ALARM
        ax.plot([max(low, -reach), min(high, reach)], [i, i], color=ink, lw=2, alpha=0.7)
        for off, at, marker in ((low < -reach, -reach, "<"), (high > reach, reach, ">")):
            if off:
                ax.plot(at, i, marker=marker, color=ink, ms=5, clip_on=False)
        ax.plot(100 * row.error, i, **look | {"color": ink}, ms=4.5, mfc="white" if row["flags"] else ink)
    ax.set_yticks(range(len(part)), ["" if bare else style.name(str(run)) for run in part.index])
    ax.set(xlim=(-1.03 * reach, 1.03 * reach), ylim=(len(part) - 0.5, -0.5))
    ax.axvline(0, color="0.4", lw=0.8)


def calibration(table: pd.DataFrame) -> style.Picture:
    """How often 90 % intervals of forecasts held the end of the run, with the 90 % interval of that share (Beta).

    ``table`` (``forecasts.forecasts``): evidence, share, inside.
    """
    counts = table.groupby(["evidence", "share"], sort=False).inside.agg(["sum", "size"])
    percent = 100 * counts["sum"] / counts["size"]
    with style.context():
        fig, (ax,) = style.axes(1, 1, height=0.55 * len(counts) + 0.7)
        look = style.other(0) | {"ls": "", "ms": 6}
        for y, (hits, n) in enumerate(counts.to_numpy().tolist()):
            low, high = (100 * end for end in stats.binomtest(hits, n).proportion_ci(0.9))
            ax.plot([low, high], [y, y], color=look["color"], lw=1.5)
            ax.plot(100 * hits / n, y, **look)
            ax.text(high + 1, y, f"{hits} of {n}", va="center", fontsize=7.5, color=style.ink(look["color"]))
        ax.axvline(90, color="0.4", lw=0.8, ls="--")
        ax.set_yticks(range(len(counts)), [f"{kind}, {100 * share:.0f} % seen" for kind, share in counts.index])
        ax.set(xlim=(0, 112), ylim=(len(counts) - 0.5, -0.5), xlabel="intervals that held the end of the run (%)")
        return fig.says(
            f"90 % intervals of forecasts hold {percent.min():.0f} to {percent.max():.0f} % of the ends of runs",
            "Bars: 90 % interval of the share (Clopper and Pearson); dashed: what 90 % intervals should reach.",
        )


def token_unit(unit: float) -> str:
    """What a token unit is called on an axis: "billion tokens" for 1e9."""
    return {1e9: "billion tokens", 1e6: "million tokens", 1: "tokens"}.get(unit, f"times {unit:g} tokens")


def amount(number: float) -> str:
    """A number of tokens in any unit, to three digits where it has fewer before the point."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def own_run(points: pd.DataFrame, ahead: pd.DataFrame, unit: float, later: pd.DataFrame | None = None) -> style.Picture:
    """One run's points, its law, and what the law says comes next, with the 90 % interval of one checkpoint.

    ``points``: d (in ``unit`` tokens, such as 1e9), activation_ratio, used; ``ahead``: tokens (in ``unit``),
    activation_ratio, low, high, from the first point used to as far as is asked; ``later``: points measured after those
    of ``points``, if any.
    """
    with style.context():
        fig, (ax,) = style.axes(1, 1, height=3.2)
        ink, used = style.ACTIVATION_COLOURS["relu"], points.used >= 0.5
        band: style.Look = {"color": ink, "alpha": 0.2, "lw": 0, "label": "90 % interval"}
        ax.fill_between(ahead.tokens, 100 * ahead.low, 100 * ahead.high, **band)
        ax.plot(ahead.tokens, 100 * ahead.activation_ratio, color=style.FIT, lw=1.2, label="law")
        rows = {"left out as warm-up": (points[~used], "0.75", "0.75"), "points used": (points[used], ink, ink)}
        words = ""
        if later is not None and len(later):
            after = later[later.d <= ahead.tokens.max()]
            rows["came later"] = (after, ink, "white")
            ends = ("low", "activation_ratio", "high")
            low, law, high = (np.interp(after.d, ahead.tokens, ahead[end]) for end in ends)
            inside, below = after.activation_ratio.between(low, high).sum(), (after.activation_ratio < law).sum()
            words = f"; {inside} of {len(after)} later points of {style.name(str(after.run.iloc[0]))} lie within the "
            words += f"interval, {below} below the law"
        for label, (part, edge, face) in rows.items():
            if len(part):
                ax.plot(part.d, 100 * part.activation_ratio, "o", ms=3.5, color=edge, mfc=face, label=label)
        ax.axvline(points.d.max(), color="0.5", lw=0.8, ls=":")
        ax.set(xlabel=token_unit(unit), ylabel="activation ratio (%)", xlim=(0, None))
        ax.legend(ncols=2)
        end = ahead.iloc[-1]
        return fig.says(
            f"Fitted up to {amount(points.d.max())}, the law foretells {100 * end.low:.1f} to {100 * end.high:.1f} % "
            f"active at {amount(end.tokens)} {token_unit(unit)}{words}",
            "The law is fitted to the points left of the dotted line.",
        )
