"""For the tests and for the notebooks, which nbval runs."""

pytest_plugins = ["stored_outputs"]
