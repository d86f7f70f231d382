"""The ladder's training data: each set has its share, one order for a seed, and what shipped runs have read stays."""

import hashlib

import numpy as np
import pytest
import torch
from made_up import training_texts

from sparsinglib.ladder import batches, recipe
from sparsinglib.ladder.batches import PATTERN, Windows
from sparsinglib.ladder.recipe import RUNS
from sparsinglib.texts import corpora

# Of the windows that shipped runs of three seeds have read.
DIGESTS = {
    1: "3a64f5ce6e87e51b1b89ae3243f072a41b387468571eba1475adf99d16ed6dc7",
    2: "355e66ab8c860ad565fa0bcd44d0e20a0e6dd0787542e84b3c133e949c0d6e3d",
    3: "9eeeb51ecd9b68fc5245e82c1028942d157b36021855ed756fb19139ca48b2bf",
}


@pytest.fixture(scope="module")
def texts():
    return training_texts()


def test_every_block_holds_the_shares_and_every_epoch_every_window(texts):
    data = Windows(texts, seed=3)
    starts = {
        name: {ids[i : i + recipe.CONTEXT].tobytes() for i in range(0, 78 * recipe.CONTEXT, recipe.CONTEXT)}
        for name, ids in texts.items()
    }
    seen = {name: [] for name in texts}
    for index in range(10 * PATTERN):
        window = data[index]["input_ids"].numpy().astype(np.uint16).tobytes()
        seen[next(name for name in texts if window in starts[name])].append(window)
    assert {name: len(s) / (10 * PATTERN) for name, s in seen.items()} == corpora.SHARES
    assert len(set(seen["code"][:70])) == 70  # nothing twice before all 78 were read, to the end of the block
    assert set(seen["code"][:84]) == starts["code"]


def test_order_depends_on_the_seed_alone(texts):
    first, again, other = (Windows(texts, seed) for seed in (1, 1, 2))
    assert torch.equal(first[123]["input_ids"], again[123]["input_ids"])
    assert any(not torch.equal(first[i]["input_ids"], other[i]["input_ids"]) for i in range(5))


@pytest.mark.slow
def test_windows_of_the_shipped_runs_are_what_they_were():
    """Every 61st of 44M tokens, as before mathematics had new seeds: the digests are of the code of that time."""
    texts = batches.training_texts()
    for seed, digest in DIGESTS.items():
        data = Windows(texts, seed)
        found = [data[i]["input_ids"].numpy().astype(np.uint16).tobytes() for i in range(0, 171_880, 61)]
        assert hashlib.sha256(b"".join(found)).hexdigest() == digest, seed
    longest = max(run.steps + round(recipe.DECAY_SHARE * run.steps) for run in RUNS.values() if not run.snapshots)
    assert longest * RUNS["0.1m-relu"].batch < batches.NEW_PROBLEMS * PATTERN  # in windows


def test_mathematics_beyond_them_is_new_and_read_once(texts, monkeypatch):
    made = []

    def tokens(name, part):
        made.append((name, part))
        return np.arange(3 * recipe.CONTEXT) + 10_000 * part

    monkeypatch.setattr(batches, "NEW_PROBLEMS", 2)
    monkeypatch.setattr(batches, "NEW_WINDOWS", 3)
    monkeypatch.setattr(batches, "tokens", tokens)
    data = Windows(texts, seed=1)
    seen = [int(data[i]["input_ids"][0]) for i in range(2 * PATTERN, 4 * PATTERN)]
    new = sorted(first for first in seen if first >= 10_000)
    assert new == [10_000 * part + 256 * window for part in range(1, 9) for window in range(3)]  # 12 a block
    assert {name for name, _ in made} == {"math"}
    monkeypatch.setattr(batches, "NEW_PROBLEMS", 4)
    old = Windows(texts, seed=1)
    assert all(torch.equal(old[i]["input_ids"], data[i]["input_ids"]) for i in range(2 * PATTERN))


def test_too_short_a_text(texts):
    with pytest.raises(ValueError, match="math"):
        Windows({**texts, "math": texts["math"][:100]}, seed=1)
