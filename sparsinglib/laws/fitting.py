"""Least-squares fit of one run by one of the paper's laws: Eq. 4 (ReLU) or Eq. 5 (SiLU)."""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import optimize, special

from . import curve
from .arguments import array, columns, whole
from .curve import Array, Tails, law

ALPHAS, SLOPES = np.geomspace(0.02, 5, 24), np.geomspace(0.005, 8, 32)
BOUNDS = np.log([[0.01, 8], [0.001, 50]])  # of alpha and s (``Tails``)
STARTS = 3


@dataclass(frozen=True)
class Fit:
    """One fitted law. ``b`` is NaN for a law that has none, as SiLU's (Eq. 5).

    ``tokens`` and ``activation_ratio`` are the points used, after ``drop`` warm-up points were left out; ``flags``
    says in words what keeps the coefficients from being trusted. An empty tuple is a clean fit.
    """

    kind: str
    alpha: float
    b: float
    c: float
    a0: float
    tokens: Array
    activation_ratio: Array
    drop: int
    flags: tuple[str, ...]

    def predict(self, tokens: ArrayLike) -> Array:
        """The law's activation ratio (fraction) at ``tokens``, in the unit the fit was made in; same shape (Eq. 4, 5).

        Raises ValueError for tokens that are not positive.
        """
        return curve.value(self.kind, self, positive(tokens))

    def __getitem__(self, name: str) -> float:
        """A coefficient by name, so that tables can loop over ``COEFFICIENTS[fit.kind]``."""
        return float(getattr(self, name))

    @property
    def residuals(self) -> Array:
        """Point less law, one value for each point used."""
        return self.activation_ratio - self.predict(self.tokens)

    @property
    def mse(self) -> float:
        """Mean squared error, in activation ratio squared."""
        return float((self.residuals**2).mean())


def fit(kind: str, tokens: ArrayLike, activation_ratio: ArrayLike, drop: int = 0) -> Fit:
    """Fit Eq. 4 (``"relu"``) or Eq. 5 (``"silu"``) by least squares from many starts; the best fit is kept.

    ``tokens`` (n,) increasing, in 1e9 to compare with Table 2; ``activation_ratio`` (n,) fractions. ``drop`` leading
    points are left out, as the paper does with warm-up points (Appendix E). ``flags`` names a bound that was reached, a
    run that moves the wrong way for this law, and a limit that the points do not fix (``laws.posterior`` of them; it
    also gives intervals). Raises ValueError on bad input.
    """
    from .all_runs import posterior

    found = nearest(kind, tokens, activation_ratio, drop)
    points = pd.DataFrame({"run": "", "d": found.tokens, "activation_ratio": found.activation_ratio})
    fixed = posterior(kind, points, draws=400, cuts=[0.0]).limits().identified.iloc[0]
    return found if fixed else replace(found, flags=(*found.flags, "a0 not identified"))


def nearest(kind: str, tokens: ArrayLike, activation_ratio: ArrayLike, drop: int = 0) -> Fit:
    """``fit`` without asking whether the points fix the limit, which takes most of the time.

    Limit and height follow from alpha and s (``curve.Tails``) by linear least squares; those are found by
    Levenberg-Marquardt from the best nodes of a grid.
    """
    d, y = checked(kind, tokens, activation_ratio, drop)
    tails, sign = Tails(kind, d), law(kind).sign
    free = 1 + (len(law(kind).slopes) > 1)  # alpha, and s if it counts

    def solve(theta: Array) -> tuple[Array, Array, Array]:
        alpha, s = np.exp(np.clip(theta, *BOUNDS[:free].T).T[[0, -1]])
        return linear(sign, tails(alpha, s), y)

    nodes = np.log(np.stack(np.meshgrid(*(ALPHAS, SLOPES)[:free], indexing="ij"), -1).reshape(-1, free))
    best_first = nodes[np.argsort((solve(nodes)[2] ** 2).sum(1))]
    size = float(np.ptp(y))
    tries = [
        optimize.least_squares(lambda p: solve(p[None])[2][0] / size, start, method="lm", xtol=1e-10, ftol=1e-12)
        for start in _apart(best_first)
    ]
    best = np.clip(min(tries, key=lambda found: found.cost).x, *BOUNDS[:free].T)
    (a0,), (move,), _ = solve(best[None])
    (b,), (c,) = tails.coefficients(np.exp(best[:1]), np.exp(best[-1:]), np.array([move]))
    moved, error = curve.change(d, y)
    flags = {
        "alpha at bound": np.abs(best[0] - BOUNDS[0]).min() < 1e-3,
        "a0 at bound": a0 in (0.0, 1.0),
        f"moves against the {kind} law": move == 0 or sign * moved < special.ndtri(0.05) * error,
    }
    said = tuple(text for text, true in flags.items() if true)
    return Fit(kind, float(np.exp(best[0])), float(b), float(c), float(a0), d, y, int(drop), said)


def _apart(nodes: Array) -> list[Array]:
    """The first STARTS of ``nodes`` that are no neighbours of an earlier one."""
    step = np.log([ALPHAS[1] / ALPHAS[0], SLOPES[1] / SLOPES[0]])[: nodes.shape[1]] * 1.5
    kept: list[Array] = []
    while len(nodes) and len(kept) < STARTS:
        kept.append(nodes[0])
        nodes = nodes[(np.abs(nodes - nodes[0]) > step).any(1)]
    return kept


def linear(sign: int, tail: Array, y: Array) -> tuple[Array, Array, Array]:
    """Limit in [0, 1], move of the law's sign, and residuals (nodes × points) of the nearest law for each tail."""
    about = tail - tail.mean(1, keepdims=True)
    move = about @ (y - y.mean()) / (about**2).sum(1)
    a0 = y.mean() - move * tail.mean(1)
    inside = np.clip(a0, 0, 1)
    move = np.where(inside == a0, move, ((y - inside[:, None]) * tail).sum(1) / (tail**2).sum(1))
    wrong = -sign * move < 0  # the tail falls, so a run that rises has a negative move
    move, inside = np.where(wrong, 0, move), np.where(wrong, y.mean(), inside)
    return inside, move, inside[:, None] + move[:, None] * tail - y


def positive(tokens: ArrayLike) -> Array:
    """``tokens`` as an array; raises ValueError for tokens that are not positive."""
    d = array("tokens", tokens)
    if np.any(~(d > 0)):
        raise ValueError("tokens must be positive numbers, in the unit the law was fitted in")
    return d


def checked(kind: str, tokens: ArrayLike, activation_ratio: ArrayLike, drop: int = 0) -> tuple[Array, Array]:
    """The points that remain after ``drop``, or one ValueError that names what is wrong and the remedy."""
    least = len(law(kind).coefficients) + 2
    d, y = columns(tokens=tokens, activation_ratio=activation_ratio)
    drop = whole("drop, the leading points to leave out,", drop, 0)
    if (d <= 0).any() or (np.diff(d) <= 0).any():
        raise ValueError("tokens must be positive and increase strictly; sort the rows, one for each checkpoint")
    if (y < 0).any() or (y > 1).any():
        percent = " These look like percent: divide by 100." if y.min() >= 0 and 1 < y.max() <= 100 else ""
        raise ValueError(f"activation_ratio must be fractions in [0, 1], found {y.min():g} to {y.max():g}.{percent}")
    if len(d) - drop < least:
        left = len(d[drop:])
        raise ValueError(f"{left} points remain after dropping {drop}; the {kind} law needs {least} or more")
    if np.ptp(y[drop:]) == 0:
        raise ValueError("activation_ratio is the same at every point; there is no trend to fit")
    return d[drop:], y[drop:]
