"""The 1:1000 scale model of the study: recipe, model, data, training, measurements along it."""
