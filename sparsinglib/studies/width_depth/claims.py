"""The rules by which notebook 03 judges the paper's claims on width and depth: tables in, rows for ``paper.check`` out.

Verdicts come from intervals. A claim is "not measured yet" while shapes that could decide it are missing, and left open
("not testable here") where the intervals of all shapes allow both answers; each rule stands in the row's ``why``.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy import stats

from ...laws.two_segments import LEAST, Bend
from ...paper import published as paper
from ...paper.published import NOT_YET, Check
from ..scaling import claims as law_checks
from . import bends as width_depth_bends
from . import numbers as width_depth

BAND = 0.01  # "best-performing": a training loss within one percent of the best shape's
NAMES = {"limit": "limit", "last": f"value at {width_depth.MILLIONS} tokens"}
UNPUBLISHED = "The points of the paper's figure are not published."


def _open(measured: pd.DataFrame) -> str | None:
    """The verdict where no answer can be given: "not measured yet" while shapes are missing."""
    return NOT_YET if len(measured) < len(width_depth.SHAPES) else None


def fact(item: str) -> float:
    """A number of Section 5.2, by its name in ``data/paper/width_depth.csv``."""
    return float(paper.read("width_depth").set_index("item").value[item])


def count_checks(table: pd.DataFrame) -> list[Check]:
    """C36: nine shapes. The authors' configurations name more; how many we train is our choice and tests nothing."""
    known, measured = width_depth.paper_shapes(), int((table.state == "measured").sum())
    inside = int((known.in_figures != "beyond the axis").sum())
    value = f"{len(known)} shapes configured, {inside} of them within the figures' axis"
    why = "Rule: not testable, since which of them are drawn is not said."
    ours = f"{measured} of {len(table)} shapes measured"
    rule = "Rule: not testable, since the number of our shapes is our choice."
    return [Check("C36", "paper", value, None, why), Check("C36", "ladder", ours, None, rule)]


def bend_checks(activation: pd.DataFrame, found: Mapping[str, Bend], main: pd.Series) -> list[Check]:
    """C34 (a rise up to a bottleneck) and C35 (a level above it), for the limit and for the value at the end.

    ``main`` is ``width_depth.paper_main``.
    """
    rows = _paper_bend(main)
    rule = (
        "Rule: the slope's 90 % interval is above zero, the bottleneck's ends within the shapes, and the two segments "
        "lie nearer to the points than a line in log2(ratio), which has no bottleneck (reduced chi-square). "
        f"{fact('bottleneck_ratio'):g} itself cannot be expected: see the readings."
    )
    for name, label in NAMES.items():
        b = found.get(name)
        if b is None:
            usable = int(activation.identified.sum()) if name == "limit" else len(activation)
            text = f"{label}: {usable} usable shapes, {LEAST} needed"
            why = "Rule: a two-segment fit; needs six shapes" + (
                ", limit fixed over all drops." if name == "limit" else "."
            )
            rows += [Check(claim, "ladder", text, _open(activation), why) for claim in ("C34", "C35")]
            continue
        rises = True if b.slope_interval[0] > 0 else False if b.slope_interval[1] < 0 else None
        two, straight = width_depth_bends.misfit(activation, found, name)
        shape = b.turn_open in ("", "low") and two <= straight
        verdict = rises if rises is False or (rises and shape) else _open(activation)
        turn = f"bottleneck {b.turn:.1f} ({b.turn_interval[0]:.1f} to {b.turn_interval[1]:.1f})"
        slope = f"slope {b.slope:+.3f} ({b.slope_interval[0]:+.3f} to {b.slope_interval[1]:+.3f}) pp a unit of ratio"
        form = f"chi-square {two:.1f}, of the line {straight:.1f}"
        rows.append(Check("C34", "ladder", f"{label}: {slope}; {turn}; {form}", verdict, rule))
        rows.append(_level_check(activation, name, b))
    return rows


def _paper_bend(main: pd.Series) -> list[Check]:
    """What the authors' published points say: one shape, which should lie below the level."""
    level = fact("level_above_bottleneck_pct")
    limit = f"{100 * main.a0:.2f} ({100 * main.low:.2f} to {100 * main.high:.2f}) percent at ratio {main.ratio:g}"
    side = "below" if 100 * main.high < level else "not clearly below"
    value = f"one shape published: {limit}, {side} the level of {level:g}"
    return [
        Check("C34", "paper", value, None, f"Rule: not testable with one shape. {UNPUBLISHED}"),
        Check("C35", "paper", "no shape above the bottleneck published", None, f"Rule: not testable. {UNPUBLISHED}"),
    ]


def _level_check(activation: pd.DataFrame, name: str, b: Bend) -> Check:
    """C35 for one quantity: do the shapes beyond the bottleneck's upper end still rise or fall?"""
    low, high = ("low", "high") if name == "limit" else ("last_low", "last_high")
    keep = (activation.ratio >= b.turn_interval[1]) & ((name == "last") | activation.identified.astype(bool))
    above = activation[keep]
    text = f"{NAMES[name]}: level {b.level:.1f} ({b.level_interval[0]:.1f} to {b.level_interval[1]:.1f}) percent"
    rule = "Rule: a line through the shapes above the bottleneck's interval has a 90 % interval that holds zero"
    if len(above) < 3:
        return Check(
            "C35", "ladder", f"{text}; {len(above)} shapes above", _open(activation), f"{rule}; needs three shapes."
        )
    size = ((above[high] - above[low]) / 2 / width_depth.Z).to_numpy()
    x, y, weight = np.log2(above.ratio.to_numpy()), above[name].to_numpy(), 1 / size**2
    centred = x - np.average(x, weights=weight)
    slope, error = (weight * centred * y).sum() / (weight * centred**2).sum(), (weight * centred**2).sum() ** -0.5
    error *= max(1.0, np.sqrt((weight * (y - np.average(y, weights=weight) - slope * centred) ** 2).sum()))
    half = float(stats.t.ppf(0.95, max(len(above) - 2, 1))) * error
    value = f"{text}; {len(above)} shapes above it change by {slope:+.2f} (±{half:.2f}) pp a doubling of the ratio"
    return Check("C35", "ladder", value, bool(abs(slope) <= half), f"{rule}.")


def band(losses: pd.DataFrame, share: float = BAND) -> pd.DataFrame:
    """The shapes whose loss is within ``share`` of the best: ``losses`` with ``place``, "inside", "outside" or "open".

    By the interval of the paired difference from the best shape; "open" where it holds the edge.
    """
    edge = share * losses.reached.min()
    place = np.select([losses.above_high <= edge, losses.above_low > edge], ["inside", "outside"], "open")
    return losses.assign(place=place)


def best_interval(losses: pd.DataFrame, share: float = BAND) -> tuple[float, float]:
    """Smallest and largest ratio of the unbroken row of shapes around the best inside the band; NaN if none."""
    table = band(losses, share).sort_values("ratio", ignore_index=True)
    if table.empty:
        return float("nan"), float("nan")
    first = last = int(table.above.idxmin())
    while first > 0 and table.place[first - 1] == "inside":
        first -= 1
    while last < len(table) - 1 and table.place[last + 1] == "inside":
        last += 1
    return float(table.ratio[first]), float(table.ratio[last])


def interval_text(losses: pd.DataFrame, share: float) -> str:
    """``best_interval`` in words."""
    low, high = best_interval(losses, share)
    return "open: no shape trained to its end yet" if np.isnan(low) else f"ratio {low:.3g} to {high:.3g}"


def loss_checks(table: pd.DataFrame, losses: pd.DataFrame, activation: pd.DataFrame) -> list[Check]:
    """C37 and C38 (the interval of best loss and its sparse end) and C39 (very deep is worse)."""
    rows = [Check(claim, "paper", "no values", None, f"Rule: not testable. {UNPUBLISHED}") for claim in _LOSS_CLAIMS]
    if len(losses) < LEAST:
        text = f"{len(losses)} of {len(table)} shapes trained, {LEAST} needed"
        why = "Rule: needs six shapes trained to the same number of tokens."
        return rows + [Check(claim, "ladder", text, NOT_YET, why) for claim in _LOSS_CLAIMS]
    places, (low, high) = band(losses), best_interval(losses)
    all_there = len(losses) == len(table)
    worse = {
        "below": bool((places.ratio < low).any() and places.place[places.ratio < low].isin(["outside"]).any()),
        "above": bool((places.ratio > high).any() and places.place[places.ratio > high].isin(["outside"]).any()),
    }
    text = f"loss within {BAND:.0%} of the best: ratio {low:.3g} to {high:.3g}"
    sparser = sparse_end(activation, low, high)
    word = {True: "sparsest at its lower end", False: "not sparsest at its lower end", None: "sparsity not told apart"}
    deepest = bool(low == places.ratio.min())  # else a deeper shape is there and not told apart
    ends = [worse["below"] or (False if all_there and deepest else None), sparser]
    verdict = False if False in ends else _open(losses) if None in ends else True
    why = (
        "Rule: some deeper shape is clearly outside the band, and the narrowest shape inside has a lower activation "
        f"ratio than the widest inside, intervals apart. {fact('best_interval_min'):g} itself does not carry over: see "
        "the readings."
    )
    rows.append(Check("C37", "ladder", f"{text}, {word[sparser]}", verdict, why))
    upper = True if worse["above"] else None if all_there else NOT_YET
    why = "Rule: some wider shape is clearly outside the band; open where none is told apart, or none can be wider. "
    why += f"{fact('best_interval_max'):g} itself does not carry over."
    rows.append(Check("C38", "ladder", text, upper, why))
    return [*rows, _deepest_check(table, places)]


_LOSS_CLAIMS = ("C37", "C38", "C39")


def sparse_end(activation: pd.DataFrame, low: float, high: float) -> bool | None:
    """Whether the narrowest shape of the band has a lower activation ratio than the widest; None if not told apart."""
    ends = activation.set_index("ratio")
    if low == high or not {low, high} <= set(ends.index):
        return None
    narrow, wide = ends.loc[low], ends.loc[high]
    return True if narrow.last_high < wide.last_low else False if narrow.last_low > wide.last_high else None


def _deepest_check(table: pd.DataFrame, places: pd.DataFrame) -> Check:
    """C39: is the deepest shape's loss clearly above the band?"""
    deepest = places.sort_values("ratio").iloc[0]
    value = f"{deepest['shape']} ends {deepest.above:+.3f} ({deepest.above_low:+.3f} to {deepest.above_high:+.3f})"
    verdict: bool | str | None = {"outside": True, "inside": False, "open": None}[str(deepest.place)]
    if deepest.run != table.sort_values("ratio").run.iloc[0] and not verdict:
        verdict = NOT_YET
    why = (
        f"Rule: the deepest shape's paired difference from the best is above {BAND:.0%} of the loss, interval included."
    )
    return Check("C39", "ladder", f"{value} nats above the best", verdict, f"{why} Its cause is not tested.")


def cost_check(costs: pd.DataFrame) -> list[Check]:
    """C40: does training time grow with the number of layers at one size? Slope of log time on log layers."""
    if len(costs) < LEAST:
        return [
            Check("C40", "ladder", f"{len(costs)} shapes timed, {LEAST} needed", NOT_YET, "Rule: needs six shapes.")
        ]
    line = stats.linregress(np.log2(costs.layers), np.log2(costs.seconds))
    half = float(stats.t.ppf(0.95, len(costs) - 2) * line.stderr)
    low, high = line.slope - half, line.slope + half
    value = f"{2**line.slope:.2f} ({2**low:.2f} to {2**high:.2f}) times the time for twice the layers"
    most, least = costs.loc[costs.layers.idxmax()], costs.loc[costs.layers.idxmin()]
    value += f"; arithmetic {most.mflop / least.mflop:.2f} times, {most['shape']} over {least['shape']}"
    why = "Rule: the 90 % interval lies above 1. Timed on a machine that also did other work, so the size is rough."
    return [Check("C40", "ladder", value, True if low > 0 else False if high < 0 else None, why)]


def recipe_checks(trend: pd.DataFrame, losses: pd.DataFrame, activation: pd.DataFrame) -> list[Check]:
    """C65, the recipe: ReLU, more data, a small ratio within the stable range. All three parts must hold.

    ``trend`` is ``trends.activations``: the scale study's runs of both kinds of evidence.
    """
    rows = []
    for evidence in ("paper", "ladder"):
        part = trend[trend.evidence == evidence].sort_values("tokens")
        end = part.groupby("run").activation_ratio.apply(lambda y: y.iloc[-max(len(y) // 3, 1) :].mean())
        labels = part.drop_duplicates("run").query("seed == 1").set_index("run")
        wide = labels.assign(end=end).pivot(index="scale", columns="activation", values="end")
        pairs = wide.dropna() if {"relu", "silu"} <= set(wide) else wide.iloc[:0]
        way = law_checks.ways(part[part.activation == "relu"])
        interval = best_interval(losses) if evidence == "ladder" and len(losses) >= LEAST else (np.nan, np.nan)
        parts = {
            "ReLU": bool((pairs.relu < pairs.silu).all()) if len(pairs) else None,
            "more data": False if "wrong" in set(way.way) else True if set(way.way) == {"right"} else None,
            "small ratio": sparse_end(activation, *interval),
        }
        words = {True: "yes", False: "no", None: "open"}
        left_open = _open(losses) if evidence == "ladder" else None
        verdict = False if False in parts.values() else left_open if None in parts.values() else True
        value = ", ".join(f"{name}: {words[answer]}" for name, answer in parts.items())
        why = (
            f"Rule: lower than SiLU at every scale with both ({len(pairs)}); falls from first to last third of the "
            f"tokens after warm-up in every ReLU run ({len(way)}); lowest at the narrow end of the shapes with the "
            f"best loss. {law_checks.ways_text(way)}"
        )
        rows.append(Check("C65", evidence, value, verdict, why + (f" {UNPUBLISHED}" if evidence == "paper" else "")))
    return rows


def readings(found: Mapping[str, Bend], losses: pd.DataFrame) -> pd.DataFrame:
    """``width_depth.translation`` beside what the ladder shows: its columns, ours, low, high, inside.

    The bottleneck's interval is that of the value at the end; an end of the best interval lies between the last shape
    inside the band and the next one clearly outside it, and has no bound where there is none. NaN where the ladder has
    no value yet; ``inside`` is "open" there, and for what lies beyond the last shape on a side without a bound.
    """
    table, rows = width_depth.translation(), {}
    if b := found.get("last"):
        rows["bottleneck"] = (b.turn, *b.turn_interval)
    if len(losses) >= LEAST:
        low, high = best_interval(losses)
        places = band(losses)
        outside = places.ratio[places.place == "outside"]
        rows["best, lower end"] = (low, outside[outside < low].max(), low)
        rows["best, upper end"] = (high, high, outside[outside > high].min())
    ours = pd.DataFrame([(*rows.get(q, (np.nan,) * 3),) for q in table.quantity], columns=["ours", "low", "high"])
    below, above = table.ratio < ours.low, table.ratio > ours.high
    unknown = ours.ours.isna() | (ours.low.isna() & ~above) | (ours.high.isna() & ~below)
    inside = np.select([unknown, below | above], ["open", "no"], "yes")
    return pd.concat([table, ours], axis=1).assign(inside=inside)


def limits_note(activation: pd.DataFrame) -> str:
    """A sentence on the limits that the points do not fix."""
    loose = activation.loc[~activation.identified.astype(bool), "shape"].tolist()
    count = f"{len(activation) - len(loose)} of {len(activation)} limits fixed by the points over all drops"
    return f"{count}; not fixed: {', '.join(loose)}" if loose else count
