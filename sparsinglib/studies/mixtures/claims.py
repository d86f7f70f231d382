"""The estimates by which notebook 09 judges Figure 12's claim, C66."""

import math

import pandas as pd

from ... import laws
from ...core.checkpoints import ladder_names
from ...core.forward import Z90
from ...files import LADDER
from ...ladder import recipe
from ...paper.claims import Estimate, Row, judge, with_error
from .numbers import AXIS_END, CETT_ALIKE, MIXTURES


def seed_error() -> tuple[float, int]:
    """Standard deviation of a run's last loss (nats) over its seeds, and its degrees of freedom (``laws.pooled``).

    Of ladder runs with the activation function of Figure 12's that differ in their seed alone, and so in the order of
    their text.
    """
    ends = {}
    for name in ladder_names():
        facts = recipe.record(LADDER / name)
        if facts["finished"] and facts["activation"] == recipe.VANILLA.activation:
            ends[name] = pd.read_csv(LADDER / name / "training.csv").loss_smoothed.iloc[-1]
    return laws.pooled(pd.Series(ends), lambda name: name.partition("-seed")[0])


def verdicts(gap: pd.DataFrame, size: pd.DataFrame, within: pd.DataFrame) -> list[Row]:
    """C66, judged where a mixture has as many active experts as in training: elsewhere its gap is an upper bound.

    ``gap`` and ``size`` are ``numbers.gaps`` and ``numbers.sizes``. The error is that of the text,
    paired by blocks, and of both runs' seeds. ``within``, the gaps where CETT chooses among the chosen experts' neurons
    too, is no part of the claim: what it says is noted beside the verdict, with the seeds' error in its intervals.
    """
    paper = judge("C66", "paper", "The points of the paper's figure are not published")
    here = gap[gap["trained_here"].astype(bool) & (gap["activation_ratio"] <= AXIS_END)]
    if set(here["series"]) != set(MIXTURES) or size["tokens"].nunique() > 1:
        return [paper, judge("C66", "ladder", "Needs all four models at equal ratios, trained on the same tokens")]
    alike, seeds = within[within["cett"] == CETT_ALIKE], seed_error()
    note = (
        "It compares two ways of leaving out: experts by a router, neurons by CETT. Where both may leave out neurons "
        f"(CETT {CETT_ALIKE} within the chosen experts): {'; '.join(map(str, _estimates(alike, *seeds)))}"
    )
    return [paper, judge("C66", "ladder", _estimates(here, *seeds), note=note)]


def _estimates(rows: pd.DataFrame, deviation: float, free: int) -> list[Estimate]:
    """Each row's gap in nats, with the error of the text and of both runs' seeds."""
    estimates = []
    for row in rows.itertuples():
        text = (math.log1p(row.high_pct / 100) - math.log1p(row.low_pct / 100)) / (2 * Z90)
        error = math.hypot(text, math.sqrt(2) * deviation)
        estimates.append(with_error(math.log1p(row.gap_pct / 100), error, "nats", f"{row.series}:", free))
    return estimates
