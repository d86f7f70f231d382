"""The verdicts on the laws (notebooks 02, 04 and 05): numbers of this room held against the rules in ``claims.csv``."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd

from ... import laws
from ...paper.claims import Estimate, Row, judge, mean_of, of_draws, proportion, with_error
from . import limits as tables
from . import scales

NO_LOSSES = "The paper prints no losses"
BOOTSTRAPS = 2000


def _slopes(table: pd.DataFrame, unit: str, note: str = "") -> list[Estimate] | str:
    """Estimates of ``scales.slopes``, one an activation, or what is missing: those with too few runs have no line."""
    estimates = [
        Estimate(r.slope, r.low, r.high, unit, note or f"{r.activation} {getattr(r, 'quantity', '')}".strip())
        for r in table.dropna(subset=["slope"]).itertuples()
    ]
    return estimates or "Fewer than three scales"


def _over_scale(claim: str, equal: pd.DataFrame, params: pd.Series, columns: Mapping[str, str]) -> list[Row]:
    """A claim on slopes over scale of ``columns`` of ``scales.at_equal_tokens``, with names ("": the activations')."""
    rows = []
    for evidence, part in equal.groupby("evidence"):
        parts = [_slopes(scales.slopes(part, params, of), "a doubling", note) for of, note in columns.items()]
        rows.append(judge(claim, str(evidence), *parts))
    return rows


def form(moved: pd.DataFrame, likelier: pd.DataFrame) -> list[Row]:
    """C18 and C19: which way the ratio moves, and the law against a rival that has no limit of its own.

    ``moved`` is ``scales.moved``, ``likelier`` is ``forecasts.likelier``.
    """
    rows = []
    for claim, activation, rival in (("C18", "relu", "plain power law"), ("C19", "silu", "logarithm")):
        for evidence, part in moved[moved.activation == activation].groupby("evidence"):
            ahead = likelier[(likelier.evidence == evidence) & (likelier.activation == activation)][rival]
            way = mean_of(100 * part.change, "points", "last third less first, mean over runs")
            better = mean_of(ahead, "", f"log-likelihood of the law less that of the {rival}, mean over runs")
            rows.append(judge(claim, str(evidence), way, better))
    return rows


def ends(reached: pd.DataFrame, trend: pd.DataFrame) -> list[Row]:
    """C21: SiLU's activation ratio less ReLU's where runs end (``scales.reached``), each scale.

    The error is the spread between seeds where a kind of evidence has several of a scale (pooled over the two
    activations), else the scatter of the last checkpoints: the authors published one run of each.
    """
    rows = []
    last = trend.sort_values("tokens").groupby("run").tail(scales.LAST).groupby("run").activation_ratio.std()
    for evidence, part in reached.groupby("evidence"):
        seeds, estimates = scales.seed_spread(part).set_index("activation"), []
        for scale, runs in part.groupby("scale"):
            if runs.activation.nunique() < 2:
                continue
            groups = runs.groupby("activation")
            means = groups.reached.mean()
            if len(seeds):
                errors, freedom = seeds.standard_deviation / np.sqrt(groups.size()), int((seeds.seeds - 1).sum())
            else:
                errors, freedom = runs.run.map(last) / np.sqrt(scales.LAST), scales.LAST - 1
            error = 100 * float(np.linalg.norm(errors))
            estimates.append(with_error(100 * (means.silu - means.relu), error, "points", str(scale), freedom))
        rows.append(judge("C21", str(evidence), estimates or "No scale has both activations"))
    return rows


def table_2(limits: pd.DataFrame) -> list[Row]:
    """C23: the ten limits printed in Table 2 against those from the published points (``limits.limits``)."""
    known = limits[limits.printed.notna() & (limits.run != tables.LARGEST)]
    found = 100 * known.set_index("run")[["a0", "low", "high", "printed"]]
    cases = [Estimate(r.a0, r.low, r.high, "percent", r.Index, f"{r.printed:.2f}") for r in found.itertuples()]
    return [judge("C23", "paper", cases)]


def coefficients(equal: pd.DataFrame, params: pd.Series) -> list[Row]:
    """C33: slopes of ReLU's ln alpha and ln c over log2 of the scale (``scales.at_equal_tokens``)."""
    relu = equal[equal.activation == "relu"]
    return _over_scale("C33", relu, params, {"log_alpha": "ln alpha", "log_c": "ln c"})


def settling(come: pd.DataFrame) -> list[Row]:
    """C52: the share of its change that the ratio still has to go at half of the tokens, less the loss's."""
    ladder: Estimate | str = "Fewer than two runs measured"
    if len(come) > 1:
        found = laws.mean(100 * (come.ratio - come.loss), 100 * come.error)
        ladder = Estimate(*found[:3], "% of the change", f"mean over {len(come)} runs")
    return [judge("C52", "paper", NO_LOSSES), judge("C52", "ladder", ladder)]


def jumps(table: pd.DataFrame) -> list[Row]:
    """C80: log ratio of early jumps, CETT searched anew over one shared CETT (``scales.early_jumps``)."""
    return [judge("C80", "ladder", mean_of(np.log(table.own / table.shared), "", "ln of the ratio"))]


def dependence(limit_slopes: pd.DataFrame) -> list[Row]:
    """C41: the limit's slope over scale (``scales.limit_slopes``), both activations within the bound."""
    slopes = limit_slopes.groupby("evidence")
    return [judge("C41", kind, _slopes(part, "points a doubling")) for kind, part in slopes]


def speed(equal: pd.DataFrame, params: pd.Series) -> list[Row]:
    """C44: slopes over scale of ln |dA/dD| and of ln |dA/dlnD| at equal tokens a parameter."""
    return _over_scale("C44", equal, params, {"log_speed": "", "log_speed_by_lnd": ""})


def largest(model: laws.Posterior) -> list[Row]:
    """C54 and C61: the 2.4B run's coefficients against the printed ones, and its limit against the smaller ones'.

    ``model`` is that of the paper's ReLU runs.
    """
    table, row = model.draws[tables.LARGEST], tables.printed().loc[tables.LARGEST]
    back = [replace(of_draws(table[name], note=name), printed=f"{row[name]:.2e}") for name in ("alpha", "b", "c")]
    others = np.mean([draws.a0 for run, draws in model.draws.items() if run != tables.LARGEST], axis=0)
    apart = of_draws(100 * (table.a0 - others), None, "points", "limit less the mean of the others'")
    return [judge("C54", "paper", back), judge("C61", "paper", apart)]


def losses(table: pd.DataFrame, params: pd.Series) -> list[Row]:
    """C67 and C68: the loss at the tokens of the shortest run over scale, and SiLU's less ReLU's where runs end.

    ``table`` is ``scales.loss_limits``.
    """
    falls = []
    for activation, part in table.groupby("activation"):
        found = laws.line(np.log2(params.loc[part.scale].astype(float)), part.common, np.zeros(len(part)))
        falls.append(Estimate(*found[:3], "nats a doubling", str(activation)))
    gaps = [with_error(r.gap, r.error, "%", r.scale, r.freedom) for r in scales.loss_gaps(table).itertuples()]
    rows = [judge(claim, "paper", NO_LOSSES) for claim in ("C67", "C68")]
    return [*rows, judge("C67", "ladder", falls), judge("C68", "ladder", gaps)]


def forecast_intervals(forecasts: pd.DataFrame) -> list[Row]:
    """C53: hits of 90 % intervals for the end of a run, and their width in percent of the change still to come.

    ``forecasts`` from two thirds of each run. The width is the median over runs, its interval from runs drawn anew.
    """
    rows = []
    for evidence, part in forecasts.groupby("evidence"):
        width = 100 * ((part.high - part.low) / part.to_come.abs()).to_numpy()
        draws = np.median(width[np.random.default_rng(0).integers(len(width), size=(BOOTSTRAPS, len(width)))], axis=1)
        hits = proportion(int(part.inside.sum()), len(part))
        share = of_draws(draws, float(np.median(width)), "% of the change to come", "median width")
        rows.append(judge("C53", str(evidence), hits, share))
    return rows
