"""Record and mask neuron values: the only code that touches a model. Every hook is gone when its context ends."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from .ffn import FFN, UnsupportedModel, find_ffns
from .rules import Rule
from .thresholds import as_rule

Visit = Callable[[FFN, Tensor, Tensor], Tensor | None]
After = Callable[[FFN, Tensor], None]
_open: list[ExitStack] = []  # contexts that keep models uncompiled


@contextmanager
def tap(ffns: Sequence[FFN], visit: Visit, *, gate: bool = False, after: After | None = None) -> Iterator[None]:
    """Call ``visit(ffn, neurons, gate_score)`` in each FFN just before its output projection.

    ``neurons`` has shape (..., d_ff). ``gate_score`` is the activation function's output if ``gate`` is set and the
    FFN has a gate, otherwise ``neurons``. What ``visit`` returns replaces the neurons; None leaves them untouched, so
    that the model's output is bit-identical. ``after(ffn, output)`` sees what the projection then gives, (..., hidden
    size), bias included. Contexts nest; each removes only its own hooks, also after an exception. A compiled model runs
    uncompiled meanwhile: its graph would go on without the hooks.
    """
    handles: list[RemovableHandle] = []
    try:
        for ffn in ffns:
            handles += _attach(ffn, visit, gate, after)
        with _uncompiled():
            yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _uncompiled() -> Iterator[None]:
    """Until the last of these contexts is closed, in whatever order they are."""
    stance = ExitStack()
    if not _open:
        stance.enter_context(torch.compiler.set_stance("force_eager"))
    _open.append(stance)
    try:
        yield
    finally:
        _open.remove(stance)
        if _open:  # the others still need it
            _open[0].push(stance.pop_all())
        else:
            stance.close()


def _attach(ffn: FFN, visit: Visit, gate: bool, after: After | None) -> list[RemovableHandle]:
    latest: list[Tensor] = []
    reads_gate = gate and ffn.kind != "plain"

    def remember_gate(_module: object, _args: object, output: Tensor) -> None:
        latest[:] = [output]

    def before_down(_module: object, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        neurons = args[0]
        if reads_gate and not latest:
            raise UnsupportedModel(f"{ffn.name}: its activation module was not called; use a rule without gate scores.")
        replaced = visit(ffn, neurons, latest.pop() if reads_gate else neurons)
        return None if replaced is None else (replaced, *args[1:])

    handles = [ffn.down.register_forward_pre_hook(before_down)]
    if reads_gate and ffn.activation is not None:
        handles.append(ffn.activation.register_forward_hook(remember_gate))
    if after is not None:
        handles.append(ffn.down.register_forward_hook(lambda _module, _args, output: after(ffn, output)))
    return handles


@contextmanager
def sparsify(model: PreTrainedModel, rule: Rule | str | os.PathLike[str]) -> Iterator[PreTrainedModel]:
    """Run ``model`` with the weak neurons of ``rule`` left out: for generate, lm-eval or any code that calls it.

    ``rule`` is a Thresholds artefact, the path of its file, or any rule but a bare CETT target. Raises ValueError
    before touching the model if the rule does not fit it. The model is left bit-identical, also after an exception
    and in nested use.
    """
    ffns = find_ffns(model)
    rule = as_rule(rule)
    rule.check(ffns)

    def keep_active(ffn: FFN, neurons: Tensor, gate: Tensor) -> Tensor:
        return neurons.masked_fill(~rule.active(ffn, neurons, gate), 0)

    with tap(ffns, keep_active, gate=rule.uses_gate):
        yield model
