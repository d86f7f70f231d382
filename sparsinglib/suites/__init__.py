"""Lists of checkpoints, and measurements of each that are computed once."""

from .suite import Checkpoint, Suite, SuiteError, read, two_models, validate_suite

__all__ = ["Checkpoint", "Suite", "SuiteError", "read", "two_models", "validate_suite"]
