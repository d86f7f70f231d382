"""One package a topic, the same rooms in each: numbers, figures, claims."""

from importlib import import_module
from typing import Any

# Names from before the topics had rooms, which scripts of readers use.
_BEFORE = {"one_checkpoint": "checkpoint.numbers", "trends": "scaling.trends"}


def __getattr__(name: str) -> Any:
    if name in _BEFORE:
        return import_module(f"{__name__}.{_BEFORE[name]}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
