"""Notebooks 06 and 07: which neurons, for which tokens."""
