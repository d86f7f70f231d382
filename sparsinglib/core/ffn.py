"""A feed-forward network (FFN) of a decoder: what its neurons are, and what each adds to the output.

A neuron is one column of the output projection (the paper's W_out, ``down_proj``); its value is what that column is
multiplied by (Sec 2.2, Eq 1-2). So the input of ``down_proj`` is all that has to be seen, whatever stands before it.
A mixture of experts is one wide FFN: neuron i of expert e has the direction w_e · W_out,e[:, i], where w_e is the
router's weight for the token, and the neurons of unchosen experts are zero.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

UNIT_VECTORS = 1024  # multiplied at once


class UnsupportedModel(ValueError):
    """A model whose FFNs cannot be found or taken apart; the message names the module."""


@dataclass(eq=False)
class FFN:
    """One FFN of d_ff neurons: ``down`` is its output projection, ``activation`` the module that gives the gate score.

    ``layer`` is the decoder layer it stands in and ``site`` its place among the model's FFNs: a layer with experts can
    have several. ``kind`` is "gated" (separate gate and up), "fused" (gate and up in one matrix), "plain" (no gate: the
    gate score is the neuron's value itself) or "experts".
    """

    layer: int
    name: str
    kind: str
    down: Any  # Linear, Conv1D or a relative of theirs, which torch gives no common type with a weight
    activation: nn.Module | None
    site: int = 0

    @property
    def d_ff(self) -> int:
        """Number of neurons."""
        return features(self.down)[0]

    @property
    def width(self) -> int:
        """Number of neuron values that a token has here: d_ff, or for experts those of the chosen ones."""
        return self.d_ff

    @property
    def routing(self) -> tuple[Tensor, ...]:
        """What ``routed`` takes, a row a token; nothing but for experts."""
        return ()

    def routed(self, *routing: Tensor) -> "FFN":
        """This FFN as the tokens of one batch use it."""
        return self

    def at(self, rows: Tensor) -> "FFN":
        """This FFN as some of the tokens use it; ``rows`` are indices or a mask."""
        return self.routed(*(part[rows.to(part.device)] for part in self.routing))

    @cached_property
    def column_norms(self) -> Tensor:
        """Length of each neuron's output direction ||W_out[:, i]||_2, float32, shape (d_ff,)."""
        with self.loaded():
            if self._exact:
                return self._matrix().float().norm(dim=0)
            return torch.cat([columns.float().norm(dim=1) for columns in self._columns_by_product()])

    @property
    def lengths(self) -> Tensor:
        """Length of each neuron's output direction for each token, to be multiplied with values of (tokens, width)."""
        return self.column_norms

    @property
    def _exact(self) -> bool:
        # Quantised layers and adapters keep other things in ``weight``, or more than it; so may a forward of one's own.
        plain = "forward" not in vars(self.down) or hasattr(self.down, "_hf_hook")  # accelerate's moves weights only
        return plain and type(self.down) in (nn.Linear, Conv1D)

    @contextmanager
    def loaded(self) -> Iterator[None]:
        """Weights fetched from wherever accelerate keeps them, unless they are here, as within the module's forward."""
        if hasattr(self.down, "_hf_hook") and any(p.is_meta for p in self.down.parameters(recurse=False)):
            from accelerate.utils import align_module_device

            with align_module_device(self.down):
                yield
        else:
            yield

    def _matrix(self) -> Tensor:
        weight = self.down.weight.detach()
        return weight.t() if isinstance(self.down, Conv1D) else weight

    def _columns_by_product(self) -> Iterator[Tensor]:
        """Rows of W_outᵀ, some at a time: what the projection makes of unit vectors."""
        like = next((p for p in self.down.parameters() if p.is_floating_point() and p.itemsize > 1), torch.empty(0))
        device = next((p.device for p in self.down.parameters() if not p.is_meta), like.device)
        for start in range(0, self.d_ff, UNIT_VECTORS):
            units = torch.arange(start, min(start + UNIT_VECTORS, self.d_ff), device=device)
            yield self.output(functional.one_hot(units, self.d_ff).to(like.dtype))

    @property
    def bias(self) -> Tensor | float:
        """What the output projection adds whatever the neurons are, (hidden size,); 0 if nothing."""
        with self.loaded():
            bias = getattr(self.down, "bias", None)
            bias = bias() if callable(bias) else bias  # torch's quantised layers have a method
            return 0.0 if bias is None else bias.detach()

    def output(self, neurons: Tensor) -> Tensor:
        """Sum of the neurons' output vectors without any bias (Eq 2), (tokens, width) -> (tokens, hidden size)."""
        with torch.no_grad(), self.loaded():
            if self._exact:
                return functional.linear(neurons, self._matrix())
            # ``forward`` passes over hooks, which are there to see the model's own calls.
            return self.down.forward(neurons) - self.bias

    def magnitudes(self, neurons: Tensor) -> Tensor:
        """Length of each neuron's output vector, |value| · ||W_out[:, i]||, float32, shape of ``neurons``."""
        return neurons.abs().float() * self.lengths.to(neurons.device)

    def tally(self, active: Tensor) -> Tensor:
        """Sum by neuron of zeros and ones in float32, (tokens, width) -> (d_ff,)."""
        return active.sum(dim=0)

    @cached_property
    def zeroes_negatives(self) -> bool:
        """Whether the activation function gives exact zeros for negative inputs, as ReLU does."""
        if self.activation is None:
            return False
        probe = torch.tensor([-4.0, -1.0, -1e-3])
        return bool((self.activation(probe) == 0).all())


@dataclass(eq=False)
class Experts(FFN):
    """The routed experts of one layer as one FFN; ``down`` is the module that holds them, (experts, …) in each weight.

    A token's values are those of its k chosen experts one after the other, (tokens, k · neurons of an expert), not
    scaled by the router's weights: these are in the column lengths, so that masking a neuron changes no other.
    """

    chosen: Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.int64))  # (tokens, k)
    weights: Tensor = field(default_factory=lambda: torch.zeros(0, 0))  # (tokens, k)

    @property
    def experts(self) -> int:
        """Number of experts."""
        return int(self.down.down_proj.shape[0])

    @property
    def neurons_each(self) -> int:
        """Number of neurons of an expert."""
        return int(self.down.down_proj.shape[1 if self.transposed else 2])

    @property
    def transposed(self) -> bool:
        """Whether an expert's output projection is stored as (neurons, hidden size)."""
        return bool(getattr(self.down, "is_transposed", True))

    @property
    def d_ff(self) -> int:
        """Number of neurons of all experts."""
        return self.experts * self.neurons_each

    @property
    def width(self) -> int:
        """Number of neurons of a token's chosen experts."""
        return self.chosen.shape[1] * self.neurons_each

    @property
    def routing(self) -> tuple[Tensor, ...]:
        """Chosen experts and their weights, both (tokens, k)."""
        return self.chosen, self.weights

    def routed(self, *routing: Tensor) -> "Experts":
        """These experts as the tokens of one batch use them."""
        same = copy.copy(self)
        same.__dict__["column_norms"] = self.column_norms
        same.chosen, same.weights = routing
        same.__dict__.pop("_by_load", None)
        return same

    @cached_property
    def column_norms(self) -> Tensor:
        """Length of each neuron's output direction without the router's weight, float32, shape (d_ff,)."""
        with self.loaded():
            weight = self.down.down_proj.detach()
            return torch.cat([part.float().norm(dim=1 if self.transposed else 0) for part in weight])

    @property
    def lengths(self) -> Tensor:
        """Length of each neuron's output direction, the router's weight in it, (tokens, width)."""
        norms = self.column_norms.to(self.weights.device).view(self.experts, -1)[self.chosen]
        return (norms * self.weights.abs().float()[..., None]).flatten(1)

    @property
    def bias(self) -> Tensor | float:
        """Sum of the chosen experts' biases, weighted, (tokens, hidden size); 0 if they have none."""
        with self.loaded():
            if not getattr(self.down, "has_bias", False):
                return 0.0
            return (self.down.down_proj_bias.detach()[self.chosen] * self.weights[..., None]).sum(dim=1)

    def neurons(self, inputs: Tensor) -> Tensor:
        """Values of the chosen experts' neurons, (tokens, k, hidden size) -> (tokens, width)."""
        part = "gate_up_proj" if self.down.has_gate else "up_proj"
        bias = getattr(self.down, f"{part}_bias") if self.down.has_bias else None
        values = self._by_expert(inputs, getattr(self.down, part), bias).flatten(0, 1)
        values = self.down._apply_gate(values) if self.down.has_gate else self.down.act_fn(values)
        return values.view(len(inputs), -1)

    def output(self, neurons: Tensor) -> Tensor:
        """Weighted sum of the neurons' output vectors without any bias, (tokens, width) -> (tokens, hidden size)."""
        with torch.no_grad(), self.loaded():
            return self.total(neurons, None)

    def total(self, neurons: Tensor, bias: Tensor | None) -> Tensor:
        """Weighted sum of the chosen experts' outputs, each with its ``bias`` (experts, hidden size)."""
        outputs = self._by_expert(neurons.view(*self.chosen.shape, -1), self.down.down_proj, bias)
        return (outputs * self.weights[..., None]).sum(dim=1).to(neurons.dtype)

    def _by_expert(self, values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Multiply each expert's part of (tokens, k, inputs) with its own matrix: one product an expert."""
        matrices = weight if self.transposed else weight.transpose(1, 2)
        order, loads = self._by_load
        parts = values.flatten(0, 1)[order].to(weight.dtype).split(loads)
        products = [part @ matrix for part, matrix in zip(parts, matrices, strict=True)]
        if bias is not None:
            products = [product + added for product, added in zip(products, bias, strict=True)]
        result = torch.cat(products)
        back = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
        return result[back].view(*self.chosen.shape, -1).to(values.dtype)

    @cached_property
    def _by_load(self) -> tuple[Tensor, list[int]]:
        """The (token, slot) pairs expert by expert, and how many each has."""
        flat = self.chosen.reshape(-1)
        return flat.argsort(stable=True), torch.bincount(flat, minlength=self.experts).tolist()

    def tally(self, active: Tensor) -> Tensor:
        """Sum by neuron of each expert of zeros and ones in float32, (tokens, width) -> (d_ff,)."""
        counts = active.new_zeros(self.experts, self.neurons_each)
        return counts.index_add_(0, self.chosen.reshape(-1), active.reshape(-1, self.neurons_each)).reshape(-1)

    def loads(self, valid: Tensor | None = None) -> Tensor:
        """Number of tokens that each expert was chosen for, (experts,) float32; ``valid`` (tokens,) leaves some out."""
        once = torch.ones_like(self.chosen, dtype=torch.float32)
        if valid is not None:
            once = once * valid[:, None]
        return once.new_zeros(self.experts).index_add_(0, self.chosen.reshape(-1), once.reshape(-1))


def mean_ratio(ffns: Sequence[FFN], active: Sequence[float]) -> float:
    """Activation ratio from the mean number of active neurons of each FFN: pooled in a layer, then the layers' mean."""
    totals: dict[int, list[float]] = {}
    for ffn, count in zip(ffns, active, strict=True):
        pooled = totals.setdefault(ffn.layer, [0.0, 0.0])
        pooled[0] += count
        pooled[1] += ffn.d_ff
    return sum(count / neurons for count, neurons in totals.values()) / len(totals)


def has_interface(module: nn.Module) -> bool:
    """Whether a module holds experts computed by what transformers' ALL_EXPERTS_FUNCTIONS names, or as Llama 4's."""
    return hasattr(module, "_is_expert_parallel") or is_llama4(module)


def is_llama4(module: nn.Module) -> bool:
    """Whether these are Llama 4's experts, which scale their input by the router's weight."""
    return any(kind.__name__ == "Llama4TextExperts" for kind in type(module).__mro__)


def features(module: Any) -> tuple[int, int]:
    """(inputs, outputs) of a projection; quantised weights are packed in other shapes."""
    if isinstance(module, Conv1D):
        return module.nx, module.nf
    return module.in_features, module.out_features
