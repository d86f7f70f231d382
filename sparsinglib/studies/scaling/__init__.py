"""Notebooks 02, 04 and 05: laws over data and scale."""
