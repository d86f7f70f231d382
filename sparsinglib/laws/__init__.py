"""The laws of the activation ratio over training data (Eqs 4 and 5), fitted with errors."""

from .all_runs import Posterior, posterior
from .curve import COEFFICIENTS, change
from .fitting import Fit, fit
from .random_effects import Line, line, mean, pooled

__all__ = ["COEFFICIENTS", "Fit", "Line", "Posterior", "change", "fit", "line", "mean", "pooled", "posterior"]
