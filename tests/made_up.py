"""Made-up inputs: notebooks, and a ladder run of a few steps with its texts."""

from pathlib import Path

import nbformat
import numpy as np

from sparsinglib.ladder import recipe
from sparsinglib.texts import corpora

KERNEL = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
PARAMETERS = "x: int = 1  # a number"
TINY = recipe.Run("tiny", 16, 2, "relu", 1, 50 * recipe.CONTEXT, 1, warmup_tokens=2560)


def write_notebook(path: Path, *sources: str, parameters: str = PARAMETERS) -> Path:
    """Code cells, the first of them the one that papermill reads."""
    cells = [nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})]
    cells += [nbformat.v4.new_code_cell(source) for source in sources]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=KERNEL), path)
    return path


def training_texts() -> dict[str, np.ndarray]:
    """Token ids of the four sets, all of them random."""
    rng = np.random.default_rng(0)
    return {name: (rng.zipf(1.5, 20_000) % recipe.VOCABULARY).astype(np.uint16) for name in corpora.SHARES}
