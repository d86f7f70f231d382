"""Lists of checkpoints, and measurements of each that are computed once."""

from .suite import Checkpoint, Suite, SuiteError, check, read, two_models

__all__ = ["Checkpoint", "Suite", "SuiteError", "check", "read", "two_models"]
