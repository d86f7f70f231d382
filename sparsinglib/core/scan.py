"""Rules against all neurons: a dense pass over a text and a sparse one for each rule, losses paired by token."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from . import forward
from .ffn import FFN, mean_ratio
from .forward import Batch, Batches, TokenBatches
from .hooks import hook_ffns, sparse_logits
from .layout import find_ffns
from .rules import Rule
from .thresholds import as_rule


@dataclass(frozen=True, eq=False)
class Scan:
    """What rules do to one text: activation ratios (rules,), and sums over blocks of tokens with their numbers.

    ``dense`` (blocks, 2) holds losses; of each rule ``rises``, sparse - dense, and ``kl``, empty if not asked for.
    """

    activation_ratio: np.ndarray
    dense: Tensor
    rises: list[Tensor]
    kl: list[Tensor]

    @property
    def log_ratio(self) -> np.ndarray:
        """log(sparse / dense perplexity) of each rule."""
        return np.array([forward.mean_and_error(rise)[0] for rise in self.rises])


def scan(model: PreTrainedModel, batches: Batches, rules: Sequence[Rule], *, kl: bool = False) -> Scan:
    """Run each rule batch by batch, in memory that does not grow with the text; gives what ``measure`` gives for each.

    Raises ValueError without a rule, if one does not fit the model, or if a loss is not finite.
    """
    ffns = find_ffns(model)
    if not rules:
        raise ValueError("scan needs at least one rule.")
    rules = [as_rule(rule) for rule in rules]
    for rule in rules:
        rule.check(ffns)
    return scan_batches(model, ffns, TokenBatches(model, batches), rules, kl)


def scan_batches(
    model: PreTrainedModel,
    ffns: Sequence[FFN],
    batches: TokenBatches | Sequence[Batch],
    rules: Sequence[Rule],
    kl: bool,
    known: Sequence[Tensor] | None = None,
) -> Scan:
    """``scan`` of what was checked before; ``known`` as in ``compare``."""
    active = np.zeros((len(rules), len(ffns)))

    def run(index: int, batch: Batch) -> Tensor:
        scores, counts = sparse_logits(model, batch, ffns, rules[index])
        active[index] += counts
        return scores

    found = compare(model, ffns, batches, [partial(run, index) for index in range(len(rules))], kl, known)
    ratios = [mean_ratio(ffns, row) for row in active.tolist()]
    return Scan(np.array(ratios) / sum(int(batch.valid.sum()) for batch in batches), *found)


def compare(
    model: PreTrainedModel,
    ffns: Sequence[FFN],
    batches: Iterable[Batch],
    runs: Sequence[Callable[[Batch], Tensor]],
    kl: bool,
    known: Sequence[Tensor] | None = None,
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """What ``Scan`` has of losses: dense, and rises and KL of each sparse run, which gives a batch's logits.

    ``known`` holds each batch's dense losses where they were computed before: then only KL asks for a dense pass.
    Raises ValueError if a loss is not finite.
    """
    dense_sums: list[Tensor] = []
    rises: list[list[Tensor]] = [[] for _ in runs]
    divergences: list[list[Tensor]] = [[] for _ in runs if kl]
    for index, batch in enumerate(batches):
        if kl or known is None:
            # A context of its own: dense whatever other threads do, and experts computed as under a rule.
            with hook_ffns(ffns, lambda ffn, neurons, gate: None):
                dense = forward.logits(model, batch)
        loss = forward.losses(dense, batch) if known is None else known[index]
        dense_sums.append(forward.block_sums(forward.require_finite(loss, "dense loss"), batch))
        for number, run in enumerate(runs):
            sparse = run(batch)
            if kl:
                pruned, divergence = forward.losses_and_kl(sparse, dense, batch)
                divergences[number].append(forward.block_sums(divergence, batch))
            else:
                pruned = forward.losses(sparse, batch)
            rise = forward.require_finite(pruned, "sparse loss") - loss
            rises[number].append(forward.block_sums(rise, batch))
    return torch.cat(dense_sums), list(map(torch.cat, rises)), list(map(torch.cat, divergences))
