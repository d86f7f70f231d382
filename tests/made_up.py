"""Made-up inputs: notebooks, and a ladder run of a few steps with its texts."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nbformat
import numpy as np
import torch
from transformers import PreTrainedModel

from sparsinglib.ladder import recipe
from sparsinglib.ladder.model import build, make_optimizer
from sparsinglib.texts import corpora

KERNEL = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
PARAMETERS = "x: int = 1  # a number"
TINY = recipe.Run("tiny", 16, 2, "relu", 1, 50 * recipe.CONTEXT, 1, warmup_tokens=2560)


def growth(run: recipe.Run, widths: tuple[int, ...], watch: Callable[[PreTrainedModel], Callable]) -> dict:
    """By which power of width four steps of training move what is watched: under muP, and at one rate for all (False).

    ``watch(model)`` gives a function of token ids that returns the tensors.
    """

    def moved(wide: recipe.Run, mup: bool) -> list[float]:
        model = build(wide)
        optimizer, look = make_optimizer(model, wide), watch(model)
        for group in optimizer.param_groups if not mup else []:
            group["lr"] = wide.learning_rate
        ids = torch.randint(0, recipe.VOCABULARY, (4, 64), generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            before = look(ids)
        for _ in range(4):
            model(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        with torch.no_grad():
            return [float((b - a).abs().mean()) for a, b in zip(before, look(ids), strict=True)]

    runs = [replace(run, width=width, heads=width // 16) for width in widths]
    return {mup: np.polyfit(np.log(widths), np.log([moved(r, mup) for r in runs]), 1)[0] for mup in (True, False)}


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
