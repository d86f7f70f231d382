"""Record and mask neuron values of a model. Every hook is gone when its context ends."""

import asyncio
import copy
import os
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from .ffn import FFN, Experts, UnsupportedModel, is_llama4
from .forward import Batch, Copies, logits
from .layout import find_ffns
from .rules import CETT, Rule, above_threshold
from .thresholds import Thresholds, as_rule

OnNeurons = Callable[[FFN, Tensor, Tensor], Tensor | None]
OnOutput = Callable[[FFN, Tensor], None]
SEEN = "sparsinglib"  # the name of ``_seen_experts`` among transformers' ways to compute experts
_lock = threading.Lock()
_open: list["_Context"] = []
# Experts seen in open contexts, and what has them seen no longer.
_watched: WeakKeyDictionary[nn.Module, tuple[list["_Site"], Callable[[], None]]] = WeakKeyDictionary()
_stance = ExitStack()  # keeps models uncompiled while a context is open


def _strand() -> tuple[int, int]:
    """What runs here beside others: numbers of the thread, and in it of the task of an event loop."""
    try:
        return threading.get_native_id(), id(asyncio.current_task())
    except RuntimeError:  # no event loop
        return threading.get_native_id(), id(None)


def _threads() -> set[int | None]:
    """Numbers of Python's threads; those of torch, which run parts of a backward pass, are dummies."""
    return {t.native_id for t in threading.enumerate() if not isinstance(t, threading._DummyThread)}


@dataclass(eq=False)
class _Context:
    on_neurons: OnNeurons
    on_output: OnOutput | None
    gate: bool
    shared: bool  # with threads and tasks that come later and have no context of their own
    modules: set[nn.Module]
    owner: tuple[int, int] = field(default_factory=_strand)
    older: set[int | None] = field(default_factory=_threads)

    def holds(self, module: nn.Module) -> bool:
        """Whether this context is the running thread's or task's own, or else the shared one of the only other."""
        here = _strand()
        with _lock:
            if self not in _open:  # a hook that went with a copy of the model
                return False
            others = [context for context in _open if module in context.modules]
            if any(context.owner == here for context in others):
                return self.owner == here
        if len({context.owner for context in others if context._takes_in(here)}) > 1:
            raise RuntimeError(
                "Two other threads or tasks use this model under rules of their own, so that it is not clear which one "
                "this one is to use: open a context in it too, or give each a copy of the model."
            )
        return self._takes_in(here)

    def _takes_in(self, strand: tuple[int, int]) -> bool:
        """Whether what has no context runs under this one: tasks of its thread, and threads that began after it."""
        return self.shared and (strand[0] == self.owner[0] or strand[0] not in self.older)


@dataclass(eq=False)
class _Site:
    """One FFN in one context."""

    ffn: FFN
    context: _Context
    # by thread and task, from the activation to the projection
    gates: dict[tuple[int, int], Tensor] = field(default_factory=dict)

    @property
    def reads_gate(self) -> bool:
        return self.context.gate and self.ffn.kind in ("gated", "fused")

    def remember_gate(self, _module: object, _args: object, output: Tensor) -> None:
        self.gates[_strand()] = output

    def before_down(self, _module: object, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        if not self.context.holds(self.ffn.down):
            return None
        gate = self.gates.pop(_strand(), None) if self.reads_gate else args[0]
        if gate is None:
            raise UnsupportedModel(
                f"{self.ffn.name}: its activation module was not called; use a rule without gate scores."
            )
        replaced = self.context.on_neurons(self.ffn, args[0], gate)
        return None if replaced is None else (replaced, *args[1:])

    def after_down(self, _module: object, _args: object, output: Tensor) -> None:
        if self.context.on_output is not None and self.context.holds(self.ffn.down):
            self.context.on_output(self.ffn, output - self.ffn.bias)


@contextmanager
def hook_ffns(
    ffns: Sequence[FFN],
    on_neurons: OnNeurons,
    *,
    gate: bool = False,
    on_output: OnOutput | None = None,
    shared: bool = False,
) -> Iterator[None]:
    """Call ``on_neurons(ffn, neurons, gate_score)`` in each FFN just before its output projection.

    ``neurons`` has shape (..., d_ff). ``gate_score`` is the activation function's output if ``gate`` is set and the
    FFN has a gate, otherwise ``neurons``. What ``on_neurons`` returns replaces the neurons; None leaves them untouched,
    so that the model's output is bit-identical. ``on_output(ffn, output)`` sees what the projection then gives without
    its bias, (..., hidden size). For routed experts ``ffn`` is the one for these tokens (``Experts.routed``) and
    ``neurons`` has shape (tokens, ffn.width); they are computed one after the other meanwhile, which gives the bits of
    transformers' "grouped_mm" and a rounding error's difference to its other ways.

    Contexts nest; each removes only its own hooks, also after an exception. A thread or asyncio task that opens one
    runs under its own alone; those that begin meanwhile and have none run under one that is ``shared``, and are refused
    where there are two. A compiled model runs uncompiled meanwhile: its graph would go on without the hooks.
    """
    context = _Context(on_neurons, on_output, gate, shared, {ffn.down for ffn in ffns})
    with ExitStack() as stack:
        for ffn in ffns:
            _attach(stack, _Site(ffn, context))
        with _lock:
            if not _open:
                _stance.enter_context(torch.compiler.set_stance("force_eager"))
            _open.append(context)
        stack.callback(_leave, context)
        yield


def _leave(context: _Context) -> None:
    with _lock:
        _open.remove(context)
        if not _open:
            _stance.close()


def _attach(stack: ExitStack, site: _Site) -> None:
    ffn = site.ffn
    if isinstance(ffn, Experts):
        stack.callback(_watch(site))
        return
    stack.callback(ffn.down.register_forward_pre_hook(site.before_down).remove)
    if site.reads_gate and ffn.activation is not None:
        stack.callback(ffn.activation.register_forward_hook(site.remember_gate).remove)
    if site.context.on_output is not None:
        # Before a reader's own hooks: what these make of the output is no neuron's.
        stack.callback(ffn.down.register_forward_hook(site.after_down, prepend=True).remove)


def _watch(site: _Site) -> Callable[[], None]:
    """Have one layer's experts seen, in this context and others; gives what undoes it."""
    module: Any = site.ffn.down
    with _lock:
        if module not in _watched:
            _watched[module] = [], _llama4_hook(module) if is_llama4(module) else _own_config(module)
        sites, remove = _watched[module]
        sites.append(site)

    def undo() -> None:
        with _lock:
            sites.remove(site)
            if not sites:
                del _watched[module]
                remove()

    return undo


def _own_config(module: Any) -> Callable[[], None]:
    """Give a module's experts a config that names ``_seen_experts``: the model's own one others share, and save."""
    before, module.config = module.config, copy.copy(module.config)
    # Not by its property, which would set the sub-configs too, which the copy shares.
    module.config._experts_implementation_internal = SEEN
    return lambda: setattr(module, "config", before)


def _seen_experts(module: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """What transformers calls to compute a layer's experts while a context is open: (tokens, hidden size)."""
    if module._is_expert_parallel:
        raise UnsupportedModel(f"{type(module).__name__}: experts spread over processes cannot be seen in one of them.")
    ffn = Experts(0, "", "experts", module, None, chosen=top_k_index, weights=top_k_weights)
    neurons = _visited(module, ffn.routing, ffn.neurons(hidden_states[:, None].expand(-1, top_k_index.shape[1], -1)))
    output = ffn.total(neurons, module.down_proj_bias if module.has_bias else None).to(hidden_states.dtype)
    _shown(module, ffn.routing, output)
    return output


ALL_EXPERTS_FUNCTIONS.register(SEEN, _seen_experts)


def _llama4_hook(module: Any) -> Callable[[], None]:
    """Llama 4 gives every expert every token, times the router's weight, which is zero for those not chosen."""

    def after(_module: object, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        experts, size = module.down_proj.shape[0], module.down_proj.shape[2]
        hidden = args[0].view(experts, -1, size)
        every = torch.arange(experts, device=hidden.device).expand(hidden.shape[1], -1)
        ffn = Experts(0, "", "experts", module, None, chosen=every, weights=torch.ones_like(every, dtype=hidden.dtype))
        with ffn.loaded():
            gate, up = torch.bmm(hidden, module.gate_up_proj).chunk(2, dim=-1)
            neurons = (up * module.act_fn(gate)).transpose(0, 1).flatten(1)
            kept = _visited(module, ffn.routing, neurons)
            if kept is not neurons:
                by_expert = kept.view(len(kept), experts, -1).transpose(0, 1)
                output = torch.bmm(by_expert, module.down_proj).view(-1, size)
        _shown(module, ffn.routing, output.view(experts, -1, size).sum(dim=0))
        return output

    return module.register_forward_hook(after).remove


def _visited(module: nn.Module, routing: tuple[Tensor, ...], neurons: Tensor) -> Tensor:
    """Neurons of a layer's experts after every context that sees them here; the same object if none replaced them."""
    for site in _here(module):
        replaced = site.context.on_neurons(site.ffn.routed(*routing), neurons, neurons)
        neurons = neurons if replaced is None else replaced
    return neurons


def _shown(module: nn.Module, routing: tuple[Tensor, ...], output: Tensor) -> None:
    for site in _here(module):
        if site.context.on_output is not None:
            ffn = site.ffn.routed(*routing)
            site.context.on_output(ffn, output - ffn.bias)


def _here(module: nn.Module) -> list[_Site]:
    sites, _ = _watched.get(module, ([], None))
    return [site for site in list(sites) if site.context.holds(module)]


def marks(rule: Rule, ffn: FFN, neurons: Tensor, gate: Tensor, valid: Tensor | None = None) -> Tensor:
    """Ones, in float32, at the neurons that a rule keeps, zeros elsewhere: shape of ``neurons``.

    A product with booleans takes four times as long on a CPU, and so does making them.
    """
    if type(rule) is Thresholds:
        return above_threshold(ffn, neurons, rule.values[ffn.site])
    active = rule.active(ffn, neurons, gate, valid)
    if not isinstance(active, Tensor) or active.dtype != torch.bool or active.shape != neurons.shape:
        got = f"{active.dtype} {tuple(active.shape)}" if isinstance(active, Tensor) else type(active).__name__
        raise ValueError(
            f"{type(rule).__name__}: active must give a tensor of booleans in the shape of neurons, "
            f"{tuple(neurons.shape)}; got {got}."
        )
    return active.float()


def masked_values(kept: Tensor, neurons: Tensor) -> Tensor:
    """The neurons' values, zero where ``marks`` has a zero."""
    return kept.to(neurons.dtype).mul_(neurons)


def sparse_logits(model: PreTrainedModel, batch: Batch, ffns: Sequence[FFN], rule: Rule) -> tuple[Tensor, np.ndarray]:
    """Run one forward pass without the weak neurons; logits, and each FFN's active neurons summed over tokens.

    Counts stay on the device until the pass is done.
    """
    padding = Copies(batch.valid.reshape(-1)) if batch.padded else None
    counts: dict[int, Tensor] = {}

    def mask(ffn: FFN, neurons: Tensor, score: Tensor) -> Tensor:
        valid = None if padding is None else padding.on(neurons.device)
        kept = marks(rule, ffn, neurons, score, valid)
        by_token = kept.reshape(-1, ffn.width).sum(dim=1).double()
        counts[ffn.site] = (by_token if valid is None else by_token * valid).sum()
        return masked_values(kept, neurons)

    with hook_ffns(ffns, mask, gate=rule.uses_gate):
        scores = logits(model, batch)
    return scores, np.array([int(counts[ffn.site]) for ffn in ffns])


@contextmanager
def masked(ffns: Sequence[FFN], rule: Rule) -> Iterator[set[int]]:
    """Leave out the weak neurons of a rule that fits; yields the sites of the FFNs that were run so."""
    seen: set[int] = set()

    def keep_active(ffn: FFN, neurons: Tensor, gate: Tensor) -> Tensor:
        seen.add(ffn.site)
        return masked_values(marks(rule, ffn, neurons, gate), neurons)

    with hook_ffns(ffns, keep_active, gate=rule.uses_gate, shared=True):
        yield seen


@contextmanager
def sparsify(model: PreTrainedModel, rule: Rule | CETT | str | os.PathLike[str]) -> Iterator[PreTrainedModel]:
    """Run ``model`` with the weak neurons of ``rule`` left out: for generate, lm-eval or any code that calls it.

    ``rule`` is a Thresholds artefact, the path of its file, or any rule but a bare CETT target. Raises ValueError
    before touching the model if the rule does not fit it; warns if the model ran without calling an FFN's projection,
    so that it ran dense. The model is left bit-identical, also after an exception and in nested use; threads and
    asyncio tasks that each open their own context each get their own rule; those that begin meanwhile share it.
    """
    ffns = find_ffns(model)
    rule = as_rule(rule)
    rule.check(ffns)
    runs: set[str] = set()
    with ExitStack() as stack:
        stack.callback(model.register_forward_hook(lambda *_: runs.add("done")).remove)
        seen = stack.enter_context(masked(ffns, rule))
        yield model
    if runs and (dense := [ffn.name for ffn in ffns if ffn.site not in seen]):
        warnings.warn(
            f"{', '.join(dense)}: its output projection was never called, so that it ran dense.", stacklevel=3
        )
