"""The laws of the activation ratio over training data (Eqs 4 and 5), fitted with errors."""

from .curve import COEFFICIENTS, change
from .fitting import Fit, fit
from .line import Line, line, mean
from .posterior import Posterior, posterior

__all__ = ["COEFFICIENTS", "Fit", "Line", "Posterior", "change", "fit", "line", "mean", "posterior"]
