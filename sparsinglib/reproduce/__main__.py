"""``python -m sparsinglib.reproduce``: see ``cli``."""

from .cli import main

main()
