"""The estimates by which notebook 01 judges claims C01, C15 and C81."""

import pandas as pd

from ...paper.claims import Estimate, Row, exact, judge, mean_of
from ...suites.suite import Suite

ONE_RUN = "One run a model: the interval is the text's, without that of seeds"
PAPER_RIVALS = ("Top-k", "FAT-ε")  # straightforward ReLU is one point, where all curves end


def verdicts(
    suite: Suite, advantage: pd.DataFrame, violations: pd.DataFrame, corpora: pd.DataFrame | None
) -> list[Row]:
    """From ``numbers.advantage``, ``numbers.violations`` and ``numbers.corpora_table`` (None: not measured)."""
    rivals = advantage[advantage.rule.isin(PAPER_RIVALS)]
    better = [Estimate(r.mean, r.low, r.high, "nats", f"{r.rule} on {r.checkpoint}:") for r in rivals.itertuples()]
    counts = violations.groupby("curve", sort=False)[["steps", "wrong"]].sum()
    wrong = [exact(100 * r.wrong / r.steps, "%", f"{r.Index}, {r.wrong} of {r.steps}:") for r in counts.itertuples()]
    first = judge("C01", suite.evidence, better, note=ONE_RUN)
    return [first, judge("C15", suite.evidence, wrong), judge("C81", suite.evidence, _elsewhere(corpora))]


def _elsewhere(corpora: pd.DataFrame | None) -> list[Estimate] | str:
    """Rise of perplexity on another corpus less the rise on the thresholds' own: points, one estimate a model.

    The corpora are a sample: the interval comes from the spread between those that thresholds are found on.
    """
    if corpora is None or corpora.found_on.nunique() < 2:
        return "Needs thresholds found on two corpora or more"
    found = []
    for name, rows in corpora.groupby("checkpoint", sort=False):
        rise = 100 * rows.pivot(index="found_on", columns="judged_on", values="ppl_ratio")
        own = pd.Series({corpus: rise.loc[corpus, corpus] for corpus in rise.index})
        away = (rise.sum(axis=1) - own) / (rise.shape[1] - 1) - own
        found.append(mean_of(away, "points", f"{name}:"))
    return found
