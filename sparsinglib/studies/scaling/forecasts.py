"""What the laws predict held against what came: tables of notebooks 02 and 05."""

import numpy as np
import pandas as pd

from ... import laws
from ...laws import rivals
from .limits import Laws

LAST = 3  # checkpoints whose mean is the end that is predicted
TAILS = [0.05, 0.5, 0.95]


def hold_outs(trend: pd.DataFrame, share: float = 2 / 3) -> pd.DataFrame:
    """``rivals.hold_out`` for every run: its columns with evidence and run."""
    parts = []
    for run, g in trend.groupby("run", sort=True):
        labels = {"evidence": g.evidence.iloc[0], "run": run}
        parts.append(rivals.hold_out(g.activation.iloc[0], g.d, g.activation_ratio, share).assign(**labels))
    return pd.concat(parts, ignore_index=True)


def likelier(fitted: Laws) -> pd.DataFrame:
    """``rivals.ahead`` of every run, past the warm-up: evidence, activation, run, and a column a rival."""
    rows = []
    for (evidence, activation), model in fitted.items():
        for run, part in model.points[model.points.used >= 0.5].groupby("run", sort=True):
            found = rivals.ahead(activation, part.d, part.activation_ratio)
            rows.append({"evidence": evidence, "activation": activation, "run": run, **found})
    return pd.DataFrame(rows)


def forecasts(trend: pd.DataFrame, share: float) -> pd.DataFrame:
    """Where every run ends, predicted by the model of all runs from the first ``share`` of the tokens of each.

    The end is the mean of the last three checkpoints. ``tokens_low`` and ``tokens_high`` turn the question round: when
    the law reaches what came. Columns: evidence, run, share, tokens, predicted, low, high (90 %), measured, error,
    inside, to_come (what the ratio still moved), tokens_low, tokens_high, tokens_inside, flags.
    """
    rows = []
    for (evidence, activation), part in trend.groupby(["evidence", "activation"], sort=True):
        end = part.groupby("run").d.transform("max")
        model = laws.posterior(activation, part[part.d <= share * end])
        fixed = model.limits().set_index("run").identified
        for run, points in part.sort_values("d").groupby("run", sort=True):
            last, seen = points.d.to_numpy()[-LAST:], model.points[model.points.run == run]
            low, middle, high = np.quantile(model.sample(run, last).mean(1), TAILS)
            measured = float(points.activation_ratio.iloc[-LAST:].mean())
            to_come = measured - float(seen.activation_ratio.iloc[-LAST:].mean())
            _, soonest, latest = model.tokens_for(run, measured)
            row = {"evidence": evidence, "run": run, "share": share, "tokens": last.mean(), "predicted": middle}
            row |= {"low": low, "high": high, "measured": measured, "error": middle - measured}
            row |= {"inside": low <= measured <= high, "to_come": to_come}
            row |= {"tokens_low": soonest, "tokens_high": latest, "tokens_inside": soonest <= last.mean() <= latest}
            rows.append(row | {"flags": "" if fixed[run] else "a0 not identified"})
    return pd.DataFrame(rows)


def forecast_score(table: pd.DataFrame) -> pd.DataFrame:
    """How often the intervals of ``forecasts`` hold what came, for each evidence and share, and how wide they are.

    Columns: evidence, share, runs, inside, tokens_inside, median_error_pp, width_pp (median), width_to_come (the median
    of the width over what the ratio still moved).
    """
    width = table.high - table.low
    return (
        table.assign(error_pp=100 * table.error.abs(), width=100 * width, relative=width / table.to_come.abs())
        .groupby(["evidence", "share"])
        .agg(
            runs=("run", "size"),
            inside=("inside", "sum"),
            tokens_inside=("tokens_inside", "sum"),
            median_error_pp=("error_pp", "median"),
            width_pp=("width", "median"),
            width_to_come=("relative", "median"),
        )
        .reset_index()
    )


def came(model: laws.Posterior, run: str, later: pd.DataFrame, rows: int = 4) -> pd.DataFrame:
    """A few points that came after a fit beside what it predicted: tokens, activation_ratio, low, high, measured."""
    picked = later.iloc[np.linspace(len(later) / rows, len(later), rows).astype(int) - 1]
    table = model.predict(run, picked.d).assign(measured=picked.activation_ratio.to_numpy())
    return table.assign(inside=table.measured.between(table.low, table.high))
