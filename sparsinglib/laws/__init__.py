"""The laws of the activation ratio over training data (Eqs 4 and 5), fitted with errors."""

from .fitting import (
    COEFFICIENTS,
    Fit,
    arrival,
    bootstrap,
    bootstrap_drops,
    drawn,
    fit,
    fit_drops,
    identified,
    limit_interval,
    predict,
    sample,
    steady,
    tokens_for,
)

__all__ = [
    "COEFFICIENTS",
    "Fit",
    "arrival",
    "bootstrap",
    "bootstrap_drops",
    "drawn",
    "fit",
    "fit_drops",
    "identified",
    "limit_interval",
    "predict",
    "sample",
    "steady",
    "tokens_for",
]
