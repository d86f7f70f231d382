"""One FFN on one token, taken apart: which neurons are strong, which weak, and what the weak ones are worth."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from transformers import PreTrainedModel

from ...core import forward
from ...core.cett import layer_cett
from ...core.ffn import FFN, find_ffns
from ...core.forward import TokenBatches
from ...core.hooks import hook_ffns
from ...core.thresholds import Thresholds


@dataclass(frozen=True, eq=False)
class Anatomy:
    """``neurons``: one row a neuron (neuron, magnitude = length of its output vector, strong), longest first.

    ``output``: one row a dimension of the hidden state (dimension, all_neurons, strong_only). ``cett``: share of the
    output's length that leaving the weak neurons out takes away (Eq 3).
    """

    layer: int
    position: int
    threshold: float
    cett: float
    neurons: pd.DataFrame
    output: pd.DataFrame


def dissect(model: PreTrainedModel, ids: Tensor, thresholds: Thresholds, layer: int, position: int) -> Anatomy:
    """Take apart the FFN of ``layer`` at one ``position`` of the token ids (tokens,), in the dense model (Fig 1).

    Raises ValueError if layer or position do not exist or the thresholds do not fit the model.
    """
    ffns = find_ffns(model)
    thresholds.check(ffns)
    corpus = TokenBatches(model, [ids.reshape(1, -1)])
    if not -len(ffns) <= layer < len(ffns) or not 0 <= position < corpus.tokens:
        raise ValueError(f"No layer {layer} of {len(ffns)} or no position {position} of {corpus.tokens} tokens.")
    seen: list[Tensor] = []

    def visit(_ffn: FFN, neurons: Tensor, _gate: Tensor) -> None:
        seen.append(neurons.reshape(corpus.tokens, -1)[position : position + 1])

    ffn = ffns[layer]
    with hook_ffns([ffn], visit):
        for batch in corpus:
            forward.logits(model, batch)
    values = seen[0]
    strong = thresholds.active(ffn, values, values)
    neurons = pd.DataFrame({"magnitude": ffn.magnitudes(values)[0].cpu().numpy(), "strong": strong[0].cpu().numpy()})
    neurons = neurons.rename_axis("neuron").reset_index().sort_values("magnitude", ascending=False, ignore_index=True)
    outputs = [ffn.output(x)[0].float().cpu().numpy() for x in (values, torch.where(strong, values, 0))]
    output = pd.DataFrame(
        {"dimension": np.arange(len(outputs[0])), "all_neurons": outputs[0], "strong_only": outputs[1]}
    )
    threshold = thresholds.values[ffn.site]
    return Anatomy(ffn.layer, position, threshold, float(layer_cett(ffn, values, threshold)), neurons, output)
