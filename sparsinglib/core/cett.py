"""CETT of each layer as a function of its threshold, and back (Eq 3): thresholds depend on the dense pass alone."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from .ffn import FFN
from .forward import Batch, TokenBatches, logits
from .hooks import tap
from .rules import above_threshold

SAMPLE_TOKENS = 64
SAMPLE_POINTS = 16


def layer_cett(ffn: FFN, neurons: Tensor, threshold: float) -> Tensor:
    """CETT of each token, ||sum of weak neurons|| / ||sum of all|| (Eq 3); (tokens, d_ff) -> (tokens,) float32.

    A token whose FFN output is zero loses nothing by pruning: its CETT is 0.
    """
    full = ffn.output(neurons).float().norm(dim=-1)
    return _cett(ffn, neurons, threshold, full)


def _cett(ffn: FFN, neurons: Tensor, threshold: float, full: Tensor) -> Tensor:
    weak = neurons.masked_fill(above_threshold(ffn, neurons, threshold), 0)
    tail = ffn.output(weak).float().norm(dim=-1)
    return torch.where(full > 0, tail / full, torch.zeros_like(tail))


class Sampler:
    """Keeps the neuron values of SAMPLE_TOKENS tokens spread evenly over a corpus, (tokens, d_ff) for each layer."""

    def __init__(self, corpus: TokenBatches, ffns: Sequence[FFN]) -> None:
        self.wanted = torch.linspace(0, corpus.tokens - 1, min(SAMPLE_TOKENS, corpus.tokens)).round().long().unique()
        # Room is taken at once: small tensors kept from amid many forward passes would scatter over the heap.
        self.values = [
            torch.zeros(len(self.wanted), ffn.d_ff, dtype=ffn.down.weight.dtype, device=_kept_on(ffn)) for ffn in ffns
        ]
        self.called = [False] * len(ffns)
        self.seen = 0

    def start(self, batch: Batch) -> None:
        """Note which of the batch's tokens are wanted; call before its forward pass."""
        rows = batch.valid.reshape(-1).nonzero().squeeze(1)
        self.slots = ((self.wanted >= self.seen) & (self.wanted < self.seen + len(rows))).nonzero().squeeze(1)
        self.picked = rows[self.wanted[self.slots] - self.seen]
        self.seen += len(rows)

    def visit(self, ffn: FFN, neurons: Tensor, gate: Tensor) -> None:
        """Keep the wanted tokens' values."""
        self.called[ffn.layer] = True
        if len(self.picked):
            flat = neurons.reshape(-1, ffn.d_ff)[self.picked.to(neurons.device)]
            self.values[ffn.layer][self.slots] = flat.to(self.values[ffn.layer])


def _kept_on(ffn: FFN) -> torch.device | str:
    """Where a layer's values are kept; weights that accelerate fetches for each call have no device of their own."""
    device = ffn.down.weight.device
    return "cpu" if device.type == "meta" else device


class LayerCurve:
    """One layer's threshold against CETT, monotone and piecewise linear in logarithms.

    Starts from a sample of tokens (tokens, d_ff) and becomes exact near the thresholds given to ``correct``.
    """

    def __init__(self, ffn: FFN, sample: Tensor) -> None:
        magnitude = ffn.magnitudes(sample)
        full = ffn.output(sample).float().norm(dim=-1)
        knots = _spread_thresholds(magnitude, full)
        cett = np.array([float(_cett(ffn, sample, t, full).mean()) for t in knots])
        positive = cett > 0
        self.dead = not positive.any()  # no token in the sample uses the layer
        # The running maximum makes the first crossing the only one: weak vectors can cancel, so CETT may dip.
        self.log_t = np.log(knots[positive])
        self.log_c = np.maximum.accumulate(np.log(cett[positive])) if positive.any() else cett[positive]
        self.log_correction: tuple[np.ndarray, np.ndarray] = (np.zeros(1), np.zeros(1))
        self.exact = False  # no pass has measured a point of the curve yet
        self.sorted_magnitudes = np.sort(magnitude.cpu().numpy().ravel())

    def threshold(self, cett: float) -> float:
        """Give the first threshold whose CETT reaches ``cett``; 0 for CETT 0."""
        if cett <= 0 or self.dead:
            return 0.0
        at_knots = self.log_c + np.interp(self.log_t, *self.log_correction)
        curve = np.maximum.accumulate(at_knots)
        curve = curve + np.arange(len(curve)) * 1e-12  # strictly rising, so that its inverse is a function
        goal = np.log(cett)
        if goal <= curve[0]:
            # Below the curve CETT is taken as proportional to the threshold: a small target means a small threshold.
            return float(np.exp(self.log_t[0] + goal - curve[0]))
        return float(np.exp(np.interp(goal, curve, self.log_t)))

    def active_share(self, threshold: float) -> float:
        """Share of the sampled neuron values at or above a threshold."""
        least = max(threshold, float(np.finfo(np.float32).tiny))
        return 1 - int(np.searchsorted(self.sorted_magnitudes, least)) / len(self.sorted_magnitudes)

    def correct(self, thresholds: Sequence[float], cett: Sequence[float]) -> None:
        """Make the curve pass through exact values of CETT measured at some thresholds."""
        t, c = np.asarray(thresholds), np.asarray(cett)
        known = (c > 0) & (t > 0)
        if self.dead or not known.any():
            return
        log_t, order = np.unique(np.log(t[known]), return_index=True)
        # Knots of the sample between exact points keep their shape; the exact points become knots themselves.
        raw = np.interp(log_t, self.log_t, self.log_c)
        self._add_exact(log_t, np.log(c[known])[order] - raw)
        self.log_t, index = np.unique(np.concatenate([self.log_t, log_t]), return_index=True)
        self.log_c = np.concatenate([self.log_c, raw])[index]

    def _add_exact(self, log_t: np.ndarray, correction: np.ndarray) -> None:
        """Keep what earlier passes measured: a second look beside the target must not lose the first one's bracket."""
        seen_t, seen = self.log_correction if self.exact else (np.zeros(0), np.zeros(0))
        log_t, index = np.unique(np.concatenate([log_t, seen_t]), return_index=True)
        self.log_correction, self.exact = (log_t, np.concatenate([correction, seen])[index]), True


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


def exact_cett(model: PreTrainedModel, corpus: TokenBatches, ffns: Sequence[FFN], grid: np.ndarray) -> np.ndarray:
    """Mean CETT over all tokens of a dense pass at each threshold of ``grid``; both are (layers, thresholds)."""
    total = np.zeros(grid.shape)
    valid = torch.empty(0)

    def visit(ffn: FFN, neurons: Tensor, gate: Tensor) -> None:
        flat = neurons.reshape(-1, ffn.d_ff)[valid.to(neurons.device)]
        full = ffn.output(flat).float().norm(dim=-1)
        for index, threshold in enumerate(grid[ffn.layer]):
            total[ffn.layer, index] += float(_cett(ffn, flat, float(threshold), full).double().sum())

    with tap(ffns, visit):
        for batch in corpus:
            valid = batch.valid.reshape(-1)
            logits(model, batch)
    return total / corpus.tokens
