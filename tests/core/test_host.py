"""On a GPU no FFN may wait for the host: hooks leave counts, CETT and masks on the device until a batch is done."""

from contextlib import contextmanager

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import sparsinglib as sl
from sparsinglib.core import calibration, cett, hooks, measure, probe, scan

WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2")  # what a GPU has to be waited for
MOVES = ("cpu", "numpy", "tolist")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:sparsinglib")


class Waits(TorchDispatchMode):
    """Notes every operation whose result the host reads; ``float``, ``int`` and ``bool`` of a tensor are one."""

    def __init__(self, noted):
        super().__init__()
        self.noted = noted

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        masks = name.startswith("index") and any(getattr(i, "dtype", None) == torch.bool for i in args[1] or ())
        if name in WAITS or (masks and isinstance(args[1], (list, tuple))):
            self.noted.append(name)
        return function(*args, **(kwargs or {}))


@pytest.fixture
def noted(monkeypatch):
    """What hooks do that a GPU would be waited for; ``hook_ffns`` is watched wherever the package calls it."""
    noted, inside = [], []
    real = hooks.hook_ffns

    def watched(hook):
        def visit(*args):
            inside.append(True)
            with Waits(noted):
                result = hook(*args)
            inside.pop()
            return result

        return visit if hook else None

    @contextmanager
    def hook_ffns(ffns, visit, *, on_output=None, **more):
        with real(ffns, watched(visit), on_output=watched(on_output), **more):
            yield

    for module in (calibration, cett, hooks, measure, probe, scan):
        monkeypatch.setattr(module, "hook_ffns", hook_ffns)
    for name in MOVES:
        plain = getattr(torch.Tensor, name)
        note = lambda self, *a, name=name, plain=plain: (inside and noted.append(name)) or plain(self, *a)  # noqa: E731
        monkeypatch.setattr(torch.Tensor, name, note)
    return noted


@pytest.fixture(params=["whole rows", "padding"])
def batches(request, responsive):
    text = responsive[1]
    if request.param == "whole rows":
        return [text[:6], text[6:]]
    mask = torch.ones_like(text)
    mask[::2, :3] = 0
    return [{"input_ids": text[:6], "attention_mask": mask[:6]}, {"input_ids": text[6:], "attention_mask": mask[6:]}]


def test_the_watch_sees_what_it_should(noted, model):
    ffns = sl.find_ffns(model)
    for wait in (
        lambda x: float(x.sum()),
        lambda x: int(x.argmax()),
        lambda x: bool(x.any()),
        lambda x: x[x > 0],
        lambda x: x.cpu(),
        lambda x: x.nonzero(),
        lambda x: x.flatten().tolist(),
    ):
        noted.clear()
        with hooks.hook_ffns(ffns, lambda ffn, neurons, gate, wait=wait: wait(neurons) is None or None):
            model(torch.tensor([[1, 2, 3]]))
        assert noted, "a transfer went unseen"


@pytest.mark.parametrize("room", [cett.KEPT_BYTES, 0], ids=["kept", "read again"])
def test_a_search_waits_for_no_ffn(noted, responsive, batches, monkeypatch, room):
    monkeypatch.setattr(cett, "KEPT_BYTES", room)
    found = sl.find_thresholds(responsive[0], batches, 5.0, criterion="kl")
    assert found.converged and noted == []


@pytest.mark.parametrize("rule", [sl.CETT(0.1), sl.TopK(0.3), sl.FAT(0.1), sl.TopP(0.9), sl.OutputTopK(0.3)], ids=str)
def test_measure_and_sparsify_wait_for_no_ffn(noted, responsive, batches, rule):
    result = sl.measure(responsive[0], batches, rule)
    with sl.sparsify(responsive[0], result.rule):
        responsive[0](responsive[1][:2])
    assert 0 < result.activation_ratio < 1 and noted == []


def test_reading_gate_scores_waits_for_no_ffn(noted, responsive, batches):
    sl.gate_thresholds(responsive[0], batches, 0.5)
    assert noted == []
