"""The verdict on a claim: estimates with their 90 % intervals, held against its rule and bound in ``claims.csv``.

Rule and bound are read from ``data/paper/claims.csv``, where they were set down before the results.
"""

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from ..files import output_dir, write_atomically
from . import published
from .rules import Bound, Estimate, Verdict, bounds, combined, share_of

COLUMNS = ["id", "where", "claim", "paper_value", "evidence", "our_value", "verdict", "why"]
TAIL = 0.05  # left out at each end of a 90 % interval
FURTHEST = 10.0  # half widths; also for numbers without an interval
LISTED = 3  # estimates written out; of more, the one nearest to failing stands for all
WORST_FIRST = [Verdict.FAILS, Verdict.INCONCLUSIVE, Verdict.HOLDS]


def exact(value: float, unit: str = "", note: str = "", printed: str = "") -> Estimate:
    """A number without error, computed from printed ones."""
    return Estimate(value, value, value, unit, note, printed)


def with_error(value: float, error: float, unit: str = "", note: str = "", freedom: float = math.inf) -> Estimate:
    """From a standard error: normal, or Student's t with ``freedom`` degrees where the error itself is estimated."""
    from scipy import stats  # not needed by who only reads the paper's tables

    half = float(stats.t.ppf(1 - TAIL, freedom)) * error
    return Estimate(value, value - half, value + half, unit, note)


def mean_of(values: Iterable[float], unit: str = "", note: str = "") -> Estimate:
    """Mean of independent values with Student's t interval. Raises ValueError for fewer than two."""
    sample = np.asarray(list(values), dtype=float)
    if len(sample) < 2:
        raise ValueError(f"{note or 'a mean'}: {len(sample)} values have no spread. Say what is missing in its place.")
    error = float(sample.std(ddof=1) / math.sqrt(len(sample)))
    return with_error(float(sample.mean()), error, unit, note, len(sample) - 1)


def of_draws(draws: Iterable[float], value: float | None = None, unit: str = "", note: str = "") -> Estimate:
    """From draws (bootstrap, posterior): their 5th and 95th percentile, and ``value`` (default: their median)."""
    sample = np.asarray(list(draws), dtype=float)
    low, middle, high = (float(end) for end in np.quantile(sample, [TAIL, 0.5, 1 - TAIL]))
    return Estimate(middle if value is None else value, low, high, unit, note)


def proportion(hits: int, cases: int) -> Estimate:
    """Percent of ``cases`` drawn at random that are hits, with Clopper and Pearson's interval."""
    from scipy import stats

    ends = stats.binomtest(hits, cases).proportion_ci(1 - 2 * TAIL)
    return Estimate(100 * hits / cases, 100 * ends.low, 100 * ends.high, "%", f"{hits} of {cases}:")


class Row(NamedTuple):
    """A claim held against one kind of evidence.

    ``margin``: how far the interval lies from where the verdict changes, in its half widths: above 0 where it holds,
    below where it fails, 0 where it decides nothing; at most ``FURTHEST``. Of several estimates, the least.
    """

    id: str
    evidence: str
    our_value: str
    verdict: Verdict
    why: str
    margin: float | None = None


Part = Estimate | Sequence[Estimate] | str


def judge(claim: str, evidence: str, *parts: Part, note: str = "") -> Row:
    """The verdict on a claim by its own rule and bound.

    Each part of the bound, "(a)" and "(b)", takes an estimate, or several that all have to hold, or a sentence that
    says what is missing; one sentence alone stands for all parts. Where the claim is about a share of cases, its part
    takes the estimates of the cases. ``note`` is added to the reason of a verdict. Raises ValueError for an unknown
    claim or another number of parts.
    """
    known = published.claims().set_index("id")
    if claim not in known.index:
        raise ValueError(f"unknown claim {claim!r}; data/paper/claims.csv has {', '.join(known.index)}")
    rule, bound = known.loc[claim, ["rule", "bound"]]
    asked = bounds(rule, bound)
    wanted = sum(not part.missing for part in asked)
    if len(parts) == 1 and isinstance(parts[0], str):
        parts *= wanted
    if len(parts) != wanted:
        raise ValueError(f"{claim} has {wanted} parts ({bound}), got {len(parts)}")
    given = iter(parts)
    found = [_part(part, part.missing or next(given)) for part in asked]
    labelled = list(zip(["(a) ", "(b) "] if len(found) > 1 else [""], found, strict=True))
    verdict = combined(part.verdict for part in found if part.verdict)
    why = list(dict.fromkeys(note for part in found for note in part.notes))
    if verdict != Verdict.NO_DATA:
        each = [f"{label}{part.verdict}" for label, part in labelled if part.verdict]
        why = [f"Rule: {rule}, {bound}", *([", ".join(each)] if len(each) > 1 else []), *why, *([note] if note else [])]
    value = "; ".join(f"{label}{part.value}" for label, part in labelled)
    shown = "–" if all(part.value == "–" for part in found) else value
    margin = min((margin for part in found for margin in part.margins), default=None)
    return Row(claim, evidence, shown, verdict, ". ".join(why) + ".", margin)


class _Judged(NamedTuple):
    """One part of a claim: its verdict (None if it is only shown), its value and notes in words, ``Row.margin``s."""

    verdict: Verdict | None
    value: str
    notes: Sequence[str] = ()
    margins: Sequence[float] = ()


def _part(bound: Bound, given: Part) -> _Judged:
    if isinstance(given, str):
        return _Judged(Verdict.NO_DATA, "–", [given.rstrip(".")])
    estimates = [given] if isinstance(given, Estimate) else list(given)
    if not estimates:
        raise ValueError(f"no estimate for {bound.text!r}: say what is missing in its place.")
    if bound.each:
        estimates = [share_of(estimates, bound.each)]
    value = "; ".join(map(str, estimates))
    if bound.rule is None:
        return _Judged(None, value)
    verdicts = [bound.rule(estimate) for estimate in estimates]
    judged = list(zip(verdicts, estimates, strict=True))
    if len(judged) > LISTED:
        plural = {Verdict.HOLDS: "hold", Verdict.FAILS: "fail"}
        words = ", ".join(f"{verdicts.count(v)} {plural.get(v, v)}" for v in WORST_FIRST if v in verdicts)
        other = "holding" if Verdict.FAILS in verdicts else "failing"
        *_, worst = min((WORST_FIRST.index(v), bound.distance(e, e.value), str(e)) for v, e in judged)
        value = f"{words} of {len(judged)}; nearest to {other}: {worst}"
    near = [bound.nearness(estimate) for estimate in estimates if bound.close(estimate)]
    notes = [f"Close to the bound (a tenth of the half width): {'; '.join(near)}"] if near else []
    signs = {Verdict.HOLDS: 1.0, Verdict.FAILS: -1.0}
    margins = [signs.get(v, 0.0) * min(bound.distance(e, e.low, e.high), FURTHEST) for v, e in judged]
    return _Judged(combined(verdicts), value, notes, margins)


def record_verdicts(notebook: str, rows: Iterable[Row], folder: Path | None = None) -> pd.DataFrame:
    """The verdicts of one notebook with what the paper claims: ``COLUMNS``, one row each.

    They also go to ``<notebook>.json`` in ``folder`` (default: ``results`` in ``output_dir()``, which is never the
    tracked folder), from which the table of all claims is made.
    """
    rows, known = list(rows), published.claims().set_index("id")[["where", "claim", "paper_value"]]
    table = pd.DataFrame(rows, columns=Row._fields).join(known, on="id")[COLUMNS]
    table = table.assign(verdict=table.verdict.map(str))
    records = [{**told, "margin": row.margin} for told, row in zip(table.to_dict("records"), rows, strict=True)]
    text = json.dumps({"notebook": notebook, "verdicts": records}, indent=1, ensure_ascii=False)
    write_atomically((folder or output_dir() / "results") / f"{notebook}.json", text)
    return table
