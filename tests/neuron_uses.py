"""Made-up measurements of what checkpoints leave active."""

import torch

import sparsinglib as sl
from sparsinglib.core.measure import Measurement
from sparsinglib.studies.neurons.frequency import NeuronActivity
from sparsinglib.suites.suite import Checkpoint, Suite


def measurement(**given):
    """A measurement of one layer; what is not given is empty."""
    none = torch.zeros(0, dtype=torch.long)
    fields = {
        "rule": sl.FAT(0.05), "layers": (0,), "column_norms": (), "neuron_counts": [], "expert_loads": [],
        "cett_sums": torch.zeros(1), "position_counts": none[None], "position_tokens": none,
        "vocabulary_counts": none[None], "vocabulary_squares": none.double(), "vocabulary_tokens": none,
        "dense_blocks": torch.ones(4, 2), "rise_blocks": torch.ones(4, 2), "kl_blocks": None, "by_token": None,
    }  # fmt: skip
    return Measurement(**fields | given)


def activity(name, whole, halves=(), scale="0.1M", activation="relu", corpus="code"):
    """A checkpoint's measurements of a corpus and of its halves."""
    return NeuronActivity(Checkpoint(name, name, scale, activation), corpus, whole, tuple(halves))


def suite_of(*names):
    """A suite of one's own of models of one size."""
    checkpoints = tuple(Checkpoint(name, name, "0.1M", "relu") for name in names)
    return Suite("mine", "own", ("code", "math"), 16, 32, checkpoints)
