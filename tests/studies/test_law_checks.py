"""The rules on the laws against made-up data: what holds, what fails, what stays open; no shipped number is used."""

import numpy as np
import pandas as pd
import pytest

from sparsinglib import laws, paper
from sparsinglib.laws import rivals as law_rivals
from sparsinglib.paper.published import NOT_YET
from sparsinglib.studies.scaling import (
    claims as law_checks,
)
from sparsinglib.studies.scaling import (
    forecasts as law_forecasts,
)
from sparsinglib.studies.scaling import (
    limits as law_tables,
)
from sparsinglib.studies.scaling import (
    scale_claims as scale_checks,
)
from sparsinglib.studies.scaling import (
    scales as scaling_tables,
)
from sparsinglib.studies.scaling import (
    trends,
)

PARAMS = {"0.1": 1e5, "0.2": 2e5, "0.4": 4e5, "0.8": 8e5, "1.2": 1.2e6}


def one(checks, claim, evidence="ladder"):
    """The verdict of the only row of a claim, for one kind of evidence."""
    (found,) = [check for check in checks if (check.id, check.evidence) == (claim, evidence)]
    return found.verdict


def limit_rows(values, activation="relu", evidence="ladder", loose=()):
    """Limits by rung, half a tenth of a point sure, as ``law_tables.limits`` gives them."""
    unit = "m" if evidence == "ladder" else "b"
    rows = [
        {"evidence": evidence, "run": f"{rung}{unit}-{activation}", "scale": f"{rung}{unit.upper()}", "seed": 1,
         "activation": activation, "a0": a0, "low": a0 - 5e-4, "high": a0 + 5e-4, "identified": rung not in loose}
        for rung, a0 in values.items()
    ]  # fmt: skip
    table = pd.DataFrame(rows)
    state = table.identified.map({True: "fixed", False: "open"})
    return table.assign(pooled_low=table.low, pooled=table.a0, pooled_high=table.high, state=state, drop=0)


def runs(changes, activation, points=12, evidence="ladder"):
    """A trend for each name: flat, then changed by so much from the middle on."""
    frames = []
    for run, change in changes.items():
        tokens = 1e6 * np.arange(1, points + 1)
        ratio = 0.3 + change * (np.arange(points) >= points // 2)
        labels = {"evidence": evidence, "run": run, "scale": run.split("-")[0].upper(), "activation": activation}
        frames.append(pd.DataFrame({**labels, "seed": 1, "tokens": tokens, "activation_ratio": ratio}))
    return pd.concat(frames, ignore_index=True)


def three(change, activation):
    return {f"{rung}m-{activation}": change for rung in ("0.1", "0.4", "1.2")}


# --- direction and form ----------------------------------------------------------------------------------------------


def test_a_point_of_warm_up_does_not_turn_the_sign():
    trend = runs({"0.4m-silu": 0.002}, "silu")
    trend.loc[trend.index[0], ["tokens", "activation_ratio"]] = (250_000, 0.9)
    assert scaling_tables.moved(trend).change.item() == pytest.approx(0.002)
    outsider = trend.assign(run="mine-silu")
    assert scaling_tables.moved(outsider).change.item() < 0


def test_early_checkpoints_that_lie_close_together_count_by_their_tokens():
    tokens = np.geomspace(4e5, 4e7, 28)
    # High only over the first 2 % of the tokens, where a third of the checkpoints lies.
    ratio = np.where(tokens < 1e6, 0.5, np.where(tokens < 2e7, 0.30, 0.32))
    trend = runs({"0.4m-silu": 0}, "silu", points=28).assign(tokens=tokens, activation_ratio=ratio)
    assert ratio[:9].mean() > ratio[-9:].mean()
    assert 0.01 < scaling_tables.moved(trend).change.item() < 0.02


@pytest.mark.parametrize(("change", "way"), [(0.02, "right"), (-0.02, "wrong"), (0.0, "open")])
def test_a_change_within_the_scatter_of_checkpoints_is_no_change(change, way):
    trend = runs({"0.4m-silu": change}, "silu", points=30)
    trend["activation_ratio"] += 0.004 * np.random.default_rng(0).normal(size=30)
    table = law_checks.ways(trend)
    assert table.way.item() == way
    assert one(scale_checks.derivative_checks(ORDER.iloc[:0], trend), "C45") == {"right": True, "wrong": False}.get(way)
    assert ("Not told from none" in law_checks.ways_text(table)) == (way == "open")


@pytest.mark.parametrize(
    ("claim", "activation", "change", "error", "names", "verdict"),
    [
        ("C18", "relu", -0.01, 0.1, 3, True),
        ("C18", "relu", 0.01, 0.1, 3, False),
        ("C18", "relu", -0.01, 0.9, 2, False),
        ("C18", "relu", -0.01, 0.1, 2, NOT_YET),
        ("C19", "silu", 0.01, 0.1, 3, True),
        ("C19", "silu", -0.01, 0.1, 2, False),
        ("C19", "silu", 0.01, 0.9, 3, False),
        ("C19", "silu", 0.01, 0.1, 2, NOT_YET),
    ],
)
def test_laws_form(claim, activation, change, error, names, verdict):
    trend = runs(dict(list(three(change, activation).items())[:names]), activation)
    rows = [(run, law, e) for run in trend.run.unique() for law, e in ((law_checks.LAW, error), ("logarithm", 0.5))]
    ahead = pd.DataFrame(rows, columns=["run", "law", "mae_ahead"]).assign(evidence="ladder")
    checks = law_checks.law_checks(ahead, trend, {})
    assert one(checks, claim) == verdict
    wrong = (change > 0) == (activation == "relu")
    assert ("Wrong way: none" in checks[0].why) != wrong
    assert one(scale_checks.derivative_checks(ORDER.iloc[:0], trend), "C45") is not wrong


def quick_fit(kind="relu", noise=1e-4, alpha=0.7, c=0.15, seed=0, a0=0.07):
    d = np.geomspace(1, 60, 28)
    y = np.exp(-c * d**alpha - 3.2) + a0 if kind == "relu" else 0.39 - c / d**alpha
    return laws.fit(kind, d, y + np.random.default_rng(seed).normal(0, noise, len(d)))


@pytest.mark.parametrize(("noise", "verdict"), [(1e-4, True), (1e-2, False)])
def test_the_largest_run_is_fitted_as_well_as_the_others(noise, verdict):
    chosen = {"0.1b-relu": quick_fit(noise=1e-3), "2.4b-relu": quick_fit(noise=noise, seed=1)}
    trend = runs(dict.fromkeys(chosen, -0.01), "relu", evidence="paper")
    empty = pd.DataFrame(columns=["run", "law", "mae_ahead", "evidence"])
    assert one(law_checks.law_checks(empty, trend, chosen), "C54", "paper") is verdict


@pytest.mark.parametrize(("factor", "verdict"), [(1.0, False), (1.5, True)])
def test_sparsity_is_fitted_as_well_as_the_ratio_unless_its_error_is_larger(monkeypatch, factor, verdict):
    fit, limits = quick_fit("silu"), limit_rows({"0.1": 0.3}, "silu")
    ours, other = law_checks.mirrored(fit)
    assert ours == pytest.approx(fit.mse, rel=1e-3) and other == pytest.approx(ours, rel=1e-6)
    monkeypatch.setattr(law_checks, "mirrored", lambda _: (1.0, factor))
    assert one(law_checks.same_fit_check({"0.1m-silu": fit}, limits), "C20") is verdict


# --- limits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("refit", "fixed", "verdict"), [(1.005, True, True), (1.05, True, False), (1.0, False, None)])
def test_printed_coefficients_come_back_within_a_percent(refit, fixed, verdict):
    claims = law_checks.LIMIT_CLAIMS | {"2.4b-relu": "C58"}
    for run, claim in claims.items():
        row = {"run": run, "drop": 2, "coefficient": "a0", "printed": 0.07, "refit": 0.07 * refit}
        table = pd.DataFrame([row | {"back": abs(refit - 1) < 0.01}])
        checks = law_checks.table_2_checks(table, pd.DataFrame({"run": [run], "identified": [fixed]}))
        assert one(checks, claim, "paper") is verdict


@pytest.mark.parametrize(
    ("alphas", "loose", "verdict"),
    [
        ((0.5, 0.7, 0.9), (), True),
        ((0.9, 0.7, 0.5), (), False),
        ((0.9, 0.5), (), False),
        ((0.5, 0.9), (), NOT_YET),
        ((0.5, 0.7, 0.9), ("1.2",), NOT_YET),
    ],
)
def test_alpha_grows_and_c_shrinks_at_every_step(alphas, loose, verdict):
    rungs = ("0.1", "0.4", "1.2")[: len(alphas)]
    chosen = {f"{r}m-relu": quick_fit(alpha=a, c=0.1 / 10**a, noise=1e-6) for r, a in zip(rungs, alphas, strict=True)}
    limits = limit_rows(dict.fromkeys(rungs, 0.07), loose=loose)
    assert one(law_checks.order_checks(paper.table(2), chosen, limits), "C33") == verdict


def scale_verdict(claim, limits, evidence="ladder"):
    params = pd.Series(PARAMS).rename(lambda r: limits_scale(r, evidence))
    return one(scale_checks.scale_checks(limits, params), claim, evidence)


def limits_scale(rung, evidence):
    return rung + ("M" if evidence == "ladder" else "B")


@pytest.mark.parametrize(
    ("values", "loose", "verdict"),
    [
        ((0.10, 0.11, 0.12), (), True),
        ((0.10, 0.11, 0.15), (), False),
        ((0.10, 0.15), (), False),
        ((0.10, 0.11), (), NOT_YET),
        ((0.10, 0.11, 0.15), ("1.2",), NOT_YET),
    ],
)
def test_weak_dependence_needs_three_fixed_limits_to_hold(values, loose, verdict):
    rungs = ("0.1", "0.4", "1.2")[: len(values)]
    assert scale_verdict("C41", limit_rows(dict(zip(rungs, values, strict=True)), loose=loose)) == verdict


@pytest.mark.parametrize(
    ("last", "loose", "verdict"), [(0.12, (), True), (0.08, (), False), (0.12, ("1.2",), None), (None, (), NOT_YET)]
)
def test_the_change_from_the_smallest_to_the_largest_scale(last, loose, verdict):
    for claim, kind, sign in (("C43", "relu", 1), ("C42", "silu", -1)):
        values = {"0.1": 0.10, "0.4": 0.10} | ({} if last is None else {"1.2": 0.10 + sign * (last - 0.10)})
        assert scale_verdict(claim, limit_rows(values, kind, loose=loose)) == verdict


@pytest.mark.parametrize(("value", "loose", "verdict"), [(0.07, (), True), (0.09, (), False), (0.07, ("2.4",), None)])
def test_the_largest_limit_is_close_to_the_others(value, loose, verdict):
    limits = limit_rows({"0.1": 0.06, "1.2": 0.08, "2.4": value}, evidence="paper", loose=loose)
    assert one(scale_checks.largest_check(limits), "C61", "paper") is verdict


def test_an_answer_that_hangs_on_the_drop_is_left_open():
    def asked(limits):
        return one(law_checks.by_drops(scale_checks.largest_check, limits), "C61", "paper")

    limits = limit_rows({"0.1": 0.06, "1.2": 0.08, "2.4": 0.07}, evidence="paper")
    largest = limits.scale == "2.4B"
    assert asked(limits) is True
    assert asked(limits.assign(state=np.where(largest, "one drop", "fixed"))) is None
    (row,) = law_checks.by_drops(scale_checks.largest_check, limits.assign(state="one drop"))
    assert row.verdict is None and "[chosen drop: holds; over all drops: not testable here]" in row.our_value
    away = limits.assign(a0=np.where(largest, 0.09, limits.a0), pooled=np.where(largest, 0.09, limits.a0))
    assert asked(away) is False
    assert asked(away.assign(state="one drop")) is None


def test_limits_over_all_drops_are_the_pooled_ones():
    limits = limit_rows({"0.1": 0.06, "1.2": 0.08}).assign(
        pooled_low=0.01, pooled=0.02, pooled_high=0.0605, state=["one drop", "fixed"]
    )
    wide = law_tables.over_drops(limits)
    assert wide.low.tolist() == [0.01] * 2 and wide.high.tolist() == [0.0605] * 2
    assert wide.a0.tolist() == [0.02] * 2
    assert wide.identified.tolist() == [False, True] and limits.identified.all()


@pytest.mark.parametrize(
    ("apart", "wide", "scales", "verdict"),
    [(0.2, 0.01, 3, True), (-0.2, 0.01, 3, False), (0.02, 0.05, 3, None), (0.2, 0.01, 2, None)],
)
def test_relus_limit_below_silus_by_the_intervals_over_all_drops(apart, wide, scales, verdict):
    rungs = ("0.1", "0.4", "1.2")[:scales]
    relu = limit_rows(dict.fromkeys(rungs, 0.3), "relu", "paper", loose=rungs)  # open limits count by their intervals
    silu = limit_rows(dict.fromkeys(rungs, 0.3 + apart), "silu", "paper")
    both = pd.concat([relu, silu])
    both = both.assign(pooled_low=both.a0 - wide, pooled_high=both.a0 + wide)
    (check,) = scale_checks.activation_checks(both)
    assert check.verdict is verdict and "both fixed at none" in check.our_value
    (row,) = scale_checks.activation_checks(both.assign(state="fixed"))
    assert f"{1 + apart / 0.3:.1f} to {1 + apart / 0.3:.1f} times" in row.our_value
    alone = limit_rows(dict.fromkeys(rungs, 0.3), "relu", "ladder")
    assert scale_checks.activation_checks(alone)[0].verdict == NOT_YET


# --- speed -----------------------------------------------------------------------------------------------------------

ROW = {"variable": "dA/dD", "activation": "relu", "scales": 3, "low": 20.0, "high": 54.0, "pairs_in_order": 1.0,
       "pairs_clear": 0.5, "pairs_against": 0.0}  # fmt: skip
ORDER = pd.DataFrame([{"evidence": "ladder"} | ROW])


@pytest.mark.parametrize(
    ("share", "against", "scales", "verdict"),
    [(1.0, 0.0, 3, True), (0.5, 0.5, 3, False), (0.5, 0.5, 2, False), (1.0, 0.0, 2, NOT_YET), (0.5, 0.0, 3, NOT_YET)],
)
def test_smaller_models_approach_faster(share, against, scales, verdict):
    order = ORDER.assign(pairs_in_order=share, pairs_against=against, scales=scales)
    checks = scale_checks.derivative_checks(order, runs({"0.1m-relu": -0.01}, "relu"))
    assert one(checks, "C44") == verdict
    assert "20 to 54" in checks[0].why
    assert one(scale_checks.derivative_checks(order.iloc[:0], runs({"0.1m-relu": -0.01}, "relu")), "C44") == NOT_YET


def test_derivatives_are_compared_only_where_both_runs_have_points():
    fits = {"0.1m-relu": quick_fit(), "0.1m-relu-seed2": quick_fit(seed=1), "0.4m-relu": quick_fit(c=0.05)}
    fits = {run: [fit, laws.fit("relu", fit.tokens, fit.activation_ratio, 1)] for run, fit in fits.items()}
    trend = pd.concat([runs({run: -0.01}, "relu") for run in fits])
    trend["scale"] = trend.run.str[:4].str.upper()
    params = pd.Series({"0.1M": 1e5, "0.4M": 1e6})  # their points end at 600 and at 60 tokens a parameter
    states = pd.DataFrame({"run": [*fits], "state": "fixed"})
    derivative = scaling_tables.derivatives(fits, states, trend, params)
    (row,) = scaling_tables.falls_with_scale(derivative, params).itertuples()
    assert (row.scales, row.low) == (2, 20) and row.high == pytest.approx(60, abs=0.4)
    loose = derivative.assign(state=np.where(derivative.run == "0.4m-relu", "open", "fixed"))
    assert scaling_tables.falls_with_scale(loose, params).empty
    first = derivative[(derivative.run == "0.1m-relu") & (derivative.tokens_per_param == 20)].iloc[0]
    each = fits["0.1m-relu"]
    by_hand = [law.derivative(2.0) for law in laws.drawn(laws.steady(each), laws.bootstrap_drops(each, 200))]
    assert [first.low, first.high] == pytest.approx(np.quantile(by_hand, [0.05, 0.95]).tolist())
    text = scaling_tables.order_text(scaling_tables.order_by_variable(derivative, params))
    assert text.count("ladder relu") == 2


@pytest.mark.parametrize(
    ("shares", "verdict"),
    [((0.8,) * 5, True), ((0.1,) * 5, False), ((0.8,) * 4, NOT_YET), ((0.8,) * 9 + (0.1,) * 3 + (0.3,) * 2, None)],
)
def test_the_ratio_settles_later_than_the_loss(shares, verdict):
    settled = pd.DataFrame({"run": range(len(shares)), "settled_share": shares, "settled_share_loss": 0.3})
    (check,) = law_checks.settling_check(settled)
    assert check.verdict == verdict
    assert f"{sum(s > 0.3 for s in shares)} of {len(shares)} runs, together in {shares.count(0.3)}" in check.our_value
    assert law_checks.settling_check(settled.iloc[:0]) == []


def test_settling_reads_the_loss_at_the_checkpoints():
    trend = runs({"0.4m-relu": -0.01}, "relu")
    loss = pd.DataFrame({"run": "0.4m-relu", "tokens": trend.tokens, "value": np.where(trend.tokens < 3.5e6, 5.0, 2.0)})
    (row,) = scaling_tables.settled(trend, loss).itertuples()
    assert row.settled_share == pytest.approx(7 / 12) and row.settled_share_loss == pytest.approx(4 / 12)
    assert scaling_tables.settled(trend, loss.iloc[:0]).empty


# --- losses ----------------------------------------------------------------------------------------------------------


def loss_rows(relu, silu, fixed=False):
    rows = [
        (f"{rung}m-{kind}", f"{rung}M", kind, 1, final - 1, final, final, fixed)
        for kind, values in (("relu", relu), ("silu", silu))
        for rung, final in zip(("0.1", "0.4", "1.2"), values, strict=False)
    ]
    return pd.DataFrame(rows, columns=["run", "scale", "activation", "seed", "limit", "final", "common", "fixed"])


@pytest.mark.parametrize(
    ("relu", "silu", "falls", "same"),
    [
        ((3.1, 2.7, 2.5), (3.1, 2.7, 2.5), True, True),
        ((3.1, 2.7, 2.8), (3.1, 2.7, 2.5), False, False),
        ((2.7, 3.1), (2.7, 3.1), False, True),
        ((3.1, 2.7), (3.1, 2.7), NOT_YET, True),
        ((3.1, 2.7), (), NOT_YET, NOT_YET),
    ],
)
def test_losses_at_the_end(relu, silu, falls, same):
    order, gap, *limits = scale_checks.loss_checks(loss_rows(relu, silu))
    assert (order.id, order.verdict) == ("C67", falls)
    assert (gap.id, gap.verdict) == ("C68", same)
    assert all((check.id, check.verdict) == ("C68", None) for check in limits)
    assert scale_checks.loss_checks(loss_rows((), ())) == []


def test_losses_of_several_seeds_count_by_their_mean():
    rows = loss_rows((3.0, 2.7, 2.5), (3.0, 2.7, 2.5))
    rows.loc[rows.run == "0.1m-silu", "final"] = 2.9  # 3.4 % from ReLU's, and 3.1, which makes up for it
    second = rows[rows.scale == "0.1M"].assign(seed=2, final=[3.0, 3.1])
    gap = scale_checks.loss_checks(pd.concat([rows, second]))[1]
    assert gap.verdict and "differ by 0.0% at most, 3 scales; of one seed by up to 3.4%" in gap.our_value
    alone = scale_checks.loss_checks(rows)[1]
    assert not alone.verdict and "seed" not in alone.our_value


@pytest.mark.parametrize(("silu", "verdict"), [(3.1, True), (3.2, False)])
def test_limit_losses_count_where_both_are_fixed(silu, verdict):
    assert scale_checks.loss_checks(loss_rows((3.1,), (silu,), fixed=True))[-1].verdict is verdict


# --- forecasts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hits", "of", "verdict"), [(9, 10, True), (5, 10, False), (1, 4, False), (4, 4, NOT_YET), (8, 11, None)]
)
def test_forecasts_reject_at_any_number_and_hold_from_five(hits, of, verdict):
    inside = [True] * hits + [False] * (of - hits)
    table = pd.DataFrame(
        {"evidence": "ladder", "share": 0.5, "error": 0.001, "inside": inside, "tokens_inside": inside}
    )
    end, tokens = law_checks.forecast_checks(table)
    assert end.verdict == tokens.verdict == verdict
    assert "end of the run only" in end.why and "hold the tokens" in tokens.our_value


def test_coverage_in_a_sentence():
    score = pd.DataFrame({"evidence": ["paper"], "share": [0.5], "runs": [11], "inside": [10]})
    assert "held what came on 10 of 11 (paper, 50% seen)" in law_forecasts.coverage_text(score)


def test_a_forecast_is_of_the_mean_of_three_checkpoints():
    d = np.geomspace(1, 60, 28)
    y = 0.39 - 0.12 / d**0.6 + np.random.default_rng(1).normal(0, 1e-3, 28)
    row = law_rivals.forecast("silu", d, y, 0.6, draws=40).iloc[0]
    assert row.measured == pytest.approx(y[-3:].mean()) and row.tokens == pytest.approx(d[-3:].mean())
    fit = laws.fit("silu", d[: row.seen], y[: row.seen], row["drop"])
    assert row.predicted == pytest.approx(fit.predict(d[-3:]).mean())
    single = laws.sample(fit, d[-1:], laws.bootstrap(fit, 40))
    assert row.high_chosen - row.low_chosen < np.ptp(np.quantile(single, [0.05, 0.95]))
    assert row.soonest <= row.latest and row.tokens_inside == (row.soonest <= row.tokens <= row.latest)


@pytest.mark.parametrize(("share", "verdict"), [(1.0, True), (1.2, False), (0.3, None)])
def test_training_tokens_of_the_largest_run(share, verdict):
    trend = pd.DataFrame({"run": ["2.4b-relu"], "tokens": [share * law_checks.printed("C60")]})
    assert one(law_checks.tokens_check(trend), "C60", "paper") is verdict
    assert law_checks.tokens_check(trend.assign(run="other")) == []


# --- jumps, and the shipped points -----------------------------------------------------------------------------------


def raw_and_shared(early, later, at_shared):
    """Two runs whose ratio zigzags by ``early``, then ``later`` pp at their own CETT, by ``at_shared`` at one CETT."""
    rows = []
    for run in ("a", "b"):
        for i, tokens in enumerate(np.logspace(0, 2, 24)):
            sign = -1 if i % 2 else 1
            size = early if tokens <= 10 else later
            rows.append((run, tokens, 0.3 + sign * size / 100, 0.2 + sign * at_shared / 100))
    table = pd.DataFrame(rows, columns=["run", "tokens", "value", "activation_ratio"])
    return table[["run", "tokens", "value"]], table[["run", "tokens", "activation_ratio"]]


@pytest.mark.parametrize(
    ("sizes", "verdict"), [((2.0, 1.0, 0.5), True), ((2.0, 1.0, 3.0), False), ((1.0, 2.0, 0.5), False)]
)
def test_early_jumps_are_set_beside_the_shared_cett_and_the_rest_of_the_run(sizes, verdict):
    (check,) = law_checks.fluctuation_check(*raw_and_shared(*sizes))
    assert (check.id, check.verdict) == ("C80", verdict)
    shared, later = (float(part.split()[0]) for part in check.our_value.split("; ")[1:])
    assert shared == pytest.approx(sizes[0] / sizes[2], rel=0.1)  # the ratios of the zigzags, by hand, but for the
    assert later == pytest.approx(sizes[0] / sizes[1], rel=0.1)  # one jump between the two sizes, and rounding
    raw, shared = raw_and_shared(*sizes)
    assert law_checks.fluctuation_check(raw[raw.run == "a"], shared[shared.run == "a"]) == []


def test_checks_turn_with_the_shipped_data():
    trend = trends.activation("paper")
    pair = trend[trend.run.isin(["0.4b-relu", "0.4b-silu"])]
    limits = law_tables.limits(pair, law_tables.fit_runs(pair))
    assert limits.state.tolist() == ["one drop", "fixed"]  # by the figure of limits against drops
    (row,) = scale_checks.activation_checks(limits)
    assert row.verdict is None and "above ReLU's at 1 of 1 scales" in row.our_value  # too few scales to hold
    swapped = limits.assign(activation=limits.activation.map({"relu": "silu", "silu": "relu"}))
    assert scale_checks.activation_checks(swapped)[0].verdict is False
