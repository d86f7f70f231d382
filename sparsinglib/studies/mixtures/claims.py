"""The estimates by which notebook 09 judges Figure 12's claim, C66."""

import math

import numpy as np
import pandas as pd

from ...core.checkpoints import ladder_names
from ...core.forward import Z90
from ...files import LADDER
from ...ladder import recipe
from ...paper.claims import Estimate, Row, judge, with_error
from .numbers import AXIS_END, CETT_ALIKE, MIXTURES, facts_of, missing


def seed_error() -> tuple[float, int] | None:
    """Standard deviation of a run's last loss (nats) over its seeds, and its degrees of freedom; None without any two.

    Pooled over ladder runs with the activation function of Figure 12's that differ in their seed alone, and so in the
    order of their text.
    """
    ends: dict[str, list[float]] = {}
    for name in ladder_names():
        facts = facts_of(name)
        if facts["finished"] and facts["activation"] == recipe.VANILLA.activation:
            losses = pd.read_csv(LADDER / name / "training.csv").loss_smoothed
            ends.setdefault(name.partition("-seed")[0], []).append(losses.iloc[-1])
    several = [losses for losses in ends.values() if len(losses) > 1]
    free = sum(len(losses) - 1 for losses in several)
    if not free:
        return None
    variance = sum((len(losses) - 1) * np.var(losses, ddof=1) for losses in several) / free
    return math.sqrt(variance), free


def verdicts(gap: pd.DataFrame, size: pd.DataFrame, within: pd.DataFrame | None = None) -> list[Row]:
    """C66, judged where a mixture has as many active experts as in training: elsewhere its gap is an upper bound.

    ``gap`` and ``size`` are ``numbers.gaps`` and ``numbers.sizes``. The error is that of the text,
    paired by blocks, and of both runs' seeds. ``within``, the gaps where CETT chooses among the chosen experts' neurons
    too, is no part of the claim: what it says is noted beside the verdict, with the seeds' error in its intervals.
    """
    paper = judge("C66", "paper", "The points of the paper's figure are not published")
    here = gap[gap["trained_here"].astype(bool) & (gap["activation_ratio"] <= AXIS_END)]
    same_tokens = size["tokens"].nunique() == 1 and all(facts_of(name)["finished"] for name in size["run"])
    if set(here["series"]) != set(MIXTURES) or not same_tokens:
        return [paper, judge("C66", "ladder", f"Needs all four models, trained on the same tokens. {missing()}")]
    if (seeds := seed_error()) is None:
        return [paper, judge("C66", "ladder", "Needs runs that differ in their seed alone, for the seeds' error")]
    deviation, free = seeds
    estimates = _estimates(here, deviation, free)
    note = "It compares two ways of leaving out: experts by a router, neurons by CETT"
    if within is not None and len(alike := within[within["cett"] == CETT_ALIKE]):
        said = "; ".join(map(str, _estimates(alike, deviation, free)))
        note += f". Where both may leave out neurons (CETT {CETT_ALIKE} within the chosen experts): {said}"
    return [paper, judge("C66", "ladder", estimates, note=note)]


def _estimates(rows: pd.DataFrame, deviation: float, free: int) -> list[Estimate]:
    """Each row's gap in nats, with the error of the text and of both runs' seeds."""
    estimates = []
    for row in rows.itertuples():
        text = (math.log1p(row.high_pct / 100) - math.log1p(row.low_pct / 100)) / (2 * Z90)
        error = math.hypot(text, math.sqrt(2) * deviation)
        estimates.append(with_error(math.log1p(row.gap_pct / 100), error, "nats", f"{row.series}:", free))
    return estimates
