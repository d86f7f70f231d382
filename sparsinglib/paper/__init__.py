"""The authors' numbers and claims, the verdicts on them, and how figures look."""

from .claims import Estimate, Verdict, judge, record_verdicts
from .published import NOT_YET, VERDICTS, Check, check, read, show, table, trend
from .scoreboard import show_table

__all__ = [
    "NOT_YET",
    "VERDICTS",
    "Check",
    "Estimate",
    "Verdict",
    "check",
    "judge",
    "read",
    "record_verdicts",
    "show",
    "show_table",
    "table",
    "trend",
]
