"""How few feed-forward neurons does a language model need? Measurement, thresholds and laws after arXiv 2411.02335."""

from importlib import import_module
from typing import Any

# Each name and the module it lives in, imported when first used: who fits a law need not wait for transformers.
_HOME = {
    "CETT": "core.rules",
    "FAT": "core.rules",
    "FFN": "core.ffn",
    "CheckpointError": "core.checkpoints",
    "GateThresholds": "core.rules",
    "Measurement": "core.measure",
    "OutputTopK": "core.rules",
    "StraightforwardReLU": "core.rules",
    "Thresholds": "core.thresholds",
    "TopK": "core.rules",
    "TopP": "core.rules",
    "UnsupportedModel": "core.ffn",
    "find_ffns": "core.layout",
    "find_thresholds": "core.search",
    "gate_thresholds": "core.calibration",
    "hook_ffns": "core.hooks",
    "load": "core.checkpoints",
    "measure": "core.measure",
    "shared_cett": "core.search",
    "sparsify": "core.hooks",
    "thresholds_for_cett": "core.search",
    "token_batches": "core.token_batches",
}
_MODULES = {name: name for name in ("core", "decoding", "ladder", "laws", "paper", "suites", "tasks", "texts")}
_MODULES |= {"corpora": "texts.corpora", "survey": "suites.survey"}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    if name in _MODULES:
        return import_module(f"{__name__}.{_MODULES[name]}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME, *_MODULES})
