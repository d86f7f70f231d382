"""Neuron frequencies and what is said about them, against plain counts and hand-made cases."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from neuron_uses import activity, measurement, suite_of

from sparsinglib.paper import style
from sparsinglib.studies.neurons import claims, figures
from sparsinglib.studies.neurons import frequency as neuron_use
from sparsinglib.suites import survey


def made_up(*layers):
    """A measurement on 1,000 tokens with given activation frequencies of each layer's neurons."""
    counts = [(torch.tensor(layer, dtype=torch.float64) * 1000).round().long() for layer in layers]
    return measurement(
        layers=tuple(range(len(layers))),
        neuron_counts=counts,
        position_counts=torch.stack([layer.sum() for layer in counts])[:, None],
        position_tokens=torch.tensor([1000]),
    )


def use(name, *layers, halves=(), **options):
    return activity(name, made_up(*layers), [made_up(*half) for half in halves], **options)


def curves(measurement):
    return neuron_use.curves(measurement.neuron_frequency)


@pytest.mark.parametrize(
    ("layers", "expected"),  # mean over layers, first, middle and last
    [
        ([[0.1, 0.5], [0.3, 0.2], [0.9, 0.8]], [[1.7 / 3, 1.1 / 3], [0.5, 0.1], [0.3, 0.2], [0.9, 0.8]]),
        ([[0.1], [0.2], [0.3], [0.4]], [[0.25], [0.1], [0.3], [0.4]]),  # the middle of an even number is half of it
        ([[0.2, 0.4]], [[0.4, 0.2]] * 4),
        # Of different width: averaged rank by rank.
        ([[0.6, 0.2], [0.4, 0.3, 0.2, 0.1]], [[0.5, 0.45, 0.2, 0.15], [0.6, 0.2], *[[0.4, 0.3, 0.2, 0.1]] * 2]),
    ],
)
def test_curves_by_hand(layers, expected):
    for curve, by_hand in zip(curves(made_up(*layers)).values(), expected, strict=True):
        assert curve.tolist() == pytest.approx(by_hand)


frequencies = arrays.arrays(float, st.integers(1, 30), elements=st.floats(0, 1).map(lambda x: round(x, 3)))


@given(frequencies, frequencies)
def test_the_mean_curve_falls_and_keeps_the_activation_ratio(a, b):
    measured = made_up(a.tolist(), np.resize(b, len(a)).tolist())
    curve = curves(measured)["mean over layers"]
    assert (np.diff(curve) <= 1e-12).all()
    assert curve.mean() == pytest.approx(measured.activation_ratio)


@given(frequencies, st.integers(1, 60))
def test_a_stretched_curve_keeps_range_and_order(values, points):
    curve = np.sort(values)[::-1]
    found = neuron_use.stretched(curve, points)
    assert len(found) == points
    assert set(found) <= set(curve)
    assert (np.diff(found) <= 0).all()
    if points % len(curve) == 0:
        assert found.mean() == pytest.approx(curve.mean())


@given(frequencies, frequencies)
def test_distance_of_equal_widths_is_the_mean_gap_of_the_sorted_curves(a, b):
    b = np.resize(b, len(a))
    table = neuron_use.distances([use("x", a.tolist()), use("y", b.tolist(), scale="0.4M")])
    expected = 100 * np.abs(np.sort(a) - np.sort(b)).mean()
    assert table.distance_pp.to_numpy() == pytest.approx(expected, abs=1e-4)
    assert set(table.kind) == {"scales"}


def test_only_fair_pairs_are_compared():
    uses = [
        use("a", [0.2], halves=([[0.1]], [[0.3]])),
        use("b", [0.4], scale="0.4M"),
        use("c", [0.9], activation="silu"),
        use("d", [0.7], scale="0.4M", corpus="math"),
    ]
    table = neuron_use.distances(uses)
    mean = table[table.position == "mean over layers"].set_index(["kind", "a", "b"]).distance_pp
    expected = {("halves", "a", "a"): 20.0, ("scales", "a", "b"): 20.0, ("activations", "a", "c"): 70.0}
    assert mean.to_dict() == pytest.approx(expected)


def test_overlap_by_hand():
    a, b = [0.9, 0.8, 0.1, 0.1], [0.9, 0.1, 0.8, 0.1]
    (row,) = neuron_use.top_overlap([use("m", a, a), use("m", b, a, corpus="math")], share=0.5).itertuples()
    assert row.overlap == pytest.approx((1 / 2 + 2 / 2) / 2)
    assert row.chance == pytest.approx(0.5)


def test_overlap_of_random_neurons_is_what_chance_says():
    rng = np.random.default_rng(0)
    uses = [use("m", *rng.random((40, 300)).tolist(), corpus=c) for c in ("code", "math")]
    (row,) = neuron_use.top_overlap(uses).itertuples()
    assert row.overlap == pytest.approx(row.chance, abs=0.03)


def test_dead_and_specialised_neurons_by_hand():
    code, math = [0.0, 0.5, 0.02, 0.005, 0.3], [0.001, 0.1, 0.0, 0.0, 0.299]
    (row,) = neuron_use.neuron_table([use("m", code), use("m", math, corpus="math")]).to_dict("records")
    assert row["dead"] == pytest.approx(100 * 1 / 5)  # 0.05 % of all tokens; the fourth fires on 0.25 %
    assert row["only code"] == pytest.approx(100 * 2 / 5)  # five times as often, or on nothing else; the fourth is rare
    assert row["only math"] == 0


def judged(uses):
    return claims.frequency_verdicts(suite_of("any"), uses)


def four_uses(ends, middle, far):
    """Two scales of each activation, which differ by ``ends`` and ``middle``; SiLU lies at ``far``.

    Frequencies of a layer lie around its level: with spread, so that a draw of neurons differs.
    """
    spread, rows = np.linspace(-0.05, 0.05, 40), []
    for activation, level in (("relu", 0.2), ("silu", far)):
        for scale, off in (("0.1M", 0), ("0.4M", 1)):
            layers = [(level + off * apart + spread).tolist() for apart in (ends, middle, ends)]
            rows.append(use(f"{scale}-{activation}", *layers, scale=scale, activation=activation, halves=(layers,) * 2))
    return rows


@pytest.mark.parametrize(
    ("ends", "middle", "far", "expected"),
    [
        (0.1, 0.01, 0.6, ["holds", "holds"]),
        (0.01, 0.1, 0.6, ["holds", "fails"]),
        (0.1, 0.1, 0.6, ["holds", "inconclusive"]),
        (0.2, 0.01, 0.337, ["inconclusive", "holds"]),  # SiLU is as far from ReLU as the scales
        (0.2, 0.01, 0.21, ["fails", "holds"]),
    ],
)
def test_verdicts_follow_their_rules(ends, middle, far, expected):
    assert [str(row.verdict) for row in judged(four_uses(ends, middle, far))] == expected


def test_the_statistics_by_hand():
    alike, ends = judged(four_uses(0.1, 0.04, 0.6))
    # Mean over three layers: scales (10 + 4 + 10) / 3 = 8 points apart, ReLU and SiLU 40; ends 10, middle 4.
    assert alike.our_value.startswith("code: -32.00 (")
    assert ends.our_value.startswith("first layer less middle layer: 6.0 (")


def test_an_interval_holds_the_draw_of_neurons():
    """The mean of 40 neurons drawn anew has their spread over the root of 40, the gap of two root two times that."""
    drawn = claims.drawn_curves(four_uses(0.1, 0.1, 0.6)[:2])
    gaps = [curves[1:, 1].mean(axis=1) for curves in drawn.values()]
    expected = 100 * np.linspace(-0.05, 0.05, 40).std() / math.sqrt(40) * math.sqrt(2)
    assert np.std(gaps[1] - gaps[0], ddof=1) == pytest.approx(expected, rel=0.2)


def test_one_checkpoint_is_no_comparison():
    for uses in ([use("a", [0.2], [0.3])], [use("a", [0.2], [0.3], halves=([[0.1], [0.2]], [[0.3], [0.4]]))]):
        assert {row.verdict for row in judged(uses)} == {"no data"}
        assert len(neuron_use.neuron_table(uses)) == 1
        neuron_use.largest(neuron_use.distances(uses))


def test_pictures_of_one_checkpoint_and_of_unknown_scales(tmp_path):
    options = {"scale": "7B", "activation": "gelu"}
    uses = [use("mine", [0.2, 0.1], [0.3, 0.2], **options, corpus=c) for c in ("code", "my/own.txt")]
    table, distance = neuron_use.curve_table(uses), neuron_use.distances(uses)
    largest = neuron_use.largest(distance)
    mean = table.position == neuron_use.MEAN
    pictures = {
        "figure_09": (figures.figure_9(table[mean], largest), table[mean]),
        "figure_16": (figures.figure_16(table[~mean]), table[~mean]),
        "overlap": (figures.overlap(neuron_use.top_overlap(uses), 0.1), table),
    }
    for name, (picture, data) in pictures.items():
        style.save(picture, name, data, tmp_path)
        assert picture.message
    assert distance.empty and neuron_use.top_overlap(uses[:1]).empty
    assert [ax.get_title("left") for ax in pictures["figure_09"][0].axes] == ["code", "own.txt"]
    assert max(line.get_ydata().max() for line in pictures["figure_09"][0].axes[0].lines) == pytest.approx(25)


def test_pictures_of_another_suite_do_not_replace_the_ladder_s():
    suite = suite_of("x")
    assert neuron_use.ending(suite) == "_mine"
    assert neuron_use.ending(suite, "again") == "_again"
    assert neuron_use.ending(dataclasses.replace(suite, evidence="ladder")) == ""


def test_measuring_asks_for_halves_only_where_the_text_can_be_cut(monkeypatch):
    asked = []

    def fake(_function, tasks, _jobs):
        asked.append(tasks)
        return [made_up([0.1 * (1 + task.text.part)]) for task in tasks]

    monkeypatch.setattr(survey, "run", fake)
    suite = suite_of("x", "y")
    short = neuron_use.measure_frequencies(suite)
    assert [len(u.halves) for u in short] == [0] * 4
    long = neuron_use.measure_frequencies(suite, tokens=2 * survey.BATCH_TOKENS)
    assert [(t.checkpoint.name, t.text.corpus, t.text.part) for t in asked[1]][:4] == [
        ("x", "code", 0), ("x", "code", 1), ("x", "math", 0), ("x", "math", 1),
    ]  # fmt: skip
    assert [(u.checkpoint.name, u.corpus) for u in long] == [("x", "code"), ("x", "math"), ("y", "code"), ("y", "math")]
    assert long[0].whole.neuron_frequency[0].tolist() == pytest.approx([0.15])
    assert dataclasses.asdict(asked[0][0].rule) == {"pct": 1.0, "corpus": "mixture"}
