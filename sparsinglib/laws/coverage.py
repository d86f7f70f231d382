"""How often the intervals of ``posterior`` are right, on simulated studies where the truth is known.

``python -m sparsinglib.laws.coverage > data/laws/coverage.csv`` makes 200 studies, in some minutes. A study
is not what the model assumes: its wander keeps time by tokens and not by their logarithm, the warm-up dies away by
degrees, seeds shift each run's limit, and ReLU's rate comes from no prior of the model.
"""

from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pandas as pd

from . import curve
from .all_runs import posterior
from .random_effects import line

STUDIES = 50  # of each design and law: 200 in all
LEVELS = (0.5, 0.68, 0.8, 0.9, 0.95)
SIZES = np.array([1.0, 2.2, 4.2, 7.0, 10.9])
LENGTHS = {"even": np.array([386, 353, 321, 358, 269]), "log-spaced": np.array([376, 169, 120, 120, 119])}
# By law: limit, its slope a doubling, what a run moves, seeds, a checkpoint's own noise, wander; in points.
TRUTH = {"relu": (7.0, 0.4, 2.5, 0.15, 0.05, 0.08), "silu": (39.0, -0.6, 6.0, 0.3, 0.12, 0.15)}


class Study(NamedTuple):
    """Points for ``posterior``, each run's true limit (percent) and log2 size, and the limit's true slope."""

    points: pd.DataFrame
    limits: pd.Series
    sizes: pd.Series
    slope: float


def study(kind: str, design: str, seed: int) -> Study:
    """One simulated study: five sizes and two more seeds of the smallest, checkpoints spaced as ``design`` says."""
    if design not in LENGTHS:
        raise ValueError(f"design must be one of {', '.join(LENGTHS)}, got {design!r:.100}")
    known, generator = curve.law(kind), np.random.default_rng(seed)
    limit, slope, move, seeds, own, wander = TRUTH[kind]
    frames: list[pd.DataFrame] = []
    limits, sizes = {}, {}
    for i in (0, 0, 0, 1, 2, 3, 4):
        run, length = f"run {len(frames)}", LENGTHS[design][i]  # of the run, in tokens a parameter as ``per``
        per = np.linspace(length / 30, length, 30) if design == "even" else np.geomspace(2, length, 27)
        alpha, x = np.exp(generator.normal(np.log(0.7), 0.35)), per / per[-1]
        reach = np.exp(generator.normal(np.log(3), 0.4))
        gap = known.gap(SimpleNamespace(alpha=alpha, b=0.0, c=reach), x)
        sizes[run] = np.log2(SIZES[i])
        limits[run] = limit + slope * sizes[run] + generator.normal(0, seeds)
        law = limits[run] - known.sign * move * gap / gap[per >= 8][0]
        warm = generator.normal(0, move) * np.exp(-per / 3)
        noise = generator.normal(0, own, len(per)) + _wander(per, wander, 0.08 * per[-1], generator)
        ratio = np.clip((law + warm + noise) / 100, 0, 1)
        columns = {"d": per * SIZES[i] / 10, "tokens_per_param": per, "activation_ratio": ratio}
        frames.append(pd.DataFrame({"run": run} | columns))
    return Study(pd.concat(frames, ignore_index=True), pd.Series(limits), pd.Series(sizes), slope)


def _wander(at: np.ndarray, size: float, length: float, generator: np.random.Generator) -> np.ndarray:
    """A slow wander (Ornstein and Uhlenbeck's) whose correlation falls to 1/e over ``length`` of ``at``."""
    out = generator.normal(0, size, len(at))
    for i, kept in enumerate(np.exp(-np.diff(at) / length), 1):
        out[i] = kept * out[i - 1] + np.sqrt(1 - kept**2) * out[i]
    return out


def coverage(kind: str, design: str, studies: int = STUDIES, draws: int = 500) -> pd.DataFrame:
    """Simulate ``studies`` and count the intervals that hold the truth: of each run's limit, and of the slope.

    Columns: design, activation, quantity ("limit", "slope"), level, intervals, right, width (their median, points).
    """
    rows = []
    for seed in range(studies):
        truth = study(kind, design, seed)
        found = posterior(kind, truth.points, draws=draws, seed=seed)
        limits = 100 * found.limits(curve.WITHIN).set_index("run")[["a0", "low", "high"]].loc[truth.limits.index]
        error = (limits.high - limits.low) / 2
        for level in LEVELS:
            ends = 100 * found.limits(level).set_index("run")[["low", "high"]].loc[truth.limits.index]
            inside = (ends.low <= truth.limits) & (truth.limits <= ends.high)
            rows += [("limit", level, hit, width) for hit, width in zip(inside, ends.high - ends.low, strict=True)]
            trend = line(truth.sizes, limits.a0, error, level)
            rows.append(("slope", level, trend.low <= truth.slope <= trend.high, trend.high - trend.low))
    table = pd.DataFrame(rows, columns=["quantity", "level", "right", "width"]).assign(design=design, activation=kind)
    counted = {"intervals": ("right", "size"), "right": ("right", "sum"), "width": ("width", "median")}
    return table.groupby(["design", "activation", "quantity", "level"], as_index=False).agg(**counted)


if __name__ == "__main__":
    table = pd.concat([coverage(kind, design) for design in LENGTHS for kind in TRUTH])
    print(table.round(4).to_csv(index=False), end="")
