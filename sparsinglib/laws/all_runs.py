"""One model of all runs: the limits, with what is not known about warm-up, noise and alpha integrated over.

Of each run ``ratio = law + noise``, past a warm-up that ends at one number of tokens a parameter for all runs. The
noise has a scale of its own in each run; its share of slow wander, and over which factor of tokens that lasts, are
common. A point of the warm-up lies a step from the next one, of the size that the run's early steps have. ln alpha is
normal over runs with unknown mean and spread; limit and move of a run have flat priors, where the limit is a ratio and
the run moves the law's way; s (``curve.Tails``) has Jeffreys' prior given alpha, since a flat one would favour the many
far limits that the points cannot tell apart. Limit, move and noise scale are integrated over in closed form, everything
else on a grid, from which draws are made.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import special

from . import curve
from .arguments import columns, fraction, whole
from .curve import Array, Tails, law
from .fitting import checked, positive

WANDERS = np.array([(0.0, 1.0), *product((0.3, 0.6, 0.9), (0.3, 1.0, 2.0))])  # share, and length in ln tokens
CUTS = np.array([0, 0.03, 0.06, 0.1, 0.15, 0.2, 0.27, 0.34])  # of the tokens a parameter that all runs reached
MEANS, SPREADS = np.log(np.geomspace(0.1, 3, 22)), np.array([0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.4])  # of ln alpha
LAST = 5  # points whose mean says where a run stands, as in Appendix E
LEAST = 3  # points more than coefficients that every run keeps behind a cut


@dataclass(frozen=True)
class Posterior:
    """Draws of the laws of ``runs``, equally likely given all points.

    ``draws`` maps a run to a table, a row a draw, the same draw in the same row of every run: alpha, b, c, a0, scatter
    (the noise's standard deviation, a ratio), wander and length (``WANDERS``), cut. ``cuts`` holds the weight of
    each cut (index: tokens a parameter). ``points`` are those that were given, with ``used``, the weight of the cuts
    that keep a point.
    """

    kind: str
    draws: dict[str, pd.DataFrame]
    cuts: pd.Series
    points: pd.DataFrame

    def limits(self, level: float = 0.9) -> pd.DataFrame:
        """The limit of each run: run, a0 (median), low, high, identified, against, beyond.

        Fractions; ``level`` is the interval's. ``identified``: the interval ends inside (0, 1), is narrower than what
        the run moved past the warm-up, and neither of these: ``against``, the run moves against its law, which then
        says nothing; ``beyond``, its last ``LAST`` points stand beyond the interval, where no law that nears its limit
        can be.
        """
        rows, sign, level = [], law(self.kind).sign, fraction("level", level)
        for run, table in self.draws.items():
            d, ratio = self._past_warm_up(run)
            low, middle, high = table.a0.quantile([(1 - level) / 2, 0.5, (1 + level) / 2])
            moved, error = curve.change(d, ratio)
            against, end = sign * moved < -error, ratio[-LAST:].mean()
            inside = low > 1e-3 and high < 1 - 1e-3 and high - low < np.ptp(ratio)
            beyond = end < low if sign < 0 else end > high
            rows.append((run, middle, low, high, inside and not against and not beyond, against, beyond))
        return pd.DataFrame(rows, columns=["run", "a0", "low", "high", "identified", "against", "beyond"])

    def curves(self, run: str, tokens: ArrayLike) -> Array:
        """The laws of a run's draws at ``tokens`` (m,), in the points' unit: draws × m activation ratios."""
        return self._of_draws(curve.value, run, tokens)

    def slopes(self, run: str, tokens: ArrayLike) -> Array:
        """dA/dD of a run's draws at ``tokens`` (m,): draws × m, in ratio per token unit."""
        return self._of_draws(curve.slope, run, tokens)

    def _of_draws(self, of: Callable[[str, Any, Array], Array], run: str, tokens: ArrayLike) -> Array:
        table = self._table(run)
        known = pd.Series({name: column.to_numpy()[:, None] for name, column in table.items()})
        return of(self.kind, known, positive(np.atleast_1d(tokens)))

    def _table(self, run: str) -> pd.DataFrame:
        run = str(run)  # as ``posterior`` has them
        if run not in self.draws:
            raise ValueError(f"no run is called {run!r}; there are {', '.join(self.draws)}")
        return self.draws[run]

    def _past_warm_up(self, run: str) -> tuple[Array, Array]:
        """Tokens and ratios of the run's points that at least half of the draws use."""
        part = self.points[(self.points.run == str(run)) & (self.points.used >= 0.5)]
        return part.d.to_numpy(float), part.activation_ratio.to_numpy(float)

    def median(self, run: str, tokens: ArrayLike) -> Array:
        """The median law of a run at ``tokens`` (m,): what to draw. Activation ratios (m,)."""
        return np.asarray(np.median(self.curves(run, tokens), axis=0))

    def sample(self, run: str, tokens: ArrayLike) -> Array:
        """What checkpoints at ``tokens`` (m,) may measure, draws × m: the laws, noise, and the wander that goes on.

        The points past the warm-up say where the run is about its law, and so where it will be for a while.
        """
        ahead, table, (seen, ratio) = positive(np.atleast_1d(tokens)), self._table(run), self._past_warm_up(run)
        apart = ratio - self.curves(run, seen)
        noise = np.random.default_rng(0).normal(size=(len(table), len(ahead))) * table.scatter.to_numpy()[:, None]
        for (share, length), rows in table.groupby(["wander", "length"]).indices.items():
            old, new, both = (
                share * np.exp(-np.abs(np.subtract.outer(np.log(x), np.log(y))) / length)
                for x, y in ((seen, seen), (ahead, ahead), (seen, ahead))
            )
            kept = np.linalg.solve(old + (1 - share) * np.eye(len(seen)), both)
            root = np.linalg.cholesky(new + (1 - share + 1e-9) * np.eye(len(ahead)) - both.T @ kept)
            noise[rows] = apart[rows] @ kept + noise[rows] @ root.T
        return self.curves(run, ahead) + noise

    def predict(self, run: str, tokens: ArrayLike) -> pd.DataFrame:
        """What one checkpoint at each of ``tokens`` (m,) would measure: tokens, activation_ratio, low, high.

        Fractions: the median of the laws, and the 90 % interval with the noise. Raises ValueError for tokens that are
        not positive.
        """
        low, high = np.quantile(self.sample(run, tokens), [0.05, 0.95], axis=0)
        found = {"activation_ratio": self.median(run, tokens), "low": low, "high": high}
        return pd.DataFrame({"tokens": np.atleast_1d(tokens)} | found)

    def tokens_for(self, run: str, activation_ratio: float) -> tuple[float, float, float]:
        """Tokens at which a run's law reaches ``activation_ratio``: (median, low, high; 90 %), in the points' unit.

        Infinite where so many of the laws never get there. Raises ValueError for what is no fraction.
        """
        ratio = fraction("activation_ratio", activation_ratio)
        tokens = np.sort(curve.arrival(self.kind, self._table(run), ratio))
        at = np.array([0.5, 0.05, 0.95]) * (len(tokens) - 1)
        middle, low, high = tokens[at.round().astype(int)].tolist()
        return middle, low, high


def posterior(
    kind: str, points: pd.DataFrame, draws: int = 1000, seed: int = 0, cuts: Sequence[float] | None = None
) -> Posterior:
    """The model of all runs in ``points``: columns run, d (tokens in any unit), activation_ratio (a fraction).

    A column tokens_per_param says where a cut falls in each run; without it, ``d`` does. ``cuts`` are the ends of
    warm-up to weigh, in that unit (default: ``CUTS`` of what all runs reached). Those that leave a run with too few
    points are left out. Raises ValueError that names what is wrong, and the run whose points cannot be used.
    """
    draws, seed, parts = whole("draws", draws, 1), whole("seed", seed, 0), _by_run(kind, points)
    ends = _cuts(kind, parts, cuts)
    grids = [[_Grid(kind, part, cut, ends[-1]) for part in parts.values()] for cut in ends]
    # cut × run × wander × alpha
    by_alpha = np.array([[special.logsumexp(grid.log, -1) for grid in row] for row in grids])
    alphas = law(kind).alphas
    # (mean, spread) of ln alpha × alpha
    prior = -0.5 * ((np.log(alphas) - MEANS[:, None, None]) / SPREADS[:, None]) ** 2
    prior = special.log_softmax(prior, -1).reshape(-1, len(alphas))
    # cut × wander × (mean, spread): the runs' likelihoods multiplied
    top = by_alpha.max(-1, keepdims=True)
    weight = special.softmax((np.log(np.exp(by_alpha - top) @ np.exp(prior).T) + top).sum(1))
    generator = np.random.default_rng(seed)
    cut, wander, about = np.unravel_index(generator.choice(weight.size, draws, p=weight.ravel()), weight.shape)
    tables = {}
    for i, run in enumerate(parts):
        alpha = _pick(by_alpha[cut, i, wander] + prior[about], generator)
        table = pd.DataFrame(index=range(draws), columns=["alpha", "b", "c", "a0", "scatter"], dtype=float)
        for k in np.unique(cut):
            mine = np.flatnonzero(cut == k)
            table.iloc[mine] = grids[k][i].draw(wander[mine], alpha[mine], generator)
        share, length = WANDERS[wander].T
        tables[run] = table.assign(wander=share, length=length, cut=ends[cut])
    weights = pd.Series(weight.sum((1, 2)), index=pd.Index(ends, name="cut"), name="weight")
    rows = pd.concat(parts.values(), ignore_index=True)
    used = (rows["at"].to_numpy()[:, None] > ends) @ weights.to_numpy()
    return Posterior(kind, tables, weights, rows.assign(used=used).drop(columns="at"))


def _by_run(kind: str, points: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Each run's points by rising tokens, with ``at``, where a cut falls."""
    needed = ["run", "d", "activation_ratio"]
    lacking = [name for name in needed if name not in getattr(points, "columns", ())]
    if lacking or points.empty:
        raise ValueError(f"points must be a table with rows and the columns {', '.join(needed)}; lacking: {lacking}")
    parts = {}
    for run, part in points.groupby(points.run.map(str)):
        try:
            given = {name: part[name] for name in ("d", "activation_ratio", "tokens_per_param") if name in part}
            numbers = dict(zip(given, columns(**given), strict=True))
            mine = part.assign(run=run, **numbers).sort_values("d")
            checked(kind, mine.d, mine.activation_ratio)
            parts[run] = mine.assign(at=mine.get("tokens_per_param", mine.d))
        except ValueError as error:
            raise ValueError(f"{run}: {error}") from None
    return parts


def _cuts(kind: str, parts: dict[str, pd.DataFrame], cuts: Sequence[float] | None) -> Array:
    """The cuts, rising, that leave every run enough points; where none does, the first that leaves one point fewer."""
    reached = min(part["at"].max() for part in parts.values())  # tokens a parameter, by all runs
    ends = np.unique(CUTS * reached if cuts is None else columns(cuts=cuts)[0])
    left = np.array([min((part["at"] > end).sum() for part in parts.values()) for end in ends])
    least = len(law(kind).coefficients) + LEAST
    if not (left >= least - 1).any():
        unit = "tokens_per_param, or of d where there is none"
        raise ValueError(
            f"cuts {ends.tolist()}: none leaves {least} points of every run; give lower ones, in the unit of {unit}"
        )
    return ends[left >= least] if (left >= least).any() else ends[:1]


def nodes(kind: str) -> Array:
    """alpha and s (``curve.Tails``) of every node of the grid: 2 × nodes."""
    return np.stack(np.meshgrid(law(kind).alphas, law(kind).slopes, indexing="ij")).reshape(2, -1)


class _Grid:
    """One run behind one cut: log-likelihood by wander × alpha × s, and the normal posterior of (limit, move) there."""

    def __init__(self, kind: str, part: pd.DataFrame, cut: float, early: float) -> None:
        ratio, keep = part.activation_ratio.to_numpy(float), part["at"].to_numpy() > cut
        d, y, self.sign = part.d.to_numpy(float)[keep], ratio[keep], law(kind).sign
        self.nodes, self.tails, self.freedom = nodes(kind), Tails(kind, d), len(y) - 2
        tail, (exact, log_size) = self.tails(*self.nodes), precisions(np.log(d))
        spread = (tail @ np.concatenate(exact, axis=1)).reshape(len(tail), -1, len(y))  # nodes × wanders × points
        # Least squares at each wander and node: [[s11, s12], [s12, s22]] · (limit, move) = (r1, r2).
        s11, r1 = exact.sum((1, 2))[:, None], (exact @ y).sum(1)[:, None]
        s12, r2 = spread.sum(2).T, (spread @ y).T
        s22 = np.einsum("kwn,kn->wk", spread, tail)
        det = np.maximum(s11 * s22 - s12 * s12, 1e-12 * s11 * s22)
        self.a0, self.move = (s22 * r1 - s12 * r2) / det, (s11 * r2 - s12 * r1) / det
        self.cov = s22 / det, -s12 / det, s11 / det  # of limit and move, in squared noise scales
        rest = (exact @ y @ y)[:, None] - self.a0 * r1 - self.move * r2
        self.rest = np.maximum(rest, 1e-12 * np.ptp(y) ** 2)
        error, moved = (np.sqrt(self.rest / self.freedom * part) for part in (self.cov[0], self.cov[2]))
        inside = special.ndtr((1 - self.a0) / error) - special.ndtr(-self.a0 / error)
        inside *= special.ndtr(-self.sign * self.move / moved)
        log = -0.5 * np.log(det) - self.freedom / 2 * np.log(self.rest * np.pi) + special.gammaln(self.freedom / 2)
        warm_up = _warm_up(ratio, (~keep).sum(), int((part["at"] <= early).sum()))
        log += np.log(np.maximum(inside, 1e-300)) - log_size[:, None] + warm_up
        shape = (len(law(kind).alphas), len(law(kind).slopes))
        self.log = log.reshape(len(WANDERS), *shape) + np.log(_volume(tail.reshape(*shape, len(y))))

    def draw(self, wander: Array, alpha: Array, generator: np.random.Generator) -> Array:
        """Rows of alpha, b, c, a0 and noise scale for the drawn wanders and alphas (indices)."""
        node = alpha * self.log.shape[2] + _pick(self.log[wander, alpha], generator)
        centre = np.stack([self.a0[wander, node], self.move[wander, node]])
        v11, v12, v22 = (part[wander, node] for part in self.cov)
        size = np.sqrt(self.rest[wander, node] / generator.chisquare(self.freedom, len(node)))
        found, todo = np.stack([centre[0].clip(0, 1), centre[1]]), np.arange(len(node))
        for _ in range(50):  # until the limit is a ratio and the run moves the law's way
            z = generator.normal(size=(2, len(todo)))
            first = np.sqrt(v11[todo]) * z[0]
            second = v12[todo] / np.sqrt(v11[todo]) * z[0] + np.sqrt(np.maximum(v22 - v12**2 / v11, 0))[todo] * z[1]
            tried = centre[:, todo] + size[todo] * np.stack([first, second])
            good = (tried[0] >= 0) & (tried[0] <= 1) & (-self.sign * tried[1] > 0)
            found[:, todo[good]] = tried[:, good]
            todo = todo[~good]
        at = self.nodes[:, node]
        b, c = self.tails.coefficients(at[0], at[1], found[1])
        return np.column_stack([at[0], b, c, found[0], size])


def _warm_up(ratio: Array, before: int, early: int) -> float:
    """Log-likelihood of the points before the cut: steps of a random walk, as large as the ``early`` ones."""
    steps = np.diff(ratio)
    size = max(float(np.sqrt(np.mean(steps[: max(early, 1)] ** 2))), 1e-9)
    return float((-0.5 * (steps[:before] / size) ** 2 - np.log(size) - 0.5 * np.log(2 * np.pi)).sum())


def precisions(time: Array) -> tuple[Array, Array]:
    """For each of WANDERS the inverse of the noise's correlations at ``time``, and half their log determinant."""
    apart = np.abs(np.subtract.outer(time, time))
    correlations = [(1 - share) * np.eye(len(time)) + share * np.exp(-apart / length) for share, length in WANDERS]
    return np.linalg.inv(correlations), 0.5 * np.linalg.slogdet(correlations)[1]


def _volume(tail: Array) -> Array:
    """Jeffreys' prior of s for each alpha: how much the law changes with s, past what limit and move can take up."""
    if tail.shape[1] == 1:
        return np.ones(tail.shape[:2])
    change, about = np.gradient(tail, axis=1), tail - tail.mean(-1, keepdims=True)
    change -= change.mean(-1, keepdims=True)
    change -= about * ((change * about).sum(-1) / (about**2).sum(-1))[..., None]
    size = np.maximum(np.linalg.norm(change, axis=-1), 1e-12)
    return np.asarray(size / size.sum(1, keepdims=True))


def _pick(log: Array, generator: np.random.Generator) -> Array:
    """One index a row, with probabilities that go as the exponential."""
    weight = np.exp(log - log.max(1, keepdims=True)).cumsum(1)
    return np.asarray((weight < generator.random((len(log), 1)) * weight[:, -1:]).sum(1))
