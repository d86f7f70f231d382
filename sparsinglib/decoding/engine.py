"""Sparse decoding on a CPU: a gated FFN that reads only the weights of active neurons, one token at a time.

Three cases (Sec 2.2, 4.1, Appendix L), with r the share of neurons with a nonzero gate score and a the active share:
a rule on the gate score (zeros alone, FAT, Top-k) reads up and down of r; thresholds on a model with exact zeros read
up of r and down of a; thresholds on any other model read all of up and down of a. The gate is always read whole: unlike
the paper's engine (PowerInfer) nothing here predicts it. Weights are float32, or bfloat16 widened to float32 as they
are read and rounded where torch rounds.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ..core.ffn import FFN, UnsupportedModel
from ..core.hooks import masked
from ..core.layout import find_ffns
from ..core.rules import Rule, StraightforwardReLU
from ..core.thresholds import Thresholds
from . import kernel

# An FFN with fewer weights is done before a second thread has woken up.
ONE_THREAD = 1 << 18
_DTYPES = {torch.float32: 1e-3, torch.bfloat16: 5e-2}  # and how far a probe of the FFN's formula may be off
_NOTHING = np.empty(0, np.float32)

Matrix = tuple[Tensor, Tensor | None]


@dataclass(eq=False)
class Report:
    """What was skipped, summed over tokens and layers, and which steps of the model ran dense and why.

    Neurons whose up row and whose down column was read, out of ``neurons``. Steps count passes of the model.
    """

    neurons: int = 0
    up_read: int = 0
    down_read: int = 0
    sparse_steps: int = 0
    dense_steps: Counter[str] = field(default_factory=Counter)

    @property
    def skipped_before_up(self) -> float:
        """Share of neurons for which neither up nor down was read; NaN before the first sparse step."""
        return 1 - self.up_read / self.neurons if self.neurons else float("nan")

    @property
    def skipped_before_down(self) -> float:
        """Share of neurons for which down was not read; NaN before the first sparse step."""
        return 1 - self.down_read / self.neurons if self.neurons else float("nan")

    @property
    def bound(self) -> float:
        """Most the FFNs can gain if reading weights is all that takes time: 3 / (1 + share of up + share of down)."""
        return 3 / (3 - self.skipped_before_up - self.skipped_before_down)

    def __str__(self) -> str:
        dense = ", ".join(f"{count} {why}" for why, count in sorted(self.dense_steps.items())) or "none"
        return (
            f"{self.sparse_steps} sparse steps: {100 * self.skipped_before_up:.1f} % of neurons skipped before up, "
            f"{100 * self.skipped_before_down:.1f} % before down; dense steps: {dense}."
        )


@dataclass(eq=False)
class SparseFFN:
    """One gated FFN, y = down · (activation(gate · x) * (up · x)) with neurons below their limit left out (Eq 1-3).

    ``gate`` and ``up`` are (d_ff, hidden size) and a bias (d_ff,) or None, ``down`` is (hidden size, d_ff) and a bias;
    ``limits`` (d_ff,), float32, are compared with the neurons' absolute values. ``skips_up``: neurons whose gate score
    is zero, as ``choose`` may make it, are left out before up. A transposed copy of ``down`` is kept.
    """

    gate: Matrix
    up: Matrix
    down: Matrix
    activation: Callable[[Tensor], Tensor]
    limits: np.ndarray
    skips_up: bool
    choose: Callable[[Tensor], Tensor] | None = None
    threads: int = 1
    report: Report = field(default_factory=Report)
    name: str = "FFN"

    def __post_init__(self) -> None:
        # A copy by numpy lies in huge pages where the system lends them: rows here and there cost fewer page walks.
        self.arrays = [*_arrays(self.gate), *_arrays(self.up), np.ascontiguousarray(_array(self.down[0]).T)]
        if 3 * self.down[0].numel() < ONE_THREAD:
            self.threads = 1

    def __call__(self, x: Tensor) -> Tensor:
        """Output for one token, shape of ``x`` (..., hidden size). Raises ValueError if NaN comes in."""
        token = _flat(x)
        if self.skips_up:
            in_kernel = self.choose is None and isinstance(self.activation, nn.ReLU)
            score = _NOTHING if in_kernel else self._score(token, x.dtype)
            out, up, active = kernel.run(kernel.gathered, self.threads, score, *self.arrays, self.limits, token)
        else:
            weights, bias, columns = self.arrays[2:]
            score, up = self._score(token, x.dtype), self.limits.size
            ups = kernel.run(kernel.product, self.threads, weights, bias, token)
            out, active = kernel.run(kernel.all_up, self.threads, score, ups, self.limits, columns)
        if up < 0 or active < 0:
            raise ValueError(f"{self.name}: its input holds NaN; look for the first layer whose output is not finite.")
        self.report.neurons += self.limits.size
        self.report.up_read += up
        self.report.down_read += active
        result = torch.from_numpy(out)
        if self.down[1] is not None:
            result += self.down[1].float()
        return result.to(x.dtype).view(x.shape)

    def _score(self, token: np.ndarray, dtype: torch.dtype) -> np.ndarray:
        """Gate scores (d_ff,), through the model's own activation function; zero where ``choose`` leaves one out."""
        weights, bias = self.arrays[:2]
        product = torch.from_numpy(kernel.run(kernel.product, self.threads, weights, bias, token))
        score = self.activation(product.to(dtype)[None])
        return _flat(score if self.choose is None else self.choose(score))


def _flat(values: Tensor) -> np.ndarray:
    return values.float().numpy().reshape(-1)


def _array(weights: Tensor) -> np.ndarray:
    return (weights.view(torch.uint16) if weights.dtype == torch.bfloat16 else weights).numpy()


def _arrays(matrix: Matrix) -> tuple[np.ndarray, np.ndarray]:
    weights, bias = matrix
    return _array(weights), np.zeros(weights.shape[0], np.float32) if bias is None else bias.float().numpy()


@contextmanager
def sparse_decoding(model: PreTrainedModel, rule: Rule, *, threads: int | None = None) -> Iterator[Report]:
    """Run ``model`` as under ``sparsify(model, rule)``, reading only active neurons' weights where it can (Appendix L).

    A pass over one token (batch 1, as in each step of ``generate`` after the prompt) goes through the kernel on
    ``threads`` threads (default: torch's number, or one without the package tbb); any other pass runs dense with the
    weak neurons masked, a batch above 1 with a warning. Hooks on an output projection see dense passes only; one set
    inside the context makes passes dense. Costs memory for a transposed copy of every down projection. Yields the
    Report, which goes on counting.

    Raises ValueError before touching the model: rule of another model or kind, FFN not gated, weights other than plain
    finite float32 or bfloat16 on the CPU (quantised, say), hooks on an output projection, more threads than cores.
    """
    threads = _checked_threads(threads)
    ffns = find_ffns(model)
    if experts := [ffn.name for ffn in ffns if ffn.kind == "experts"]:
        raise UnsupportedModel(f"{experts[0]} is a mixture of experts; sparse_decoding takes ordinary FFNs only.")
    rule.check(ffns)
    if not (rule.uses_gate or isinstance(rule, Thresholds)):
        raise ValueError(f"{rule}: sparse_decoding takes Thresholds or a rule on the gate score, no other.")
    report = Report()
    layers = [_take_apart(model, ffn, rule, threads, report) for ffn in ffns]
    with ExitStack() as stack:
        stack.enter_context(masked(ffns, rule))
        for ffn, layer in zip(ffns, layers, strict=True):
            module = model.get_submodule(ffn.name)
            stack.callback(_restore, module, module.__dict__.get("forward"))
            module.forward = partial(_forward, module.forward, ffn, layer)
        yield report


def _restore(module: nn.Module, own_forward: Callable | None) -> None:
    del module.forward
    if own_forward is not None:
        module.forward = own_forward


def _forward(dense: Callable, ffn: FFN, layer: SparseFFN, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    why, report = _why_dense(ffn, x), layer.report
    if ffn.site == 0 and why is None:
        report.sparse_steps += 1
    elif ffn.site == 0 and why:
        report.dense_steps[why] += 1
        if why == "batch above 1" and report.dense_steps[why] == 1:
            warnings.warn("sparse_decoding: a batch above 1 runs dense (masked): no speed is gained.", stacklevel=2)
    return layer(x) if why is None else dense(x, *args, **kwargs)


def _why_dense(ffn: FFN, x: Tensor) -> str | None:
    if x.numel() != x.shape[-1]:
        return "prompt" if x.dim() == 3 and x.shape[0] == 1 else "batch above 1"
    if torch.is_grad_enabled() and x.requires_grad:
        return "with gradients"
    watched = len(ffn.down._forward_pre_hooks) > 1 or ffn.down._forward_hooks  # one is ``masked``'s
    return "watched by a hook" if watched else None


def _checked_threads(threads: int | None) -> int:
    cores: int = numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined]
    if threads is None:
        return min(torch.get_num_threads(), cores) if kernel.tbb() else 1
    if isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= cores:
        raise ValueError(f"threads must be a whole number from 1 to {cores}, the cores there are; got {threads!r}.")
    return threads


def _take_apart(model: PreTrainedModel, ffn: FFN, rule: Rule, threads: int, report: Report) -> SparseFFN:
    """Find gate and up of one FFN; a probe of its formula tells which is which and that there is nothing else to it."""
    if ffn.kind == "plain" or ffn.activation is None:
        raise UnsupportedModel(f"{ffn.name} is not gated by an activation module; sparse_decoding needs gate and up.")
    if ffn.down._forward_hooks or ffn.down._forward_pre_hooks:
        raise ValueError(f"{ffn.name}: its output projection has hooks (of another sparsify?); leave them first.")
    module = model.get_submodule(ffn.name)
    projections = [m for m in module.modules() if isinstance(m, (nn.Linear, Conv1D)) and m is not ffn.down]
    down, *into = (_matrix(ffn, m) for m in (ffn.down, *projections))
    if ffn.kind == "fused":
        weight, bias = into[0]
        into = list(zip(weight.chunk(2), (None, None) if bias is None else bias.chunk(2), strict=True))
    x = torch.randn(1, 1, len(down[0]), generator=torch.Generator().manual_seed(0)).to(down[0].dtype)
    with torch.inference_mode():
        expected = module(x).float()
        for gate, up in (into, into[::-1]):
            formula = linear(ffn.activation(linear(x, *gate)) * linear(x, *up), *down)
            if (formula - expected).norm() <= _DTYPES[x.dtype] * expected.norm():
                activation = ffn.activation if type(ffn.activation) is nn.ReLU else ffn.activation.forward
                limits, skips_up = _limits(ffn, rule), rule.uses_gate or ffn.zeroes_negatives
                how = activation, limits, skips_up, _chooser(ffn, rule), threads, report, ffn.name
                return SparseFFN(gate, up, down, *how)
    raise UnsupportedModel(f"{ffn.name} ({type(module).__name__}) is not down(activation(gate(x)) * up(x)).")


def _matrix(ffn: FFN, module: nn.Module) -> Matrix:
    """Weight (outputs, inputs) and bias of a projection. Raises ValueError unless plain numbers in main memory."""
    weight: Any = module.weight
    bias: Any = module.bias
    if type(weight) not in (nn.Parameter, Tensor) or weight.dtype not in _DTYPES:
        raise UnsupportedModel(
            f"{ffn.name}: a {type(module).__name__} with weights of type {type(weight).__name__}, {weight.dtype}; "
            "sparse_decoding needs plain float32 or bfloat16: load the model unquantised, dtype=torch.float32."
        )
    if weight.device.type != "cpu":
        raise ValueError(f"{ffn.name}: weights on {weight.device}; sparse_decoding runs on the CPU: model.to('cpu').")
    if not all(bool(torch.isfinite(w).all()) for w in (weight, bias) if w is not None):
        raise ValueError(f"{ffn.name}: a {type(module).__name__} holds NaN or infinity; the checkpoint is broken.")
    weight = weight.t() if isinstance(module, Conv1D) else weight
    return weight.detach().contiguous(), None if bias is None else bias.detach()


def _limits(ffn: FFN, rule: Rule) -> np.ndarray:
    """Least absolute value of each neuron that ``rule`` keeps, as in ``above_threshold``; zeros for gate rules."""
    if not isinstance(rule, Thresholds):
        return np.zeros(ffn.d_ff, np.float32)
    tiny = torch.finfo(torch.float32).tiny
    return (max(rule.values[ffn.site], tiny) / ffn.column_norms).clamp_min(tiny).numpy()


def _chooser(ffn: FFN, rule: Rule) -> Callable[[Tensor], Tensor] | None:
    """What zeroes the gate scores that ``rule`` leaves out; None where zeros are all that it looks at."""
    if not rule.uses_gate or isinstance(rule, StraightforwardReLU):
        return None
    return lambda gate: gate.masked_fill(~rule.active(ffn, gate, gate), 0)
