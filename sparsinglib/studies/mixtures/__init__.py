"""Notebook 09: mixtures of experts."""
