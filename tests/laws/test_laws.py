"""The laws against synthetic truth, scipy's own fit, finite differences and the printed Table 2."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import optimize

from sparsinglib import laws, paper
from sparsinglib.laws import rivals as law_rivals
from sparsinglib.studies.scaling import limits as law_tables
from sparsinglib.studies.scaling import scales as scaling_tables
from sparsinglib.studies.scaling import trends

D = np.geomspace(1.0, 60.0, 28)
PRINTED = [(row.scale, row.activation) for row in paper.table(2).itertuples()]


def true_law(kind, alpha, b, c, a0, tokens=D):
    """Eq. 4 and 5 written out once more."""
    return np.exp(-c * tokens**alpha + b) + a0 if kind == "relu" else a0 - c / tokens**alpha


def printed_fit(scale, activation):
    return law_tables.printed_fit(f"{scale.lower()}-{activation}", trends.activation("paper"))


@pytest.fixture(scope="module")
def trend():
    return trends.activation("paper")


@pytest.fixture(scope="module")
def fits(trend):
    return law_tables.fit_runs(trend)


@settings(max_examples=10)
@given(st.floats(0.5, 1.6), st.floats(-4.0, -2.5), st.floats(0.3, 0.9), st.floats(0.03, 0.2))
def test_relu_coefficients_come_back_without_noise(alpha, b, reach, a0):
    c = reach / 10**alpha  # the exponent at ten units of tokens, so that the curve bends within the points
    fit = laws.fit("relu", D, true_law("relu", alpha, b, c, a0))
    assert [fit.alpha, fit.b, fit.c, fit.a0] == pytest.approx([alpha, b, c, a0], rel=2e-2)
    assert fit.mae < 1e-6


@given(st.floats(0.2, 1.5), st.floats(0.05, 0.2), st.floats(0.3, 0.6))
def test_silu_coefficients_come_back_without_noise(alpha, c, a0):
    fit = laws.fit("silu", D, true_law("silu", alpha, 0, c, a0))
    assert [fit.alpha, fit.c, fit.a0] == pytest.approx([alpha, c, a0], rel=1e-3)
    assert np.isnan(fit.b)


@given(st.floats(1e-3, 1e3))
def test_only_c_follows_the_token_unit(unit):
    rng = np.random.default_rng(3)
    y = true_law("relu", 0.7, -3.2, 0.15, 0.07) + rng.normal(0, 2e-4, len(D))
    one, other = laws.fit("relu", D, y), laws.fit("relu", D * unit, y)
    assert [other.alpha, other.b, other.a0] == pytest.approx([one.alpha, one.b, one.a0], rel=1e-4)
    assert other.c == pytest.approx(one.c / unit**one.alpha, rel=1e-3)


def test_scipy_started_at_the_truth_finds_nothing_better():
    rng = np.random.default_rng(0)
    for kind, truth in (("relu", (0.7, -3.2, 0.15, 0.07)), ("silu", (0.6, 0.0, 0.12, 0.39))):
        y = true_law(kind, *truth) + rng.normal(0, 4e-4, len(D))
        fit = laws.fit(kind, D, y)

        def curve(d, alpha, b, c, a0, kind=kind):
            return true_law(kind, alpha, b if kind == "relu" else 0.0, c, a0, d)

        found, _ = optimize.curve_fit(curve, D, y, truth, maxfev=20000)
        theirs = ((curve(D, *found) - y) ** 2).sum()
        assert (fit.residuals**2).sum() <= theirs * (1 + 1e-6)


def test_standard_errors_agree_with_scipy():
    rng = np.random.default_rng(1)
    y = true_law("relu", 0.9, -3.3, 0.05, 0.07) + rng.normal(0, 2e-4, len(D))
    fit = laws.fit("relu", D, y)
    curve = lambda d, alpha, b, c, a0: true_law("relu", alpha, b, c, a0, d)  # noqa: E731
    _, covariance = optimize.curve_fit(curve, D, y, [fit.alpha, fit.b, fit.c, fit.a0])
    assert list(fit.standard_errors.values()) == pytest.approx(np.sqrt(np.diag(covariance)), rel=1e-3)


def test_the_table_of_drops_has_errors_where_a_limit_is_identified(fits, trend):
    table = law_tables.drop_table(fits, trend)
    every = [fit for each in fits.values() for fit in each]
    assert list(table.a0_standard_error.isna()) == [bool(fit.flags) for fit in every]
    exact = [fit.standard_errors["a0"] for fit in every if not fit.flags]
    assert list(table.a0_standard_error.dropna()) == exact and 0 < len(exact) < len(every)


def test_residuals_mae_and_mse_by_hand():
    y = true_law("silu", 0.6, 0, 0.12, 0.39)
    y[3] += 0.001
    fit = laws.fit("silu", D, y)
    by_hand = [y[i] - (fit.a0 - fit.c / D[i] ** fit.alpha) for i in range(len(D))]
    assert fit.residuals == pytest.approx(by_hand)
    assert fit.mae == pytest.approx(sum(abs(r) for r in by_hand) / len(D))
    assert fit.mse == pytest.approx(sum(r * r for r in by_hand) / len(D))


def test_drop_leaves_out_leading_points_only():
    y = true_law("silu", 0.6, 0, 0.12, 0.39)
    y[:4] = 0.1
    fit = laws.fit("silu", D, y, drop=4)
    assert fit.a0 == pytest.approx(0.39, rel=1e-4)
    assert fit.tokens.tolist() == D[4:].tolist()


@pytest.mark.parametrize("kind", ["relu", "silu"])
def test_derivative_is_the_finite_difference(kind):
    fit = laws.fit(kind, D, true_law(kind, 0.7, -3.2, 0.15, 0.3))
    step = 1e-5
    assert fit.derivative(D) == pytest.approx((fit.predict(D + step) - fit.predict(D - step)) / (2 * step), rel=1e-4)


# --- Table 2 ---------------------------------------------------------------------------------------------------------


def test_six_rows_of_table_2_come_back_and_a_seventh_in_all_but_b(fits):
    table = law_tables.table_2(fits)
    rows = law_tables.table_2_rows(table, fits).set_index("run").status
    assert (rows == "back").sum() >= 6
    assert rows["0.1b-relu"] == "all but b"
    for run, part in table.groupby("run"):  # "back" recomputed from the two columns that a reader compares
        near = np.isclose(part.refit, part.printed, rtol=0.01, atol=0)
        assert (rows[run] == "back") == near.all()


def test_the_authors_own_2_4b_law_comes_back_from_the_published_points(fits):
    notes, fit = law_tables.notes_2_4b(), fits["2.4b-relu"][3]
    for name in laws.COEFFICIENTS["relu"]:
        assert fit[name] == pytest.approx(notes[name], rel=0.005)


def test_2_4b_limit_is_not_identified_and_says_so(fits):
    fit = laws.steady(fits["2.4b-relu"])
    assert "a0 not identified" in fit.flags
    assert laws.limit_interval(fit)[0] == 0
    assert not laws.identified(fit)


def test_closest_window_finds_a_planted_one():
    law = printed_fit("0.4B", "silu")
    noisy = law.activation_ratio.copy()
    noisy[8:] = law.predict(law.tokens[8:])
    planted = laws.Fit("silu", law.alpha, law.b, law.c, law.a0, law.tokens, noisy, 0, ())
    (first, last), worst = law_tables.nearest_window(planted)
    assert worst < 1e-3
    assert first >= 8 and last > first


# --- uncertainty -----------------------------------------------------------------------------------------------------


def noisy_run(law, rng, size, rho=0.0):
    error = rng.normal(0, size, len(law.tokens))
    for i in range(1, len(error)):
        error[i] = rho * error[i - 1] + np.sqrt(1 - rho**2) * error[i]
    return law.predict(law.tokens) + error


def noise_of(fits, run):
    fit = laws.steady(fits[run])
    return float(np.sqrt(fit.mse * len(fit.tokens) / fit.freedom))


def recovery(fits, draws, rho, runs):
    """For each run: share of draws whose interval holds the true limit, and share flagged as open or at a bound."""
    rng, rows = np.random.default_rng(20241104), {}
    for scale, activation in runs:
        law, run = printed_fit(scale, activation), f"{scale.lower()}-{activation}"
        inside, flagged = 0, 0
        for _ in range(draws):
            fit = laws.fit(activation, law.tokens, noisy_run(law, rng, noise_of(fits, run), rho))
            low, high = laws.limit_interval(fit)
            inside += low <= law.a0 <= high
            flagged += bool(fit.flags)
        rows[run] = (inside / draws, flagged / draws)
    return pd.DataFrame(rows, index=["covered", "flagged"]).T


def test_limit_interval_covers_quick(fits):
    runs = [("0.4B", "relu"), ("0.8B", "relu"), ("0.2B", "silu"), ("1.2B", "silu")]
    table = recovery(fits, 15, 0.0, runs)
    # 60 draws at 90 %: fewer than 46 or more than 59 inside would happen once in a thousand.
    assert 46 <= round(15 * table.covered.sum()) <= 59


@pytest.mark.slow
@pytest.mark.parametrize("rho", [0.0, 0.3])
def test_limit_interval_covers_over_all_printed_laws(fits, rho):
    table = recovery(fits, 40, rho, PRINTED)  # 440 draws
    assert 0.85 <= table.covered.mean() <= 0.95, table


@pytest.mark.slow
def test_limit_interval_covers_where_alpha_is_near_a_tenth(fits):
    """0.1B ReLU (alpha 0.101): never under 85 %; where over 95 %, because A0 ends at 0, the fit is flagged."""
    table = recovery(fits, 400, 0.0, [("0.1B", "relu")]).iloc[0]
    assert table.covered >= 0.85
    assert table.covered <= 0.95 or table.flagged >= 0.2


def test_profile_and_bootstrap_agree_where_the_limit_is_fixed(fits):
    fit = fits["0.8b-relu"][2]
    profile = laws.limit_interval(fit)
    ends = laws.bootstrap(fit, 300).a0.quantile([0.05, 0.95]).to_numpy()
    assert profile == pytest.approx(ends, abs=0.0007)
    assert profile[0] < fit.a0 < profile[1]


def test_more_correlated_errors_widen_the_limit_interval(fits):
    law, widths = printed_fit("0.4B", "silu"), []
    for rho in (0.0, 0.7):
        rng = np.random.default_rng(5)
        runs = [laws.fit("silu", law.tokens, noisy_run(law, rng, 6e-4, rho)) for _ in range(8)]
        widths.append(np.mean([np.diff(laws.limit_interval(fit)) for fit in runs]))
    assert widths[1] > widths[0]


@pytest.mark.parametrize("kind", ["relu", "silu"])
def test_points_without_noise_fix_their_limit_exactly(kind):
    tokens = np.geomspace(1, 60, 30)
    fit = laws.fit(kind, tokens, true_law(kind, 0.4, -3.2, 0.05, 0.4 if kind == "silu" else 0.07, tokens))
    low, high = laws.limit_interval(fit)
    assert low <= fit.a0 <= high and high - low < 1e-3


def test_bootstrap_keeps_blocks_of_neighbouring_residuals(fits, monkeypatch):
    fit, seen = fits["0.4b-silu"][1], []

    def solve(grid, y, starts, a0=None):
        seen.append(y)
        return np.zeros(3), []

    monkeypatch.setattr(laws.Grid, "solve", solve)
    laws.bootstrap(fit, 20, block=4)
    errors = (fit.residuals - fit.residuals.mean()) * np.sqrt(len(fit.tokens) / fit.freedom)
    for y in seen:
        drawn = y - fit.predict(fit.tokens)
        source = np.abs(drawn[:, None] - errors).argmin(1)
        whole = np.arange(len(source) // 4 * 4).reshape(-1, 4)
        assert ((source[whole] - source[whole[:, :1]]) % len(source) == np.arange(4)).all()


def test_bootstrap_repeats_with_its_seed(fits):
    fit = fits["0.4b-silu"][1]
    pd.testing.assert_frame_equal(laws.bootstrap(fit, 20, seed=4), laws.bootstrap(fit, 20, seed=4))
    assert not laws.bootstrap(fit, 20, seed=4).equals(laws.bootstrap(fit, 20, seed=5))


def test_steady_looks_past_warm_up():
    y = true_law("silu", 0.6, 0, 0.12, 0.39) + np.random.default_rng(2).normal(0, 1e-4, len(D))
    y[:4] -= 0.05
    fit = laws.steady(laws.fit_drops("silu", D, y))
    assert fit.drop == 4 and "last drop tried" not in fit.flags
    y[4:10] -= np.linspace(0.05, 0.01, 6)
    late = laws.steady(laws.fit_drops("silu", D, y))
    assert late.drop == len(D) // 3 and "last drop tried" in late.flags


def test_a_limit_that_the_solver_does_not_find_again_is_open(fits, monkeypatch):
    fit, solve = fits["0.8b-relu"][2], laws.Grid.solve

    def lost(grid, y, starts, a0=None):
        theta, flags = solve(grid, y, starts, a0)
        return (theta, flags) if a0 is None else (theta + np.array([0, 0, 1.0, 0]), flags)

    monkeypatch.setattr(laws.Grid, "solve", lost)
    assert laws.limit_interval(fit) == (0.0, 1.0)
    assert not laws.identified(fit)


def test_correlated_residuals_leave_a_limit_open_that_independent_ones_fix(fits):
    fit = fits["0.4b-relu"][4]
    wald = 2 * 1.645 * fit.standard_errors["a0"]
    factor = np.sqrt((1 + fit.autocorrelation) / (1 - fit.autocorrelation))
    assert wald < np.ptp(fit.activation_ratio) < wald * factor
    assert "a0 not identified" in fit.flags


@pytest.mark.slow
def test_limit_comes_back_behind_a_planted_warm_up(fits):
    """The whole procedure: a transient in the first points, the drop chosen by ``steady``, then the intervals.

    The interval at the chosen drop takes it as known and holds the limit too rarely: 58 % of these draws. That is why a
    limit counts as fixed only if the interval over all drops says so, too.
    """
    rng, rows = np.random.default_rng(20251126), []
    for scale, activation in (("0.4B", "silu"), ("1.2B", "silu"), ("0.8B", "relu"), ("1.2B", "relu")):
        law, size = printed_fit(scale, activation), noise_of(fits, f"{scale.lower()}-{activation}")
        for _ in range(30):
            y = noisy_run(law, rng, size)
            y[:3] += 20 * size * np.exp(-np.arange(3.0)) * (1 if activation == "relu" else -1)
            each = laws.fit_drops(activation, law.tokens, y)
            low, high = laws.limit_interval(laws.steady(each))
            wide = laws.bootstrap_drops(each, 100).a0.quantile([0.05, 0.95])
            rows.append((low <= law.a0 <= high, wide.iloc[0] <= law.a0 <= wide.iloc[1]))
    chosen, pooled = np.mean(rows, axis=0)
    assert 0.85 <= pooled <= 0.99, (chosen, pooled)
    assert chosen < pooled - 0.2, (chosen, pooled)


# --- prediction ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["relu", "silu"])
@given(st.floats(3.0, 200.0))
def test_tokens_for_inverts_predict(kind, tokens):
    fit = laws.fit(kind, D, true_law(kind, 0.7, -3.2, 0.15, 0.3))
    draws = pd.DataFrame([[fit.alpha, fit.b, fit.c, fit.a0]] * 3, columns=["alpha", "b", "c", "a0"])
    found = laws.tokens_for(fit, float(fit.predict(tokens)), draws)
    assert found == pytest.approx((tokens,) * 3, rel=1e-6)


def test_tokens_for_beyond_the_limit_is_a_clear_error():
    fit = laws.fit("relu", D, true_law("relu", 0.7, -3.2, 0.15, 0.07))
    with pytest.raises(ValueError, match=r"never reaches.*below its limit \(A0 = 0.0700\)"):
        laws.tokens_for(fit, 0.05)
    with pytest.raises(ValueError, match="divided by 100"):
        laws.tokens_for(fit, 8.0)


def test_tokens_for_is_open_ended_when_many_laws_stop_short():
    fit = laws.fit("relu", D, true_law("relu", 0.7, -3.2, 0.15, 0.07))
    high = pd.DataFrame([[fit.alpha, fit.b, fit.c, 0.09]] * 5 + [[fit.alpha, fit.b, fit.c, fit.a0]] * 5)
    high.columns = ["alpha", "b", "c", "a0"]
    assert laws.tokens_for(fit, 0.08, high)[2] == np.inf


def test_prediction_interval_holds_about_nine_new_checkpoints_in_ten():
    law, rng, inside = laws.fit("silu", D, true_law("silu", 0.6, 0, 0.12, 0.39)), np.random.default_rng(7), []
    for _ in range(12):
        fit = laws.fit("silu", D, law.predict(D) + rng.normal(0, 5e-4, len(D)))
        ahead = laws.predict(fit, [70.0, 80.0, 90.0, 100.0, 110.0], laws.bootstrap(fit, 100))
        new = law.predict(ahead.tokens) + rng.normal(0, 5e-4, 5)
        inside += ((ahead.low <= new) & (new <= ahead.high)).tolist()
    assert 46 <= sum(inside) <= 60


def test_hold_out_prefers_the_law_that_made_the_points():
    y = true_law("silu", 0.6, 0, 0.12, 0.39) + np.random.default_rng(0).normal(0, 1e-4, len(D))
    table = law_rivals.hold_out("silu", D, y).set_index("law")
    assert table.mae_ahead.idxmin() == "the paper's law"
    seen = D / D[-1] <= 2 / 3
    assert table.mae_ahead["last value"] == pytest.approx(np.abs(y[seen][-3:].mean() - y[~seen]).mean())
    table = law_rivals.hold_out("silu", D, 0.3 + 0.01 * np.log(D + 2.0)).set_index("law")
    assert table.mae_ahead["logarithm"] < 1e-6


def test_rivals_recover_their_own_curves():
    power = law_rivals.hold_out("relu", D, 0.2 * D**-0.3).set_index("law")
    assert power.mae_ahead["plain power law"] < 1e-7
    inverse = law_rivals.hold_out("relu", D, 1.08 - 1 / (1 + np.exp(-0.05 * D - 2.5))).set_index("law")
    assert inverse.mae_ahead["inverse exponential"] < 1e-6


# --- bad input -------------------------------------------------------------------------------------------------------

GOOD = true_law("relu", 0.7, -3.2, 0.15, 0.07)


@pytest.mark.parametrize(
    ("kind", "tokens", "ratio", "drop", "message"),
    [
        ("gelu", D, GOOD, 0, "unknown law 'gelu'"),
        ("relu", D[:5], GOOD[:5], 0, "5 points remain.*needs 6"),
        ("silu", D[:8], GOOD[:8], 4, "4 points remain after dropping 4.*needs 5"),
        ("relu", D[::-1], GOOD, 0, "increase strictly"),
        ("relu", D - 1, GOOD, 0, "positive"),
        ("relu", D, GOOD * 100, 0, "divide by 100"),
        ("relu", D, -GOOD, 0, r"fractions in \[0, 1\]"),
        ("relu", D, np.where(D > 5, np.nan, GOOD), 0, "NaN"),
        ("relu", D[:10], GOOD, 0, "of one length"),
        ("relu", D, GOOD, -1, "drop is -1"),
        ("relu", D, np.full(len(D), 0.1), 0, "no trend"),
    ],
)
def test_bad_input_is_one_clear_error(kind, tokens, ratio, drop, message):
    with pytest.raises(ValueError, match=message):
        laws.fit(kind, tokens, ratio, drop)


def test_a_fit_at_a_bound_is_flagged_not_silent():
    straight = 0.4 - 0.05 * np.log(D) / np.log(60)  # a logarithm has no limit
    fit = laws.fit("relu", D, straight)
    assert fit.flags
    assert 0 <= fit.a0 <= 1


@settings(max_examples=10)
@example(262)  # Levenberg-Marquardt ends far away from every start
@given(st.integers(0, 10_000))
def test_any_noise_gives_a_finite_fit_inside_the_bounds(seed):
    y = np.random.default_rng(seed).uniform(0.05, 0.95, 14)
    for kind in ("relu", "silu"):
        fit = laws.fit(kind, D[:14], y)
        assert np.isfinite([fit.alpha, fit.c, fit.a0]).all()
        assert 0 <= fit.a0 <= 1 and fit.alpha > 0 and fit.c > 0
        assert fit.mse <= y.var() * (1 + 1e-9)


# --- tables ----------------------------------------------------------------------------------------------------------


def test_table_3_parameters_by_hand_for_one_scale():
    row = law_tables.table_3().set_index("scale").loc["0.1B"]
    one_layer = 4 * 768 * 768 + 3 * 768 * 1920  # q, k, v, o and gate, up, down
    assert row.computed_params == 16 * one_layer == 108_527_616
    assert row.computed_batch_tokens == 80 * 4096
    assert law_tables.table_3().params_difference_pct.abs().max() < 0.5


def test_slope_of_exact_limits_is_the_line_through_them():
    limits = pd.DataFrame(
        {"evidence": "paper", "activation": "relu", "scale": ["a", "b", "c"], "a0": [0.06, 0.07, 0.08]}
    )
    limits = limits.assign(low=limits.a0, high=limits.a0)
    row = scaling_tables.slopes(limits, pd.Series({"a": 1e8, "b": 2e8, "c": 4e8})).iloc[0]
    assert [row.slope_pp, row.low_pp, row.high_pp, row.sparsity_slope_pp] == pytest.approx([1, 1, 1, -1])
    assert row.range_pp == pytest.approx(2)


def test_settling_by_hand():
    frame = pd.DataFrame({"run": "r", "tokens": np.arange(1.0, 11), "v": [10, 5, 2, 1.5, 0.5, 0, 0, 0, 0, 0]})
    assert scaling_tables.settling(frame, "v").settled_share.item() == pytest.approx(0.5)


def test_loss_limit_of_an_exact_power_law():
    tokens = np.linspace(1e6, 5e7, 60)
    limit, low, high = scaling_tables.loss_limit(tokens, 2.2 + 3.0 * (tokens / 1e6) ** -0.5)
    assert limit == pytest.approx(2.2, abs=1e-3)
    assert high - low < 1e-2


def test_the_scatter_of_neighbouring_checkpoints_goes_together():
    d, random = np.geomspace(1, 60, 200), np.random.default_rng(3)
    noise = random.normal(0, 1e-3, 200)
    for i in range(1, 200):
        noise[i] += 0.7 * noise[i - 1]
    fit = laws.fit("silu", d, 0.39 - 0.12 / d**0.6 + noise)
    same = pd.DataFrame([{name: fit[name] for name in ("alpha", "b", "c", "a0")}] * 4000)  # the law itself, no doubt
    values = laws.sample(fit, d[-3:], same)
    near, far = np.corrcoef(values.T)[0, 1:]
    assert near == pytest.approx(0.7, abs=0.1) and far == pytest.approx(near**2, abs=0.06)
    assert values.std(axis=0) == pytest.approx(noise.std(), rel=0.15)


def test_a_line_through_limits_that_scatter_has_a_wider_interval():
    params = pd.Series({"a": 1e8, "b": 2e8, "c": 4e8, "d": 8e8})
    labels = {"evidence": "paper", "activation": "relu", "scale": list(params.index)}
    widths = []
    for bend in (0.0, 0.01):
        a0 = np.array([0.06, 0.065 + bend, 0.07 - bend, 0.075])
        limits = pd.DataFrame({**labels, "a0": a0, "low": a0 - 1e-3, "high": a0 + 1e-3})
        row = scaling_tables.slopes(limits, params).iloc[0]
        widths.append(row.high_pp - row.low_pp)
    # By hand: ordinary least squares knows only the scatter, its slope's error s / sqrt(sum of squares) and t (2).
    x = np.arange(4.0) - 1.5
    rest = a0 - a0.mean() - (a0 @ x) / (x @ x) * x
    half = 100 * np.sqrt(rest @ rest / 2 / (x @ x)) * 2.92
    assert widths[1] == pytest.approx(2 * half, rel=0.05) and widths[1] > 3 * widths[0]
