"""How long a fit and the model of all runs take, against scipy's curve_fit from one start given the right answer.

``python benchmarks/laws.py`` prints one line for each run: seconds of ``laws.fit`` and its ratio to one curve_fit
started at the solution; then the model of all published runs of an activation, and its ratio to 1,000 such
curve_fits, about what a bootstrap of one run takes.
"""

import time

from scipy import optimize

from sparsinglib import laws
from sparsinglib.laws import curve
from sparsinglib.studies.scaling import trends

RUNS = ("0.1b-relu", "0.4b-relu", "2.4b-relu", "0.4b-silu")


def law(kind: str):
    """The law as curve_fit wants it."""

    def relu(d, alpha, b, c, a0):
        return curve.value("relu", Coefficients(alpha, b, c, a0), d)

    def silu(d, alpha, c, a0):
        return curve.value("silu", Coefficients(alpha, 0.0, c, a0), d)

    return relu if kind == "relu" else silu


class Coefficients:
    """What ``curve.value`` reads."""

    def __init__(self, alpha: float, b: float, c: float, a0: float) -> None:
        self.alpha, self.b, self.c, self.a0 = alpha, b, c, a0


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
    trend, plain = trends.activation("paper"), {}
    print("run         fit s   fits/curve_fit")
    for run in RUNS:
        part = trend[trend.run == run]
        kind, d, y = run[-4:], part.d.to_numpy(), part.activation_ratio.to_numpy()
        fit = laws.fit(kind, d, y)
        start = [fit[name] for name in laws.COEFFICIENTS[kind]]
        plain[kind] = best_of(5, lambda k=kind, d=d, y=y, s=start: optimize.curve_fit(law(k), d, y, s, maxfev=20000))
        own = best_of(5, lambda k=kind, d=d, y=y: laws.fit(k, d, y))
        print(f"{run:10s} {own:6.3f} {own / plain[kind]:16.1f}")
    print("activation  all runs s   /1,000 curve_fits")
    for kind, part in trend.groupby("activation"):
        own = best_of(2, lambda k=kind, p=part: laws.posterior(k, p))
        print(f"{kind:10s} {own:11.2f} {own / (1000 * plain[kind]):19.2f}")


if __name__ == "__main__":
    main()
