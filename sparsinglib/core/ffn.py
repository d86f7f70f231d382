"""Find every feed-forward network (FFN) of a decoder: where its neurons are, and what each adds to the output.

A neuron is one column of the output projection (the paper's W_out, ``down_proj``); its value is what that column is
multiplied by (Sec 2.2, Eq 1-2). So the input of ``down_proj`` is all that has to be seen, whatever stands before it.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.activations import ACT2CLS
from transformers.pytorch_utils import Conv1D

from . import arguments

DOWN_NAMES = ("down_proj", "dense_4h_to_h", "fc2", "fc_out", "c_proj", "w2", "wo", "proj_2", "output_linear")
ATTENTION = ("attn", "attention", "mixer")
EXPERTS = ("expert", "router", "sparsemoe", "sparse_moe")
ACTIVATIONS = tuple({c[0] if isinstance(c, tuple) else c for c in ACT2CLS.values() if isinstance(c, (type, tuple))})


class UnsupportedModel(ValueError):
    """A model whose FFNs cannot be found or taken apart; the message names the module."""


@dataclass(eq=False)
class FFN:
    """One FFN of d_ff neurons: ``down`` is its output projection, ``activation`` the module that gives the gate score.

    ``kind`` is "gated" (separate gate and up), "fused" (gate and up in one matrix) or "plain" (no gate: the gate
    score is the neuron's value itself).
    """

    layer: int
    name: str
    kind: str
    down: Any  # Linear, Conv1D or a relative of theirs, which torch gives no common type with a weight
    activation: nn.Module | None

    @property
    def d_ff(self) -> int:
        """Number of neurons."""
        return _features(self.down)[0]

    @cached_property
    def column_norms(self) -> Tensor:
        """Length of each neuron's output direction ||W_out[:, i]||_2, float32, shape (d_ff,)."""
        with self._columns() as columns:
            return columns.float().norm(dim=0)

    @contextmanager
    def _columns(self) -> Iterator[Tensor]:
        """W_out, (hidden size, d_ff), fetched from wherever accelerate keeps it if the model is spread out."""
        with ExitStack() as stack:
            if hasattr(self.down, "_hf_hook"):
                from accelerate.utils import align_module_device

                stack.enter_context(align_module_device(self.down))
            weight = self.down.weight
            yield (weight.t() if isinstance(self.down, Conv1D) else weight).detach()

    def output(self, neurons: Tensor) -> Tensor:
        """Sum of the neurons' output vectors without any bias (Eq 2), (tokens, d_ff) -> (tokens, hidden size)."""
        with self._columns() as columns:
            return nn.functional.linear(neurons, columns)

    def magnitudes(self, neurons: Tensor) -> Tensor:
        """Length of each neuron's output vector, |value| · ||W_out[:, i]||, float32, shape of ``neurons``."""
        return neurons.abs().float() * self.column_norms.to(neurons.device)

    @cached_property
    def zeroes_negatives(self) -> bool:
        """Whether the activation function gives exact zeros for negative inputs, as ReLU does."""
        if self.activation is None:
            return False
        probe = torch.tensor([-4.0, -1.0, -1e-3])
        return bool((self.activation(probe) == 0).all())


def find_ffns(model: PreTrainedModel) -> list[FFN]:
    """List the FFNs of a decoder-only model, first layer first.

    Raises UnsupportedModel, naming the module, for a mixture of experts or a layer in which no single output
    projection stands out; ValueError for what is no loaded model.
    """
    layers = _decoder_layers(arguments.model(model))
    experts = {name: _experts_in(layer) for name, layer in layers}
    if mixed := {name: found for name, found in experts.items() if found}:
        dense = [name for name in experts if name not in mixed]
        raise UnsupportedModel(
            f"{type(model).__name__} is a mixture of experts: {next(iter(mixed.values()))} routes each token to some "
            "of its FFNs, so its neurons are not one fixed set per layer and thresholds by layer do not apply. "
            f"Layers with an ordinary FFN: {', '.join(dense) or 'none'}."
        )
    return [_ffn_of_layer(index, name, layer) for index, (name, layer) in enumerate(layers)]


def _decoder_layers(model: PreTrainedModel) -> list[tuple[str, nn.Module]]:
    config = model.config.get_text_config(decoder=True)
    depth = config.num_hidden_layers
    for name, module in model.named_modules():
        # Attention counts here: in a mixture of experts it can hold the only linear modules there are.
        if isinstance(module, nn.ModuleList) and len(module) == depth and _has_linear(module):
            return [(f"{name}.{i}", layer) for i, layer in enumerate(module)]
    raise UnsupportedModel(
        f"{type(model).__name__}: no list of {depth} decoder layers found (config.num_hidden_layers)."
    )


def _has_linear(module: nn.Module) -> bool:
    return any(isinstance(child, (nn.Linear, Conv1D)) for child in module.modules())


def _experts_in(layer: nn.Module) -> str | None:
    for name, module in layer.named_modules():
        words = f"{name.rsplit('.', 1)[-1]} {type(module).__name__}".lower()
        if any(word in words for word in EXPERTS):
            return f"{name or 'the layer'} ({type(module).__name__})"
    return None


def _features(module: Any) -> tuple[int, int]:
    """(inputs, outputs) of a projection, from its weight so that Linear, Conv1D and their relatives all fit."""
    rows, columns = module.weight.shape
    return (rows, columns) if isinstance(module, Conv1D) else (columns, rows)


def _linears(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, child in module.named_modules():
        if isinstance(child, (nn.Linear, Conv1D)) and not any(word in name.lower() for word in ATTENTION):
            yield name, child


def _ffn_of_layer(index: int, name: str, layer: nn.Module) -> FFN:
    linears = dict(_linears(layer))
    named = [n for n in linears if n.rsplit(".", 1)[-1] in DOWN_NAMES]
    shaped = [n for n in linears if _features(linears[n])[0] > _features(linears[n])[1]]
    candidates = named or shaped
    if len(candidates) != 1:
        raise UnsupportedModel(
            f"{name} ({type(layer).__name__}): expected one FFN output projection, found {candidates or 'none'} among "
            f"{list(linears) or 'no linear modules'}; add its name to sparsinglib.ffn.DOWN_NAMES if it is a plain FFN."
        )
    down_name = candidates[0]
    down = linears[down_name]
    parent_name = down_name.rpartition(".")[0]
    parent = layer.get_submodule(parent_name)
    d_ff, hidden = _features(down)
    into = [m for n, m in linears.items() if n != down_name and n.rpartition(".")[0] == parent_name]
    widths = sorted(_features(m)[1] for m in into if _features(m)[0] == hidden)
    kinds = {(d_ff, d_ff): "gated", (2 * d_ff,): "fused", (d_ff,): "plain"}
    if tuple(widths) not in kinds:
        raise UnsupportedModel(
            f"{name}.{parent_name} ({type(parent).__name__}): an FFN with {d_ff} neurons and input projections of "
            f"width {widths} is neither gated, fused nor plain."
        )
    return FFN(index, f"{name}.{parent_name}".rstrip("."), kinds[tuple(widths)], down, _activation_of(parent))


def _activation_of(parent: nn.Module) -> nn.Module | None:
    found = [child for child in parent.children() if isinstance(child, ACTIVATIONS)]
    return found[0] if len(found) == 1 else None
