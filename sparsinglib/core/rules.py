"""Which neurons of a token are active: the rules the paper compares (Sec 2.2 and 4.1) and three that other tools use.

Each is a small value object with ``active(ffn, neurons, gate, valid=None) -> bool tensor`` of the same shape. What a
rule ranks by (gate score or output vector) must be nonzero for a neuron to be active.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from .arguments import lengths, number, one_of, share
from .ffn import FFN, UnsupportedModel


class Rule(Protocol):
    """What ``measure`` and ``sparsify`` need of a rule; one that ranks by gate scores needs no ``check`` of its own."""

    uses_gate: ClassVar[bool] = True

    def check(self, ffns: Sequence[FFN]) -> None:
        """Raise ValueError if the rule cannot be used on this model."""
        for ffn in ffns if self.uses_gate else ():
            if ffn.kind == "experts":
                raise UnsupportedModel(
                    f"{self}: {ffn.name} holds experts, whose gate scores each model computes in its own way; "
                    "rules on the output vectors can be used: CETT, Thresholds, OutputTopK."
                )
            if ffn.kind != "plain" and ffn.activation is None:
                raise UnsupportedModel(
                    f"{self}: {ffn.name} has no activation module to read the gate score from; use CETT."
                )

    def active(self, ffn: FFN, neurons: Tensor, gate: Tensor, valid: Tensor | None = None) -> Tensor:
        """Mark the active neurons, shape of ``neurons``; ``valid`` (tokens,) leaves padding out where it matters."""


def _at_least(size: Tensor, least: float) -> Tensor:
    """Mark sizes that are nonzero and at least ``least``."""
    # In float32: torch would round the limit to the scores' type, and bfloat16 has steps of 0.4 %.
    size = size.float()
    return (size >= least) & (size > 0)


def _largest(size: Tensor, k: float, of: int) -> Tensor:
    """Mark the share k of ``of`` neurons, those of the largest sizes in the last dimension and those tied with them."""
    kept = min(max(1, round(k * of)), size.shape[-1])
    return (size >= torch.topk(size, kept, dim=-1).values[..., -1:]) & (size > 0)


def cumulated(sizes: Tensor) -> tuple[Tensor, Tensor]:
    """Each token's sizes in rising order, and their sums up to each, in float64.

    From the smallest, so that rounding loses none that is not zero: top-p of 1 keeps them all.
    """
    ordered = sizes.double().sort(dim=-1).values
    return ordered, ordered.cumsum(dim=-1)


@dataclass(frozen=True)
class StraightforwardReLU(Rule):
    """Weak: gate score exactly zero. Only for activation functions with exact zeros (Sec 2.2)."""

    def check(self, ffns: Sequence[FFN]) -> None:
        """Raise ValueError unless every FFN's activation gives exact zeros."""
        super().check(ffns)
        for ffn in ffns:
            if not ffn.zeroes_negatives:
                raise ValueError(
                    f"StraightforwardReLU needs exact zeros, but {ffn.name} uses {type(ffn.activation).__name__}; "
                    "use TopK, FAT or CETT."
                )

    def active(self, ffn: FFN, neurons: Tensor, gate: Tensor, valid: Tensor | None = None) -> Tensor:
        """Mark neurons with a nonzero gate score."""
        return gate != 0


@dataclass(frozen=True)
class FAT(Rule):
    """Forced activation threshold (FAT-eps): weak if \\|gate score\\| < eps, one eps for all layers (Sec 4.1)."""

    eps: float

    def __post_init__(self) -> None:
        wanted = "zero or positive"
        object.__setattr__(self, "eps", number("FAT: eps", self.eps, wanted, lambda eps: 0 <= eps < math.inf))

    def active(self, ffn: FFN, neurons: Tensor, gate: Tensor, valid: Tensor | None = None) -> Tensor:
        """Mark neurons whose gate score is nonzero and at least eps in size."""
        return _at_least(gate.abs(), self.eps)


@dataclass(frozen=True)
class TopK(Rule):
    """Active: the share ``k`` of the layer's neurons with the largest \\|gate score\\| (Sec 4.1).

    ``over="token"`` is the paper's definition. ``over="layer"`` ranks the whole layer tensor of a batch at once, as
    the authors' code does: a token's result then depends on its neighbours. Scores tied with the last one kept are
    kept too, so that the result does not depend on their order.
    """

    k: float
    over: str = "token"

    def __post_init__(self) -> None:
        object.__setattr__(self, "k", share("TopK: k", self.k))
        one_of("TopK: over", self.over, ("token", "layer"))

    def active(self, ffn: FFN, neurons: Tensor, gate: Tensor, valid: Tensor | None = None) -> Tensor:
        """Mark the neurons with the largest scores, of each token or of the whole tensor."""
        size = gate.abs()
        if self.over == "token":
            return _largest(size, self.k, ffn.d_ff)
        pool = (size if valid is None else size.reshape(-1, ffn.d_ff)[valid]).reshape(-1)
        if not len(pool):  # a piece of a batch that holds nothing but padding
            return torch.zeros_like(size, dtype=torch.bool)
        least = torch.topk(pool, max(1, round(self.k * len(pool)))).values[-1]
        return (size >= least) & (size > 0)


@dataclass(frozen=True)
class OutputTopK(Rule):
    """Active: the share ``k`` of the layer's neurons with the longest output vectors, |value| · column norm.

    Top-k on what CETT's thresholds compare, ||n_i||, in place of the gate score; ties as in ``TopK``. Not in the paper.
    """

    k: float
    uses_gate: ClassVar[bool] = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "k", share("OutputTopK: k", self.k))

    def active(self, ffn: FFN, neurons: Tensor, gate: Tensor, valid: Tensor | None = None) -> Tensor:
        """Mark each token's neurons with the longest output vectors."""
        return _largest(ffn.magnitudes(neurons), self.k, ffn.d_ff)


@dataclass(frozen=True)
class TopP(Rule):
    """Active: the fewest neurons of a token whose \\|gate scores\\| add up to the share ``p`` of the layer's total.

    As nucleus sampling cuts a distribution. Ties with the last one kept are kept too. Not in the paper.
    """

    p: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "p", share("TopP: p", self.p))

    def active(self, ffn: FFN, neurons: Tensor, gate: Tensor, valid: Tensor | None = None) -> Tensor:
        """Mark each token's largest scores until they reach the share."""
        size = gate.abs().double()
        ordered, below = cumulated(size)
        weak = (below <= below[..., -1:] * (1 - self.p)).sum(dim=-1, keepdim=True).clamp_max(size.shape[-1] - 1)
        return (size >= ordered.gather(-1, weak)) & (size > 0)


@dataclass(frozen=True)
class GateThresholds(Rule):
    """Weak: \\|gate score\\| below the layer's own threshold, ``values[layer]``; FAT with one eps for each layer.

    ``gate_thresholds`` sets them to a quantile of each layer's scores over a text, as CATS (arXiv 2404.08763) does.
    """

    values: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", lengths("GateThresholds: values", self.values))

    def check(self, ffns: Sequence[FFN]) -> None:
        """Raise ValueError if a gate score cannot be read or the model has another number of layers."""
        super().check(ffns)
        if len(ffns) != len(self.values):
            raise ValueError(f"GateThresholds: {len(self.values)} thresholds, but the model has {len(ffns)} layers.")

    def active(self, ffn: FFN, neurons: Tensor, gate: Tensor, valid: Tensor | None = None) -> Tensor:
        """Mark neurons whose gate score is nonzero and at least the layer's threshold in size."""
        return _at_least(gate.abs(), self.values[ffn.site])


@dataclass(frozen=True)
class CETT:
    """A target for the cumulative error of tail truncation (Sec 4.1, Eq 3), the same in every layer.

    No rule yet, for it marks nothing: each layer's threshold is found on a text (``measure`` does it by itself,
    ``thresholds_for_cett`` gives the thresholds).
    """

    target: float

    def __post_init__(self) -> None:
        within = "a share of the FFN output, in [0, 1)"
        object.__setattr__(self, "target", number("CETT: target", self.target, within, lambda share: 0 <= share < 1))


def above_threshold(ffn: FFN, neurons: Tensor, threshold: float) -> Tensor:
    """Ones, in float32, where a neuron's output vector is nonzero and at least ``threshold`` long, zeros elsewhere.

    The ones are the complement of D in Eq 3. What is compared is \\|value\\| in float32 with threshold / column norm,
    for search and use alike.
    """
    # The smallest normal number stands in for zero: it prunes exact zeros and nothing that could matter.
    tiny = torch.finfo(torch.float32).tiny
    limit = (max(threshold, tiny) / ffn.lengths.to(neurons.device)).clamp_min(tiny)
    return neurons.abs().float().ge_(limit)
