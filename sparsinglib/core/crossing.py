"""Where a rise of the loss meets its target: a smooth curve through points of one fixed lattice of CETT.

So the answer follows the losses continuously: a last digit that another processor rounds differently stays one.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

LARGEST_CETT = 0.999
STEP = math.log(2) / 4  # of the lattice, in log(CETT)
MOST_POINTS = 12
EXPONENT = 2.0  # rise of the loss ∝ CETT², about: what a slope is taken to be as far as few points tell
CLIP = 16.0  # a rise this many times the target, or this share of it, says no more than that the crossing is far off


@dataclass(frozen=True)
class Crossing:
    """Where a smooth curve through lattice points meets the target: ``log_cett``, and the power law around it.

    ``weights`` says how much each lattice point's log(rise) counts there; they add up to 1.
    """

    log_cett: float
    slope: float
    weights: Mapping[int, float]
    complete: bool = True  # every lattice point that has a say was evaluated


def lattice(index: int) -> float:
    """CETT of a lattice point; 0 is the last one, the largest CETT."""
    return min(math.exp(index * STEP), LARGEST_CETT)


def log_share(rise: float, target: float) -> float:
    """Log of a rise as a share of the target, clipped where it says no more than that they are far apart."""
    return math.log(min(max(rise / target, 1 / CLIP), CLIP))


def certainty(rise: float, error: float, target: float) -> float:
    """How much the log of a rise with a standard error is to be believed, 0 to 1."""
    return 1 / (1 + (error / max(rise, target / CLIP)) ** 2)


def reach_of(targets: int) -> float:
    """How far on both sides of the answer lattice points have a say: two or three points, in a short text up to five.

    Losses of a short text scatter more about a smooth curve, so more points are averaged.
    """
    return STEP * min(1 + math.sqrt(128 / targets), 2.5)


def find_crossing(rise: Callable[[int], tuple[float, float]], target: float, reach: float, start: float) -> Crossing:
    """Evaluate lattice points, the one nearest to the crossing first, until all within reach of it are known."""
    seen: dict[int, tuple[float, float]] = {}
    fit = Crossing(start, EXPONENT, {})
    while True:
        first, last = math.floor((fit.log_cett - reach) / STEP) + 1, math.ceil((fit.log_cett + reach) / STEP) - 1
        missing = [index for index in range(first, min(last, 0) + 1) if index not in seen]
        if not missing:
            return fit
        if len(seen) == MOST_POINTS:
            return Crossing(fit.log_cett, fit.slope, fit.weights, complete=False)
        nearest = min(missing, key=lambda index: abs(index * STEP - fit.log_cett))
        seen[nearest] = rise(nearest)
        fit = fit_curve(seen, target, reach, fit.log_cett)


def fit_curve(seen: Mapping[int, tuple[float, float]], target: float, reach: float, start: float) -> Crossing:
    """Where the curve through lattice points meets the target: log(rise) is locally linear in log(CETT).

    A point's weight falls to zero at ``reach`` from the crossing itself, so that none enters or leaves with a jump.
    """
    index = np.array(list(seen))
    x = np.array([math.log(lattice(i)) for i in seen])
    y = np.array([log_share(rise, target) for rise, _ in seen.values()])
    sure = np.array([certainty(rise, error, target) for rise, error in seen.values()])
    at = start
    for _ in range(200):
        away = x - at
        kernel = np.clip(1 - (away / reach) ** 2, 0, None) ** 2 * sure
        if not kernel.any():  # all lie far away: the nearest one tells the direction
            kernel = (np.abs(away) == np.abs(away).min()).astype(float)
        share = kernel / kernel.sum()
        middle, level = share @ away, share @ y
        spread = share @ (away - middle) ** 2 + STEP**2
        slope = max((share @ ((away - middle) * y) + EXPONENT * STEP**2) / spread, 1.0)
        move = (middle * slope - level) / slope
        at = min(at + 0.7 * move, math.log(LARGEST_CETT))
        if abs(move) < 1e-9:
            break
    # By how much each point's log(rise) moves the crossing, times the slope.
    weights = share * (1 - middle * (away - middle) / spread)
    return Crossing(float(at), float(slope), dict(zip(index.tolist(), weights.tolist(), strict=True)))
