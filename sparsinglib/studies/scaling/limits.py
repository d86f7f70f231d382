"""The limits of the runs from the one model of all of them, and Tables 2 and 3: tidy frames in, tidy frames out."""

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import pandas as pd

from ... import laws
from ...files import DATA
from ...ladder import recipe
from ...laws.fitting import nearest
from ...paper import published
from . import trends

Laws = Mapping[tuple[str, str], laws.Posterior]  # (evidence, activation) -> the model of its runs
TOLERANCE = 0.01
LARGEST = "2.4b-relu"
NAMES = list(laws.COEFFICIENTS["relu"])  # of all coefficients; SiLU's law has no b


def fit_all(trend: pd.DataFrame) -> Laws:
    """``laws.posterior`` of each evidence and activation in ``trend`` (``trends.activations``)."""
    return {key: laws.posterior(key[1], part) for key, part in trend.groupby(["evidence", "activation"])}


def printed() -> pd.DataFrame:
    """Table 2 by the name of a run."""
    return published.table(2).assign(run=lambda t: t.scale.str.lower() + "-" + t.activation).set_index("run")


def limits(fitted: Laws) -> pd.DataFrame:
    """The limit of every run: fractions, with 90 % intervals over all that is not known (``laws.posterior``).

    ``identified``, ``against`` and ``beyond`` are those of ``Posterior.limits``. Columns: evidence, run, scale,
    activation, seed, a0, low, high, identified, against, beyond, printed (Table 2's).
    """
    parts = [model.points.drop_duplicates("run")[trends.LABELS].merge(model.limits()) for model in fitted.values()]
    table = pd.concat(parts).join(printed().a0.rename("printed"), on="run")
    return table.sort_values(["evidence", "activation", "run"], ascending=[False, True, True], ignore_index=True)


def curves(fitted: Laws) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """The median law of each run, a function of tokens in the unit of its evidence."""
    return {run: partial(model.median, run) for model in fitted.values() for run in model.draws}


def used(fitted: Laws) -> pd.DataFrame:
    """The trend that was fitted, with ``used``: the weight of the warm-ups that leave a point in."""
    return pd.concat([model.points for model in fitted.values()], ignore_index=True)


def warm_up(fitted: Laws) -> pd.DataFrame:
    """Where the warm-up ends: evidence, activation, cut (tokens a parameter), weight (by how well the points fit)."""
    parts = [model.cuts.reset_index().assign(evidence=e, activation=a) for (e, a), model in fitted.items()]
    return pd.concat(parts, ignore_index=True)[["evidence", "activation", "cut", "weight"]]


def by_cut(fitted: Laws) -> pd.DataFrame:
    """The limits again for each end of warm-up, taken as known: ``limits`` with cut and weight (``warm_up``)."""
    parts = [
        limits({key: laws.posterior(key[1], model.points, cuts=[cut])}).assign(cut=cut, weight=weight)
        for key, model in fitted.items()
        for cut, weight in model.cuts.items()
    ]
    return pd.concat(parts, ignore_index=True)


def simulated() -> pd.DataFrame:
    """The shipped table of ``laws.coverage``: how often intervals hold the truth in simulated studies."""
    return pd.read_csv(DATA / "laws" / "coverage.csv")


def fits_by_drop(trend: pd.DataFrame) -> pd.DataFrame:
    """Least-squares fits of the published runs with none to a third of their first points dropped.

    Columns: run, activation, drop, points, and the coefficients alpha, b (ReLU's alone), c, a0.
    """
    fits = [
        (run, nearest(row.activation, part.d, part.activation_ratio, drop))
        for run, row in printed().iterrows()
        if len(part := trend[trend.run == run])
        for drop in range(len(part) // 3 + 1)
    ]
    rows = [(run, fit.kind, fit.drop, len(fit.tokens), *map(fit.__getitem__, NAMES)) for run, fit in fits]
    return pd.DataFrame(rows, columns=["run", "activation", "drop", "points", *NAMES])


def table_2(fits: pd.DataFrame) -> pd.DataFrame:
    """Does a printed row of Table 2 come back by least squares at some number of dropped points? Arithmetic only.

    For each run of ``fits_by_drop`` the drop whose worst coefficient is nearest to the printed one (``b`` counts by its
    absolute difference: it is an exponent, and printed near zero in one row). Columns: run, drop, points, coefficient,
    printed, refit, difference_pct, back (within 1 %).
    """
    theirs, ours = printed().loc[fits.run, NAMES].set_axis(fits.index), fits[NAMES]
    away = (ours / theirs - 1).assign(b=ours.b - theirs.b).abs().max(axis=1)
    near = away.groupby(fits.run, sort=False).idxmin()
    both = pd.concat({"printed": theirs, "refit": ours}, axis=1).loc[near].stack().dropna()
    table = (
        fits[["run", "drop", "points"]]
        .join(both.rename_axis([None, "coefficient"]).reset_index("coefficient"), how="inner")
        .reset_index(drop=True)
    )
    apart = table.refit / table.printed - 1
    return table.assign(difference_pct=100 * apart, back=apart.abs() <= TOLERANCE)


def table_2_rows(table: pd.DataFrame) -> pd.DataFrame:
    """One line for each row of Table 2: run, drop, points, worst_pct, status ("back", "all but b", "not back")."""
    table = table.assign(worst_pct=table.difference_pct.abs(), status=table.coefficient.where(~table.back, ""))
    how = {"drop": "first", "points": "first", "worst_pct": "max", "status": "sum"}
    found = table.groupby("run", sort=False, as_index=False).agg(how)
    return found.assign(status=found.status.map({"": "back", "b": "all but b"}).fillna("not back"))


def why_not_back(table: pd.DataFrame, trend: pd.DataFrame) -> pd.DataFrame:
    """How far the law of a printed row that does not come back lies from the points of ``table_2``'s refit.

    Columns: run, printed_mse_ratio (MSE of the printed law over the refit's, same points), offset_pp (mean of point
    less printed law, percentage points).
    """
    rows = []
    for row in table_2_rows(table).itertuples():
        if row.status == "not back":
            law = printed_law(row.run, trend)
            fit = nearest(law.kind, law.tokens, law.activation_ratio, row.drop)
            apart = law.residuals[row.drop :]
            rows.append((row.run, (apart**2).mean() / fit.mse, 100 * apart.mean()))
    return pd.DataFrame(rows, columns=["run", "printed_mse_ratio", "offset_pp"])


def printed_law(run: str, trend: pd.DataFrame) -> laws.Fit:
    """The law with Table 2's coefficients over a run's points, to see how far the printed curve lies from them."""
    return _law(printed().loc[run], trend[trend.run == run])


def notes_law(trend: pd.DataFrame) -> laws.Fit:
    """The law with which the authors' published notes draw the 2.4B points; not the one in Table 2."""
    return _law(published.read("notes_2_4b_coefficients").iloc[0], trend[trend.run == LARGEST])


def _law(row: pd.Series, points: pd.DataFrame) -> laws.Fit:
    d, y = points.d.to_numpy(float), points.activation_ratio.to_numpy(float)
    return laws.Fit(points.activation.iloc[0], row.alpha, row.get("b", np.nan), row.c, row.a0, d, y, 0, ())


def notes_table(trend: pd.DataFrame) -> pd.DataFrame:
    """The notes' 2.4B coefficients beside those of the drop whose fit is nearest to them, one row a coefficient."""
    notes, names = notes_law(trend), list(laws.COEFFICIENTS["relu"])
    fits = [nearest("relu", notes.tokens, notes.activation_ratio, k) for k in range(len(notes.tokens) // 3)]
    near = min(fits, key=lambda f: max(abs(f[k] / notes[k] - 1) for k in names))
    columns = {"authors' notes": notes, f"refit, {near.drop} dropped": near}
    return pd.DataFrame({title: [law[k] for k in names] for title, law in columns.items()}, index=names)


def table_3() -> pd.DataFrame:
    """Table 3 with the parameter count computed from the architecture, L (4 d² + 3 d d_ff), and tokens a step.

    Below the paper's rows the ladder's, from its recipe, with nothing printed to hold them against.

    Columns: evidence, scale, hidden_size, num_layers, intermediate_size, width_depth_ratio, printed_params,
    computed_params, params_difference_pct, printed_batch_tokens, computed_batch_tokens, batch_difference_pct.
    """
    paper = published.read("model_architectures").merge(published.table(3), on="scale").assign(evidence="paper")
    paper = paper.rename(
        columns={"non_embedding_params": "printed_params", "batch_size_tokens": "printed_batch_tokens"}
    )
    attention, ffn = 4 * paper.hidden_size**2, 3 * paper.hidden_size * paper.intermediate_size
    paper["computed_params"] = paper.num_layers * (attention + ffn)
    paper["computed_batch_tokens"] = paper.batch_sequences * paper.sequence_length
    runs = [(scale.upper(), recipe.RUNS[f"{scale}-relu"]) for scale in recipe.SCALES]
    ours = [(scale, r.width, r.layers, r.neurons, r.non_embedding_parameters, r.batch_tokens) for scale, r in runs]
    sizes = ["hidden_size", "num_layers", "intermediate_size"]
    ladder = pd.DataFrame(ours, columns=["scale", *sizes, "computed_params", "computed_batch_tokens"])
    table = pd.concat([paper, ladder.assign(evidence="ladder")], ignore_index=True)
    table["width_depth_ratio"] = table.hidden_size / table.num_layers
    table["params_difference_pct"] = 100 * (table.computed_params / table.printed_params - 1)
    table["batch_difference_pct"] = 100 * (table.computed_batch_tokens / table.printed_batch_tokens - 1)
    params = ["printed_params", "computed_params", "params_difference_pct"]
    batch = ["printed_batch_tokens", "computed_batch_tokens", "batch_difference_pct"]
    return table[["evidence", "scale", *sizes, "width_depth_ratio", *params, *batch]]
