"""The line of each notebook that says what it found: ``python -m sparsinglib.reproduce.findings`` writes it anew.

A notebook names the pictures, "**Found** (`figure_04`): …"; what follows is what their stored titles say, which were
computed when they were drawn.
"""

import re

import nbformat

from ..files import FIGURES, NOTEBOOKS
from ..paper import style

LINE = re.compile(r"^\*\*Found\*\* \((.+?)\): .*$", re.MULTILINE)


def with_findings(source: str) -> str:
    """A cell's text, its line of findings as the pictures named in it say it."""

    def line(found: re.Match[str]) -> str:
        said = [style.caption(name, FIGURES) for name in re.findall(r"`(\w+)`", found[1])]
        return f"**Found** ({found[1]}): {'. '.join(said)}."

    return LINE.sub(line, source)


def main() -> None:
    """Write the line of every notebook."""
    for path in sorted(NOTEBOOKS.glob("[0-9]*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        notebook.cells[0].source = with_findings(notebook.cells[0].source)
        nbformat.write(notebook, path)


if __name__ == "__main__":
    main()
