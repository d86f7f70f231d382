"""The paper's two laws of activation ratio against training data (Section 5.1), as curves.

ReLU (Eq. 4): ``A(D) = exp(-c D^alpha + b) + A0``; SiLU (Eq. 5): ``A(D) = A0 - c / D^alpha``. ``A`` is the activation
ratio as a fraction, ``A0`` its limit, ``D`` the tokens passed in any one unit: 1e9 for the coefficients the paper
prints, 1e6 for the ladder. Only ``c`` changes with the unit.
"""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
COEFFICIENTS = {"relu": ("alpha", "b", "c", "a0"), "silu": ("alpha", "c", "a0")}
SIGN = {"relu": -1, "silu": 1}  # which way the activation ratio goes with data
Z90 = 1.645  # standard errors to either end of a 90 % interval


def value(kind: str, coefficients: Any, tokens: ArrayLike) -> Array:
    """The law's activation ratio at ``tokens`` (Eq. 4, 5); ``coefficients`` has alpha, b, c and a0 that broadcast."""
    d, at = np.asarray(tokens, dtype=float), coefficients
    with np.errstate(over="ignore"):
        if kind == "relu":
            return np.exp(at.b - at.c * d**at.alpha) + at.a0
        return at.a0 - at.c * d**-at.alpha


def slope(kind: str, coefficients: Any, tokens: ArrayLike) -> Array:
    """dA/dD at ``tokens``: change of the activation ratio per token unit (Figure 8)."""
    d, at = np.asarray(tokens, dtype=float), coefficients
    with np.errstate(over="ignore"):
        if kind == "relu":
            return -at.alpha * at.c * d ** (at.alpha - 1) * np.exp(at.b - at.c * d**at.alpha)
        return at.alpha * at.c * d ** (-at.alpha - 1)


def arrival(kind: str, coefficients: Any, ratio: float) -> Array:
    """Tokens at which the law reaches ``ratio``: 0 where it starts beyond, infinite where it never gets there."""
    at, gap = coefficients, SIGN[kind] * (coefficients.a0 - ratio)
    with np.errstate(all="ignore"):
        power = (at.b - np.log(gap)) / at.c if kind == "relu" else at.c / gap
        return np.where(gap > 0, np.maximum(power, 0) ** (1 / at.alpha), np.inf)


class Tails:
    """What a law still has to go, in coordinates that stay well behaved when alpha is near 0.

    ``law = a0 + move · tail``, where the tail falls by exactly one over the points, so that ``move`` is what the run
    moved (negative where it rose). Tokens are counted in their geometric mean, x: the tail goes as
    ``exp(-s (x^alpha - 1) / alpha)`` for ReLU, which is Eq. 4 with c = s / alpha and becomes the power law x^-s as
    alpha goes to 0, and as x^-alpha for SiLU.
    """

    def __init__(self, kind: str, tokens: Array) -> None:
        self.kind, self.middle = kind, float(np.exp(np.log(tokens).mean()))
        self.log_x = np.log(tokens / self.middle)

    def _parts(self, alpha: Array, s: Array) -> tuple[Array, Array, Array]:
        """Logarithm of the tail as written above (nodes × points), its first value, and its fall relative to that."""
        if self.kind == "relu":
            log = -(s / alpha)[:, None] * np.expm1(alpha[:, None] * self.log_x)
        else:
            log = -alpha[:, None] * self.log_x
        return log, log[:, 0], -np.expm1(log[:, -1] - log[:, 0])

    def __call__(self, alpha: Array, s: Array) -> Array:
        """The tail of each pair of coefficients (nodes) at the points: nodes × points."""
        log, first, fall = self._parts(alpha, s)
        below = log - first[:, None]
        return np.where(below > -60, np.exp(below), 0) / fall[:, None]  # numbers that are denormal are slow

    def coefficients(self, alpha: Array, s: Array, move: Array) -> tuple[Array, Array]:
        """b and c of Eq. 4 and 5; b is NaN for SiLU."""
        _, first, fall = self._parts(alpha, s)
        with np.errstate(divide="ignore"):
            height = np.log(np.abs(move)) - first - np.log(fall)
        if self.kind == "relu":
            return height + s / alpha, s / alpha / self.middle**alpha
        return np.full_like(alpha, np.nan), np.exp(height) * self.middle**alpha


def jumps(values: Array) -> Array:
    """How far each of ``values`` (n, …) but the first and the last lies from the mean of its neighbours, (n - 2, …)."""
    return values[1:-1] - (values[:-2] + values[2:]) / 2


def change(tokens: ArrayLike, activation_ratio: ArrayLike) -> tuple[float, float]:
    """How far a run's last third of tokens lies above its first third, and a standard error.

    Each is a mean over tokens, since checkpoints may lie closer together early in a run; the error comes from the
    scatter of checkpoints about the mean of their neighbours.
    """
    d, y = np.asarray(tokens, dtype=float), np.asarray(activation_ratio, dtype=float)
    scatter = np.sqrt((jumps(y) ** 2).mean() / 1.5) if len(y) > 2 else np.inf
    _, first_end, last_start, _ = np.linspace(d[0], d[-1], 4)
    weight = np.gradient(d)
    first, last = (part / part.sum() for part in (weight * (d <= first_end), weight * (d >= last_start)))
    return float((last - first) @ y), float(scatter * np.linalg.norm([*first, *last]))
