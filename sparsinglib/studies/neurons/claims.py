"""The estimates by which notebooks 06 and 07 judge claims C46, C47 and C49."""

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from ...core.forward import Z90
from ...paper.claims import Estimate, Row, judge, with_error
from ...suites.suite import Suite
from .frequency import FIRST, LAST, MEAN, MIDDLE, POSITIONS, NeuronActivity, by_activation, curves, pairs, stretched
from .tokens import correlation, pair_entries, shuffled

DRAWS, SEED = 200, 2411_02335
GRID = 200  # evenly spaced ranks at which two curves are compared
NEEDS = "Needs two scales of each activation, and text enough to be cut in two halves"
ONE_RUN = "One run a model: the interval holds the draw of neurons and of text, not that of seeds"

Drawn = Mapping[tuple[str, str], np.ndarray]  # by checkpoint and corpus: draws × positions × GRID, percent


def frequency_verdicts(suite: Suite, uses: Sequence[NeuronActivity]) -> list[Row]:
    """C46: scales lie closer together than activation functions; C47: closer in the middle layer than at the ends.

    Distances are the mean gap between two sorted curves (percentage points) on each corpus: of neighbouring scales, and
    of ReLU and SiLU at one scale, each time the largest.
    """
    missing = unreached(uses) or ("" if all(use.halves for use in uses) else NEEDS)
    scales, models = pairs(uses), by_activation(uses)
    both = itertools.product(models.get("relu", []), models.get("silu", []))
    activations = [(a, b) for a, b in both if a.scale == b.scale]
    if missing or not scales or not activations:
        return [judge(claim, suite.evidence, missing or NEEDS) for claim in ("C46", "C47")]
    drawn, corpora = drawn_curves(uses), dict.fromkeys(use.corpus for use in uses)
    alike, ends = [], {position: np.zeros(DRAWS + 1) for position in (FIRST, LAST)}
    for corpus in corpora:
        apart = [_gaps(drawn, which, corpus, MEAN).max(axis=0) for which in (scales, activations)]
        alike.append(_estimate(apart[0] - apart[1], f"{corpus}:"))
        middle = _gaps(drawn, scales, corpus, MIDDLE).mean(axis=0)
        for position in ends:
            ends[position] += (_gaps(drawn, scales, corpus, position).mean(axis=0) - middle) / len(corpora)
    estimates = [_estimate(values, f"{position} less middle layer:") for position, values in ends.items()]
    rows = (("C46", alike), ("C47", estimates))
    return [judge(claim, suite.evidence, found, note=ONE_RUN) for claim, found in rows]


def token_verdicts(suite: Suite, uses: Sequence[NeuronActivity], min_occurrences: int) -> list[Row]:
    """C49: tokens keep their order by activation ratio from one scale to the next, beyond what shuffles reach."""
    names = [(a.name, b.name) for a, b in pairs(uses)]
    table = pair_entries(uses, min_occurrences)
    estimates = [
        _correlation(part.ratio_a, part.ratio_b, f"{a}, {b}:")
        for (a, b), part in table.groupby(["a", "b"], sort=False)
        if (a, b) in names and len(part) > 3
    ]
    missing = unreached(uses) or ("" if estimates else "Needs two scales of one activation that read the same tokens")
    return [judge("C49", suite.evidence, missing or estimates, note="One run a model, without the error of seeds")]


def unreached(uses: Sequence[NeuronActivity]) -> str:
    """What is missing where thresholds do not reach the rise of perplexity asked for on this text; "" if all do."""
    names = ", ".join(dict.fromkeys(u.checkpoint.name for u in uses if not getattr(u.whole.rule, "target_met", True)))
    return names and f"Missing: a text on which leaving neurons out raises the perplexity of {names} that far"


def drawn_curves(uses: Sequence[NeuronActivity]) -> Drawn:
    """Sorted frequencies at each position, as measured (first) and in resamples of neurons and of the halves of text.

    The halves drawn of a corpus are the same for all checkpoints, which have read the same text.
    """
    random = np.random.default_rng(SEED)
    weights: dict[str, np.ndarray] = {}
    found: dict[tuple[str, str], np.ndarray] = {}
    for use in uses:
        chosen = weights.setdefault(use.corpus, random.integers(0, 3, DRAWS) / 2)
        of_halves = [[layer * 100 for layer in half.neuron_frequency] for half in use.halves]
        draws = [_positions([100 * layer for layer in use.whole.neuron_frequency])]
        for share in chosen:
            layers = [share * a + (1 - share) * b for a, b in zip(*of_halves, strict=True)]
            draws.append(_positions([random.choice(layer, len(layer)) for layer in layers]))
        found[use.checkpoint.name, use.corpus] = np.stack(draws)
    return found


def _positions(layers: Sequence[np.ndarray]) -> np.ndarray:
    return np.stack([stretched(curve, GRID) for curve in curves(layers).values()])


def _gaps(drawn: Drawn, pairs: Sequence[tuple], corpus: str, position: str) -> np.ndarray:
    """Distance of each pair in each draw, (pairs, draws + 1)."""
    place = POSITIONS.index(position)
    ends = [(drawn[a.name, corpus][:, place], drawn[b.name, corpus][:, place]) for a, b in pairs]
    return np.stack([np.abs(x - y).mean(axis=1) for x, y in ends])


def _estimate(values: np.ndarray, note: str) -> Estimate:
    """The measured value (first) with the draws' spread; not their level, since resampling widens any distance."""
    return with_error(float(values[0]), float(values[1:].std(ddof=1)), "points", note)


def _correlation(a: pd.Series, b: pd.Series, note: str) -> Estimate:
    """Spearman's correlation with Fisher's interval (Bonett and Wright), less what one shuffle in twenty reaches."""
    found, chance = correlation(a, b), shuffled(correlation, a, b)
    error = math.sqrt((1 + found**2 / 2) / (len(a) - 3))
    middle = math.atanh(max(-0.999999, min(0.999999, found)))
    low, high = (math.tanh(middle + z * error) for z in (-Z90, Z90))
    return Estimate(found - chance, low - chance, high - chance, "", note)
