"""Notebook 08: tasks."""
