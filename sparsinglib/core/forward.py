"""One forward pass after another over token batches: checked inputs, padding left out, losses in float32."""

import hashlib
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

BLOCK_TOKENS = 32  # neighbouring losses are correlated: standard errors treat this many tokens as one draw
Z90 = 1.645  # standard errors to either end of a 90 % interval
LOGIT_BUDGET = 2**26  # logits held at once (256 MiB in float32); the rows of a batch are split to stay below
CACHED_LOGITS = 2**20  # logits of which losses are taken at once on a CPU (4 MiB in float32)
MOST_STREAMED = 2**22  # tokens taken from a stream of unknown length before it counts as endless


TAKEN = ("input_ids", "attention_mask", "counted")  # what a batch may have
Batches = Iterable[Tensor | Mapping[str, Tensor]]  # as a caller gives them


@dataclass(frozen=True, eq=False)
class Batch:
    """Token ids, which of them count (``valid``), and which the model sees (``seen``), all (rows, length).

    Padding is neither, and stands at the row's end; a token that stands in a window only as context for others is seen
    and does not count.
    """

    ids: Tensor
    valid: Tensor
    seen: Tensor

    @cached_property
    def padded(self) -> bool:
        """Whether any position does not count."""
        return not bool(self.valid.all())

    @cached_property
    def targets(self) -> Tensor:
        """Whether position j is followed by a token to predict, (rows, length - 1)."""
        return self.seen[:, :-1] & self.valid[:, 1:]

    @cached_property
    def positions(self) -> Tensor:
        """Index of each token among those its row shows to the model, (rows, length)."""
        return (self.seen.long().cumsum(dim=1) - 1).clamp_min(0)

    def rows(self, start: int, end: int) -> "Batch":
        """The rows from ``start`` up to ``end``."""
        return Batch(self.ids[start:end], self.valid[start:end], self.seen[start:end])


class Copies:
    """A tensor, copied once to each device that asks for it: what a hook needs is there when the next layer comes."""

    def __init__(self, tensor: Tensor) -> None:
        self._copies = {tensor.device: tensor}
        self._first = tensor

    def on(self, device: torch.device) -> Tensor:
        """The tensor on a device."""
        if device not in self._copies:
            self._copies[device] = self._first.to(device, non_blocking=True)
        return self._copies[device]


class TokenBatches:
    """Checked batches of one text for one model, read as often as needed, in pieces whose logits fit in memory.

    ``batches`` holds LongTensors (rows, length) or dicts with ``input_ids`` and, where they are needed,
    ``attention_mask`` and ``counted`` (see ``token_batches``). Raises ValueError for what cannot be measured: no
    batches, ids outside the vocabulary, rows longer than the model's context, a text without a single token to predict.
    """

    def __init__(self, model: PreTrainedModel, batches: Batches) -> None:
        config = model.config.get_text_config(decoder=True)
        if model.training:
            raise ValueError(
                "The model is in training mode, where dropout makes every pass another: call model.eval() first."
            )
        checked = [_checked(batch, index, config) for index, batch in enumerate(as_list(batches))]
        self.batches: list[Batch] = []
        for batch in checked:
            rows = max(1, LOGIT_BUDGET // (batch.ids.shape[1] * config.vocab_size))
            self.batches += [batch.rows(start, start + rows) for start in range(0, len(batch.ids), rows)]
        self.tokens = sum(int(b.valid.sum()) for b in self.batches)
        self.targets = sum(int(b.targets.sum()) for b in self.batches)
        if not self.targets:
            raise ValueError(
                f"The text has {self.tokens} tokens and none to predict: perplexity needs at least two in a row."
            )

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.batches)

    @cached_property
    def sha256(self) -> str:
        """Hash of the token ids row by row, the same however the rows are batched."""
        digest = hashlib.sha256()
        for batch in self.batches:
            for ids, valid in zip(batch.ids, batch.valid, strict=True):
                digest.update(ids[valid].to(torch.int64).cpu().numpy().tobytes() + b"|")
        return digest.hexdigest()


def as_list(batches: Batches) -> list[Tensor | Mapping[str, Tensor]]:
    """Batches that can be read more than once.

    Raises ValueError for a text or a tensor that is not yet in batches, and for a stream that does not end.
    """
    single = (str, bytes, os.PathLike, Tensor, np.ndarray, Mapping)
    if isinstance(batches, single) or not hasattr(batches, "__iter__"):
        raise ValueError(
            "batches must be a list of token batches: make them with token_batches(text, tokenizer); "
            f"got {type(batches).__name__}."
        )
    if isinstance(batches, (list, tuple)):
        return list(batches)
    found, tokens, known = [], 0, 0
    with suppress(TypeError):  # a loader may have a length to ask for and not know it
        known = len(batches)  # type: ignore[arg-type]
    for batch in batches:
        found.append(batch)
        ids = batch.get("input_ids") if isinstance(batch, Mapping) else batch
        if ids is None or not hasattr(ids, "shape"):  # no token ids, as ``_checked`` says, however many follow
            break
        tokens += math.prod(ids.shape)
        if tokens > MOST_STREAMED and not 0 < known < MOST_STREAMED:
            raise ValueError(
                f"batches is a stream that gave {tokens:,} tokens and goes on; it may be endless. Take a part of it, "
                "list(itertools.islice(batches, 100)), or give token_batches a max_tokens; a list may be of any length."
            )
    return found


def _checked(batch: Tensor | Mapping[str, Tensor], index: int, config: Any) -> Batch:
    entries: Mapping[str, Any] = batch if isinstance(batch, Mapping) else {"input_ids": batch}
    if "input_ids" not in entries:
        raise ValueError(f"Batch {index}: no input_ids; it has {', '.join(map(str, entries)) or 'nothing'}.")
    ids = entries["input_ids"]
    if isinstance(ids, np.ndarray) and ids.dtype.kind in "iu":
        ids = torch.from_numpy(ids.astype(np.int64))
    if not isinstance(ids, Tensor) or ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        kind = f"{type(ids).__name__} of {ids.dtype}" if isinstance(ids, (Tensor, np.ndarray)) else type(ids).__name__
        raise ValueError(f"Batch {index}: expected a LongTensor of token ids (rows × length), got {kind}.")
    ids = ids.long().cpu()  # what is counted is counted there; each pass moves the ids to the model
    if ids.dim() == 1:
        ids = ids[None]
    if ids.dim() != 2 or ids.numel() == 0:
        raise ValueError(f"Batch {index}: token ids must be rows × length and not empty, got shape {tuple(ids.shape)}.")
    seen = _mask(entries, "attention_mask", ids, index)
    valid = seen & _mask(entries, "counted", ids, index)
    if others := [name for name, entry in entries.items() if _asks_for_more(name, entry, ids, valid, seen)]:
        hint = "; leave tokens out of the losses with counted=(labels != -100)" if "labels" in others else ""
        raise ValueError(f"Batch {index}: {others[0]} would not be used; a batch has {', '.join(TAKEN)}{hint}.")
    vocabulary, context = config.vocab_size, getattr(config, "max_position_embeddings", None)
    if ids[seen].numel() and not 0 <= int(ids[seen].min()) <= int(ids[seen].max()) < vocabulary:
        raise ValueError(f"Batch {index}: token ids outside the model's vocabulary of {vocabulary}; wrong tokenizer?")
    if context and 0 < context < int(seen.sum(dim=1).max()):  # XLNet's is -1, for none
        raise ValueError(
            f"Batch {index}: rows of {ids.shape[1]} tokens, but the model's context is {context}; "
            f"cut the text into windows: token_batches(text, tokenizer, length={context})."
        )
    # Padding goes to the row's end, where a causal model's scores do not depend on it: so no mask and no positions need
    # be passed, which some models do not take and others overlook. It may have an id that has no embedding.
    order = seen.long().argsort(dim=1, descending=True, stable=True)
    return Batch(*(part.gather(1, order) for part in (ids.masked_fill(~seen, 0), valid, seen)))


def _is_numbers(entry: Any) -> bool:
    return isinstance(entry, Tensor) or (isinstance(entry, np.ndarray) and entry.dtype.kind in "biuf")


def _asks_for_more(name: str, entry: Any, ids: Tensor, valid: Tensor, seen: Tensor) -> bool:
    """Whether an entry would have the model or its losses be others than they are: not those that say what is done."""
    if name in (*TAKEN, "special_tokens_mask") or not _is_numbers(entry):
        return False
    entry = torch.as_tensor(entry).cpu()
    if entry.numel() != ids.numel():
        return entry.is_floating_point()
    as_done = {
        "labels": lambda labels: (labels == ids) | (labels == -100) & ~valid,
        "position_ids": lambda positions: (positions == seen.cumsum(dim=1) - 1) | ~seen,
        "token_type_ids": lambda types: types == 0,
    }
    return name not in as_done or not bool(as_done[name](entry.reshape(ids.shape)).all())


def _mask(entries: Mapping[str, Any], name: str, ids: Tensor, index: int) -> Tensor:
    """An entry of a batch as booleans in the shape of its ids; all true where there is none."""
    if entries.get(name) is None:
        return torch.ones_like(ids, dtype=torch.bool)
    mask = torch.as_tensor(entries[name]).cpu()
    if mask.dim() == 1:
        mask = mask[None]
    if mask.shape != ids.shape:
        raise ValueError(f"Batch {index}: {name} {tuple(mask.shape)} does not fit token ids {tuple(ids.shape)}.")
    if not bool(((mask == 0) | (mask == 1)).all()):
        raise ValueError(f"Batch {index}: {name} must hold ones, for tokens that count, and zeros, and nothing else.")
    return mask.bool()


@torch.inference_mode()
def logits(model: PreTrainedModel, batch: Batch) -> Tensor:
    """Run one forward pass; logits of the positions that have a target, (targets, vocabulary), model's dtype."""
    embedding: Any = model.get_input_embeddings()
    device = embedding.weight.device
    if device.type == "meta":  # accelerate keeps the weights elsewhere and moves inputs itself
        device = torch.device("cpu")
    out = model(input_ids=batch.ids.to(device), use_cache=False).logits
    return out[:, :-1].flatten(0, 1) if not batch.padded else out[:, :-1][batch.targets.to(out.device)]


def _rows(scores: Tensor) -> int:
    """Rows of logits that are taken at once: on a CPU as many as its cache holds."""
    return max(1, (CACHED_LOGITS if scores.device.type == "cpu" else LOGIT_BUDGET) // scores.shape[-1])


def _labels(scores: Tensor, batch: Batch) -> Tensor:
    return batch.ids[:, 1:][batch.targets].to(scores.device)


def losses(scores: Tensor, batch: Batch) -> Tensor:
    """Cross entropy of each target in float32, whatever the logits' dtype; (targets,) on the CPU, in nats."""
    rows = _rows(scores)
    parts = [
        torch.nn.functional.cross_entropy(part.float(), label, reduction="none")
        for part, label in zip(scores.split(rows), _labels(scores, batch).split(rows), strict=True)
    ]
    return torch.cat(parts).cpu()


def losses_and_kl(sparse: Tensor, dense: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """``losses`` of ``sparse``, and KL(dense ‖ sparse) over the vocabulary; both (targets,) on the CPU, in nats."""
    rows, parts = _rows(sparse), []
    for p, q, label in zip(dense.split(rows), sparse.split(rows), _labels(sparse, batch).split(rows), strict=True):
        log_p, log_q = p.float().log_softmax(-1), q.float().log_softmax(-1)
        loss = -log_q.gather(1, label[:, None])
        terms = log_q.neg_().add_(log_p).mul_(log_p.exp_())
        # A word that a model never gives has a logit of -inf, and adds nothing where both leave it out.
        divergence = terms.nan_to_num_(nan=0.0, posinf=math.inf, neginf=-math.inf).sum(-1, keepdim=True)
        parts.append(torch.cat([loss, divergence], dim=1))
    found = torch.cat(parts).cpu()
    return found[:, 0], found[:, 1]


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
    mean, number = total / count, len(table)
    if number < 10:
        return mean, None
    residual = table[:, 0] - mean * table[:, 1]
    return mean, float((residual.square().sum() * number / (number - 1)).sqrt() / count)
