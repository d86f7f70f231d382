"""From a perplexity increase to one CETT for the model, and from CETT to one threshold for each layer (Algorithm 1).

Thresholds depend on the dense pass alone, so each step of the search costs one sparse pass and nothing else.
"""

import hashlib
import itertools
import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from .arguments import number, one_of
from .forward import TokenBatches, as_list
from .rules import CETT
from .thresholds import Thresholds
from .trial import Batches, Point, Trial

LOG_RATIO_TOLERANCE = 2e-4
BRACKET_WIDTH = 0.01  # relative width of the bracket on CETT below which the ratio of a short text is noise
MOST_SPARSE_PASSES = 6
LARGEST_CETT = 0.999
FINE_GRID = np.array([0.7, 1.0, 1.4])  # multiples of a CETT at which thresholds are made exact
# Ratios of three lattices of CETT values. A target is approached through the lattice points around it, which it shares
# with its neighbours: so thresholds rise with the target, however close two targets lie.
STEPS = (1.4, 1.05, 1.005)
WIDE_GRID = np.geomspace(0.003, 0.95, 48)  # 13 % apart: wider, and CETT between two points is off by 3 %
Z90 = 1.645


def find_thresholds(
    model: PreTrainedModel,
    batches: Batches,
    ppl_increase_pct: float = 1.0,
    *,
    criterion: str = "ppl",
    method: str = "secant",
    stop_width: float = 1e-3,
    held_out: Batches | None = None,
    tokenizer: object | None = None,
) -> Thresholds:
    """Find the one CETT, and with it a threshold for each layer, that raises perplexity by p % (Sec 4.2, Algorithm 1).

    ``batches`` are token ids (rows × length) or dicts with ``attention_mask``. ``criterion="kl"`` asks that
    exp(KL(dense ‖ sparse)) rises by p % instead: it varies less from token to token, so that a shorter text will do
    (notebook 01 has by how much); each of its sparse passes brings a dense one. ``method="bisection"`` is Algorithm 1
    as printed, to ``stop_width`` on CETT; the default needs about five sparse passes and stops when log(ratio) is
    within 2e-4 of its target (for p below 0.4 %, within a twentieth of it) or CETT is known to 1 %. The answer is
    judged on ``held_out`` batches too if given; ``tokenizer`` is only noted in the result.

    Raises ValueError for an increase that is not positive, a text that cannot be measured, or a loss that is not
    finite; UnsupportedModel for a model whose FFNs cannot be found. Warns if the target cannot be met or is missed by
    more than a tenth of p, the ratio is not monotone on this text, or the text is too short to resolve p.
    """
    target = _checked_target(ppl_increase_pct, criterion, method, stop_width)
    held_out = None if held_out is None else as_list(held_out)
    if held_out is not None:
        TokenBatches(model, held_out)
    trial = Trial(model, batches, with_kl=criterion == "kl")
    answer, points = _solve([trial], target, criterion, method, stop_width)
    found = _artefact(trial, answer[0], points, target, ppl_increase_pct, criterion, tokenizer)
    if held_out is not None:
        judge = Trial(model, held_out)
        judged = judge.measure(found.cett, found.values)
        ratio = math.exp(judged.log_ratio)
        report = {
            "ppl_ratio": ratio,
            "ppl_ratio_se": None if judged.se is None else ratio * judged.se,
            "activation_ratio": judged.activation_ratio,
            "tokens": judge.corpus.tokens,
        }
        found = Thresholds(**{**found.__dict__, "held_out": report})
    _warn(found)
    return found


def thresholds_for_cett(
    model: PreTrainedModel, batches: Batches, cett: float | CETT, *, tokenizer: object | None = None
) -> Thresholds:
    """Find the threshold of each layer that gives a target CETT (Sec 4.1): four dense passes and a sparse one.

    Raises ValueError for a target outside [0, 1) and as ``find_thresholds`` does.
    """
    rule = cett if isinstance(cett, CETT) else CETT(cett)
    trial = Trial(model, batches)
    if rule.target > 0:
        for step in STEPS:
            trial.refine(_around(rule.target, step))
    return _artefact(trial, trial.evaluate(float(rule.target)), [], None, None, None, tokenizer)


def _around(cett: float, step: float) -> np.ndarray:
    """Powers of ``step`` on both sides of a CETT, two each, so that the cell it lies in has its neighbours."""
    below = math.floor(math.log(cett) / math.log(step))
    return np.minimum(step ** np.arange(below - 1.0, below + 3.0), LARGEST_CETT)


def shared_cett(
    models: Sequence[PreTrainedModel],
    batches: Batches,
    ppl_increase_pct: float = 1.0,
    *,
    criterion: str = "ppl",
    method: str = "secant",
    stop_width: float = 1e-3,
) -> float:
    """Find the one CETT at which the mean perplexity ratio over several checkpoints rises by p % (Appendix E).

    Raises ValueError for an empty list of models and as ``find_thresholds`` does.
    """
    target = _checked_target(ppl_increase_pct, criterion, method, stop_width)
    if not isinstance(models, Iterable) or not (models := list(models)):
        raise ValueError("shared_cett needs a list of at least one model.")
    batches = as_list(batches)
    trials = [Trial(model, batches, with_kl=criterion == "kl") for model in models]
    answer, _ = _solve(trials, target, criterion, method, stop_width)
    return answer[0].cett


def _checked_target(ppl_increase_pct: float, criterion: str, method: str, stop_width: float) -> float:
    one_of("criterion", criterion, ("ppl", "kl"))
    one_of("method", method, ("secant", "bisection"))
    number(
        "stop_width", stop_width, "the width on CETT at which bisection ends, in (0, 1)", lambda width: 0 < width < 1
    )
    allowed = "the allowed rise of perplexity in percent, above 0"
    return math.log1p(number("ppl_increase_pct", ppl_increase_pct, allowed, lambda p: 0 < p < math.inf) / 100)


def _solve(
    trials: list[Trial], target: float, criterion: str, method: str, stop_width: float
) -> tuple[list[Point], list[tuple[float, float]]]:
    """Search the CETT at which the mean ratio over trials meets the target; last points (one a trial), all seen."""
    last: list[Point] = []
    seen: list[tuple[float, float]] = []

    def rise(cett: float) -> float:
        last[:] = [trial.evaluate(cett) for trial in trials]
        logs = [point.log_ratio if criterion == "ppl" else point.kl or 0.0 for point in last]
        value = math.log(sum(map(math.exp, logs)) / len(logs))
        seen.append((cett, value))
        return value

    def refine(cett: Sequence[float] | np.ndarray) -> None:
        for trial in trials:
            trial.refine(cett)

    if method == "bisection":
        refine(WIDE_GRID)
        cett = _bisection(rise, target, stop_width)
    else:
        cett = _secant(rise, refine, target, seen)
    if last[0].cett != cett:
        rise(cett)
    return last, seen


def _bisection(rise: Callable[[float], float], target: float, stop_width: float) -> float:
    low, high = 0.0, 1.0
    while high - low > stop_width:
        middle = (low + high) / 2
        if rise(middle) < target:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _secant(
    rise: Callable[[float], float],
    refine: Callable[[np.ndarray], None],
    target: float,
    seen: list[tuple[float, float]],
) -> float:
    """Bracketed secant on the rise against CETT², to which it is about proportional; gives the CETT to report."""
    rough = min(0.7 * math.sqrt(target), 0.5)
    guess = _proportional(rough, rise(rough), target)
    refine(np.minimum(guess * FINE_GRID, LARGEST_CETT))
    refined_at = guess
    seen.clear()  # the first point was of the sampled curve, not of exact thresholds
    low, high = (0.0, 0.0), (LARGEST_CETT, math.inf)
    for _ in range(MOST_SPARSE_PASSES - 2):
        value = rise(guess)
        if abs(value - target) <= min(LOG_RATIO_TOLERANCE, 0.05 * target):
            return guess
        low, high = ((guess, value), high) if value < target else (low, (guess, value))
        if high[0] - low[0] <= BRACKET_WIDTH * high[0] or low[0] >= LARGEST_CETT * (1 - BRACKET_WIDTH):
            break
        guess = _next_guess(low, high, target)
        if not 0.5 < guess / refined_at < 2:
            refine(np.minimum(guess * FINE_GRID, LARGEST_CETT))
            refined_at = guess
    return _crossing(seen, target)


def _proportional(cett: float, rise: float, target: float) -> float:
    """Guess from one point, rise ∝ CETT²; at most four times up or down, since early points are noisy."""
    factor = math.sqrt(target / rise) if rise > 0 else 4.0
    return min(cett * min(max(factor, 0.25), 4.0), LARGEST_CETT)


def _next_guess(low: tuple[float, float], high: tuple[float, float], target: float) -> float:
    if math.isinf(high[1]):
        return _proportional(*low, target) if low[1] > 0 else min(4 * low[0], LARGEST_CETT)
    (x0, y0), (x1, y1) = (low[0] ** 2, low[1]), (high[0] ** 2, high[1])
    guess = math.sqrt(x0 + (target - y0) * (x1 - x0) / (y1 - y0))
    # A guess next to one end would leave the bracket wide: step just past it, so that the bracket closes.
    edge = 0.8 * BRACKET_WIDTH
    return min(max(guess, low[0] * (1 + edge)), high[0] * (1 - edge))


def _crossing(seen: list[tuple[float, float]], target: float) -> float:
    """Where the smooth rising curve through the points seen (and zero) meets the target; linear in CETT² between them.

    The curve is the mean of the running maximum from the left and the running minimum from the right.
    """
    x, y = np.array([(0.0, 0.0), *sorted(seen)]).T
    rising = (np.maximum.accumulate(y) + np.minimum.accumulate(y[::-1])[::-1]) / 2
    if target >= rising[-1]:
        return float(x[-1])
    above = int(np.argmax(rising > target))
    share = (target - rising[above - 1]) / (rising[above] - rising[above - 1])
    return float(np.sqrt(x[above - 1] ** 2 + share * (x[above] ** 2 - x[above - 1] ** 2)))


def _artefact(
    trial: Trial,
    answer: Point,
    seen: list[tuple[float, float]],
    target: float | None,
    ppl_increase_pct: float | None,
    criterion: str | None,
    tokenizer: object | None,
) -> Thresholds:
    ratio = math.exp(answer.log_ratio)
    uncertain: dict[str, Any] = {}
    error = answer.kl_se if criterion == "kl" else answer.se
    if target is not None and error is not None:
        shares = [max(0.0, 1 + sign * Z90 * error / target) for sign in (-1, 1)]
        ends = [min(answer.cett * math.sqrt(share), LARGEST_CETT) for share in shares]
        active = [trial.active_share(cett) for cett in (*ends, answer.cett)]
        scale = answer.activation_ratio / active[2] if active[2] else 1.0
        uncertain = {
            "cett_interval": tuple(ends),
            "activation_interval": (min(1.0, scale * active[1]), min(1.0, scale * active[0])),
            "tokens_needed": math.ceil(trial.corpus.tokens * (error / (0.1 * target)) ** 2),
        }
    values = sorted(seen)
    return Thresholds(
        values=tuple(answer.thresholds),
        cett=answer.cett,
        ppl_ratio=ratio,
        ppl_ratio_se=None if answer.se is None else ratio * answer.se,
        activation_ratio=answer.activation_ratio,
        kl=answer.kl,
        ppl_increase_pct=None if ppl_increase_pct is None else float(ppl_increase_pct),
        criterion=criterion,
        # The answer may end a little below the target, in the noise of a short text, if points on both sides were seen.
        target_met=target is None or max(value for _, value in values) >= target - LOG_RATIO_TOLERANCE,
        monotone=all(b[1] >= a[1] - LOG_RATIO_TOLERANCE for a, b in itertools.pairwise(values)),
        tokens=trial.corpus.tokens,
        sparse_passes=trial.sparse_passes,
        dense_passes=trial.dense_passes,
        points=tuple((cett, math.exp(value)) for cett, value in values),
        layers=tuple(ffn.d_ff for ffn in trial.ffns),
        column_norms=tuple(float(ffn.column_norms.mean()) for ffn in trial.ffns),
        provenance=_provenance(trial, tokenizer),
        **uncertain,
    )


def _provenance(trial: Trial, tokenizer: object | None) -> dict[str, str | None]:
    norms = hashlib.sha256()
    for ffn in trial.ffns:
        norms.update(ffn.column_norms.cpu().numpy().tobytes())
    return {
        "model": trial.model.name_or_path or None,
        "revision": getattr(trial.model.config, "_commit_hash", None),
        "column_norms_sha256": norms.hexdigest(),
        "dtype": str(trial.model.dtype).removeprefix("torch."),
        "tokenizer": getattr(tokenizer, "name_or_path", None),
        "corpus_sha256": trial.corpus.sha256,
        "sparsinglib": version("sparsinglib"),
    }


def _warn(found: Thresholds) -> None:
    p = found.ppl_increase_pct or 0.0
    if not found.target_met:
        warnings.warn(
            f"{'KL' if found.criterion == 'kl' else 'Perplexity'} was not raised by {p:g} % on this text by any CETT "
            f"tried: at CETT {found.cett:.3f} perplexity is {found.ppl_ratio:.4f} times the dense one"
            f"{'' if found.kl is None else f', KL {found.kl:.4f}'}.",
            stacklevel=3,
        )
    elif p and (reached := _missed(found, p)) is not None:
        what = "exp(KL)" if found.criterion == "kl" else "perplexity"
        warnings.warn(
            f"The search ended at CETT {found.cett:.3f}, where {what} "
            f"rises by {reached:.2f} %, not the {p:g} % asked for: see Thresholds.points. "
            "A longer text is smoother, and a bisection closer with a smaller stop_width.",
            stacklevel=3,
        )
    if not found.monotone:
        what = "KL" if found.criterion == "kl" else "The perplexity ratio"
        warnings.warn(f"{what} is not monotone in CETT on this text; see Thresholds.points.", stacklevel=3)
    if found.criterion == "ppl" and found.ppl_ratio_se is None:
        warnings.warn(f"{found.tokens} tokens are too few to say how sure the ratio is.", stacklevel=3)
    elif found.criterion == "ppl" and 2 * (found.ppl_ratio_se or 0.0) > p / 100:
        warnings.warn(
            f"{found.tokens} tokens cannot resolve {p:g} %: the standard error of the ratio is "
            f"{100 * (found.ppl_ratio_se or 0):.2f} %. About {found.tokens_needed} tokens resolve p to a tenth.",
            stacklevel=3,
        )


def _missed(found: Thresholds, p: float) -> float | None:
    """The rise that was reached, in percent, if it is more than a tenth of ``p`` away from it; else None."""
    reached = 100 * (math.expm1(found.kl or 0.0) if found.criterion == "kl" else found.ppl_ratio - 1)
    return reached if abs(reached - p) > 0.1 * p else None
