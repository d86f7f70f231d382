"""What the ends of runs leave active, to compare scales: by KL, which this text resolves, and by perplexity.

``python -m sparsinglib.ladder.ends`` searches CETT at the shipped end of each size and seed and writes
``data/ladder/ends.csv``; what is there already is not searched again.
"""

import argparse
import itertools
import math
import warnings

import pandas as pd
import torch
from transformers.utils import logging

from ..core.checkpoints import load
from ..core.search import find_thresholds
from ..files import LADDER, replacing
from .batches import validation_batches
from .recipe import RUNS, SCALES, Run
from .train import chosen

TARGET = LADDER / "ends.csv"
TOKENS = 65_536
CRITERIA = ("kl", "ppl")
INCREASES = (1.0, 5.0, 10.0)  # p of exp(KL) or of perplexity, in percent
COLUMNS = ["run", "criterion", "p_pct", "cett", "cett_low", "cett_high", "activation_ratio", "low", "high", "tokens"]


def sizes_and_seeds() -> list[Run]:
    """The runs of the scale study that are shipped, smallest first."""
    sizes = tuple(f"{scale}-{activation}" for scale in SCALES for activation in ("relu", "silu"))
    names = [name for name in RUNS if name in sizes or name.partition("-seed")[0] in sizes]
    return [RUNS[name] for name in names if (LADDER / name / "model.safetensors").is_file()]


def measure_ends(runs: list[Run], max_tokens: int = TOKENS) -> pd.DataFrame:
    """One row for each run, criterion and p: CETT and activation ratio with their 90 % intervals (``COLUMNS``).

    Written after each run; the length of text belongs to what is compared, so rows of another length are replaced.
    """
    table = pd.read_csv(TARGET) if TARGET.is_file() else pd.DataFrame(columns=COLUMNS)
    table = table[table["tokens"] == max_tokens]
    batches = validation_batches(max_tokens)
    for run in runs:
        if run.name in set(table["run"]):
            continue
        model, _ = load(run.name)
        rows = []
        for criterion, p in itertools.product(CRITERIA, INCREASES):
            found = find_thresholds(model, batches, p, criterion=criterion)
            cett, active = (pair or (math.nan, math.nan) for pair in (found.cett_interval, found.activation_interval))
            rows.append((run.name, criterion, p, found.cett, *cett, found.activation_ratio, *active, found.tokens))
        found_here = pd.DataFrame(rows, columns=COLUMNS)
        table = pd.concat([table, found_here], ignore_index=True) if len(table) else found_here
        with replacing(TARGET) as file:
            table.round(6).to_csv(file, index=False)
        print(found_here.round(4).to_string(index=False, header=run is runs[0]), flush=True)
    return table


def main(arguments: list[str] | None = None) -> None:
    """Command line: measure the ends of runs."""
    parser = argparse.ArgumentParser(prog="python -m sparsinglib.ladder.ends", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="runs (default: all sizes and their seeds)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", message=".*cannot resolve.*")  # the intervals say it
    measure_ends(chosen(options.names, parser) or sizes_and_seeds())


if __name__ == "__main__":
    main()
