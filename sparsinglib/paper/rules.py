"""The five rules of ``claims.csv``: an estimate with its 90 % interval, held against the bound that a claim sets.

*sign* (the interval lies on the stated side of zero), *equivalent* (within the bound on both sides), *not worse* (above
minus the bound), *share* (a share of cases reaches the bound) and *matches* (the printed number agrees with ours). An
interval wholly on the other side fails; any other measured one is inconclusive. Nothing here knows a claim by its id.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from functools import partial

ROUNDING_ERROR = 1e-9  # of a float, beside the half unit of a printed digit


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
        half, size = (self.high - self.low) / 2, abs(self.value)
        # Two digits of the half width, three of an exact number.
        shown, places = (half, 1) if 0 < half < math.inf else (size, 2)
        digits = max(0, places - math.floor(math.log10(shown))) if shown else 0
        value, low, high = (f"{number:z.{digits}f}" for number in (self.value, self.low, self.high))
        ends = f"({low} to {high})" if self.low != self.high else ""
        return " ".join(filter(None, (self.note, value, ends, self.unit)))


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
    """One part of a claim's bound: its ``rule`` with what it asks for; None for a value that is shown and not judged.

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
        """Whether the estimate or an end of its interval is within a tenth of its half width of where it changes.

        Against a printed number only the ends: an estimate beside it could not be clearer.
        """
        middle = (estimate.value,) if self.at else ()
        return self.distance(estimate, estimate.low, estimate.high, *middle) <= 0.1

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
        case ["share", number, "%", ("within" | "not") as asked, *case]:  # "not worse by 1 point": of each case
            rule = "not worse" if asked == "not" else "matches" if case == ["rounding"] else "equivalent"
            each = _bound(rule, " ".join(case).removeprefix("worse by "))
            found = Bound(text, partial(share, bound=float(number)), (float(number),), each)
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


def share_of(cases: Sequence[Estimate], bound: Bound) -> Estimate:
    """Percent of cases that hold with their whole interval, at least; at most those that do not fail."""
    assert bound.rule is not None
    verdicts = [bound.rule(case) for case in cases]
    held, failed, n = verdicts.count(Verdict.HOLDS), verdicts.count(Verdict.FAILS), len(cases)
    note = f"{held} of {n} hold, {failed} fail:"
    return Estimate(100 * held / n, 100 * held / n, 100 * (n - failed) / n, "%", note)


def combined(verdicts: Iterable[str]) -> Verdict:
    """One verdict for several parts: all have to hold, one that fails decides, anything else is inconclusive."""
    said = set(verdicts)
    if said <= {Verdict.NO_DATA}:
        return Verdict.NO_DATA
    return _verdict(said == {Verdict.HOLDS}, Verdict.FAILS in said)
