"""Downstream tasks under sparsity: lm-eval's, and some that need no download."""

from .harness import TaskError, evaluate, examples, rule_name
from .model import SparseLM
from .statistics import DENSE

__all__ = ["DENSE", "SparseLM", "TaskError", "evaluate", "examples", "rule_name"]
