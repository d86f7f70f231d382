"""The paper's stabilised measurement along a ladder run (Appendix E): one CETT from the last five checkpoints.

``python -m sparsinglib.ladder.trajectory 0.1m-relu`` measures what training left in ``build/ladder`` and writes
``data/ladder/<run>/trajectory.csv``. Checkpoints that are measured already are not measured again, unless the shared
CETT has changed. ``--all`` measures what ``make ladder`` has trained: every finished run with a kept checkpoint that is
not in its ``trajectory.csv``.
"""

import argparse
import math
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from transformers.utils import logging

from ..core.measure import measure
from ..core.rules import StraightforwardReLU
from ..core.search import find_thresholds, shared_cett, thresholds_for_cett
from ..files import LADDER, replacing
from .batches import validation_batches
from .model import open_model
from .recipe import LAST, RUNS, MixtureRun, Run, chosen, measured_steps, record
from .train import WORK

TOKENS = 16_384  # of held-out text that is measured on
INCREASES = (1.0, 5.0, 10.0)  # p of CETT-PPL-p%
DEAD = 1e-3  # a neuron active on a smaller share of tokens is dead
SEARCHED = 1.0  # the p at which CETT is also searched at each checkpoint by itself
COLUMNS = ["run", "step", "tokens", "metric", "p_pct", "value"]
DIGITS = 10  # of a value, after the point


def checkpoints(run: Run) -> dict[int, Path]:
    """Step and directory of the checkpoints of a run that are to be measured, up to the one that is shipped."""
    found = [*(LADDER / run.name / "steps").glob("step_*"), *(WORK / run.name).glob("step_*[0-9]")]
    if not found:
        raise ValueError(f"{run.name} has no checkpoints: train it with python -m sparsinglib.ladder.train {run.name}")
    end = record(LADDER / run.name).get("steps", math.inf)
    paths = {int(path.name.rpartition("_")[2]): path for path in found}
    return {step: paths[step] for step in measured_steps([step for step in paths if step <= end])}


def unmeasured() -> list[Run]:
    """Finished runs with kept checkpoints that are not in ``trajectory.csv``."""
    found = []
    for run in RUNS.values():
        table = LADDER / run.name / "trajectory.csv"
        if not record(LADDER / run.name).get("finished"):
            continue
        known = set(pd.read_csv(table)["step"]) if table.is_file() else set()
        try:
            steps = checkpoints(run)
        except ValueError:  # shipped by another machine, whose checkpoints along the run are not here
            continue
        if not known.issuperset(steps):
            found.append(run)
    return found


def measure_checkpoint(path: Path, batches: list[torch.Tensor], cett: dict[float, float], relu: bool) -> pd.DataFrame:
    """Metric, p and value of one checkpoint, at the shared CETT and at one searched at this checkpoint by itself.

    ``cett`` is the shared CETT for each p in percent. With ``relu`` also the straightforward ReLU ratio.
    """
    model = open_model(path)
    rows: list[tuple[str, float, float]] = []
    for p, target in cett.items():
        found = thresholds_for_cett(model, batches, target)
        rows += [("cett_shared", p, target), ("activation_ratio_shared_cett", p, found.activation_ratio)]
        rows.append(("ppl_ratio_shared_cett", p, found.ppl_ratio))
        if p == SEARCHED:
            result = measure(model, batches, found, kl=False, cett=False)
            dead = np.concatenate(result.neuron_frequency) < DEAD
            rows.append(("dead_neuron_share", p, float(dead.mean())))
            rows.append(("validation_loss", math.nan, math.log(result.dense_ppl)))
    alone = find_thresholds(model, batches, SEARCHED)
    rows.append(("cett_searched", SEARCHED, alone.cett))
    rows.append(("activation_ratio_searched_cett", SEARCHED, alone.activation_ratio))
    if relu:
        straightforward = measure(model, batches, StraightforwardReLU(), kl=False, cett=False)
        rows.append(("relu_nonzero_ratio", math.nan, straightforward.activation_ratio))
    return pd.DataFrame(rows, columns=["metric", "p_pct", "value"])


def current(rows: pd.DataFrame, cett: dict[float, float]) -> bool:
    """Whether one checkpoint's rows hold every p of ``cett`` at that shared CETT, and the checkpoint's own CETT."""
    shared = rows[rows["metric"] == "cett_shared"].set_index("p_pct")["value"]
    # Compared as closely as it is written: a small CETT differs from its rounded self by more than a share of 1e-9.
    same = [abs(shared.get(p, math.inf) - value) <= 10.0 ** (1 - DIGITS) for p, value in cett.items()]
    return all(same) and "cett_searched" in set(rows["metric"])


def measure_run(run: Run, max_tokens: int = TOKENS) -> pd.DataFrame:
    """Tidy trajectory of a run: run, step, tokens, metric, p_pct, value. Written after every checkpoint.

    What is in ``trajectory.csv`` at these CETTs is not measured again.
    Raises ValueError, and leaves the file as it is, where a new CETT would ask for a checkpoint that is on no disk any
    more.
    """
    batches = validation_batches(max_tokens)
    paths, target = checkpoints(run), LADDER / run.name / "trajectory.csv"
    relu = run.activation == "relu" and not isinstance(run, MixtureRun)  # whose gate scores no rule can ask for
    last = [open_model(paths[step]) for step in sorted(paths)[-LAST:]]
    cett = {p: shared_cett(last, batches, p) for p in INCREASES}
    table = pd.read_csv(target) if target.is_file() else pd.DataFrame(columns=COLUMNS)
    stale = {step for step, rows in table.groupby("step") if not current(rows, cett)}
    if gone := stale - set(paths):
        raise ValueError(
            f"{run.name}: its shared CETT has changed, and {len(gone)} of the measured checkpoints are gone, so they "
            f"cannot be measured anew; train it again from nothing, or remove its trajectory.csv to go on without them"
        )
    table = table[~table["step"].isin(stale)]
    for step in sorted(set(paths) - set(table["step"]), reverse=True):  # the late ones matter most
        rows = measure_checkpoint(paths[step], batches, cett, relu)
        rows = rows.assign(run=run.name, step=step, tokens=step * run.batch_tokens)
        table = pd.concat([table, rows], ignore_index=True) if len(table) else rows
        with replacing(target) as file:
            table[COLUMNS].sort_values(["step", "metric", "p_pct"]).round(DIGITS).to_csv(file, index=False)
        print(f"{run.name} step {step} is measured", flush=True)
    return table[COLUMNS]


def main(arguments: list[str] | None = None) -> None:
    """Command line: measure runs by name."""
    parser = argparse.ArgumentParser(prog="python -m sparsinglib.ladder.trajectory", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="runs to measure")
    parser.add_argument("--all", action="store_true", help="finished runs that are not measured yet")
    options = parser.parse_args(arguments)
    runs = chosen(options.names, parser)
    if bool(runs) == options.all:
        parser.error("give each NAME of a run, or --all.")
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    # Early checkpoints and p = 1 % are noisy on a text of this length: the README gives the spread instead.
    warnings.filterwarnings("ignore", message=".*(cannot resolve|not monotone|search ended at).*")
    try:
        for run in unmeasured() if options.all else runs:
            measure_run(run)
    except (ValueError, ModuleNotFoundError, OSError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
