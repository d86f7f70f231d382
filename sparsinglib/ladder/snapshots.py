"""Measurements of a model while it trains: at twelve CETT values, so that no checkpoint has to be kept for later.

Neighbouring snapshots differ by chance, so they come in groups whose mean counts. A CETT that is found later, such as
the one that the last five groups share (``cett_at_rise``), is looked up by interpolation (``at_cett``).
"""

import copy
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.interpolate import CubicSpline
from torch import Tensor
from transformers import PreTrainedModel

from ..core import forward
from ..core.cett import layer_cett
from ..core.ffn import FFN, mean_ratio
from ..core.hooks import hook_ffns
from ..core.layout import find_ffns
from ..core.rules import above_threshold
from ..core.scan import scan
from ..core.thresholds import Thresholds
from ..files import replacing
from .batches import validation_batches
from .recipe import LAST, Run, kept_steps, measured_steps

FILE = "snapshots.csv"
GRID = np.geomspace(0.02, 0.4, 12)  # CETT
TOKENS = 65_536
NEIGHBOURS, APART = 10, 20  # snapshots of a group, steps between them
GROUPED = ["run", "group", "tokens", "snapshots", "activation_ratio", "spread", "log_ppl_ratio", "kl"]
LONGEST = 0.2  # of the steps before a group's end: early groups hold fewer snapshots
SAMPLE_TOKENS, SAMPLE_THRESHOLDS = 2048, 60  # for a first look at where the thresholds lie


def groups(run: Run) -> dict[int, int]:
    """Step of each snapshot and the step that its group ends with; groups end where checkpoints are measured."""
    ends = measured_steps(kept_steps(run))
    steps = {end - i * APART: end for end in ends for i in range(NEIGHBOURS) if i * APART < LONGEST * end}
    return dict(sorted(steps.items()))


def record(run: Run, model: PreTrainedModel, step: int, group: int, path: Path) -> None:
    """Add a snapshot of a model in training to the table at ``path``, unless it is there. The model is left as it is.

    Columns: run, step, tokens, group and those of ``measure_snapshot``, whose sparse passes are made at the end of each
    group: from one neighbour to the next they change by less than the text can tell.
    """
    table = pd.read_csv(path) if path.is_file() else pd.DataFrame(columns=["step"])
    if step in set(table["step"]):
        return
    shipped = copy.deepcopy(model).eval()
    with torch.no_grad():
        for parameter in shipped.parameters():  # as a checkpoint is saved and loaded
            parameter.copy_(parameter.bfloat16())
    measured = measure_snapshot(shipped, validation_batches(TOKENS), sparse=step == group)
    facts = {"run": run.name, "step": step, "tokens": step * run.batch_tokens, "group": group}
    found = pd.DataFrame(facts, index=measured.index).join(measured)
    with replacing(path) as file:
        (pd.concat([table, found]) if len(table) else found).round(8).to_csv(file, index=False)


def measure_snapshot(
    model: PreTrainedModel, batches: Sequence[Tensor], sparse: bool = True, grid: np.ndarray = GRID
) -> pd.DataFrame:
    """One row for each CETT of ``grid``, on full windows (rows × length): fractions, and losses in nats.

    Columns: cett; validation_loss; dense_ratio, the share of neurons above the thresholds in the dense run, which takes
    two passes for the whole grid; activation_ratio, log_ppl_ratio and kl of a sparse pass each, as ``measure`` has
    them, with standard errors (…_se). Without ``sparse`` these are NaN.
    """
    ffns, corpus = find_ffns(model), forward.TokenBatches(model, batches)
    thresholds, ratio, loss = _dense(model, ffns, corpus, batches[0], grid)
    found = pd.DataFrame({"cett": grid, "validation_loss": loss, "dense_ratio": ratio})
    found[["activation_ratio", "log_ppl_ratio", "log_ppl_ratio_se", "kl", "kl_se"]] = math.nan
    if sparse:
        # What each does to perplexity and activation ratio is not known yet.
        rules = [Thresholds(tuple(t), c, math.nan, None, math.nan) for t, c in zip(thresholds.T, grid, strict=True)]
        scanned = scan(model, batches, rules, kl=True)
        found["activation_ratio"] = scanned.activation_ratio
        for name, sums in {"log_ppl_ratio": scanned.rises, "kl": scanned.kl}.items():
            found[[name, f"{name}_se"]] = [forward.mean_and_error(blocks) for blocks in sums]
    return found


def _dense(
    model: PreTrainedModel, ffns: list[FFN], corpus: forward.TokenBatches, first: Tensor, grid: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    """Thresholds of each CETT, (layers, grid); the share of neurons above them, mean of layers, (grid,); the loss."""
    # A sample says roughly where the thresholds lie, and the whole text what CETT they give: a small step to the grid.
    thresholds, sums = np.zeros((len(ffns), len(grid))), np.zeros((2, len(ffns), len(grid)))
    margin = np.ones(len(grid))
    margin[[0, -1]] = 0.97, 1.03  # so that the grid lies within what is tried

    def look(ffn: FFN, neurons: Tensor, gate: Tensor) -> None:
        largest = max(float(ffn.magnitudes(neurons).max()), 1e-30)
        tried = np.geomspace(1e-5 * largest, largest, SAMPLE_THRESHOLDS)
        cett = np.maximum.accumulate(_above(ffn, neurons, tried)[0]) * ffn.width / neurons.numel()
        thresholds[ffn.site] = np.exp(np.interp(np.log(grid * margin), np.log(cett + 1e-9), np.log(tried)))

    def count(ffn: FFN, neurons: Tensor, gate: Tensor) -> None:
        sums[:, ffn.site] += _above(ffn, neurons, thresholds[ffn.site])

    sample = forward.TokenBatches(model, [first[: max(1, SAMPLE_TOKENS // first.shape[1])]])
    with hook_ffns(ffns, look):
        forward.logits(model, next(iter(sample)))
    with hook_ffns(ffns, count):
        losses = [forward.losses(forward.logits(model, batch), batch) for batch in corpus]
    cett, active = sums / corpus.tokens
    log_cett = np.log(np.maximum.accumulate(cett, axis=1) + 1e-9) + 1e-9 * np.arange(len(grid))
    on_grid = [
        CubicSpline(x, np.stack([np.log(t), a], axis=1))(np.log(grid))
        for x, t, a in zip(log_cett, thresholds, active, strict=True)
    ]
    log_thresholds, counts = np.moveaxis(np.array(on_grid), 2, 0)
    ratio = np.array([mean_ratio(ffns, column) for column in counts.T])
    return np.exp(log_thresholds), ratio, float(torch.cat(losses).double().mean())


def _above(ffn: FFN, neurons: Tensor, thresholds: np.ndarray) -> np.ndarray:
    """Sums over tokens, (2, thresholds): CETT (Eq 3) and the number of neurons at or above the threshold."""
    neurons = neurons.reshape(-1, ffn.width)
    full = ffn.output(neurons).norm(dim=-1)
    cett = [float(layer_cett(ffn, neurons, threshold, full).double().sum()) for threshold in thresholds]
    return np.array([cett, [float(above_threshold(ffn, neurons, threshold).sum()) for threshold in thresholds]])


def at_cett(table: pd.DataFrame, cett: float) -> pd.DataFrame:
    """What groups of snapshots leave active at a CETT between those measured, one row a group, ordered by tokens.

    Columns: ``GROUPED``; activation_ratio is the mean over the group, spread the standard deviation of its snapshots,
    log_ppl_ratio and kl are those of the group's end. Each snapshot counts with the share of the dense run, and the
    group's end says how much the sparse run adds. Raises ValueError for a CETT outside the grid.
    """
    low, high = table["cett"].min(), table["cett"].max()
    if not low <= cett <= high:
        raise ValueError(f"CETT {cett:g} is outside what was measured, {low:g} to {high:g}")
    rows = []
    for (run, group), part in table.groupby(["run", "group"], sort=False):
        dense = [_between(rows, "dense_ratio", cett) for _, rows in part.groupby("step")]
        end = part[part["step"] == group]
        if not len(end):  # the run was stopped in between
            continue
        added = _between(end, "activation_ratio", cett) - _between(end, "dense_ratio", cett)
        spread = float(np.std(dense, ddof=1)) if len(dense) > 1 else math.nan
        sparse = [_between(end, column, cett) for column in ("log_ppl_ratio", "kl")]
        rows.append((run, group, end["tokens"].iloc[0], len(dense), float(np.mean(dense)) + added, spread, *sparse))
    return pd.DataFrame(rows, columns=GROUPED).sort_values(["run", "tokens"], ignore_index=True)


def _between(rows: pd.DataFrame, column: str, cett: float) -> float:
    return float(CubicSpline(np.log(rows["cett"]), rows[column])(math.log(cett)))


def cett_at_rise(table: pd.DataFrame, ppl_increase_pct: float = 1.0, criterion: str = "kl") -> float:
    """The CETT at which exp(KL), or the perplexity ratio (``"ppl"``), is up by p %, mean of a run's last five groups.

    Raises ValueError where no CETT that was measured reaches it.
    """
    ends = table[table["step"] == table["group"]]
    last = ends[ends["group"].isin(sorted(set(ends["group"]))[-LAST:])]
    column = {"kl": "kl", "ppl": "log_ppl_ratio"}[criterion]
    rise = np.exp(last[column]).groupby(last["cett"]).mean() - 1
    fine = np.linspace(math.log(rise.index[0]), math.log(rise.index[-1]), 10_001)
    curve = CubicSpline(np.log(rise.index), rise)(fine)
    reached = curve >= ppl_increase_pct / 100
    if reached[0] or not reached.any():
        raise ValueError(f"{ppl_increase_pct:g} % is reached by no CETT from {rise.index[0]:g} to {rise.index[-1]:g}")
    return float(np.exp(fine[np.argmax(reached)]))
