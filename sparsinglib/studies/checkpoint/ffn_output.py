"""One FFN's output on one token taken apart by neuron (Figure 1)."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from transformers import PreTrainedModel

from ...core import forward
from ...core.cett import layer_cett
from ...core.ffn import FFN
from ...core.forward import TokenBatches
from ...core.hooks import hook_ffns
from ...core.layout import find_ffns
from ...core.thresholds import Thresholds


@dataclass(frozen=True, eq=False)
class FFNOutput:
    """One FFN's output on one token, by neuron.

    ``neurons``: neuron, magnitude (length of its output vector), strong; longest first. ``output``: dimension of the
    hidden state, all_neurons, strong_only. ``cett``: the relative error of leaving the weak neurons out (Eq. 3).
    """

    layer: int
    threshold: float
    cett: float
    neurons: pd.DataFrame
    output: pd.DataFrame


def decompose_ffn_output(
    model: PreTrainedModel, ids: Tensor, thresholds: Thresholds, layer: int, position: int
) -> FFNOutput:
    """Take apart the output of ``layer``'s FFN at one ``position`` of the token ids (tokens,), dense model (Fig. 1).

    Raises ValueError if layer or position do not exist or the thresholds do not fit the model.
    """
    ffns = find_ffns(model)
    thresholds.check(ffns)
    corpus = TokenBatches(model, [ids.reshape(1, -1)])
    if not -len(ffns) <= layer < len(ffns) or not 0 <= position < corpus.tokens:
        raise ValueError(f"No layer {layer} of {len(ffns)} or no position {position} of {corpus.tokens} tokens.")
    ffn, seen = ffns[layer], []

    def visit(_ffn: FFN, neurons: Tensor, _gate: Tensor) -> None:
        seen.append(neurons.reshape(corpus.tokens, -1)[position : position + 1])

    with hook_ffns([ffn], visit):
        for batch in corpus:
            forward.logits(model, batch)
    values, threshold = seen[0], thresholds.values[ffn.site]
    strong = thresholds.active(ffn, values, values)
    neurons = pd.DataFrame({"magnitude": ffn.magnitudes(values)[0].cpu().numpy(), "strong": strong[0].cpu().numpy()})
    neurons = neurons.rename_axis("neuron").reset_index().sort_values("magnitude", ascending=False, ignore_index=True)
    full, kept = (ffn.output(x)[0].float().cpu().numpy() for x in (values, torch.where(strong, values, 0)))
    output = pd.DataFrame({"dimension": np.arange(len(full)), "all_neurons": full, "strong_only": kept})
    return FFNOutput(ffn.layer, threshold, float(layer_cett(ffn, values, threshold)), neurons, output)
