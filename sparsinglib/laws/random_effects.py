"""A mean or a straight line through a few estimates that differ by more than their own errors say."""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import special

from .arguments import array, columns, fraction
from .curve import Array

NODES, DRAWS = 200, 8000


class Line(NamedTuple):
    """Slope (of a mean: the mean) with its interval, and the spread between estimates beyond their own errors."""

    value: float = np.nan
    low: float = np.nan
    high: float = np.nan
    between: float = np.nan


def mean(y: ArrayLike, error: ArrayLike) -> Line:
    """Mean over runs of ``y`` (n,) with standard errors ``error``, runs as random effects; NaN for fewer than two."""
    return _first(np.ones((np.size(y), 1)), columns(y=y, error=error))


def line(x: ArrayLike, y: ArrayLike, error: ArrayLike, level: float = 0.9) -> Line:
    """Slope of ``y`` (n,) with standard errors ``error`` over ``x`` (n,); NaN with fewer than three different x."""
    at, *points = columns(x=x, y=y, error=error)
    if len(np.unique(at)) < 3:
        return Line()
    return _first(np.stack([at - at.mean(), np.ones_like(at)], axis=1), points, level)


def pooled(values: pd.Series, groups: Any) -> tuple[float, int]:
    """Standard deviation of ``values`` within ``groups`` (as ``Series.groupby`` takes them), pooled, and its freedom.

    The freedom is the number of values less that of groups; without any the deviation is NaN.
    """
    values = pd.Series(array("values", values), getattr(values, "axes", [None])[0])
    apart = values - values.groupby(groups).transform("mean")
    freedom = len(values) - values.groupby(groups).ngroups
    return (float(np.sqrt((apart**2).sum() / freedom)) if freedom else np.nan), freedom


def _first(terms: Array, points: list[Array], level: float = 0.9) -> Line:
    """The first coefficient of y over ``terms`` (n × k); ``points`` are y and error."""
    # Estimates differ by their own errors and by a spread between runs (seeds, and whatever else one run cannot know of
    # itself), which has a flat prior up to the range of y and is integrated over.
    (y, error), level = points, fraction("level", level)
    if (error < 0).any():
        raise ValueError("error must be standard errors, 0 or more")
    if len(y) <= terms.shape[1]:
        return Line()
    size = max(float(np.ptp(y)), 1e-12)
    spreads = np.linspace(0, size, NODES)
    weight = 1 / (error**2 + spreads[:, None] ** 2 + (1e-6 * size) ** 2)
    covariance = np.linalg.inv(np.einsum("ni,sn,nj->sij", terms, weight, terms))
    found = np.einsum("sij,nj,sn,n->si", covariance, terms, weight, y)
    misfit = (weight * (y - found @ terms.T) ** 2).sum(1)
    chance = special.softmax(0.5 * (np.log(weight).sum(1) + np.linalg.slogdet(covariance)[1] - misfit))
    generator = np.random.default_rng(0)
    picked = generator.choice(NODES, DRAWS, p=chance)
    drawn = found[picked, 0] + np.sqrt(covariance[picked, 0, 0]) * generator.normal(size=DRAWS)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Line(float(chance @ found[:, 0]), float(low), float(high), float(chance @ spreads))
