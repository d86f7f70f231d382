"""Width against depth at one model size (Section 5.2, Figures 5 and 6): the ladder's nine shapes, measured.

Every shape has about the 0.1M model's parameters outside the embedding and sees the same tokens in the same order. A
shape that is not trained or measured yet is left out of the tables, and ``missing`` names it.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from ...files import LADDER
from ...ladder import recipe as ladder
from ...paper import published as paper
from ...paper.published import TOKEN_UNITS
from ..scaling import limits as law_tables
from ..scaling import scales as scaling_tables
from ..scaling import trends

USUAL = ladder.RUNS["0.1m-relu"]
SHAPES = {name: ladder.RUNS[name] for name in ladder.SHAPE_NAMES}
METRIC = "activation_ratio_shared_cett"
LAST = 5  # checkpoints at the end of a run, as in Appendix E
MILLIONS = f"{ladder.SHAPE_TOKENS / TOKEN_UNITS['ladder']:g}M"  # tokens of every shape, in words
END = 0.1  # share of the run over which the loss reached is averaged
Z = float(stats.norm.ppf(0.95))  # half width of a 90 % interval, in standard errors


def parameters(width: Any, layers: Any) -> Any:
    """Non-embedding parameters by the architecture: attention 4 d², gated FFN 3 d · 2.5 d, times the layers."""
    return layers * (4 * width**2 + 3 * width * (5 * width // 2))


def _read(names: Iterable[str], file: str, folder: Path) -> pd.DataFrame:
    """That file of the runs that have one, in one frame, with the columns that ``law_tables`` groups by."""
    frames = [pd.read_csv(folder / name / file).assign(run=name) for name in names if (folder / name / file).is_file()]
    labels = {"evidence": "ladder", "scale": "0.1M", "activation": "relu", "seed": 1}
    rows = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=["run", "step", "tokens"])
    return rows.assign(**labels, d=rows.tokens / TOKEN_UNITS["ladder"])


def _record(directory: Path) -> dict[str, Any]:
    """What ``run.json`` says of a run; empty if there is none."""
    path = directory / "run.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _ratios(names: Iterable[str], folder: Path) -> pd.DataFrame:
    """Activation ratio along runs at p = 1 % and the run's shared CETT; empty where nothing is measured."""
    rows = _read(names, "trajectory.csv", folder)
    if rows.empty:
        return rows.assign(activation_ratio=[])
    rows = rows[(rows.metric == METRIC) & (rows.p_pct == 1)].rename(columns={"value": "activation_ratio"})
    return rows.sort_values(["run", "tokens"], ignore_index=True)


def shapes(folder: Path = LADDER, suite: str = "ladder") -> pd.DataFrame:
    """The nine shapes, deepest first, and how far each is; of another ``suite`` than the ladder none is there.

    Columns: run, shape, width, layers, ratio (width / layers), times_usual (over the ladder's usual 12), params,
    million_tokens (trained so far), checkpoints (measured), state: "measured", "not measured yet" (trained to its end),
    "still in training", "not trained yet".
    """
    lacks = trends.lacks(suite).replace("no checkpoints along training, so no trend", "no models of other shapes")
    ratios, rows = _ratios([] if lacks else SHAPES, folder), []
    for name, run in SHAPES.items():
        record = {} if lacks else _record(folder / name)
        tokens, points = record.get("tokens", 0), ratios[ratios.run == name]
        state = "not measured yet" if record.get("finished") else "still in training" if record else "not trained yet"
        if record.get("finished") and len(points) >= trends.LEAST_POINTS and points.tokens.max() == tokens:
            state = "measured"
        ratio = run.width / run.layers
        size = (ratio, ratio * USUAL.layers / USUAL.width, parameters(run.width, run.layers))
        shape = f"{run.width}×{run.layers}"
        rows.append((name, shape, run.width, run.layers, *size, tokens / TOKEN_UNITS["ladder"], len(points), state))
    names = [
        "run",
        "shape",
        "width",
        "layers",
        "ratio",
        "times_usual",
        "params",
        "million_tokens",
        "checkpoints",
        "state",
    ]
    table = pd.DataFrame(rows, columns=names).sort_values("ratio", ignore_index=True)
    table.attrs["lacks"] = lacks
    return table


def missing(table: pd.DataFrame) -> str:
    """A sentence on the shapes of ``shapes`` that are not measured, by state, or on what their suite lacks."""
    if table.attrs.get("lacks"):
        return str(table.attrs["lacks"])
    absent = table[table.state != "measured"].groupby("state").shape.agg(", ".join)
    parts = [f"{names} {state}" for state, names in absent.items()]
    return f"ladder: {(table.state == 'measured').sum()} of {len(table)} shapes measured" + "".join(
        f"; {part}" for part in parts
    )


def trend(table: pd.DataFrame, folder: Path = LADDER) -> pd.DataFrame:
    """Activation ratio along training of the measured shapes of ``shapes``, as ``trends.activation`` gives it."""
    return _ratios(table.run[table.state == "measured"], folder)


def loss(table: pd.DataFrame, folder: Path = LADDER) -> pd.DataFrame:
    """Training loss of the shapes that were trained to their end, as ``trends.loss`` gives it."""
    done = table.state.isin(["measured", "not measured yet"])
    return _read(table.run[done], "training.csv", folder)


def seed_errors(folder: Path = LADDER) -> dict[str, float]:
    """How far another seed would have moved one run: ``seeds``, ``millions``, standard errors ``ratio`` and ``loss``.

    From the seeds of the usual shape, at the tokens that all of them reached, at most a shape's; widened, since
    they are few (Student's t). NaN with fewer than two seeds. A single run's interval does not know of this spread.
    """
    names = [USUAL.name, f"{USUAL.name}-seed2", f"{USUAL.name}-seed3"]
    half = ladder.SHAPE_TOKENS / 2  # a seed that has only begun says nothing about the end
    out = {"seeds": 0.0, "millions": float("nan")}
    ratios = [g for _, g in _ratios(names, folder).groupby("run") if g.tokens.max() >= half]
    if len(ratios) > 1:
        end = min(ladder.SHAPE_TOKENS, *(g.tokens.max() for g in ratios))
        out = {"seeds": float(len(ratios)), "millions": end / TOKEN_UNITS["ladder"]}
        out["ratio"] = _between([np.interp(end, g.tokens, g.activation_ratio) for g in ratios])
    logs = [g for _, g in _read(names, "training.csv", folder).groupby("run") if g.tokens.max() >= half]
    if len(logs) > 1:
        end = min(ladder.SHAPE_TOKENS, *(g.tokens.max() for g in logs))
        out["loss"] = _between([g.loss[g.tokens.between((1 - END) * end, end)].mean() for g in logs])
    return {"ratio": float("nan"), "loss": float("nan")} | out


def seed_note(seeds: Mapping[str, float]) -> str:
    """A sentence on ``seed_errors``."""
    if np.isnan(seeds["ratio"]):
        return "ladder: fewer than two seeds measured, so the intervals do not hold the spread between seeds"
    size = f"{100 * seeds['ratio']:.2f} pp in activation ratio, {seeds['loss']:.3f} nats in loss"
    return f"ladder: spread between {seeds['seeds']:g} seeds at {seeds['millions']:.1f}M tokens added: {size}"


def _between(values: list[float]) -> float:
    return float(np.std(values, ddof=1) * stats.t.ppf(0.95, len(values) - 1) / Z)


def sparsity(
    table: pd.DataFrame, points: pd.DataFrame, fits: law_tables.Fits, seed_error: float = np.nan
) -> pd.DataFrame:
    """Limit and last activation ratio of each measured shape, with 90 % intervals, in percent (Figure 5).

    ``points`` is ``trend``, ``fits`` ``law_tables.fit_runs`` of it. The limit is that of the chosen drop, its interval
    the bootstrap's over all drops; ``identified`` says whether that fixes it, too (``law_tables.over_drops``). ``last``
    is the mean of the last five checkpoints, ``last_error`` its standard error from their scatter. ``seed_error`` (a
    fraction) is added to both if known. Columns: run, shape, width, layers, ratio, times_usual, limit, low, high,
    identified, last, last_low, last_high, last_error.
    """
    keep = table[["run", "shape", "width", "layers", "ratio", "times_usual"]]
    found = law_tables.limits(points, fits)
    known = law_tables.over_drops(found).assign(a0=found.a0)
    known = known[["run", "a0", "low", "high", "identified"]].rename(columns={"a0": "limit"})
    seeds = np.nan_to_num(seed_error)
    known = known.assign(
        low=(known.limit - np.hypot((known.limit - known.low).clip(0), Z * seeds)).clip(0),
        high=(known.limit + np.hypot((known.high - known.limit).clip(0), Z * seeds)).clip(upper=1),
    )
    rows = []
    for run, part in points.groupby("run", sort=True):
        tail = part.activation_ratio.iloc[-LAST:]
        within = float(tail.std() / np.sqrt(LAST) * stats.t.ppf(0.95, LAST - 1) / Z)
        rows.append((run, float(tail.mean()), float(np.hypot(within, seeds))))
    last = pd.DataFrame(rows, columns=["run", "last", "last_error"])
    last = last.assign(last_low=last["last"] - Z * last.last_error, last_high=last["last"] + Z * last.last_error)
    out = keep.merge(known, on="run").merge(last, on="run")
    numbers = ["limit", "low", "high", "last", "last_low", "last_high", "last_error"]
    return out.assign(**{name: 100 * out[name].astype(float) for name in numbers})


def losses(table: pd.DataFrame, rows: pd.DataFrame, seed_error: float = np.nan) -> pd.DataFrame:
    """Limit training loss and loss reached of each trained shape, with 90 % intervals, in nats a token (Figure 6).

    ``rows`` is ``loss``. The limit is that of ``scaling_tables.loss_limits``; ``reached`` is the mean over the last
    tenth of the run. All shapes see the same batches, so ``above`` (reached less the best shape's) is a paired
    difference without the text's noise; ``seed_error`` is added to both if known, to it for two runs. Columns: run,
    shape, width, layers, ratio, times_usual, limit, low, high, fixed (as there), reached, reached_low, reached_high,
    above, above_low, above_high.
    """
    keep = table[["run", "shape", "width", "layers", "ratio", "times_usual"]]
    names = ["run", "limit", "low", "high", "fixed"]
    if rows.empty:
        more = ["reached", "reached_low", "reached_high", "above", "above_low", "above_high"]
        return keep.iloc[:0].assign(**{name: [] for name in names[1:] + more})
    known = scaling_tables.loss_limits(rows)[names]
    end = rows[rows.tokens > (1 - END) * ladder.SHAPE_TOKENS].pivot(index="tokens", columns="run", values="loss")
    end = end.dropna()  # steps that every shape logged, so that batches pair up
    best = end.mean().idxmin()
    factor, extra = stats.t.ppf(0.95, len(end) - 1) / np.sqrt(len(end)), Z * np.nan_to_num(seed_error)
    parts = []
    for run in end:
        apart, half = end[run] - end[best], np.hypot(factor * end[run].std(), extra)
        pair = np.hypot(factor * apart.std(), np.sqrt(2) * extra) if run != best else 0.0
        mean, above = end[run].mean(), apart.mean()
        parts.append((run, mean, mean - half, mean + half, above, above - pair, above + pair))
    columns = ["run", "reached", "reached_low", "reached_high", "above", "above_low", "above_high"]
    return keep.merge(known, on="run").merge(pd.DataFrame(parts, columns=columns), on="run")


def costs(table: pd.DataFrame, folder: Path = LADDER) -> pd.DataFrame:
    """Training cost by shape (C40): run, shape, layers, ratio, mflop (per token), seconds (per million tokens).

    ``mflop`` is 6 for each weight outside the embedding and in the tied head, and 12 · layers · context · d for
    attention, over 1e6. ``seconds`` comes from ``run.json``, timed while the machine also did other work; shapes
    without it are left out.
    """
    rows = []
    for row in table.itertuples():
        speed = _record(folder / row.run).get("tokens_per_second") if row.state != "not trained yet" else None
        if speed:
            weights = parameters(row.width, row.layers) + ladder.VOCABULARY * row.width
            flop = 6 * weights + 12 * row.layers * ladder.CONTEXT * row.width
            rows.append((row.run, row.shape, row.layers, row.ratio, flop / 1e6, 1e6 / speed))
    return pd.DataFrame(rows, columns=["run", "shape", "layers", "ratio", "mflop", "seconds"])


def paper_shapes() -> pd.DataFrame:
    """The thirteen shapes of the authors' configurations, and what is known of their place in Figures 5 and 6.

    Columns: hidden_size, num_layers, ratio, times_usual (over the main 0.1B model's), params (millions, computed),
    in_figures: "named in the text", "beyond the axis", "not said".
    """
    shapes, facts = paper.read("width_depth_architectures"), paper.read("width_depth").set_index("item").value
    named = [float(facts[name]) for name in ("bottleneck_ratio", "best_interval_min", "best_interval_max")]
    ratio = shapes.hidden_size / shapes.num_layers
    near = np.abs(ratio.to_numpy()[:, None] - named).min(axis=1) < 1
    beyond = ratio > float(facts.x_axis_last_tick)
    return pd.DataFrame(
        {
            "hidden_size": shapes.hidden_size,
            "num_layers": shapes.num_layers,
            "ratio": ratio,
            "times_usual": ratio / _paper_usual()[0],
            "params": parameters(shapes.hidden_size, shapes.num_layers) / 1e6,
            "in_figures": np.select([near, beyond], ["named in the text", "beyond the axis"], "not said"),
        }
    )


def _paper_usual() -> tuple[float, float]:
    """Ratio of width to depth and computed parameters of the main 0.1B model."""
    row = paper.read("model_architectures").set_index("scale").loc["0.1B"]
    return row.hidden_size / row.num_layers, float(parameters(row.hidden_size, row.num_layers))


def paper_main() -> pd.Series:
    """Our fit of the one shape of the sweep whose points the authors published, the main 0.1B ReLU model.

    A row of ``law_tables.limits`` (fractions) with ``ratio``, its width over depth.
    """
    points = trends.activation("paper").query("run == '0.1b-relu'")
    row = law_tables.limits(points, law_tables.fit_runs(points)).iloc[0]
    return pd.concat([row, pd.Series({"ratio": _paper_usual()[0]})])


def translation() -> pd.DataFrame:
    """The paper's three ratios carried to the ladder's size in three ways: quantity, paper, reading, ratio, layers.

    At a fixed number of parameters a ratio r goes with (parameters / 11.5)^(1/3) r^(-2/3) layers, so "the same
    multiple of the usual ratio" is also "the same share of the usual layers".
    """
    facts = paper.read("width_depth").set_index("item").value
    usual, size = _paper_usual()
    own = parameters(USUAL.width, USUAL.layers)
    names = {
        "bottleneck": "bottleneck_ratio",
        "best, lower end": "best_interval_min",
        "best, upper end": "best_interval_max",
    }
    readings = {
        "same ratio": 1.0,
        "same number of layers": np.sqrt(own / size),
        "same multiple of the usual ratio": USUAL.width / USUAL.layers / usual,
    }
    rows = []
    for name, item in names.items():
        for reading, factor in readings.items():
            ratio = float(facts[item]) * factor
            rows.append((name, float(facts[item]), reading, ratio, layers_at(ratio)))
    return pd.DataFrame(rows, columns=["quantity", "paper", "reading", "ratio", "layers"])


def layers_at(ratio: float) -> float:
    """Layers of a shape of the ladder's 0.1M size with that ratio of width to depth; not rounded."""
    return float((parameters(USUAL.width, USUAL.layers) / 11.5) ** (1 / 3) * ratio ** (-2 / 3))


def beside(table: pd.DataFrame, measured: pd.DataFrame) -> pd.DataFrame:
    """``shapes`` with the columns of ``sparsity`` or ``losses`` beside them, NaN where a shape is not measured."""
    return table.merge(
        measured.drop(columns=[name for name in table if name in measured and name != "run"]), how="left"
    )


def text(frame: pd.DataFrame, empty: str, digits: int = 2) -> str:
    """A table of this module for ``print``, by shape and ratio; for a frame without rows the sentence ``empty``."""
    shown = frame.drop(columns=[name for name in ("run", "width", "times_usual") if name in frame])
    return f"ladder: {empty}" if frame.empty else shown.round(digits).to_string(index=False)
