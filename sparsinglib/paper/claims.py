"""The verdict on a claim: an estimate with its 90 % interval, held against the rule and bound in ``claims.csv``.

Five rules: *sign* (the interval lies on the stated side of zero), *equivalent* (within the bound on both sides), *not
worse* (above minus the bound), *share* (a share of cases reaches the bound) and *matches* (the printed number agrees
with ours). An interval wholly on the other side fails; any other measured one is inconclusive. Rule and bound are read
from ``data/paper/claims.csv``, where they were set down before the results, so nothing here knows a claim by its id.
"""

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from ..files import output_dir, write_atomically
from . import published

COLUMNS = ["id", "where", "claim", "paper_value", "evidence", "our_value", "verdict", "why"]
TAIL = 0.05  # left out at each end of a 90 % interval
ROUNDING_ERROR = 1e-9  # of a float, beside the half unit of a printed digit
FURTHEST = 10.0  # half widths; also for numbers without an interval
LISTED = 3  # estimates written out; of more, the one nearest to failing stands for all


class Verdict(StrEnum):
    """What a rule says. ``INCONCLUSIVE``: measured, but the interval decides nothing; ``NO_DATA``: not measured."""

    HOLDS = "holds"
    FAILS = "fails"
    INCONCLUSIVE = "inconclusive"
    NO_DATA = "no data"


@dataclass(frozen=True)
class Estimate:
    """A number with its 90 % interval, in the unit of its claim; ``low`` is ``high`` for a number known exactly.

    ``note`` says what it is an estimate of. ``printed``: the paper's number as printed, where they are compared.
    ``step``: what one answer to an example moves it by, where it is a mean over answers.
    Raises ValueError where an end is not a number or the ends are in the wrong order.
    """

    value: float
    low: float
    high: float
    unit: str = ""
    note: str = ""
    printed: str = ""
    step: float = 0.0

    def __post_init__(self) -> None:
        if math.isnan(self.value) or not self.low <= self.high:
            ends = f"{self.value} ({self.low} to {self.high})"
            raise ValueError(f"{self.note or 'an estimate'} is {ends}: no interval. Say what is missing in its place.")

    def __str__(self) -> str:
        digits = self._digits()
        note, unit = self.note and f"{self.note} ", self.unit and f" {self.unit}"
        if self.low == self.high:
            return f"{note}{self.value:.{digits}f}{unit}"
        return f"{note}{self.value:.{digits}f} ({self.low:.{digits}f} to {self.high:.{digits}f}){unit}"

    def _digits(self) -> int:
        """Decimal places: two digits of the half width, three of an exact number."""
        half, size = (self.high - self.low) / 2, abs(self.value)
        shown, places = (half, 1) if 0 < half < math.inf else (size, 2)
        return max(0, places - math.floor(math.log10(shown))) if shown else 0


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


def proportion(hits: int, cases: int, note: str = "") -> Estimate:
    """Percent of ``cases`` drawn at random that are hits, with Clopper and Pearson's interval."""
    from scipy import stats

    ends = stats.binomtest(hits, cases).proportion_ci(1 - 2 * TAIL)
    return Estimate(100 * hits / cases, 100 * ends.low, 100 * ends.high, "%", note or f"{hits} of {cases}:")


def _verdict(holds: bool, fails: bool) -> Verdict:
    return Verdict.HOLDS if holds else Verdict.FAILS if fails else Verdict.INCONCLUSIVE


def sign(estimate: Estimate, side: str) -> Verdict:
    """The interval lies on the ``side`` (">" or "<") of zero."""
    above, below = estimate.low > 0, estimate.high < 0
    return _verdict(above, below) if side == ">" else _verdict(below, above)


def equivalent(estimate: Estimate, bound: float) -> Verdict:
    """The interval lies within ``bound`` of zero, on both sides."""
    inside = -bound < estimate.low and estimate.high < bound
    return _verdict(inside, estimate.low > bound or estimate.high < -bound)


def not_worse(estimate: Estimate, bound: float) -> Verdict:
    """The interval lies above minus ``bound``."""
    return _verdict(estimate.low > -bound, estimate.high < -bound)


def share(estimate: Estimate, bound: float, side: str = ">") -> Verdict:
    """A share in percent is at least (">") or at most ("<") ``bound``, or its interval has ``bound`` inside ("=")."""
    if side == "=":
        return _verdict(estimate.low <= bound <= estimate.high, True)
    reached, missed = estimate.low >= bound, estimate.high < bound
    return _verdict(reached, missed) if side == ">" else _verdict(estimate.high <= bound, estimate.low > bound)


def matches(estimate: Estimate, rounding: bool = False) -> Verdict:
    """The number printed in the paper lies inside the interval; with ``rounding``, by up to half of its last digit."""
    printed = Decimal(estimate.printed)
    slack = float(Decimal(1).scaleb(int(printed.as_tuple().exponent)) / 2) + ROUNDING_ERROR if rounding else 0.0
    return _verdict(estimate.low - slack <= float(printed) <= estimate.high + slack, True)


@dataclass(frozen=True)
class Bound:
    """One part of a claim's bound: its ``rule`` with what it asks for; "" for a value that is shown and not judged.

    ``at`` are the values where the verdict changes; where there are none, it is the printed number. ``each``: the share
    is that of the cases which hold by this bound. ``missing``: what the list of claims itself says cannot be had.
    """

    text: str
    rule: Callable[[Estimate], Verdict] | None = None
    at: tuple[float, ...] = ()
    each: "Bound | None" = None
    missing: str = ""

    def distance(self, estimate: Estimate, *ends: float) -> float:
        """From the nearest of ``ends`` to where the verdict changes, in half widths; infinite without an interval."""
        half = (estimate.high - estimate.low) / 2
        places = self.at or (float(estimate.printed),)
        return min(abs(end - place) / half for end in ends for place in places) if half else math.inf

    def close(self, estimate: Estimate) -> bool:
        """Whether the estimate or an end of its interval is within a tenth of its half width of where it changes."""
        return self.distance(estimate, estimate.low, estimate.value, estimate.high) <= 0.1

    def nearness(self, estimate: Estimate) -> str:
        """Which estimate is close, and from how many answers on the interval has an end on the other side."""
        name = estimate.note.rstrip(":") or "the estimate"
        if not estimate.step:
            return name
        way = self.distance(estimate, estimate.low, estimate.high) * (estimate.high - estimate.low) / 2
        answers = max(1, math.ceil(way / estimate.step))
        return f"{name}, {answers} {'answer' if answers == 1 else 'answers'} from another verdict"


def bounds(rule: str, text: str) -> list[Bound]:
    """The parts of a bound as written in ``claims.csv``; none where the rule is "none". ValueError if unreadable."""
    if rule == "none":
        return []
    pieces = [piece for half in text.split("; ") for piece in half.split(", and ")]
    return [_bound(rule, piece.removeprefix("(a) ").removeprefix("(b) ")) for piece in pieces]


def _bound(rule: str, text: str) -> Bound:
    match [rule, *text.replace(",", "").split()]:
        case ["sign", (">" | "<") as side, "0", *_]:
            found = Bound(text, partial(sign, side=side), (0.0,))
        case ["equivalent", number, *_]:
            found = Bound(text, partial(equivalent, bound=float(number)), (-float(number), float(number)))
        case ["not worse", number, *_]:
            found = Bound(text, partial(not_worse, bound=float(number)), (-float(number),))
        case ["share", "at", "most", number, "%"]:
            found = Bound(text, partial(share, bound=float(number), side="<"), (float(number),))
        case ["share", "width", "below", *_]:
            found = Bound(text, partial(share, bound=100.0, side="<"), (100.0,))
        case ["share", number, "%", "inside", *_]:
            found = Bound(text, partial(share, bound=float(number), side="="), (float(number),))
        case ["share", number, "%", *case]:
            found = Bound(text, partial(share, bound=float(number)), (float(number),), _case(case))
        case ["matches", "printed" | "as", *_]:
            found = Bound(text, matches)
        case ["matches", "rounding"]:
            found = Bound(text, partial(matches, rounding=True))
        case ["matches", "bound", "printed", *_]:
            found = Bound(text)
        case ["matches", "the", "limit:", "no", "data", *_]:
            found = Bound(text, missing=text)
        case _:
            raise ValueError(f"the bound {text!r} of the rule {rule!r} cannot be read")
    return found


def _case(words: Sequence[str]) -> Bound:
    """What each case of a share has to meet."""
    match words:
        case ["not", "worse", "by", number, *_]:
            return _bound("not worse", number)
        case ["within", "rounding"]:
            return _bound("matches", "rounding")
        case ["within", number, *_]:
            return _bound("equivalent", number)
    raise ValueError(f"a share of cases {' '.join(words)!r} cannot be read")


def share_of(cases: Sequence[Estimate], bound: Bound) -> Estimate:
    """Percent of cases that hold by their point estimates; between those that surely hold and that do not fail."""
    assert bound.rule is not None
    verdicts = [bound.rule(case) for case in cases]
    by_value = [bound.rule(replace(case, low=case.value, high=case.value)) for case in cases].count(Verdict.HOLDS)
    held, failed, n = verdicts.count(Verdict.HOLDS), verdicts.count(Verdict.FAILS), len(cases)
    note, value = f"{held} of {n} hold, {failed} fail:", min(max(by_value, held), n - failed)
    return Estimate(100 * value / n, 100 * held / n, 100 * (n - failed) / n, "%", note)


def combined(verdicts: Iterable[str]) -> Verdict:
    """One verdict for several parts: all have to hold, one that fails decides, anything else is inconclusive."""
    said = set(verdicts)
    if said <= {Verdict.NO_DATA}:
        return Verdict.NO_DATA
    return _verdict(said == {Verdict.HOLDS}, Verdict.FAILS in said)


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
    wanted = [part for part in asked if not part.missing]
    if len(parts) == 1 and isinstance(parts[0], str):
        parts *= len(wanted)
    if len(parts) != len(wanted):
        raise ValueError(f"{claim} has {len(wanted)} parts ({bound}), got {len(parts)}")
    given = iter(parts)
    found = [_part(part, part.missing or next(given)) for part in asked]
    judged = [verdict for verdict, _, _ in found if verdict is not None]
    labels = ["(a) ", "(b) "] if len(found) > 1 else [""]
    each = [f"{label}{verdict}" for label, (verdict, _, _) in zip(labels, found, strict=True) if verdict]
    verdict = combined(judged)
    said = [] if verdict == Verdict.NO_DATA else [f"Rule: {rule}, {bound}"]
    said += [", ".join(each)] if len(each) > 1 and said else []
    said += dict.fromkeys(text for _, _, notes in found for text in notes)
    said += [note] if note and said and verdict != Verdict.NO_DATA else []
    values = [f"{label}{value}" for label, (_, value, _) in zip(labels, found, strict=True)]
    shown = "–" if all(value == "–" for _, value, _ in found) else "; ".join(values)
    margins = [margin for part, given in zip(wanted, parts, strict=True) for margin in _margins(part, given)]
    return Row(claim, evidence, shown, verdict, ". ".join(said) + ".", min(margins) if margins else None)


def _margins(bound: Bound, given: Part) -> list[float]:
    """``Row.margin`` of each estimate of a part that is judged."""
    if isinstance(given, str) or bound.rule is None:
        return []
    estimates = [given] if isinstance(given, Estimate) else list(given)
    signs = {Verdict.HOLDS: 1, Verdict.FAILS: -1}
    estimates = [share_of(estimates, bound.each)] if bound.each else estimates
    sides = [signs.get(bound.rule(estimate), 0) for estimate in estimates]
    distances = [min(bound.distance(e, e.low, e.high), FURTHEST) for e in estimates]
    return [float(side * distance) for side, distance in zip(sides, distances, strict=True)]


def _part(bound: Bound, given: Part) -> tuple[Verdict | None, str, list[str]]:
    """Verdict on one part (None if it is only shown), its value in words, and what has to be said of it."""
    if isinstance(given, str):
        return Verdict.NO_DATA, "–", [given.rstrip(".")]
    estimates = [given] if isinstance(given, Estimate) else list(given)
    if not estimates:
        raise ValueError(f"no estimate for {bound.text!r}: say what is missing in its place.")
    if bound.each:
        estimates = [share_of(estimates, bound.each)]
    if bound.rule is None:
        return None, "; ".join(map(str, estimates)), []
    verdicts = [bound.rule(estimate) for estimate in estimates]
    near = [bound.nearness(estimate) for estimate in estimates if bound.close(estimate)]
    notes = [f"Close to the bound (a tenth of the half width): {'; '.join(near)}"] if near else []
    if len(estimates) <= LISTED:
        return combined(verdicts), "; ".join(map(str, estimates)), notes
    words = ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in _WORST_FIRST if verdict in verdicts)
    _, _, worst = min(
        (_WORST_FIRST.index(v), bound.distance(e, e.value), str(e)) for v, e in zip(verdicts, estimates, strict=True)
    )
    return combined(verdicts), f"{words} of {len(estimates)}; nearest to failing: {worst}", notes


_WORST_FIRST = [Verdict.FAILS, Verdict.INCONCLUSIVE, Verdict.HOLDS]


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
