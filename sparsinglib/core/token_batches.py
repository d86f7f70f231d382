"""A text as windows of token ids, consecutive or overlapping, with start tokens where a model needs them."""

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from .arguments import flag, names_a_text, whole

PIECE = 2**20  # characters tokenised at once
LENGTH = 512  # of a window, where the tokenizer sets no shorter limit


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
            already, be it after blanks, gets no second one.

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
    if names_a_text(text):
        raise ValueError(
            f"text is {text!r}, the name of a text and not what it holds: give sparsinglib.corpora.load({text!r}), "
            "which reads files and knows the corpora by name; what lies at an address must be downloaded first"
        )


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
    marked = False
    if len(start):
        # A text rendered from a chat template begins with its own; blanks before that are then no text.
        bare = text.lstrip("\ufeff \t\r\n")
        marked = tokenizer(bare[:256], add_special_tokens=False)["input_ids"][: len(start)] == start.tolist()
        text = bare if marked else text
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
    return found[len(start) if marked else 0 : known][:most].long()
