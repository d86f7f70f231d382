"""The verdicts on the laws (notebooks 02, 04 and 05): numbers of this room held against the rules in ``claims.csv``."""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from ... import laws
from ...paper.claims import Estimate, Row, judge, mean_of, of_draws, proportion, with_error
from . import limits as tables
from . import scales

NO_LOSSES = "The paper prints no losses"
BOOTSTRAPS = 2000


def _named(name: str, estimate: Estimate) -> Estimate:
    """``estimate`` with what it is of."""
    return Estimate(estimate.value, estimate.low, estimate.high, estimate.unit, name, estimate.printed)


def _slopes(table: pd.DataFrame, unit: str) -> list[Estimate]:
    """Estimates of ``scales.slopes``, one an activation; without those that have too few runs for a line."""
    return [
        Estimate(r.slope, r.low, r.high, unit, f"{r.activation} {getattr(r, 'quantity', '')}".strip())
        for r in table.dropna(subset=["slope"]).itertuples()
    ]


def form(moved: pd.DataFrame, likelier: pd.DataFrame) -> list[Row]:
    """C18 and C19: which way the ratio moves, and the law against a rival that has no limit of its own.

    ``moved`` is ``scales.moved``, ``likelier`` is ``forecasts.likelier``.
    """
    rows = []
    for claim, activation, rival in (("C18", "relu", "plain power law"), ("C19", "silu", "logarithm")):
        for evidence, part in moved[moved.activation == activation].groupby("evidence", sort=True):
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
    last = trend.sort_values("tokens").groupby("run").activation_ratio.apply(lambda y: y.iloc[-scales.LAST :].std())
    for evidence, part in reached.groupby("evidence", sort=True):
        wide = part.pivot_table(index="scale", columns="activation", values="reached")
        wide = wide.reindex(columns=["relu", "silu"]).dropna()
        count = part.pivot_table(index="scale", columns="activation", values="seed", aggfunc="count")
        seeds = scales.seed_spread(part).set_index("activation")
        estimates = []
        for scale, row in wide.iterrows():
            if len(seeds):
                errors, freedom = seeds.standard_deviation / np.sqrt(count.loc[scale]), int((seeds.seeds - 1).sum())
            else:
                errors, freedom = part[part.scale == scale].run.map(last) / np.sqrt(scales.LAST), scales.LAST - 1
            error = 100 * float(np.linalg.norm(errors))
            estimates.append(with_error(100 * (row.silu - row.relu), error, "points", str(scale), freedom))
        rows.append(judge("C21", str(evidence), estimates or "No scale has both activations"))
    return rows


def table_2(limits: pd.DataFrame) -> list[Row]:
    """C23: the ten limits printed in Table 2 against those from the published points (``limits.limits``)."""
    known = limits[limits.printed.notna() & (limits.run != tables.LARGEST)]
    return [
        judge(
            "C23",
            "paper",
            [
                Estimate(100 * r.a0, 100 * r.low, 100 * r.high, "percent", r.run, f"{100 * r.printed:.2f}")
                for r in known.itertuples()
            ],
        )
    ]


def coefficients(equal: pd.DataFrame, params: pd.Series) -> list[Row]:
    """C33: slopes of ReLU's ln alpha and ln c over log2 of the scale (``scales.at_equal_tokens``)."""
    relu, rows = equal[equal.activation == "relu"], []
    for evidence, part in relu.groupby("evidence", sort=True):
        both = [_slopes(scales.slopes(part, params, of), "a doubling") for of in ("log_alpha", "log_c")]
        named = [[_named(name, e) for e in found] for name, found in zip(("ln alpha", "ln c"), both, strict=True)]
        rows.append(judge("C33", str(evidence), *(found or "Fewer than three scales" for found in named)))
    return rows


def settling(come: pd.DataFrame) -> list[Row]:
    """C52: the share of its change that the ratio still has to go at half of the tokens, less the loss's."""
    rows = [judge("C52", "paper", NO_LOSSES)]
    if len(come) < 2:
        return [*rows, judge("C52", "ladder", "Fewer than two runs measured")]
    found = laws.mean(100 * (come.ratio - come.loss), 100 * come.error)
    note = f"mean over {len(come)} runs"
    return [*rows, judge("C52", "ladder", Estimate(found.value, found.low, found.high, "% of the change", note))]


def jumps(table: pd.DataFrame) -> list[Row]:
    """C80: log ratio of early jumps, CETT searched anew over one shared CETT (``scales.early_jumps``)."""
    found = mean_of(np.log(table.own / table.shared), "", "ln of the ratio") if len(table) > 1 else "No run measured"
    return [judge("C80", "ladder", found)]


def dependence(limit_slopes: pd.DataFrame) -> list[Row]:
    """C41: the limit's slope over scale (``scales.limit_slopes``), both activations within the bound."""
    return [
        judge("C41", str(evidence), _slopes(part, "points a doubling") or "Fewer than three scales")
        for evidence, part in limit_slopes.groupby("evidence", sort=True)
    ]


def speed(equal: pd.DataFrame, params: pd.Series) -> list[Row]:
    """C44: slopes over scale of ln |dA/dD| and of ln |dA/dlnD| at equal tokens a parameter."""
    rows = []
    for evidence, part in equal.groupby("evidence", sort=True):
        both = [_slopes(scales.slopes(part, params, of), "a doubling") for of in ("log_speed", "log_speed_by_lnd")]
        rows.append(judge("C44", str(evidence), *(found or "Fewer than three scales" for found in both)))
    return rows


def largest(model: laws.Posterior) -> list[Row]:
    """C54 and C61: the 2.4B run's coefficients against the printed ones, and its limit against the smaller ones'.

    ``model`` is that of the paper's ReLU runs.
    """
    table, row = model.draws[tables.LARGEST], tables.printed().loc[tables.LARGEST]
    back = []
    for name in ("alpha", "b", "c"):
        found = of_draws(table[name], note=name)
        back.append(Estimate(found.value, found.low, found.high, "", name, f"{row[name]:.2e}"))
    others = np.mean([draws.a0 for run, draws in model.draws.items() if run != tables.LARGEST], axis=0)
    apart = of_draws(100 * (table.a0 - others), None, "points", "limit less the mean of the others'")
    return [judge("C54", "paper", back), judge("C61", "paper", apart)]


def losses(table: pd.DataFrame, params: pd.Series) -> list[Row]:
    """C67 and C68: the loss at the tokens of the shortest run over scale, and SiLU's less ReLU's where runs end.

    ``table`` is ``scales.loss_limits``.
    """
    rows = [judge("C67", "paper", NO_LOSSES), judge("C68", "paper", NO_LOSSES)]
    if table.empty:
        return [*rows, judge("C67", "ladder", "No run trained"), judge("C68", "ladder", "No run trained")]
    falls = []
    for activation, part in table.groupby("activation", sort=True):
        found = laws.line(np.log2(params.loc[part.scale].astype(float)), part.common, np.zeros(len(part)))
        falls.append(Estimate(found.value, found.low, found.high, "nats a doubling", str(activation)))
    gaps = [with_error(r.gap, r.error, "%", r.scale, max(r.freedom, 1)) for r in scales.loss_gaps(table).itertuples()]
    return [*rows, judge("C67", "ladder", falls), judge("C68", "ladder", gaps)]


def forecast_intervals(forecasts: pd.DataFrame) -> list[Row]:
    """C53: hits of 90 % intervals for the end of a run, and their width in percent of the change still to come.

    ``forecasts`` from two thirds of each run. The width is the median over runs, its interval from runs drawn anew.
    """
    rows = []
    for evidence, part in forecasts.groupby("evidence", sort=True):
        width = 100 * ((part.high - part.low) / part.to_come.abs()).to_numpy()
        draws = np.median(width[np.random.default_rng(0).integers(len(width), size=(BOOTSTRAPS, len(width)))], axis=1)
        hits = proportion(int(part.inside.sum()), len(part))
        share = of_draws(draws, float(np.median(width)), "% of the change to come", "median width")
        rows.append(judge("C53", str(evidence), hits, share))
    return rows


def scoreboard(rows: Iterable[Row]) -> pd.DataFrame:
    """Rows as a table for a notebook: id, evidence, our_value, verdict."""
    return pd.DataFrame(list(rows), columns=Row._fields).drop(columns="why")
