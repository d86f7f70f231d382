"""How limits, slopes and losses change along a run and from scale to scale: tidy frames in, tidy frames out."""

from itertools import pairwise

import numpy as np
import pandas as pd
from scipy import stats

from ...laws import fitting as laws
from ...paper import published as paper
from ...paper.published import TOKEN_UNITS
from . import limits as law_tables
from . import trends

DRAWS = 200  # of a bootstrap, for a 90 % interval
HIGHEST_LOSS = 16.0  # nats per token; any number above all losses serves


def slopes(limit_table: pd.DataFrame, params: pd.Series, draws: int = 4000, seed: int = 0) -> pd.DataFrame:
    """Limit against log2(parameters), a line for each evidence and activation, with a 90 % interval.

    ``params`` maps scale to a parameter count. Each draw takes every limit from its own interval (split normal,
    5 % beyond each end). Where the limits scatter about the line by more than their intervals explain, the interval is
    wider by that factor and Student's, as a line through few points asks for. Columns: evidence, activation, runs,
    slope_pp (activation ratio, points for each doubling), low_pp, high_pp, sparsity_slope_pp (the same with the other
    sign), range_pp (largest less smallest limit, of each scale the mean over its seeds).
    """
    rows, generator = [], np.random.default_rng(seed)
    for (evidence, activation), part in limit_table.groupby(["evidence", "activation"], sort=True):
        sizes = np.log2(params.loc[part.scale].to_numpy(float))
        if len(np.unique(sizes)) < 2:
            continue
        z = generator.normal(size=(draws, len(part)))
        side = np.where(z < 0, (part.a0 - part.low).clip(0), (part.high - part.a0).clip(0)) / 1.645
        values = part.a0.to_numpy(float) + z * side
        centred = sizes - sizes.mean()
        slope = 100 * (values @ centred) / (centred @ centred)
        own = 100 * float(part.a0 @ centred) / float(centred @ centred)
        wider, freedom = 1.0, len(part) - 2
        if freedom > 0:
            apart = part.a0.to_numpy(float) - part.a0.mean() - own / 100 * centred
            errors = np.maximum((part.high - part.low).to_numpy(float) / (2 * 1.645), 1e-9)
            excess = float(np.sqrt(((apart / errors) ** 2).sum() / freedom))
            wider = excess * float(stats.t.ppf(0.95, freedom)) / 1.645 if excess > 1 else 1.0
        low, high = own + wider * (np.quantile(slope, [0.05, 0.95]) - own)
        span = 100 * float(np.ptp(part.groupby("scale").a0.mean()))
        rows.append((evidence, activation, len(part), own, low, high, -own, span))
    names = ["evidence", "activation", "runs", "slope_pp", "low_pp", "high_pp", "sparsity_slope_pp", "range_pp"]
    return pd.DataFrame(rows, columns=names)


def moved(trend: pd.DataFrame) -> pd.DataFrame:
    """By how much a run's last third of tokens lies above its first third after warm-up, in activation ratio.

    Each is a mean over tokens, since checkpoints lie closer together early in a run. Index run; columns change and
    error, a standard error from the scatter of checkpoints about the mean of their neighbours.
    """
    rows = {}
    for run, part in trends.after_warm_up(trend).sort_values("tokens").groupby("run", sort=True):
        d, y = part.tokens.to_numpy(float), part.activation_ratio.to_numpy(float)
        first, last = d[0] + np.ptp(d) / 3, d[-1] - np.ptp(d) / 3
        ends = [np.interp(np.linspace(*span, 301), d, y).mean() for span in ((d[0], first), (last, d[-1]))]
        jumps = y[1:-1] - (y[:-2] + y[2:]) / 2
        scatter = float(np.sqrt((jumps**2).mean() / 1.5)) if len(jumps) else 0.0
        counts = [max(int(inside.sum()), 1) for inside in (d <= first, d >= last)]
        rows[run] = (float(ends[1] - ends[0]), scatter * float(np.sqrt(1 / counts[0] + 1 / counts[1])))
    return pd.DataFrame.from_dict(rows, orient="index", columns=["change", "error"])


def derivatives(
    fits: law_tables.Fits, limit_table: pd.DataFrame, trend: pd.DataFrame, params: pd.Series
) -> pd.DataFrame:
    """dA/dD over the tokens per parameter of the paper's Figure 8, from further left where a run ends before them.

    Columns: evidence, run, scale, activation, tokens_per_param, derivative (at the chosen drop), low and high (90 %,
    bootstrap over all drops), inside (between the run's first point used and its last), state (of
    ``law_tables.limits``, which ``limit_table`` is). D is in the evidence's own token unit (1e9 or 1e6); ``params``
    maps scale to a parameter count.
    """
    axis = paper.read("figure_axes").query("figure == 8").iloc[0]
    chosen = law_tables.steady_runs(fits)
    labels, ends = trend.drop_duplicates("run").set_index("run"), {}
    states = limit_table.set_index("run").state
    for run, fit in chosen.items():
        size = float(params[labels.scale[run]]) / TOKEN_UNITS[labels.evidence[run]]
        ends[run] = (fit.tokens[0] / size, fit.tokens[-1] / size)
    rows = []
    for run, fit in chosen.items():
        first = labels.loc[run]
        beside = [ends[other] for other in chosen if labels.evidence[other] == first.evidence]
        shortest = min(last for _, last in beside)
        start = float(axis.x_tick_min) if shortest > axis.x_tick_min else max(begin for begin, _ in beside)
        ratio = np.linspace(start, float(axis.x_tick_max), 201)
        d = ratio * float(params[first.scale]) / TOKEN_UNITS[first.evidence]
        curves = [law.derivative(d) for law in laws.drawn(fit, laws.bootstrap_drops(fits[run], DRAWS))]
        low, high = np.quantile(curves, [0.05, 0.95], axis=0)
        named = {"evidence": first.evidence, "run": run, "scale": first.scale, "activation": first.activation}
        numbers = {"tokens_per_param": ratio, "derivative": fit.derivative(d), "low": low, "high": high}
        inside = (ends[run][0] <= ratio) & (ratio <= ends[run][1])
        rows.append(pd.DataFrame({**named, **numbers, "inside": inside, "state": states[run]}))
    return pd.concat(rows, ignore_index=True)


def falls_with_scale(derivative: pd.DataFrame, params: pd.Series) -> pd.DataFrame:
    """How often the smaller of two neighbouring scales has the larger absolute derivative, where both have points.

    Runs whose limit is open are left out; seeds of a scale are averaged. Columns: activation, scales (compared), low
    and high (tokens per parameter compared), and shares of pairs and points: pairs_in_order, pairs_clear (in order by
    more than both 90 % intervals together) and pairs_against (out of order by more than that).
    """
    rows = []
    usable = derivative[(derivative.state != "open") & derivative.inside]
    for activation, part in usable.groupby("activation", sort=True):
        sizes = part.assign(size=part.derivative.abs(), half=(part.high - part.low) / 2)
        wide = sizes.groupby(["tokens_per_param", "scale"])[["size", "half"]].mean().unstack("scale")
        order = sorted(wide["size"].columns, key=lambda scale: float(params[scale]))
        pairs = {pair: wide.loc[:, (slice(None), [*pair])].dropna() for pair in pairwise(order)}
        pairs = {pair: table for pair, table in pairs.items() if len(table)}
        if not pairs:
            continue
        apart = np.concatenate([(t["size"][a] - t["size"][b]).to_numpy() for (a, b), t in pairs.items()])
        unsure = np.concatenate([np.hypot(t["half"][a], t["half"][b]).to_numpy() for (a, b), t in pairs.items()])
        scales = [scale for scale in order if any(scale in pair for pair in pairs)]
        low, high = min(t.index.min() for t in pairs.values()), max(t.index.max() for t in pairs.values())
        shares = [float(np.mean(told)) for told in (apart > 0, apart > unsure, apart < -unsure)]
        rows.append((activation, len(scales), low, high, *shares))
    names = ["activation", "scales", "low", "high", "pairs_in_order", "pairs_clear", "pairs_against"]
    return pd.DataFrame(rows, columns=names)


def order_by_variable(derivative: pd.DataFrame, params: pd.Series) -> pd.DataFrame:
    """``falls_with_scale`` for each evidence, by D and by tokens per parameter: its columns with evidence, variable."""
    factor = derivative.scale.map(params).astype(float)
    numbers = {name: derivative[name] * factor for name in ("derivative", "low", "high")}
    per_param = derivative.assign(**numbers)
    parts = [
        falls_with_scale(part, params).assign(evidence=evidence, variable=variable)
        for variable, table in (("dA/dD", derivative), ("dA/d(tokens per parameter)", per_param))
        for evidence, part in table.groupby("evidence", sort=True)
    ]
    return pd.concat(parts, ignore_index=True)


def order_text(order: pd.DataFrame, share: float = 0.95) -> str:
    """By which variable the order of ``order_by_variable`` holds in at least ``share`` of the comparisons."""
    lines = []
    for variable, part in order.groupby("variable", sort=False):
        holds = part.pairs_in_order >= share
        names = [f"{r.evidence} {r.activation}" for r in part.itertuples()]
        yes = ", ".join(name for name, ok in zip(names, holds, strict=True) if ok)
        no = ", ".join(name for name, ok in zip(names, holds, strict=True) if not ok)
        lines.append(f"by {variable}: in order for {yes or 'none'}; not for {no or 'none'}")
    return "\n".join(lines)


def settling(frame: pd.DataFrame, value: str, within: float = 0.1) -> pd.DataFrame:
    """Share of a run after which ``value`` stays within ``within`` of its total change from its end.

    The end is the mean of the last three points. Columns: run, settled_share. A slower convergence is a larger share.
    """
    rows = []
    for run, part in frame.sort_values("tokens").groupby("run", sort=True):
        y, d = part[value].to_numpy(float), part.tokens.to_numpy(float)
        gap = np.abs(y - y[-3:].mean())
        far = np.flatnonzero(gap > within * gap[0])
        rows.append((run, d[min(far[-1] + 1, len(d) - 1)] / d[-1] if len(far) else 0.0))
    return pd.DataFrame(rows, columns=["run", "settled_share"])


def settled(activation: pd.DataFrame, loss: pd.DataFrame) -> pd.DataFrame:
    """``settling`` of activation ratio and validation loss at the same checkpoints, both without their warm-up.

    ``loss`` is ``trends.trajectory("validation_loss")``: measured on the text that the ratio is, and smoothed no more
    than that. Columns: run, settled_share, settled_share_loss; only runs with both.
    """
    loss = loss[["run", "tokens", "value"]].rename(columns={"value": "loss"})
    both = trends.after_warm_up(activation).merge(loss, on=["run", "tokens"])
    return settling(both, "activation_ratio").merge(settling(both, "loss"), on="run", suffixes=("", "_loss"))


def loss_limit(tokens: np.ndarray, loss: np.ndarray) -> tuple[float, float, float]:
    """Limit of ``L(D) = L0 + k / D^a`` and its 90 % profile-likelihood interval, in nats (Figure 14).

    The paper does not say how it took the limit of the loss. This is Eq. 5 turned over, so it is fitted as that: what
    a loss lacks to ``HIGHEST_LOSS``, as a share of it, is an activation ratio to the law.
    """
    found = laws.fit("silu", np.asarray(tokens, dtype=float) / np.mean(tokens), 1 - np.asarray(loss) / HIGHEST_LOSS)
    low, high = laws.limit_interval(found)
    return HIGHEST_LOSS * (1 - found.a0), HIGHEST_LOSS * (1 - high), HIGHEST_LOSS * (1 - low)


def loss_limits(loss: pd.DataFrame, block: float = 0.02) -> pd.DataFrame:
    """Limit of the training loss of each run: run, scale, activation, seed, limit, low, high, final, common, fixed.

    The loss is averaged over blocks of ``block`` of the run, after its first tenth, so that the points are close to
    independent; ``final`` is the mean over the last twentieth. The interval ends at 0 and at ``final``, since a limit
    lies below what was reached; ``fixed`` says that neither end is there and that the interval is narrower than the
    fall of these points. ``common`` is what ``final`` is, but at the tokens of the shortest run, so that runs can be
    compared. Rounded to 1e-6 nats.
    """
    rows, shortest = [], loss.groupby("run").tokens.max().min()
    for run, part in loss.groupby("run", sort=True):
        share = part.tokens / part.tokens.max()
        means = part[share > 0.1].groupby((share // block).astype(int))[["tokens", "loss"]].mean()
        limit, low, high = loss_limit(means.tokens.to_numpy(float), means.loss.to_numpy(float))
        first, final = part.iloc[0], float(part.loss[share > 0.95].mean())
        ends = (low, min(high, final))
        common = float(part.loss[(part.tokens > 0.95 * shortest) & (part.tokens <= shortest)].mean())
        numbers = np.round([limit, *ends, final, common], 6)
        fixed = bool(ends[0] > 0 and ends[1] < final and ends[1] - ends[0] < np.ptp(means.loss))
        rows.append((run, first.scale, first.activation, first.seed, *numbers, fixed))
    names = ["run", "scale", "activation", "seed", "limit", "low", "high", "final", "common", "fixed"]
    return pd.DataFrame(rows, columns=names)


def reached(trend: pd.DataFrame, last: int = 5) -> pd.DataFrame:
    """Where each run ends: evidence, run, scale, activation, seed, reached (mean of its ``last`` activation ratios)."""
    ends = trend.sort_values("tokens").groupby(["evidence", "run", "scale", "activation", "seed"], sort=True)
    return ends.activation_ratio.apply(lambda ratios: ratios.iloc[-last:].mean()).rename("reached").reset_index()


def seed_spread(table: pd.DataFrame, of: str = "a0") -> pd.DataFrame:
    """Spread of a column between seeds of one scale: scale, activation, seeds, mean, standard_deviation, range."""
    groups = table.groupby(["scale", "activation"])[of]
    spread = groups.agg(seeds="size", mean="mean", standard_deviation="std", range=np.ptp).reset_index()
    return spread[spread.seeds > 1]


def chance_range(limit_table: pd.DataFrame, level: float = 0.95) -> tuple[float, float, int]:
    """How far the limits of several scales may lie apart by their seeds alone (Tukey's studentized range).

    For one evidence and activation of ``limits``: (range, standard deviation between seeds, seeds), both as fractions.
    The scatter is pooled over the scales that have several seeds; NaN where no scale has two.
    """
    spread = seed_spread(limit_table)
    if spread.empty:
        return float("nan"), float("nan"), 1
    freedom = int((spread.seeds - 1).sum())
    deviation = float(np.sqrt(((spread.seeds - 1) * spread.standard_deviation**2).sum() / freedom))
    scales = limit_table.scale.nunique()
    # studentized_range needs two groups; its quantile times the scatter bounds the largest difference among them.
    widest = float(stats.studentized_range.ppf(level, max(scales, 2), freedom)) * deviation
    return widest, deviation, int(spread.seeds.sum())
