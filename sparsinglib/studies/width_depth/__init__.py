"""Notebook 03: width to depth."""
