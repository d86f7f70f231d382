"""The verdicts of notebook 03 on width and depth: numbers of this room held against the rules in ``claims.csv``."""

import numpy as np
import pandas as pd
from scipy import stats

from ... import laws
from ...laws import two_segments
from ...paper.claims import Estimate, Row, judge, of_draws, with_error

UNPUBLISHED = "The points of the paper's figure are not published"


def rise(activation: pd.DataFrame) -> list[Row]:
    """C34: (a) slope of the ratio at the end over log2(width / depth), (b) a line's misfit less a bottleneck's.

    ``activation`` is ``numbers.sparsity``.
    """
    x, y, error = (activation[name].to_numpy(float) for name in ("ratio", "last", "last_error"))
    line = laws.line(np.log2(x), y, error)
    slope = Estimate(line.value, line.low, line.high, "points a doubling")
    bend = of_draws(two_segments.ahead_of_line(x, y, error), None, "", "log-likelihood, bottleneck less line")
    return [judge("C34", "paper", UNPUBLISHED), judge("C34", "ladder", slope, bend)]


def best_range(losses: pd.DataFrame, seeds: dict[str, float]) -> list[Row]:
    """C37 and C39: the loss of the deepest and of the widest shape less the best between them, in seed errors.

    ``losses`` is ``numbers.losses``, ``seeds`` ``numbers.seed_errors``. C39 is of the deepest alone, in nats.
    """
    table, freedom = losses.sort_values("ratio", ignore_index=True), int(seeds["loss_freedom"])

    def less(end: pd.Series, best: pd.Series) -> tuple[float, float, str]:
        """Difference in loss, its error, and what it is of."""
        error = float(np.hypot(end.error, best.error))
        return end.reached - best.reached, error, f"{end['shape']} less {best['shape']}"

    between, best = table.loc[table.iloc[1:-1].reached.idxmin()], table.loc[table.reached.idxmin()]
    both = [less(table.iloc[end], between) for end in (0, -1)]
    in_errors = [with_error(apart / error, 1.0, "seed errors", note, freedom) for apart, error, note in both]
    apart, error, note = less(table.iloc[0], best)
    nats = with_error(apart, error, "nats", note, freedom)
    rows = [judge(claim, "paper", UNPUBLISHED) for claim in ("C37", "C39")]
    return [*rows, judge("C37", "ladder", in_errors), judge("C39", "ladder", nats)]


def cost(costs: pd.DataFrame) -> list[Row]:
    """C40: slope of log training time a token over log layers, of ``numbers.costs``; the machine did other work too."""
    line = stats.linregress(np.log(costs.layers), np.log(costs.seconds))
    slope = with_error(line.slope, line.stderr, "", "log time over log layers", len(costs) - 2)
    return [judge("C40", "ladder", slope)]
