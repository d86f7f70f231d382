"""Which neurons of a token are active: the rules the paper compares (Sec 2.2 and 4.1), each a small value object.

Every rule has ``active(ffn, neurons, gate) -> bool tensor`` of the same shape. A neuron whose output vector is exactly
zero adds nothing, so no rule ever counts it as active.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from .ffn import FFN, UnsupportedModel


class Rule(Protocol):
    """What ``measure`` and ``sparsify`` need of a rule."""

    uses_gate: ClassVar[bool]

    def check(self, ffns: Sequence[FFN]) -> None:
        """Raise ValueError if the rule cannot be used on this model."""

    def active(self, ffn: FFN, neurons: Tensor, gate: Tensor, valid: Tensor | None = None) -> Tensor:
        """Mark the active neurons, shape of ``neurons``; ``valid`` (tokens,) leaves padding out where it matters."""


def _check_gates(ffns: Sequence[FFN], rule: object) -> None:
    for ffn in ffns:
        if ffn.kind != "plain" and ffn.activation is None:
            raise UnsupportedModel(
                f"{rule}: {ffn.name} has no activation module to read the gate score from; use CETT."
            )


def _number(rule: str, name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{rule}: {name} must be a number, got {value!r}.")


@dataclass(frozen=True)
class StraightforwardReLU:
    """Weak: gate score exactly zero. Only for activation functions with exact zeros (Sec 2.2)."""

    uses_gate: ClassVar[bool] = True

    def check(self, ffns: Sequence[FFN]) -> None:
        """Raise ValueError unless every FFN's activation gives exact zeros."""
        _check_gates(ffns, self)
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
class FAT:
    """Forced activation threshold (FAT-eps): weak if \\|gate score\\| < eps, one eps for all layers (Sec 4.1)."""

    eps: float
    uses_gate: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _number("FAT", "eps", self.eps)
        if not 0 <= self.eps < float("inf"):
            raise ValueError(f"FAT: eps must be zero or positive, got {self.eps}.")

    def check(self, ffns: Sequence[FFN]) -> None:
        """Raise ValueError if a gate score cannot be read."""
        _check_gates(ffns, self)

    def active(self, ffn: FFN, neurons: Tensor, gate: Tensor, valid: Tensor | None = None) -> Tensor:
        """Mark neurons whose gate score is nonzero and at least eps in size."""
        # In float32: torch would round eps to the scores' type, and bfloat16 has steps of 0.4 %.
        size = gate.abs().float()
        return (size >= self.eps) & (size > 0)


@dataclass(frozen=True)
class TopK:
    """Active: the share ``k`` of the layer's neurons with the largest \\|gate score\\| (Sec 4.1).

    ``over="token"`` is the paper's definition. ``over="layer"`` ranks the whole layer tensor of a batch at once, as
    the authors' code does: a token's result then depends on its neighbours. Scores tied with the last one kept are
    kept too, so that the result does not depend on their order.
    """

    k: float
    over: str = "token"
    uses_gate: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _number("TopK", "k", self.k)
        if not 0 < self.k <= 1:
            raise ValueError(f"TopK: k is the share of neurons kept, in (0, 1]; got {self.k}.")
        if self.over not in ("token", "layer"):
            raise ValueError(f"TopK: over must be 'token' or 'layer', got {self.over!r}.")

    def check(self, ffns: Sequence[FFN]) -> None:
        """Raise ValueError if a gate score cannot be read."""
        _check_gates(ffns, self)

    def active(self, ffn: FFN, neurons: Tensor, gate: Tensor, valid: Tensor | None = None) -> Tensor:
        """Mark the neurons with the largest scores, of each token or of the whole tensor."""
        size = gate.abs()
        if self.over == "token":
            pool = size.reshape(-1, ffn.d_ff)
        else:
            pool = (size if valid is None else size.reshape(-1, ffn.d_ff)[valid]).reshape(1, -1)
        kept = max(1, round(self.k * pool.shape[1]))
        least = torch.topk(pool, kept, dim=1, sorted=True).values[:, -1]
        limit = least.reshape(*size.shape[:-1], 1) if self.over == "token" else least
        return (size >= limit) & (size > 0)


@dataclass(frozen=True)
class CETT:
    """A target for the cumulative error of tail truncation (Sec 4.1, Eq 3), the same in every layer.

    A target alone marks nothing: each layer's threshold is found on a text (``measure`` does it by itself,
    ``thresholds_for_cett`` gives the thresholds).
    """

    target: float
    uses_gate: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _number("CETT", "target", self.target)
        if not 0 <= self.target < 1:
            raise ValueError(f"CETT: the target is a share of the FFN output, in [0, 1); got {self.target}.")

    def check(self, ffns: Sequence[FFN]) -> None:
        """Raise ValueError: thresholds have to be found on a text first."""
        raise ValueError(
            f"{self} has no thresholds yet: find them with thresholds_for_cett(model, batches, {self.target})."
        )

    def active(self, ffn: FFN, neurons: Tensor, gate: Tensor, valid: Tensor | None = None) -> Tensor:
        """Raise ValueError, as ``check`` does."""
        raise ValueError(f"{self} has no thresholds yet.")


def above_threshold(ffn: FFN, neurons: Tensor, threshold: float) -> Tensor:
    """Mark neurons whose output vector is nonzero and at least ``threshold`` long (complement of D in Eq 3).

    The comparison is made on \\|value\\| in float32 against threshold / column norm, for search and use alike.
    """
    # The smallest normal number stands in for zero: it prunes exact zeros and nothing that could matter.
    tiny = torch.finfo(torch.float32).tiny
    limit = (max(threshold, tiny) / ffn.column_norms.to(neurons.device)).clamp_min(tiny)
    return neurons.abs().float() >= limit
