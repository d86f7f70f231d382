"""Rules set from a text: the one of each family that leaves a given share of neurons active in a dense pass."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from transformers import PreTrainedModel

from . import arguments, forward
from .cett import Sampler
from .ffn import FFN
from .forward import Batches, TokenBatches
from .hooks import hook_ffns
from .layout import find_ffns
from .rules import FAT, GateThresholds, OutputTopK, Rule, TopK, TopP, cumulated

SAMPLED_SCORES = 2**22  # of all layers together, in whole tokens spread evenly over the text


def gate_thresholds(model: PreTrainedModel, batches: Batches, activation_ratio: float) -> GateThresholds:
    """Give each layer the quantile of its \\|gate scores\\| that leaves ``activation_ratio`` of them on this text.

    As CATS (arXiv 2404.08763) sets its thresholds. One dense pass; a long text is sampled evenly, whole tokens, 4M
    scores in all. ``batches`` are token ids (rows × length) or dicts with ``attention_mask``. Raises ValueError for a
    ratio outside (0, 1], a text that cannot be measured, or a model without gate scores (UnsupportedModel).
    """
    share = arguments.share("activation_ratio", activation_ratio)
    return _quantiles(GateSample.read(model, batches), share)


@dataclass(frozen=True, eq=False)
class GateSample:
    """\\|Gate scores\\| of tokens of a text in a dense pass: for each layer (tokens, d_ff), float32."""

    scores: list[Tensor]

    @classmethod
    def read(cls, model: PreTrainedModel, batches: Batches) -> "GateSample":
        """One dense pass; padding is left out."""
        ffns = find_ffns(model)
        TopK(1.0).check(ffns)
        corpus = TokenBatches(model, batches)
        wanted = min(corpus.tokens, max(1, SAMPLED_SCORES // sum(ffn.d_ff for ffn in ffns)))
        sampler = Sampler(ffns, torch.linspace(0, corpus.tokens - 1, wanted).round().long().unique())

        def visit(ffn: FFN, neurons: Tensor, gate: Tensor) -> None:
            sampler.keep(ffn, gate.reshape(-1, ffn.d_ff))

        with hook_ffns(ffns, visit, gate=True):
            for batch in corpus:
                sampler.start(batch)
                forward.logits(model, batch)
        return cls([gates.abs().float().cpu() for (gates,) in sampler.kept])

    @cached_property
    def entries(self) -> Tensor:
        """For every score, the p from which top-p keeps it: the share of its token's total that larger ones make up."""
        found = []
        for scores in self.scores:
            ordered, below = cumulated(scores)
            enters = 1 - below / below[:, -1:].clamp_min(torch.finfo(torch.float64).tiny)
            found.append(torch.where(ordered > 0, enters, torch.ones_like(enters)).reshape(-1))
        return torch.cat(found)

    def rule(self, family: str, activation_ratio: float) -> Rule:
        """The rule of a family that leaves about this share active; ValueError for a share outside (0, 1]."""
        if family not in FAMILIES:
            raise ValueError(f"no family of rules called {family!r}: choose from {', '.join(FAMILIES)}.")
        return FAMILIES[family](self, arguments.share(f"{family}: the activation ratio aimed at", activation_ratio))


def _value_at(values: Tensor, share: float) -> float:
    """The value that this share of all values reaches or exceeds."""
    kept = min(values.numel(), max(1, round(share * values.numel())))
    return float(torch.kthvalue(values.flatten(), values.numel() - kept + 1).values)


def _quantiles(sample: GateSample, share: float) -> GateThresholds:
    return GateThresholds(tuple(_value_at(scores, share) for scores in sample.scores))


FAMILIES: dict[str, Callable[[GateSample, float], Rule]] = {
    "Top-k": lambda sample, share: TopK(share),
    "FAT-ε": lambda sample, share: FAT(_value_at(torch.cat([s.flatten() for s in sample.scores]), share)),
    "top-p": lambda sample, share: TopP(min(1.0, max(1e-6, -_value_at(-sample.entries, share)))),
    "quantile per layer": _quantiles,
    "Top-k of outputs": lambda sample, share: OutputTopK(share),
}


def rules_at(model: PreTrainedModel, batches: Batches, activation_ratio: float) -> dict[str, Rule]:
    """Top-k and FAT-eps at about a given activation ratio, so that they can be set beside CETT at equal sparsity.

    For FAT the eps is the quantile of \\|gate score\\| over all layers of a dense pass (``GateSample``).
    """
    sample = GateSample.read(model, batches)
    return {family: sample.rule(family, activation_ratio) for family in ("Top-k", "FAT-ε")}
