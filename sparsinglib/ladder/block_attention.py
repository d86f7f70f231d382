"""Causal attention in blocks of queries, for training the ladder on a CPU: the same function as torch's own, faster.

torch's fused attention on a CPU is slow with heads of 16 in bf16, above all backwards. Here every block of queries is
multiplied with the keys up to its own end only, so that most of the masked half is never computed, and the whole is
left to ``torch.compile``. ``benchmarks/training_speed.py`` compares the two.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface

BLOCK_CAUSAL = "block_causal"  # name of ``block_causal`` among transformers' ways to attend
BLOCK = 64  # queries; a length that this does not divide is one block


def block_causal(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: None, scaling: float, **_: Any
) -> tuple[Tensor, None]:
    """Causal attention over whole windows: query, key and value of batch × heads × length × head size, no padding.

    Returns batch × length × heads × head size, and no attention weights. Raises ``ValueError`` for a mask and for
    fewer queries than keys (a cache), which the blocks would get wrong.
    """
    length = query.shape[2]
    if mask is not None or key.shape[2] != length:
        raise ValueError("block-causal attention is for training on whole windows, without padding and without cache")
    size = BLOCK if length % BLOCK == 0 else length
    later = torch.full((size, size), -torch.inf, dtype=query.dtype, device=query.device).triu(1)
    outputs = []
    for start in range(0, length, size):
        end = start + size
        scores = query[:, :, start:end] @ key[:, :, :end].transpose(-1, -2) * scaling
        scores = scores + functional.pad(later, (start, 0))
        outputs.append(torch.softmax(scores.float(), -1).to(query.dtype) @ value[:, :, :end])
    return torch.cat(outputs, 2).transpose(1, 2).contiguous(), None


def _only_causal(*_: Any, attention_mask: Tensor | None = None, **__: Any) -> Tensor | None:
    """No mask of transformers' own is built; a given one is passed on, to be refused."""
    return attention_mask


AttentionInterface.register(BLOCK_CAUSAL, block_causal)
AttentionMaskInterface.register(BLOCK_CAUSAL, _only_causal)
