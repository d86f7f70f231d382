"""What the ends of runs leave active, to compare scales: by KL, which this text resolves, and by perplexity.

``python -m sparsinglib.ladder.ends`` measures the shipped end of each size and seed as a snapshot of a long run is
measured, reads CETT off for each p, and writes ``data/ladder/ends.csv``; what is there already is not measured again.
"""

import argparse
import itertools

import numpy as np
import pandas as pd
import torch
from transformers.utils import logging

from ..core.checkpoints import load
from ..core.forward import Z90
from ..files import LADDER, replacing
from . import snapshots
from .batches import validation_batches
from .recipe import RUNS, SCALES, Run, chosen, record

TARGET = LADDER / "ends.csv"
GRID = snapshots.GRID[snapshots.GRID > 0.07]  # below it no p of these is reached
CRITERIA = ("kl", "ppl")
INCREASES = (1.0, 5.0, 10.0)  # p of exp(KL) or of perplexity, in percent
COLUMNS = ["run", "criterion", "p_pct", "cett", "cett_low", "cett_high", "activation_ratio", "low", "high", "tokens"]


def sizes_and_seeds() -> list[Run]:
    """The runs of the scale study that are shipped, smallest first; a finished long run for the one it continues."""
    sizes = tuple(f"{scale}-{activation}" for scale in SCALES for activation in ("relu", "silu"))
    names = [name for name in RUNS if name.removesuffix("-long").partition("-seed")[0] in sizes]
    there = [name for name in names if record(LADDER / name).get("finished")]
    return [RUNS[name] for name in there if f"{name}-long" not in there]


def read_off(snapshot: pd.DataFrame, criterion: str, p_pct: float) -> tuple[float, ...]:
    """CETT, its 90 % interval, the activation ratio there and at the interval's ends, of one snapshot.

    The rise goes with a power of CETT, which KL tells more surely than perplexity; by it the rise's error over the text
    becomes one of CETT.
    """
    cett, x = snapshots.cett_at_rise(snapshot, p_pct, criterion), np.log(snapshot["cett"])
    power = np.interp(np.log(cett), x, np.gradient(np.log(snapshot["kl"]), x))
    error = np.interp(np.log(cett), x, snapshot[{"kl": "kl_se", "ppl": "log_ppl_ratio_se"}[criterion]])
    share = Z90 * error / np.log1p(p_pct / 100) / power
    ends = [float(np.clip(cett * np.exp(s * share), min(GRID), max(GRID))) for s in (-1, 1)]
    ratio, high, low = (snapshots.at_cett(snapshot, c)["activation_ratio"].iloc[0] for c in (cett, *ends))
    return cett, *ends, ratio, low, high


def measure_ends(runs: list[Run], max_tokens: int = snapshots.TOKENS) -> pd.DataFrame:
    """One row for each run, criterion and p: CETT and activation ratio with their 90 % intervals (``COLUMNS``).

    Written after each run; the length of text belongs to what is compared, so rows of another length are replaced, and
    a long run's take the place of those of the shorter one.
    """
    table = pd.read_csv(TARGET) if TARGET.is_file() else pd.DataFrame(columns=COLUMNS)
    replaced = [run.name.removesuffix("-long") for run in runs if run.snapshots]
    table = table[(table["tokens"] == max_tokens) & ~table["run"].isin(replaced)]
    batches = validation_batches(max_tokens)
    for run in runs:
        if run.name in set(table["run"]):
            continue
        model, _ = load(run.name)
        found = snapshots.measure_snapshot(model, batches, grid=GRID).assign(run=run.name, step=0, group=0, tokens=0)
        asked = itertools.product(CRITERIA, INCREASES)
        rows = pd.DataFrame([(run.name, *a, *read_off(found, *a), max_tokens) for a in asked], columns=COLUMNS)
        table = pd.concat([table, rows], ignore_index=True) if len(table) else rows
        table = table.sort_values("run", key=lambda names: names.map(list(RUNS).index), kind="stable")
        with replacing(TARGET) as file:
            table.round(6).to_csv(file, index=False)
        print(rows.round(4).to_string(index=False, header=run is runs[0]), flush=True)
    return table


def main(arguments: list[str] | None = None) -> None:
    """Command line: measure the ends of runs."""
    parser = argparse.ArgumentParser(prog="python -m sparsinglib.ladder.ends", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="runs (default: all sizes and their seeds)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    measure_ends(chosen(options.names, parser) or sizes_and_seeds())


if __name__ == "__main__":
    main()
