"""Claims on downstream tasks held against the numbers the paper prints; each rule stands in its row's ``why``."""

import math

import numpy as np
import pandas as pd

from ...paper import published as paper
from ...paper.published import Check
from . import tables as task_tables
from .tables import COMMONSENSE, COMPLEX, READING, ROUNDING, t_interval

ARITHMETIC = "arithmetic on the printed numbers, no measurement"
MARGIN = 1.0  # points of a mean score that count as "near dense"
COMPARABLE = 2.0  # points between ReLU and SiLU that count as comparable
PRINTED_MEAN = {"C05": COMMONSENSE, "C06": READING}
PRINTED_CHANGE = {
    **{"C07": (COMMONSENSE, 1), "C08": (COMMONSENSE, 5), "C09": (COMMONSENSE, 10)},
    **{"C10": (READING, 1), "C11": (READING, 5), "C12": (READING, 10)},
}
ENDS = {
    **{"C69": (COMMONSENSE, "relu", "0.1B"), "C70": (COMMONSENSE, "relu", "1.2B")},
    **{"C71": (COMMONSENSE, "silu", "0.1B"), "C72": (COMMONSENSE, "silu", "1.2B")},
    **{"C73": (READING, "relu", "0.1B"), "C74": (READING, "relu", "1.2B")},
    **{"C75": (READING, "silu", "0.1B"), "C76": (READING, "silu", "1.2B")},
}
MOST = 0.75  # "generally": more than this share of the single benchmarks
MMLU_QUESTIONS, MMLU_CHANCE = 14_042, 25.0  # of its test set; four choices


def not_worse(low: float, high: float, margin: float = MARGIN) -> bool | None:
    """Verdict on "no harm": the interval stays above -margin (True), lies below 0 (False), or neither (None)."""
    return True if low > -margin else False if high < 0 else None


def points(change: float, low: float, high: float) -> str:
    """A change with its interval, both in points."""
    return f"{change:+.2f} ({low:+.2f} to {high:+.2f})"


def paper_checks() -> list[Check]:
    """Every claim against the numbers the paper prints in Tables 1, 4, 5 and 6."""
    means = task_tables.mean_changes().set_index(["group", "p_pct"])
    return [*_figure_3(), *_printed(means), *_trends(means), *_single_benchmarks(), _by_activation(), _random_level()]


def _figure_3() -> list[Check]:
    why = "the values of Figure 3's points are not in the paper's text"
    return [Check("C02", "paper", "–", None, why)]


def _printed(means: pd.DataFrame) -> list[Check]:
    rows, table = [], task_tables.averages()
    dense = table[table.p_pct == 0]
    printed = paper.old_claims().set_index("id").paper_value.replace("", np.nan).astype(float)
    why = f"Rule: the printed columns of Tables 4 and 5 give the number to {ROUNDING} points; {ARITHMETIC}."
    for claim, group in PRINTED_MEAN.items():
        value = dense[dense.group == group].recomputed_pct.mean()
        rows.append(Check(claim, "paper", f"{value:.2f} percent", bool(abs(value - printed[claim]) <= ROUNDING), why))
    for claim, key in PRINTED_CHANGE.items():
        value = means.change[key]
        rows.append(Check(claim, "paper", f"{value:+.2f} points", bool(abs(value - printed[claim]) <= ROUNDING), why))
    for claim, (group, activation, scale) in ENDS.items():
        found = dense[(dense.group == group) & (dense.activation == activation)].set_index("scale").recomputed_pct
        value = found[scale]
        rises = bool(found["1.2B"] > found["0.1B"])
        right = bool(abs(value - printed[claim]) <= ROUNDING + 1e-9)
        rows.append(Check(claim, "paper", f"{value:.2f} percent", right and rises, why + " 1.2B is above 0.1B."))
    return rows


def _trends(means: pd.DataFrame) -> list[Check]:
    """C04, C13, C14, C78: the ten models as a sample, 95 % t intervals."""
    ten = "ten models, 95 % t interval"
    rows = []
    at1 = {g: means.loc[(g, 1)] for g in (COMMONSENSE, READING)}
    value = "; ".join(f"{g.partition('_')[0]} {points(*r[['change', 'low', 'high']])}" for g, r in at1.items())
    verdicts = [not_worse(r.low, r.high) for r in at1.values()]
    why = f"Rule: both intervals stay above -{MARGIN:g} point ({ten})."
    rows.append(Check("C04", "paper", value, every(verdicts), why))
    reading = means.loc[READING]
    value = "; ".join(f"p = {p}: {points(*r[['change', 'low', 'high']])}" for p, r in reading.iterrows())
    steps = _steps()
    rows.append(Check("C13", "paper", value, falls(reading, steps), f"{FALLS} ({ten})."))
    wide = task_tables.changes().pivot(index=["scale", "activation", "p_pct"], columns="group", values="change")
    gap = t_interval((wide[READING] - wide[COMMONSENSE]).xs(10, level="p_pct"))
    small = all(not_worse(r.low, r.high) for _, r in means.loc[COMMONSENSE].iterrows())
    why = f"Rule: commonsense above -{MARGIN:g} point at every p; reading's change at 10 % below commonsense's ({ten})."
    rows.append(Check("C14", "paper", f"reading less commonsense at 10 %: {points(*gap)}", small and gap[2] < 0, why))
    five = reading.loc[5]
    value = points(five.change, five.low, five.high)
    rows.append(Check("C78", "paper", value, bool(five.high < 0), f"Rule: interval below 0 ({ten})."))
    return rows


def _steps() -> pd.DataFrame:
    """Change of the ten models' reading scores from each p to the next, dense first, paired by model."""
    table = task_tables.averages().query("group == @READING", local_dict={"READING": READING})
    wide = table.pivot(index=["scale", "activation"], columns="p_pct", values="recomputed_pct")
    pairs = list(zip(wide.columns, wide.columns[1:], strict=False))
    return pd.DataFrame([t_interval(wide[b] - wide[a]) for a, b in pairs], columns=["change", "low", "high"])


FALLS = (
    "Rule: the interval at the last p is below 0, and no step rises by more than its paired interval allows; fails if "
    "an interval lies above 0 or the last excludes a fall"
)


def falls(changes: pd.DataFrame, steps: pd.DataFrame) -> bool | None:
    """Verdict on a fall over rows of low and high: ``changes`` from dense, and ``steps`` from one p to the next.

    A step whose interval holds 0 is no rise. With the last interval reaching 0, a fall is neither shown nor excluded.
    """
    if (changes.low > 0).any() or (steps.low > 0).any() or changes.low.iloc[-1] >= 0:
        return False
    return True if changes.high.iloc[-1] < 0 else None


def every(verdicts: list[bool | None]) -> bool | None:
    """False if one is, else None if one is, else True."""
    return False if False in verdicts else None if None in verdicts else True


def generally(changes: pd.DataFrame) -> tuple[bool | None, str]:
    """Verdict on "generally no harm" over rows of change, low and high (points), and the rule with what it can see."""
    said = [not_worse(low, high) for low, high in zip(changes.low, changes.high, strict=True)]
    verdict = True if said.count(True) > MOST * len(said) else None
    if said and said.count(False) >= (1 - MOST) * len(said):
        verdict = False
    seen = (changes.change - changes.low).median()
    why = (
        f"Rule: for more than {MOST:.0%} of them the 95 % interval stays above -{MARGIN:g} point; fails if for "
        f"{1 - MOST:.0%} or more it lies below 0. Mostly not seen (half width): a drop of less than {seen:.1f} points."
    )
    return verdict, why


def counted(changes: pd.DataFrame) -> str:
    """How many rows of ``changes`` are shown to be no worse, and how many worse."""
    said = [not_worse(low, high) for low, high in zip(changes.low, changes.high, strict=True)]
    true, false = said.count(True), said.count(False)
    return f"{true} of {len(said)} surely less than {MARGIN:g} point below dense, {false} surely below it"


def _single_benchmarks() -> list[Check]:
    scores = pd.concat([paper.table(4), paper.table(5)])
    wide = scores.pivot(index=["scale", "activation", "benchmark"], columns="p_pct", values="score_pct")
    ends = (wide[1] - wide[0]).groupby("benchmark").apply(t_interval)
    changes = pd.DataFrame(ends.tolist(), index=ends.index, columns=["change", "low", "high"])
    worst = changes.change.idxmin()
    verdict, why = generally(changes)
    value = f"{counted(changes)}; lowest {worst}: {points(*changes.loc[worst])}"
    return [Check("C77", "paper", value, verdict, f"{why} t intervals over ten models, at p = 1 %.")]


def _by_activation() -> Check:
    table = task_tables.averages().query("p_pct == 0 and group != @COMPLEX", local_dict={"COMPLEX": COMPLEX})
    wide = table.pivot(index=["scale", "group"], columns="activation", values="recomputed_pct")
    ends = t_interval(wide.silu - wide.relu)
    why = (
        f"Rule: 95 % t interval of SiLU less ReLU over 5 scales × 2 groups within ±{COMPARABLE:g} points (tasks only)."
    )
    return Check("C22", "paper", points(*ends), comparable(*ends[1:]), why)


def comparable(low: float, high: float) -> bool | None:
    """Verdict on "comparable": the interval within ±COMPARABLE (True), all outside it (False), or neither (None)."""
    if low > -COMPARABLE and high < COMPARABLE:
        return True
    return False if low > COMPARABLE or high < -COMPARABLE else None


def _random_level() -> Check:
    mmlu = paper.table(6).query("benchmark == 'mmlu' and p_pct == 0").score_pct
    error = 100 * math.sqrt(0.25 * 0.75 / MMLU_QUESTIONS)
    above = int((mmlu - MMLU_CHANCE > 2 * error).sum())
    value = f"MMLU {mmlu.min():.1f} to {mmlu.max():.1f} percent; {above} of {len(mmlu)} dense models above chance"
    why = f"Rule: no dense model's MMLU is two standard errors ({error:.2f}) above chance, 25; others unknown."
    return Check("C79", "paper", value, above == 0, why)
