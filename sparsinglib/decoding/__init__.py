"""Greedy decoding that skips neurons: an optional extra, which needs numba."""

from .engine import sparse_decoding

__all__ = ["sparse_decoding"]
