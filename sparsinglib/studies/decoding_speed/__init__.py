"""Notebook 10: decoding speed."""
