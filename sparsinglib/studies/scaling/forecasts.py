"""What the laws foretell held against what came: tables and sentences of notebooks 02 and 05."""

import numpy as np
import pandas as pd

from ...laws import fitting as laws
from ...laws import rivals as law_rivals


def hold_outs(trend: pd.DataFrame, share: float = 2 / 3) -> pd.DataFrame:
    """``law_rivals.hold_out`` for every run: its columns with evidence and run."""
    parts = []
    for run, g in trend.groupby("run", sort=True):
        labels = {"evidence": g.evidence.iloc[0], "run": run}
        parts.append(law_rivals.hold_out(g.activation.iloc[0], g.d, g.activation_ratio, share).assign(**labels))
    return pd.concat(parts, ignore_index=True)


def forecasts(trend: pd.DataFrame, share: float) -> pd.DataFrame:
    """``law_rivals.forecast`` for every run: its columns with evidence, run and share."""
    parts = []
    for run, g in trend.groupby("run", sort=True):
        labels = {"evidence": g.evidence.iloc[0], "run": run, "share": share}
        parts.append(law_rivals.forecast(g.activation.iloc[0], g.d, g.activation_ratio, share).assign(**labels))
    return pd.concat(parts, ignore_index=True)


def rivals_ahead(table: pd.DataFrame, law: str = "the paper's law") -> str:
    """By evidence and activation of ``hold_outs``: the runs on which a rival errs less, and the best in the mean."""
    lines = []
    kinds = table.run.str.split("-").str[1].rename("activation")
    for (evidence, kind), part in table.groupby(["evidence", kinds], sort=True):
        wide = part.pivot(index="run", columns="law", values="mae_ahead")
        best = wide.idxmin(axis=1)
        ahead = ", ".join(f"{run} ({best[run]})" for run in wide.index if best[run] != law)
        lines.append(f"{evidence} {kind}: {ahead or 'on no run'}; best in the mean: {wide.mean(skipna=False).idxmin()}")
    return "\n".join(lines)


def forecast_score(table: pd.DataFrame) -> pd.DataFrame:
    """How often the intervals of ``forecasts`` hold what came, for each evidence and share, and the median error."""
    return (
        table.assign(error_pp=100 * table.error.abs())
        .groupby(["evidence", "share"])
        .agg(
            runs=("run", "size"),
            inside=("inside", "sum"),
            inside_chosen=("inside_chosen", "sum"),
            tokens_inside=("tokens_inside", "sum"),
            median_error_pp=("error_pp", "median"),
        )
        .reset_index()
    )


def coverage_text(score: pd.DataFrame) -> str:
    """How often such intervals were right on the runs of ``forecast_score``, in a sentence for a reader's own run."""
    parts = [f"{r.inside} of {r.runs} ({r.evidence}, {r.share:.0%} seen)" for r in score.itertuples()]
    return f"90 % intervals of this kind, for the end of a run, held what came on {', '.join(parts)}"


def tokens_text(fit: laws.Fit, target: float, draws: pd.DataFrame, unit: str) -> str:
    """``laws.tokens_for`` in a sentence, also where the law never gets to ``target`` or is past it already."""
    try:
        tokens, soonest, latest = laws.tokens_for(fit, target, draws)
    except ValueError as error:
        soonest, latest = laws.arrival(fit, target, draws)
        return f"{error}\nThe laws of all draws get there at {soonest:.0f} to {latest:.0f} {unit} (90 %; inf: never)"
    seen = "; the points seen are there already" if tokens <= fit.tokens[-1] else ""
    return f"{target:.1%} at {tokens:.0f} {unit} (90 %: {soonest:.0f} to {latest:.0f}){seen}"


def came_text(fit: laws.Fit, later: pd.DataFrame, draws: pd.DataFrame, rows: int = 4) -> str:
    """A few of the points that came after a fit beside what it foretold, the last among them, and where they lie."""
    picked = later.iloc[np.linspace(len(later) / rows, len(later), rows).astype(int) - 1]
    table = laws.predict(fit, picked.d, draws).assign(measured=picked.activation_ratio.to_numpy())
    inside = table.measured.between(table.low, table.high)
    lowest, (low, high) = float(later.activation_ratio.min()), laws.limit_interval(fit)
    ends = f"limit at the chosen drop {low:.2%} to {high:.2%}; smallest ratio that came {lowest:.2%}"
    return f"{table.round(4).to_string(index=False)}\n{inside.sum()} of {len(table)} inside; {ends}"
