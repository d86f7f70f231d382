"""What the notebooks are made of: each study with its tables, figures and checks. The library imports none of it."""
