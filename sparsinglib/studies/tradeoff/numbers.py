"""Numbers for "CETT wins": neurons each rule needs at a given loss, area between curves, and how sure they are."""

import itertools
import math
import warnings
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import pandas as pd
import torch
from scipy.interpolate import PchipInterpolator

from ...core import arguments
from ...core.forward import Z90, mean_and_error
from ...suites import survey
from ...suites.suite import Checkpoint, Suite
from .sweep import CETT, HIGHEST, LEAST_TOKENS, Tradeoff

RESAMPLES = 200
LEVELS = (1.0, 5.0, 10.0)  # rises of perplexity in percent, as in the paper's Table 1
FINE = 200
ROUNDING = 1e-9  # of sums in float64


class RuleCurve:
    """log(perplexity ratio) of one rule against log(activation ratio), interpolated monotonely between points."""

    def __init__(self, activation_ratio: np.ndarray, log_ratio: np.ndarray) -> None:
        x, index = np.unique(np.log(activation_ratio), return_index=True)
        self.interpolate = PchipInterpolator(x, log_ratio[index])
        self.fine = np.linspace(x[0], x[-1], FINE)
        self.values = self.interpolate(self.fine)

    def __call__(self, activation_ratio: np.ndarray) -> np.ndarray:
        """log(perplexity ratio) at activation ratios within the curve."""
        return self.interpolate(np.log(activation_ratio))

    def needed(self, log_ratio: float) -> float:
        """Smallest activation ratio from which on the rise stays below ``log_ratio``; NaN if the curve ends before."""
        above = np.flatnonzero(self.values >= log_ratio)
        if not len(above) or above[-1] == len(self.fine) - 1:
            return math.nan
        pair = slice(above[-1], above[-1] + 2)
        return float(np.exp(np.interp(-log_ratio, -self.values[pair], self.fine[pair])))


@lru_cache(maxsize=8)
def resampled_curves(t: Tradeoff) -> list[dict[str, RuleCurve]]:
    """The curves of all rules as measured (first), then in 200 resamples of the text's blocks of tokens.

    All rules share a resample, so that differences between them keep the pairing by token. Every curve ends where all
    nonzero neurons are active and perplexity is the dense one.
    """
    blocks = len(t.counts)
    draws = np.random.default_rng(0).multinomial(blocks, np.full(blocks, 1 / blocks), RESAMPLES)
    weights = np.concatenate([np.ones((1, blocks)), draws])
    log_ratio = (weights @ t.rises.T) / (weights @ t.counts)[:, None]
    inside = t.points[t.points.activation_ratio.between(0, t.unpruned, inclusive="neither")]
    rows = {rule: inside.index[inside.rule == rule] for rule in t.rules}
    x = {rule: np.append(inside.activation_ratio[where], t.unpruned) for rule, where in rows.items()}
    return [{rule: RuleCurve(x[rule], np.append(row[where], 0.0)) for rule, where in rows.items()} for row in log_ratio]


def needed(tradeoffs: Sequence[Tradeoff], levels: Sequence[float] = LEVELS) -> pd.DataFrame:
    """Activation ratio that each rule needs at each rise of perplexity (%): one row a checkpoint, rule and level.

    Columns activation_ratio and its 90 % interval low, high over resamples; NaN where a curve does not reach. CETT at
    1 % is the search's answer, as everywhere.
    """
    rows = []
    for t in tradeoffs:
        for rule, level in itertools.product(t.rules, levels):
            if (rule, level) == (CETT, t.found.ppl_increase_pct):
                found = (t.found.activation_ratio, *(t.found.activation_interval or (math.nan, math.nan)))
            else:
                first, *resampled = (c[rule].needed(math.log1p(level / 100)) for c in resampled_curves(t))
                found = (first, *_interval(resampled))
            rows.append((t.checkpoint.name, rule, level, *found))
    return pd.DataFrame(rows, columns=["checkpoint", "rule", "rise_pct", "activation_ratio", "low", "high"])


def recorded(points: pd.DataFrame, rise_pct: float) -> pd.DataFrame:
    """Activation ratio (%) that each rule needs at a rise of perplexity, from the points a figure was drawn from.

    ``points``: rule, activation_ratio, ppl_ratio of one checkpoint whose neurons are all active when dense. Without the
    text there are no resamples, and so no interval. NaN where a curve does not reach.
    """
    rows = []
    for rule, part in points[points.activation_ratio.between(0, 1, inclusive="neither")].groupby("rule", sort=False):
        curve = RuleCurve(np.append(part.activation_ratio, 1.0), np.append(np.log(part.ppl_ratio), 0.0))
        rows.append((rule, 100 * curve.needed(math.log1p(rise_pct / 100))))
    return pd.DataFrame(rows, columns=["rule", f"activation ratio (%) at +{rise_pct:g} %"])


def advantage(tradeoffs: Sequence[Tradeoff]) -> pd.DataFrame:
    """CETT against each other rule over the activation ratios that both reach before perplexity has risen by 75 %.

    Columns: ``mean``, the other rule's log(perplexity) less CETT's, mean over these activation ratios (nats, positive:
    CETT is lower) with its 90 % interval low, high; ``least_z``, the smallest difference over its standard error, and
    ``least_pct`` and ``least_at``, that difference in percent of perplexity and its activation ratio: below zero where
    the other rule is ahead.
    """
    pairs = [(t, rule) for t in tradeoffs for rule in t.rules if rule != CETT]
    return pd.DataFrame([{"checkpoint": t.checkpoint.name, "rule": r, **_against_cett(t, r)} for t, r in pairs])


def _against_cett(t: Tradeoff, rule: str) -> dict[str, float]:
    curves = resampled_curves(t)
    ends = [(curve.needed(math.log(HIGHEST)), math.exp(curve.fine[0])) for curve in (curves[0][CETT], curves[0][rule])]
    low = max(start if math.isnan(end) else end for end, start in ends)
    x = np.linspace(low, 0.999 * t.unpruned, FINE)
    difference = np.array([c[rule](x) - c[CETT](x) for c in curves])
    mean = np.trapezoid(difference, x, axis=1) / (x[-1] - x[0])
    error = difference[1:].std(axis=0, ddof=1)
    # Next to the common end both differences and errors vanish: their quotient says nothing there.
    clear = error > 1e-4
    z = np.where(clear, difference[0] / np.where(clear, error, 1.0), np.inf)
    least = int(z.argmin())
    interval = dict(zip(("low", "high"), _interval(mean[1:]), strict=True))
    worst = {"least_z": z[least], "least_pct": 100 * math.expm1(difference[0][least]), "least_at": x[least]}
    return {"from_activation": low, "mean": mean[0], **interval, **worst}


def _interval(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    if np.isnan(values).any():  # some resamples do not reach the level: no honest interval
        return math.nan, math.nan
    low, high = np.quantile(values, (0.05, 0.95))
    return float(low), float(high)


def violations(tradeoffs: Sequence[Tradeoff]) -> pd.DataFrame:
    """Steps against monotonicity along three curves: one row a checkpoint and curve.

    Columns steps, wrong (those that go the wrong way by more than their 90 % interval, paired by token), worst (the
    largest step the wrong way, 0 if none) and worst_error (its standard error). Steps of log(perplexity) and of the
    activation ratio lead from one CETT of the grid to the next, dense first; those of a layer's mean CETT from one
    threshold to the next (see ``layer_falls``). An activation ratio is counted on the same tokens and has no error.
    """
    rows = []
    for t in tradeoffs:
        where = np.flatnonzero(t.points.rule == CETT)
        steps = np.diff(np.concatenate([np.zeros((1, len(t.counts))), t.rises[where]]), axis=0)
        sums = [torch.from_numpy(np.stack([step, t.counts], axis=1)) for step in steps]
        mean, error = np.array([mean_and_error(step) for step in sums]).T
        active = np.diff(np.append(t.unpruned, t.points.activation_ratio.to_numpy()[where]))
        for curve, right, errors in (("perplexity", mean, error), ("activation ratio", -active, np.zeros_like(active))):
            worst = int(right.argmin())
            found = (-right[worst], errors[worst]) if right[worst] < 0 else (0.0, 0.0)
            rows.append((t.checkpoint.name, curve, len(right), int((right < -Z90 * errors - ROUNDING).sum()), *found))
        layer = t.falls.loc[t.falls.largest_fall.idxmax()]
        counted = t.falls[["steps", "wrong"]].sum()
        rows.append((t.checkpoint.name, "CETT", *counted, layer.largest_fall, layer.fall_error))
    return pd.DataFrame(rows, columns=["checkpoint", "curve", "steps", "wrong", "worst", "worst_error"])


def kl_against_ppl(tradeoffs: Sequence[Tradeoff]) -> pd.DataFrame:
    """CETT's points: ppl_ratio, exp_kl and their standard errors, and fewer_tokens.

    ``fewer_tokens`` is by how much fewer tokens KL needs for the same relative error of the rise as perplexity.
    """
    points = pd.concat([t.points[t.points.rule == CETT] for t in tradeoffs], ignore_index=True)
    exp_kl, log_ratio = np.exp(points.kl), np.log(points.ppl_ratio)
    errors = (points.ppl_ratio_se / points.ppl_ratio / log_ratio) / (points.kl_se / points.kl)
    return points[["checkpoint", "parameter", "activation_ratio", "ppl_ratio", "ppl_ratio_se"]].assign(
        exp_kl=exp_kl, exp_kl_se=exp_kl * points.kl_se, fewer_tokens=errors.where(log_ratio > 0) ** 2
    )


def corpora_table(suite: Suite, checkpoints: Sequence[Checkpoint], tokens: int, jobs: int = 1) -> pd.DataFrame:
    """Judge the thresholds of CETT-PPL-1 % found on each corpus of the suite on each other, ``tokens`` of either.

    Columns checkpoint, found_on, judged_on, ppl_ratio, ppl_ratio_se, activation_ratio. ``tokens`` below 512 raise
    ValueError: they have no standard error.
    """
    arguments.whole("corpora_tokens", tokens, LEAST_TOKENS)
    rules = {corpus: survey.PPLIncrease(1.0, corpus) for corpus in suite.corpora}
    with warnings.catch_warnings():
        # Where a short text cannot be pruned to exactly 1 %, the diagonal shows what was reached and how surely.
        warnings.filterwarnings("ignore", message=".*was not raised by.*")
        measured = survey.measure(suite, rules, checkpoints=checkpoints, tokens=tokens, jobs=jobs)
    names = {"rule": "found_on", "corpus": "judged_on"}
    columns = ["checkpoint", *names.values(), "ppl_ratio", "ppl_ratio_se", "activation_ratio"]
    return survey.table(measured).rename(columns=names)[columns].astype({"ppl_ratio_se": float})


def points(tradeoffs: Sequence[Tradeoff], evidence: str) -> pd.DataFrame:
    """All points of the sweeps in one frame, the kind of evidence in the first column."""
    table = pd.concat([t.points for t in tradeoffs], ignore_index=True)
    return table.assign(evidence=evidence)[["evidence", *table]]


def summary(tradeoffs: Sequence[Tradeoff]) -> pd.DataFrame:
    """One row a checkpoint: dense perplexity, all nonzero neurons, and CETT-PPL-1 % with its 90 % interval; printed."""
    rows = []
    for t in tradeoffs:
        f, (low, high) = t.found, t.found.activation_interval or (np.nan, np.nan)
        se = "?" if f.ppl_ratio_se is None else f"{f.ppl_ratio_se:.3f}"
        row = {"checkpoint": t.checkpoint.name, "dense perplexity": f"{t.points.dense_ppl.iloc[0]:.2f}"}
        row |= {"nonzero (%)": f"{100 * t.unpruned:.1f}", "CETT at 1 %": f"{f.cett:.3f}"}
        active = f"{100 * f.activation_ratio:.1f} ({100 * low:.1f} to {100 * high:.1f})"
        rows.append(row | {"perplexity ratio": f"{f.ppl_ratio:.3f} ± {se}", "active at 1 % (%)": active})
    return pd.DataFrame(rows)


def kl_table(tradeoffs: Sequence[Tradeoff], points: pd.DataFrame) -> pd.DataFrame:
    """Perplexity ratio and exp(KL) at the CETT of the grid nearest to CETT-PPL-1 %, with standard errors; printed."""
    rows = []
    for t in tradeoffs:
        mine = points[points.checkpoint == t.checkpoint.name]
        p = mine.loc[(mine.parameter - t.found.cett).abs().idxmin()]
        row = {"checkpoint": t.checkpoint.name, "CETT": f"{p.parameter:.2f}"}
        row |= {"perplexity ratio": f"{p.ppl_ratio:.4f} ± {p.ppl_ratio_se:.4f}"}
        fewer = "–" if np.isnan(p.fewer_tokens) else f"{p.fewer_tokens:.0f}"
        rows.append(row | {"exp(KL)": f"{p.exp_kl:.4f} ± {p.exp_kl_se:.4f}", "times fewer tokens": fewer})
    return pd.DataFrame(rows)
