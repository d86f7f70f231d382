"""From a perplexity increase to one CETT for the model, and from CETT to one threshold for each layer (Algorithm 1).

The search evaluates points of one fixed lattice of CETT and reads the crossing from a smooth curve through those around
it (``crossing``).
"""

import hashlib
import itertools
import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from .arguments import number, one_of
from .cett import CettCurves, Point
from .crossing import (
    CLIP,
    EXPONENT,
    LARGEST_CETT,
    STEP,
    Crossing,
    certainty,
    find_crossing,
    lattice,
    log_share,
    reach_of,
)
from .forward import Z90, Batches, TokenBatches, as_list, mean_and_error
from .rules import CETT
from .scan import scan_batches
from .thresholds import Thresholds

LEAST_TOLERANCE, UNKNOWN_TOLERANCE = 0.02, 0.1  # of the target; the second where no curve tells
SAID = 0.05  # of the target: a rise further off is not p in its second digit, and is said though scatter explains it
MONOTONE_TOLERANCE = 2e-4  # in log(ratio)
PROBED, LEAST_PROBED = 8, 256  # the first look is at one row in so many, if that leaves so many tokens
LAYERS = 6  # up to so many FFNs raise the loss by about CETT², twice as many by twice that: where a search begins
# Ratios of three lattices of CETT values. A target is approached through the lattice points around it, which it shares
# with its neighbours: so thresholds rise with the target, however close two targets lie.
STEPS = (1.4, 1.05, 1.005)
WIDE_GRID = np.geomspace(0.003, 0.95, 48)  # 13 % apart: wider, and CETT between two points is off by 3 %
Z99 = 2.576  # standard errors to either end of a 99 % interval


class SearchWarning(UserWarning):
    """A doubt about a search; ``found`` is its result, which is not lost where warnings are made errors."""

    found: Thresholds


def find_thresholds(
    model: PreTrainedModel,
    batches: Batches,
    ppl_increase_pct: float = 1.0,
    *,
    criterion: str = "ppl",
    method: str = "lattice",
    stop_width: float = 1e-3,
    held_out: Batches | None = None,
    tokenizer: object | None = None,
) -> Thresholds:
    """Find the one CETT, and with it a threshold for each layer, that raises perplexity by p % (Sec 4.2, Algorithm 1).

    ``batches`` are token ids (rows × length) or dicts with ``attention_mask``. ``criterion="kl"`` asks that
    exp(KL(dense ‖ sparse)) rises by p % instead: it varies less from token to token, so that a shorter text will do
    (notebook 01 has by how much); each of its sparse passes brings a dense one. ``method="bisection"`` is Algorithm 1
    as printed, to ``stop_width`` on CETT. The default reads CETT from a smooth curve through two or three points of a
    fixed lattice (of a text under a few thousand tokens, up to five), and measures the ratio there with one pass more:
    it differs from the target by the scatter of single points about that curve, up to ``tolerance``. The answer is
    judged on ``held_out`` batches too if given; ``tokenizer`` is only noted in the result.

    Raises ValueError for an increase that is not positive, a text that cannot be measured, or a loss that is not
    finite; UnsupportedModel for a model whose FFNs cannot be found. Warns if the target cannot be met, or is missed by
    more than ``tolerance`` or a twentieth of p, the ratio is not monotone on this text, or the text is too short to
    resolve p; each such warning has the result as ``found``, for those who make warnings errors.
    """
    target = _checked_target(ppl_increase_pct, criterion, method, stop_width)
    other = None if held_out is None else TokenBatches(model, held_out)  # refused before the search, not after it
    curves = CettCurves(model, batches, with_kl=criterion == "kl")
    answer, runs, fit = _solve([curves], target, method, stop_width)
    asked = {"ppl_increase_pct": float(ppl_increase_pct), "criterion": criterion}
    found = _artefact(curves, answer, tokenizer, **asked, **_judged(curves, answer, runs, fit, target))
    if other is not None:
        judged = scan_batches(model, curves.ffns, other, [found], kl=False)
        log_ratio, error = mean_and_error(judged.rises[0])
        report = {
            "ppl_ratio": math.exp(log_ratio),
            "ppl_ratio_se": None if error is None else math.exp(log_ratio) * error,
            "activation_ratio": float(judged.activation_ratio[0]),
            "tokens": other.tokens,
        }
        found = replace(found, held_out=report)
    _warn(found)
    return found


def thresholds_for_cett(
    model: PreTrainedModel, batches: Batches, cett: float | CETT, *, tokenizer: object | None = None
) -> Thresholds:
    """Find the threshold of each layer that gives a target CETT (Sec 4.1): up to four dense passes and a sparse one.

    Raises ValueError for a target outside [0, 1) and as ``find_thresholds`` does.
    """
    rule = cett if isinstance(cett, CETT) else CETT(cett)
    curves = CettCurves(model, batches)
    if rule.target > 0:
        for level, step in enumerate(STEPS):
            # Two powers of the step on both sides, so that the cell the target lies in has its neighbours.
            below = math.floor(math.log(rule.target) / math.log(step))
            curves.refine(np.minimum(step ** np.arange(below - 1.0, below + 3.0), LARGEST_CETT), level)
    return _artefact(curves, curves.evaluate(rule.target), tokenizer)


def shared_cett(
    models: Sequence[PreTrainedModel],
    batches: Batches,
    ppl_increase_pct: float = 1.0,
    *,
    criterion: str = "ppl",
    method: str = "lattice",
    stop_width: float = 1e-3,
) -> float:
    """Find the one CETT at which the mean perplexity ratio over several checkpoints rises by p % (Appendix E).

    Raises ValueError for an empty list of models and as ``find_thresholds`` does. Warns if the mean ratio cannot be
    raised so far, or ends further from it than the scatter of the text explains or than a twentieth of p.
    """
    target = _checked_target(ppl_increase_pct, criterion, method, stop_width)
    if not isinstance(models, Iterable) or not (models := list(models)):
        raise ValueError("shared_cett needs a list of at least one model.")
    batches = as_list(batches)
    curves = [CettCurves(model, batches, with_kl=criterion == "kl") for model in models]
    answer, runs, fit = _solve(curves, target, method, stop_width)
    tolerance = _errors(runs, answer, fit, target)[1]
    reached = _reached(runs, answer, fit, target, tolerance)
    if not all(reached.values()) or _notably_off(dict(runs.seen)[answer.cett], target):
        warnings.warn(
            f"At CETT {answer.cett:.3f} the mean of {'exp(KL)' if criterion == 'kl' else 'the perplexity ratios'} over "
            f"{len(models)} models is {math.exp(dict(runs.seen)[answer.cett]):.4f}, not {math.exp(target):g}; the "
            f"scatter of this text explains a difference of {tolerance:.4f}. A longer text is smoother.",
            stacklevel=2,
        )
    return answer.cett


def _checked_target(ppl_increase_pct: float, criterion: str, method: str, stop_width: float) -> float:
    one_of("criterion", criterion, ("ppl", "kl"))
    one_of("method", method, ("lattice", "bisection"))
    ends = "the width on CETT at which bisection ends, in (0, 1)"
    number("stop_width", stop_width, ends, lambda width: 0 < width < 1)
    allowed = "the allowed rise of perplexity in percent, above 0"
    return math.log1p(number("ppl_increase_pct", ppl_increase_pct, allowed, lambda p: 0 < p < math.inf) / 100)


class _Runs:
    """Sparse passes of one or several models at the same CETT, and the rise they make together."""

    def __init__(self, curves: Sequence[CettCurves]) -> None:
        self.curves = curves
        self.seen: list[tuple[float, float]] = []
        self.lattice: dict[int, Point] = {}
        self.exact: set[int] = set()

    def at(self, cett: float, one_in: int = 1) -> tuple[list[Point], float]:
        """A pass of each model; log of the mean ratio."""
        points = [each.evaluate(cett, one_in) for each in self.curves]
        rise = math.log(sum(math.exp(point.rise) for point in points) / len(points))
        if one_in == 1:
            self.seen.append((cett, rise))
        return points, rise

    def at_lattice(self, index: int) -> tuple[float, float]:
        """Rise and its standard error at a lattice point, thresholds exact there."""
        if index not in self.exact:
            whole = all(each.whole for each in self.curves)
            wanted = [index] if whole else [i for i in range(index - 2, index + 3) if i <= 0 and i not in self.exact]
            for each in self.curves:
                each.refine([lattice(i) for i in wanted])
            self.exact.update(wanted)
        points, rise = self.at(lattice(index))
        self.lattice[index] = points[0]
        return rise, _mean_error(points)


def _solve(
    curves: list[CettCurves], target: float, method: str, stop_width: float
) -> tuple[Point, _Runs, Crossing | None]:
    """Search the CETT at which the mean ratio over models meets the target: the point there, all runs, the fit."""
    runs, fit = _Runs(curves), None
    if method == "bisection":
        for each in curves:
            each.refine(WIDE_GRID)
        low, high = 0.0, 1.0
        while high - low > stop_width:
            middle = (low + high) / 2
            low, high = (middle, high) if runs.at(middle)[1] < target else (low, middle)
        cett = (low + high) / 2
    else:
        fit = find_crossing(runs.at_lattice, target, reach_of(curves[0].corpus.targets), _start(runs, target))
        cett = min(math.exp(fit.log_cett), LARGEST_CETT)
    return runs.at(cett)[0][0], runs, fit


def _mean_error(points: Sequence[Point]) -> float:
    """Standard error of a rise over several models, as if they erred together: they read one text."""
    return sum(point.error or 0.0 for point in points) / len(points)


def _start(runs: _Runs, target: float) -> float:
    """Log of the CETT to begin with: from the number of FFNs, and of many rows a look at some at one lattice point."""
    ffns, corpus = runs.curves[0].ffns, runs.curves[0].corpus
    guess = min(math.log(target / max(1, len(ffns) / LAYERS)) / EXPONENT, math.log(0.5))
    if corpus.targets < PROBED * LEAST_PROBED or sum(len(batch.ids) for batch in corpus.batches) < PROBED:
        return guess
    index = round(guess / STEP)
    points, rise = runs.at(lattice(index), PROBED)
    # So few tokens can be far off: the less sure the look, the less it moves the guess.
    return index * STEP - certainty(rise, _mean_error(points), target) * log_share(rise, target) / EXPONENT


def _errors(runs: _Runs, answer: Point, fit: Crossing | None, target: float) -> tuple[float | None, float]:
    """Standard error of the answer's log(CETT), and how far its rise may lie from the target, in nats.

    From losses paired block by block: at the answer itself, or at the lattice points from which it was read.
    """
    if answer.error is None or fit is None:
        return answer.error and answer.error / (EXPONENT * target), UNKNOWN_TOLERANCE * target
    # By the delta method: what the lattice points say, through the curve, of each block's rise at the answer. What the
    # answer's own rise has beside that is scatter of single points about the curve.
    smooth = torch.zeros_like(answer.blocks)
    smooth[:, 1] = answer.blocks[:, 1]
    for index, weight in fit.weights.items():
        sums = runs.lattice[index].blocks
        rise = max(float(sums[:, 0].sum() / sums[:, 1].sum()), target / CLIP)
        smooth[:, 0] += weight * target / rise * sums[:, 0]
    beside = torch.stack([answer.blocks[:, 0] - smooth[:, 0], smooth[:, 1]], dim=1)
    error, scatter = (mean_and_error(blocks)[1] or 0.0 for blocks in (smooth, beside))
    return error / (fit.slope * target), max(Z99 * scatter, LEAST_TOLERANCE * target)


def _reached(runs: _Runs, answer: Point, fit: Crossing | None, target: float, tolerance: float) -> dict[str, bool]:
    """Whether the answer lies within the tolerance, and whether the target was reached by any point."""
    off = dict(runs.seen)[answer.cett] - target
    return {
        "converged": abs(off) <= tolerance and (fit is None or fit.complete),
        # The answer may end a little below the target, in the noise of a short text, if points on both sides were seen.
        "target_met": max(rise for _, rise in runs.seen) >= target - MONOTONE_TOLERANCE,
    }


def _notably_off(rise: float, target: float) -> bool:
    return abs(rise - target) > SAID * target


def _judged(curves: CettCurves, answer: Point, runs: _Runs, fit: Crossing | None, target: float) -> dict[str, Any]:
    """How far and how surely the answer meets the target: fields of Thresholds."""
    log_cett_se, tolerance = _errors(runs, answer, fit, target)
    points = sorted(runs.seen)
    judged: dict[str, Any] = {
        "tolerance": tolerance,
        **_reached(runs, answer, fit, target, tolerance),
        "monotone": all(b[1] >= a[1] - MONOTONE_TOLERANCE for a, b in itertools.pairwise(points)),
        "points": tuple((cett, math.exp(rise)) for cett, rise in points),
    }
    if log_cett_se is not None and answer.error is not None:
        factors = [math.exp(min(sign * Z90 * log_cett_se, CLIP)) for sign in (-1, 1)]
        ends = [min(answer.cett * factor, LARGEST_CETT) for factor in factors]
        active = [curves.active_share(cett) for cett in (*ends, answer.cett)]
        scale = answer.activation_ratio / active[2] if active[2] else 1.0
        judged |= {
            "cett_se": answer.cett * log_cett_se,
            "cett_interval": tuple(ends),
            "activation_interval": (min(1.0, scale * active[1]), min(1.0, scale * active[0])),
            "tokens_needed": math.ceil(curves.corpus.tokens * (answer.error / (0.1 * target)) ** 2),
        }
    return judged


def _artefact(curves: CettCurves, answer: Point, tokenizer: object | None, **judged: Any) -> Thresholds:
    ratio, norms = math.exp(answer.log_ratio), [ffn.column_norms for ffn in curves.ffns]
    provenance = {
        "model": curves.model.name_or_path or None,
        "revision": getattr(curves.model.config, "_commit_hash", None),
        "column_norms_sha256": hashlib.sha256(b"".join(n.cpu().numpy().tobytes() for n in norms)).hexdigest(),
        "dtype": str(curves.model.dtype).removeprefix("torch."),
        "tokenizer": getattr(tokenizer, "name_or_path", None),
        "corpus_sha256": curves.corpus.sha256,
        "sparsinglib": version("sparsinglib"),
    }
    return Thresholds(
        values=tuple(answer.thresholds),
        cett=answer.cett,
        ppl_ratio=ratio,
        ppl_ratio_se=None if answer.se is None else ratio * answer.se,
        activation_ratio=answer.activation_ratio,
        kl=answer.kl,
        tokens=curves.corpus.tokens,
        sparse_passes=curves.sparse_passes,
        dense_passes=curves.dense_passes,
        layers=tuple(ffn.d_ff for ffn in curves.ffns),
        column_norms=tuple(float(n.mean()) for n in norms),
        provenance=provenance,
        **judged,
    )


def _warn(found: Thresholds) -> None:
    p, kl, said = found.ppl_increase_pct or 0.0, found.criterion == "kl", []
    rise = found.kl or 0.0 if kl else math.log(found.ppl_ratio)
    what = f"{'exp(KL)' if kl else 'the perplexity ratio'} is {math.exp(rise):.4f}"
    if not found.target_met:
        said.append(
            f"{'KL' if kl else 'Perplexity'} was not raised by {p:g} % on this text by any CETT "
            f"tried: at CETT {found.cett:.3f} perplexity is {found.ppl_ratio:.4f} times the dense one"
            f"{'' if found.kl is None else f', KL {found.kl:.4f}'}."
        )
    elif not found.converged or _notably_off(rise, math.log1p(p / 100)):
        said.append(
            f"The search ended at CETT {found.cett:.3f}, where {what}, not {1 + p / 100:g}; the scatter of this text "
            f"explains a difference of {found.tolerance:.4f}. See Thresholds.points. A longer text is smoother, and a "
            "bisection closer with a smaller stop_width."
        )
    if not found.monotone:
        said.append(
            f"The {'KL' if kl else 'perplexity ratio'} is not monotone in CETT on this text; see Thresholds.points."
        )
    what = "KL" if kl else "ratio"
    if found.tokens_needed is None:
        said.append(f"{found.tokens} tokens are too few to say how sure the {what} is.")
    else:
        kl_error = 0.1 * p * math.sqrt(found.tokens_needed / found.tokens)  # what is needed brings it to a tenth of p
        error = kl_error if kl else 100 * (found.ppl_ratio_se or 0.0)
        if 2 * error > p:
            said.append(
                f"{found.tokens} tokens cannot resolve {p:g} %: the standard error of the {what} is {error:.2f} %. "
                f"About {found.tokens_needed} tokens resolve p to a tenth."
            )
    for text in said:
        warning = SearchWarning(text)
        warning.found = found
        warnings.warn(warning, stacklevel=3)
