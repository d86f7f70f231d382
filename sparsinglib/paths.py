"""Where the package keeps its data and figures, found from the package and never from the working directory."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "data"
PAPER = DATA / "paper"
LADDER = DATA / "ladder"
SUITES = DATA / "suites"
FIGURES = ROOT / "figures"
NOTEBOOKS = ROOT / "notebooks"
