"""Tables of the laws (Tables 2 and 3 and what the notebooks hold them against): tidy frames in, tidy frames out."""

import contextlib
import warnings
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from scipy import optimize, stats

from .. import laws, paper
from ..style import TOKEN_UNITS
from . import law_rivals, trends

Fits = Mapping[str, list[laws.Fit]]
TOLERANCE = 0.01


def fit_runs(trend: pd.DataFrame) -> Fits:
    """For each run of ``trends.activation``: a fit for every number of dropped points up to a third of the run."""
    groups = trend.groupby("run", sort=True)
    return {run: laws.fit_drops(g.activation.iloc[0], g.d, g.activation_ratio) for run, g in groups}


def steady_runs(fits: Fits) -> dict[str, laws.Fit]:
    """Our own choice for each run: the fewest dropped points that leave only noise (``laws.steady``)."""
    return {run: laws.steady(each) for run, each in fits.items()}


def _away(fit: laws.Fit, printed: pd.Series) -> dict[str, float]:
    """Relative difference of each coefficient from the printed one."""
    return {name: fit[name] / float(printed[name]) - 1 for name in laws.COEFFICIENTS[fit.kind]}


def closest_runs(fits: Fits) -> dict[str, laws.Fit]:
    """For each run in Table 2: the fit, over all drops, whose worst coefficient is nearest to the printed one.

    ``b`` counts by its absolute difference: it is an exponent, so 0.01 in ``b`` is 1 % of the curve, while its
    relative difference means nothing where the printed ``b`` is near zero (0.1B ReLU).
    """
    out = {}
    for _, row in paper.table(2).iterrows():
        run = f"{row.scale.lower()}-{row.activation}"
        if run in fits:
            worst = [
                max(abs(f[k] - row[k]) if k == "b" else abs(v) for k, v in _away(f, row).items()) for f in fits[run]
            ]
            out[run] = fits[run][int(np.argmin(worst))]
    return out


def table_2(fits: Fits) -> pd.DataFrame:
    """Table 2 again: one row for each run and coefficient, printed beside refit.

    Columns: evidence, run, drop, points, coefficient, printed, refit, difference_pct, standard_error, back (within
    1 %).
    """
    rows = []
    printed = paper.table(2).assign(run=lambda t: t.scale.str.lower() + "-" + t.activation).set_index("run")
    for run, fit in closest_runs(fits).items():
        for name, away in _away(fit, printed.loc[run]).items():
            error = fit.standard_errors[name]
            value = float(printed.loc[run, name])
            labels = ("paper", run, fit.drop, len(fit.tokens))
            rows.append((*labels, name, value, fit[name], 100 * away, error, abs(away) <= TOLERANCE))
    names = ["evidence", "run", "drop", "points", "coefficient", "printed", "refit", "difference_pct", "standard_error"]
    names += ["back"]
    return pd.DataFrame(rows, columns=names)


def table_2_rows(table: pd.DataFrame) -> pd.DataFrame:
    """One line for each row of Table 2: run, drop, points, worst_pct, status ("back", "all but b", "not back")."""
    rows = []
    for run, part in table.groupby("run", sort=False):
        wrong = part.coefficient[~part.back].tolist()
        status = "back" if not wrong else f"all but {wrong[0]}" if wrong == ["b"] else "not back"
        rows.append((run, part["drop"].iloc[0], part.points.iloc[0], part.difference_pct.abs().max(), status))
    return pd.DataFrame(rows, columns=["run", "drop", "points", "worst_pct", "status"])


def printed_fit(run: str, trend: pd.DataFrame) -> laws.Fit:
    """The law with Table 2's coefficients over a run's points, to see how far the printed curve lies from them."""
    scale, activation = run.split("-")[:2]
    table = paper.table(2)
    row = table[(table.scale == scale.upper()) & (table.activation == activation)].iloc[0]
    points = trend[trend.run == run]
    d, y = points.d.to_numpy(float), points.activation_ratio.to_numpy(float)
    return laws.Fit(activation, row.alpha, row.b, row.c, row.a0, d, y, 0, ())


def why_not_back(fits: Fits, trend: pd.DataFrame) -> pd.DataFrame:
    """For each printed row that does not come back: how far its law lies from the points, and the nearest window.

    Columns: run, printed_mse_ratio (MSE of the printed law over the nearest refit's, same points), offset_pp (mean of
    point less printed law over those points, percentage points), window (the contiguous points whose fit is nearest to
    the printed row), window_worst_pct, window_ends and published_ends (tokens, 1e9).
    """
    rows = []
    back = table_2_rows(table_2(fits)).set_index("run").status
    for run, fit in closest_runs(fits).items():
        if back[run] != "not back":
            continue
        law = printed_fit(run, trend)
        used = law.residuals[fit.drop :]
        (first, last), worst = nearest_window(law)
        window = f"{first + 1}-{last} of {len(law.tokens)}"
        measures = ((used**2).mean() / fit.mse, 100 * used.mean(), window, 100 * worst)
        rows.append((run, *measures, law.tokens[last - 1], law.tokens[-1]))
    names = ["run", "printed_mse_ratio", "offset_pp", "window", "window_worst_pct", "window_ends", "published_ends"]
    return pd.DataFrame(rows, columns=names)


def nearest_window(printed: laws.Fit) -> tuple[tuple[int, int], float]:
    """The contiguous points (first, last + 1) whose fit is nearest to the printed law, and its worst difference.

    Windows start within the first third and hold at least twelve points. Each fit starts at the printed coefficients:
    the question is whether a minimum lies there. ``b`` counts by its absolute difference, as in ``closest_runs``.
    """
    names = laws.COEFFICIENTS[printed.kind]
    target = np.array([printed[name] for name in names])
    size = np.where(np.array(names) == "b", 1.0, np.abs(target))
    n, best = len(printed.tokens), ((0, 0), np.inf)

    def law(d: np.ndarray, *p: float) -> np.ndarray:
        coefficients: dict[str, Any] = dict(zip(names, p, strict=True))
        return replace(printed, **coefficients).predict(d)

    for first in range(n // 3 + 1):
        for last in range(first + 12, n + 1):
            d, y = printed.tokens[first:last], printed.activation_ratio[first:last]
            with contextlib.suppress(RuntimeError), warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore", optimize.OptimizeWarning)
                found, _ = optimize.curve_fit(law, d, y, target, maxfev=300)
                worst = float((np.abs(found - target) / size).max())
                best = min(best, ((first, last), worst), key=lambda item: item[1])
    return best


def table_3() -> pd.DataFrame:
    """Table 3 with the parameter count computed from the architecture, L (4 d² + 3 d d_ff), and tokens a step.

    Columns: evidence, scale, hidden_size, num_layers, intermediate_size, width_depth_ratio, printed_params,
    computed_params, params_difference_pct, printed_batch_tokens, computed_batch_tokens, batch_difference_pct.
    """
    t = paper.read("model_architectures").merge(paper.table(3), on="scale")
    params = t.num_layers * (4 * t.hidden_size**2 + 3 * t.hidden_size * t.intermediate_size)
    batch = t.batch_sequences * t.sequence_length
    return pd.DataFrame(
        {
            "evidence": "paper",
            "scale": t.scale,
            "hidden_size": t.hidden_size,
            "num_layers": t.num_layers,
            "intermediate_size": t.intermediate_size,
            "width_depth_ratio": t.hidden_size / t.num_layers,
            "printed_params": t.non_embedding_params,
            "computed_params": params,
            "params_difference_pct": 100 * (params / t.non_embedding_params - 1),
            "printed_batch_tokens": t.batch_size_tokens,
            "computed_batch_tokens": batch,
            "batch_difference_pct": 100 * (batch / t.batch_size_tokens - 1),
        }
    )


def limits(trend: pd.DataFrame, chosen: Mapping[str, laws.Fit]) -> pd.DataFrame:
    """The limit of each run with its 90 % interval and whether the points fix it.

    Columns: evidence, run, scale, activation, seed, drop, points, a0, low, high, identified, corr_alpha, flags.
    """
    rows = []
    for run, fit in chosen.items():
        first = trend[trend.run == run].iloc[0]
        low, high = laws.limit_interval(fit)
        fixed = laws.identified(fit, interval=(low, high))
        size = np.sqrt(np.diag(fit.covariance))
        corr = fit.covariance[0, -1] / (size[0] * size[-1])
        labels = (first.evidence, run, first.scale, first.activation, first.seed, fit.drop, len(fit.tokens))
        rows.append((*labels, fit.a0, low, high, fixed, corr, "; ".join(fit.flags)))
    names = ["evidence", "run", "scale", "activation", "seed", "drop", "points", "a0", "low", "high", "identified"]
    return pd.DataFrame(rows, columns=[*names, "corr_alpha", "flags"])


def hold_outs(trend: pd.DataFrame, chosen: Mapping[str, laws.Fit], share: float = 2 / 3) -> pd.DataFrame:
    """``law_rivals.hold_out`` for every run, at the drop of ``chosen`` as far as the part seen allows it.

    Its columns with evidence and run.
    """
    parts = []
    for run, g in trend.groupby("run", sort=True):
        kind = g.activation.iloc[0]
        spare = round(len(g) * share) - len(laws.COEFFICIENTS[kind]) - 2
        drop = min(chosen[run].drop, max(spare, 0))
        labels = {"evidence": g.evidence.iloc[0], "run": run}
        parts.append(law_rivals.hold_out(kind, g.d, g.activation_ratio, share, drop).assign(**labels))
    return pd.concat(parts, ignore_index=True)


def forecasts(trend: pd.DataFrame, share: float) -> pd.DataFrame:
    """``law_rivals.forecast`` for every run: its columns with evidence, run and share."""
    parts = []
    for run, g in trend.groupby("run", sort=True):
        labels = {"evidence": g.evidence.iloc[0], "run": run, "share": share}
        parts.append(law_rivals.forecast(g.activation.iloc[0], g.d, g.activation_ratio, share).assign(**labels))
    return pd.concat(parts, ignore_index=True)


def rivals_ahead(table: pd.DataFrame, law: str = "the paper's law") -> str:
    """By evidence and activation of ``hold_outs``: the runs on which a rival errs less, and the best in the mean."""
    lines = []
    kinds = table.run.str.split("-").str[1].rename("activation")
    for (evidence, kind), part in table.groupby(["evidence", kinds], sort=True):
        wide = part.pivot(index="run", columns="law", values="mae_ahead")
        best = wide.idxmin(axis=1)
        ahead = ", ".join(f"{run} ({best[run]})" for run in wide.index if best[run] != law)
        lines.append(f"{evidence} {kind}: {ahead or 'on no run'}; best in the mean: {wide.mean().idxmin()}")
    return "\n".join(lines)


def forecast_score(table: pd.DataFrame) -> pd.DataFrame:
    """How often the intervals of ``forecasts`` hold what came, for each evidence and share, and the median error."""
    return (
        table.assign(error_pp=100 * table.error.abs())
        .groupby(["evidence", "share"])
        .agg(
            runs=("run", "size"),
            inside=("inside", "sum"),
            inside_chosen=("inside_chosen", "sum"),
            tokens_inside=("tokens_inside", "sum"),
            median_error_pp=("error_pp", "median"),
        )
        .reset_index()
    )


def tokens_text(fit: laws.Fit, target: float, draws: pd.DataFrame, unit: str) -> str:
    """``laws.tokens_for`` in a sentence, also where the law never gets to ``target`` or is past it already."""
    try:
        tokens, soonest, latest = laws.tokens_for(fit, target, draws)
    except ValueError as error:
        soonest, latest = laws.arrival(fit, target, draws)
        return f"{error}\nThe laws of all draws get there at {soonest:.0f} to {latest:.0f} {unit} (90 %; inf: never)"
    seen = "; the points seen are there already" if tokens <= fit.tokens[-1] else ""
    return f"{target:.1%} at {tokens:.0f} {unit} (90 %: {soonest:.0f} to {latest:.0f}){seen}"


def came_text(fit: laws.Fit, later: pd.DataFrame, draws: pd.DataFrame, rows: int = 4) -> str:
    """A few of the points that came after a fit beside what it foretold, the last among them, and where they lie."""
    picked = later.iloc[np.linspace(len(later) / rows, len(later), rows).astype(int) - 1]
    table = laws.predict(fit, picked.d, draws).assign(measured=picked.activation_ratio.to_numpy())
    inside = table.measured.between(table.low, table.high)
    lowest, (low, high) = float(later.activation_ratio.min()), laws.limit_interval(fit)
    ends = f"limit at the chosen drop {low:.2%} to {high:.2%}; smallest ratio that came {lowest:.2%}"
    return f"{table.round(4).to_string(index=False)}\n{inside.sum()} of {len(table)} inside; {ends}"


def slopes(limit_table: pd.DataFrame, params: pd.Series, draws: int = 4000, seed: int = 0) -> pd.DataFrame:
    """Limit against ln(parameters), a line for each evidence and activation, with a 90 % interval.

    ``params`` maps scale to a parameter count. Each draw takes every limit from its own interval (split normal,
    5 % beyond each end). Columns: evidence, activation, runs, slope_pp (activation ratio, points for each doubling),
    low_pp, high_pp, sparsity_slope_pp (the same with the other sign), range_pp (largest less smallest limit, of
    each scale the mean over its seeds).
    """
    rows, generator = [], np.random.default_rng(seed)
    for (evidence, activation), part in limit_table.groupby(["evidence", "activation"], sort=True):
        sizes = np.log2(params.loc[part.scale].to_numpy(float))
        if len(np.unique(sizes)) < 2:
            continue
        z = generator.normal(size=(draws, len(part)))
        side = np.where(z < 0, part.a0 - part.low, part.high - part.a0) / 1.645
        values = part.a0.to_numpy(float) + z * side
        centred = sizes - sizes.mean()
        slope = 100 * (values @ centred) / (centred @ centred)
        own = 100 * float(part.a0 @ centred) / float(centred @ centred)
        low, high = np.quantile(slope, [0.05, 0.95])
        span = 100 * float(np.ptp(part.groupby("scale").a0.mean()))
        rows.append((evidence, activation, len(part), own, low, high, -own, span))
    names = ["evidence", "activation", "runs", "slope_pp", "low_pp", "high_pp", "sparsity_slope_pp", "range_pp"]
    return pd.DataFrame(rows, columns=names)


def moved(trend: pd.DataFrame) -> pd.Series:
    """For each run, by how much its last third lies above its first third after warm-up, in activation ratio."""
    change = {}
    for run, part in trends.after_warm_up(trend).sort_values("tokens").groupby("run", sort=True):
        third = max(len(part) // 3, 1)
        ratio = part.activation_ratio
        change[run] = float(ratio.iloc[-third:].mean() - ratio.iloc[:third].mean())
    return pd.Series(change, dtype=float)


def derivatives(chosen: Mapping[str, laws.Fit], trend: pd.DataFrame, params: pd.Series) -> pd.DataFrame:
    """dA/dD over the tokens per parameter of the paper's Figure 8, from further left where a run ends before them.

    Columns: evidence, run, scale, activation, tokens_per_param, derivative, inside (between the run's first point used
    and its last), fixed (``laws.identified``). D is in the evidence's own token unit (1e9 or 1e6); ``params`` maps
    scale to a parameter count.
    """
    axis = paper.read("figure_axes").query("figure == 8").iloc[0]
    labels, ends = trend.drop_duplicates("run").set_index("run"), {}
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
        slope = fit.derivative(ratio * float(params[first.scale]) / TOKEN_UNITS[first.evidence])
        named = {"evidence": first.evidence, "run": run, "scale": first.scale, "activation": first.activation}
        shown = pd.DataFrame({**named, "tokens_per_param": ratio, "derivative": slope})
        inside = (ends[run][0] <= ratio) & (ratio <= ends[run][1])
        rows.append(shown.assign(inside=inside, fixed=laws.identified(fit)))
    return pd.concat(rows, ignore_index=True)


def falls_with_scale(derivative: pd.DataFrame, params: pd.Series) -> pd.DataFrame:
    """How often the smaller of two neighbouring scales has the larger absolute derivative, where both have points.

    Runs whose limit is not fixed are left out; seeds of a scale are averaged. Columns: activation, scales (compared),
    low and high (tokens per parameter compared), pairs_in_order (share of pairs and points).
    """
    rows = []
    usable = derivative[derivative.fixed & derivative.inside]
    for activation, part in usable.groupby("activation", sort=True):
        sizes = part.assign(size=part.derivative.abs()).groupby(["tokens_per_param", "scale"])["size"]
        wide = sizes.mean().unstack("scale")
        order = sorted(wide.columns, key=lambda scale: float(params[scale]))
        pairs = [wide[[a, b]].dropna() for a, b in pairwise(order)]
        pairs = [pair for pair in pairs if len(pair)]
        if not pairs:
            continue
        larger = np.concatenate([(pair.iloc[:, 0] > pair.iloc[:, 1]).to_numpy() for pair in pairs])
        scales = [scale for scale in order if any(scale in pair for pair in pairs)]
        low, high = min(pair.index.min() for pair in pairs), max(pair.index.max() for pair in pairs)
        rows.append((activation, len(scales), low, high, float(larger.mean())))
    return pd.DataFrame(rows, columns=["activation", "scales", "low", "high", "pairs_in_order"])


def order_by_variable(derivative: pd.DataFrame, params: pd.Series) -> pd.DataFrame:
    """``falls_with_scale`` for each evidence, by D and by tokens per parameter: its columns with evidence, variable."""
    per_param = derivative.assign(derivative=derivative.derivative * derivative.scale.map(params))
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
    """``settling`` of activation ratio and smoothed loss at the same checkpoints, both without their warm-up.

    The loss is logged far more often, and more points leave a band later: so it is read at the checkpoints. Columns:
    run, settled_share, settled_share_loss; only runs with both.
    """
    parts = []
    for run, part in trends.after_warm_up(activation).sort_values("tokens").groupby("run", sort=True):
        rows = loss[loss.run == run].sort_values("tokens")
        if len(rows):
            parts.append(part.assign(loss=np.interp(part.tokens, rows.tokens, rows.loss_smoothed)))
    if not parts:
        return pd.DataFrame(columns=["run", "settled_share", "settled_share_loss"])
    both = pd.concat(parts, ignore_index=True)
    return settling(both, "activation_ratio").merge(settling(both, "loss"), on="run", suffixes=("", "_loss"))


def loss_limit(tokens: np.ndarray, loss: np.ndarray) -> tuple[float, float]:
    """Limit of ``L(D) = L0 + k / D^a`` and its standard error (Figure 14).

    The paper does not say how it took the limit of the loss; this is the same form as Eq. 5, turned over.
    """
    d = np.asarray(tokens, dtype=float) / float(np.mean(tokens))
    start = [0.9 * float(np.min(loss)), float(np.ptp(loss)), 0.5]
    bounds = ([0.0, 0.0, 0.01], [float(np.min(loss)), np.inf, 5.0])
    found, covariance = optimize.curve_fit(lambda x, l0, k, a: l0 + k * x**-a, d, loss, start, bounds=bounds)
    return float(found[0]), float(np.sqrt(covariance[0, 0]))


def loss_limits(loss: pd.DataFrame, block: float = 0.02) -> pd.DataFrame:
    """Limit of the training loss of each run: run, scale, activation, seed, limit, low, high (90 %), final, fixed.

    The loss is averaged over blocks of ``block`` of the run, after its first tenth, so that the points are close to
    independent; ``final`` is the mean over the last twentieth. The interval ends at 0 and at ``final``, since a limit
    lies below what was reached; ``fixed`` says that neither end is there and that the interval is narrower than the
    fall of these points. Rounded to 1e-6 nats.
    """
    rows = []
    for run, part in loss.groupby("run", sort=True):
        share = part.tokens / part.tokens.max()
        means = part[share > 0.1].groupby((share // block).astype(int))[["tokens", "loss"]].mean()
        limit, error = loss_limit(means.tokens.to_numpy(float), means.loss.to_numpy(float))
        first, final = part.iloc[0], float(part.loss[share > 0.95].mean())
        ends = (max(limit - 1.645 * error, 0.0), min(limit + 1.645 * error, final))
        numbers = np.round([limit, *ends, final], 6)
        fixed = bool(ends[0] > 0 and ends[1] < final and ends[1] - ends[0] < np.ptp(means.loss))
        rows.append((run, first.scale, first.activation, first.seed, *numbers, fixed))
    return pd.DataFrame(rows, columns=["run", "scale", "activation", "seed", "limit", "low", "high", "final", "fixed"])


def notes_2_4b() -> laws.Fit:
    """The law with which the authors' published notes draw the 2.4B points; not the one in Table 2."""
    row = paper.read("notes_2_4b_coefficients").iloc[0]
    points = paper.trend().query("scale == '2.4B'")
    d = points.tokens.to_numpy(float) / TOKEN_UNITS["paper"]
    return laws.Fit("relu", row.alpha, row.b, row.c, row.a0, d, points.activation_ratio.to_numpy(float), 0, ())


def notes_table(fits: Fits) -> pd.DataFrame:
    """The notes' 2.4B coefficients beside those of the drop whose fit is nearest to them, one row a coefficient."""
    notes, names = notes_2_4b(), list(laws.COEFFICIENTS["relu"])
    near = min(fits["2.4b-relu"], key=lambda f: max(abs(f[k] / notes[k] - 1) for k in names))
    columns = {"authors' notes": notes, f"refit, {near.drop} dropped": near}
    return pd.DataFrame({title: [law[k] for k in names] for title, law in columns.items()}, index=names)


def drop_table(fits: Fits, trend: pd.DataFrame) -> pd.DataFrame:
    """Every fit of every run: evidence, run, drop, points, alpha, b, c, a0, a0_standard_error, mse, flags."""
    rows, evidence = [], trend.drop_duplicates("run").set_index("run").evidence
    for run, each in fits.items():
        for f in each:
            error, labels = f.standard_errors["a0"], (evidence[run], run, f.drop, len(f.tokens))
            rows.append((*labels, f.alpha, f.b, f.c, f.a0, error, f.mse, "; ".join(f.flags)))
    names = ["evidence", "run", "drop", "points", "alpha", "b", "c", "a0", "a0_standard_error", "mse", "flags"]
    return pd.DataFrame(rows, columns=names)


def seed_spread(limit_table: pd.DataFrame) -> pd.DataFrame:
    """Spread of the limit between seeds of one scale: scale, activation, seeds, mean, standard_deviation, range."""
    groups = limit_table.groupby(["scale", "activation"]).a0
    table = groups.agg(seeds="size", mean="mean", standard_deviation="std", range=np.ptp).reset_index()
    return table[table.seeds > 1]


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
