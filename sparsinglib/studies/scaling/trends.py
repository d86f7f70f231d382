"""The trends of activation ratio and loss along training, of whatever runs there are, for one kind of evidence.

``paper`` runs come from ``data/paper``, ``ladder`` runs from ``data/ladder/<run>/``. A ladder run that was not
measured yet is left out, and ``missing`` names it.
"""

import math
import os
import re
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from ...core import arguments
from ...core.forward import Z90
from ...files import LADDER
from ...ladder import recipe, snapshots
from ...paper import published
from ...paper.published import ACTIVATIONS, TOKEN_UNITS
from ...texts import files as texts

LADDER_RUNS = tuple(f"{scale}-{activation}" for scale in recipe.SCALES for activation in ACTIVATIONS)
LEAST_POINTS = 12  # a run with fewer checkpoints counts as not measured yet: no law can be told from it
METRIC = "activation_ratio_shared_cett"  # with the CETT that a run's checkpoints share (Appendix E)
P_PCT = 1.0  # perplexity tolerance, percent
SUFFIXES = {"": 1, "%": 0.01, "k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12}  # as people write numbers
LABELS = ["evidence", "run", "scale", "activation", "seed"]  # of a run, in every table
COLUMNS = [*LABELS, "tokens", "d", "tokens_per_param"]


def split_run(run: str) -> tuple[str, str, int]:
    """Scale label, activation and seed of a run name: ``"0.1m-relu-seed2"`` gives ``("0.1M", "relu", 2)``."""
    scale, activation, *rest = run.split("-")
    if activation not in ACTIVATIONS:
        raise ValueError(f"run {run!r} is not named <scale>-<relu|silu>[-seed<n>]")
    return scale.upper(), activation, int(rest[-1].removeprefix("seed")) if rest and rest[-1].startswith("seed") else 1


def runs() -> list[str]:
    """The ladder's runs of the scale study that are there (seeds included), sorted."""
    found = sorted(path.name for path in LADDER.glob("*/"))
    return [run for run in found if any(run == known or run.startswith(f"{known}-seed") for known in LADDER_RUNS)]


def record(run: str) -> dict[str, Any]:
    """What ``run.json`` says of a run of the ladder; empty if there is none."""
    return recipe.record(LADDER / run)


def read(file: str, names: Iterable[str] | None = None) -> pd.DataFrame:
    """That file of the ladder's runs (default: ``runs``) that have one, in one frame: COLUMNS and those of the file.

    Raises FileNotFoundError where no run has one.
    """
    frames = []
    for run in runs() if names is None else names:
        if (path := LADDER / run / file).is_file():
            rows = pd.read_csv(path)
            labels = dict(zip(LABELS, ("ladder", run, *split_run(run)), strict=True))
            frames.append(rows.assign(**labels, d=rows.tokens / TOKEN_UNITS["ladder"]))
    if not frames:
        raise FileNotFoundError(f"no run of the ladder has a {file} in {LADDER}: get data/ladder back (git restore)")
    return _per_param(pd.concat(frames, ignore_index=True))


def _per_param(rows: pd.DataFrame) -> pd.DataFrame:
    """``rows`` with tokens_per_param, which says how far along a run of any size is."""
    return rows.assign(tokens_per_param=rows.tokens / rows.scale.map(params()).astype(float))


def trajectory(metric: str, p_pct: float | None = None, names: Iterable[str] | None = None) -> pd.DataFrame:
    """A ladder metric along training (``"dead_neuron_share"``, …): COLUMNS and ``value``.

    ``p_pct`` keeps the rows of one perplexity tolerance (percent), ``names`` those runs in place of ``runs``.
    """
    rows = read("trajectory.csv", names)
    rows = rows[(rows.metric == metric) & ((rows.p_pct == p_pct) | (p_pct is None))]
    return rows[[*COLUMNS, "value"]].sort_values(["run", "tokens"], ignore_index=True)


def activation(evidence: str = "paper") -> pd.DataFrame:
    """Activation ratio along training: COLUMNS and activation_ratio.

    ``tokens`` is a count, ``d`` the same in 1e9 (paper) or 1e6 (ladder), the unit laws are fitted in. Ladder rows are
    those of ``METRIC`` at ``P_PCT``; ladder runs with fewer than LEAST_POINTS checkpoints are left out. A finished long
    run stands for the shorter one that it continues.
    """
    if evidence == "ladder":
        rows = _with_long(trajectory(METRIC, P_PCT).rename(columns={"value": "activation_ratio"}), "activation_ratio")
        rows = rows[rows.tokens > 0]
        return rows[rows.groupby("run").run.transform("size") >= LEAST_POINTS].reset_index(drop=True)
    if evidence != "paper":
        raise ValueError(f"evidence {evidence!r} has no trends; choose 'paper' or 'ladder'")
    rows = published.trend()
    run = rows.scale.str.lower() + "-" + rows.activation
    rows = rows.assign(evidence="paper", run=run, seed=1, d=rows.tokens / TOKEN_UNITS["paper"])
    return _per_param(rows)[[*COLUMNS, "activation_ratio"]]


def validation_loss() -> pd.DataFrame:
    """Loss on held-out text along the runs of ``activation("ladder")``: COLUMNS and value, nats per token."""
    return _with_long(trajectory("validation_loss"), "value")


def _with_long(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """``rows`` with each finished long run in place of the shorter one.

    A point of it is the mean of a group of snapshots: "activation_ratio" at the CETT by KL that its last groups share,
    or their loss ("value").
    """
    finished = [name for name, run in recipe.RUNS.items() if run.snapshots and record(name).get("finished")]
    if not finished:
        return rows
    measured = read(snapshots.FILE, finished)
    parts = [snapshots.at_cett(part, snapshots.cett_at_rise(part, P_PCT)) for _, part in measured.groupby("run")]
    loss = measured.groupby(["run", "group"]).validation_loss.mean().rename("value")
    found = pd.concat(parts).merge(loss, on=["run", "group"])[["run", "tokens", column]]
    longer = measured[COLUMNS].drop_duplicates(["run", "tokens"]).merge(found, on=["run", "tokens"])
    return pd.concat([rows[~(rows.run + "-long").isin(longer.run)], longer])


def activations(evidence: str | Sequence[str] = ("paper", "ladder")) -> pd.DataFrame:
    """``activation`` of several kinds of evidence in one frame.

    Raises ValueError for an unknown kind, and without "paper", whose printed numbers the notebooks check.
    """
    kinds = arguments.several("evidence", evidence, arguments.one_of, choices=("paper", "ladder"))
    if "paper" not in kinds:
        raise ValueError(f"evidence is {kinds}; it must name 'paper', whose printed numbers are checked")
    return pd.concat(map(activation, kinds), ignore_index=True)


def ends() -> pd.DataFrame:
    """The ratio at the end of the ladder's runs, measured to compare scales: ``all_ends`` with error.

    Where exp of KL is up by ``P_PCT``, on 65,536 tokens (``all_ends``); low to high is the 90 % interval that the text
    gives by way of CETT, ``error`` the standard error from it.
    """
    rows = all_ends().query("criterion == 'kl' and p_pct == @P_PCT")
    return rows.assign(error=(rows.high - rows.low) / (2 * Z90))


def all_ends() -> pd.DataFrame:
    """``data/ladder/ends.csv``: run, criterion ("kl" or "ppl"), p_pct, activation_ratio, low, high (90 %), …

    With the columns scale, activation and seed of each run.
    """
    table = pd.read_csv(LADDER / "ends.csv")
    return table.join(pd.DataFrame(map(split_run, table.run), columns=["scale", "activation", "seed"]))


def after_warm_up(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of ``frame`` (run, tokens) past each ladder run's learning-rate warm-up, which Appendix E leaves out.

    The authors' first points lie past theirs, and a run unknown to the ladder has none to leave out.
    """
    ends = {run: recipe.RUNS[run].warmup_tokens for run in frame.run.unique() if run in recipe.RUNS}
    return frame[frame.tokens > frame.run.map(ends).astype(float).fillna(-1)]


def params() -> pd.Series:
    """Non-embedding parameters by scale label: from Table 3, and from the ladder's records or else its recipe."""
    sizes = dict(published.table(3).set_index("scale").non_embedding_params)
    sizes |= {scale.upper(): recipe.RUNS[f"{scale}-relu"].non_embedding_parameters for scale in recipe.SCALES}
    sizes |= {split_run(run)[0]: size for run in runs() if (size := record(run).get("parameters"))}
    return pd.Series(sizes, name="params")


def loss() -> pd.DataFrame:
    """Training loss along the ladder's runs: COLUMNS, step, loss, loss_smoothed (the paper prints no losses)."""
    return read("training.csv")


def missing(frame: pd.DataFrame) -> str:
    """A sentence naming the ladder's runs that ``frame`` has no rows of; "" if nothing."""
    absent = [run for run in LADDER_RUNS if run not in set(frame.run.str.removesuffix("-long"))]
    return f"ladder: {', '.join(absent)} not measured" if absent else ""


def own(path: str | os.PathLike[str], unit: float = 1e9) -> pd.DataFrame:
    """A user's run from a table with the columns tokens and activation_ratio: these and ``d``, tokens over ``unit``.

    As tools write it: separated by commas, semicolons or tabs; numbers with thousands separators, decimal commas (where
    shares have them, 1.500 tokens are 1500), shares with percent signs, or K, M, B and T behind them; rows in which one
    of the two is empty are left out. Raises FileNotFoundError, or ValueError that names file, column and line;
    ``laws.fit`` checks the values further.
    """
    file, needed = arguments.path("the CSV of a run", path), ["tokens", "activation_ratio"]
    unit = arguments.number("the unit of tokens", unit, "a number above 0", lambda u: 0 < u < math.inf)
    if not file.is_file():
        raise FileNotFoundError(
            f"no file {str(path)!r} (looked for at {file.absolute()}); give a CSV with tokens and activation_ratio"
        )
    table = texts.read_table(texts.read(file), file, skipinitialspace=True)
    table.columns = [str(name).strip().lower() for name in table.columns]
    if absent := [name for name in needed if name not in table]:
        raise ValueError(f"{path}: no column {', '.join(absent)}; it has {', '.join(table.columns)[:200]}")
    rows = table.dropna(subset=needed)
    points = not rows.activation_ratio.str.contains(",", regex=False).any()  # and no decimal commas
    rows = rows.assign(**{name: _numbers(rows[name], path, points) for name in needed})
    if len(rows) and (most := rows.activation_ratio.max()) > 1:
        raise ValueError(f"{path}: activation_ratio goes up to {most:g}; it is a share, 18 % are 0.18 or written 18%")
    return rows.reset_index(drop=True).assign(d=lambda table: table.tokens / unit)


def _numbers(column: pd.Series, path: str | os.PathLike[str], points: bool) -> pd.Series:
    """Numbers as people and spreadsheets write them, a point in ``points`` or groups of three digits before it.

    Raises ValueError that names file, line and column.
    """
    found, shares = [], column.name == "activation_ratio"
    grouped = re.compile(rf"[1-9]\d{{0,2}}(\.\d{{3}}){{{2 if points else 1},}}(,\d+)?")
    for row, written in column.items():
        # A comma is decimal in a share, and in a count unless groups of three digits follow it.
        text = re.sub(r"[\s_'\u2019\u00a0\u202f]", "", str(written))
        if not shares and re.fullmatch(r"\d{1,3}(,\d{3})+(\.\d+)?[KMBGT]?", text, re.IGNORECASE):
            text = text.replace(",", "")
        elif not shares and grouped.fullmatch(text):
            text = text.replace(".", "")
        number = re.fullmatch(r"([-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)([kmbgt%]?)", text.replace(",", ".").lower())
        if number is None or (number[2] == "%" and not shares):
            wanted = "a number" if shares else "a count such as 1000000, 1M or 1e6"
            raise ValueError(f"{path}, line {int(str(row)) + 2}: {column.name} is {written!r:.60}, not {wanted}")
        found.append(float(number[1]) * SUFFIXES[number[2]])
    return pd.Series(found, index=column.index, dtype=float)
