"""The rules by which the notebooks on the laws judge the paper's claims: tables in, rows for ``paper.check`` out.

Each rule stands in the row's ``why``, so that a reader can disagree with it; no verdict is written by hand.
"""

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import pandas as pd
from scipy import optimize, stats

from ...laws import fitting as laws
from ...paper.published import NOT_YET, VERDICTS, Check, old_claims
from . import limits as law_tables
from . import scales as scaling_tables
from . import trends

LIMIT_CLAIMS = {
    f"{scale}-{activation}": f"C{first + i}"
    for activation, first in (("relu", 23), ("silu", 28))
    for i, scale in enumerate(("0.1b", "0.2b", "0.4b", "0.8b", "1.2b"))
} | {"2.4b-relu": "C58"}
COEFFICIENT_CLAIMS = {"alpha": "C55", "b": "C56", "c": "C57"}
LAW = "the paper's law"
LEAST_SCALES = 3  # for an order or a trend over scales to hold; what contradicts it counts at any number
LEAST_RUNS = 5  # for a share of runs to hold
ENOUGH_HITS = 0.8  # share of runs on which something is so, from which it may be said of runs
SAME = 0.01  # two fits whose errors differ by less than this share are equally good
EARLY = 0.1  # share of a run's tokens that counts as early
LARGEST = "2.4b-relu"
Z = float(stats.norm.ppf(0.95))  # half width of a 90 % interval, in standard errors


def table_2_checks(table: pd.DataFrame, limits: pd.DataFrame) -> list[Check]:
    """Printed limits (C23 to C32, C58, C59) and the 2.4B law's coefficients (C55 to C57): within 1 % of the refit?

    Not testable where the published points do not fix the run's limit (``limits`` of ``law_tables.limits``).
    """
    fixed = limits.set_index("run").identified
    rows = []
    for r in table.itertuples():
        why = (
            f"Rule: refit within 1 % of the printed value, at the drop nearest to the printed row ({r.drop}). Whether "
        )
        why += "the row comes back, not how sure it is."
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


def printed(claim: str) -> float:
    """The number that the paper prints for a claim."""
    return float(old_claims().set_index("id").paper_value[claim])


def lacking(evidence: str, activation: str, runs: Iterable[str]) -> str | None:
    """The verdict where too little is there: NOT_YET while a run of the ladder is still to be measured, else None."""
    wanted = [run for run in trends.LADDER_RUNS if run.endswith(f"-{activation}")]
    return NOT_YET if evidence == "ladder" and not set(wanted) <= set(runs) else None


def loose(part: pd.DataFrame) -> str:
    """Names the runs of ``limits`` whose points do not fix their limit; "" if there are none."""
    runs = part.run[~part.identified.astype(bool)].tolist()
    return f"limit not fixed: {', '.join(runs)}" if runs else ""


WORDS = dict(zip((True, False, None, NOT_YET), (*VERDICTS, NOT_YET), strict=True))


def by_drops(rule: Callable[[pd.DataFrame], list[Check]], limits: pd.DataFrame) -> list[Check]:
    """The rows of ``rule`` on ``limits``, each with a verdict that does not hang on the number of dropped points.

    How many points are warm-up is a choice, so the rule is asked twice: of the limits at the chosen drop of each run,
    and of those pooled over every drop (``law_tables.over_drops``). Where the answers differ the claim is left open,
    and the row says what each was.
    """
    rows = []
    for here, every in zip(rule(limits), rule(law_tables.over_drops(limits)), strict=True):
        note = " Asked twice: of the limits at the chosen number of dropped points, and pooled over all of them."
        if here.verdict == every.verdict:
            rows.append(here._replace(why=here.why + note))
            continue
        verdict = NOT_YET if NOT_YET in (here.verdict, every.verdict) else None
        value = f"{here.our_value} [chosen drop: {WORDS[here.verdict]}; over all drops: {WORDS[every.verdict]}]"
        rows.append(here._replace(our_value=value, verdict=verdict, why=here.why + note))
    return rows


def ways(trend: pd.DataFrame) -> pd.DataFrame:
    """``scaling_tables.moved`` with ``way``: whether a run moves as the claim says, "right", "wrong" or "open".

    ReLU's activation ratio is to fall and SiLU's to rise; open is a change within its 90 % interval of zero.
    """
    table = scaling_tables.moved(trend)
    sign = trend.drop_duplicates("run").set_index("run").activation.map({"relu": -1, "silu": 1})[table.index]
    told = table.change.abs() > Z * table.error
    return table.assign(way=np.where(told, np.where(np.sign(table.change) == sign, "right", "wrong"), "open"))


def ways_text(table: pd.DataFrame) -> str:
    """A sentence on the runs of ``ways`` that do not move as the claim says."""
    words = {}
    for way in ("wrong", "open"):
        part = table[table.way == way]
        words[way] = ", ".join(f"{run} ({100 * row.change:+.2f} pp)" for run, row in part.iterrows())
    unclear = f" Not told from none at 90 %: {words['open']}." if words["open"] else ""
    return f"Wrong way: {words['wrong'] or 'none'}.{unclear}"


def law_checks(hold_out: pd.DataFrame, trend: pd.DataFrame, chosen: Mapping[str, laws.Fit]) -> list[Check]:
    """The laws' form: C18 and C19, do they move the right way and predict the last third best; C54, the fit to 2.4B."""
    rows = []
    labels = trend.drop_duplicates("run").set_index("run")[["evidence", "activation", "scale"]]
    table = hold_out.join(labels[["activation", "scale"]], on="run")
    small = table.run != LARGEST
    groups = {("C18", "relu"): small, ("C19", "silu"): small}
    for (claim, activation), mask in groups.items():
        for evidence, part in table[mask & (table.activation == activation)].groupby("evidence", sort=True):
            # Of each scale the mean over its seeds; a rival that does not converge (NaN) is not the best.
            by_scale = part.pivot_table("mae_ahead", "scale", "law", dropna=False)
            mean = by_scale.mean(skipna=False).sort_values()
            wins, best = int((by_scale.idxmin(axis=1) == LAW).sum()), mean.index[0]
            way = ways(trend[trend.run.isin(part.run)])
            law, next_best = 100 * mean[LAW], 100 * mean.drop(LAW).iloc[0]
            value = (
                f"best of {by_scale.shape[1]} on {wins} of {len(by_scale)} scales; error {law:.3f} pp, best rival's "
            )
            why = "Rule: every run's ratio moves the right way from first to last third of its tokens after warm-up, "
            why += "and the law errs least on the last third, in the mean over scales; holds from "
            why += f"{LEAST_SCALES} scales. {ways_text(way)}"
            fails = best != LAW or (way.way == "wrong").any()
            enough = len(by_scale) >= LEAST_SCALES and (way.way == "right").all()
            answer = False if fails else True if enough else lacking(str(evidence), activation, part.run)
            rows.append(Check(claim, str(evidence), f"{value}{next_best:.3f} pp", answer, why))
    if LARGEST in chosen:
        mae = {run: 100 * f.mae for run, f in chosen.items() if f.kind == "relu" and labels.evidence[run] == "paper"}
        largest, others = mae.pop(LARGEST), max(mae.values())
        why = "Rule: mean absolute error of the fit no larger than on the worst of the smaller ReLU runs."
        value = f"{largest:.3f} pp (smaller runs up to {others:.3f})"
        rows.append(Check("C54", "paper", value, largest <= others, why))
    return rows


def _steps(fits: list[laws.Fit], name: str, sign: int) -> tuple[bool, bool]:
    """Of a positive coefficient over scales: does every step go ``sign``'s way, and does one clearly go the other way?

    Clearly is by the standard errors of its logarithm, 90 %.
    """
    logs = np.log([fit[name] for fit in fits])
    errors = np.array([fit.standard_errors[name] / fit[name] for fit in fits])
    steps = sign * np.diff(logs)
    return bool((steps > 0).all()), bool((steps < -Z * np.hypot(errors[1:], errors[:-1])).any())


def order_checks(table: pd.DataFrame, chosen: Mapping[str, laws.Fit], limits: pd.DataFrame) -> list[Check]:
    """C33: does ReLU's alpha grow and c shrink at every step of scale? Printed rows, and our own choice of drops.

    ``table`` is the paper's Table 2. Fits whose limit the points do not fix are left out.
    """
    relu = table[table.activation == "relu"]
    as_printed = bool((np.diff(relu.alpha) > 0).all() and (np.diff(relu.c) < 0).all())
    rows = []
    why = f"Rule: at every step, coefficients at our drops; holds from {LEAST_SCALES} scales with all limits fixed, "
    why += "fails where a step goes clearly the other way (90 %)."
    for evidence, unit in (("paper", "b"), ("ladder", "m")):
        names = [f"{scale.lower().rstrip('b')}{unit}-relu" for scale in relu.scale]
        part = limits[limits.run.isin(names)]
        fixed = set(part.run[part.identified.astype(bool)])
        ours = [chosen[name] for name in names if name in fixed]
        if part.empty:
            continue
        left_out = loose(part)
        grows, shrinks = _steps(ours, "alpha", 1), _steps(ours, "c", -1)
        in_order, against = grows[0] and shrinks[0], grows[1] or shrinks[1]
        enough = len(ours) >= LEAST_SCALES and not left_out
        verdict = False if against else True if enough and in_order else lacking(evidence, "relu", part.run)
        value = "alpha " + ", ".join(f"{f.alpha:.2f}" for f in ours) + (f"; {left_out}" if left_out else "")
        note = f" In the printed rows: {'so' if as_printed else 'not so'}." if evidence == "paper" else ""
        rows.append(Check("C33", evidence, value, verdict, why + note))
    return rows


def mirrored(fit: laws.Fit) -> tuple[float, float]:
    """Mean squared errors of one plain fit to the activation ratio and of its mirrored law to sparsity, 1 - A.

    Both start where the points suggest without a fit: the limit at the last point, alpha at 1.
    """
    d, y = fit.tokens / fit.tokens.mean(), fit.activation_ratio
    size = float(np.ptp(y))

    def curve(p: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            return np.exp(p[1] - np.exp(p[2]) * d ** p[0]) if fit.kind == "relu" else -np.exp(p[1]) * d ** -p[0]

    def error(values: np.ndarray, sign: int) -> float:
        start = [1.0, np.log(size), 0.0, values[-1]] if fit.kind == "relu" else [1.0, np.log(size), values[-1]]
        found = optimize.least_squares(lambda p: p[-1] + sign * curve(p) - values, start, x_scale="jac")
        return float((found.fun**2).mean())

    return error(y, 1), error(1 - y, -1)


def same_fit_check(chosen: Mapping[str, laws.Fit], limits: pd.DataFrame) -> list[Check]:
    """C20: is the activation ratio easier to fit than sparsity? Both fitted by the same solver from mirrored starts.

    ``limits`` says which runs there are of each kind of evidence.
    """
    rows = []
    why = f"Rule: more error by {SAME:.0%} on most runs. S = 1 - A and the limit is free, so least squares cannot tell."
    for evidence, part in limits.groupby("evidence", sort=True):
        errors = np.array([mirrored(chosen[run]) for run in part.run])
        worse = int((errors[:, 1] > (1 + SAME) * errors[:, 0]).sum())
        value = f"sparsity's fit leaves more error on {worse} of {len(errors)} runs"
        rows.append(Check("C20", str(evidence), value, worse > len(errors) / 2, why))
    return rows


def settling_check(settled: pd.DataFrame) -> list[Check]:
    """C52: after which share of the run each stays within 10 % of its total change; of ``scaling_tables.settled``."""
    if settled.empty:
        return []
    apart = settled.settled_share - settled.settled_share_loss
    later, runs = int((apart > 0).sum()), len(settled)
    mine, other = settled.settled_share.median(), settled.settled_share_loss.median()
    value = f"later than the loss in {later} of {runs} runs, together in {(apart == 0).sum()}; "
    value += f"settled after {mine:.0%} (loss: {other:.0%})"
    chance = float(stats.binom.cdf(later, runs, ENOUGH_HITS))
    why = "Rule: after warm-up, by ratio and loss of the same checkpoints on the same held-out text, the activation "
    why += f"ratio settles (within 10 % of its total change) later than the loss on {ENOUGH_HITS:.0%} of the runs, of "
    why += f"{LEAST_RUNS} or more; fails where so few are rarer than 1 in 20 at that share (here {chance:.2f})."
    answer = False if chance < 0.05 else NOT_YET if runs < LEAST_RUNS else True if later >= ENOUGH_HITS * runs else None
    return [Check("C52", "ladder", value, answer, why)]


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
    """C53: do the laws foretell the end of a run, and the tokens for a level? Is the hit rate that of 90 % intervals?

    For each evidence and share seen the end; for the largest share the tokens at which the level of the end is reached.
    """
    rows = []
    for (evidence, share), part in table.groupby(["evidence", "share"], sort=True):
        start, error = f"from {share:.0%} of the run:", 100 * float(part.error.abs().median())
        words = f"ends inside, median error {error:.2f} pp"
        rule = "Tested for the end of the run only, not for the limit."
        rows.append(_hit_check(str(evidence), (start, words), part.inside, rule))
        if share == table.share.max():
            rule = "Tested for the level that the end of the run reached."
            rows.append(_hit_check(str(evidence), (start, "hold the tokens for a level"), part.tokens_inside, rule))
    return rows


def _hit_check(evidence: str, words: tuple[str, str], hits: pd.Series, rule: str) -> Check:
    """C53 by one kind of interval; ``words`` stand around the count."""
    count, runs = int(hits.sum()), len(hits)
    chance = float(stats.binom.cdf(count, runs, 0.9))
    why = f"Rule: fails where so few hits are rarer than 1 in 20 at 90 % each (here {chance:.2f}); holds from "
    why += f"{ENOUGH_HITS:.0%} hits on {LEAST_RUNS} runs; open between."
    verdict = (
        False if chance < 0.05 else NOT_YET if runs < LEAST_RUNS else True if count >= ENOUGH_HITS * runs else None
    )
    return Check("C53", evidence, f"{words[0]} {count} of {runs} {words[1]}", verdict, f"{why} {rule}")


def tokens_check(trend: pd.DataFrame) -> list[Check]:
    """C60: training tokens of the 2.4B model; the published points end long before."""
    ends = trend[trend.run == LARGEST].tokens.max()
    if np.isnan(ends):
        return []
    share = float(ends) / printed("C60")
    why = "Rule: the last point lies within 10 % of the printed tokens; not testable while the points end before that."
    return [Check("C60", "paper", f"{ends:.1e} tokens at the last point", share <= 1.1 if share >= 0.9 else None, why)]
