"""The ladder's tokenizer and its training data: token ids of the four sets, cut into windows in one fixed order."""

import hashlib
import os
import random
from functools import lru_cache

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ..core import arguments
from ..core.checkpoints import LADDER_TOKENIZER
from ..files import replacing_directory
from ..texts import corpora
from ..texts.worksheets import worksheets
from . import recipe

PATTERN = 40  # windows in which every set has exactly its share
# From this block of ``PATTERN`` windows on, mathematics comes from new seeds. The longest shipped runs end just before
# it (44M tokens with the decay), so they can be trained again; they read a quarter of the first problems twice.
NEW_PROBLEMS = 4297
NEW_WINDOWS = 40_000  # of each new seed; its problems make some 43,000


def train_tokenizer(directory: str | os.PathLike[str]) -> PreTrainedTokenizerBase:
    """Train the byte-level BPE tokenizer on 12M characters and save it where ``AutoTokenizer`` can load it.

    Raises ValueError for a directory that is there: the shipped models read no tokenizer but the shipped one.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    place = arguments.path("directory", directory)
    if place.exists():
        raise ValueError(f"directory: {place} is there already; give a new one.")
    text = corpora.load("mixture", "train")[:12_000_000]
    tokenizer = Tokenizer(models.BPE())
    digits, pieces = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, pieces])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.VOCABULARY,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((text[i : i + 5000] for i in range(0, len(text), 5000)), trainer)
    ends = dict.fromkeys(("bos_token", "eos_token", "pad_token"), "<|endoftext|>")
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **ends, model_max_length=recipe.CONTEXT)
    with replacing_directory(place) as partial:
        fast.save_pretrained(partial)
    return fast


def _tokenise(name: str, split: corpora.Split, part: int, digest: str, tokenizer_json: str) -> np.ndarray:
    """Token ids of a set; ``digest`` of text and tokenizer is there to be part of the cache key."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=tokenizer_json)
    text = "\n\n".join(worksheets(corpora.SEED + part)) if part else corpora.load(name, split)
    pieces = (text[i : i + 100_000] for i in range(0, len(text), 100_000))
    ids = [tokenizer(piece, verbose=False)["input_ids"] for piece in pieces]
    return np.concatenate([np.array(piece, dtype=np.uint16) for piece in ids])


def tokens(name: str, split: corpora.Split = "train", part: int = 0) -> np.ndarray:
    """Token ids of one set under the ladder's tokenizer, uint16, cached; of mathematics also of a further ``part``."""
    from joblib import Memory

    path = LADDER_TOKENIZER / "tokenizer.json"
    digest = hashlib.sha256(path.read_bytes() + corpora.SHA256[name].encode()).hexdigest()
    remember = Memory(corpora.cache_dir(), verbose=0).cache(_tokenise, ignore=["tokenizer_json"])
    return remember(name, split, part, digest, str(path))


def training_texts() -> dict[str, np.ndarray]:
    """Token ids of the four training sets."""
    return {name: tokens(name) for name in corpora.SHARES}


class Windows(torch.utils.data.Dataset):
    """The training data as an endless list: window i is the same for every model with the same seed.

    Every ``PATTERN`` windows hold each set exactly by its share, in random order; the windows of a set come in a new
    random order each time it has been read through.
    """

    def __init__(self, texts: dict[str, np.ndarray], seed: int) -> None:
        """``texts``: token ids of each set in ``corpora.SHARES``. Raises ValueError for one shorter than a window."""
        short = [name for name in corpora.SHARES if len(texts[name]) < recipe.CONTEXT]
        if short:
            raise ValueError(f"{', '.join(short)}: fewer than {recipe.CONTEXT} tokens, not one window")
        self.texts = {name: torch.from_numpy(ids.astype(np.int32)) for name, ids in texts.items()}
        self.counts = {name: round(PATTERN * share) for name, share in corpora.SHARES.items()}
        self.seed = seed
        self._slots = lru_cache(4)(self._shuffled_slots)
        self._order = lru_cache(2 * len(texts))(self._shuffled_windows)
        self._part = lru_cache(2)(lambda part: torch.from_numpy(tokens("math", part=part).astype(np.int32)))

    def __len__(self) -> int:
        """More windows than any run will read."""
        return 10**7

    def _shuffled_slots(self, block: int) -> list[tuple[str, int]]:
        slots = [(name, block * n + rank) for name, n in self.counts.items() for rank in range(n)]
        random.Random(f"{self.seed} block {block}").shuffle(slots)
        return slots

    def _shuffled_windows(self, name: str, epoch: int, windows: int) -> list[int]:
        order = list(range(windows))
        random.Random(f"{self.seed} {name} {epoch}").shuffle(order)
        return order

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        """Window ``index``: ``input_ids`` and ``labels``, both of ``CONTEXT`` tokens."""
        block = index // PATTERN
        name, number = self._slots(block)[index % PATTERN]
        text = self.texts[name]
        if name == "math" and block >= NEW_PROBLEMS:
            part, window = divmod(number - NEW_PROBLEMS * self.counts[name], NEW_WINDOWS)
            text = self._part(part + 1)
        else:
            windows = len(text) // recipe.CONTEXT
            window = self._order(name, number // windows, windows)[number % windows]
        ids = text[window * recipe.CONTEXT : (window + 1) * recipe.CONTEXT].long()
        return {"input_ids": ids, "labels": ids}


def validation_batches(max_tokens: int) -> list[torch.Tensor]:
    """Held-out windows in the shares of the training data, batches of up to 32 × ``CONTEXT``; at least one window."""
    arguments.whole("max_tokens", max_tokens, recipe.CONTEXT)
    data = Windows({name: tokens(name, "validation") for name in corpora.SHARES}, seed=0)
    rows = torch.stack([data[i]["input_ids"] for i in range(max_tokens // recipe.CONTEXT)])
    return list(rows.split(32))
