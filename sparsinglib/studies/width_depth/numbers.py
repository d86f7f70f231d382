"""Width against depth at one model size (Section 5.2, Figures 5 and 6): the ladder's nine shapes, measured.

Every shape has about the 0.1M model's parameters outside the embedding and sees the same tokens in the same order.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from ... import laws
from ...core.forward import Z90
from ...ladder import recipe
from ...laws import two_segments
from ...paper import published
from ...paper.published import TOKEN_UNITS
from ..scaling import limits, trends

USUAL = recipe.RUNS["0.1m-relu"]
SHAPES = {name: recipe.RUNS[name] for name in recipe.SHAPE_NAMES}
LAST = 5  # checkpoints at the end of a run, as in Appendix E
MILLIONS = f"{recipe.SHAPE_TOKENS / TOKEN_UNITS['ladder']:g}M"  # tokens of every shape, in words
END = 0.1  # share of the run over which the loss reached is averaged
NAMED = ["bottleneck_ratio", "best_interval_min", "best_interval_max"]  # ratios that the paper's text names
LABELS = ["run", "shape", "width", "layers", "ratio", "times_usual"]  # of a shape, in every table


def parameters(width: Any, layers: Any) -> Any:
    """Non-embedding parameters by the architecture: attention 4 d², gated FFN 3 d · 2.5 d, times the layers."""
    return layers * (4 * width**2 + 3 * width * (5 * width // 2))


def _seeds(names: Iterable[str]) -> list[str]:
    """The runs named, and those that differ from one of them in the seed alone."""
    return [run for name in names for run in recipe.RUNS if run == name or run.startswith(f"{name}-seed")]


def _ratios(names: Iterable[str]) -> pd.DataFrame:
    """Activation ratio along runs, as ``trends.activation`` gives it."""
    rows = trends.trajectory(trends.METRIC, trends.P_PCT, names).rename(columns={"value": "activation_ratio"})
    size = rows.run.map({name: recipe.RUNS[name].non_embedding_parameters for name in names}).astype(float)
    return rows.assign(tokens_per_param=rows.tokens / size)


def shapes() -> pd.DataFrame:
    """The nine shapes, deepest first.

    Columns: run, shape, width, layers, ratio (width / layers), times_usual (over the ladder's usual 12), params,
    million_tokens (trained), checkpoints (measured). Raises ValueError that names the shapes which are not
    trained and measured to their end.
    """
    rows = []
    for name, run in SHAPES.items():
        ratio = run.width / run.layers
        labels = (name, f"{run.width}×{run.layers}", run.width, run.layers, ratio, ratio * USUAL.layers / USUAL.width)
        facts = trends.record(name)
        rows.append((*labels, run.non_embedding_parameters, facts.get("tokens"), facts.get("finished", False)))
    table = pd.DataFrame(rows, columns=[*LABELS, "params", "trained", "finished"])
    table = table.join(trend().groupby("run").tokens.agg(checkpoints="size", measured="max"), on="run")
    ended = table.finished & (table.measured == table.trained) & (table.checkpoints >= trends.LEAST_POINTS)
    if not ended.all():
        names = " ".join(table.run[~ended])
        how = " and ".join(f"python -m sparsinglib.ladder.{module} {names}" for module in ("train", "trajectory"))
        raise ValueError(f"not trained and measured to their end: {names}. Run {how}")
    table = table.assign(million_tokens=table.trained / TOKEN_UNITS["ladder"])
    shown = [*LABELS, "params", "million_tokens", "checkpoints"]
    return table[shown].sort_values("ratio", ignore_index=True)


def trend() -> pd.DataFrame:
    """Activation ratio along training of the shapes, as ``trends.activation`` gives it."""
    return _ratios(SHAPES)


def loss() -> pd.DataFrame:
    """Training loss of the shapes and of their other seeds, as ``trends.loss``."""
    return trends.read("training.csv", _seeds(SHAPES))


def seed_errors() -> dict[str, float]:
    """How far another seed would move one run: standard deviations ``ratio`` and ``loss``, ``freedom`` of each.

    Pooled over the usual shape and the shapes that have several seeds, at the tokens that all of these reached, at most
    a shape's.
    """
    names = _seeds((USUAL.name, *SHAPES))
    ratios, losses = _at_equal_tokens(_ratios(names)), _at_equal_tokens(trends.read("training.csv", names))
    ends = {
        "ratio": {run: np.interp(end, part.tokens, part.activation_ratio) for run, end, part in ratios},
        "loss": {run: part.loss[part.tokens.between((1 - END) * end, end)].mean() for run, end, part in losses},
    }
    out: dict[str, float] = {}
    for key, of in ends.items():
        out[key], out[f"{key}_freedom"] = laws.pooled(pd.Series(of), _without_seed)
    return out


def _at_equal_tokens(rows: pd.DataFrame) -> list[tuple[str, float, pd.DataFrame]]:
    """Each run with the tokens that all seeds of its shape reached, at most a shape's, and its rows."""
    reached = rows.groupby("run").tokens.max().clip(upper=recipe.SHAPE_TOKENS)
    common = reached.groupby(_without_seed).transform("min")
    return [(str(run), common[run], part) for run, part in rows.groupby("run")]


def _without_seed(run: str) -> str:
    return run.partition("-seed")[0]


def sparsity(
    table: pd.DataFrame, points: pd.DataFrame, model: laws.Posterior, seeds: Mapping[str, float]
) -> pd.DataFrame:
    """Limit and last activation ratio of each shape, with 90 % intervals, in percent (Figure 5).

    ``points`` is ``trend``, ``model`` ``laws.posterior`` of it. ``last`` is the mean of the last five checkpoints,
    ``last_error`` its standard error from their scatter and from what another seed would give (``seed_errors``), which
    the limit's interval holds too. Columns: LABELS, limit, low, high, identified, last, last_error, last_low and
    last_high.
    """
    seed = seeds["ratio"]
    known = model.limits().rename(columns={"a0": "limit"})[["run", "limit", "low", "high", "identified"]]
    known = known.assign(
        low=(known.limit - np.hypot(known.limit - known.low, Z90 * seed)).clip(0),
        high=(known.limit + np.hypot(known.high - known.limit, Z90 * seed)).clip(upper=1),
    )
    tail = points.groupby("run").tail(LAST).groupby("run").activation_ratio.agg(["mean", "std"])
    last, error = tail["mean"], np.hypot(tail["std"] / np.sqrt(LAST), seed)
    ends = {"last": last, "last_error": error, "last_low": last - Z90 * error, "last_high": last + Z90 * error}
    out = known.merge(pd.DataFrame(ends), on="run")
    out[["limit", "low", "high", *ends]] *= 100
    return table[LABELS].merge(out)


def losses(table: pd.DataFrame, rows: pd.DataFrame, seeds: Mapping[str, float]) -> pd.DataFrame:
    """Training loss reached by each shape, mean over its seeds, with 90 % intervals, in nats a token (Figure 6).

    ``rows`` is ``loss``. ``reached`` is the mean over the last tenth of the run, ``above`` how much that is over the
    best shape's: of one seed all shapes see the same batches, so what is left is the spread between seeds
    (``seed_errors``), which ``error`` is for ``reached``. Columns: LABELS, seeds, reached, error, above, above_low,
    above_high.
    """
    end = rows[rows.tokens.between((1 - END) * recipe.SHAPE_TOKENS, recipe.SHAPE_TOKENS)]
    each = end.groupby("run").loss.mean().groupby(_without_seed)
    found = each.agg(seeds="size", reached="mean").reset_index()
    error = seeds["loss"] / np.sqrt(found.seeds)
    best = found.reached.idxmin()
    above = found.reached - found.reached[best]
    half = float(stats.t.ppf(0.95, seeds["loss_freedom"])) * np.hypot(error, error[best])
    half = half.where(found.index != best, 0.0)
    found = found.assign(error=error, above=above, above_low=above - half, above_high=above + half)
    return table[LABELS].merge(found)


def bends(activation: pd.DataFrame) -> dict[str, two_segments.Bend]:
    """The rise that turns into a level, against the ratio, in percent: of "last"; of "limit" if enough are fixed."""
    fixed = activation[activation.identified]
    points = {
        "limit": (fixed.ratio, fixed.limit, np.maximum((fixed.high - fixed.low) / (2 * Z90), 1e-6)),
        "last": (activation.ratio, activation["last"], activation.last_error),
    }
    return {name: two_segments.fit(*part) for name, part in points.items() if len(part[0]) >= two_segments.LEAST}


def beside_a_line(activation: pd.DataFrame, bend: two_segments.Bend) -> tuple[np.polynomial.Polynomial, float, float]:
    """A line in log2(ratio) through "last", which has no bottleneck, and how far the points lie from ``bend`` and it.

    Reduced chi-square by the points' own errors, the line having one coefficient less: chance alone gives 1.
    """
    x, y, error = (activation[name].to_numpy(float) for name in ("ratio", "last", "last_error"))
    line = np.polynomial.Polynomial.fit(np.log2(x), y, 1, w=1 / error)
    curves = ((bend.predict(x), 3), (line(np.log2(x)), 2))
    two, straight = (float((((y - curve) / error) ** 2).sum() / (len(x) - spent)) for curve, spent in curves)
    return line, two, straight


def bend_table(found: Mapping[str, two_segments.Bend]) -> pd.DataFrame:
    """One line a fit of ``bends``: quantity, shapes; turn, slope, level, each with _low and _high; open and scatter.

    ``turn_layers`` says how many layers a shape at the turn has.
    """
    rows = []
    for name, bend in found.items():
        row: dict[str, Any] = {"quantity": name, "shapes": bend.points}
        for key in ("turn", "slope", "level"):
            low, high = getattr(bend, f"{key}_interval")
            row |= {key: getattr(bend, key), f"{key}_low": low, f"{key}_high": high}
        row |= {"turn_layers": layers_at(bend.turn), "open": bend.turn_open or "no", "scatter": bend.scatter}
        rows.append(row)
    return pd.DataFrame(rows)


def costs(table: pd.DataFrame) -> pd.DataFrame:
    """Training cost by shape (C40): run, shape, layers, ratio, mflop (per token), seconds (per million tokens).

    ``mflop`` is 6 for each weight outside the embedding and in the tied head, and 12 · layers · context · d for
    attention, over 1e6. ``seconds`` comes from ``run.json``, timed while the machine also did other work.
    """
    speed = table.run.map(lambda run: trends.record(run)["tokens_per_second"])
    weights = table.params + recipe.VOCABULARY * table.width
    flop = 6 * weights + 12 * table.layers * recipe.CONTEXT * table.width
    return table[["run", "shape", "layers", "ratio"]].assign(mflop=flop / 1e6, seconds=1e6 / speed)


def facts() -> pd.Series:
    """What the paper states of width and depth, by name."""
    return published.read("width_depth").set_index("item").value


def _paper_usual() -> tuple[float, float]:
    """Ratio of width to depth and computed parameters of the main 0.1B model."""
    row = published.read("model_architectures").set_index("scale").loc["0.1B"]
    return row.hidden_size / row.num_layers, float(parameters(row.hidden_size, row.num_layers))


def paper_shapes() -> pd.DataFrame:
    """The thirteen shapes of the authors' configurations, and what is known of their place in Figures 5 and 6.

    Columns: hidden_size, num_layers, ratio, times_usual (over the main 0.1B model's), params (millions, computed),
    in_figures: "named in the text", "beyond the axis", "not said".
    """
    table, said = published.read("width_depth_architectures")[["hidden_size", "num_layers"]], facts()
    ratio = table.hidden_size / table.num_layers
    near = np.abs(ratio.to_numpy()[:, None] - said[NAMED].to_numpy()).min(axis=1) < 1
    known = np.select([near, ratio > said.x_axis_last_tick], ["named in the text", "beyond the axis"], "not said")
    params = parameters(table.hidden_size, table.num_layers) / 1e6
    return table.assign(ratio=ratio, times_usual=ratio / _paper_usual()[0], params=params, in_figures=known)


def paper_main() -> pd.Series:
    """Our fit of the one shape of the sweep whose points the authors published, the main 0.1B ReLU model.

    A row of ``limits.limits`` (fractions), by the model of all published ReLU runs, with ``ratio`` (width over depth).
    """
    points = trends.activation("paper").query("activation == 'relu'")
    table = limits.limits(limits.fit_all(points)).set_index("run")
    return table.assign(ratio=_paper_usual()[0]).loc["0.1b-relu"]


def translation() -> pd.DataFrame:
    """The paper's three ratios carried to the ladder's size in three ways: quantity, paper, reading, ratio, layers.

    At a fixed number of parameters a ratio r goes with (parameters / 11.5)^(1/3) r^(-2/3) layers, so "the same
    multiple of the usual ratio" is also "the same share of the usual layers".
    """
    said, (usual, size) = facts(), _paper_usual()
    quantities = ("bottleneck", "best, lower end", "best, upper end")
    readings = {
        "same ratio": 1.0,
        "same number of layers": np.sqrt(USUAL.non_embedding_parameters / size),
        "same multiple of the usual ratio": USUAL.width / USUAL.layers / usual,
    }
    rows = [
        (quantity, paper, reading, paper * factor, layers_at(paper * factor))
        for quantity, paper in zip(quantities, said[NAMED], strict=True)
        for reading, factor in readings.items()
    ]
    return pd.DataFrame(rows, columns=["quantity", "paper", "reading", "ratio", "layers"])


def layers_at(ratio: float) -> float:
    """Layers of a shape of the ladder's 0.1M size with that ratio of width to depth; not rounded."""
    return float((USUAL.non_embedding_parameters / 11.5) ** (1 / 3) * ratio ** (-2 / 3))


def beside(table: pd.DataFrame, measured: pd.DataFrame) -> pd.DataFrame:
    """``shapes`` with the columns of ``sparsity`` or ``losses`` beside them."""
    return table.merge(measured.drop(columns=LABELS[1:]))
