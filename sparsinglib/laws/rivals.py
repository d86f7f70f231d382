"""Rivals of the paper's laws, and the test that tells them apart: fit the first part of a run, predict the rest.

The logarithm and the inverse exponential are the two that the authors' published notes compare with; a plain power
law and "no law" (the last value stays) are ours. Pure functions of arrays.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import optimize

from . import fitting as laws

Array = NDArray[np.float64]


def _logarithm(d: Array, height: float, slope: float, shift: float) -> Array:
    return height + slope * np.log(d + np.exp(shift))


def _inverse_exponential(d: Array, height: float, rate: float, shift: float) -> Array:
    return height - 1 / (1 + np.exp(np.clip(rate * d + shift, -500, 500)))


def _power(d: Array, log_height: float, slope: float) -> Array:
    return np.exp(log_height + slope * np.log(d))


def _at(curve: Callable[..., Array], coefficients: Array, d: Array) -> Array:
    return curve(d, *coefficients)


def _nearest(curve: Callable[..., Array], d: Array, y: Array, starts: list[list[float]]) -> Array | None:
    """Coefficients of the lowest residual over ``starts``; None if no start converges."""
    found = []
    for start in starts:
        out = optimize.least_squares(lambda p: curve(d, *p) - y, start, method="lm", x_scale="jac", max_nfev=4000)
        if out.success and np.isfinite(out.cost):
            found.append((out.cost, out.x))
    return min(found, key=lambda item: item[0])[1] if found else None


def _nearest_logarithm(d: Array, y: Array) -> Array:
    """Height, slope and shift of the nearest logarithm; at the shift's bounds it is a line or log(d)."""

    def linear(shift: float) -> tuple[Array, float]:
        columns = np.stack([np.ones_like(d), np.log(d + np.exp(shift))], axis=1)
        found = np.linalg.lstsq(columns, y, rcond=None)[0]
        return found, float(((columns @ found - y) ** 2).sum())

    grid = np.log(d.mean()) + np.linspace(-7, 3, 41)
    middle = grid[1:-1][np.argmin([linear(shift)[1] for shift in grid[1:-1]])]
    near = (middle - 0.25, middle + 0.25)
    shift = float(optimize.minimize_scalar(lambda s: linear(s)[1], bounds=near, method="bounded").x)
    return np.array([*linear(shift)[0], shift])


def _curves(d: Array, y: Array) -> dict[str, Callable[[Array], Array]]:
    """Each rival fitted to the points, as a function of tokens."""
    ends, scale = [float(y.max()), float(y.min())], float(d.mean())
    slope = (y[-1] - y[0]) / np.log(d[-1] / d[0])
    rising = np.log(max(1e-3, np.ptp(y)))
    starts: dict[Callable[..., Array], list[list[float]]] = {
        # The limit is height - 1 for a falling run and height for a rising one, since the exponential goes to 0 or inf.
        _inverse_exponential: [
            [e + (slope < 0), np.sign(y[-1] - y[0]) / scale, -np.sign(slope) * rising] for e in ends
        ],
        _power: [[float(np.log(y.mean())), float(slope / y.mean())]],
    }
    names: dict[Callable[..., Array], str] = {
        _inverse_exponential: "inverse exponential",
        _power: "plain power law",
    }
    curves: dict[str, Callable[[Array], Array]] = {"logarithm": partial(_at, _logarithm, _nearest_logarithm(d, y))}
    for curve, tries in starts.items():
        found = _nearest(curve, d, y, tries)
        if found is not None:
            curves[names[curve]] = partial(_at, curve, found)
    last = float(y[-3:].mean())
    return curves | {"last value": lambda x: np.full_like(x, last)}


def _seen(d: Array, share: float) -> int:
    """How many points lie within the first ``share`` of a run's tokens; checkpoints need not be evenly spaced."""
    return int((d <= share * d[-1]).sum())


def hold_out(kind: str, tokens: ArrayLike, activation_ratio: ArrayLike, share: float = 2 / 3) -> pd.DataFrame:
    """Fit the first ``share`` of a run's tokens with the law and its rivals, and measure each on what comes after.

    All are fitted to the same points: those that ``laws.steady`` leaves of the part seen.
    Columns: law, mae_seen, mae_ahead (mean absolute error in activation ratio on the fitted and on the held-out
    points), bias_ahead (mean of prediction less point). A rival that does not converge has no row. "last value" is
    the mean of the last three fitted points. Raises ValueError on bad input, as ``laws.fit`` does, and if the share
    leaves nothing to predict.
    """
    d, y = np.asarray(tokens, dtype=float), np.asarray(activation_ratio, dtype=float)
    seen = _seen(d, share)
    if not 0 < share < 1 or seen >= len(d):
        raise ValueError(f"share is {share}; give a fraction of the run below 1 that leaves points to predict")
    law = laws.steady(laws.fit_drops(kind, d[:seen], y[:seen]))
    curves = {"the paper's law": law.predict} | _curves(law.tokens, law.activation_ratio)
    rows = []
    for name, curve in curves.items():
        ahead = curve(d[seen:]) - y[seen:]
        known = np.abs(curve(law.tokens) - law.activation_ratio).mean()
        rows.append((name, float(known), float(np.abs(ahead).mean()), float(ahead.mean())))
    return pd.DataFrame(rows, columns=["law", "mae_seen", "mae_ahead", "bias_ahead"])


def forecast(
    kind: str, tokens: ArrayLike, activation_ratio: ArrayLike, share: float = 0.5, draws: int = 200
) -> pd.DataFrame:
    """Say where a run ends from the first ``share`` of its tokens: a row of prediction, 90 % intervals and what came.

    The prediction is the law's with the number of dropped points that ``laws.steady`` chooses from the part seen.
    ``low`` and ``high`` hold the bootstrap draws of every drop up to a third, because how many points are warm-up is
    not known either; ``low_chosen`` and ``high_chosen`` only those of the chosen drop. Prediction, intervals and what
    came are each a mean over the last three checkpoints. ``soonest`` and ``latest`` turn the question round: the tokens
    (in the unit of ``tokens``) at which the pooled laws reach what came. Columns: seen, drop, tokens, predicted, low,
    high, low_chosen, high_chosen, measured, error, inside, inside_chosen, soonest, latest, tokens_inside, flags.
    """
    d, y = np.asarray(tokens, dtype=float), np.asarray(activation_ratio, dtype=float)
    seen = _seen(d, share)
    if not 0 < share < 1 or seen >= len(d) - 2:
        raise ValueError(f"share is {share}; it must leave at least three points of the {len(d)} to predict")
    fits = laws.fit_drops(kind, d[:seen], y[:seen])
    law, last, end = laws.steady(fits), d[-3:], float(d[-3:].mean())
    draws_of = {"": laws.bootstrap_drops(fits, draws), "_chosen": laws.bootstrap(law, draws)}
    ends = {k: np.quantile(laws.sample(law, last, table).mean(axis=1), [0.05, 0.95]) for k, table in draws_of.items()}
    predicted, measured = float(law.predict(last).mean()), float(y[-3:].mean())
    inside = {k: bool(low <= measured <= high) for k, (low, high) in ends.items()}
    soonest, latest = laws.arrival(law, measured, draws_of[""])
    row = {
        "seen": seen,
        "drop": law.drop,
        "tokens": end,
        "predicted": predicted,
        "low": ends[""][0],
        "high": ends[""][1],
        "low_chosen": ends["_chosen"][0],
        "high_chosen": ends["_chosen"][1],
        "measured": measured,
        "error": predicted - measured,
        "inside": inside[""],
        "inside_chosen": inside["_chosen"],
        "soonest": soonest,
        "latest": latest,
        "tokens_inside": soonest <= end <= latest,
        "flags": "; ".join(law.flags),
    }
    return pd.DataFrame([row])
