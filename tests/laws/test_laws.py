"""The laws against synthetic truth, scipy's own fit, finite differences and brute-force integrals."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import optimize, special, stats

from sparsinglib import laws
from sparsinglib.laws import coverage, curve, rivals, two_segments
from sparsinglib.laws.all_runs import WANDERS, _Grid, _volume

D = np.geomspace(1.0, 60.0, 28)


def true_law(kind, alpha, b, c, a0, tokens=D):
    """Eq. 4 and 5 written out once more."""
    return np.exp(-c * tokens**alpha + b) + a0 if kind == "relu" else a0 - c / tokens**alpha


def points(runs):
    """Points for ``laws.posterior`` from a mapping of run to (tokens, ratios)."""
    return pd.concat([pd.DataFrame({"run": run, "d": d, "activation_ratio": y}) for run, (d, y) in runs.items()])


def noisy(kind="silu", size=2e-4, seed=0, tokens=D, **coefficients):
    """A run of the law with independent noise."""
    at = {"alpha": 0.7, "b": -3.2, "c": 0.15, "a0": 0.39} | coefficients
    return true_law(kind, **at, tokens=tokens) + np.random.default_rng(seed).normal(0, size, len(tokens))


# --- one run, least squares ------------------------------------------------------------------------------------------


@settings(max_examples=10)
@given(st.floats(0.5, 1.6), st.floats(-4.0, -2.5), st.floats(0.3, 0.9), st.floats(0.03, 0.2))
def test_relu_coefficients_come_back_without_noise(alpha, b, reach, a0):
    c = reach / 10**alpha  # the exponent at ten units of tokens, so that the curve bends within the points
    fit = laws.fit("relu", D, true_law("relu", alpha, b, c, a0))
    assert [fit.alpha, fit.b, fit.c, fit.a0] == pytest.approx([alpha, b, c, a0], rel=2e-2)
    assert fit.mse < 1e-12


@settings(max_examples=25)
@given(st.floats(0.2, 1.5), st.floats(0.05, 0.2), st.floats(0.3, 0.6))
def test_silu_coefficients_come_back_without_noise(alpha, c, a0):
    fit = laws.fit("silu", D, true_law("silu", alpha, 0, c, a0))
    assert [fit.alpha, fit.c, fit.a0] == pytest.approx([alpha, c, a0], rel=1e-3)
    assert np.isnan(fit.b) and fit.predict(D) == pytest.approx(true_law("silu", alpha, 0, c, a0), abs=1e-6)


@settings(max_examples=10)
@given(st.floats(1e-3, 1e3))
def test_only_c_follows_the_token_unit(unit):
    y = noisy("relu", a0=0.07, seed=3)
    one, other = laws.fit("relu", D, y), laws.fit("relu", D * unit, y)
    assert [other.alpha, other.b, other.a0] == pytest.approx([one.alpha, one.b, one.a0], rel=1e-4)
    assert other.c == pytest.approx(one.c / unit**one.alpha, rel=1e-3)


def test_scipy_started_at_the_truth_finds_nothing_better():
    for kind, truth in (("relu", (0.7, -3.2, 0.15, 0.07)), ("silu", (0.6, 0.0, 0.12, 0.39))):
        y = true_law(kind, *truth) + np.random.default_rng(0).normal(0, 4e-4, len(D))
        fit = laws.fit(kind, D, y)

        def wrong(d, alpha, b, c, a0, kind=kind):
            return true_law(kind, alpha, b if kind == "relu" else 0.0, c, a0, d)

        found, _ = optimize.curve_fit(wrong, D, y, truth, maxfev=20000)
        assert (fit.residuals**2).sum() <= ((wrong(D, *found) - y) ** 2).sum() * (1 + 1e-6)


def test_drop_leaves_out_leading_points_and_residuals_are_those_by_hand():
    y = true_law("silu", 0.6, 0, 0.12, 0.39)
    y[:4] = 0.1
    y[7] += 0.001
    fit = laws.fit("silu", D, y, drop=4)
    assert fit.a0 == pytest.approx(0.39, rel=2e-3) and fit.tokens.tolist() == D[4:].tolist()
    by_hand = [y[i] - (fit.a0 - fit.c / D[i] ** fit.alpha) for i in range(4, len(D))]
    assert fit.residuals == pytest.approx(by_hand)
    assert fit.mse == pytest.approx(sum(r * r for r in by_hand) / len(by_hand))


@pytest.mark.parametrize("kind", ["relu", "silu"])
def test_slope_is_the_finite_difference(kind):
    at, step = pd.Series({"alpha": 0.7, "b": -3.2, "c": 0.15, "a0": 0.3}), 1e-5
    apart = curve.value(kind, at, D + step) - curve.value(kind, at, D - step)
    assert curve.slope(kind, at, D) == pytest.approx(apart / (2 * step), rel=1e-4)


@pytest.mark.parametrize(
    ("kind", "y", "flag"),
    [
        ("relu", 0.4 - 0.05 * np.log(D) / np.log(60), "a0 at bound"),  # a logarithm has no limit
        ("silu", 0.3 - 0.2 / D**9, "alpha at bound"),  # steeper than a fit may be
        ("silu", noisy("silu", 5e-3)[:8], "a0 not identified"),  # of few points, and those unsure
    ],
)
def test_what_keeps_a_fit_from_being_trusted_is_named(kind, y, flag):
    fit = laws.fit(kind, D[: len(y)], y)
    assert fit.flags == (flag,) and 0 <= fit.a0 <= 1


rng = np.random.default_rng(1)
LINE = np.linspace(5, 100, 30)
FALLING = np.exp(-1.2 - 0.25 * LINE**0.6) + 0.07 + rng.normal(0, 2e-3, 30)
RISING = 0.42 - 0.3 * LINE**-0.7 + rng.normal(0, 1e-3, 30)


@pytest.mark.parametrize(
    ("kind", "y", "against"),
    [
        ("relu", RISING, True),
        ("silu", FALLING, True),
        ("relu", 1 - FALLING, True),  # sparsity in place of the ratio
        ("relu", FALLING, False),
        ("silu", RISING, False),
    ],
)
def test_a_run_that_moves_against_its_law_is_named(kind, y, against):
    fit = laws.fit(kind, LINE, y)
    assert (f"moves against the {kind} law" in fit.flags) == against
    (row,) = laws.posterior(kind, points({"mine": (LINE, y)})).limits().itertuples()
    assert row.against == against and not (row.against and row.identified)


@settings(max_examples=10)
@example(262)
@given(st.integers(0, 10_000))
def test_any_noise_gives_a_finite_fit_inside_the_bounds(seed):
    y = np.random.default_rng(seed).uniform(0.05, 0.95, 14)
    for kind in ("relu", "silu"):
        fit = laws.fit(kind, D[:14], y)
        assert np.isfinite([fit.alpha, fit.c, fit.a0]).all()
        assert 0 <= fit.a0 <= 1 and fit.alpha > 0 and fit.c >= 0
        assert fit.mse <= y.var() * (1 + 1e-9)


GOOD = true_law("relu", 0.7, -3.2, 0.15, 0.07)
BAD = [
    ("gelu", D, GOOD, "unknown law 'gelu'"),
    ("relu", D[:5], GOOD[:5], "5 points remain.*needs 6"),
    ("relu", D - 1, GOOD, "positive"),
    ("relu", D, GOOD * 100, "divide by 100"),
    ("relu", D, -GOOD, r"fractions in \[0, 1\]"),
    ("relu", D, np.where(D > 5, np.nan, GOOD), "NaN"),
    ("relu", D, np.full(len(D), 0.1), "no trend"),
    (["relu"], D, GOOD, "unknown law"),
    ("relu", D, ["many"] * len(D), "activation_ratio must be numbers, got"),
]


@pytest.mark.parametrize(
    ("kind", "tokens", "ratio", "message", "drop"),
    [
        *((*bad, 0) for bad in BAD),
        ("relu", D[::-1], GOOD, "increase strictly", 0),
        ("relu", D[:10], GOOD, "of one length", 0),
        *(
            ("relu", D, GOOD, f"drop, .* must be a whole number of at least 0, got {bad!r}", bad)
            for bad in (-1, 1.5, "1")
        ),
        ("relu", D, GOOD, "0 points remain after dropping 99", 99),
        ("relu", D, GOOD, "5 points remain after dropping 23.*needs 6", 23),
    ],
)
def test_bad_input_is_one_clear_error(kind, tokens, ratio, message, drop):
    with pytest.raises(ValueError, match=message):
        laws.fit(kind, tokens, ratio, drop)


@pytest.mark.parametrize(("kind", "tokens", "ratio", "message"), BAD)
def test_bad_points_of_a_model_name_their_run(kind, tokens, ratio, message):
    with pytest.raises(ValueError, match=f"(?s)^bad: .*{message}"):
        laws.posterior(kind, points({"good": (D, GOOD), "bad": (tokens, ratio)}))


TABLE = points({"a": (D, GOOD)})
CALLS = {
    "points must be a table with rows and the columns run, d, activation_ratio; lacking: .*run.*": [
        lambda: laws.posterior("relu", TABLE.drop(columns=["run", "d"])), lambda: laws.posterior("relu", [1]),
        lambda: laws.posterior("relu", None),
    ],
    r"points must be a table with rows .*lacking: \[\]": [lambda: laws.posterior("relu", TABLE[:0])],
    "^a: d and activation_ratio and": [lambda: laws.posterior("relu", TABLE.assign(tokens_per_param=np.nan))],
    "^a: tokens_per_param must be numbers": [lambda: laws.posterior("relu", TABLE.assign(tokens_per_param="many"))],
    "draws must be a whole number of at least 1": [
        lambda: laws.posterior("relu", TABLE, draws=0), lambda: laws.posterior("relu", TABLE, draws=2.5),
        lambda: two_segments.fit(range(9), range(9), [1] * 9, draws=0),
        lambda: two_segments.ahead_of_line(range(1, 9), range(8), [1] * 8, draws="9"),
    ],
    "seed must be a whole number of at least 0": [lambda: laws.posterior("relu", TABLE, seed=-1)],
    "none leaves 7 points of every run; give lower ones": [
        lambda: laws.posterior("relu", TABLE, cuts=[100]), lambda: laws.posterior("relu", TABLE, cuts=[]),
    ],
    "cuts must be": [
        lambda: laws.posterior("relu", TABLE, cuts="early"), lambda: laws.posterior("relu", TABLE, cuts=[np.nan]),
        lambda: laws.posterior("relu", TABLE, cuts=0.0),
    ],
    "tokens and activation_ratio must be": [lambda: laws.change(D, GOOD[1:]), lambda: laws.change(D, D * np.nan)],
    "tokens must be two or more and increase": [lambda: laws.change([1], [0.1]), lambda: laws.change([], []),
                                                lambda: laws.change([2, 1], [0.1, 0.2])],
    "tokens must be numbers": [lambda: laws.change("D", GOOD), lambda: rivals.hold_out("relu", ["a"], [1])],
    "0 points remain": [lambda: rivals.hold_out("relu", [], [])],
    "x and y and error must be": [lambda: laws.line([0, 1, 2], [1, 2], [1, 1]),
                                  lambda: laws.line([0, 1], [1, np.inf], [1, 1]),
                                  lambda: two_segments.fit(range(9), range(8), [1] * 8)],
    "5 points.*needs 6": [lambda: two_segments.fit(range(5), [1] * 5, [1] * 5)],
    "finite": [lambda: two_segments.fit(range(9), [np.nan] * 9, [1] * 9)],
    "errors must be positive, and no x may occur twice": [lambda: two_segments.fit(range(9), [1] * 9, [0] * 9),
                                                          lambda: two_segments.fit([1] * 9, [1] * 9, [1] * 9)],
    "ratio must be positive": [lambda: two_segments.ahead_of_line(range(9), range(9), [1] * 9)],
    "values must be numbers, got 0 a 1 b": [lambda: laws.pooled(pd.Series(["a", "b"]), [0, 0])],
    "y must be numbers": [lambda: laws.mean(["a", "b"], [1, 1])],
    "y and error must be": [lambda: laws.mean([1, 2], 0.1)],
    "error must be standard errors": [lambda: laws.mean([1, 2], [1, -1])],
    "level is 90; give a fraction": [lambda: laws.line([0, 1, 2], [1, 2, 3], [1, 1, 1], level=90)],
}  # fmt: skip


@pytest.mark.parametrize(("said", "call"), [(said, call) for said, calls in CALLS.items() for call in calls])
def test_each_argument_at_fault_is_named(said, call):
    with pytest.raises(ValueError, match=said):
        call()


def test_what_is_asked_of_a_posterior_is_checked():
    model = laws.posterior("relu", TABLE, draws=1, cuts=[0.0])
    for ask in (model.curves, model.slopes, model.median, model.sample, model.predict, model.tokens_for):
        with pytest.raises(ValueError, match="no run is called 'b'; there are a"):
            ask("b", 0.1)
    for call in (lambda: model.predict("a", "many"), lambda: laws.fit("relu", D, GOOD, 1.0).predict(["many"])):
        with pytest.raises(ValueError, match="tokens must be numbers"):
            call()
    with pytest.raises(ValueError, match="level is 90; give a fraction"):
        model.limits(90)


# --- all runs --------------------------------------------------------------------------------------------------------


def test_the_closed_form_is_the_integral_over_limit_move_and_noise():
    """Two nodes of the grid compared by numerical integration of the likelihood times 1 / sigma."""
    d, y = D[::3], noisy("silu", 3e-3, tokens=D[::3])
    part = pd.DataFrame({"d": d, "activation_ratio": y, "at": d})
    grid = _Grid("silu", part, 0.0, d[-1])
    wander, found = 4, []
    time = np.log(d)
    share, length = WANDERS[wander]
    cov = (1 - share) * np.eye(len(d)) + share * np.exp(-np.abs(np.subtract.outer(time, time)) / length)
    sigma = np.geomspace(3e-4, 0.1, 160)
    nodes = (130, 160)
    a0, move, exact = np.linspace(0.3, 0.6, 301), np.linspace(-0.35, 0, 301), np.linalg.inv(cov)
    for node in nodes:
        tail = grid.tails(curve.law("silu").alphas[[node]], np.ones(1))[0]
        rest = [y - x - np.outer(move, tail) for x in a0]
        square = np.array([np.einsum("mn,nk,mk->m", r, exact, r) for r in rest]).ravel()
        log = special.logsumexp(-0.5 * square[:, None] / sigma**2, axis=0) - (len(d)) * np.log(sigma)
        found.append(special.logsumexp(log))  # d sigma / sigma is even steps of ln sigma
    ours = [grid.log[wander, node, 0] for node in nodes]
    assert ours[0] - ours[1] == pytest.approx(found[0] - found[1], abs=0.02)
    assert abs(found[0] - found[1]) > 0.3


def test_the_prior_of_s_is_the_change_that_limit_and_move_cannot_take_up():
    tails = curve.Tails("relu", D)
    s = np.array([0.5, 0.6, 0.72])
    tail = tails(np.full(3, 0.7), s)[None]
    by_hand = []
    for i, (a, b) in enumerate(((0, 1), (0, 2), (1, 2))):
        change = (tail[0, b] - tail[0, a]) / (b - a)
        columns = np.stack([np.ones(len(D)), tail[0, i]], axis=1)
        by_hand.append(np.linalg.norm(change - columns @ np.linalg.lstsq(columns, change, rcond=None)[0]))
    assert _volume(tail)[0] == pytest.approx(np.array(by_hand) / sum(by_hand), rel=1e-6)


@pytest.mark.parametrize("kind", ["relu", "silu"])
def test_precise_points_fix_every_limit(kind):
    a0 = {"a": 0.30, "b": 0.33, "c": 0.36}
    runs = {run: (D, noisy(kind, 2e-5, i, a0=limit, c=0.12)) for i, (run, limit) in enumerate(a0.items())}
    table = laws.posterior(kind, points(runs)).limits().set_index("run")
    assert table.identified.all()
    assert table.a0.to_dict() == pytest.approx(a0, abs=3e-3 if kind == "relu" else 1e-3)


def test_every_draw_is_a_law_that_may_be():
    model = laws.posterior("relu", points({"a": (D, noisy("relu", 1e-3, a0=0.05)), "b": (D, noisy("relu", 1e-3, 1))}))
    for table in model.draws.values():
        assert table.a0.between(0, 1).all() and (table[["alpha", "c", "scatter"]] > 0).all(axis=None)
        assert np.isfinite(table).all(axis=None)
    assert model.cuts.sum() == pytest.approx(1)


def test_a_planted_warm_up_is_cut_off():
    runs = {}
    for i in range(3):
        y = noisy("silu", 2e-4, i, a0=0.39 + 0.01 * i)
        y[D < 3] += np.random.default_rng(i).normal(0, 0.03, (D < 3).sum())
        runs[f"run {i}"] = (D, y)
    model = laws.posterior("silu", points(runs))
    assert model.cuts[model.cuts.index > 3].sum() > 0.95
    assert (model.points.used[model.points.d < 3] < 0.1).all()
    table = model.limits()
    assert table.a0.tolist() == pytest.approx([0.39, 0.40, 0.41], abs=1e-3) and table.identified.all()


def test_seed_order_and_unit_change_nothing_but_c():
    table = points({"a": (D, noisy("silu", 1e-3)), "b": (D, noisy("silu", 1e-3, 1))})
    one = laws.posterior("silu", table, draws=200, seed=4)
    shuffled = laws.posterior("silu", table.sample(frac=1, random_state=0), draws=200, seed=4)
    scaled = laws.posterior("silu", table.assign(d=table.d * 1e3), draws=200, seed=4)
    pd.testing.assert_frame_equal(one.limits(), shuffled.limits())
    assert scaled.limits().a0.tolist() == pytest.approx(one.limits().a0.tolist(), rel=1e-6)
    assert scaled.draws["a"].c.to_numpy() == pytest.approx(one.draws["a"].c * 1e3 ** one.draws["a"].alpha, rel=1e-6)
    assert not one.limits().equals(laws.posterior("silu", table, draws=200, seed=5).limits())


def test_runs_tell_about_each_other():
    """A run that ends early has a surer limit beside runs that show how bent such runs are."""
    short = D < 8
    runs = {f"long {i}": (D, noisy("silu", 2e-3, i, a0=0.38 + 0.01 * i)) for i in range(4)}
    alone = points({"short": (D[short], noisy("silu", 2e-3, 9)[short])})
    widths = []
    for table in (alone, pd.concat([alone, points(runs)])):
        row = laws.posterior("silu", table, cuts=[0.0]).limits().set_index("run").loc["short"]
        widths.append(row.high - row.low)
    assert widths[1] < 0.7 * widths[0]


def test_prediction_intervals_hold_about_nine_new_checkpoints_in_ten():
    inside, ahead = [], np.array([70.0, 80.0, 90.0, 100.0, 110.0])
    for seed in range(20):
        y = noisy("silu", 5e-4, seed, tokens=np.concatenate([D, ahead]))
        table = laws.posterior("silu", points({"a": (D, y[:-5])}), draws=400).predict("a", ahead)
        inside += ((table.low <= y[-5:]) & (y[-5:] <= table.high)).tolist()
    assert 82 <= sum(inside) <= 99  # of 100: fewer or more would happen about once in a hundred


def test_a_run_that_is_above_its_law_stays_there_for_a_while():
    rng, slow = np.random.default_rng(2), [0.0]
    for _ in D[1:]:
        slow.append(0.9 * slow[-1] + rng.normal(0, 1e-3))
    y = noisy("silu", 1e-5) + np.array(slow)
    model = laws.posterior("silu", points({"a": (D, y)}), draws=600)
    apart = np.median(model.sample("a", [D[-1] * 1.01]) - model.curves("a", [D[-1] * 1.01]))
    last = y[-1] - np.median(model.curves("a", D[-1:]))
    assert np.sign(apart) == np.sign(last) and abs(apart) > 0.4 * abs(last)
    far = model.sample("a", [D[-1] * 1e4]) - model.curves("a", [D[-1] * 1e4])
    assert abs(np.median(far)) < 0.2 * abs(last)


@pytest.mark.parametrize("kind", ["relu", "silu"])
def test_tokens_for_inverts_the_laws(kind):
    model = laws.posterior(kind, points({"a": (D, noisy(kind, 1e-5, c=0.12))}), draws=200)
    ratio = float(np.median(model.curves("a", [30.0])))
    middle, low, high = model.tokens_for("a", ratio)
    assert middle == pytest.approx(30, rel=1e-3)
    at = model.draws["a"]
    power = (at.b - np.log(ratio - at.a0)) / at.c if kind == "relu" else at.c / (at.a0 - ratio)
    assert [low, high] == pytest.approx(np.quantile(power ** (1 / at.alpha), [0.05, 0.95]), rel=1e-4)
    beyond = -0.2 if kind == "relu" else 0.2
    assert model.tokens_for("a", float(model.draws["a"].a0.median()) + beyond) == (np.inf,) * 3
    with pytest.raises(ValueError, match="give a fraction"):
        model.tokens_for("a", 8.0)
    with pytest.raises(ValueError, match="positive"):
        model.predict("a", [0.0])


# --- a third law -----------------------------------------------------------------------------------------------------


def test_a_law_that_is_added_is_fitted_as_itself_everywhere(monkeypatch):
    """One entry is enough: a power law that falls to its limit, which neither of the paper's laws is."""
    monkeypatch.setitem(curve.LAWS, "falling", replace(curve.LAWS["silu"], equation="here", sign=-1))
    y = 0.07 + 0.2 * D**-0.8
    fit = laws.fit("falling", D, y + np.random.default_rng(0).normal(0, 1e-5, len(D)))
    assert not fit.flags and [fit.alpha, fit.c, fit.a0] == pytest.approx([0.8, 0.2, 0.07], rel=1e-2)
    assert fit.predict(D) == pytest.approx(y, abs=1e-4)
    noise = np.random.default_rng(1).normal(0, 2e-4, len(D))
    model = laws.posterior("falling", points({"a": (D, y + noise)}), draws=200)
    (row,) = model.limits().itertuples()
    assert row.low <= 0.07 <= row.high and row.identified
    assert model.tokens_for("a", 0.12)[0] == pytest.approx((0.2 / 0.05) ** (1 / 0.8), rel=2e-2)
    assert (model.slopes("a", D) < 0).all()
    assert (rivals.ahead("falling", D, y + noise) > 5).all()
    with pytest.raises(ValueError, match=r"unknown law 'gelu'; choose 'relu' .* or 'falling' \(here\)"):
        laws.fit("gelu", D, y)


def test_every_law_has_a_simulated_truth_and_the_coefficients_it_names():
    assert set(coverage.TRUTH) == set(curve.LAWS)
    for kind in curve.LAWS:
        fit = laws.fit(kind, D, noisy(kind))
        assert tuple(name for name in ("alpha", "b", "c", "a0") if np.isfinite(fit[name])) == laws.COEFFICIENTS[kind]
    with pytest.raises(ValueError, match="unknown law 'gelu'"):
        coverage.study("gelu", "even", 0)
    with pytest.raises(ValueError, match="design must be one of even, log-spaced, got 'odd'"):
        coverage.study("relu", "odd", 0)


def test_numbers_may_be_written_as_text():
    table = points({"a": (D, noisy())})
    found = laws.posterior("silu", table.astype({"d": str, "activation_ratio": str}), draws=50).limits()
    pd.testing.assert_frame_equal(found, laws.posterior("silu", table, draws=50).limits())


def test_runs_may_have_numbers_for_names():
    table = points({1: (D, noisy()), 2: (D, noisy(seed=1))})
    found = laws.posterior("silu", table, draws=50)
    assert found.limits().run.tolist() == ["1", "2"] and np.isfinite(found.limits().a0).all()
    assert np.array_equal(found.median(1, D), found.median("1", D))


# --- means and lines over runs ---------------------------------------------------------------------------------------


def test_a_line_through_exact_points_is_that_line():
    found = laws.line([0, 1, 2, 3], [1, 3, 5, 7], np.zeros(4))
    assert [found.value, found.low, found.high] == pytest.approx([2, 2, 2], abs=1e-3)
    assert np.isnan(laws.line([0, 1, 1], [1, 2, 3], np.ones(3)).value)
    assert np.isnan(laws.mean([1.0], [1.0]).value)


def test_without_errors_of_their_own_runs_scatter_as_in_a_regression():
    rng = np.random.default_rng(1)
    x, y = np.arange(14.0), np.arange(14.0) * 0.3 + rng.normal(0, 0.5, 14)
    found, plain = laws.line(x, y, np.zeros(14)), stats.linregress(x, y)
    half = stats.t.ppf(0.95, 12) * plain.stderr
    assert found.value == pytest.approx(plain.slope, abs=1e-6)
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.12)
    error = np.full(14, 3.0)  # far more than they scatter
    assert laws.mean(y, error).high - laws.mean(y, error).value == pytest.approx(1.645 * 3 / np.sqrt(14), rel=0.2)


def test_an_estimate_that_is_unsure_counts_for_little():
    assert laws.mean([1.0, 1.1, 0.9, 50.0], [0.1, 0.1, 0.1, 30.0]).value == pytest.approx(1.0, abs=0.4)


def test_the_spread_between_runs_is_that_beyond_their_errors():
    rng = np.random.default_rng(3)
    assert laws.mean(rng.normal(0, 5, 60), np.full(60, 0.1)).between == pytest.approx(5, rel=0.2)


def test_a_pooled_deviation_by_hand():
    assert laws.pooled(pd.Series([1.0, 3.0, 5.0]), [0, 0, 1]) == (pytest.approx(np.sqrt(2)), 1)
    alone, freedom = laws.pooled(pd.Series([1.0, 5.0]), [0, 1])
    assert np.isnan(alone) and freedom == 0


# --- simulated studies -----------------------------------------------------------------------------------------------


def test_coverage_counts_intervals_that_hold_the_truth():
    table = coverage.coverage("silu", "even", 2, draws=200)
    assert table.intervals.tolist() == [14] * 5 + [2] * 5
    limits = table[table.quantity == "limit"]
    assert (np.diff(limits.right) >= 0).all() and (np.diff(limits.width) > 0).all()


@pytest.mark.slow
def test_ninety_percent_intervals_are_right_in_85_to_95_percent_of_200_studies():
    tables = [coverage.coverage(kind, design, 50) for kind in coverage.TRUTH for design in coverage.LENGTHS]
    ninety = pd.concat(tables).query("level == 0.9").groupby("quantity")[["right", "intervals"]].sum()
    assert (ninety.right / ninety.intervals).between(0.85, 0.95).all(), ninety


# --- rivals ----------------------------------------------------------------------------------------------------------


def test_hold_out_prefers_the_law_that_made_the_points():
    y = noisy("silu", 1e-4, alpha=0.6, c=0.12)
    table = rivals.hold_out("silu", D, y).set_index("law")
    assert table.mae_ahead.idxmin() == rivals.LAW
    seen = D / D[-1] <= 2 / 3
    apart = y[seen][-3:].mean() - y
    by_hand = [np.abs(apart[seen]).mean(), np.abs(apart[~seen]).mean(), apart[~seen].mean()]
    assert table.loc["last value", ["mae_seen", "mae_ahead", "bias_ahead"]].tolist() == pytest.approx(by_hand)


@pytest.mark.parametrize(
    ("name", "y"),
    [
        ("logarithm", 0.3 + 0.01 * np.log(D)),
        ("plain power law", 0.2 * D**-0.3),
        ("exponential", 0.08 + 0.05 * np.exp(-D / 9)),
    ],
)
def test_rivals_recover_their_own_curves(name, y):
    kind = "silu" if name == "logarithm" else "relu"
    assert rivals.hold_out(kind, D, y).set_index("law").mae_ahead[name] < 2e-4
    y = y + np.random.default_rng(0).normal(0, 2e-4, len(D))
    assert rivals.ahead(kind, D, y)[name] < 0  # one coefficient less for the same misfit


def test_the_law_is_likelier_where_it_made_the_points():
    assert (rivals.ahead("silu", D, noisy("silu", 2e-4)) > 5).all()
    relu = rivals.ahead("relu", D, noisy("relu", 1e-4, a0=0.07))
    assert relu["plain power law"] > 5 and relu["logarithm"] > 5


def test_the_likelihood_of_a_rival_by_hand():
    y = noisy("silu", 2e-4)
    found = rivals._likelihood(np.stack([np.log(D), np.ones(len(D))])[None], D, y, 2)
    best = -np.inf
    for share, length in WANDERS:
        apart = np.abs(np.subtract.outer(np.log(D), np.log(D)))
        cov = (1 - share) * np.eye(len(D)) + share * np.exp(-apart / length)
        columns, exact = np.stack([np.log(D), np.ones(len(D))], axis=1), np.linalg.inv(cov)
        beta = np.linalg.solve(columns.T @ exact @ columns, columns.T @ exact @ y)
        rest = y - columns @ beta
        size = rest @ exact @ rest / len(D)
        normal = stats.multivariate_normal(columns @ beta, size * cov, allow_singular=True).logpdf(y)
        best = max(best, normal + len(D) / 2 * (1 + np.log(2 * np.pi)))
    assert found == pytest.approx(best - np.log(len(D)), abs=1e-6)


# --- which way a run moves -------------------------------------------------------------------------------------------


def test_the_change_is_between_thirds_of_the_tokens():
    tokens = np.concatenate([np.linspace(1, 2, 40), np.linspace(3, 30, 28)])  # many checkpoints early on
    assert laws.change(tokens, np.where(tokens < 15.5, 0.3, 0.2))[0] == pytest.approx(-0.1)
    ramp = laws.change(tokens, 0.01 * tokens)
    assert ramp[0] == pytest.approx(0.01 * 29 * 2 / 3, rel=0.05) and ramp[1] < 0.01
    noise = np.random.default_rng(0).normal(0, 1e-3, (300, len(tokens)))
    moved, error = np.transpose([laws.change(tokens, 0.3 + part) for part in noise])
    assert error.mean() == pytest.approx(moved.std(), rel=0.15)
