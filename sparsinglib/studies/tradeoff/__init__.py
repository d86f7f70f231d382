"""Notebook 01: perplexity against sparsity."""
