"""The paper's two laws of activation ratio against training data (Section 5.1): fits, uncertainty, prediction.

ReLU (Eq. 4): ``A(D) = exp(-c D^alpha + b) + A0``; SiLU (Eq. 5): ``A(D) = A0 - c / D^alpha``. ``A`` is the activation
ratio as a fraction, ``A0`` its limit, ``D`` the tokens passed in any one unit: 1e9 for the coefficients the paper
prints, 1e6 for the ladder. Only ``c`` changes with the unit. Pure functions of arrays; nothing here reads a file.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, stats

from .grid import Grid, natural

Array = NDArray[np.float64]
COEFFICIENTS = {"relu": ("alpha", "b", "c", "a0"), "silu": ("alpha", "c", "a0")}


@dataclass(frozen=True)
class Fit:
    """One fitted law. ``b`` is NaN for SiLU, which has none (Eq. 5).

    ``tokens`` and ``activation_ratio`` are the points used, after ``drop`` warm-up points were left out; ``flags``
    says in words what keeps the coefficients from being trusted: a bound reached, a limit the points do not fix,
    iterations used up, the last number of dropped points tried (``steady``). An empty tuple is a clean fit.
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
        d = np.asarray(tokens, dtype=float)
        if np.any(~(d > 0)):
            raise ValueError("tokens must be positive numbers, in the unit the law was fitted in")
        if self.kind == "relu":
            return np.exp(self.b - self.c * d**self.alpha) + self.a0
        return self.a0 - self.c * d**-self.alpha

    def derivative(self, tokens: ArrayLike) -> Array:
        """dA/dD at ``tokens``: change of the activation ratio per token unit (Figure 8)."""
        d = np.asarray(tokens, dtype=float)
        steep = self.alpha * self.c
        if self.kind == "relu":
            return -steep * d ** (self.alpha - 1) * (self.predict(d) - self.a0)
        return steep * d ** (-self.alpha - 1)

    def __getitem__(self, name: str) -> float:
        """A coefficient by name, so that tables can loop over ``COEFFICIENTS[fit.kind]``."""
        return float(getattr(self, name))

    @property
    def residuals(self) -> Array:
        """Point less law, one value for each point used."""
        return self.activation_ratio - self.predict(self.tokens)

    @property
    def mae(self) -> float:
        """Mean absolute error, in activation ratio."""
        return float(np.abs(self.residuals).mean())

    @property
    def mse(self) -> float:
        """Mean squared error, in activation ratio squared."""
        return float((self.residuals**2).mean())

    @property
    def freedom(self) -> int:
        """Points less coefficients."""
        return len(self.tokens) - len(COEFFICIENTS[self.kind])

    @cached_property
    def covariance(self) -> Array:
        """Covariance of the coefficients in the order of ``COEFFICIENTS[kind]``, for independent errors of one size."""
        d, tail = self.tokens, np.exp(self.b - self.c * self.tokens**self.alpha)
        power = d**self.alpha
        if self.kind == "relu":
            columns = [-tail * self.c * power * np.log(d), tail, -tail * power, np.ones_like(d)]
        else:
            columns = [self.c / power * np.log(d), -1 / power, np.ones_like(d)]
        jacobian = np.stack(columns, axis=1)
        size = np.linalg.norm(jacobian, axis=0)
        inverse = np.linalg.pinv((jacobian / size).T @ (jacobian / size), rcond=1e-15, hermitian=True)
        return inverse / np.outer(size, size) * float((self.residuals**2).sum()) / self.freedom

    @property
    def standard_errors(self) -> dict[str, float]:
        """Standard error of each coefficient, from ``covariance``."""
        return dict(zip(COEFFICIENTS[self.kind], np.sqrt(np.diag(self.covariance)).tolist(), strict=True))

    @property
    def autocorrelation(self) -> float:
        """Correlation of neighbouring errors, zero if negative: how little a further checkpoint adds.

        Residuals of a fit are less correlated than the errors, by about one in n for each coefficient: put back.
        """
        r = self.residuals - self.residuals.mean()
        size, spent = float(r @ r), len(r) - self.freedom
        return float(np.clip((r[1:] @ r[:-1]) / size + spent / len(r), 0, 0.9)) if size > 0 else 0.0


def fit(kind: str, tokens: ArrayLike, activation_ratio: ArrayLike, drop: int = 0) -> Fit:
    """Fit Eq. 4 (``"relu"``) or Eq. 5 (``"silu"``) by Levenberg-Marquardt from many starts; the best fit is kept.

    ``tokens`` (n,) increasing, in 1e9 to compare with Table 2; ``activation_ratio`` (n,) fractions. ``drop`` leading
    points are left out, as the paper does with warm-up points (Appendix E). Every start is a node of a grid over the
    coefficients that enter nonlinearly, where the others follow by linear least squares. Raises ValueError on bad
    input; a fit that stops at a bound or leaves ``A0`` open comes back with ``flags``.
    """
    d, y = _checked(kind, tokens, activation_ratio, drop)
    middle = float(np.exp(np.log(d).mean()))
    grid = Grid(kind, d / middle)
    theta, flags = grid.solve(y, starts=5)
    found = natural(kind, theta, middle)
    result = Fit(kind, *found, d, y, drop, tuple(flags))
    # Correlated checkpoints tell less than their number, as in ``limit_interval``.
    error = result.standard_errors["a0"] * np.sqrt((1 + result.autocorrelation) / (1 - result.autocorrelation))
    open_limit = 2 * 1.645 * error > float(np.ptp(y))
    return Fit(kind, *found, d, y, drop, (*flags, "a0 not identified") if open_limit else tuple(flags))


def fit_drops(kind: str, tokens: ArrayLike, activation_ratio: ArrayLike, most: float = 1 / 3) -> list[Fit]:
    """One fit for every number of dropped leading points from 0 to the share ``most`` of the run (Appendix E).

    Points as for ``fit``; fewer are dropped where too few would remain. Raises ValueError as ``fit`` does.
    """
    d, y = _checked(kind, tokens, activation_ratio, 0)
    last = min(int(len(d) * most), len(d) - len(COEFFICIENTS[kind]) - 2)
    return [fit(kind, d, y, drop) for drop in range(last + 1)]


def steady(fits: Sequence[Fit], slack: float = 1.25) -> Fit:
    """The fit with the fewest dropped points whose residual variance is within ``slack`` times the best fit's.

    ``fits`` are those of ``fit_drops``. A rule that looks at the points only, never at printed coefficients: dropping
    goes on while it removes misfit, and stops when what is left is noise. Where that is only at the last of several
    drops tried, the fit is flagged: more dropping might have changed it again.
    """
    variance = [f.mse * len(f.tokens) / f.freedom for f in fits]
    found = next(f for f, v in zip(fits, variance, strict=True) if v <= slack * min(variance))
    last = len(fits) > 1 and found is fits[-1]
    return replace(found, flags=(*found.flags, "last drop tried")) if last else found


def limit_interval(result: Fit, level: float = 0.9) -> tuple[float, float]:
    """Profile-likelihood interval of ``A0``, a fraction: all limits for which the refitted rest is not clearly worse.

    ``level`` is the interval's, 0.9 for 90 %. The residuals' autocorrelation widens it, because neighbouring
    checkpoints tell partly the same. An end at 0 or 1 means that the points put no bound on that side; so both are
    where the solver, held at the limit found, does not come back to the fit.
    """
    d, y = result.tokens, result.activation_ratio
    grid = Grid(result.kind, d / np.exp(np.log(d).mean()))
    rho = result.autocorrelation
    best = float((result.residuals**2).sum())
    bar = float(stats.f.ppf(level, 1, result.freedom)) / result.freedom * (1 + rho) / (1 - rho)

    def excess(a0: float, starts: int) -> float:
        theta, _ = grid.solve(y, starts, a0=a0)
        return float(((grid.value(theta) - y) ** 2).sum()) / max(best, 1e-300) - 1 - bar

    # More starts where one is not enough to come back to the fit itself: several minima, or no noise.
    profile = partial(excess, starts=1 if excess(result.a0, 1) < 0 else 5)
    if profile(result.a0) >= 0 and best > 1e-12 * float(np.ptp(y)) ** 2:
        return 0.0, 1.0
    step = float(np.clip(result.standard_errors["a0"], 1e-6, np.ptp(y)))
    return _edge(profile, result.a0, -step), _edge(profile, result.a0, step)


def identified(result: Fit, level: float = 0.9, interval: tuple[float, float] | None = None) -> bool:
    """Whether the points fix the limit: its interval ends inside (0, 1) and is narrower than what the run moved.

    ``interval`` is ``limit_interval``'s where that is known already.
    """
    low, high = interval or limit_interval(result, level)
    return low > 0 and high < 1 and high - low < float(np.ptp(result.activation_ratio))


def bootstrap(result: Fit, draws: int = 1000, seed: int = 0, block: int | None = None) -> pd.DataFrame:
    """Circular block bootstrap of the residuals: ``draws`` rows of alpha, b, c, a0, each a refit of a resampled run.

    ``block`` neighbouring residuals stay together (default: cube root of the number of points, at least 3), so that
    their correlation is kept; a block that runs over the end goes on at the start. Each refit starts from the best node
    of the same grid as ``fit``.
    """
    d, law = result.tokens, result.predict(result.tokens)
    n, length = len(d), block or max(3, round(len(d) ** (1 / 3)))
    middle = float(np.exp(np.log(d).mean()))
    grid, generator = Grid(result.kind, d / middle), np.random.default_rng(seed)
    # A residual is smaller than the error it stands for, by the coefficients spent on it.
    errors = (result.residuals - result.residuals.mean()) * np.sqrt(n / result.freedom)
    first = generator.integers(0, n, size=(draws, -(-n // length)))
    picked = ((first[:, :, None] + np.arange(length)) % n).reshape(draws, -1)[:, :n]
    rows = [natural(result.kind, grid.solve(law + errors[p], starts=1)[0], middle) for p in picked]
    return pd.DataFrame(rows, columns=["alpha", "b", "c", "a0"])


def bootstrap_drops(fits: Sequence[Fit], draws: int = 400, seed: int = 0) -> pd.DataFrame:
    """``bootstrap`` draws pooled in equal parts over fits that differ in ``drop`` (``fit_drops``).

    How many points are warm-up is not known either. Columns as in ``bootstrap``; at least ``draws`` rows.
    """
    each = -(-draws // len(fits))
    return pd.concat([bootstrap(f, each, seed) for f in fits], ignore_index=True)


def drawn(result: Fit, draws: pd.DataFrame) -> list[Fit]:
    """The laws of a bootstrap: ``result`` with the coefficients of each row of ``draws``."""
    return [
        replace(result, alpha=row.alpha, b=row.b, c=row.c, a0=row.a0, flags=()) for row in draws.itertuples(index=False)
    ]


def sample(result: Fit, tokens: ArrayLike, draws: pd.DataFrame, seed: int = 0) -> Array:
    """What a checkpoint at ``tokens`` (m,) may measure, draws × m: the bootstrap's laws plus a checkpoint's scatter.

    ``tokens`` in the fit's unit, taken as neighbouring checkpoints: the scatter of one goes with that of the next as
    the residuals' does. ``draws`` as ``bootstrap`` gives them. Activation ratios, as fractions. Raises ValueError for
    tokens that are not positive.
    """
    d = np.atleast_1d(np.asarray(tokens, dtype=float))
    curves = np.stack([law.predict(d) for law in drawn(result, draws)])
    scatter = np.sqrt(result.mse * len(result.tokens) / result.freedom)
    noise, together = np.random.default_rng(seed).normal(0, scatter, size=curves.shape), result.autocorrelation
    for this in range(1, len(d)):
        noise[:, this] = together * noise[:, this - 1] + np.sqrt(1 - together**2) * noise[:, this]
    return curves + noise


def predict(result: Fit, tokens: ArrayLike, draws: pd.DataFrame | None = None, level: float = 0.9) -> pd.DataFrame:
    """The law at ``tokens`` with an interval for what one checkpoint there would measure.

    ``tokens`` (m,) in the fit's unit; ``draws`` is what ``bootstrap`` returned (made here if left out). m rows:
    tokens, activation_ratio, low, high, ratios as fractions. Raises ValueError for tokens that are not positive.
    """
    d = np.atleast_1d(np.asarray(tokens, dtype=float))
    # A checkpoint's scatter is drawn several times for each law, so that the ends are smooth along the tokens.
    values = sample(result, d, pd.concat([bootstrap(result) if draws is None else draws] * 5))
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return pd.DataFrame({"tokens": d, "activation_ratio": result.predict(d), "low": low, "high": high})


def tokens_for(
    result: Fit, activation_ratio: float, draws: pd.DataFrame | None = None, level: float = 0.9
) -> tuple[float, float, float]:
    """Tokens at which the law reaches ``activation_ratio``, and the interval: (tokens, low, high), in the fit's unit.

    ``high`` is infinite where too many of the bootstrap's laws never get there. Raises ValueError for a ratio the law
    does not pass through on its way to its limit.
    """
    if not 0 <= activation_ratio <= 1:
        raise ValueError(
            f"activation_ratio is {activation_ratio}; give a fraction in [0, 1] (a percent divided by 100)"
        )
    tokens = _inverse(result, activation_ratio)
    if not 0 < tokens < np.inf:
        side = "below its limit" if result.kind == "relu" else "above its limit"
        reason = side if np.isinf(tokens) else "beyond where it starts"
        raise ValueError(
            f"the law never reaches an activation ratio of {activation_ratio:.4f}: that is {reason} "
            f"(A0 = {result.a0:.4f}); ask for a value between start and limit"
        )
    draws = bootstrap(result) if draws is None else draws
    return tokens, *arrival(result, activation_ratio, draws, level)


def arrival(result: Fit, activation_ratio: float, draws: pd.DataFrame, level: float = 0.9) -> tuple[float, float]:
    """The interval of ``tokens_for`` alone: an end is infinite where too many of the draws' laws never get there."""
    reached = np.array([_inverse(law, activation_ratio) for law in drawn(result, draws)])
    # Order statistics instead of interpolated quantiles: some laws never arrive, and infinity cannot be interpolated.
    ends = np.quantile(reached, [(1 - level) / 2, (1 + level) / 2], method="nearest")
    return float(ends[0]), float(ends[1])


def _inverse(result: Fit, target: float) -> float:
    """Tokens for a ratio: infinite at or past the limit, 0 where the law starts past it already."""
    gap = (target - result.a0) if result.kind == "relu" else (result.a0 - target)
    if gap <= 0:
        return float("inf")
    base = (result.b - np.log(gap)) / result.c if result.kind == "relu" else result.c / gap
    with np.errstate(over="ignore"):
        return float(base ** (1 / result.alpha)) if base > 0 else 0.0


def _edge(excess: Callable[[float], float], start: float, step: float) -> float:
    """Where ``excess`` crosses zero, going from ``start`` by ever longer steps; 0 or 1 if it does not before."""
    inner = start
    if excess(inner) >= 0:  # points without noise: the limit itself is all the interval
        return inner
    while True:
        outer = min(max(start + step, 0.0), 1.0)
        if excess(outer) > 0:
            return float(optimize.brentq(excess, inner, outer, xtol=1e-6, rtol=1e-4))
        if outer in (0.0, 1.0):
            return outer
        inner, step = outer, 2 * step


def _checked(kind: str, tokens: ArrayLike, activation_ratio: ArrayLike, drop: int) -> tuple[Array, Array]:
    """The points that remain after ``drop``, or one ValueError that names what is wrong and the remedy."""
    if kind not in COEFFICIENTS:
        raise ValueError(f"unknown law {kind!r}; choose 'relu' (Eq. 4) or 'silu' (Eq. 5)")
    d, y = np.asarray(tokens, dtype=float), np.asarray(activation_ratio, dtype=float)
    if d.ndim != 1 or d.shape != y.shape:
        raise ValueError(f"tokens {d.shape} and activation_ratio {y.shape} must be one-dimensional, of one length")
    if drop < 0 or drop != int(drop):
        raise ValueError(f"drop is {drop}; give a whole number of leading points to leave out, 0 or more")
    if not (np.isfinite(d).all() and np.isfinite(y).all()):
        raise ValueError("tokens and activation_ratio must be finite; remove the rows with NaN or infinity")
    if (d <= 0).any() or (np.diff(d) <= 0).any():
        raise ValueError(
            "tokens must be positive and increase strictly; sort the rows and keep one for each checkpoint"
        )
    if (y < 0).any() or (y > 1).any():
        percent = " These look like percent: divide by 100." if y.min() >= 0 and 1 < y.max() <= 100 else ""
        raise ValueError(f"activation_ratio must be fractions in [0, 1], found {y.min():g} to {y.max():g}.{percent}")
    least = len(COEFFICIENTS[kind]) + 2
    if len(d) - drop < least:
        raise ValueError(f"{len(d) - drop} points remain after dropping {drop}; the {kind} law needs {least} or more")
    if np.ptp(y[drop:]) == 0:
        raise ValueError("activation_ratio is the same at every point; there is no trend to fit")
    return d[drop:], y[drop:]
