"""The authors' numbers and claims, the verdicts on them, and how figures look."""

from .claims import judge, record_verdicts
from .markdown import show_table
from .published import read, table, trend
from .rules import Estimate, Verdict

__all__ = ["Estimate", "Verdict", "judge", "read", "record_verdicts", "show_table", "table", "trend"]
