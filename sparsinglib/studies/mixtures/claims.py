"""The rule by which notebook 09 judges Figure 12's claim, C66."""

import numpy as np
import pandas as pd
from scipy import stats

from ...core.checkpoints import ladder_names
from ...files import LADDER
from ...ladder import recipe as ladder
from ...paper import published as paper
from ..scaling import trends
from .numbers import AXIS_END, MIXTURES, facts_of, missing


def seed_margin() -> float | None:
    """Gap in perplexity (percent) that two runs of one recipe reach by their seeds alone, one-sided 95 %.

    From the spread of the last training losses of ladder runs with the same activation function as Figure 12's that
    differ in their seed alone, and so in the order of their text; None where there are no two of these.
    """
    ends: dict[str, list[float]] = {}
    for name in ladder_names():
        facts = facts_of(name)
        if facts["finished"] and facts["activation"] == ladder.VANILLA.activation:
            losses = pd.read_csv(LADDER / name / "training.csv").loss_smoothed
            ends.setdefault(name.partition("-seed")[0], []).append(losses.iloc[-1])
    several = [losses for losses in ends.values() if len(losses) > 1]
    free = sum(len(losses) - 1 for losses in several)
    if not free:
        return None
    variance = sum((len(losses) - 1) * np.var(losses, ddof=1) for losses in several) / free
    return 100 * float(np.expm1(stats.t.ppf(0.95, free) * np.sqrt(2 * variance)))


def checks(gap: pd.DataFrame, size: pd.DataFrame, suite: str = "ladder") -> pd.DataFrame:
    """C66, judged where a mixture has as many active experts as in training: elsewhere its gap is an upper bound."""
    rule = (
        "Rule: with as many active experts as in training, all three mixtures' perplexities lie above the vanilla "
        "model's at equal activation ratio, the 90 % band by more than seeds do. Fails if a band lies that far below; "
        "open between. One seed each, whose spread is not in the band; other numbers of experts give an upper bound. "
    )
    rows = [paper.Check("C66", "paper", "not published", None, "The points of the paper's figure are not published.")]
    rings = gap[gap["trained_here"].astype(bool) & (gap["activation_ratio"] <= AXIS_END)]
    if set(rings["series"]) == set(MIXTURES) and size["tokens"].nunique() == 1 and _finished(size):
        value = ", ".join(
            f"{r.series} {r.gap_pct:+.1f} ({r.low_pct:+.1f} to {r.high_pct:+.1f}) %" for r in rings.itertuples()
        )
        rows.append(paper.Check("C66", "ladder", value, *_beyond_seeds(rings, rule)))
    else:
        rows.append(paper.Check("C66", "ladder", missing(), paper.NOT_YET, f"{rule} Needs all four trained."))
    return paper.check("09_mixture_of_experts", trends.told(rows, suite))


def _beyond_seeds(rings: pd.DataFrame, rule: str) -> tuple[bool | str | None, str]:
    margin = seed_margin()
    if margin is None:
        return paper.NOT_YET, rule + "Needs runs that differ in their seed alone, for that margin."
    worse, better = bool((rings["low_pct"] > margin).all()), bool((rings["high_pct"] < -margin).any())
    return True if worse else False if better else None, f"{rule}Seeds: {margin:.1f} %."


def _finished(size: pd.DataFrame) -> bool:
    return all(facts_of(name)["finished"] for name in size["run"])
