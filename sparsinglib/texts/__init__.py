"""Texts to measure and to train on, read from installed packages."""
