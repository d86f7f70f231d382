"""Rivals of the paper's laws, and two tests that tell them apart: likelihood, and the last third of a run foretold.

The logarithm and the exponential are of the kind that the authors' published notes compare with; a plain power law has
no limit but zero. Each is linear but for one or two coefficients, which lie on a grid.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from .all_runs import nodes, precisions
from .curve import Array, Tails, law
from .fitting import checked, linear, nearest

LAW = "the paper's law"
RATES = np.geomspace(0.003, 3, 600)  # exponents of the power law, either way
TIMES = np.geomspace(0.03, 30, 600)  # of the exponential, over the geometric mean of the tokens
Shapes = Callable[[Array], Array]  # tokens -> nodes × columns × tokens


def _ones(columns: Array) -> Array:
    """A constant beside each of ``columns`` (nodes × tokens)."""
    return np.stack([columns, np.ones_like(columns)], axis=1)


def rivals(tokens: Array) -> dict[str, tuple[Shapes, int]]:
    """Each rival's columns as a function of tokens, and how many coefficients it has, for points at ``tokens``."""
    middle = float(np.exp(np.log(tokens).mean()))
    rates = np.concatenate([-RATES, RATES])[:, None]
    return {
        "plain power law": (lambda d: ((d / middle) ** rates)[:, None], 2),
        "logarithm": (lambda d: _ones(np.log(d / middle)[None]), 2),
        "exponential": (lambda d: _ones(np.exp(-d / middle / TIMES[:, None])), 3),
        "last value": (lambda d: np.ones((1, 1, len(d))), 1),
    }


def hold_out(kind: str, tokens: ArrayLike, activation_ratio: ArrayLike) -> pd.DataFrame:
    """Fit the first two thirds of a run's tokens by the law and its rivals, and measure each on what comes after.

    Columns: law, mae_seen, mae_ahead (mean absolute error in activation ratio on the fitted and on the held-out
    points), bias_ahead (mean of prediction less point). "last value" is the mean of the last three fitted points.
    Raises ValueError on bad input, as ``laws.fit`` does.
    """
    d, y = checked(kind, tokens, activation_ratio)
    seen = int((d <= 2 / 3 * d[-1]).sum())
    curves = {LAW: nearest(kind, d[:seen], y[:seen]).predict(d)}
    for name, (shapes, _) in rivals(d[:seen]).items():
        last = slice(seen - 3, seen) if name == "last value" else slice(seen)
        columns = shapes(d[last])
        found = np.einsum("kcn,n->kc", np.linalg.pinv(columns).transpose(0, 2, 1), y[last])
        best = ((np.einsum("kcn,kc->kn", columns, found) - y[last]) ** 2).sum(1).argmin()
        curves[name] = found[best] @ shapes(d)[best]
    apart = pd.DataFrame(curves).rename_axis(columns="law").sub(y, axis=0)
    errors = {"mae_seen": apart[:seen].abs().mean(), "mae_ahead": apart[seen:].abs().mean()}
    return pd.DataFrame({**errors, "bias_ahead": apart[seen:].mean()}).reset_index()


def ahead(kind: str, tokens: ArrayLike, activation_ratio: ArrayLike) -> pd.Series:
    """By how much the law is likelier than each rival: log-likelihood, less ln(n) / 2 for each coefficient more.

    All meet the same points with the noise of the model of all runs (``all_runs.WANDERS``), each at its best. Index:
    plain power law, logarithm, exponential. Positive where the law is ahead. Raises ValueError as ``laws.fit`` does.
    """
    d, y = checked(kind, tokens, activation_ratio)
    tail, size = Tails(kind, d)(*nodes(kind)), len(law(kind).coefficients)
    lawful = linear(law(kind).sign, tail, y)[1] != 0  # moves the law's way
    own = _likelihood(_ones(tail[lawful] if lawful.any() else tail), d, y, size, limited=True)
    found = {name: _likelihood(shapes(d), d, y, size) for name, (shapes, size) in rivals(d).items()}
    return pd.Series({name: own - value for name, value in found.items() if name != "last value"}, name="ahead")


def _likelihood(columns: Array, d: Array, y: Array, size: int, limited: bool = False) -> float:
    """The largest log-likelihood over nodes and wanders, less the penalty; ``limited``: the last column's in [0, 1]."""
    best = -np.inf
    for exact, log_size in zip(*precisions(np.log(d)), strict=True):
        weighted = columns @ exact
        gram = weighted @ columns.transpose(0, 2, 1)
        found = np.linalg.solve(gram + 1e-12 * np.eye(gram.shape[1]), (weighted @ y)[..., None])[..., 0]
        apart = y - np.einsum("kcn,kc->kn", columns, found)
        rest = np.einsum("kn,nm,km->k", apart, exact, apart)
        log = -0.5 * len(y) * np.log(rest / len(y)) - log_size
        allowed = (found[:, -1] >= 0) & (found[:, -1] <= 1) if limited else np.ones(len(log), dtype=bool)
        best = max(best, float(log[allowed].max(initial=-np.inf)))
    return best - 0.5 * size * np.log(len(y))
