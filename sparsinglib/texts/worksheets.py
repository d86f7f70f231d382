"""Mathematics problems with worked answers, generated from a seed: whole-number arithmetic only, so that every machine
writes the same text.
"""

import random
import re
from collections.abc import Iterator

CHARACTERS = 20_000_000
PROBLEMS = 12  # on one worksheet


def _arithmetic(r: random.Random) -> str:
    a, b, c = r.randint(2, 999), r.randint(2, 999), r.randint(2, 19)
    kind = r.randrange(4)
    if kind == 0:
        return f"What is {a} + {b} - {c}? {a} + {b} = {a + b}, and {a + b} - {c} = {a + b - c}. Answer: {a + b - c}"
    if kind == 1:
        tens, ones = a // 10 * 10, a % 10
        return f"Work out {a} * {c}. {tens} * {c} = {tens * c}, {ones} * {c} = {ones * c}. Answer: {a * c}"
    if kind == 2:
        return f"Divide {a} by {c}. {c} * {a // c} = {a // c * c}. Answer: {a // c}, remainder {a % c}"
    return f"What is ({a} - {b}) * {c}? {a} - {b} = {a - b}. Answer: {(a - b) * c}"


def _algebra(r: random.Random) -> str:
    x, a, b = r.randint(-20, 20), r.randint(2, 12), r.randint(1, 60)
    name = r.choice("xyzabktw")
    if r.random() < 0.6:
        return f"Solve {a}*{name} + {b} = {a * x + b} for {name}. {a}*{name} = {a * x}. Answer: {name} = {x}"
    p, q = r.randint(1, 12), r.randint(1, 12)
    low, high = sorted((-p, -q))
    factors = f"({name} + {p})*({name} + {q})"
    return f"Solve {name}**2 + {p + q}*{name} + {p * q} = 0. {factors} = 0. Answer: {name} = {low} or {name} = {high}"


def _polynomial(coefficients: list[int], name: str) -> str:
    terms = [f"{c}*{name}**{power}" for power, c in enumerate(coefficients) if c]
    text = (" + ".join(reversed(terms)) or "0").replace("+ -", "- ")
    return re.sub(r"\*\*1\b", "", text.replace(f"*{name}**0", ""))


def _calculus(r: random.Random) -> str:
    name = r.choice("xtuz")
    coefficients = [r.randint(-9, 9) for _ in range(r.randint(3, 5))]
    slope = [power * c for power, c in enumerate(coefficients)][1:]
    if r.random() < 0.5:
        at = r.randint(-3, 3)
        value = sum(c * at**power for power, c in enumerate(slope))
        return (
            f"Differentiate {_polynomial(coefficients, name)} with respect to {name} at {name} = {at}. "
            f"The derivative is {_polynomial(slope, name)}. Answer: {value}"
        )
    question = f"Find an antiderivative of {_polynomial(slope, name)}."
    return f"{question} Answer: {_polynomial([0, *coefficients[1:]], name)}"


def _number_theory(r: random.Random) -> str:
    a, b = r.randint(4, 900), r.randint(4, 900)
    if r.random() < 0.5:
        steps, x, y = [], a, b
        while y:
            steps.append(f"{x} = {x // y} * {y} + {x % y}")
            x, y = y, x % y
        word = r.choice(("greatest common divisor", "highest common factor"))
        return f"What is the {word} of {a} and {b}? {'; '.join(steps)}. Answer: {x}"
    factors, rest = [], a
    for p in range(2, a + 1):
        while rest % p == 0:
            factors.append(p)
            rest //= p
        if rest == 1:
            break
    if len(factors) == 1:
        return f"Is {a} prime? Answer: yes"
    return f"Write {a} as a product of primes. Answer: {' * '.join(map(str, factors))}"


def _comparison(r: random.Random) -> str:
    numbers = r.sample(range(-99, 1000), r.randint(2, 6))
    listed = ", ".join(map(str, numbers))
    kind = r.randrange(3)
    if kind == 0:
        return f"Sort {listed} in increasing order. Answer: {', '.join(map(str, sorted(numbers)))}"
    if kind == 1:
        return f"Which is the largest of {listed}? Answer: {max(numbers)}"
    a, b = numbers[:2]
    return f"Is {a} greater than {b}? {a} - {b} = {a - b}. Answer: {'yes' if a > b else 'no'}"


UNITS = [
    ("kilometres", "metres", 1000),
    ("metres", "centimetres", 100),
    ("hours", "minutes", 60),
    ("days", "hours", 24),
    ("kilograms", "grams", 1000),
    ("litres", "millilitres", 1000),
    ("weeks", "days", 7),
    ("minutes", "seconds", 60),
]


def _measurement(r: random.Random) -> str:
    (large, small, factor), a = r.choice(UNITS), r.randint(2, 400)
    if r.random() < 0.5:
        return f"How many {small} are there in {a} {large}? {a} * {factor} = {a * factor}. Answer: {a * factor}"
    b = r.randint(1, factor - 1)
    return f"Write {a * factor + b} {small} in {large} and {small}. Answer: {a} {large} and {b} {small}"


def worksheets(seed: int) -> Iterator[str]:
    """Worksheets of ``PROBLEMS`` problems, until ``CHARACTERS`` are written; the same for the same seed."""
    r, length = random.Random(seed), 0
    kinds = (_arithmetic, _algebra, _calculus, _number_theory, _comparison, _measurement)
    while length < CHARACTERS:
        sheet = "\n".join(r.choice(kinds)(r) for _ in range(PROBLEMS))
        length += len(sheet)
        yield sheet
