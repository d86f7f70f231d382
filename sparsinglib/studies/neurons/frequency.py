"""How often each neuron fires, by corpus, layer and scale (Figures 9 and 16), and the numbers behind the words.

A neuron's activation frequency is the share of tokens on which it is active at CETT-PPL-p % (Sec 5.3). Curves are
compared by Wasserstein distance in percentage points: the mean gap between the two sorted curves.
"""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import cast

import numpy as np
import pandas as pd
from scipy.stats import wasserstein_distance

from ...core import arguments
from ...core.measure import Measurement
from ...core.thresholds import Thresholds
from ...suites import survey
from ...suites.suite import Checkpoint, Suite

POSITIONS = ("mean over layers", "first layer", "middle layer", "last layer")
MEAN, FIRST, MIDDLE, LAST = POSITIONS
TOP = 0.1  # the share of neurons that fire most often
DEAD = 0.001  # the authors' scripts call a neuron dead that fires on less than 0.1 % of the tokens
SPECIALISED = 5  # times as often on one corpus as on any other
RARE = 0.01  # neurons that fire less often than this on every corpus are not called specialised
POINTS_DRAWN = 200


@dataclass(frozen=True, eq=False)
class NeuronActivity:
    """What one checkpoint leaves active on one corpus; ``halves`` is empty if the text is too short to be cut."""

    checkpoint: Checkpoint
    corpus: str
    whole: Measurement
    halves: tuple[Measurement, ...] = ()


def validate_parameters(suite: Suite, tokens: int, ppl_increase_pct: float, top_share: float = TOP) -> None:
    """Raise ValueError for sizes that make no sense, before anything is loaded; ``tokens`` 0 means the suite's."""
    length = suite.sequence_length
    if 0 < arguments.whole("tokens", tokens, 0) < length:
        raise ValueError(f"tokens is {tokens}: give at least one window of {length}, or 0 for the suite's.")
    arguments.number("ppl_increase_pct", ppl_increase_pct, "a rise in percent, above 0", lambda p: 0 < p <= 1000)
    arguments.number("top_share", top_share, "a share above 0, at most 1", lambda share: 0 < share <= 1)


def measure_frequencies(
    suite: Suite, ppl_increase_pct: float = 1.0, tokens: int = 0, jobs: int = 1
) -> list[NeuronActivity]:
    """Measure every checkpoint of a suite on each of its corpora, with thresholds found on the mixture.

    ``tokens`` of each corpus (0: the suite's). A text of two batches or more is measured in two halves, whose
    differences are the noise floor. Raises ValueError for bad sizes and what measuring raises.
    """
    validate_parameters(suite, tokens, ppl_increase_pct)
    size, length = tokens or suite.tokens, suite.sequence_length
    parts = 2 if size >= 2 * max(survey.BATCH_TOKENS, length) else 1
    rule = survey.PPLIncrease(ppl_increase_pct)
    places = list(itertools.product(suite.checkpoints, suite.corpora))
    texts = [(c, survey.Text(corpus, size, length, part, parts)) for c, corpus in places for part in range(parts)]
    done = survey.run(survey.measured, [survey.Task(c, rule, text) for c, text in texts], jobs)
    pieces = [tuple(done[i : i + parts]) for i in range(0, len(done), parts)]
    return [
        NeuronActivity(c, corpus, reduce(add, found), found if parts == 2 else ())
        for (c, corpus), found in zip(places, pieces, strict=True)
    ]


def by_checkpoint(uses: Iterable[NeuronActivity]) -> dict[Checkpoint, list[NeuronActivity]]:
    """The measurements of each checkpoint, one a corpus, in the order of the suite."""
    return {checkpoint: list(group) for checkpoint, group in itertools.groupby(uses, lambda use: use.checkpoint)}


def by_activation(uses: Iterable[NeuronActivity]) -> dict[str, list[Checkpoint]]:
    """The checkpoints of each activation, in the order of the suite: from the smallest scale to the largest."""
    found: dict[str, list[Checkpoint]] = {}
    for checkpoint in by_checkpoint(uses):
        found.setdefault(checkpoint.activation, []).append(checkpoint)
    return found


def pairs(uses: Iterable[NeuronActivity], ends: bool = False) -> list[tuple[Checkpoint, Checkpoint]]:
    """Pairs of neighbouring scales of one activation in the suite's order, with ``ends`` its first and last too."""
    chosen = []
    for mine in by_activation(uses).values():
        chosen += [*itertools.pairwise(mine), *([(mine[0], mine[-1])] if ends and len(mine) > 2 else [])]
    return [pair for pair in chosen if pair[0].scale != pair[1].scale]


def ending(suite: Suite, save_as: str = "") -> str:
    """How names of pictures end: "_" and ``save_as`` or the suite's name; "" for the ladder."""
    name = save_as or ("" if suite.evidence == "ladder" else suite.name)
    return name and f"_{name}"


def summary(uses: Iterable[NeuronActivity]) -> pd.DataFrame:
    """One row a checkpoint: its number of layers, CETT found, and the activation ratio (%) on each corpus."""
    rows = []
    for c, mine in by_checkpoint(uses).items():
        one = mine[0].whole
        row = {"checkpoint": c.name, "layers": len(one.neuron_frequency), "CETT": cast(Thresholds, one.rule).cett}
        rows.append(row | {f"{use.corpus} (%)": 100 * use.whole.activation_ratio for use in mine})
    return pd.DataFrame(rows)


def curves(frequencies: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """The activation frequencies of each layer's neurons, most frequent first, at ``POSITIONS``; middle is L // 2.

    The mean over layers is that of the sorted curves, rank by rank; a narrower layer is stretched to the widest.
    """
    layers = [np.sort(f)[::-1] for f in frequencies]
    width = max(map(len, layers))
    mean = np.mean([stretched(layer, width) for layer in layers], axis=0)
    return dict(zip(POSITIONS, (mean, layers[0], layers[len(layers) // 2], layers[-1]), strict=True))


def stretched(curve: np.ndarray, points: int) -> np.ndarray:
    """The sorted curve read at ``points`` evenly spaced ranks; itself where it has that many."""
    return curve[((np.arange(points) + 0.5) * len(curve) / points).astype(int)]


def curve_table(uses: Iterable[NeuronActivity]) -> pd.DataFrame:
    """Tidy: checkpoint, scale, activation, corpus, position, neurons_pct (share of neurons), frequency_pct."""
    frames = []
    for use in uses:
        c = use.checkpoint
        labels = {"checkpoint": c.name, "scale": c.scale, "activation": c.activation, "corpus": use.corpus}
        for position, curve in curves(use.whole.neuron_frequency).items():
            shown = 100 * stretched(curve, min(POINTS_DRAWN, len(curve)))
            share = 100 * (np.arange(len(shown)) + 0.5) / len(shown)
            frames.append(pd.DataFrame(labels | {"position": position, "neurons_pct": share, "frequency_pct": shown}))
    return pd.concat(frames, ignore_index=True)


def distances(uses: Sequence[NeuronActivity]) -> pd.DataFrame:
    """Wasserstein distance between curves, in percentage points: kind, activation, position, corpus, a, b, distance_pp.

    Kinds: "scales" (one activation, two scales), "activations" (one scale, two activations), "halves" (one checkpoint
    on the two halves of the text: the noise floor, on the wide side, since a half has half the tokens).
    """
    compared: list[tuple] = [
        ("halves", use.checkpoint.activation, use, use, *(curves(half.neuron_frequency) for half in use.halves))
        for use in uses
        if use.halves
    ]
    whole = [(use, curves(use.whole.neuron_frequency)) for use in uses]
    for (a, x), (b, y) in itertools.combinations(whole, 2):
        alike, level = a.checkpoint.activation == b.checkpoint.activation, a.checkpoint.scale == b.checkpoint.scale
        if a.corpus == b.corpus and alike != level:
            kind = ("scales", a.checkpoint.activation) if alike else ("activations", "both")
            compared.append((*kind, a, b, x, y))
    rows = [
        (*kind, position, a.corpus, a.checkpoint.name, b.checkpoint.name,
         wasserstein_distance(100 * x[position], 100 * y[position]))
        for *kind, a, b, x, y in compared
        for position in POSITIONS
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=["kind", "activation", "position", "corpus", "a", "b", "distance_pp"])


def largest(table: pd.DataFrame) -> pd.DataFrame:
    """One row an activation and position: largest distance between scales and halves, smallest between activations.

    In percentage points; NaN where there is no such pair.
    """
    keys = ["activation", "position"]
    wide = table[table.kind != "activations"].groupby([*keys, "kind"]).distance_pp.max().unstack()
    wide = wide.reindex(columns=["scales", "halves"])
    between = table[table.kind == "activations"].groupby("position").distance_pp.min()
    wide["activations"] = wide.index.get_level_values("position").map(between)
    return wide.reset_index().sort_values(keys, key=lambda c: c.map(POSITIONS.index) if c.name == "position" else c)


def top_overlap(uses: Sequence[NeuronActivity], share: float = TOP) -> pd.DataFrame:
    """Overlap of the most frequent neurons of two corpora, mean over layers, beside what chance gives.

    Columns checkpoint, corpus_a, corpus_b, overlap, chance (fractions). A corpus against itself compares its halves.
    """
    rows = []
    for c, mine in by_checkpoint(uses).items():
        compared: list[tuple] = [(a.corpus, b.corpus, a.whole, b.whole) for a, b in itertools.combinations(mine, 2)]
        compared += [(use.corpus, use.corpus, *use.halves) for use in mine if use.halves]
        rows += [(c.name, a, b, *_overlap(x, y, share)) for a, b, x, y in compared]
    return pd.DataFrame(rows, columns=["checkpoint", "corpus_a", "corpus_b", "overlap", "chance"])


def _overlap(a: Measurement, b: Measurement, share: float) -> tuple[float, float]:
    found, chance = [], []
    for x, y in zip(a.neuron_frequency, b.neuron_frequency, strict=True):
        kept = max(1, round(share * len(x)))
        top = [set(np.argsort(-f, kind="stable")[:kept].tolist()) for f in (x, y)]
        found.append(len(top[0] & top[1]) / kept)
        chance.append(kept / len(x))  # expected overlap of two random sets of that size
    return float(np.mean(found)), float(np.mean(chance))


def neuron_table(uses: Sequence[NeuronActivity], share: float = TOP) -> pd.DataFrame:
    """One row a checkpoint, in percent: dead neurons, specialised ones by corpus, overlap of the most frequent.

    Dead: active on less than 0.1 % of the tokens of all corpora together. Specialised: five times as often active on
    one corpus as on any other, and on 1 % of its tokens or more.
    """
    overlap = top_overlap(uses, share)
    rows = []
    for c, mine in by_checkpoint(uses).items():
        frequency = np.array([np.concatenate(use.whole.neuron_frequency) for use in mine])
        overall = np.average(frequency, axis=0, weights=[use.whole.tokens for use in mine])
        row = {"checkpoint": c.name, "neurons": frequency.shape[1], "dead": 100 * float((overall < DEAD).mean())}
        own = overlap[overlap.checkpoint == c.name]
        if len(mine) > 1:
            row |= {f"only {use.corpus}": 100 * _specialised(frequency, i) for i, use in enumerate(mine)}
            row["top overlap, corpora"] = 100 * own[own.corpus_a != own.corpus_b].overlap.mean()
        if mine[0].halves:
            row["halves"] = 100 * own[own.corpus_a == own.corpus_b].overlap.mean()
        rows.append(row | {"chance": 100 * own.chance.mean()})
    return pd.DataFrame(rows)


def _specialised(frequency: np.ndarray, corpus: int) -> float:
    others = np.delete(frequency, corpus, axis=0).max(axis=0)
    return float(((frequency[corpus] >= RARE) & (frequency[corpus] >= SPECIALISED * others)).mean())
