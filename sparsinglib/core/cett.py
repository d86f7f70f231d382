"""CETT of each layer as a function of its threshold, and back (Eq 3), and what pruning at a CETT does to the loss.

Thresholds depend on the dense pass alone: one such pass serves every CETT.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from . import forward
from .ffn import FFN, mean_ratio
from .forward import Batch, Batches, TokenBatches
from .hooks import hook_ffns
from .layout import find_ffns
from .probe import probe
from .rules import above_threshold
from .scan import scan_batches
from .thresholds import Thresholds

KEPT_BYTES = 2**28  # neuron values of a dense pass held at once: of a text that fits, all of them are
SAMPLE_TOKENS = (64, 1024)  # tokens a layer's curve is drawn from, least and most
SAMPLED_SHARE = 1 / 32
SAMPLE_POINTS = 16


def token_cett(tail: Tensor, full: Tensor) -> Tensor:
    """CETT of each token (Eq 3) from the lengths of what is left out and of all; 0 where all is zero."""
    return torch.where(full > 0, tail / full, 0.0)


def layer_cett(ffn: FFN, neurons: Tensor, threshold: float, full: Tensor | None = None) -> Tensor:
    """CETT of each token, ||sum of weak neurons|| / ||sum of all|| (Eq 3); (tokens, width) -> (tokens,) float32.

    ``full`` are the lengths of the whole outputs, (tokens,), where they are known.
    """
    full = ffn.output(neurons).float().norm(dim=-1) if full is None else full
    weak = neurons * (1 - above_threshold(ffn, neurons, threshold)).to(neurons.dtype)
    return token_cett(ffn.output(weak).float().norm(dim=-1), full)


class Sampler:
    """Keeps for each FFN what ``wanted`` tokens have there, their places in the text in rising order."""

    def __init__(self, ffns: Sequence[FFN], wanted: Tensor) -> None:
        self.wanted, self.seen = wanted, 0
        self.kept: list[list[Tensor]] = [[] for _ in ffns]

    def start(self, batch: Batch) -> None:
        """Note which of the batch's tokens are wanted; call before its forward pass."""
        rows = batch.valid.reshape(-1).nonzero().squeeze(1)
        slots = ((self.wanted >= self.seen) & (self.wanted < self.seen + len(rows))).nonzero().squeeze(1)
        self.slots, self.picked = forward.Copies(slots), forward.Copies(rows[self.wanted[slots] - self.seen])
        self.seen += len(rows)

    def keep(self, ffn: FFN, *parts: Tensor) -> None:
        """Keep the wanted tokens' rows of what all tokens of the batch have, each (tokens, …)."""
        if not self.kept[ffn.site]:
            # Room is taken at once: small tensors kept from amid many forward passes would scatter over the heap.
            self.kept[ffn.site] = [part.new_zeros(len(self.wanted), part.shape[1]) for part in parts]
        for kept, part in zip(self.kept[ffn.site], parts, strict=True):
            kept.index_copy_(0, self.slots.on(kept.device), part.index_select(0, self.picked.on(part.device)))


def _sample_size(tokens: int) -> int:
    least, most = SAMPLE_TOKENS
    return min(tokens, max(least, min(most, round(SAMPLED_SHARE * tokens))))


class LayerCurve:
    """One layer's threshold against CETT, monotone: the shape from a sample of tokens, moved to the whole text's CETT.

    ``sample`` is (tokens, d_ff), ``full`` the lengths of its outputs, (tokens,). ``correct`` moves the curve, in
    levels: each is a map from log(CETT) to the log(CETT) that is to be asked of the level below, linear between the
    values of CETT that were measured. So the threshold at a measured CETT depends on no other measurement of its level.
    """

    def __init__(self, ffn: FFN, sample: Tensor, full: Tensor) -> None:
        self.magnitude = magnitude = ffn.magnitudes(sample)
        knots = _spread_thresholds(magnitude, full)
        cett = np.array([float(layer_cett(ffn, sample, t, full).mean()) for t in knots])
        positive = cett > 0
        self.dead = not positive.any()  # no token in the sample uses the layer
        self.log_t = np.log(knots[positive])
        # The running maximum makes the first crossing the only one: weak vectors can cancel, so CETT may dip.
        rising = np.maximum.accumulate(np.log(cett[positive])) if positive.any() else cett[positive]
        self.log_c = rising + np.arange(len(rising)) * 1e-12  # strictly, so that its inverse is a function
        self.levels: list[dict[float, float]] = []
        self.seen_share = ffn.width / ffn.d_ff  # the neurons of experts not chosen are zero

    def threshold(self, cett: float, level: int | None = None) -> float:
        """Give the first threshold whose CETT reaches ``cett``; 0 for CETT 0. ``level``: only levels below it count."""
        if cett <= 0 or self.dead:
            return 0.0
        goal = np.log(cett)
        for asked in reversed(self.levels[:level]):
            goal = _moved(goal, asked)
        # Beyond the ends CETT is taken as proportional to the threshold: a small target means a small threshold.
        inside = np.clip(goal, self.log_c[0], self.log_c[-1])
        return float(np.exp(np.interp(inside, self.log_c, self.log_t) + goal - inside))

    def active_share(self, threshold: float) -> float:
        """Share of the sampled tokens' neurons at or above a threshold."""
        least = max(threshold, float(np.finfo(np.float32).tiny))
        return float((self.magnitude >= least).double().mean()) * self.seen_share

    def correct(self, cett: Sequence[float], reached: Sequence[float], level: int = 0) -> None:
        """Take in that the thresholds for ``cett``, this level and those above left out, have CETT ``reached``."""
        if len(self.levels) == level:
            self.levels.append({})
        for asked, found in zip(cett, reached, strict=True):
            if asked > 0 and found > 0:  # ask the level below for as much less as this was too much: asked² / found
                self.levels[level][float(np.log(asked))] = float(2 * np.log(asked) - np.log(found))


def _moved(goal: float, asked: Mapping[float, float]) -> float:
    """What to ask of the level below for log(CETT) ``goal``."""
    if not asked:
        return goal
    known, below = np.array(sorted(asked.items())).T
    inside = np.clip(goal, known[0], known[-1])
    return float(np.interp(inside, known, np.maximum.accumulate(below)) + goal - inside)


def _spread_thresholds(magnitude: Tensor, full: Tensor) -> np.ndarray:
    """Choose thresholds at which CETT should run from about 1e-3 to 1, if the weak vectors were orthogonal."""
    largest = float(magnitude.max())
    if largest == 0:
        return np.array([])
    candidates = torch.logspace(-6, 0, 513, dtype=torch.float64, device=magnitude.device) * largest
    ordered = magnitude.double().sort(dim=-1).values
    energy = torch.nn.functional.pad(ordered.square().cumsum(dim=-1), (1, 0))
    below = torch.searchsorted(ordered, candidates.expand(len(ordered), -1).contiguous())
    ratio = (energy.gather(1, below) / full.double().square()[:, None].clamp_min(1e-300)).sqrt().mean(dim=0)
    goals = np.geomspace(1e-3, 0.9, SAMPLE_POINTS - 1)
    found = np.exp(
        np.interp(np.log(goals), np.log(ratio.clamp_min(1e-12).cpu().numpy()), candidates.log().cpu().numpy())
    )
    return np.unique(np.append(found, largest * 1.001))


@dataclass
class Point:
    """One sparse pass over a text: the CETT tried, log(sparse / dense perplexity) and, if asked for, KL; in nats.

    ``blocks`` (blocks, 2) holds sums over a block of targets and their number: of KL if that was asked for, otherwise
    of the log ratio. ``rise`` and ``error`` are their mean and its standard error.
    """

    cett: float
    log_ratio: float
    se: float | None
    kl: float | None
    activation_ratio: float
    thresholds: list[float]
    blocks: Tensor
    rise: float
    error: float | None


class CettCurves:
    """A model on a text: the dense pass's losses, each layer's threshold by CETT, and sparse passes at a CETT.

    Neuron values of the dense pass are kept, those of a sample where all would take more than ``KEPT_BYTES``.
    Raises what ``find_ffns`` and ``TokenBatches`` do, and UnsupportedModel for a model that is not causal or computes
    its FFNs another way (``probe``).
    """

    def __init__(self, model: PreTrainedModel, batches: Batches, with_kl: bool = False) -> None:
        self.model, self.with_kl = model, with_kl
        self.ffns = find_ffns(model)
        self.corpus = TokenBatches(model, batches)
        self.dense_losses: list[Tensor] = []
        self.dense_passes, self.sparse_passes = 1, 0
        probe(model, self.ffns, self.corpus)
        tokens = self.corpus.tokens
        self.whole = tokens <= KEPT_BYTES // (model.dtype.itemsize * sum(ffn.d_ff for ffn in self.ffns))
        self.samples = self._dense_pass(tokens if self.whole else _sample_size(tokens))
        self.curves = [LayerCurve(*self._drawn(*sample)) for sample in self.samples]

    def _dense_pass(self, kept: int) -> list[tuple[FFN, Tensor, Tensor]]:
        """Note losses; give each FFN as tokens spread evenly use it, their values and their outputs' lengths."""
        spread = torch.linspace(0, self.corpus.tokens - 1, kept, dtype=torch.float64).round().long().unique()
        sampler = Sampler(self.ffns, spread)
        full: list[list[Tensor]] = [[] for _ in self.ffns]  # lengths by batch

        def visit(ffn: FFN, neurons: Tensor, gate: Tensor) -> None:
            sampler.keep(ffn, neurons.reshape(-1, ffn.width), *ffn.routing)

        def visit_output(ffn: FFN, output: Tensor) -> None:
            wanted = output.reshape(-1, output.shape[-1]).index_select(0, sampler.picked.on(output.device))
            full[ffn.site].append(wanted.float().norm(dim=-1))

        with hook_ffns(self.ffns, visit, on_output=visit_output):
            for batch in self.corpus:
                sampler.start(batch)
                scores = forward.logits(self.model, batch)
                self.dense_losses.append(forward.require_finite(forward.losses(scores, batch), "dense loss"))
        kept_parts = zip(self.ffns, sampler.kept, full, strict=True)
        return [(ffn.routed(*routing), values, torch.cat(lengths)) for ffn, (values, *routing), lengths in kept_parts]

    def _drawn(self, ffn: FFN, values: Tensor, full: Tensor) -> tuple[FFN, Tensor, Tensor]:
        """Tokens spread evenly over those that were kept, as many as a curve is drawn from."""
        number = _sample_size(len(values)) if self.whole else len(values)
        drawn = torch.linspace(0, len(values) - 1, number).round().long().to(values.device)
        return ffn.at(drawn), values[drawn], full[drawn]

    def thresholds(self, cett: float, level: int | None = None) -> list[float]:
        """Each layer's threshold for one CETT."""
        return [curve.threshold(cett, level) for curve in self.curves]

    def refine(self, cett: Sequence[float] | np.ndarray, level: int = 0) -> None:
        """Make thresholds exact at some CETT values: a dense pass over the text, unless its neurons are all kept.

        What a ``level`` leaves inexact, because CETT was not quite what was asked, the next mends.
        """
        grid = np.array([self.thresholds(c, level) for c in cett]).T
        for curve, reached in zip(self.curves, self._exact_cett(grid), strict=True):
            curve.correct(list(cett), reached, level)

    def _exact_cett(self, grid: np.ndarray) -> np.ndarray:
        """Mean CETT over all tokens of the dense pass at each threshold of ``grid``; both are (FFNs, thresholds)."""
        sums: list[list[Tensor]] = [[] for _ in self.ffns]

        def add(ffn: FFN, values: Tensor, full: Tensor) -> None:
            cett = [layer_cett(ffn, values, float(threshold), full).double().sum() for threshold in grid[ffn.site]]
            sums[ffn.site].append(torch.stack(cett))

        def visit(ffn: FFN, neurons: Tensor, gate: Tensor) -> None:
            flat = neurons.reshape(-1, ffn.width)
            full = ffn.output(flat).float().norm(dim=-1)
            add(ffn, flat, full * valid.on(full.device))  # a token that is padding has no CETT

        if self.whole:
            for sample in self.samples:
                add(*sample)
        else:
            with hook_ffns(self.ffns, visit):
                for batch in self.corpus:
                    valid = forward.Copies(batch.valid.reshape(-1))
                    forward.logits(self.model, batch)
            self.dense_passes += 1
        return np.array([torch.stack(layer).sum(dim=0).tolist() for layer in sums]) / self.corpus.tokens

    def active_share(self, cett: float) -> float:
        """Share of the sampled tokens' neurons, mean over layers, that stay active at ``cett`` in the dense pass."""
        shares = [curve.active_share(curve.threshold(cett)) for curve in self.curves]
        return mean_ratio(self.ffns, [share * ffn.d_ff for share, ffn in zip(shares, self.ffns, strict=True)])

    def _pieces(self, one_in: int) -> list[tuple[Batch, Tensor]]:
        """Pieces of the text with their dense losses: all, or one in so many, or of a few the first of their rows."""
        pieces = list(zip(self.corpus, self.dense_losses, strict=True))
        if one_in == 1:
            return pieces
        pieces = [(batch, loss) for batch, loss in pieces if len(loss)]
        if len(pieces) >= one_in:
            return pieces[::one_in]
        parts = [(batch.rows(0, math.ceil(len(batch.ids) / one_in)), loss) for batch, loss in pieces]
        return [(part, loss[: int(part.targets.sum())]) for part, loss in parts]

    def evaluate(self, cett: float, one_in: int = 1) -> Point:
        """One sparse pass at the thresholds of ``cett``, over the text or one in so many of its rows.

        With KL, a dense one beside it.
        """
        thresholds = self.thresholds(cett)
        rule = Thresholds(tuple(thresholds), cett, math.nan, None, math.nan)
        batches, losses = zip(*self._pieces(one_in), strict=True)
        found = scan_batches(self.model, self.ffns, batches, [rule], self.with_kl, losses)
        if one_in == 1:
            self.sparse_passes += 1
            self.dense_passes += self.with_kl
        log_ratio, se = forward.mean_and_error(found.rises[0])
        blocks = (found.kl or found.rises)[0]
        rise, error = forward.mean_and_error(blocks)
        kl = rise if self.with_kl else None
        return Point(cett, log_ratio, se, kl, float(found.activation_ratio[0]), thresholds, blocks, rise, error)
