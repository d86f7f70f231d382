"""The authors' numbers and claims, the verdicts on them, and how figures look."""

from .published import NOT_YET, VERDICTS, Check, check, read, show, table, trend

__all__ = ["NOT_YET", "VERDICTS", "Check", "check", "read", "show", "table", "trend"]
