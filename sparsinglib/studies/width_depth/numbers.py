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

from ... import laws
from ...files import LADDER
from ...ladder import recipe
from ...laws import two_segments
from ...paper import published
from ...paper.published import TOKEN_UNITS
from ..scaling import limits, trends

USUAL = recipe.RUNS["0.1m-relu"]
SHAPES = {name: recipe.RUNS[name] for name in recipe.SHAPE_NAMES}
METRIC = "activation_ratio_shared_cett"
LAST = 5  # checkpoints at the end of a run, as in Appendix E
MILLIONS = f"{recipe.SHAPE_TOKENS / TOKEN_UNITS['ladder']:g}M"  # tokens of every shape, in words
END = 0.1  # share of the run over which the loss reached is averaged
Z = float(stats.norm.ppf(0.95))  # half width of a 90 % interval, in standard errors


def parameters(width: Any, layers: Any) -> Any:
    """Non-embedding parameters by the architecture: attention 4 d², gated FFN 3 d · 2.5 d, times the layers."""
    return layers * (4 * width**2 + 3 * width * (5 * width // 2))


def _read(names: Iterable[str], file: str, folder: Path) -> pd.DataFrame:
    """That file of the runs that have one, in one frame, with the columns of ``trends``."""
    frames = [pd.read_csv(folder / name / file).assign(run=name) for name in names if (folder / name / file).is_file()]
    rows = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=["run", "step", "tokens"])
    size = rows.run.map({name: recipe.RUNS[name].non_embedding_parameters for name in names}).astype(float)
    labels = {"evidence": "ladder", "scale": "0.1M", "activation": "relu", "seed": rows.run.map(_seed)}
    return rows.assign(**labels, d=rows.tokens / TOKEN_UNITS["ladder"], tokens_per_param=rows.tokens / size)


def _seed(name: str) -> int:
    return recipe.RUNS[name].seed


def _seeds(names: Iterable[str]) -> list[str]:
    """The runs named, and those that differ from one of them in the seed alone."""
    return [run for name in names for run in recipe.RUNS if run == name or run.startswith(f"{name}-seed")]


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


def shapes(folder: Path = LADDER) -> pd.DataFrame:
    """The nine shapes, deepest first, and how far each is.

    Columns: run, shape, width, layers, ratio (width / layers), times_usual (over the ladder's usual 12), params,
    million_tokens (trained so far), checkpoints (measured), state: "measured", "not measured yet" (trained to its end),
    "still in training", "not trained yet".
    """
    ratios, rows = _ratios(SHAPES, folder), []
    for name, run in SHAPES.items():
        record = _record(folder / name)
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
    return pd.DataFrame(rows, columns=names).sort_values("ratio", ignore_index=True)


def missing(table: pd.DataFrame) -> str:
    """A sentence on the shapes of ``shapes`` that are not measured, by state."""
    absent = table[table.state != "measured"].groupby("state").shape.agg(", ".join)
    parts = [f"{names} {state}" for state, names in absent.items()]
    return f"ladder: {(table.state == 'measured').sum()} of {len(table)} shapes measured" + "".join(
        f"; {part}" for part in parts
    )


def trend(table: pd.DataFrame, folder: Path = LADDER) -> pd.DataFrame:
    """Activation ratio along training of the measured shapes of ``shapes``, as ``trends.activation`` gives it."""
    return _ratios(table.run[table.state == "measured"], folder)


def loss(table: pd.DataFrame, folder: Path = LADDER) -> pd.DataFrame:
    """Training loss of the shapes that were trained to their end, and of their other seeds, as ``trends.loss``."""
    done = table.state.isin(["measured", "not measured yet"])
    return _read(_seeds(table.run[done]), "training.csv", folder)


def seed_errors(folder: Path = LADDER) -> dict[str, float]:
    """How far another seed would move one run: standard deviations ``ratio`` and ``loss``, ``freedom`` of each.

    Pooled over the usual shape and the shapes, as far as several seeds of one are measured, at the tokens that all of
    them reached, at most a shape's. NaN without two seeds of one shape.
    """
    found: dict[str, list[tuple[float, int]]] = {"ratio": [], "loss": []}
    for name in (USUAL.name, *SHAPES):
        group = [run for run in _seeds([name]) if name in SHAPES or "-w" not in run]
        for key, rows in (("ratio", _ratios(group, folder)), ("loss", _read(group, "training.csv", folder))):
            # A seed that has only begun says nothing about the end.
            runs = [g for _, g in rows.groupby("run") if g.tokens.max() >= recipe.SHAPE_TOKENS / 2]
            if len(runs) > 1:
                end = min(recipe.SHAPE_TOKENS, *(g.tokens.max() for g in runs))
                if key == "ratio":
                    ends = [np.interp(end, g.tokens, g.activation_ratio) for g in runs]
                else:
                    ends = [g.loss[g.tokens.between((1 - END) * end, end)].mean() for g in runs]
                found[key].append((float(np.var(ends, ddof=1)), len(ends) - 1))
    out = {}
    for key, parts in found.items():
        freedom = sum(n for _, n in parts)
        out[key] = float(np.sqrt(sum(v * n for v, n in parts) / freedom)) if freedom else np.nan
        out[f"{key}_freedom"] = freedom
    return out


def sparsity(
    table: pd.DataFrame, points: pd.DataFrame, model: laws.Posterior, seeds: Mapping[str, float]
) -> pd.DataFrame:
    """Limit and last activation ratio of each measured shape, with 90 % intervals, in percent (Figure 5).

    ``points`` is ``trend``, ``model`` ``laws.posterior`` of it. ``last`` is the mean of the last five checkpoints,
    ``last_error`` its standard error from their scatter and from what another seed would give (``seed_errors``), which
    the limit's interval holds too. Columns: run, shape, width, layers, ratio, times_usual, limit, low, high,
    identified, last, last_low, last_high, last_error.
    """
    keep = table[["run", "shape", "width", "layers", "ratio", "times_usual"]]
    seed = 0.0 if np.isnan(seeds["ratio"]) else seeds["ratio"]
    known = model.limits().rename(columns={"a0": "limit"})[["run", "limit", "low", "high", "identified"]]
    known = known.assign(
        low=(known.limit - np.hypot(known.limit - known.low, Z * seed)).clip(0),
        high=(known.limit + np.hypot(known.high - known.limit, Z * seed)).clip(upper=1),
    )
    tail = points.groupby("run").activation_ratio.apply(lambda y: y.iloc[-LAST:])
    last = tail.groupby("run").agg(last="mean", scatter="std").reset_index()
    last = last.assign(last_error=np.hypot(last.scatter / np.sqrt(LAST), seed)).drop(columns="scatter")
    last = last.assign(last_low=last["last"] - Z * last.last_error, last_high=last["last"] + Z * last.last_error)
    out = keep.merge(known, on="run").merge(last, on="run")
    numbers = ["limit", "low", "high", "last", "last_low", "last_high", "last_error"]
    return out.assign(**{name: 100 * out[name].astype(float) for name in numbers})


def losses(table: pd.DataFrame, rows: pd.DataFrame, seeds: Mapping[str, float]) -> pd.DataFrame:
    """Training loss reached by each shape, mean over its seeds, with 90 % intervals, in nats a token (Figure 6).

    ``rows`` is ``loss``. ``reached`` is the mean over the last tenth of the run, ``above`` how much that is over the
    best shape's: of one seed all shapes see the same batches, so what is left is the spread between seeds
    (``seed_errors``), which ``error`` is for ``reached``. Columns: run, shape, width, layers, ratio, times_usual,
    seeds, reached, error, above, above_low, above_high.
    """
    keep = table[["run", "shape", "width", "layers", "ratio", "times_usual"]]
    names = ["run", "seeds", "reached", "error", "above", "above_low", "above_high"]
    if rows.empty:
        return keep.iloc[:0].merge(pd.DataFrame(columns=names), on="run")
    end = rows[rows.tokens.between((1 - END) * recipe.SHAPE_TOKENS, recipe.SHAPE_TOKENS)]
    each = end.assign(run=end.run.str.partition("-seed")[0]).groupby(["run", "seed"]).loss.mean()
    found = each.groupby("run").agg(seeds="size", reached="mean").reset_index()
    error = np.nan_to_num(seeds["loss"]) / np.sqrt(found.seeds)
    best = found.reached.idxmin()
    above = found.reached - found.reached[best]
    half = float(stats.t.ppf(0.95, max(seeds["loss_freedom"], 1))) * np.hypot(error, error[best])
    half = half.where(found.index != best, 0.0)
    return keep.merge(
        found.assign(error=error, above=above, above_low=above - half, above_high=above + half)[names], on="run"
    )


def bends(activation: pd.DataFrame) -> dict[str, two_segments.Bend]:
    """The rise that turns into a level, against the ratio, in percent: of "last"; of "limit" if enough are fixed."""
    parts = {name: _usable(activation, name) for name in ("limit", "last")}
    return {name: two_segments.fit(*part) for name, part in parts.items() if len(part[0]) >= two_segments.LEAST}


def _usable(activation: pd.DataFrame, name: str) -> tuple[pd.Series, pd.Series, pd.Series]:
    """Ratio, value and standard error (percent) of "last", or of "limit" where the points fix it."""
    if name == "last":
        return activation.ratio, activation["last"], activation.last_error
    fixed = activation[activation.identified.astype(bool)]
    return fixed.ratio, fixed.limit, np.maximum((fixed.high - fixed.low) / (2 * Z), 1e-6)


def misfits(activation: pd.DataFrame, found: Mapping[str, two_segments.Bend]) -> dict[str, tuple[float, float]]:
    """How far the points lie from the two segments and from a line in log2(ratio): reduced chi-square of each.

    For each of ``bends``. The line has no bottleneck, and one coefficient less.
    """
    out = {}
    for name, bend in found.items():
        x, y, error = (part.to_numpy(float) for part in _usable(activation, name))
        error = np.hypot(error, bend.scatter)  # as the segments were fitted
        line = np.polynomial.Polynomial.fit(np.log2(x), y, 1, w=1 / error)
        curves = ((bend.predict(x), 3), (line(np.log2(x)), 2))
        two, straight = (float((((y - curve) / error) ** 2).sum() / (len(x) - spent)) for curve, spent in curves)
        out[name] = (two, straight)
    return out


def bend_table(found: Mapping[str, two_segments.Bend]) -> pd.DataFrame:
    """One line a fit of ``bends``: quantity, shapes; turn, slope, level, each with _low and _high; open and scatter.

    ``turn_layers`` says how many layers a shape at the turn has.
    """
    rows = []
    for name, b in found.items():
        row: dict[str, Any] = {"quantity": name, "shapes": b.points}
        for key in ("turn", "slope", "level"):
            row |= {key: getattr(b, key)}
            row |= dict(zip((f"{key}_low", f"{key}_high"), getattr(b, f"{key}_interval"), strict=True))
        rows.append(row | {"turn_layers": layers_at(b.turn), "open": b.turn_open or "no", "scatter": b.scatter})
    return pd.DataFrame(rows)


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
            weights = parameters(row.width, row.layers) + recipe.VOCABULARY * row.width
            flop = 6 * weights + 12 * row.layers * recipe.CONTEXT * row.width
            rows.append((row.run, row.shape, row.layers, row.ratio, flop / 1e6, 1e6 / speed))
    return pd.DataFrame(rows, columns=["run", "shape", "layers", "ratio", "mflop", "seconds"])


def paper_shapes() -> pd.DataFrame:
    """The thirteen shapes of the authors' configurations, and what is known of their place in Figures 5 and 6.

    Columns: hidden_size, num_layers, ratio, times_usual (over the main 0.1B model's), params (millions, computed),
    in_figures: "named in the text", "beyond the axis", "not said".
    """
    shapes, facts = published.read("width_depth_architectures"), published.read("width_depth").set_index("item").value
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
    row = published.read("model_architectures").set_index("scale").loc["0.1B"]
    return row.hidden_size / row.num_layers, float(parameters(row.hidden_size, row.num_layers))


def paper_main() -> pd.Series:
    """Our fit of the one shape of the sweep whose points the authors published, the main 0.1B ReLU model.

    A row of ``limits.limits`` (fractions), by the model of all published ReLU runs, with ``ratio`` (width over depth).
    """
    points = trends.activation("paper").query("activation == 'relu'")
    row = limits.limits(limits.fit_all(points)).set_index("run").loc["0.1b-relu"]
    return pd.concat([row, pd.Series({"ratio": _paper_usual()[0]})])


def translation() -> pd.DataFrame:
    """The paper's three ratios carried to the ladder's size in three ways: quantity, paper, reading, ratio, layers.

    At a fixed number of parameters a ratio r goes with (parameters / 11.5)^(1/3) r^(-2/3) layers, so "the same
    multiple of the usual ratio" is also "the same share of the usual layers".
    """
    facts = published.read("width_depth").set_index("item").value
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
