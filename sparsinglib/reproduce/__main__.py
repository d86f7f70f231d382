"""``python -m sparsinglib.reproduce``: see ``cli``."""

import sys

from .cli import main

sys.exit(main())
