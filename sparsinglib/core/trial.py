"""A model and a corpus between the passes of a search: what the dense pass told, and what a sparse pass costs."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from . import forward
from .cett import LayerCurve, Sampler, exact_cett
from .ffn import FFN, find_ffns
from .forward import TokenBatches
from .hooks import tap
from .rules import above_threshold

Batches = Iterable[Tensor | Mapping[str, Tensor]]


@dataclass
class Point:
    """One sparse pass over a corpus: the CETT tried, log(sparse / dense perplexity) and, if asked for, KL; in nats."""

    cett: float
    log_ratio: float
    se: float | None
    kl: float | None
    kl_se: float | None
    activation_ratio: float
    thresholds: list[float]


@dataclass
class Trial:
    """A model and a corpus between the passes of a search: dense losses, one curve for each layer, passes made."""

    model: PreTrainedModel
    batches: Batches
    with_kl: bool = False
    dense_passes: int = 0
    sparse_passes: int = 0
    curves: list[LayerCurve] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ffns = find_ffns(self.model)
        self.corpus = TokenBatches(self.model, self.batches)
        self.dense_losses: list[Tensor] = []
        sampler = Sampler(self.corpus, self.ffns)
        with tap(self.ffns, sampler.visit):
            for batch in self.corpus:
                sampler.start(batch)
                scores = forward.logits(self.model, batch)
                self.dense_losses.append(forward.require_finite(forward.losses(scores, batch), "dense loss"))
        self.dense_passes += 1
        for ffn, called, values in zip(self.ffns, sampler.called, sampler.values, strict=True):
            if not called:
                raise ValueError(
                    f"{ffn.name}: its output projection was never called; this model computes it another way."
                )
            self.curves.append(LayerCurve(ffn, values))

    def refine(self, cett: Sequence[float] | np.ndarray) -> None:
        """Make thresholds exact around the given CETT values: one more dense pass over the whole corpus."""
        grid = np.array([[curve.threshold(c) for c in cett] for curve in self.curves])
        for curve, row, found in zip(
            self.curves, grid, exact_cett(self.model, self.corpus, self.ffns, grid), strict=True
        ):
            curve.correct(row, found)
        self.dense_passes += 1

    def evaluate(self, cett: float) -> Point:
        """One sparse pass at the thresholds of ``cett``; with KL, a dense one beside it (its logits do not keep)."""
        thresholds = [curve.threshold(cett) for curve in self.curves]
        return self.measure(cett, thresholds)

    def active_share(self, cett: float) -> float:
        """Share of sampled neuron values, mean over layers, that stay active at ``cett`` in the dense pass."""
        return float(np.mean([curve.active_share(curve.threshold(cett)) for curve in self.curves]))

    def measure(self, cett: float, thresholds: Sequence[float]) -> Point:
        """One sparse pass at given thresholds; ``cett`` is only noted."""
        active = torch.zeros(len(self.ffns), dtype=torch.float64)
        padding: list[Tensor] = []

        def keep_active(ffn: FFN, neurons: Tensor, gate: Tensor) -> Tensor:
            mask = above_threshold(ffn, neurons, thresholds[ffn.layer])
            counted = mask.reshape(-1, ffn.d_ff)[padding[0].to(mask.device)] if padding else mask
            active[ffn.layer] += int(counted.count_nonzero()) / ffn.d_ff
            return neurons.masked_fill(~mask, 0)

        rises, divergences = [], []
        for batch, dense_loss in zip(self.corpus, self.dense_losses, strict=True):
            padding[:] = [batch.valid.reshape(-1)] if batch.padded else []
            dense = forward.logits(self.model, batch) if self.with_kl else None
            with tap(self.ffns, keep_active):
                sparse = forward.logits(self.model, batch)
            loss = forward.require_finite(forward.losses(sparse, batch), "sparse loss")
            rises.append(forward.block_sums(loss - dense_loss, batch))
            if dense is not None:
                divergences.append(forward.block_sums(forward.kl_divergence(dense, sparse), batch))
        self.sparse_passes += 1
        self.dense_passes += self.with_kl
        rise, se = forward.mean_and_error(rises)
        kl, kl_se = forward.mean_and_error(divergences) if divergences else (None, None)
        return Point(cett, rise, se, kl, kl_se, float(active.mean()) / self.corpus.tokens, list(thresholds))
