"""What a caller gives to the laws: taken as numbers, or refused in one sentence that names it and the remedy."""

from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray


def array(name: str, values: Any) -> NDArray[np.float64]:
    """``values`` as an array of floats, same shape."""
    try:
        return np.asarray(values, dtype=float)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be numbers, got {' '.join(repr(values).split()):.60}") from None


def columns(**given: Any) -> list[NDArray[np.float64]]:
    """The columns, by name, as arrays (n,) of finite numbers, all of one length."""
    found = [array(name, values) for name, values in given.items()]
    names, shapes = " and ".join(given), [values.shape for values in found]
    if len(set(shapes)) > 1 or any(len(shape) != 1 for shape in shapes):
        raise ValueError(f"{names} must be one-dimensional, of one length; got the shapes {shapes}")
    if not np.isfinite(found).all():
        raise ValueError(f"{names} must be finite; remove the rows with NaN or infinity")
    return found


def whole(name: str, value: float, least: int) -> int:
    """``value`` as an int of at least ``least``; 1e3 is one, 1.5 is not."""
    if isinstance(value, bool) or not isinstance(value, Real) or not value >= least or value % 1 != 0:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r:.100}")
    return int(value)


def fraction(name: str, value: float) -> float:
    """``value`` as a float in [0, 1]."""
    if not isinstance(value, Real) or not 0 <= value <= 1:
        raise ValueError(f"{name} is {value!r:.100}; give a fraction in [0, 1] (percent / 100)")
    return float(value)
