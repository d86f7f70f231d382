"""One forward pass after another over token batches: checked inputs, padding left out, losses in float32."""

import hashlib
import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

BLOCK_TOKENS = 32  # neighbouring losses are correlated: standard errors treat this many tokens as one draw
LOGIT_BUDGET = 2**26  # logits held at once (256 MiB in float32); the rows of a batch are split to stay below
PIECE = 2**20  # characters tokenised at once


@dataclass(frozen=True, eq=False)
class Batch:
    """Token ids and validity, both (rows, length); padding is False in ``valid``."""

    ids: Tensor
    valid: Tensor

    @cached_property
    def padded(self) -> bool:
        """Whether any position is padding."""
        return not bool(self.valid.all())

    @cached_property
    def targets(self) -> Tensor:
        """Whether position j is followed by a token to predict, (rows, length - 1)."""
        return self.valid[:, :-1] & self.valid[:, 1:]

    @cached_property
    def positions(self) -> Tensor:
        """Index of each token among the valid ones of its row, (rows, length)."""
        return (self.valid.long().cumsum(dim=1) - 1).clamp_min(0)


class Corpus:
    """Checked batches of one text for one model, read as often as needed, in pieces that fit in memory.

    ``batches`` holds LongTensors (rows, length) or dicts with ``input_ids`` and ``attention_mask``. Raises ValueError
    for what cannot be measured: no batches, ids outside the vocabulary, rows longer than the model's context, a text
    without a single token to predict.
    """

    def __init__(self, model: PreTrainedModel, batches: Iterable[Tensor | Mapping[str, Tensor]]) -> None:
        config = model.config.get_text_config(decoder=True)
        if model.training:
            raise ValueError(
                "The model is in training mode, where dropout makes every pass another: call model.eval() first."
            )
        self.batches = [_checked(batch, index, config) for index, batch in enumerate(as_list(batches))]
        self.tokens = sum(int(b.valid.sum()) for b in self.batches)
        self.targets = sum(int(b.targets.sum()) for b in self.batches)
        if not self.targets:
            raise ValueError(
                f"The text has {self.tokens} tokens and none to predict: perplexity needs at least two in a row."
            )
        self._rows = {
            b.ids.shape[1]: max(1, LOGIT_BUDGET // (b.ids.shape[1] * config.vocab_size)) for b in self.batches
        }

    def __iter__(self) -> Iterator[Batch]:
        """Give the text in pieces whose logits stay within the memory budget."""
        for batch in self.batches:
            rows = self._rows[batch.ids.shape[1]]
            if rows >= len(batch.ids):
                yield batch
                continue
            for start in range(0, len(batch.ids), rows):
                yield Batch(batch.ids[start : start + rows], batch.valid[start : start + rows])

    @cached_property
    def sha256(self) -> str:
        """Hash of the token ids row by row, the same however the rows are batched."""
        digest = hashlib.sha256()
        for batch in self.batches:
            for ids, valid in zip(batch.ids, batch.valid, strict=True):
                digest.update(ids[valid].to(torch.int64).cpu().numpy().tobytes() + b"|")
        return digest.hexdigest()


def as_list(batches: Iterable[Tensor | Mapping[str, Tensor]]) -> list[Tensor | Mapping[str, Tensor]]:
    """Batches that can be read more than once; raises ValueError for a text or a tensor that is not yet in batches."""
    if isinstance(batches, (str, Tensor, Mapping)):
        raise ValueError("batches must be a list of token batches: make them with token_batches(text, tokenizer).")
    return list(batches)


def _checked(batch: Tensor | Mapping[str, Tensor], index: int, config: Any) -> Batch:
    mask = batch.get("attention_mask") if isinstance(batch, Mapping) else None
    ids = batch["input_ids"] if isinstance(batch, Mapping) else batch
    if not isinstance(ids, Tensor) or ids.dtype not in (torch.int32, torch.int64):
        raise ValueError(
            f"Batch {index}: expected a LongTensor of token ids (rows × length), got {type(ids).__name__}."
        )
    ids = ids.long().cpu()  # what is counted is counted there; each pass moves the ids to the model
    if ids.dim() == 1:
        ids = ids[None]
    if ids.dim() != 2 or ids.numel() == 0:
        raise ValueError(f"Batch {index}: token ids must be rows × length and not empty, got shape {tuple(ids.shape)}.")
    mask = None if mask is None else torch.as_tensor(mask)
    if mask is not None and mask.numel() != ids.numel():
        raise ValueError(
            f"Batch {index}: attention_mask {tuple(mask.shape)} does not fit token ids {tuple(ids.shape)}."
        )
    valid = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool().cpu().reshape(ids.shape)
    vocabulary, context = config.vocab_size, getattr(config, "max_position_embeddings", None)
    if ids[valid].numel() and not 0 <= int(ids[valid].min()) <= int(ids[valid].max()) < vocabulary:
        raise ValueError(f"Batch {index}: token ids outside the model's vocabulary of {vocabulary}; wrong tokenizer?")
    if context and int(valid.sum(dim=1).max()) > context:
        raise ValueError(
            f"Batch {index}: rows of {ids.shape[1]} tokens, but the model's context is {context}; "
            f"cut the text into windows: token_batches(text, tokenizer, length={context})."
        )
    return Batch(ids.masked_fill(~valid, 0), valid)  # padding may have an id for which the model has no embedding


@torch.inference_mode()
def logits(model: PreTrainedModel, batch: Batch) -> Tensor:
    """Run one forward pass; logits of the positions that have a target, (targets, vocabulary), model's dtype."""
    embedding: Any = model.get_input_embeddings()
    device = embedding.weight.device
    if device.type == "meta":  # accelerate keeps the weights elsewhere and moves inputs itself
        device = torch.device("cpu")
    extra = {}
    if batch.padded:
        extra["attention_mask"] = batch.valid.long().to(device)
        # Without explicit positions most models count left padding as text.
        if "position_ids" in inspect.signature(model.forward).parameters:
            extra["position_ids"] = batch.positions.to(device)
    out = model(input_ids=batch.ids.to(device), use_cache=False, **extra).logits
    return out[:, :-1].reshape(-1, out.shape[-1]) if not batch.padded else out[:, :-1][batch.targets.to(out.device)]


def losses(scores: Tensor, batch: Batch) -> Tensor:
    """Cross entropy of each target in float32, whatever the logits' dtype; (targets,) on the CPU, in nats."""
    labels = batch.ids[:, 1:][batch.targets].to(scores.device)
    parts = [
        torch.nn.functional.cross_entropy(part.float(), label, reduction="none")
        for part, label in zip(scores.split(1024), labels.split(1024), strict=True)
    ]
    return torch.cat(parts).cpu()


def kl_divergence(dense: Tensor, sparse: Tensor) -> Tensor:
    """KL(dense ‖ sparse) over the vocabulary for each target, in float32; (targets,) on the CPU, in nats."""
    parts = []
    for p, q in zip(dense.split(1024), sparse.split(1024), strict=True):
        log_p, log_q = p.float().log_softmax(-1), q.float().log_softmax(-1)
        parts.append((log_p.exp() * (log_p - log_q)).sum(-1))
    return torch.cat(parts).cpu()


def require_finite(values: Tensor, what: str) -> Tensor:
    """Return ``values``; raise ValueError if one of them is NaN or infinite."""
    if not bool(torch.isfinite(values).all()):
        raise ValueError(
            f"The {what} is not finite for {int((~torch.isfinite(values)).sum())} tokens; broken weights or overflow?"
        )
    return values


def block_sums(values: Tensor, batch: Batch) -> Tensor:
    """Sums over blocks of BLOCK_TOKENS targets within each row: (blocks, 2) of (sum, number of targets), float64."""
    counts = batch.targets.sum(dim=1)
    starts = torch.cumsum(counts, 0) - counts
    inside = torch.arange(len(values)) - torch.repeat_interleave(starts, counts)
    row = torch.repeat_interleave(torch.arange(len(counts)), counts)
    width = int(counts.max()) // BLOCK_TOKENS + 1
    block = row * width + inside // BLOCK_TOKENS
    sums = torch.zeros(len(counts) * width, 2, dtype=torch.float64)
    sums.index_add_(0, block, torch.stack([values.double(), torch.ones_like(values, dtype=torch.float64)], dim=1))
    return sums[sums[:, 1] > 0]


def mean_and_error(blocks: Sequence[Tensor] | Tensor) -> tuple[float, float | None]:
    """Mean over targets and its standard error from blocks of unequal size (ratio estimator); None below ten blocks."""
    table = blocks if isinstance(blocks, Tensor) else torch.cat(list(blocks))
    total, count = table.sum(dim=0).tolist()
    mean = total / count
    number = len(table)
    if number < 10:
        return mean, None
    residual = table[:, 0] - mean * table[:, 1]
    return mean, float((residual.square().sum() * number / (number - 1)).sqrt() / count)


def token_batches(
    text: str,
    tokenizer: PreTrainedTokenizerBase | None,
    length: int = 512,
    batch_size: int = 8,
    max_tokens: int | None = None,
) -> list[torch.LongTensor]:
    """Consecutive windows of a text, without truncation: a text longer than the context becomes several windows.

    The text is tokenised as a whole, with whatever start token the tokenizer adds; one of more than a million
    characters in pieces that end between two words, so that memory holds little more than text and token ids.

    Returns:
        Batches of token ids, ``batch_size`` × ``length``; the last full windows may make a smaller batch, and what is
        left after them is a batch of its own, 1 × n, unless it is a single token (which predicts nothing).

    Raises:
        ValueError: no tokenizer, no text, fewer than two tokens, or a size that makes no sense.
    """
    if tokenizer is None:
        raise ValueError("this checkpoint has no tokenizer: give batches of token ids, or load a tokenizer that fits")
    if length < 2 or batch_size < 1:
        raise ValueError(f"length must be at least 2 and batch_size at least 1, not {length} and {batch_size}")
    if max_tokens is not None and max_tokens < 2:
        raise ValueError(f"max_tokens must be at least 2, not {max_tokens}")
    if not text.strip():
        raise ValueError("the text is empty")
    ids = _token_ids(text, tokenizer, max_tokens)
    if len(ids) < 2:
        raise ValueError(f"the text has {len(ids)} token: at least 2 are needed to predict one from another")
    full = len(ids) // length * length
    batches = list(ids[:full].view(-1, length).split(batch_size)) if full else []
    return batches + ([ids[full:].unsqueeze(0)] if len(ids) - full > 1 else [])


def _token_ids(text: str, tokenizer: PreTrainedTokenizerBase, most: int | None) -> torch.Tensor:
    # One block for all ids, and a piece's list gone before the next: what is kept between pieces fragments the heap,
    # which then grows by 60 MB with each.
    found = torch.empty(len(text) // 2 + 1, dtype=torch.int32)
    start = known = 0
    while start < len(text) and (most is None or known < most):
        end = start + PIECE
        if end < len(text):
            end = max(text.rfind(" ", start + 1, end), text.rfind("\n", start + 1, end), start + PIECE // 2)
        ids = tokenizer(text[start:end], add_special_tokens=start == 0, verbose=False)["input_ids"]
        if known + len(ids) > len(found):
            found = torch.cat([found, torch.empty(len(found) + len(ids), dtype=torch.int32)])
        found[known : known + len(ids)] = torch.tensor(ids, dtype=torch.int32)
        start, known = end, known + len(ids)
        del ids
    return found[:known][:most].long()
