"""Notebook 00: one checkpoint."""
