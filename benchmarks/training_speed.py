"""Training speed of a ladder run: against what the machine's matrix product allows, and against plainer loops.

Prints one row a way of training: tokens/s, its ratio to the plain loop without compilation, and its share of the
floating-point rate of a large matrix product in the format that it multiplies in, all measured here, on one thread,
one after another. Times are CPU seconds of the process: on one thread those of an idle machine, so that other work
disturbs them less.
``python benchmarks/training_speed.py --run 0.1m-relu``
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import numpy as np
import pandas as pd
import torch
from transformers.utils import logging

from sparsinglib.ladder import recipe, train
from sparsinglib.ladder.batches import Windows
from sparsinglib.ladder.model import build, make_optimizer, use_block_attention
from sparsinglib.ladder.recipe import RUNS, Run
from sparsinglib.texts import corpora


def matmul_rate(half: bool, size: int = 1024, repeats: int = 12) -> float:
    """Floating-point operations a second of a square matrix product in bf16 (``half``) or fp32: the best of several."""
    a, b = torch.randn(2, size, size, dtype=torch.bfloat16 if half else torch.float32)
    times = []
    for _ in range(repeats):
        start = time.process_time()
        a @ b
        times.append(time.process_time() - start)
    return 2 * size**3 / min(times)


def loop(run: Run, data: Windows, steps: int, compiled: bool, half: bool = False, blocks: bool = False) -> float:
    """Median seconds of a step in a plain loop of torch's own pieces."""
    model, times = build(run), []
    optimizer = make_optimizer(model, run)
    if blocks:
        use_block_attention(model)
    if compiled:
        torch._dynamo.reset()
        model.compile()
    for step in range(steps + 2):
        ids = torch.stack([data[step * run.batch + i]["input_ids"] for i in range(run.batch)])
        start = time.process_time()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.GRADIENT_CLIP)
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.process_time() - start)
    return float(np.median(times[2:]))


class Timed(train.Recorder):
    """The ladder's recorder, which also notes when each step of the Trainer ends."""

    ends: ClassVar[list[float]] = []

    def on_step_end(self, *args: Any, **more: Any) -> None:
        """Record, and note the time."""
        super().on_step_end(*args, **more)
        self.ends.append(time.process_time())


def trainer(run: Run, texts: dict[str, np.ndarray], steps: int) -> float:
    """Median seconds of a step of ``train.train``, data and all."""
    torch._dynamo.reset()
    short = replace(run, tokens=(steps + 2) * run.batch_tokens)
    # So short a run would save the model at every step.
    unsaved = mock.patch.object(recipe, "kept_steps", return_value=[])
    with tempfile.TemporaryDirectory() as work, mock.patch.object(train, "Recorder", Timed), unsaved:
        train.train(short, texts, Path(work))
    return float(np.median(np.diff(Timed.ends)[2:]))


def flops_per_token(run: recipe.Run) -> int:
    """Floating-point operations of training on a token, forward and backward, with every FFN neuron active.

    Six for each weight of a matrix product, the tied output layer among them, and for attention 6 · layers · context ·
    d: only what comes before a token is computed.
    """
    weights = run.non_embedding_parameters + recipe.VOCABULARY * run.width
    return 6 * (weights + run.layers * recipe.CONTEXT * run.width)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", choices=list(RUNS), default="0.1m-relu")
    parser.add_argument("--steps", type=int, default=40)
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    run = RUNS[options.run]
    rng = np.random.default_rng(0)
    texts = {name: rng.integers(0, recipe.VOCABULARY, 40_000).astype(np.uint16) for name in corpora.SHARES}
    data = Windows(texts, run.seed)
    fast = train.fast_bf16()
    ways: dict[str, tuple[bool, Callable[[], float]]] = {
        "plain loop": (False, lambda: loop(run, data, options.steps, compiled=False)),
        "compiled loop": (False, lambda: loop(run, data, options.steps, compiled=True)),
        "compiled Trainer (the ladder)": (fast, lambda: trainer(run, texts, options.steps)),
        "compiled loop, bf16 autocast": (True, lambda: loop(run, data, max(4, options.steps // 8), True, half=True)),
        "compiled loop, as the ladder": (fast, lambda: loop(run, data, options.steps, True, half=fast, blocks=True)),
    }
    rows = []
    for name, (half, way) in ways.items():
        rate = matmul_rate(half)
        speed = run.batch_tokens / way()
        share = speed * flops_per_token(run) / rate
        rows.append(
            {"way": name, "format": "bf16" if half else "fp32", "tokens_per_s": speed, "share_of_matmul": share}
        )
    table = pd.DataFrame(rows)
    table.insert(3, "times_plain_loop", table["tokens_per_s"] / table["tokens_per_s"].iloc[0])
    print(table.round({"tokens_per_s": 0, "times_plain_loop": 2, "share_of_matmul": 3}).to_string(index=False))
    speed_of = table.set_index("way")["tokens_per_s"]
    overhead = speed_of["compiled loop, as the ladder"] / speed_of["compiled Trainer (the ladder)"] - 1
    print(f"Trainer overhead against the same in a plain loop: {overhead:.1%}")


if __name__ == "__main__":
    main()
