"""Pictures of what the laws foretell: tidy frames in, matplotlib Figures out."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullFormatter

from ...laws import fitting as laws
from ...paper import style
from .figures import PERCENT


def _kinds(table: pd.DataFrame) -> list[str]:
    """The kinds of evidence in ``table``, the paper first."""
    return [kind for kind in style.EVIDENCE_LABELS if kind in set(table.evidence)]


def hold_out(table: pd.DataFrame) -> Figure:
    """Mean absolute error on the held-out last third, law against rivals, one row a run, a panel an evidence."""
    with style.context():
        kinds = _kinds(table)
        fig, panels = style.axes(len(kinds), 1, 7.2, 0.3 * table.groupby("evidence").run.nunique().max() + 0.9)
        order = ["the paper's law", "logarithm", "inverse exponential", "plain power law", "last value"]
        looks = [*zip(order, "os^Dx", ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "0.3"), strict=True)]
        for ax, kind in zip(panels, kinds, strict=True):
            part = table[table.evidence == kind]
            wide = PERCENT * part.pivot(index="run", columns="law", values="mae_ahead").reindex(columns=order)
            for name, marker, colour in looks:
                ax.plot(wide[name], np.arange(len(wide)), ls="", marker=marker, color=colour, ms=6, label=name)
            ax.set_yticks(np.arange(len(wide)), wide.index)
            ax.set(xscale="log", title=style.EVIDENCE_LABELS[kind])
            ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            ax.xaxis.set_major_formatter("{x:g}")
            ax.xaxis.set_minor_formatter(NullFormatter())
            ax.invert_yaxis()
        panels[-1].set_xlabel("mean absolute error on the last third (percentage points of activation ratio)")
        panels[0].legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
        fig.suptitle("The last third of each run, predicted from the first two thirds", fontsize=10)
        return fig


def _forecast_rows(ax: Axes, part: pd.DataFrame) -> None:
    """Intervals about the measured end; an arrow where one runs out of the panel."""
    ends = PERCENT * part[["low", "high"]].sub(part.measured, axis=0)
    middle = PERCENT * part.error
    # Wide enough for every prediction and for most intervals: a few long ones would squeeze all the others.
    reach = 1.15 * max(middle.abs().max(), ends.abs().stack().quantile(0.8))
    for i, row in enumerate(part.itertuples()):
        low, high = ends.iloc[i]
        colour = "#0072B2" if row.inside else "#D55E00"
        ax.plot([max(low, -reach), min(high, reach)], [i, i], color=colour, lw=2)
        for off, at, marker in ((low < -reach, -reach, "<"), (high > reach, reach, ">")):
            if off:
                ax.plot(at, i, marker=marker, color=colour, ms=6, clip_on=False)
        ax.plot(middle.iloc[i], i, "o", color=colour, mfc="white" if row.flags else colour)
    ax.set_yticks(range(len(part)), part.run)
    ax.set_xlim(-reach, reach)
    ax.invert_yaxis()
    ax.axvline(0, color="0.4", lw=0.8)


def forecast(table: pd.DataFrame) -> Figure:
    """Error of the predicted end of each run with its interval: evidence down, share of the run seen across."""
    with style.context():
        shares, kinds = sorted(table.share.unique()), _kinds(table)
        most = table.groupby("evidence").run.nunique().max()
        fig, panels = style.axes(len(kinds), len(shares), 5.0, 0.26 * most + 1.0)
        for i, ax in enumerate(panels):
            kind, share = kinds[i // len(shares)], shares[i % len(shares)]
            part = table[(table.evidence == kind) & (table.share == share)]
            _forecast_rows(ax, part)
            ax.set_title(f"{kind}, first {share:.0%} of the tokens seen: {part.inside.sum()} of {len(part)} inside")
        for ax in panels[-len(shares) :]:
            ax.set_xlabel("predicted less measured end (percentage points)")
        keys = [("end inside the 90 % interval", "#0072B2", "#0072B2"), ("outside", "#D55E00", "#D55E00")]
        keys.append(("fit flagged (limit not fixed, at a bound, last drop tried)", "0.3", "white"))
        handles = [Line2D([], [], color=c, marker="o", mfc=face, label=name) for name, c, face in keys]
        arrow = Line2D([], [], color="0.3", ls="", marker=">", label="runs on beyond the panel")
        fig.legend(handles=[*handles, arrow], loc="outside lower center", ncols=4)
        return fig


def token_unit(unit: float) -> str:
    """What a token unit is called on an axis: "billions of tokens" for 1e9."""
    return {1e9: "billions of tokens", 1e6: "millions of tokens", 1: "tokens"}.get(unit, f"units of {unit:g} tokens")


def own_run(
    fit: laws.Fit, ahead: pd.DataFrame, unit: float, later: pd.DataFrame | None = None, mine: pd.DataFrame | None = None
) -> Figure:
    """One run's points, its law, and what the law says comes next (``laws.predict``), with the interval.

    ``unit`` is the tokens' (1e9); ``later`` holds points measured after those used (d, activation_ratio), if any, and
    ``mine`` all points up to there, of which the dropped ones are drawn pale.
    """
    with style.context():
        fig, (ax,) = style.axes(1, 1, 6.0, 3.6)
        band: dict[str, Any] = {"color": "#0072B2", "alpha": 0.18, "lw": 0, "label": "90 % interval of one checkpoint"}
        ax.fill_between(ahead.tokens, PERCENT * ahead.low, PERCENT * ahead.high, **band)
        d = np.linspace(fit.tokens[0], ahead.tokens.max(), 300)
        ax.plot(d, PERCENT * fit.predict(d), color=style.FIT_COLOUR, label="law")
        if mine is not None and fit.drop:
            dropped = mine.iloc[: fit.drop]
            ax.plot(dropped.d, PERCENT * dropped.activation_ratio, "o", ms=3.5, color="0.75", label="points dropped")
        ax.plot(fit.tokens, PERCENT * fit.activation_ratio, "o", ms=3.5, color="0.2", label="points used")
        if later is not None and len(later):
            after = later[later.d <= ahead.tokens.max()]
            ax.plot(
                after.d, PERCENT * after.activation_ratio, "o", ms=3.5, mfc="white", color="0.2", label="came later"
            )
        note = f"limit at the chosen drop {PERCENT * fit.a0:.2f} %" + (
            f" ({'; '.join(fit.flags)})" if fit.flags else ""
        )
        ax.axhline(PERCENT * fit.a0, color="#D55E00", ls="--", lw=1, label=note)
        ax.set(xlabel=token_unit(unit), ylabel="activation ratio (%)")
        ax.legend()
        return fig
