"""The rules by which the notebooks on the laws judge the paper's claims: tables in, rows for ``paper.check`` out.

Each rule stands in the row's ``why``, so that a reader can disagree with it; no verdict is written by hand.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy import stats

from .. import laws
from ..paper import NOT_YET, Check, claims
from . import law_tables

LIMIT_CLAIMS = {
    f"{scale}-{activation}": f"C{first + i}"
    for activation, first in (("relu", 23), ("silu", 28))
    for i, scale in enumerate(("0.1b", "0.2b", "0.4b", "0.8b", "1.2b"))
} | {"2.4b-relu": "C58"}
COEFFICIENT_CLAIMS = {"alpha": "C55", "b": "C56", "c": "C57"}
LAW = "the paper's law"
FAR = 3.0  # "far sparser": at least three times fewer neurons
LEAST_SCALES = 4  # of the ladder, for an order over scales to count
EARLY = 0.1  # share of a run's tokens that counts as early
CLOSE_PP = 3.0  # percentage points; the widest spread of limits within one activation that the paper calls weak
LARGEST = "2.4b-relu"
CONVENTION = "Sparsity is one minus the activation ratio, so its slope has the other sign."


def table_2_checks(table: pd.DataFrame, limits: pd.DataFrame) -> list[Check]:
    """Printed limits (C23 to C32, C58, C59) and the 2.4B law's coefficients (C55 to C57): within 1 % of the refit?

    Not testable where the published points do not fix the run's limit (``limits`` of ``law_tables.limits``).
    """
    fixed = limits.set_index("run").identified
    rows = []
    for r in table.itertuples():
        why = f"Rule: refit within 1 % of the printed value, at the drop nearest to the printed row ({r.drop})."
        if not fixed[r.run]:
            why = "Rule: not testable, since the published points, a part of the run, do not fix its limit."
        verdict = bool(r.back) if fixed[r.run] else None
        if r.coefficient == "a0":
            rows.append(Check(LIMIT_CLAIMS[r.run], "paper", f"{100 * r.refit:.2f} percent", verdict, why))
        if r.run == LARGEST:
            claim = COEFFICIENT_CLAIMS.get(r.coefficient, "C59")
            value = f"{100 * (1 - r.refit):.2f} percent" if claim == "C59" else f"{r.refit:.3g}"
            rows.append(Check(claim, "paper", value, verdict, why))
    return sorted(rows)


def _moved(trend: pd.DataFrame) -> pd.Series:
    """For each run, by how much its last third lies above its first third, in activation ratio: from the points."""

    def change(ratio: pd.Series) -> float:
        third = len(ratio) // 3
        return float(ratio.iloc[-third:].mean() - ratio.iloc[:third].mean())

    return trend.sort_values("tokens").groupby("run").activation_ratio.apply(change)


def law_checks(hold_out: pd.DataFrame, trend: pd.DataFrame, chosen: Mapping[str, laws.Fit]) -> list[Check]:
    """The laws' form: C18 and C19, do they move the right way and predict the last third best; C54, the fit to 2.4B."""
    rows = []
    labels = trend.drop_duplicates("run").set_index("run")[["evidence", "activation", "scale"]]
    table = hold_out.join(labels, on="run")
    small = table.run != LARGEST
    groups = {("C18", "relu"): small, ("C19", "silu"): small}
    for (claim, activation), mask in groups.items():
        for evidence, part in table[mask & (table.activation == activation)].groupby("evidence", sort=True):
            wide = part.pivot(index="run", columns="law", values="mae_ahead")
            mean = wide.mean().sort_values()
            wins, best = int((wide.idxmin(axis=1) == LAW).sum()), mean.index[0]
            runs = wide.index
            direction = (np.sign(_moved(trend)[runs]) == (-1 if activation == "relu" else 1)).all()
            law, next_best = 100 * mean[LAW], 100 * mean.drop(LAW).iloc[0]
            value = f"best of 5 on {wins} of {len(runs)} runs; error {law:.3f} pp, best rival's {next_best:.3f} pp"
            why = "Rule: every run's points move the right way, and the law errs least on the last third, in the mean."
            rows.append(Check(claim, str(evidence), value, bool(direction and best == LAW), why))
    if LARGEST in chosen:
        mae = {run: 100 * f.mae for run, f in chosen.items() if f.kind == "relu" and labels.evidence[run] == "paper"}
        largest, others = mae.pop(LARGEST), max(mae.values())
        why = "Rule: mean absolute error of the fit no larger than on the worst of the smaller ReLU runs."
        value = f"{largest:.3f} pp (smaller runs up to {others:.3f})"
        rows.append(Check("C54", "paper", value, largest <= others, why))
    return rows


def activation_checks(limits: pd.DataFrame) -> list[Check]:
    """C21: at equal scale, do ReLU models keep at least three times fewer neurons active in the limit?"""
    rows = []
    for evidence, part in limits[limits.seed == 1].groupby("evidence", sort=True):
        wide = part.pivot(index="scale", columns="activation", values="a0")
        if {"relu", "silu"} <= set(wide.columns) and len(wide := wide.dropna()):
            ratio = wide.silu / wide.relu
            value = f"SiLU limit {ratio.min():.1f} to {ratio.max():.1f} times ReLU's, {len(wide)} scales"
            rows.append(
                Check(
                    "C21",
                    str(evidence),
                    value,
                    bool((ratio >= FAR).all()),
                    f"Rule: {FAR:g} times or more at every scale.",
                )
            )
    return rows


def order_checks(printed: pd.DataFrame, chosen: Mapping[str, laws.Fit]) -> list[Check]:
    """C33: does ReLU's alpha grow and c shrink at every step of scale? Printed rows, and our own choice of drops.

    The ladder's rungs are the paper's, a thousandth of the size; it needs as many as make three steps.
    """
    relu = printed[printed.activation == "relu"]
    as_printed = bool((np.diff(relu.alpha) > 0).all() and (np.diff(relu.c) < 0).all())
    rows = []
    for evidence, unit in (("paper", "b"), ("ladder", "m")):
        names = [f"{scale.lower().rstrip('b')}{unit}-relu" for scale in relu.scale]
        ours = [chosen[name] for name in names if name in chosen]
        if not ours:
            continue
        alphas = np.array([f.alpha for f in ours])
        holds = bool((np.diff(alphas) > 0).all() and (np.diff([f.c for f in ours]) < 0).all())
        why = f"Rule: both strict at every step, our drops. In the printed rows: {'so' if as_printed else 'not so'}."
        if evidence == "ladder":
            why = f"Rule: both strict at every step, our drops; needs {LEAST_SCALES} scales."
        verdict = NOT_YET if len(ours) < LEAST_SCALES else holds
        rows.append(Check("C33", evidence, "alpha " + ", ".join(f"{a:.2f}" for a in alphas), verdict, why))
    return rows


def same_fit_check(fits: Mapping[str, laws.Fit]) -> list[Check]:
    """C20: fit 1 - A with the mirrored law; the residuals' size can only differ if the scale of the fit matters."""
    worst = max(
        abs(np.abs((1 - f.activation_ratio) - (1 - f.predict(f.tokens))).mean() / f.mae - 1) for f in fits.values()
    )
    why = "S = 1 - A and the limit is free, so least squares gives both the same residuals, to rounding."
    return [Check("C20", "paper", "no difference", None if worst < 1e-6 else True, why)]


def scale_checks(slopes: pd.DataFrame, limits: pd.DataFrame) -> list[Check]:
    """C41 (weak dependence on scale), C42 and C43 (fall of SiLU's limit, rise of ReLU's).

    Where two or more seeds of a scale are measured, a wide span counts against C41 only if it is more than the seeds
    alone would give (``law_tables.chance_range``).
    """
    rows = []
    for r in slopes.itertuples():
        part = limits[(limits.evidence == r.evidence) & (limits.activation == r.activation)]
        trend = "not told apart from none" if r.low_pp <= 0 <= r.high_pp else "told apart from none"
        span = f"{r.activation}: limits span {r.range_pp:.2f} pp"
        value = f"{span}; slope {r.slope_pp:+.2f} ({r.low_pp:+.2f} to {r.high_pp:+.2f}) pp a doubling"
        chance = law_tables.chance_range(part[part.identified.astype(bool)])
        why = f"Rule: limits span at most {CLOSE_PP:g} pp, since the paper calls its 2.7 weak. Trend {trend} at 90 %."
        verdict = True if r.range_pp <= CLOSE_PP else None if r.range_pp <= 100 * chance[0] else False
        rows.append(Check("C41", r.evidence, value, verdict, f"{why} {_seed_words(*chance)}"))
        ends = part.drop_duplicates("scale").set_index("scale")
        smallest, largest = (next((s for s in ends.index if s.startswith(rung)), None) for rung in ("0.1", "1.2"))
        if smallest and largest:
            first, last = (part[part.scale == scale].iloc[0] for scale in (smallest, largest))
            rows.append(_end_check(r.evidence, r.activation, first, last, chance[1]))
    there = {(row.id, row.evidence) for row in rows}
    for evidence in limits.evidence.unique():
        why = "Rule: the 90 % interval of the change from the smallest to the largest scale; needs both, limits fixed."
        rows += [
            Check(claim, str(evidence), f"{activation}: an end of the scales is missing", NOT_YET, why)
            for claim, activation in (("C42", "silu"), ("C43", "relu"))
            if (claim, evidence) not in there
        ]
    return rows


def _seed_words(chance: float, deviation: float, seeds: int) -> str:
    """A sentence on the spread between seeds, from ``law_tables.chance_range``."""
    if np.isnan(chance):
        return "The spread between seeds is not measured."
    text = f"Standard deviation between seeds ({seeds} runs) {100 * deviation:.2f} pp: they alone could give a span of"
    return f"{text} {100 * chance:.2f} pp (95 %); a span over {CLOSE_PP:g} pp counts only beyond that."


def _end_check(evidence: str, activation: str, small: pd.Series, large: pd.Series, deviation: float) -> Check:
    """C42 or C43: the limit's change from the smallest to the largest scale.

    Its interval comes from those of both limits and from the ``deviation`` between seeds, where that is known.
    """
    claim, sign = ("C43", 1) if activation == "relu" else ("C42", -1)
    printed = sign * float(claims().set_index("id").paper_value[claim])
    change, seeds = float(large.a0 - small.a0), 1.645 * np.sqrt(2) * float(np.nan_to_num(deviation))
    low = 100 * (change - float(np.linalg.norm([large.a0 - large.low, small.high - small.a0, seeds])))
    high = 100 * (change + float(np.linalg.norm([large.high - large.a0, small.a0 - small.low, seeds])))
    rule = "Rule: the 90 % interval lies on the claimed side of zero"
    why = f"{rule}{f' and holds the printed {printed:+g}' if evidence == 'paper' else ''}. {CONVENTION}"
    holds = (low > 0 if sign > 0 else high < 0) and (evidence != "paper" or low <= printed <= high)
    value = f"{100 * change:+.2f} ({low:+.2f} to {high:+.2f}) points of activation ratio"
    return Check(claim, evidence, value, bool(holds), why)


def largest_check(limits: pd.DataFrame) -> list[Check]:
    """C61: does the 2.4B limit lie within the range of the smaller ReLU limits, and do the points fix it?"""
    relu = limits[(limits.evidence == "paper") & (limits.activation == "relu")].set_index("scale")
    big, rest = relu.loc["2.4B"], relu.drop("2.4B")
    spread = f"{100 * rest.a0.min():.2f} to {100 * rest.a0.max():.2f}"
    value = f"{100 * big.a0:.2f} ({100 * big.low:.2f} to {100 * big.high:.2f}) percent; the others {spread}"
    inside = bool(rest.a0.min() <= big.a0 <= rest.a0.max())
    why = "Rule: inside the range of the others; not testable where the published points do not fix the limit."
    return [Check("C61", "paper", value, inside if big.identified else None, why)]


def derivative_checks(order: Mapping[str, pd.DataFrame], trend: pd.DataFrame) -> list[Check]:
    """C44 (smaller models approach faster) and C45 (sign of the slopes, from the points), for each evidence."""
    rows = []
    for evidence, table in order.items():
        share = float(table.pairs_in_order.mean())
        why = "Rule: larger for the smaller of two neighbouring scales in 95 % of comparisons."
        if not np.isnan(share):
            rows.append(Check("C44", evidence, f"{share:.0%} of comparisons in order", share >= 0.95, why))
        part = trend[trend.evidence == evidence]
        moved, kind = _moved(part), part.drop_duplicates("run").set_index("run").activation
        right = np.sign(moved) == kind[moved.index].map({"relu": -1, "silu": 1})
        why = (
            f"Rule: from first to last third, ReLU's activation ratio falls and SiLU's rises in every run. {CONVENTION}"
        )
        rows.append(Check("C45", evidence, f"so in {right.sum()} of {len(right)} runs", bool(right.all()), why))
    return rows


def loss_checks(losses: pd.DataFrame) -> list[Check]:
    """C67 (larger models, lower loss) and C68 (ReLU's and SiLU's comparable), from the ladder's losses at the end."""
    if losses.empty:
        return []
    wide = losses[losses.seed == 1].pivot(index="scale", columns="activation", values="final").sort_index()
    if len(wide) < 2:
        order = Check("C67", "ladder", f"{len(wide)} scales trained so far", NOT_YET, "Rule: needs two scales or more.")
    else:
        falls = all((np.diff(wide[a].dropna()) < 0).all() for a in wide)
        order = Check(
            "C67",
            "ladder",
            f"{len(wide)} scales",
            falls,
            "Rule: loss at the end of training falls at every step of scale.",
        )
    if not {"relu", "silu"} <= set(wide) or wide.dropna().empty:
        return [order, Check("C68", "ladder", "no pair trained so far", NOT_YET, "Rule: needs one scale with both.")]
    gap = 100 * (wide.relu / wide.silu - 1).abs().max()
    limit = losses[losses.seed == 1].pivot(index="scale", columns="activation", values="limit")
    apart = (limit.relu - limit.silu).abs().max()
    value = f"training losses at the end differ by {gap:.1f} % at most; extrapolated limits by up to {apart:.2f} nats"
    why = "Rule: losses at the end differ by less than 2 % at every scale with both; limits are only loosely fixed."
    return [order, Check("C68", "ladder", value, bool(gap < 2), why)]


def settling_check(activation: pd.DataFrame, loss: pd.DataFrame) -> list[Check]:
    """C52: after which share of the run each stays within 10 % of its total change; needs both for a run."""
    both = activation.merge(loss, on="run", suffixes=("_activation", "_loss"))
    if both.empty:
        return []
    later = float((both.settled_share_activation > both.settled_share_loss).mean())
    mine, other = both.settled_share_activation.median(), both.settled_share_loss.median()
    value = f"settled after {mine:.0%} of the run (loss: {other:.0%}), median of {len(both)}"
    why = "Rule: activation ratio settles (within 10 % of its total change) later than the loss on 80 % of the runs."
    return [Check("C52", "ladder", value, later >= 0.8, why)]


def fluctuation_check(raw: pd.DataFrame, shared: pd.DataFrame) -> list[Check]:
    """C80: early in training, does the activation ratio jump more with CETT searched anew than with one shared CETT?

    ``raw`` is ``trends.trajectory`` of the ratio at each checkpoint's own CETT, ``shared`` is ``trends.activation``. A
    checkpoint's jump is its distance from the mean of its two neighbours; over the first tenth of a run's tokens, and
    over the rest, jumps are taken together by root mean square.
    """
    size = {}
    for run, part in shared.groupby("run"):
        both = part.merge(raw[raw.run == run][["tokens", "value"]], on="tokens").sort_values("tokens")
        if len(both) > 2:
            y = 100 * both[["value", "activation_ratio"]].to_numpy(float)
            jump = (y[1:-1] - (y[:-2] + y[2:]) / 2) ** 2
            early = both.tokens.to_numpy()[1:-1] <= EARLY * both.tokens.max()
            if early.any() and not early.all():
                size[run] = np.sqrt([*jump[early].mean(axis=0), jump[~early, 0].mean()])
    if len(size) < 2:
        return []
    own, other, later = np.array(list(size.values())).T
    over = {"those at the shared CETT": own / other, "its own later": own / later}
    ends = {name: _geometric(ratio) for name, ratio in over.items()}
    text = "; ".join(f"{mid:.1f} ({low:.1f} to {high:.1f}) times {name}" for name, (mid, low, high) in ends.items())
    verdict = True if all(low > 1 for _, low, _ in ends.values()) else None
    if any(high < 1 for _, _, high in ends.values()):
        verdict = False
    why = (
        f"Rule: over the first {EARLY:.0%} of the tokens, jumps of the ratio at each checkpoint's own CETT are larger "
        f"than at the shared CETT, and than later; 90 % intervals of the mean ratio over {len(size)} runs above 1."
    )
    value = f"raw jumps early {own.min():.1f} to {own.max():.1f} pp; {text}"
    return [Check("C80", "ladder", value, verdict, why)]


def _geometric(ratios: np.ndarray) -> tuple[float, float, float]:
    """Geometric mean of ratios and its 90 % interval (Student's t)."""
    logs = np.log(ratios)
    half = stats.t.ppf(0.95, len(logs) - 1) * logs.std(ddof=1) / np.sqrt(len(logs))
    mean, low, high = np.exp([logs.mean(), logs.mean() - half, logs.mean() + half])
    return float(mean), float(low), float(high)


def forecast_checks(table: pd.DataFrame) -> list[Check]:
    """C53: do the laws foretell the end of a run? For each evidence and share seen, is the hit rate that of 90 %?"""
    rows = []
    for (evidence, share), part in table.groupby(["evidence", "share"], sort=True):
        hits, runs, error = int(part.inside.sum()), len(part), 100 * float(part.error.abs().median())
        chance = float(stats.binom.cdf(hits, runs, 0.9))
        value = f"from {share:.0%} of the run: {hits} of {runs} ends inside, median error {error:.2f} pp"
        why = f"Rule: so few hits are not rarer than 1 in 20 at 90 % each (here {chance:.2f}); 5 runs or more."
        rows.append(Check("C53", str(evidence), value, chance >= 0.05 if runs >= 5 else NOT_YET, why))
    return rows


def tokens_check(trend: pd.DataFrame) -> list[Check]:
    """C60: training tokens of the 2.4B model; the published points end long before."""
    ends = trend[trend.run == LARGEST].tokens.max()
    if np.isnan(ends):
        return []
    why = "Rule: testable if the published points reach 90 % of the printed tokens."
    return [Check("C60", "paper", f"{ends:.1e} tokens at the last point", True if ends > 0.9 * 8e11 else None, why)]
