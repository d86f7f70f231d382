"""Tokens as a reader sees them, each by itself."""

import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np

BROKEN = "\N{REPLACEMENT CHARACTER}"  # what a tokenizer decodes a part of a character to


def token_pieces(tokenizer: Any, ids: Sequence[int] | np.ndarray) -> list[str]:
    """Text of each token, readable by itself: spaces as ·, line ends as ⏎, other control characters by their code.

    Tokens that make up one character together show the character once and ‥ for the rest. Without a ``tokenizer``
    (transformers') the ids stand for themselves.
    """
    ids = [int(i) for i in ids]
    if tokenizer is None:
        return [str(i) for i in ids]
    pieces: list[str] = []
    while len(pieces) < len(ids):
        start = len(pieces)
        runs = (str(tokenizer.decode(ids[start : start + n], clean_up_tokenization_spaces=False)) for n in range(1, 5))
        whole = next(((n, text) for n, text in enumerate(runs, 1) if text and BROKEN not in text), None)
        length, text = whole or (1, f"<{ids[start]}>")
        text = text.replace("\n", "⏎").replace("\t", "⇥").replace(" ", "·")
        shown = "".join(c if unicodedata.category(c)[0] != "C" else f"<{ord(c):x}>" for c in text)
        pieces += [shown, *["‥"] * (length - 1)]
    return pieces[: len(ids)]
