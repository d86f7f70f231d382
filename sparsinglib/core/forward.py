"""One forward pass after another over token batches: checked inputs, padding left out, losses in float32."""

import hashlib
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .arguments import flag, whole

BLOCK_TOKENS = 32  # neighbouring losses are correlated: standard errors treat this many tokens as one draw
LOGIT_BUDGET = 2**26  # logits held at once (256 MiB in float32); the rows of a batch are split to stay below
PIECE = 2**20  # characters tokenised at once
LENGTH = 512  # of a window, where the tokenizer sets no shorter limit
MOST_STREAMED = 2**22  # tokens taken from a stream of unknown length before it counts as endless
A_FILE = re.compile(r"\S+\.(txt|md|jsonl?|ndjson|csv|tsv|parquet|gz|html?|py)", re.IGNORECASE)


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
    """Checked batches of one text for one model, read as often as needed, in pieces that fit in memory.

    ``batches`` holds LongTensors (rows, length) or dicts with ``input_ids`` and, where they are needed,
    ``attention_mask`` and ``counted`` (see ``token_batches``). Raises ValueError for what cannot be measured: no
    batches, ids outside the vocabulary, rows longer than the model's context, a text without a single token to predict.
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
                yield batch.rows(start, start + rows)

    @cached_property
    def sha256(self) -> str:
        """Hash of the token ids row by row, the same however the rows are batched."""
        digest = hashlib.sha256()
        for batch in self.batches:
            for ids, valid in zip(batch.ids, batch.valid, strict=True):
                digest.update(ids[valid].to(torch.int64).cpu().numpy().tobytes() + b"|")
        return digest.hexdigest()


def as_list(batches: Iterable[Tensor | Mapping[str, Tensor]]) -> list[Tensor | Mapping[str, Tensor]]:
    """Batches that can be read more than once.

    Raises ValueError for a text or a tensor that is not yet in batches, and for a stream that does not end.
    """
    single = (str, bytes, os.PathLike, Tensor, np.ndarray, Mapping)
    if isinstance(batches, single) or not hasattr(batches, "__iter__"):
        raise ValueError(
            "batches must be a list of token batches: make them with token_batches(text, tokenizer); "
            f"got {type(batches).__name__}."
        )
    with suppress(TypeError):  # a loader may have a length to ask for and not know it
        if len(batches):  # type: ignore[arg-type]
            return list(batches)
    found, tokens = [], 0
    for batch in batches:
        found.append(batch)
        ids = batch.get("input_ids") if isinstance(batch, Mapping) else batch
        tokens += math.prod(getattr(ids, "shape", (1,)))
        if tokens > MOST_STREAMED:
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


def _mask(entries: Mapping[str, Any], name: str, ids: Tensor, index: int) -> Tensor:
    """An entry of a batch as booleans in the shape of its ids; all true where there is none."""
    if entries.get(name) is None:
        return torch.ones_like(ids, dtype=torch.bool)
    mask = torch.as_tensor(entries[name])
    if mask.numel() != ids.numel():
        raise ValueError(f"Batch {index}: {name} {tuple(mask.shape)} does not fit token ids {tuple(ids.shape)}.")
    return mask.bool().cpu().reshape(ids.shape)


@torch.inference_mode()
def logits(model: PreTrainedModel, batch: Batch) -> Tensor:
    """Run one forward pass; logits of the positions that have a target, (targets, vocabulary), model's dtype."""
    embedding: Any = model.get_input_embeddings()
    device = embedding.weight.device
    if device.type == "meta":  # accelerate keeps the weights elsewhere and moves inputs itself
        device = torch.device("cpu")
    out = model(input_ids=batch.ids.to(device), use_cache=False).logits
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
    length: int | None = None,
    batch_size: int = 8,
    max_tokens: int | None = None,
    *,
    stride: int | None = None,
    start_token: bool | None = None,
) -> list[Any]:
    """Windows of a text, without truncation: a text longer than the context becomes several of them.

    By default the windows follow one another, so that the first tokens of each are predicted from little before them.
    With a ``stride`` they overlap: each begins ``stride`` tokens after the last and counts only the tokens that no
    window before it held, which so have at least ``length - stride`` tokens before them. That is the protocol of
    transformers' perplexity guide. Perplexity is lower with it, at ``length / stride`` times the work, and only
    numbers of one protocol can be compared. The text is tokenised as a whole, one of more than a million characters in
    pieces that end between two words, so that memory holds little more than text and token ids.

    Args:
        text: the text itself; ``sparsinglib.corpora.load`` reads it from a file.
        tokenizer: as ``load`` gives it.
        length: tokens of a window, start tokens included; None for 512, or the tokenizer's limit if that is less.
        batch_size: windows of a batch.
        max_tokens: tokens of the text that are used, from its beginning; None for all.
        stride: tokens from the beginning of a window to that of the next, at most its text; None for no overlap.
        start_token: whether each window begins with the start token, as models like Gemma need it: without it their
            perplexity is that of noise. None does as the tokenizer does with a text. A text that begins with it
            already gets no second one.

    Returns:
        Batches of token ids, ``batch_size`` × ``length``; the last full windows may make a smaller batch, and what is
        left after them is a batch of its own, 1 × n, unless it is a single token that nothing predicts. With a stride,
        dicts of such ``input_ids`` and a mask ``counted``.

    Raises:
        ValueError: no tokenizer, a path or a list for a text, no text, fewer than two tokens, a size that makes no
            sense, a start token asked for that the tokenizer does not have.
    """
    _check_text(text, tokenizer)
    if length is None:
        length = min(LENGTH, getattr(tokenizer, "model_max_length", LENGTH))
    length, batch_size = whole("length", length, 2), whole("batch_size", batch_size, 1)
    start = torch.tensor(_start(tokenizer, start_token), dtype=torch.long)
    ids = _token_ids(text, tokenizer, None if max_tokens is None else whole("max_tokens", max_tokens, 2), start)
    if len(start) + len(ids) < 2:
        raise ValueError(f"the text has {len(ids)} token: at least 2 are needed to predict one from another")
    if (room := length - len(start)) < 1:
        raise ValueError(f"length must be more than the {len(start)} start tokens of each window, got {length}")
    step = room if stride is None else whole("stride", stride, 1)
    if step > room:
        raise ValueError(
            f"stride must be at most the {room} tokens of text in a window, or some are left out: {stride}"
        )
    full = max(0, (len(ids) - room) // step + 1)
    held = room + (full - 1) * step if full else 0  # tokens of the text that full windows hold
    rows = ids[:held].unfold(0, room, step) if full else ids.new_empty(0, room)
    windows = [torch.cat([start.expand(len(part), -1), part], dim=1) for part in rows.split(batch_size) if len(part)]
    rest = ids[full * step :]
    if held < len(ids) and len(start) + len(rest) > 1:
        windows.append(torch.cat([start, rest])[None])
    return windows if stride is None else _counted_once(windows, len(start), room - step)


def _check_text(text: object, tokenizer: object) -> None:
    if tokenizer is None:
        raise ValueError("this checkpoint has no tokenizer: give batches of token ids, or load a tokenizer that fits")
    if not callable(tokenizer) or isinstance(tokenizer, torch.nn.Module):
        raise ValueError(f"tokenizer must be one, as in model, tokenizer = load(name); got {type(tokenizer).__name__}")
    if not isinstance(text, str):
        raise ValueError(
            f"text must be a str, got {type(text).__name__}; sparsinglib.corpora.load reads paths and joins documents"
        )
    if not text.strip():
        raise ValueError("the text is empty")
    if A_FILE.fullmatch(text) or (len(text) < 4096 and os.path.exists(os.path.expanduser(text))):
        raise ValueError(f"text is the path {text!r}, not what the file holds: give sparsinglib.corpora.load({text!r})")


def _start(tokenizer: Any, wanted: bool | None) -> list[int]:
    """The tokens that each window begins with."""
    if wanted is not None and not flag("start_token", wanted):
        return []
    plain, marked = (list(tokenizer("a", add_special_tokens=s)["input_ids"]) for s in (False, True))
    places = (i for i in range(len(marked)) if marked[i : i + len(plain)] == plain)
    added = marked[: next(places, 0)]
    if wanted and not added and getattr(tokenizer, "bos_token_id", None) is None:
        raise ValueError("start_token is True, but this tokenizer has no start token (bos_token)")
    return added or ([tokenizer.bos_token_id] if wanted else [])


def _counted_once(windows: list[Tensor], start: int, overlap: int) -> list[dict[str, Tensor]]:
    """Windows with a mask of what counts: all of the first row, of each later one what no row before it held."""
    batches = []
    for index, ids in enumerate(windows):
        counted = torch.ones_like(ids, dtype=torch.bool)
        counted[(1 if index == 0 else 0) :, : start + overlap] = False
        batches.append({"input_ids": ids, "counted": counted})
    return batches


def _token_ids(text: str, tokenizer: Any, most: int | None, start: Tensor) -> Tensor:
    # One block for all ids, and a piece's list gone before the next: what is kept between pieces fragments the heap,
    # which then grows by 60 MB with each.
    found = torch.empty(len(text) // 2 + 1, dtype=torch.int32)
    begin = known = 0
    wanted = None if most is None else most + len(start)
    while begin < len(text) and (wanted is None or known < wanted):
        end = begin + PIECE
        if end < len(text):
            end = max(text.rfind(" ", begin + 1, end), text.rfind("\n", begin + 1, end), begin + PIECE // 2)
        ids = tokenizer(text[begin:end], add_special_tokens=False, verbose=False)["input_ids"]
        if known + len(ids) > len(found):
            found = torch.cat([found, torch.empty(len(found) + len(ids), dtype=torch.int32)])
        found[known : known + len(ids)] = torch.tensor(ids, dtype=torch.int32)
        begin, known = end, known + len(ids)
        del ids
    marked = len(start) > 0 and torch.equal(found[: len(start)].long(), start)  # as rendered from a chat template
    return found[len(start) if marked else 0 : known][:most].long()
