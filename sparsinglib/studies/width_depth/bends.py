"""The bottleneck of Figure 5: two segments through the ladder's shapes, and a line without one beside them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from ...laws import two_segments as bend
from . import numbers as width_depth


def usable(activation: pd.DataFrame) -> dict[str, tuple[pd.Series, pd.Series, pd.Series]]:
    """Ratio, value and standard error (percent) of "limit", where the points fix it, and of "last"; of ``sparsity``."""
    fixed = activation[activation.identified.astype(bool)]
    return {
        "limit": (fixed.ratio, fixed.limit, np.maximum((fixed.high - fixed.low) / 2 / width_depth.Z, 1e-6)),
        "last": (activation.ratio, activation["last"], activation.last_error),
    }


def bends(activation: pd.DataFrame) -> dict[str, bend.Bend]:
    """The two-segment fit against the ratio of what is ``usable``, if points suffice; values in percent."""
    parts = usable(activation).items()
    return {name: bend.fit(x, y, error) for name, (x, y, error) in parts if len(x) >= bend.LEAST}


def misfit(activation: pd.DataFrame, found: Mapping[str, bend.Bend], name: str) -> tuple[float, float]:
    """How far the points lie from the two segments and from a line in log2(ratio): reduced chi-square of each.

    ``name`` is "limit" or "last" of ``found``, which ``bends`` gives. The line has no bottleneck, and one coefficient
    less.
    """
    x, y, error = (part.to_numpy(float) for part in usable(activation)[name])
    error = np.hypot(error, found[name].scatter)  # as the segments were fitted
    line = np.polynomial.Polynomial.fit(np.log2(x), y, 1, w=1 / error)
    curves = ((found[name].predict(x), 3), (line(np.log2(x)), 2))
    two, straight = (float((((y - curve) / error) ** 2).sum() / (len(x) - spent)) for curve, spent in curves)
    return two, straight


def table(found: Mapping[str, bend.Bend]) -> pd.DataFrame:
    """One line a fit of ``bends``: quantity, shapes; turn, slope, level, each with _low and _high; open and scatter."""
    rows = []
    for name, b in found.items():
        row: dict[str, Any] = {"quantity": name, "shapes": b.points}
        for key in ("turn", "slope", "level"):
            row |= {key: getattr(b, key)}
            row |= dict(zip((f"{key}_low", f"{key}_high"), getattr(b, f"{key}_interval"), strict=True))
        rows.append(row | {"open": b.turn_open or "no", "scatter": b.scatter})
    return pd.DataFrame(rows)


def turn_text(found: Mapping[str, bend.Bend]) -> str:
    """The bottleneck of "last" in the terms that can be compared with another size: usual ratios, and layers."""
    if "last" not in found:
        return "ladder: no bottleneck fitted yet"
    b, usual = found["last"], width_depth.USUAL.width / width_depth.USUAL.layers
    (low, high), (deep, flat) = b.turn_interval, (width_depth.layers_at(r) for r in b.turn_interval)
    times = f"{b.turn / usual:.2f} ({low / usual:.2f} to {high / usual:.2f}) times the usual ratio"
    depth = f"{width_depth.layers_at(b.turn):.1f} ({flat:.1f} to {deep:.1f}) layers"
    return f"ladder: bottleneck at ratio {b.turn:.3g} ({low:.3g} to {high:.3g}), {times}, {depth}"
