"""The estimates by which notebook 00 judges claims C03 and C21 on one or two models."""

import math

from ...core.thresholds import Thresholds
from ...paper.claims import Estimate, Row, judge
from ...suites.suite import evidence
from .numbers import Measured


def verdicts(first: Measured, second: Measured | None) -> list[Row]:
    """C03 on the ReLU model; C21 on a ReLU and a SiLU model of the same size."""
    models = [s for s in (first, second) if s]
    relu, silu = (next((s for s in models if bool(s.zeros) == zeros), None) for zeros in (True, False))
    return [_zeros(first, relu), _activation(first, relu, silu)]


def _at_one_percent(of: Measured) -> Estimate | None:
    """Activation ratio (%) at CETT-PPL-1% with its interval; None if that is not what was measured, or has none."""
    rule = of.rule
    if not isinstance(rule, Thresholds) or round(rule.ppl_increase_pct or 0, 6) != 1 or not rule.target_met:
        return None
    if rule.activation_interval is None:
        return None
    value, low, high = (100 * x for x in (rule.activation_ratio, *rule.activation_interval))
    return Estimate(value, low, high, "%", f"{of.label}:")


def _zeros(of: Measured, relu: Measured | None) -> Row:
    if not relu or not relu.zeros or not (ratio := _at_one_percent(relu)):
        missing = "Needs a ReLU model, strategy pplp with 1.01, and enough text for an interval"
        return judge("C03", evidence(of.name), missing)
    nonzero = 100 * relu.zeros.activation_ratio
    value, low, high = (100 * (1 - x / nonzero) for x in (ratio.value, ratio.high, ratio.low))
    note = f"{relu.label}, {nonzero:.1f} % to {ratio.value:.1f} %:"
    return judge("C03", evidence(relu.name), Estimate(value, low, high, "percent fewer", note))


def _activation(of: Measured, relu: Measured | None, silu: Measured | None) -> Row:
    low, high = (model and _at_one_percent(model) for model in (relu, silu))
    if not relu or not silu or not low or not high or relu.model.num_parameters() != silu.model.num_parameters():
        missing = "Needs a ReLU and a SiLU model of one size, strategy pplp with 1.01, and enough text for an interval"
        return judge("C21", evidence(of.name), missing)
    gap = high.value - low.value
    down = math.hypot(high.value - high.low, low.high - low.value)
    up = math.hypot(high.high - high.value, low.value - low.low)
    note = f"{silu.label} less {relu.label}:"
    return judge("C21", evidence(relu.name), Estimate(gap, gap - down, gap + up, "points", note))
