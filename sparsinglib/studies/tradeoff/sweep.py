"""Perplexity against activation ratio, rule by rule on the same batches (Sec 4.1, Figures 2 and 15).

Grids are chosen here: a short probe finds for each rule the share of neurons at which perplexity has risen by three
quarters, the end of the paper's axis, and the points lie evenly (in logarithm) between that and all nonzero neurons.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from transformers import PreTrainedModel

from ...core import arguments, forward
from ...core.calibration import FAMILIES, GateSample
from ...core.cett import CettCurves, layer_cett
from ...core.ffn import FFN
from ...core.forward import Batches, TokenBatches
from ...core.hooks import hook_ffns
from ...core.layout import find_ffns
from ...core.rules import FAT, Rule, StraightforwardReLU
from ...core.scan import Scan, scan
from ...core.thresholds import Thresholds
from ...suites import survey
from ...suites.suite import Checkpoint, Suite
from ...suites.survey import PPLIncrease, Task, Text
from ...texts import corpora

CETT = "CETT"
ZEROS = "straightforward ReLU"
ALL = "all neurons"  # what stands in for straightforward ReLU where no neuron is exactly zero
HIGHEST = 1.75  # perplexity ratio up to which a rule is followed; Figure 2 runs from 20 to 35
CETT_GRID = (0.01, 0.03, 0.06, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.65, 0.85)
LEAST_POINTS, LEAST_TOKENS = 4, 512
PROBE_SHARE = 16  # the probe reads this part of the first batch, one window at least
PROBE = 0.5 ** np.arange(1, 7)  # shares of the nonzero neurons that it tries
NO_FALL = 1e-4  # of a layer's CETT: below it is rounding of float32
LAYER_TOKENS, LAYER_POINTS = 1024, 40  # on how many tokens, at how many thresholds CETT is tested for falls


@dataclass(frozen=True)
class Sweep:
    """Stands for a rule in a survey's task: every rule family at ``points`` parameters."""

    points: int


@dataclass(frozen=True, eq=False)
class Tradeoff:
    """What the rules do to one checkpoint on one text.

    ``points`` has one row a rule and parameter: rule, parameter, activation_ratio, dense_ppl, ppl, ppl_ratio,
    ppl_ratio_se, kl, kl_se (CETT's only). ``rises`` (points, blocks) holds sums of sparse - dense losses in nats over
    blocks of tokens, ``counts`` (blocks,) their targets. ``falls`` has one row a layer, see ``layer_falls``.
    ``found`` are the thresholds of CETT-PPL-1 % on the same text.
    """

    checkpoint: Checkpoint
    points: pd.DataFrame
    rises: np.ndarray
    counts: np.ndarray
    falls: pd.DataFrame
    found: Thresholds

    @property
    def rules(self) -> list[str]:
        """Names of the rules that have a curve; straightforward ReLU and all neurons are the point where they end."""
        return [rule for rule in self.points.rule.unique() if rule not in (ZEROS, ALL)]

    @property
    def unpruned(self) -> float:
        """Activation ratio with every nonzero neuron active: straightforward ReLU's, or 1."""
        return float(self.points[self.points.rule.isin((ZEROS, ALL))].activation_ratio.iloc[0])


def pick(suite: Suite, small: str = "", large: str = "") -> list[Checkpoint]:
    """The checkpoints of a small and a large scale, by default the first and last of the suite with ReLU and SiLU.

    If no scale has both, the first and last scale. Raises ValueError for a scale that the suite does not have.
    """
    scales = list(dict.fromkeys(c.scale for c in suite.checkpoints))
    for name, scale in (("small", small), ("large", large)):
        if scale and scale not in scales:
            raise ValueError(f"{name} = {scale!r}: suite {suite.name} has {', '.join(scales)}.")
    both = [s for s in scales if {"relu", "silu"} <= {c.activation for c in suite.pick(scale=s)}] or scales
    chosen = dict.fromkeys((small or both[0], large or both[-1]))
    return [c for scale in chosen for c in suite.pick(scale=scale)]


def sweep(
    suite: Suite,
    checkpoints: Iterable[Checkpoint],
    *,
    corpus: str = "mixture",
    tokens: int = 8192,
    points: int = 6,
    jobs: int = 1,
) -> list[Tradeoff]:
    """Measure every rule on the same ``tokens`` of a corpus, for each checkpoint; from disk if it was done before.

    ``points`` is the number of parameters tried for each rule but CETT. Raises ValueError for too few of either or
    an unknown corpus, and what loading and measuring raise.
    """
    arguments.whole("points", points, LEAST_POINTS)
    arguments.whole("tokens", tokens, LEAST_TOKENS)  # fewer have no standard error
    corpora.load(corpus, "validation")  # an unknown name is refused before any model is loaded
    text = Text(corpus, tokens, suite.sequence_length)
    return survey.run(partial(survey.once, _sweep), [Task(c, Sweep(points), text) for c in checkpoints], jobs)


def _sweep(task: Task[Sweep]) -> Tradeoff:
    c, text = task.checkpoint, task.text
    model, tokenizer = survey.loaded(c)
    batches = survey.batches(text, tokenizer)
    ours, others = cett_rules(model, batches), grid(model, batches, task.rule.points)
    scans = [scan(model, batches, list(rules.values()), kl=rules is ours) for rules in (ours, others)]
    points = pd.concat([_table(ours, scans[0]), _table(others, scans[1])], ignore_index=True)
    points.insert(0, "checkpoint", c.name)
    found = survey.thresholds(c, PPLIncrease(1.0, text.corpus), text.length, text.tokens)
    rises = torch.stack([rise[:, 0] for s in scans for rise in s.rises]).numpy()
    return Tradeoff(c, points, rises, scans[0].dense[:, 1].numpy(), layer_falls(model, batches), found)


def cett_rules(model: PreTrainedModel, batches: Batches) -> dict[tuple[str, float], Thresholds]:
    """Thresholds for each CETT of the grid, over the whole of the paper's axis in Figure 15."""
    curves = CettCurves(model, batches)
    for level in range(2):  # the second time at thresholds that are nearly right
        curves.refine(CETT_GRID, level)
    # What each does to perplexity and activation ratio is not known yet: the scan tells.
    found = {cett: tuple(curves.thresholds(cett)) for cett in CETT_GRID}
    return {(CETT, cett): Thresholds(values, cett, math.nan, None, math.nan) for cett, values in found.items()}


def grid(model: PreTrainedModel, batches: Sequence[Tensor], points: int) -> dict[tuple[str, float], Rule]:
    """Rules of the families without CETT, by family and parameter, from nearly all nonzero neurons to the axis' end."""
    gates = GateSample.read(model, batches)
    probe = [batches[0][: max(1, len(batches[0]) // PROBE_SHARE)]]
    zeroes = all(ffn.zeroes_negatives for ffn in find_ffns(model))
    unpruned = StraightforwardReLU() if zeroes else FAT(0.0)
    most = float(scan(model, probe, [unpruned]).activation_ratio[0])
    rules: dict[tuple[str, float], Rule] = {(ZEROS if zeroes else ALL, 0.0): unpruned}
    for family in FAMILIES:
        rise = scan(model, probe, [gates.rule(family, share) for share in most * PROBE]).log_ratio
        least = most * _crossing(rise)
        for share in np.geomspace(most, 0.97 * least, points + 1)[1:]:
            rule = gates.rule(family, share)
            parameter = next(iter(vars(rule).values()), None)  # its first field
            rules[family, parameter if isinstance(parameter, float) else share] = rule  # or one value a layer
    return rules


def _crossing(rise: np.ndarray) -> float:
    """Share of the nonzero neurons at which the probe reaches the end of the axis; the last tried if it never does."""
    above = np.flatnonzero(rise > math.log(HIGHEST))
    if not len(above):
        return float(PROBE[-1])
    x, y = np.concatenate([[1.0], PROBE]), np.concatenate([[0.0], rise])
    near = slice(above[0], above[0] + 2)
    return math.exp(np.interp(math.log(HIGHEST), y[near], np.log(x[near])))


def _table(names: Iterable[tuple[str, float]], found: Scan) -> pd.DataFrame:
    dense_ppl = math.exp(forward.mean_and_error(found.dense)[0])
    rises, errors = np.array([forward.mean_and_error(rise) for rise in found.rises], dtype=float).T
    ratio = np.array([math.exp(rise) for rise in rises])
    table = pd.DataFrame(list(names), columns=["rule", "parameter"]).assign(activation_ratio=found.activation_ratio)
    table = table.assign(dense_ppl=dense_ppl, ppl=dense_ppl * ratio, ppl_ratio=ratio, ppl_ratio_se=ratio * errors)
    table[["kl", "kl_se"]] = [forward.mean_and_error(kl) for kl in found.kl] or math.nan
    return table


def layer_falls(model: PreTrainedModel, batches: Sequence[Tensor]) -> pd.DataFrame:
    """How far CETT falls while a layer's threshold rises, which it should not (Sec 2.2); in a dense pass.

    One row a layer: steps between neighbouring thresholds; wrong, those where the mean over tokens falls by more than
    its 90 % interval, paired by token; largest_fall of that mean (0 if it only rises) with its standard error
    fall_error. Measured on the first thousand tokens, at 40 thresholds.
    """
    rows: list[dict[str, float]] = []

    def visit(ffn: FFN, neurons: Tensor, gate: Tensor) -> None:
        flat = neurons.reshape(-1, ffn.width)
        longest = float(ffn.magnitudes(flat).max())
        thresholds = longest * np.geomspace(1e-4, 1.001, LAYER_POINTS)
        cett = np.stack([layer_cett(ffn, flat, float(t)).double().cpu().numpy() for t in thresholds])
        steps = np.diff(cett, axis=0)
        mean, error = steps.mean(axis=1), steps.std(axis=1, ddof=1) / math.sqrt(steps.shape[1])
        worst = int(mean.argmin())
        wrong = int((mean < -np.maximum(forward.Z90 * error, NO_FALL)).sum())
        falls = {"largest_fall": max(0.0, -mean[worst]), "fall_error": error[worst] if mean[worst] < 0 else 0.0}
        rows.append({"layer": ffn.layer, "steps": len(mean), "wrong": wrong, **falls})

    first = batches[0][: max(1, LAYER_TOKENS // batches[0].shape[1]), :LAYER_TOKENS]
    with hook_ffns(find_ffns(model), visit):
        forward.logits(model, next(iter(TokenBatches(model, [first]))))
    return pd.DataFrame(rows)
