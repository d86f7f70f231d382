"""A rise that turns into a level: two straight segments, the second flat, through a few points with errors."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize

from .arguments import columns, whole
from .curve import Array

LEAST = 6  # points; three coefficients and a scatter cannot be told from fewer
_NODES = 400


@dataclass(frozen=True)
class Bend:
    """``level + slope · min(x − turn, 0)`` with 90 % bootstrap intervals.

    ``turn_open`` is "low", "high", "both" or "": the sides on which the interval of ``turn`` runs to the end of where a
    turn can be seen at all (between the second and the last but one x). ``scatter`` is the standard deviation of the
    points about the segments beyond their own errors.
    """

    turn: float
    turn_interval: tuple[float, float]
    turn_open: str
    slope: float
    slope_interval: tuple[float, float]
    level: float
    level_interval: tuple[float, float]
    scatter: float
    points: int

    def predict(self, x: ArrayLike) -> Array:
        """The two segments at ``x``, same shape."""
        return self.level + self.slope * np.minimum(np.asarray(x, dtype=float) - self.turn, 0)


def _nearest(x: Array, y: Array, error: Array) -> tuple[Array, Array]:
    """Turn, slope, level (draws × 3) of lowest chi-square, and that chi-square, for ``y`` (draws × points)."""
    turns = np.unique([np.linspace(a, b, _NODES // len(x)) for a, b in pairwise(x[1:-1])])
    ramp = np.minimum(x - turns[:, None], 0)
    weighted = np.stack([np.broadcast_to(1 / error, ramp.shape), ramp / error], axis=-1)
    found = np.einsum("kin,bn->bki", np.linalg.pinv(weighted), y / error)
    misfit = ((np.einsum("kni,bki->bkn", weighted, found) - (y / error)[:, None]) ** 2).sum(-1)
    best, each = misfit.argmin(1), np.arange(len(y))
    return np.column_stack([turns[best], found[each, best][:, ::-1]]), misfit[each, best]


def fit(x: ArrayLike, y: ArrayLike, error: ArrayLike, draws: int = 1000) -> Bend:
    """Fit the two segments to points (n,) with standard errors (n,); x distinct, errors positive, n at least six.

    Where the points scatter more than their errors say, a common scatter is added to all errors until chi-square is
    what it should be (Paule and Mandel). The bootstrap draws points about the fitted segments with these errors and
    fits each draw again. Raises ValueError on bad input.
    """
    x, y, error, draws = *_checked(x, y, error), whole("draws", draws, 1)

    def excess(scatter: float) -> float:
        return float(_nearest(x, y[None], np.hypot(error, scatter))[1][0]) - (len(x) - 3)

    scatter = optimize.brentq(excess, 0, 10 * np.ptp(y)) if excess(0) > 0 else 0.0
    size = np.hypot(error, scatter)
    (best,), _ = _nearest(x, y[None], size)
    mean = best[2] + best[1] * np.minimum(x - best[0], 0)
    generator = np.random.default_rng(0)
    # A scatter estimated from so few points is itself unsure: without this the intervals hold the truth too rarely.
    unsure = np.sqrt((len(x) - 3) / generator.chisquare(len(x) - 3, (draws, 1))) if scatter > 0 else 1.0
    drawn, _ = _nearest(x, mean + size * unsure * generator.normal(size=(draws, len(x))), size)
    low, high = np.quantile(drawn, [0.05, 0.95], axis=0)
    ends = (low[0] <= x[1] * (1 + 1e-9), high[0] >= x[-2] * (1 - 1e-9))
    side = {(False, False): "", (True, False): "low", (False, True): "high", (True, True): "both"}[ends]
    turn, slope, level = zip(low, high, strict=True)
    return Bend(best[0], turn, side, best[1], slope, best[2], level, float(scatter), len(x))


def _checked(x: ArrayLike, y: ArrayLike, error: ArrayLike) -> tuple[Array, Array, Array]:
    """The points by rising x, or one ValueError that says what is wrong."""
    points = np.array(columns(x=x, y=y, error=error))
    at, value, size = points[:, points[0].argsort()]
    if len(at) < LEAST:
        raise ValueError(f"{len(at)} points; a rise that turns into a level needs {LEAST} or more")
    if (size <= 0).any() or (np.diff(at) <= 0).any():
        raise ValueError("errors must be positive, and no x may occur twice")
    return at, value, size


def ahead_of_line(ratio: ArrayLike, y: ArrayLike, error: ArrayLike, draws: int = 1000) -> Array:
    """By how much the two segments are likelier than a line in log(ratio), which has no turn; bootstrap draws.

    Half the difference of chi-square, less ln(n) / 2 for the coefficient that the segments have more; both with the
    errors and the scatter of ``fit``, on points drawn anew about what was measured. Positive where the segments are
    ahead. Raises ValueError as ``fit`` does, and for a ratio that is not positive.
    """
    x, y, error, draws = *_checked(ratio, y, error), whole("draws", draws, 1)
    if (x <= 0).any():
        raise ValueError("ratio must be positive: the line is one in its logarithm")
    size = np.hypot(error, fit(x, y, error, draws=1).scatter)
    drawn = y + size * np.random.default_rng(0).normal(size=(draws, len(x)))
    _, bent = _nearest(x, drawn, size)
    columns = np.stack([np.ones_like(x), np.log(x)], axis=1) / size[:, None]
    found = np.linalg.lstsq(columns, (drawn / size).T, rcond=None)[0]
    straight = (((drawn / size).T - columns @ found) ** 2).sum(0)
    return np.asarray((straight - bent) / 2 - np.log(len(x)) / 2)
