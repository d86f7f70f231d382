"""The least-squares solver under ``laws``: many starts from a grid, each polished by Levenberg-Marquardt."""

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

Array = NDArray[np.float64]
ALPHA_BOUNDS = (0.01, 8.0)
_ALPHAS = np.geomspace(0.02, 5.0, 24)
_SLOPES = np.geomspace(0.005, 8.0, 32)
_MAX_EVALUATIONS = 150
_CONVERGED = (1, 2, 3, 4)  # MINPACK's codes


def natural(kind: str, theta: Array, middle: float) -> tuple[float, float, float, float]:
    """(alpha, b, c, a0) as the paper writes them from the fit's own coordinates; ``middle`` is the token scale."""
    alpha, a0 = float(np.exp(theta[0])), float(theta[-1])
    if kind == "relu":
        slope = float(np.exp(theta[1]))
        return alpha, float(theta[2] + slope / alpha), slope / alpha / middle**alpha, a0
    return alpha, float("nan"), float(np.exp(theta[1])) * middle**alpha, a0


class Grid:
    """Least squares for one set of token counts, in coordinates that stay well behaved when alpha is near 0.

    ReLU: ``h exp(-s (x^alpha - 1) / alpha) + A0``, which is Eq. 4 with c = s / alpha and, as alpha goes to 0, the
    plain power law h x^-s + A0: no runaway coefficients on the way. SiLU: ``A0 - g x^-alpha``. ``x`` is tokens over
    their geometric mean; theta holds ln alpha, ln s, ln h (or ln alpha, ln g) and A0.
    """

    def __init__(self, kind: str, x: Array) -> None:
        self.kind, self.log_x = kind, np.log(x)
        slopes = _SLOPES if kind == "relu" else np.ones(1)
        self.nodes = np.stack(np.meshgrid(_ALPHAS, slopes, indexing="ij"), axis=-1).reshape(-1, 2)
        self.shapes = self._shape(self.nodes[:, :1], self.nodes[:, 1:])

    def _shape(self, alpha: Array | float, slope: Array | float) -> Array:
        """The column that multiplies h (or g): what the law looks like without scale and limit."""
        if self.kind == "silu":
            return -np.exp(-alpha * self.log_x)
        return np.exp(np.clip(-slope * np.expm1(alpha * self.log_x) / alpha, -600, 600))

    def value(self, theta: Array) -> Array:
        """The law at the grid's tokens."""
        alpha = np.exp(np.clip(theta[0], -12, 3))
        slope = np.exp(np.clip(theta[1], -30, 30)) if self.kind == "relu" else 1.0
        return np.exp(np.clip(theta[-2], -700, 50)) * self._shape(alpha, slope) + theta[-1]

    def jacobian(self, theta: Array) -> Array:
        """Derivative of ``value`` by theta, n × coefficients."""
        alpha, one = np.exp(np.clip(theta[0], -12, 3)), np.ones_like(self.log_x)
        part = self.value(theta) - theta[-1]
        if self.kind == "silu":
            return np.stack([-part * alpha * self.log_x, part, one], axis=1)
        slope, power = np.exp(np.clip(theta[1], -30, 30)), np.exp(alpha * self.log_x)
        bend = (power - 1) / alpha
        by_alpha = -part * slope * (power * self.log_x - bend)
        return np.stack([by_alpha, -part * slope * bend, part, one], axis=1)

    def starts(self, y: Array, count: int, a0: float | None) -> list[Array]:
        """The best node for each alpha with its linear coefficients, those of lowest residual first."""
        mean = self.shapes.mean(1, keepdims=True) if a0 is None else np.zeros((len(self.shapes), 1))
        centred, level = self.shapes - mean, y.mean() if a0 is None else a0
        height = np.maximum(centred @ (y - level), 1e-12) / (centred**2).sum(1)
        limit = np.clip(level - height * mean[:, 0], 0, 1)
        error = ((height[:, None] * self.shapes + limit[:, None] - y) ** 2).sum(1).reshape(len(_ALPHAS), -1)
        best = error.argmin(1) + np.arange(len(_ALPHAS)) * error.shape[1]
        order = best[np.argsort(error.min(1))][:count]
        middle = [0, 1] if self.kind == "relu" else [0]
        return [np.array([*np.log(self.nodes[i][middle]), np.log(height[i]), limit[i]]) for i in order]

    def solve(self, y: Array, starts: int, a0: float | None = None) -> tuple[Array, list[str]]:
        """The lowest residual over ``starts`` starts, inside the bounds; with ``a0`` given the limit is held there."""
        fixed = {} if a0 is None else {-1: a0}
        found = [self._bounded(y, start, dict(fixed)) for start in self.starts(y, starts, a0)]
        theta, flags, _ = min(found, key=lambda item: item[2])
        return theta, flags

    def _bounded(self, y: Array, theta: Array, fixed: dict[int, float]) -> tuple[Array, list[str], float]:
        """Levenberg-Marquardt; a coefficient that leaves its range is set to the bound and the rest solved again."""
        flags: list[str] = []
        start, start_error = theta, float(((self.value(theta) - y) ** 2).sum())
        while True:
            theta, done = self._polish(y, theta, fixed)
            low, high = np.log(ALPHA_BOUNDS)
            bounds: dict[int, tuple[float, float]] = {0: (float(low), float(high)), -1: (0.0, 1.0)}
            out = [i for i, (low, high) in bounds.items() if i not in fixed and not low <= theta[i] <= high]
            if not out:
                break
            fixed |= {out[0]: float(np.clip(theta[out[0]], *bounds[out[0]]))}
            flags.append(("alpha" if out[0] == 0 else "a0") + " at bound")
        error = float(((self.value(theta) - y) ** 2).sum())
        if not error <= start_error:  # on noise a run can end worse than the node it set out from, or nowhere at all
            return start, ["not converged"], start_error
        return theta, flags + ([] if done else ["not converged"]), error

    def _polish(self, y: Array, theta: Array, fixed: dict[int, float]) -> tuple[Array, bool]:
        """One Levenberg-Marquardt run over the coefficients that are not fixed."""
        full = theta.copy()
        for i, bound in fixed.items():
            full[i] = bound
        free = np.setdiff1d(np.arange(len(theta)), [i % len(theta) for i in fixed])

        def place(p: Array) -> Array:
            full[free] = p
            return full

        # leastsq is MINPACK's Levenberg-Marquardt with little around it: a bootstrap calls this thousands of times.
        found, _, _, _, status = optimize.leastsq(
            lambda p: self.value(place(p)) - y,
            full[free],
            Dfun=lambda p: self.jacobian(place(p))[:, free],
            full_output=True,
            ftol=1e-8,
            xtol=1e-8,
            maxfev=_MAX_EVALUATIONS,
        )
        return place(found).copy(), status in _CONVERGED
