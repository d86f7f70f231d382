"""The thin module: load a model, find its neurons, hook them, search thresholds, measure what they leave active."""
