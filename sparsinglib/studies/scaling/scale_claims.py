"""The rules by which notebooks 02 and 04 judge changes from scale to scale: tables in, ``paper.check`` rows out."""

import numpy as np
import pandas as pd

from ...paper.published import NOT_YET, Check
from . import scales as scaling_tables
from .claims import LEAST_SCALES, Z, lacking, loose, printed, ways, ways_text

COMPARABLE = 0.02  # losses that differ by less than this share of SiLU's are comparable
CLOSE_PP = 3.0  # percentage points; the widest spread of limits within one activation that the paper calls weak
CONVENTION = "Sparsity is one minus the activation ratio, so its slope has the other sign."
_END_RULE = (
    "Rule: the 90 % interval of the change from 0.1 to 1.2 lies on the claimed side of zero (fails on the other "
)
_END_RULE += "side, open where it holds zero); both limits fixed"


def activation_checks(limits: pd.DataFrame) -> list[Check]:
    """C21: at equal scale, is ReLU's limit below SiLU's, 90 % intervals apart? How far below is in the value.

    By the intervals pooled over all numbers of dropped points (``pooled_low``, ``pooled_high``). The laws put a limit
    beyond where its run ends, so where limits are open this compares the ends, which is what the claim asks.
    """
    rows = []
    why = (
        "Rule: SiLU's interval lies above ReLU's at every scale with both, pooled over all numbers of dropped points; "
    )
    why += (
        f"holds from {LEAST_SCALES} scales, fails where one lies below. Where limits are open this compares where the "
    )
    why += "runs end. The ratio is of fixed limits."
    for evidence, part in limits[limits.seed == 1].groupby("evidence", sort=True):
        relu, silu = (part[part.activation == kind].set_index("scale") for kind in ("relu", "silu"))
        both = relu.join(silu, lsuffix="_relu", rsuffix="_silu", how="inner")
        if both.empty:
            rows.append(
                Check("C21", str(evidence), "no scale with both", lacking(str(evidence), "silu", part.run), why)
            )
            continue
        above = both.pooled_low_silu > both.pooled_high_relu
        below = both.pooled_high_silu < both.pooled_low_relu
        fixed = both[(both.state_relu == "fixed") & (both.state_silu == "fixed")]
        ratio = fixed.a0_silu / fixed.a0_relu
        text = f"SiLU's above ReLU's at {above.sum()} of {len(both)} scales; "
        times = f"{ratio.min():.1f} to {ratio.max():.1f} times ReLU's where both are fixed ({len(fixed)})"
        text += times if len(fixed) else "both fixed at none"
        open_verdict = lacking(str(evidence), "silu", part.run)
        verdict = False if below.any() else True if above.all() and len(both) >= LEAST_SCALES else open_verdict
        rows.append(Check("C21", str(evidence), text, verdict, why))
    return rows


def scale_checks(limits: pd.DataFrame, params: pd.Series) -> list[Check]:
    """C41 (weak dependence on scale), C42 and C43 (fall of SiLU's limit, rise of ReLU's).

    Only limits that the points fix count; the others are named. ``params`` maps scale to a parameter count. Where two
    or more seeds of a scale are measured, a wide span counts against C41 only if it is more than the seeds alone would
    give (``scaling_tables.chance_range``).
    """
    rows, slopes = [], scaling_tables.slopes(limits[limits.identified.astype(bool)], params)
    for (evidence, activation), part in limits.groupby(["evidence", "activation"], sort=True):
        fixed = part[part.identified.astype(bool)]
        own = slopes[(slopes.evidence == evidence) & (slopes.activation == activation)]
        chance = scaling_tables.chance_range(fixed)
        rows.append(_weak_check(own, part, chance))
        rows.append(_end_check(part, chance[1]))
    there = set(zip(limits.evidence, limits.activation, strict=True))
    for evidence in limits.evidence.unique():
        for activation in {"relu", "silu"} - {kind for e, kind in there if e == evidence}:
            claim = "C43" if activation == "relu" else "C42"
            text = f"{activation}: an end of the scales is missing"
            rows.append(Check(claim, str(evidence), text, lacking(str(evidence), activation, []), _END_RULE))
    return sorted(rows, key=lambda row: (row.id, row.evidence))


def _weak_check(slope: pd.DataFrame, part: pd.DataFrame, chance: tuple[float, float, int]) -> Check:
    """C41 for the limits ``part`` of one evidence and activation, with its row of ``slopes``, if there is one."""
    evidence, activation, left_out = part.evidence.iloc[0], part.activation.iloc[0], loose(part)
    scales = part[part.identified.astype(bool)].scale.nunique()
    why = f"Rule: limits span at most {CLOSE_PP:g} pp, since the paper calls its {printed('C42'):g} weak; holds from "
    why += f"{LEAST_SCALES} scales."
    note = f"; {left_out}" if left_out else ""
    open_verdict = lacking(evidence, activation, part.run)
    if slope.empty:
        return Check("C41", evidence, f"{activation}: {scales} limits fixed{note}", open_verdict, why)
    r = slope.iloc[0]
    told = "not told apart from none" if r.low_pp <= 0 <= r.high_pp else "told apart from none"
    value = f"{activation}: limits of {scales} scales span {r.range_pp:.2f} pp; slope {r.slope_pp:+.2f}"
    value += f" ({r.low_pp:+.2f} to {r.high_pp:+.2f}) pp a doubling{note}"
    if r.range_pp <= CLOSE_PP:
        verdict = True if scales >= LEAST_SCALES else open_verdict
    else:
        verdict = None if r.range_pp <= 100 * chance[0] else False
    return Check("C41", evidence, value, verdict, f"{why} Trend {told} at 90 %. {_seed_words(*chance)}")


def _seed_words(chance: float, deviation: float, seeds: int) -> str:
    """A sentence on the spread between seeds, from ``scaling_tables.chance_range``."""
    if np.isnan(chance):
        return "No scale has two fixed limits, which the spread between seeds would be taken from."
    text = f"Standard deviation between seeds ({seeds} runs) {100 * deviation:.2f} pp: they alone could give a span of"
    return f"{text} {100 * chance:.2f} pp (95 %); a span over {CLOSE_PP:g} pp counts only beyond that."


def _end_check(part: pd.DataFrame, deviation: float) -> Check:
    """C42 or C43 for the limits of one evidence and activation: the change from the smallest to the largest scale.

    Its interval comes from those of both limits and from the ``deviation`` between seeds, where that is known.
    """
    evidence, activation = part.evidence.iloc[0], part.activation.iloc[0]
    claim, sign = ("C43", 1) if activation == "relu" else ("C42", -1)
    ends = [part[part.scale.str.startswith(rung)].sort_values("seed") for rung in ("0.1", "1.2")]
    if missing := [rung for rung, end in zip(("0.1", "1.2"), ends, strict=True) if end.empty]:
        text = f"{activation}: an end of the scales is missing ({', '.join(missing)})"
        return Check(claim, evidence, text, lacking(evidence, activation, part.run), f"{_END_RULE}.")
    if left_out := loose(pd.concat([end.iloc[:1] for end in ends])):
        return Check(claim, evidence, f"{activation}: {left_out}", None, f"{_END_RULE}.")
    small, large = (end.iloc[0] for end in ends)
    change, seeds = float(large.a0 - small.a0), Z * np.sqrt(2) * float(np.nan_to_num(deviation))
    low = 100 * (change - float(np.linalg.norm([max(large.a0 - large.low, 0), max(small.high - small.a0, 0), seeds])))
    high = 100 * (change + float(np.linalg.norm([max(large.high - large.a0, 0), max(small.a0 - small.low, 0), seeds])))
    told = sign * printed(claim)
    why = f"{_END_RULE}{f', and it holds the printed {told:+g}' if evidence == 'paper' else ''}. {CONVENTION}"
    right, against = (low > 0, high < 0) if sign > 0 else (high < 0, low > 0)
    verdict = False if against else None if not right else bool(evidence != "paper" or low <= told <= high)
    value = f"{100 * change:+.2f} ({low:+.2f} to {high:+.2f}) points of activation ratio"
    return Check(claim, evidence, value, verdict, why)


def largest_check(limits: pd.DataFrame) -> list[Check]:
    """C61: does the 2.4B limit lie within the range of the smaller ReLU limits, and do the points fix it?"""
    relu = limits[(limits.evidence == "paper") & (limits.activation == "relu")].set_index("scale")
    if "2.4B" not in relu.index:
        return []
    big, rest = relu.loc["2.4B"], relu.drop("2.4B").query("identified")
    spread = f"{100 * rest.a0.min():.2f} to {100 * rest.a0.max():.2f}"
    value = f"{100 * big.a0:.2f} ({100 * big.low:.2f} to {100 * big.high:.2f}) percent, {big['drop']} points dropped; "
    value += f"the others {spread}"
    inside = bool(rest.a0.min() <= big.a0 <= rest.a0.max())
    why = "Rule: inside the range of the others; not testable where the published points do not fix the limit."
    return [Check("C61", "paper", value, inside if big.identified and len(rest) else None, why)]


def derivative_checks(order: pd.DataFrame, trend: pd.DataFrame) -> list[Check]:
    """C44 (smaller models approach faster) and C45 (sign of the slopes, from the points), for each evidence.

    ``order`` is ``scaling_tables.order_by_variable``; dA/dD counts.
    """
    rows = []
    by_tokens = order[order.variable == "dA/dD"]
    for evidence, part in trend.groupby("evidence", sort=True):
        rows.append(_faster_check(str(evidence), by_tokens[by_tokens.evidence == evidence], part))
        table = ways(part)
        why = "Rule: from first to last third of the tokens after warm-up, ReLU's activation ratio falls and SiLU's "
        why += f"rises in every run. {ways_text(table)} {CONVENTION}"
        way = set(table.way)
        verdict = False if "wrong" in way else None if "open" in way else True
        rows.append(
            Check("C45", str(evidence), f"so in {(table.way == 'right').sum()} of {len(table)} runs", verdict, why)
        )
    return rows


def _faster_check(evidence: str, table: pd.DataFrame, trend: pd.DataFrame) -> Check:
    """C44 for one evidence, by the rows of ``scaling_tables.falls_with_scale``."""
    why = (
        "Rule: larger for the smaller of two scales, neighbours among those whose limits are not open, in 95 % of the "
    )
    why += (
        f"comparisons where both have points; holds from {LEAST_SCALES} scales, fails where more than 5 % clearly go "
    )
    why += "the other way (90 %, pooled over all drops)."
    open_verdict = lacking(evidence, "relu", trend.run) or lacking(evidence, "silu", trend.run)
    if table.empty:
        return Check("C44", evidence, "no two scales to compare", open_verdict, why)
    share, against = float(table.pairs_in_order.mean()), float(table.pairs_against.mean())
    parts = [f"{r.activation} {r.scales} scales at {r.low:.0f} to {r.high:.0f}" for r in table.itertuples()]
    enough = share >= 0.95 and table.scales.min() >= LEAST_SCALES
    verdict = False if against > 0.05 else True if enough else open_verdict
    value = f"{share:.0%} of comparisons in order, {table.pairs_clear.mean():.0%} clearly; {against:.0%} clearly not"
    return Check("C44", evidence, value, verdict, f"{why} Compared (tokens per parameter): {', '.join(parts)}.")


def loss_checks(losses: pd.DataFrame) -> list[Check]:
    """C67 (larger models, lower loss) and C68 (ReLU's and SiLU's comparable: at the end, and in the limit)."""
    if losses.empty:
        return []
    order = sorted(losses.scale.unique(), key=lambda scale: float(scale[:-1]))
    mean = losses.groupby(["scale", "activation"])[["final", "common"]].mean().unstack().loc[order]
    wide, level = mean["final"], mean["common"]
    rises = any((np.diff(level[a].dropna()) >= 0).any() for a in level)
    scales = int(wide.notna().sum().max())
    why = "Rule: training loss at the tokens of the shortest run falls at every step of scale; holds from "
    why += f"{LEAST_SCALES} scales. Mean over seeds."
    falls = Check("C67", "ladder", f"{scales} scales", not rises if rises or scales >= LEAST_SCALES else NOT_YET, why)
    both = wide.dropna() if {"relu", "silu"} <= set(wide) else wide.iloc[:0]
    if both.empty:
        return [falls, Check("C68", "ladder", "no pair trained so far", NOT_YET, "Rule: needs one scale with both.")]
    gap = float((both.relu / both.silu - 1).abs().max())
    value = f"losses at the end differ by {gap:.1%} at most, {len(both)} scales{_seed_gap(losses)}"
    why = f"Rule: losses at the end, mean over seeds, differ by less than {COMPARABLE:.0%} at every scale with both. "
    why += "Limits: next row."
    return [falls, Check("C68", "ladder", value, gap < COMPARABLE, why), _limit_loss_check(losses)]


def _seed_gap(losses: pd.DataFrame) -> str:
    """By how much ReLU and SiLU of one scale and seed differ at most, where a scale has several seeds; "" if none."""
    several = losses[losses.seed > 1]
    pairs = losses[losses.scale.isin(several.scale)].pivot(
        index=["scale", "seed"], columns="activation", values="final"
    )
    pairs = pairs.dropna() if {"relu", "silu"} <= set(pairs) else pairs.iloc[:0]
    return "" if pairs.empty else f"; of one seed by up to {float((pairs.relu / pairs.silu - 1).abs().max()):.1%}"


def _limit_loss_check(losses: pd.DataFrame) -> Check:
    """C68 for the limits of the loss, mean over the seeds where they are fixed: only scales with both count."""
    limits = losses[losses.fixed.astype(bool)].groupby(["scale", "activation"]).limit.mean().unstack()
    both = limits.dropna() if {"relu", "silu"} <= set(limits) else limits.iloc[:0]
    why = f"Rule: limits, mean over the seeds that fix one, differ by less than {COMPARABLE:.0%} at every scale with "
    why += "both; else not testable."
    fixed = f"{int(losses.fixed.sum())} of {len(losses)} limits of the loss fixed"
    if both.empty:
        return Check("C68", "ladder", f"{fixed}, none for both activations of a scale", None, why)
    gap = float((both.relu / both.silu - 1).abs().max())
    return Check("C68", "ladder", f"{fixed}; they differ by {gap:.1%} at most", gap < COMPARABLE, why)
