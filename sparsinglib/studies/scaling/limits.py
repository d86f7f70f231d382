"""Tables of the laws (Tables 2 and 3 and what the notebooks hold them against): tidy frames in, tidy frames out."""

import contextlib
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from scipy import optimize

from ...ladder import recipe as ladder
from ...laws import fitting as laws
from ...paper import published as paper
from ...paper.published import TOKEN_UNITS

Fits = Mapping[str, list[laws.Fit]]
TOLERANCE = 0.01
DRAWS = 200  # of a bootstrap, for an interval in a table
NINETY = [0.05, 0.95]


def fit_runs(trend: pd.DataFrame) -> Fits:
    """For each run of ``trends.activation``: a fit for every number of dropped points up to a third of the run."""
    groups = trend.groupby("run", sort=True)
    return {run: laws.fit_drops(g.activation.iloc[0], g.d, g.activation_ratio) for run, g in groups}


def steady_runs(fits: Fits) -> dict[str, laws.Fit]:
    """Our own choice for each run: the fewest dropped points that leave only noise (``laws.steady``)."""
    return {run: laws.steady(each) for run, each in fits.items()}


def with_used(trend: pd.DataFrame, fits: Mapping[str, laws.Fit]) -> pd.DataFrame:
    """``trend`` with ``used``: whether the run's fit uses a point, or leaves it out as warm-up."""
    return trend.assign(used=trend.d >= trend.run.map({run: fit.tokens[0] for run, fit in fits.items()}))


def _printed() -> pd.DataFrame:
    """Table 2 by the name of a run."""
    return paper.table(2).assign(run=lambda t: t.scale.str.lower() + "-" + t.activation).set_index("run")


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

    Columns: evidence, run, drop, points, coefficient, printed, refit, difference_pct, standard_error, low and high
    (90 %, block bootstrap), back (within 1 %).
    """
    rows = []
    printed = _printed()
    for run, fit in closest_runs(fits).items():
        draws = laws.bootstrap(fit, DRAWS)
        for name, away in _away(fit, printed.loc[run]).items():
            error = fit.standard_errors[name]
            ends = draws[name].quantile(NINETY).tolist()
            value = float(printed.loc[run, name])
            labels = ("paper", run, fit.drop, len(fit.tokens))
            rows.append((*labels, name, value, fit[name], 100 * away, error, *ends, abs(away) <= TOLERANCE))
    names = ["evidence", "run", "drop", "points", "coefficient", "printed", "refit", "difference_pct", "standard_error"]
    names += ["low", "high", "back"]
    return pd.DataFrame(rows, columns=names)


def table_2_rows(table: pd.DataFrame, fits: Fits) -> pd.DataFrame:
    """One line for each row of Table 2: run, drop, points, worst_pct, drops_back, status.

    Status is "back", "all but b" or "not back" at that drop; ``drops_back`` names every number of dropped points at
    which all coefficients come back to 1 %.
    """
    rows, printed = [], _printed()
    for run, part in table.groupby("run", sort=False):
        wrong = part.coefficient[~part.back].tolist()
        status = "back" if not wrong else f"all but {wrong[0]}" if wrong == ["b"] else "not back"
        back = [f.drop for f in fits[run] if max(map(abs, _away(f, printed.loc[run]).values())) <= TOLERANCE]
        worst, drops = part.difference_pct.abs().max(), ", ".join(map(str, back)) or "none"
        rows.append((run, part["drop"].iloc[0], part.points.iloc[0], worst, drops, status))
    return pd.DataFrame(rows, columns=["run", "drop", "points", "worst_pct", "drops_back", "status"])


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
    back = table_2_rows(table_2(fits), fits).set_index("run").status
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

    Below the paper's rows the ladder's, from its recipe, with nothing printed to hold them against.

    Columns: evidence, scale, hidden_size, num_layers, intermediate_size, width_depth_ratio, printed_params,
    computed_params, params_difference_pct, printed_batch_tokens, computed_batch_tokens, batch_difference_pct.
    """
    t = paper.read("model_architectures").merge(paper.table(3), on="scale")
    params = t.num_layers * (4 * t.hidden_size**2 + 3 * t.hidden_size * t.intermediate_size)
    batch = t.batch_sequences * t.sequence_length
    printed = pd.DataFrame(
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
    runs = [ladder.RUNS[f"{scale}-relu"] for scale in ladder.SCALES]
    ours = pd.DataFrame(
        {
            "evidence": "ladder",
            "scale": [run.name.split("-")[0].upper() for run in runs],
            "hidden_size": [run.width for run in runs],
            "num_layers": [run.layers for run in runs],
            "intermediate_size": [run.neurons for run in runs],
            "width_depth_ratio": [run.width / run.layers for run in runs],
            "computed_params": [run.non_embedding_parameters for run in runs],
            "computed_batch_tokens": [run.batch_tokens for run in runs],
        }
    )
    return pd.concat([printed, ours], ignore_index=True)


def limits(trend: pd.DataFrame, fits: Fits) -> pd.DataFrame:
    """The limit of each run at the chosen drop, with 90 % intervals, and how far the points fix it.

    ``low`` and ``high`` are the profile likelihood's at that drop, ``pooled_low``, ``pooled`` (the median) and
    ``pooled_high`` the bootstrap's over every drop tried, in equal parts. ``state`` is "fixed" if both intervals fix
    the limit (``laws.identified``), "one drop" if only the first does, "open" otherwise; ``identified`` is whether it
    is not open.

    Columns: evidence, run, scale, activation, seed, drop, points, a0, low, high, pooled_low, pooled, pooled_high,
    identified, state, corr_alpha, flags.
    """
    rows = []
    for run, fit in steady_runs(fits).items():
        first = trend[trend.run == run].iloc[0]
        low, high = laws.limit_interval(fit)
        bottom, middle, top = laws.bootstrap_drops(fits[run], DRAWS)["a0"].quantile([0.05, 0.5, 0.95])
        fixed = laws.identified(fit, interval=(low, high))
        state = "open" if not fixed else "fixed" if laws.identified(fit, interval=(bottom, top)) else "one drop"
        size = np.sqrt(np.diag(fit.covariance))
        corr = fit.covariance[0, -1] / (size[0] * size[-1])
        labels = (first.evidence, run, first.scale, first.activation, first.seed, fit.drop, len(fit.tokens))
        # The profile sees what the fit's own standard errors do not: one-sided limits.
        flags = dict.fromkeys([*fit.flags, *([] if fixed else ["a0 not identified"])])
        rows.append((*labels, fit.a0, low, high, bottom, middle, top, fixed, state, corr, "; ".join(flags)))
    names = ["evidence", "run", "scale", "activation", "seed", "drop", "points", "a0", "low", "high"]
    names += ["pooled_low", "pooled", "pooled_high", "identified", "state", "corr_alpha", "flags"]
    order = {"paper": 0, "ladder": 1}
    table = pd.DataFrame(rows, columns=names)
    return table.sort_values(["evidence", "activation", "run"], key=lambda c: c.replace(order), ignore_index=True)


def over_drops(limit_table: pd.DataFrame) -> pd.DataFrame:
    """``limits`` as they are if the number of warm-up points is not known: a0, low, high from the pooled draws.

    ``identified`` is then whether the pooled interval fixes the limit, too.
    """
    return limit_table.assign(
        a0=limit_table.pooled,
        low=limit_table.pooled_low,
        high=limit_table.pooled_high,
        identified=limit_table.state == "fixed",
    )


def limit_intervals(limit_table: pd.DataFrame, fits: Fits) -> pd.DataFrame:
    """How sure each limit is, by three ways: 90 % intervals in percent, and at how many drops a fit has no flag.

    Columns: evidence, run, drop, a0, profile_low, profile_high, pooled_low, pooled_high, state (of ``limits``),
    bootstrap_low, bootstrap_high (at the chosen drop), clean_drops ("3 of 9").
    """
    rows = []
    for row in limit_table.itertuples():
        each = fits[row.run]
        chosen = next(f for f in each if f.drop == row.drop)
        ends = laws.bootstrap(chosen, DRAWS)["a0"].quantile(NINETY)
        clean = f"{sum(not f.flags for f in each)} of {len(each)}"
        percent = [100 * x for x in (row.a0, row.low, row.high, *ends, row.pooled_low, row.pooled_high)]
        rows.append((row.evidence, row.run, row.drop, *percent, clean, row.state))
    names = ["a0"] + [f"{kind}_{end}" for kind in ("profile", "bootstrap", "pooled") for end in ("low", "high")]
    return pd.DataFrame(rows, columns=["evidence", "run", "drop", *names, "clean_drops", "state"])


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
    """Every fit of every run: evidence, run, drop, points, alpha, b, c, a0, a0_standard_error, mse, flags.

    A fit with a flag has no standard error: the formula does not hold at a bound, nor for an open limit.
    """
    rows, evidence = [], trend.drop_duplicates("run").set_index("run").evidence
    for run, each in fits.items():
        for f in each:
            error = np.nan if f.flags else f.standard_errors["a0"]
            labels = (evidence[run], run, f.drop, len(f.tokens))
            rows.append((*labels, f.alpha, f.b, f.c, f.a0, error, f.mse, "; ".join(f.flags)))
    names = ["evidence", "run", "drop", "points", "alpha", "b", "c", "a0", "a0_standard_error", "mse", "flags"]
    return pd.DataFrame(rows, columns=names)
