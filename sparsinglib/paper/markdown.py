"""Tables of text as Markdown, for pages and notebooks."""

from typing import Any

import pandas as pd


def markdown(frame: pd.DataFrame) -> str:
    """A table of text as Markdown."""
    lines = [list(frame.columns), ["---"] * len(frame.columns), *frame.astype(str).to_numpy().tolist()]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def show_table(frame: pd.DataFrame, *columns: str) -> Any:
    """A table of text for a notebook, whole cells; ``columns`` default to all but the claim's own words."""
    from IPython.display import Markdown  # not needed by who only reads the paper's tables

    chosen = list(columns) or [name for name in frame if name not in ("where", "claim")]
    return Markdown(markdown(frame[chosen]))
