"""The paper's two laws of activation ratio against training data (Section 5.1), as curves.

ReLU (Eq. 4): ``A(D) = exp(-c D^alpha + b) + A0``; SiLU (Eq. 5): ``A(D) = A0 - c / D^alpha``. ``A`` is the activation
ratio as a fraction, ``A0`` its limit, ``D`` the tokens passed in any one unit: 1e9 for the coefficients the paper
prints, 1e6 for the ladder. Only ``c`` changes with the unit.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .arguments import columns

Array = NDArray[np.float64]
WITHIN = 0.6827  # the share of a normal distribution within one standard error; of one with long tails its middle part


@dataclass(frozen=True, eq=False)
class Law:
    """One law, ``A(D) = a0 - sign · gap(D)``: all that evaluating and fitting it needs; ``LAWS`` has them.

    ``at`` has the coefficients (alpha, c, a0, and b where the law has one), which broadcast with tokens ``d``.
    ``slopes`` of one value says that the shape of the law depends on alpha alone (``Tails``).
    """

    equation: str
    coefficients: tuple[str, ...]
    sign: int  # which way the activation ratio goes with data
    gap: Callable[[Any, Array], Array]  # from the limit at d, positive
    fall: Callable[[Any, Array], Array]  # of the gap per token unit at d, positive
    power: Callable[[Any, Array], Array]  # d^alpha where the gap is this
    tail: Callable[[Array, Array, Array], Array]  # alpha, s, ln x -> logarithm of the gap but for a factor (``Tails``)
    b_and_c: Callable[[Array, Array, Array, float], tuple[Array, Array]]  # alpha, s, that factor's logarithm, unit of x
    alphas: Array  # grids of the model of all runs
    slopes: Array


LAWS = {
    "relu": Law(
        equation="Eq. 4",
        coefficients=("alpha", "b", "c", "a0"),
        sign=-1,
        gap=lambda at, d: np.exp(at.b - at.c * d**at.alpha),
        fall=lambda at, d: at.alpha * at.c * d ** (at.alpha - 1) * np.exp(at.b - at.c * d**at.alpha),
        power=lambda at, gap: (at.b - np.log(gap)) / at.c,
        tail=lambda alpha, s, log_x: -(s / alpha) * np.expm1(alpha * log_x),
        b_and_c=lambda alpha, s, height, middle: (height + s / alpha, s / alpha / middle**alpha),
        alphas=np.geomspace(0.05, 4, 45),
        slopes=np.geomspace(0.02, 8, 36),
    ),
    "silu": Law(
        equation="Eq. 5",
        coefficients=("alpha", "c", "a0"),
        sign=1,
        gap=lambda at, d: at.c * d**-at.alpha,
        fall=lambda at, d: at.alpha * at.c * d ** (-at.alpha - 1),
        power=lambda at, gap: at.c / gap,
        tail=lambda alpha, s, log_x: -alpha * log_x,
        b_and_c=lambda alpha, s, height, middle: (np.full_like(alpha, np.nan), np.exp(height) * middle**alpha),
        alphas=np.geomspace(0.05, 4, 220),
        slopes=np.ones(1),
    ),
}
COEFFICIENTS = {kind: law.coefficients for kind, law in LAWS.items()}


def law(kind: str) -> Law:
    """The law of that name; ValueError for one that is not in ``LAWS``."""
    if not isinstance(kind, str) or kind not in LAWS:
        known = " or ".join(f"{name!r} ({known.equation})" for name, known in LAWS.items())
        raise ValueError(f"unknown law {kind!r}; choose {known}")
    return LAWS[kind]


def value(kind: str, coefficients: Any, tokens: ArrayLike) -> Array:
    """The law's activation ratio at ``tokens`` (Eq. 4, 5); ``coefficients`` has alpha, b, c and a0 that broadcast."""
    with np.errstate(over="ignore"):
        return coefficients.a0 - law(kind).sign * law(kind).gap(coefficients, np.asarray(tokens, dtype=float))


def slope(kind: str, coefficients: Any, tokens: ArrayLike) -> Array:
    """dA/dD at ``tokens``: change of the activation ratio per token unit (Figure 8)."""
    with np.errstate(over="ignore"):
        return law(kind).sign * law(kind).fall(coefficients, np.asarray(tokens, dtype=float))


def arrival(kind: str, coefficients: Any, ratio: float) -> Array:
    """Tokens at which the law reaches ``ratio``: 0 where it starts beyond, infinite where it never gets there."""
    gap = law(kind).sign * (coefficients.a0 - ratio)
    with np.errstate(all="ignore"):
        power = law(kind).power(coefficients, gap)
        return np.where(gap > 0, np.maximum(power, 0) ** (1 / coefficients.alpha), np.inf)


class Tails:
    """What a law still has to go, in coordinates that stay well behaved when alpha is near 0.

    ``law = a0 + move · tail``, where the tail falls by exactly one over the points, so that ``move`` is what the run
    moved (negative where it rose). Tokens are counted in their geometric mean, x: the tail goes as
    ``exp(-s (x^alpha - 1) / alpha)`` for ReLU, which is Eq. 4 with c = s / alpha and becomes the power law x^-s as
    alpha goes to 0, and as x^-alpha for SiLU.
    """

    def __init__(self, kind: str, tokens: Array) -> None:
        self.law, self.middle = law(kind), float(np.exp(np.log(tokens).mean()))
        self.log_x = np.log(tokens / self.middle)

    def _parts(self, alpha: Array, s: Array) -> tuple[Array, Array, Array]:
        """Logarithm of the tail as written above (nodes × points), its first value, and its fall relative to that."""
        log = self.law.tail(alpha[:, None], s[:, None], self.log_x)
        return log, log[:, 0], -np.expm1(log[:, -1] - log[:, 0])

    def __call__(self, alpha: Array, s: Array) -> Array:
        """The tail of each pair of coefficients (nodes) at the points: nodes × points."""
        log, first, fall = self._parts(alpha, s)
        below = log - first[:, None]
        return np.where(below > -60, np.exp(below), 0) / fall[:, None]  # numbers that are denormal are slow

    def coefficients(self, alpha: Array, s: Array, move: Array) -> tuple[Array, Array]:
        """b and c of Eq. 4 and 5; b is NaN for a law without."""
        _, first, fall = self._parts(alpha, s)
        with np.errstate(divide="ignore"):
            height = np.log(np.abs(move)) - first - np.log(fall)
        return self.law.b_and_c(alpha, s, height, self.middle)


def jumps(values: Array) -> Array:
    """How far each of ``values`` (n, …) but the first and the last lies from the mean of its neighbours, (n - 2, …)."""
    return values[1:-1] - (values[:-2] + values[2:]) / 2


def change(tokens: ArrayLike, activation_ratio: ArrayLike) -> tuple[float, float]:
    """How far a run's last third of tokens lies above its first third, and a standard error.

    Each is a mean over tokens, since checkpoints may lie closer together early in a run; the error comes from the
    scatter of checkpoints about the mean of their neighbours. Raises ValueError on bad input.
    """
    d, y = columns(tokens=tokens, activation_ratio=activation_ratio)
    if len(d) < 2 or (np.diff(d) <= 0).any():
        raise ValueError("tokens must be two or more and increase strictly; sort the rows, one for each checkpoint")
    scatter = np.sqrt((jumps(y) ** 2).mean() / 1.5) if len(y) > 2 else np.inf
    _, first_end, last_start, _ = np.linspace(d[0], d[-1], 4)
    weight = np.gradient(d)
    first, last = (part / part.sum() for part in (weight * (d <= first_end), weight * (d >= last_start)))
    return float((last - first) @ y), float(scatter * np.linalg.norm([*first, *last]))
