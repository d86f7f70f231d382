"""How limits, slopes and losses change along a run and from scale to scale: tidy frames in, tidy frames out."""

import numpy as np
import pandas as pd

from ... import laws
from ...laws.curve import WITHIN, jumps
from ...paper import published
from ...paper.published import TOKEN_UNITS
from . import trends
from .limits import LARGEST, Laws, limits, used

HIGHEST_LOSS = 16.0  # nats per token; any number above all losses serves
BLOCK = 0.02  # of a run
LAST = 5  # checkpoints whose mean is where a run ends


def reached(trend: pd.DataFrame) -> pd.DataFrame:
    """Where each run ends: evidence, run, scale, activation, seed, reached (mean of its last activation ratios)."""
    last = trend.sort_values("tokens").groupby("run").tail(LAST)
    return last.groupby(trends.LABELS).activation_ratio.mean().rename("reached").reset_index()


def seed_spread(table: pd.DataFrame) -> pd.DataFrame:
    """How far seeds of one scale end apart (``reached``): scale, activation, seeds, mean, standard_deviation, range."""
    groups = table.groupby(["scale", "activation"]).reached
    spread = groups.agg(seeds="size", mean="mean", standard_deviation="std", range=np.ptp).reset_index()
    return spread[spread.seeds > 1]


def _past_warm_up(fitted: Laws) -> pd.DataFrame:
    """Runs with begin and end (tokens a parameter) of the points that their laws are fitted to, and identified (limit).

    ``all_begin`` and ``all_end``: where all runs of an evidence and activation have such points. The 2.4B run, of which
    a part is published, is left out.
    """
    points = used(fitted)
    points = points[(points.run != LARGEST) & (points.used >= 0.5)]
    ends = points.groupby(["evidence", "activation", "run", "scale"]).tokens_per_param.agg(begin="min", end="max")
    groups = ends.groupby(["evidence", "activation"])
    ends = ends.assign(all_begin=groups.begin.transform("max"), all_end=groups.end.transform("min"))
    return ends.reset_index().merge(limits(fitted)[["run", "identified"]])


def at_equal_tokens(fitted: Laws, params: pd.Series) -> pd.DataFrame:
    """The laws' activation ratio and speed where all runs of an evidence and activation were, by tokens a parameter.

    The ratio is that at the most tokens a parameter that all runs reached, the speed that in the middle (of the
    logarithm) of where all have points past the warm-up. The 2.4B run is left out. ``params`` maps scale to a parameter
    count. A row a run: evidence, activation, run, scale, tokens_per_param (of the ratio), speed_at (the same of the
    speed), identified (limit); of the draws the median and, from half the width of the middle 68 %, a standard
    error (_error) of ratio, a0, log_speed (ln |dA/dD|), log_speed_by_lnd (ln |dA/dlnD|), log_alpha and log_c.
    """
    rows = []
    for run in _past_warm_up(fitted).itertuples():
        model, unit = fitted[run.evidence, run.activation], float(params[run.scale]) / TOKEN_UNITS[run.evidence]
        speed_at, table = np.sqrt(run.all_begin * run.all_end), model.draws[run.run]
        speed = np.abs(model.slopes(run.run, speed_at * unit)[:, 0])
        of = {
            "ratio": model.curves(run.run, run.all_end * unit)[:, 0],
            "a0": table.a0,
            "log_speed": np.log(np.maximum(speed, 1e-300)),
            "log_speed_by_lnd": np.log(np.maximum(speed * (speed_at * unit), 1e-300)),
            "log_alpha": np.log(table.alpha),
            "log_c": np.log(table.c),
        }
        ends = pd.DataFrame(of).quantile([0.5, (1 - WITHIN) / 2, (1 + WITHIN) / 2])
        error = (ends.iloc[2] - ends.iloc[1]) / 2
        row = {"evidence": run.evidence, "activation": run.activation, "run": run.run, "scale": run.scale}
        row |= {"tokens_per_param": run.all_end, "speed_at": speed_at, "identified": run.identified}
        rows.append(row | dict(ends.iloc[0]) | dict(error.add_suffix("_error")))
    return pd.DataFrame(rows)


def at_level(equal: pd.DataFrame, ends: pd.DataFrame, reached: pd.DataFrame) -> pd.DataFrame:
    """``at_equal_tokens`` with the ladder's ratios and limits at the level that ``ends`` give, and the error of CETT.

    A run's whole curve stands or falls with its one CETT. ``ends`` (``trends.ends``: run, activation_ratio, error)
    holds the ratio at a run's end by a better criterion and on more text than along the run, ``reached`` what that end
    is by the curve. Without ``ends`` of a run its row stays, and its errors lack that of CETT.
    """
    factor = ends.set_index("run").activation_ratio / reached.set_index("run").reached
    scale = equal.run.map(factor).fillna(1.0)
    text = equal.run.map(ends.set_index("run").error).fillna(0.0)
    columns = {name: equal[name] * scale for name in ("ratio", "a0")}
    columns |= {f"{name}_error": np.hypot(equal[f"{name}_error"] * scale, text) for name in ("ratio", "a0")}
    return equal.assign(**columns)


def slopes(equal: pd.DataFrame, params: pd.Series, of: str, per: float = 1.0) -> pd.DataFrame:
    """A column of ``at_equal_tokens`` against log2(parameters), a line for each evidence and activation.

    The line knows each run's error and a spread between runs (``laws.line``: seeds, and what the CETT found on one
    text shifts). ``per`` multiplies the column, 100 for points. Columns: evidence, activation, runs, slope (a
    doubling), low, high (90 %), between (that spread).
    """
    rows = []
    for (evidence, activation), part in equal.groupby(["evidence", "activation"]):
        sizes = np.log2(params.loc[part.scale].astype(float))
        found = laws.line(sizes, per * part[of], per * part[f"{of}_error"])
        rows.append((evidence, activation, len(part), found.value, found.low, found.high, found.between))
    return pd.DataFrame(rows, columns=["evidence", "activation", "runs", "slope", "low", "high", "between"])


def speeds(equal: pd.DataFrame, params: pd.Series) -> pd.DataFrame:
    """``slopes`` of log_speed and of log_speed_by_lnd (column of), and the tokens a parameter that they are of (at)."""
    rows = [slopes(equal, params, of).assign(of=of) for of in ("log_speed", "log_speed_by_lnd")]
    at = equal.drop_duplicates(["evidence", "activation"])[["evidence", "activation", "speed_at"]]
    return pd.concat(rows).merge(at.rename(columns={"speed_at": "at"}))


def limit_slopes(equal: pd.DataFrame, params: pd.Series) -> pd.DataFrame:
    """The limit against log2(parameters), points a doubling; the ratio at equal tokens where limits are not fixed.

    A line of limits takes those that the points fix; it needs both ends of the scales and one more. Columns: those of
    ``slopes`` and quantity, "limit" or "ratio at 17 tokens a parameter".
    """
    rows = []
    for _, part in equal.groupby(["evidence", "activation"]):
        sizes, fixed = params.loc[part.scale].to_numpy(float), part[part.identified]
        ends = {sizes.min(), sizes.max()} <= set(params.loc[fixed.scale]) and fixed.scale.nunique() > 2
        name = "limit" if ends else f"ratio at {part.tokens_per_param.iloc[0]:.0f} tokens a parameter"
        found = slopes(fixed, params, "a0", 100) if ends else slopes(part, params, "ratio", 100)
        rows.append(found.assign(quantity=name))
    return pd.concat(rows, ignore_index=True)


def derivatives(fitted: Laws, params: pd.Series) -> pd.DataFrame:
    """dA/dD over the tokens per parameter of the paper's Figure 8, from further left where a run ends before them.

    Columns: evidence, run, scale, activation, tokens_per_param, derivative (median), low and high (90 %), inside
    (between the run's first point past the warm-up and its last), identified (of the limit). D is in the
    evidence's own token unit (1e9 or 1e6); ``params`` maps scale to a parameter count. The 2.4B run is left out.
    """
    axis, parts = published.read("figure_axes").query("figure == 8").iloc[0], []
    for run in _past_warm_up(fitted).itertuples():
        start = axis.x_tick_min if run.all_end > axis.x_tick_min else run.all_begin
        ratio = np.linspace(start, axis.x_tick_max, 201)
        tokens = ratio * params[run.scale] / TOKEN_UNITS[run.evidence]
        every = fitted[run.evidence, run.activation].slopes(run.run, tokens)
        low, middle, high = np.quantile(every, [0.05, 0.5, 0.95], axis=0)
        named = {"evidence": run.evidence, "run": run.run, "scale": run.scale, "activation": run.activation}
        numbers = {"tokens_per_param": ratio, "derivative": middle, "low": low, "high": high}
        inside = (run.begin <= ratio) & (ratio <= run.end)
        parts.append(pd.DataFrame({**named, **numbers, "inside": inside, "identified": run.identified}))
    return pd.concat(parts, ignore_index=True)


def still_to_come(activation: pd.DataFrame, loss: pd.DataFrame, cuts: pd.Series) -> pd.DataFrame:
    """Of the change after the warm-up, the share still to come at half of the run's tokens: ratio and loss (C52).

    ``activation`` is ``trends.activation("ladder")``, ``loss`` ``trends.validation_loss()``: of the same
    checkpoints on the same text. ``cuts`` maps an activation to the end of warm-up, tokens a parameter. Beginning,
    middle and end are means of three checkpoints (the end: of five). Columns: run, activation, ratio, loss (shares) and
    error, of their difference, from the scatter of checkpoints: large where a ratio hardly changes.
    """
    both = activation.merge(loss[["run", "tokens", "value"]], on=["run", "tokens"])
    rows = []
    both = both[both.tokens_per_param > both.activation.map(cuts)].sort_values("tokens")
    for (run, activation_of), kept in both.groupby(["run", "activation"]):
        middle = int((kept.tokens - kept.tokens.max() / 2).abs().to_numpy().argmin())
        shares, errors = [], []
        for name in ("activation_ratio", "value"):
            y = kept[name].to_numpy(float)
            first, half, last = y[:3].mean(), y[middle - 1 : middle + 2].mean(), y[-LAST:].mean()
            share, scatter = (last - half) / (last - first), np.std(jumps(y)) / np.sqrt(1.5)
            shares.append(share)
            # Of the three means: one of five points and two of three, by how much each moves the share.
            moves = np.array([(1 - share) / np.sqrt(LAST), 1 / np.sqrt(3), share / np.sqrt(3)])
            errors.append(scatter / abs(last - first) * np.linalg.norm(moves))
        rows.append((run, activation_of, *shares, float(np.linalg.norm(errors))))
    return pd.DataFrame(rows, columns=["run", "activation", "ratio", "loss", "error"])


def loss_limits(loss: pd.DataFrame) -> pd.DataFrame:
    """Limit of the training loss of each run, ``L(D) = L0 + k / D^a``, and the loss reached (Figure 14).

    The paper does not say how it took the limit. This is Eq. 5 turned over, so all runs are fitted as that (the loss's
    share of HIGHEST_LOSS stands for one less the activation ratio), on means over blocks of BLOCK of a run after
    its first tenth. ``final`` is the mean over the last twentieth, ``common`` the same at the tokens of the shortest
    run; ``fixed`` whether the points fix the limit. Columns: run, scale, activation, seed, limit, low, high, final,
    common, fixed; nats per token, rounded to 1e-6.
    """
    labels, points, ends = ["run", "scale", "activation", "seed"], [], []
    shortest = loss.groupby("run").tokens.max().min()
    for names, part in loss.groupby(labels):
        share = part.tokens / part.tokens.max()
        means = part[share > 0.1].groupby((share // BLOCK).astype(int))[["d", "tokens_per_param", "loss"]].mean()
        points.append(means.assign(run=names[0], activation_ratio=1 - means.loss / HIGHEST_LOSS))
        common = part.loss[(part.tokens > 0.95 * shortest) & (part.tokens <= shortest)].mean()
        ends.append((*names, part.loss[share > 0.95].mean(), common))
    found = laws.posterior("silu", pd.concat(points, ignore_index=True), cuts=[0.0]).limits()
    lost = {"limit": found.a0, "low": found.high, "high": found.low}
    found = found.assign(**{name: HIGHEST_LOSS * (1 - share) for name, share in lost.items()}, fixed=found.identified)
    table = pd.DataFrame(ends, columns=[*labels, "final", "common"]).merge(found, on="run").round(6)
    return table[[*labels, "limit", "low", "high", "final", "common", "fixed"]]


def loss_gaps(losses: pd.DataFrame) -> pd.DataFrame:
    """SiLU's loss reached less ReLU's at each scale, in percent of ReLU's, of ``loss_limits``: scale, gap, error.

    A pair of runs of one seed saw the same text. ``error`` is the spread of such a gap between seeds, pooled over the
    scales that have several, over the square root of a scale's seeds; ``freedom`` its degrees of freedom.
    """
    wide = losses.pivot(index=["scale", "seed"], columns="activation", values="final").dropna()
    gap = 100 * (wide.silu / wide.relu - 1)
    spread, freedom = laws.pooled(gap, "scale")
    found = gap.groupby("scale").agg(gap="mean", error=lambda seeds: spread / np.sqrt(len(seeds)))
    return found.assign(freedom=freedom).reset_index()


def early_jumps(own: pd.DataFrame, shared: pd.DataFrame) -> pd.DataFrame:
    """How far checkpoints jump in the first tenth of a run: CETT searched at each, against one CETT for all (C80).

    ``own`` is ``trends.trajectory("activation_ratio_searched_cett")``, ``shared`` that of the shared CETT. A jump is
    the distance from the mean of the two neighbours; root mean square, in points. Columns: run, own, shared, later (own
    CETT, over the rest of the run).
    """
    both, rows = own.merge(shared, on=["run", "tokens"], suffixes=("", "_shared")).sort_values("tokens"), []
    for run, part in both.groupby("run"):
        squares = jumps(100 * part[["value", "value_shared"]].to_numpy(float)) ** 2
        soon = part.tokens.to_numpy()[1:-1] <= 0.1 * part.tokens.max()
        if soon.any() and not soon.all():
            rows.append((run, *np.sqrt(squares[soon].mean(axis=0)), np.sqrt(squares[~soon, 0].mean())))
    return pd.DataFrame(rows, columns=["run", "own", "shared", "later"])


def moved(trend: pd.DataFrame) -> pd.DataFrame:
    """``laws.change`` of each run past its learning-rate warm-up: run, evidence, activation, change, error (ratios)."""
    labels, points = ["run", "evidence", "activation"], trends.after_warm_up(trend).sort_values("tokens")
    rows = [(*names, *laws.change(run.tokens, run.activation_ratio)) for names, run in points.groupby(labels)]
    return pd.DataFrame(rows, columns=[*labels, "change", "error"])
