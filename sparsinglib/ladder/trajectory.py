"""The paper's stabilised measurement along a ladder run (Appendix E): one CETT from the last five checkpoints.

``python -m sparsinglib.ladder.trajectory 0.1m-relu`` measures what training left in ``build/ladder`` (or what is
shipped in ``data/ladder/<run>/steps``) and writes ``data/ladder/<run>/trajectory.csv``. Checkpoints that are
measured already are not measured again, unless the shared CETT has changed. ``--all`` measures what ``make ladder``
has trained: every finished run with a kept checkpoint that is not in its ``trajectory.csv``.
"""

import argparse
import json
import math
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from transformers.utils import logging

from ..core import forward
from ..core.checkpoints import load
from ..core.measure import measure
from ..core.rules import StraightforwardReLU
from ..core.search import find_thresholds, shared_cett, thresholds_for_cett
from ..files import LADDER, copy, replacing
from .batches import validation_batches
from .model import ONE_PRODUCT
from .recipe import CONTEXT, RUNS, MixtureRun, Run
from .train import SPACING, WORK

SHIPPED = ("0.1m-relu", "0.1m-silu")  # runs whose checkpoints are shipped, so that a notebook can measure them live
INCREASES = (1.0, 5.0, 10.0)  # p of CETT-PPL-p%
LAST = 5  # checkpoints that fix CETT
DEAD = 1e-3  # a neuron active on a smaller share of tokens is dead
SEARCHED = 1.0  # the p at which CETT is also searched at each checkpoint by itself
COLUMNS = ["run", "step", "tokens", "metric", "p_pct", "value"]
DIGITS = 10  # of a value, after the point


def checkpoints(run: Run) -> dict[int, Path]:
    """Step and directory of a run's kept checkpoints, up to the one that is shipped."""
    found = [*(LADDER / run.name / "steps").glob("step_*"), *(WORK / run.name).glob("step_*[0-9]")]
    if not found:
        raise ValueError(f"{run.name} has no checkpoints: train it with python -m sparsinglib.ladder.train {run.name}")
    facts = LADDER / run.name / "run.json"
    end = json.loads(facts.read_text())["steps"] if facts.is_file() else math.inf
    return {step: path for path in sorted(found) if (step := int(path.name.rpartition("_")[2])) <= end}


def chosen(run: Run, steps: list[int]) -> list[int]:
    """Up to 24 log-spaced steps, three in each halving, and those at 88, 91, 94, 97 and 100 % of what was trained."""
    end = max(steps)
    last = {min(steps, key=lambda step: abs(step - end * (1 - SPACING * i))) for i in range(LAST)}
    log_spaced = {min(steps, key=lambda step: abs(step - end * 2 ** (-i / 3))) for i in range(24)}
    return sorted(last | log_spaced)


def unmeasured() -> list[Run]:
    """Finished runs with kept checkpoints that are not in ``trajectory.csv``."""
    found = []
    for run in RUNS.values():
        facts, table = LADDER / run.name / "run.json", LADDER / run.name / "trajectory.csv"
        if not facts.is_file() or not json.loads(facts.read_text())["finished"]:
            continue
        known = set(pd.read_csv(table)["step"]) if table.is_file() else set()
        try:
            steps = chosen(run, list(checkpoints(run)))
        except ValueError:  # shipped by another machine, whose checkpoints along the run are not here
            continue
        if not known.issuperset(steps):
            found.append(run)
    return found


def measure_checkpoint(path: Path, batches: list[torch.Tensor], cett: dict[float, float], relu: bool) -> pd.DataFrame:
    """Metric, p and value of one checkpoint, at the shared CETT and at one searched at this checkpoint by itself.

    ``cett`` is the shared CETT for each p in percent. With ``relu`` also the straightforward ReLU ratio.
    """
    model, _ = load(path)
    rows: list[tuple[str, float, float]] = []
    for p, target in cett.items():
        found = thresholds_for_cett(model, batches, target)
        rows += [("cett_shared", p, target), ("activation_ratio_shared_cett", p, found.activation_ratio)]
        rows.append(("ppl_ratio_shared_cett", p, found.ppl_ratio))
        if p == SEARCHED:
            result = measure(model, batches, found, kl=False)
            dead = np.concatenate(result.neuron_frequency) < DEAD
            rows.append(("dead_neuron_share", p, float(dead.mean())))
            rows.append(("validation_loss", math.nan, math.log(result.dense_ppl)))
    alone = find_thresholds(model, batches, SEARCHED)
    rows.append(("cett_searched", SEARCHED, alone.cett))
    rows.append(("activation_ratio_searched_cett", SEARCHED, alone.activation_ratio))
    if relu:
        straightforward = measure(model, batches, StraightforwardReLU(), kl=False)
        rows.append(("relu_nonzero_ratio", math.nan, straightforward.activation_ratio))
    return pd.DataFrame(rows, columns=["metric", "p_pct", "value"])


def measure_mixture(path: Path, batches: list[torch.Tensor]) -> pd.DataFrame:
    """Validation loss of one checkpoint of a mixture of experts, for which CETT is not defined here (``find_ffns``)."""
    model, _ = load(path)
    model.set_experts_implementation(ONE_PRODUCT)
    losses = [forward.losses(forward.logits(model, batch), batch) for batch in forward.TokenBatches(model, batches)]
    loss = float(forward.require_finite(torch.cat(losses), "loss").double().mean())
    return pd.DataFrame([("validation_loss", math.nan, loss)], columns=["metric", "p_pct", "value"])


def complete(rows: pd.DataFrame, cett: dict[float, float]) -> bool:
    """Whether one checkpoint's rows hold every p of ``cett`` and its own CETT; without ``cett`` (a mixture) any row."""
    measured = set(rows.loc[rows["metric"] == "cett_shared", "p_pct"])
    return len(rows) > 0 and measured >= set(cett) and (not cett or "cett_searched" in set(rows["metric"]))


def measure_run(run: Run, max_tokens: int) -> pd.DataFrame:
    """Tidy trajectory of a run: run, step, tokens, metric, p_pct, value. Written after every checkpoint.

    Of a mixture of experts there is only the loss. What is in ``trajectory.csv`` at these CETTs is not measured again.
    Raises ValueError, and leaves the file as it is, where a new CETT would ask for a checkpoint that is on no disk any
    more.
    """
    batches = validation_batches(max_tokens)
    paths, target = checkpoints(run), LADDER / run.name / "trajectory.csv"
    steps, mixture = chosen(run, list(paths)), isinstance(run, MixtureRun)
    cett: dict[float, float] = {}
    if not mixture:
        last = [load(paths[step])[0] for step in steps[-LAST:]]
        cett = {p: shared_cett(last, batches, p) for p in INCREASES}
        print(f"{run.name}: shared CETT {', '.join(f'{p:g} %: {value:.4f}' for p, value in cett.items())}", flush=True)
    table = pd.read_csv(target) if target.is_file() else pd.DataFrame(columns=COLUMNS)
    table = _without_stale(table, cett, paths, run)
    for step in reversed(steps):  # the late ones matter most, should the time run out
        if complete(table[table["step"] == step], cett):
            continue
        if mixture:
            rows = measure_mixture(paths[step], batches)
        else:
            rows = measure_checkpoint(paths[step], batches, cett, run.activation == "relu")
        rows.insert(0, "tokens", step * run.batch_tokens)
        rows.insert(0, "step", step)
        rows.insert(0, "run", run.name)
        others = table[table["step"] != step]
        table = pd.concat([others, rows], ignore_index=True) if len(others) else rows
        with replacing(target) as file:
            table[COLUMNS].sort_values(["step", "metric", "p_pct"]).round(DIGITS).to_csv(file, index=False)
        what = "validation_loss" if mixture else "activation_ratio_shared_cett"
        print(
            f"{run.name} step {step}: {what} {rows.loc[rows['metric'] == what, 'value'].round(4).tolist()}", flush=True
        )
    return table[COLUMNS]


def _without_stale(table: pd.DataFrame, cett: dict[float, float], paths: Mapping[int, Path], run: Run) -> pd.DataFrame:
    """A trajectory without the checkpoints that were measured at another shared CETT; these have to be in ``paths``."""
    known = table[table["metric"] == "cett_shared"]
    # Compared as closely as it is written: a small CETT differs from its rounded self by more than a share of 1e-9.
    wanted = known["p_pct"].map(cett)
    stale = set(known.loc[(wanted - known["value"]).abs() > 10.0 ** (1 - DIGITS), "step"])
    if gone := stale - set(paths):
        raise ValueError(
            f"{run.name}: its shared CETT has changed, and {len(gone)} of the measured checkpoints are gone, so they "
            f"cannot be measured anew; train it again from nothing, or remove its trajectory.csv to go on without them"
        )
    return table[~table["step"].isin(stale)]


def ship(run: Run) -> None:
    """Put the measured checkpoints into ``data/ladder/<run>/steps``."""
    paths = checkpoints(run)
    for step in chosen(run, list(paths)):
        target = LADDER / run.name / "steps" / paths[step].name
        for name in ("config.json", "model.safetensors"):
            if not (target / name).is_file():
                copy(paths[step] / name, target / name)


def main(arguments: list[str] | None = None) -> None:
    """Command line: measure runs by name."""
    parser = argparse.ArgumentParser(prog="python -m sparsinglib.ladder.trajectory", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="runs to measure")
    parser.add_argument("--all", action="store_true", help="finished runs that are not measured yet")
    parser.add_argument(
        "--max-tokens", type=int, default=16_384, help="held-out tokens measured on (default %(default)s)"
    )
    parser.add_argument("--ship", action="store_true", help="also put the checkpoints into data/ladder/<run>/steps")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.names if name not in RUNS]
    if unknown:
        parser.error(f"no run is called {', '.join(unknown)}; the runs: {', '.join(RUNS)}")
    if bool(options.names) == options.all:
        parser.error("give each NAME of a run, or --all.")
    if options.max_tokens < CONTEXT:
        parser.error(f"--max-tokens must be at least {CONTEXT}, one window; got {options.max_tokens}.")
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    # Early checkpoints and p = 1 % are noisy on a text of this length: the README gives the spread instead.
    warnings.filterwarnings("ignore", message=".*(cannot resolve|not monotone|search ended at).*")
    try:
        for run in unmeasured() if options.all else [RUNS[name] for name in options.names]:
            if options.ship or (options.all and run.name in SHIPPED):
                ship(run)
            measure_run(run, options.max_tokens)
    except (ValueError, ModuleNotFoundError, OSError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
