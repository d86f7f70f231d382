"""Downstream tasks under sparsity: lm-eval's, and some that need no download."""

from .harness import evaluate, examples, rule_name
from .lm_harness import TaskError
from .statistics import DENSE

__all__ = ["DENSE", "TaskError", "evaluate", "examples", "rule_name"]
