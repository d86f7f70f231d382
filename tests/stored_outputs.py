"""How nbval compares a notebook's stored outputs with fresh ones: words and whole numbers exactly, fractions nearly.

A number next to its rounding boundary is printed one way on one processor and the other way on another. So a number
with a decimal point or an exponent may differ by one unit of its last printed digit (of the finer of the two). A cell
tagged "within-0.7" lets such a number differ by 0.7: on another processor a few examples of tasks change sides, and a
neuron or two between the most active ones and the others.
"""

import re
from copy import deepcopy
from decimal import Decimal
from functools import partial
from itertools import zip_longest

# Not part of a word: the 0.4 of a model's name is no measurement.
NUMBER = re.compile(r"(?<![\w.])([-+−]?(?:\d[\d,]*)(?:\.\d+)?(?:[eE][-+]?\d+)?)(?![\w]|\.\d)")
TEXTS = ("text", "text/plain", "text/html", "text/markdown")


def near(one: str, other: str, within: str = "0") -> bool:
    """Whether two printed numbers differ by a unit of the last digit, or ``within``, at most; whole ones are equal."""
    if one == other or not any(mark in one + other for mark in ".eE"):
        return one == other
    a, b = (Decimal(text.replace(",", "").replace("−", "-")) for text in (one, other))
    return abs(a - b) <= max(min(Decimal(1).scaleb(number.as_tuple().exponent) for number in (a, b)), Decimal(within))


def reconciled(fresh: str, stored: str, within: str = "0") -> str:
    """``stored`` if ``fresh`` says the same but for last digits and the width of columns, else ``fresh``."""
    parts = [NUMBER.split(text) for text in (fresh, stored)]  # words and numbers in turn
    pairs = list(zip_longest(*parts, fillvalue=""))
    words = all(re.sub(" +", " ", a) == re.sub(" +", " ", b) for a, b in pairs[::2])
    return stored if words and all(near(a, b, within) for a, b in pairs[1::2]) else fresh


def compare(exactly, within, fresh, stored, *rest):
    """nbval's comparison, ``exactly``, of outputs whose texts were reconciled."""
    fresh = deepcopy(fresh)
    for output, kept in zip(fresh, stored, strict=False):
        for new, old in ((output, kept), (output.get("data", {}), kept.get("data", {}))):
            for name in new.keys() & old.keys() & set(TEXTS):
                new[name] = reconciled(new[name], old[name], within)
    return exactly(fresh, stored, *rest)


def pytest_collection_modifyitems(items):
    for item in items:
        if hasattr(item, "compare_outputs"):  # one of nbval's cells
            tags = item.cell.metadata.get("tags", [])
            within = next((tag.removeprefix("within-") for tag in tags if tag.startswith("within-")), "0")
            item.compare_outputs = partial(compare, item.compare_outputs, within)
