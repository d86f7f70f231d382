"""Printed tables of the trade-off study and its verdicts on claims C01, C03, C15, C16, C17 and C81."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ...paper.published import Check
from ...suites.suite import Suite
from .numbers import LEVELS
from .sweep import CETT_GRID, ZEROS, Tradeoff

PAPER_RIVALS = ("Top-k", "FAT-ε")
SURE = 3.0  # standard errors: many points are compared at once
NO_FALL = 1e-4  # of a layer's CETT: below it is rounding of float32


def summary(tradeoffs: Sequence[Tradeoff]) -> pd.DataFrame:
    """One row a checkpoint: dense perplexity, all nonzero neurons, and CETT-PPL-1 % with its 90 % interval; printed."""
    rows = []
    for t in tradeoffs:
        f, (low, high) = t.one_percent, _ends(t)
        se = "?" if f.ppl_ratio_se is None else f"{f.ppl_ratio_se:.3f}"
        rows.append(
            {
                "checkpoint": t.checkpoint.name,
                "dense perplexity": f"{t.points['dense_ppl'].iloc[0]:.2f}",
                "nonzero (%)": f"{100 * t.unpruned:.1f}",
                "CETT at 1 %": f"{f.cett:.3f}",
                "perplexity ratio": f"{f.ppl_ratio:.3f} ± {se}",
                "active at 1 % (%)": f"{100 * f.activation_ratio:.1f} ({100 * low:.1f} to {100 * high:.1f})",
            }
        )
    return pd.DataFrame(rows)


def _ends(t: Tradeoff) -> tuple[float, float]:
    return t.one_percent.activation_interval or (np.nan, np.nan)


def needed_table(needed: pd.DataFrame) -> pd.DataFrame:
    """What ``tradeoff_numbers.needed`` found, printed: a column for each rise of perplexity."""

    def cell(row: pd.Series) -> str:
        if np.isnan(row.activation_ratio):
            return "not reached"
        return f"{100 * row.activation_ratio:.1f} ({100 * row.low:.1f} to {100 * row.high:.1f})"

    printed = needed.assign(rise=[f"+{x:g} %" for x in needed["rise_pct"]], value=needed.apply(cell, axis=1))
    columns = [f"+{x:g} %" for x in LEVELS]
    table = printed.pivot(index=["checkpoint", "rule"], columns="rise", values="value")[columns]
    order = dict.fromkeys(zip(needed["checkpoint"], needed["rule"], strict=True))
    return table.loc[list(order)].reset_index().rename_axis(columns=None)


def advantage_table(advantage: pd.DataFrame) -> pd.DataFrame:
    """What ``tradeoff_numbers.advantage`` found, printed."""
    a = advantage
    return pd.DataFrame(
        {
            "checkpoint": a["checkpoint"],
            "CETT against": a["rule"],
            "from (% active)": [f"{100 * x:.1f}" for x in a["from_activation"]],
            "100 × area": [f"{100 * x:.2f} ({100 * y:.2f} to {100 * z:.2f})" for x, y, z in _rows(a, "area low high")],
            "mean excess (%)": [f"{x:.1f}" for x in a["mean_pct"]],
            "smallest (%)": [f"{x:.2f}" for x in a["least_pct"]],
            "at (% active)": [f"{100 * x:.0f}" for x in a["least_at"]],
            "in s.e.": [f"{x:.1f}" for x in a["least_z"]],
        }
    )


def _rows(table: pd.DataFrame, names: str) -> list[tuple[float, ...]]:
    return list(table[names.split()].itertuples(index=False, name=None))


def kl_table(tradeoffs: Sequence[Tradeoff], points: pd.DataFrame) -> pd.DataFrame:
    """Perplexity ratio and exp(KL) at the CETT of the grid nearest to CETT-PPL-1 %, with standard errors; printed."""
    rows = []
    for t in tradeoffs:
        mine = points[points["checkpoint"] == t.checkpoint.name]
        p = mine.loc[(mine["parameter"] - t.one_percent.cett).abs().idxmin()]
        fewer = "–" if np.isnan(p.fewer_tokens) else f"{p.fewer_tokens:.0f}"
        rows.append(
            {
                "checkpoint": t.checkpoint.name,
                "CETT": f"{p.parameter:.2f}",
                "perplexity ratio": f"{p.ppl_ratio:.4f} ± {p.ppl_ratio_se:.4f}",
                "exp(KL)": f"{p.exp_kl:.4f} ± {p.exp_kl_se:.4f}",
                "times fewer tokens": fewer,
            }
        )
    return pd.DataFrame(rows)


def checks(
    suite: Suite,
    tradeoffs: Sequence[Tradeoff],
    advantage: pd.DataFrame,
    violations: pd.DataFrame,
    corpora: pd.DataFrame | None,
) -> list[Check]:
    """The verdicts, each by a rule stated in its ``why``."""
    return [
        _pareto(suite, advantage),
        _zeros(suite, tradeoffs),
        *_monotone(suite, violations),
        _corpora(suite, corpora),
    ]


def _pareto(suite: Suite, advantage: pd.DataFrame) -> Check:
    rivals = advantage[advantage["rule"].isin(PAPER_RIVALS)]
    better = rivals["low"] > 0
    worst = rivals.loc[rivals["least_z"].idxmin()]
    value = (
        f"area above CETT is surely positive in {int(better.sum())} of {len(rivals)} comparisons; mean excess of "
        f"perplexity {rivals['mean_pct'].min():.1f} to {rivals['mean_pct'].max():.1f} percent; nearest: "
        f"{worst['rule']} on {worst['checkpoint']}, {worst['least_pct']:.2f} percent ({worst['least_z']:.1f} s.e.)"
    )
    holds = bool(better.all() and worst["least_z"] > -SURE)
    why = (
        "holds if each 90 % interval of the area between Top-k or FAT-ε and CETT lies above zero and neither is ahead "
        "of CETT anywhere by more than three standard errors; straightforward ReLU is the end of all curves"
    )
    return Check("C01", suite.evidence, value, holds, why)


def _zeros(suite: Suite, tradeoffs: Sequence[Tradeoff]) -> Check:
    relu = [t for t in tradeoffs if (t.points["rule"] == ZEROS).any()]
    if not relu or any(t.found is None or not t.found.target_met or t.found.activation_interval is None for t in relu):
        return Check("C03", suite.evidence, "–", None, "needs a model with exact zeros and text enough for an interval")
    parts = []
    for t in relu:
        cut, *ends = (1 - x / t.unpruned for x in (t.one_percent.activation_ratio, *reversed(_ends(t))))
        parts.append(f"{t.checkpoint.name} {100 * cut:.0f} ({100 * ends[0]:.0f} to {100 * ends[1]:.0f}) percent")
    holds = all(_ends(t)[1] < t.unpruned for t in relu)
    why = "holds if each whole 90 % interval at p = 1 % lies below the share of nonzero neurons; the size is not judged"
    return Check("C03", suite.evidence, "; ".join(parts), holds, why)


def _monotone(suite: Suite, v: pd.DataFrame) -> list[Check]:
    worst = v.loc[v["ppl_fall_pct"].idxmax()]
    fall = (
        f"largest fall {worst['ppl_fall_pct']:.2f} ± {worst['ppl_fall_se_pct']:.2f} percent ({worst['checkpoint']})"
        if worst["ppl_fall_pct"] > 0
        else f"no fall between the {len(CETT_GRID)} values of CETT"
    )
    sure = bool((v["ppl_fall_pct"] <= SURE * v["ppl_fall_se_pct"]).all())
    rise, cett = float(v["activation_rise"].max()), float(v["cett_fall"].max())
    return [
        Check("C15", suite.evidence, fall, sure, "holds if no fall is larger than three standard errors"),
        Check("C16", suite.evidence, f"largest rise {100 * rise:.2f} points", rise == 0, "holds if there is no rise"),
        Check(
            "C17",
            suite.evidence,
            f"largest fall of a layer's mean CETT {cett:.4f}; on {100 * v['falling_tokens'].max():.1f} percent of "
            "single tokens and layers at most it does fall, by more than 0.01",
            cett < NO_FALL,
            "holds if the mean over tokens, which the search uses, never falls; weak vectors of one token can cancel",
        ),
    ]


def _corpora(suite: Suite, table: pd.DataFrame | None) -> Check:
    if table is None or table["found_on"].nunique() < 2:
        return Check("C81", suite.evidence, "–", None, "needs thresholds found on two corpora or more")
    parts, sure = [], []
    for name, rows in table.groupby("checkpoint", sort=False):
        away, own = rows[rows["found_on"] != rows["judged_on"]], rows[rows["found_on"] == rows["judged_on"]]
        rise = 100 * (away["ppl_ratio"] - 1)
        sure.append(bool((((away["ppl_ratio"] - 1.01) / away["ppl_ratio_se"]).abs() > SURE).any()))
        active = 100 * own["activation_ratio"]
        parts.append(
            f"{name}: rise of {rise.min():.1f} to {rise.max():.1f} percent elsewhere, "
            f"{active.min():.1f} to {active.max():.1f} percent active at home"
        )
    why = "holds if in each model thresholds for 1 % on one corpus miss 1 % on another by over three standard errors"
    return Check("C81", suite.evidence, "; ".join(parts), all(sure), why)
