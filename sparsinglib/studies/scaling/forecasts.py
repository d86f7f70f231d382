"""What the laws predict held against what came: tables of notebooks 02 and 05."""

import numpy as np
import pandas as pd

from ... import laws
from ...laws import rivals
from .limits import Laws

LAST = 3  # checkpoints whose mean is the end that is predicted


def hold_outs(trend: pd.DataFrame) -> pd.DataFrame:
    """``rivals.hold_out`` for every run, fitted to two thirds of it: its columns with evidence and run."""
    parts = []
    for (run, evidence, activation), points in trend.groupby(["run", "evidence", "activation"]):
        errors = rivals.hold_out(str(activation), points.d, points.activation_ratio)
        parts.append(errors.assign(evidence=evidence, run=run))
    return pd.concat(parts, ignore_index=True)


def likelier(fitted: Laws) -> pd.DataFrame:
    """``rivals.ahead`` of every run, past the warm-up: evidence, activation, run, and a column a rival."""
    rows = []
    for (evidence, activation), model in fitted.items():
        for run, part in model.points[model.points.used >= 0.5].groupby("run"):
            ahead = rivals.ahead(activation, part.d, part.activation_ratio)
            rows.append({"evidence": evidence, "activation": activation, "run": run, **ahead})
    return pd.DataFrame(rows)


def forecasts(trend: pd.DataFrame, share: float) -> pd.DataFrame:
    """Where every run ends, predicted by the model of all runs from the first ``share`` of the tokens of each.

    The end is the mean of the last three checkpoints. ``tokens_low`` and ``tokens_high`` turn the question round: when
    the law reaches what came. Columns: evidence, run, share, tokens, predicted, low, high (90 %), measured, error,
    inside, to_come (what the ratio still moved), tokens_low, tokens_high, tokens_inside, flags.
    """
    rows = []
    for (evidence, activation), part in trend.groupby(["evidence", "activation"]):
        model = laws.posterior(activation, part[part.d <= share * part.groupby("run").d.transform("max")])
        fixed = model.limits().set_index("run").identified
        for run, points in part.sort_values("d").groupby("run"):
            last, seen = points.tail(LAST), model.points[model.points.run == run].tail(LAST)
            low, middle, high = np.quantile(model.sample(run, last.d).mean(1), [0.05, 0.5, 0.95])
            measured, tokens = float(last.activation_ratio.mean()), last.d.mean()
            _, soonest, latest = model.tokens_for(run, measured)
            row = {"evidence": evidence, "run": run, "share": share, "tokens": tokens, "predicted": middle}
            row |= {"low": low, "high": high, "measured": measured, "error": middle - measured}
            row |= {"inside": low <= measured <= high, "to_come": measured - float(seen.activation_ratio.mean())}
            row |= {"tokens_low": soonest, "tokens_high": latest, "tokens_inside": soonest <= tokens <= latest}
            rows.append(row | {"flags": "" if fixed[run] else "a0 not identified"})
    return pd.DataFrame(rows)


def forecast_score(table: pd.DataFrame) -> pd.DataFrame:
    """How often the intervals of ``forecasts`` hold what came, for each evidence and share, and how wide they are.

    Columns: evidence, share, runs, inside, tokens_inside, median_error_pp, width_pp (median), width_to_come (the median
    of the width over what the ratio still moved).
    """
    width, error = table.high - table.low, 100 * table.error.abs()
    table = table.assign(median_error_pp=error, width_pp=100 * width, width_to_come=width / table.to_come.abs())
    how = {"run": "size", "inside": "sum", "tokens_inside": "sum"}
    how |= dict.fromkeys(["median_error_pp", "width_pp", "width_to_come"], "median")
    return table.groupby(["evidence", "share"], as_index=False).agg(how).rename(columns={"run": "runs"})


def came(model: laws.Posterior, run: str, later: pd.DataFrame) -> pd.DataFrame:
    """Four points that came after a fit beside what it predicted: tokens, activation_ratio, low, high, measured."""
    picked = later.iloc[np.linspace(len(later) / 4, len(later), 4).astype(int) - 1]
    table = model.predict(run, picked.d).assign(measured=picked.activation_ratio.to_numpy())
    return table.assign(inside=table.measured.between(table.low, table.high))
