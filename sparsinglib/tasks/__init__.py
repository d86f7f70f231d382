"""Downstream tasks under sparsity: lm-eval's, and some that need no download."""

from .arguments import rule_name
from .model import SparseLM, TaskError
from .scoring import evaluate, examples
from .statistics import DENSE

__all__ = ["DENSE", "SparseLM", "TaskError", "evaluate", "examples", "rule_name"]
