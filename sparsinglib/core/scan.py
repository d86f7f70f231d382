"""Several rules on one text: a dense pass and a sparse one for each, without statistics by token and neuron."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from . import forward
from .ffn import mean_ratio
from .forward import Batches, TokenBatches
from .hooks import as_seen, sparse_logits
from .layout import find_ffns
from .rules import Rule


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
    for rule in rules:
        rule.check(ffns)
    corpus = TokenBatches(model, batches)
    active = np.zeros((len(rules), len(ffns)))
    dense_sums: list[Tensor] = []
    rises: list[list[Tensor]] = [[] for _ in rules]
    divergences: list[list[Tensor]] = [[] for _ in rules if kl]
    for batch in corpus:
        with as_seen(ffns):
            dense = forward.logits(model, batch)
        dense_loss = forward.require_finite(forward.losses(dense, batch), "dense loss")
        dense_sums.append(forward.block_sums(dense_loss, batch))
        for index, rule in enumerate(rules):
            sparse, counts = sparse_logits(model, batch, ffns, rule)
            active[index] += counts
            loss = forward.require_finite(forward.losses(sparse, batch), "sparse loss")
            rises[index].append(forward.block_sums(loss - dense_loss, batch))
            if kl:
                divergences[index].append(forward.block_sums(forward.kl_divergence(dense, sparse), batch))
    ratios = np.array([mean_ratio(ffns, row) for row in active.tolist()]) / corpus.tokens
    return Scan(ratios, torch.cat(dense_sums), list(map(torch.cat, rises)), list(map(torch.cat, divergences)))
