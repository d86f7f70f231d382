"""How long a fit and a bootstrap take, against scipy's curve_fit from one start given the right answer.

``python benchmarks/laws.py`` prints one line for each run: seconds of a fit with all its starts, its ratio to one
curve_fit started at the solution, seconds of a bootstrap of 1,000, and its ratio to 1,000 such curve_fits. Goals: a fit
under 0.5 s, a bootstrap under 20 s, on two cores; the last line says whether the slowest run keeps them.
"""

import time

import numpy as np
from scipy import optimize

from sparsinglib import laws
from sparsinglib.studies.scaling import trends

FIT_GOAL, BOOTSTRAP_GOAL = 0.5, 20.0  # seconds
RUNS = ("0.1b-relu", "0.4b-relu", "2.4b-relu", "0.4b-silu")


def curve(kind: str):
    """The law as curve_fit wants it."""
    if kind == "relu":
        return lambda d, alpha, b, c, a0: np.exp(-c * d**alpha + b) + a0
    return lambda d, alpha, c, a0: a0 - c / d**alpha


def best_of(times: int, work) -> float:
    """Fastest of ``times`` calls, seconds: the least disturbed by other work on the machine."""
    seconds = []
    for _ in range(times):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def main() -> None:
    """Print the table."""
    trend = trends.activation("paper")
    print("run         fit s   fits/curve_fit   bootstrap 1,000 s   /1,000 curve_fits")
    slowest = [0.0, 0.0]
    for run in RUNS:
        part = trend[trend.run == run]
        kind, d, y = run[-4:], part.d.to_numpy(), part.activation_ratio.to_numpy()
        fit = laws.fit(kind, d, y)
        start = [fit[name] for name in laws.COEFFICIENTS[kind]]
        plain = best_of(5, lambda k=kind, d=d, y=y, s=start: optimize.curve_fit(curve(k), d, y, s, maxfev=20000))
        own = best_of(5, lambda k=kind, d=d, y=y: laws.fit(k, d, y))
        boot = best_of(1, lambda f=fit: laws.bootstrap(f, 1000))
        slowest = [max(before, now) for before, now in zip(slowest, (own, boot), strict=True)]
        print(f"{run:10s} {own:6.3f} {own / plain:16.1f} {boot:19.2f} {boot / (1000 * plain):19.1f}")
    kept = ["kept" if slow < goal else "missed" for slow, goal in zip(slowest, (FIT_GOAL, BOOTSTRAP_GOAL), strict=True)]
    print(f"goals: fit under {FIT_GOAL:g} s {kept[0]}, bootstrap of 1,000 under {BOOTSTRAP_GOAL:g} s {kept[1]}")


if __name__ == "__main__":
    main()
