"""What runs the notebooks and writes the page."""
