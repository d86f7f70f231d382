"""Statistics of scores, by hand and against the normal interval."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from task_scores import scores, two_groups

from sparsinglib.tasks import statistics


def test_mcnemar_by_hand():
    before, after = pd.Series([1.0] * 8 + [0.0, 1.0]), pd.Series([0.0] * 8 + [1.0, 1.0])
    assert statistics.mcnemar(before, after) == pytest.approx(2 * (math.comb(9, 0) + math.comb(9, 1)) / 2**9)
    assert statistics.mcnemar(before, before) == 1
    assert math.isnan(statistics.mcnemar(before, after * 0.5))


@given(st.integers(0, 2**20), st.integers(1, 3))
def test_the_interval_agrees_with_the_normal_one(seed, parts):
    generator = np.random.default_rng(seed)
    samples = [generator.choice([-1.0, 0.0, 1.0], size=400, p=[0.1, 0.85, 0.05]) for _ in range(parts)]
    mean, low, high = statistics.interval(samples)
    error = math.sqrt(sum(s.var() / len(s) for s in samples))
    assert mean == pytest.approx(sum(s.mean() for s in samples))
    assert low == pytest.approx(mean - 1.645 * error, abs=0.35 * error)
    assert high == pytest.approx(mean + 1.645 * error, abs=0.35 * error)


def test_a_missing_dense_score_is_named():
    table = scores({("m", "dense", 0.0, "t", "acc"): [1, 0], ("m", "r", 1.0, "t", "acc"): [1, 0, 1]})
    with pytest.raises(ValueError, match=r"m, t: example t/2 was not scored"):
        statistics.summarise(table)


def test_only_tasks_above_chance_enter_and_a_group_needs_two():
    examples, groups, chance = two_groups()
    assert chance.groupby("task").testable.all().to_dict() == {"t1": True, "t2": True, "u1": True, "u2": False}
    means = statistics.group_means(examples, groups, chance).set_index(["model", "group", "rule"])
    assert math.isnan(means.value["a-relu", "U", "r"]) and means.tasks["a-relu", "U", "r"] == 1
    assert means.value["a-relu", "T", "dense"] == pytest.approx(0.75)
    for model in ("a-relu", "a-silu", "mean"):
        assert means.difference[model, "T", "r"] == pytest.approx(-0.05)
    # Two models that fail on the same examples tell no more than one: resampled together, the interval stays as wide.
    width = means.difference_high - means.difference_low
    assert width["mean", "T", "r"] == pytest.approx(width["a-relu", "T", "r"], rel=1e-6)


def test_the_mean_over_models_has_rules_without_a_p_too():
    examples, groups, chance = two_groups()
    means = statistics.group_means(examples.assign(p=examples.p.where(examples.rule != "r")), groups, chance)
    mean = means[means.model == "mean"].set_index(["group", "rule"])
    assert mean.p.isna()["T", "r"] and mean.difference["T", "r"] == pytest.approx(-0.05)


def test_a_mean_over_metrics_counts_each_metric_once():
    cells = {}
    for rule, p, drop in (("dense", 0.0, 0), ("r", 1.0, 1)):
        cells["m", rule, p, "t", "f1"] = [0.9 - 0.4 * drop] * 20
        cells["m", rule, p, "t", "acc"] = [0.8 - 0.2 * drop] * 20
        cells["m", rule, p, "u", "acc"] = [0.7] * 20
    groups = pd.DataFrame([("t", "f1", "G"), ("t", "acc", "G"), ("u", "acc", "G")], columns=["task", "metric", "group"])
    floors = groups.assign(chance=0.1)
    examples = scores(cells)
    chance = statistics.above_chance(statistics.summarise(examples), floors)
    means = statistics.group_means(examples, groups, chance).set_index("rule")
    assert means.value["r"] == pytest.approx((0.5 + 0.6 + 0.7) / 3)
    assert means.difference["r"] == pytest.approx(-(0.4 + 0.2) / 3)
