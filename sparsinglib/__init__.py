"""How few feed-forward neurons does a language model need? Measurement, thresholds and laws after arXiv 2411.02335."""

from importlib import import_module
from typing import Any

from .corpora import token_batches
from .ffn import FFN, UnsupportedModel, find_ffns
from .hooks import sparsify, tap
from .measure import Measurement, measure
from .models import CheckpointError, load
from .rules import CETT, FAT, GateThresholds, OutputTopK, StraightforwardReLU, TopK, TopP
from .search import find_thresholds, shared_cett, thresholds_for_cett
from .thresholds import Thresholds
from .tradeoff_rules import gate_thresholds

__all__ = [
    "CETT",
    "FAT",
    "FFN",
    "CheckpointError",
    "GateThresholds",
    "Measurement",
    "OutputTopK",
    "StraightforwardReLU",
    "Thresholds",
    "TopK",
    "TopP",
    "UnsupportedModel",
    "find_ffns",
    "find_thresholds",
    "gate_thresholds",
    "load",
    "measure",
    "shared_cett",
    "sparsify",
    "tap",
    "thresholds_for_cett",
    "token_batches",
]

# What stands around the core needs more than torch, transformers and pandas: imported when first named.
_AROUND = ("corpora", "decoding", "figures", "laws", "paper", "style", "suites", "survey", "tasks", "training")


def __getattr__(name: str) -> Any:
    if name in _AROUND:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
