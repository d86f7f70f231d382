"""A model too large for one device: weights that accelerate keeps in memory or on disk give the same numbers."""

import shutil

import pytest
import torch
from accelerate import cpu_offload
from accelerate.hooks import remove_hook_from_module
from helpers import GOLDEN, hooks_on

import sparsinglib as sl
from sparsinglib import decoding

WHOLE = {"model.embed_tokens": "cpu", "model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu"}
SPLIT = WHOLE | {"model.layers.0": "cpu", "model.layers.1": "disk"}


@pytest.fixture(params=["from disk", "all from disk", "from memory"])
def dispatched(request, tmp_path):
    """The golden ReLU model with its last layer, or all of it, on disk, or its weights handed out one module a time."""
    source = tmp_path / "model"
    shutil.copytree(GOLDEN / "tiny_minicpm_relu", source)
    if request.param == "from memory":
        model, _ = sl.load(source, device_map="cpu")
        cpu_offload(model, execution_device=torch.device("cpu"))
    else:
        more = {"device_map": SPLIT | {"model.layers.0": "disk"}, "offload_folder": tmp_path / "offload"}
        model, _ = sl.load(source, **{"device_map": SPLIT} | (more if request.param == "all from disk" else {}))
        assert model.hf_device_map["model.layers.1"] == "disk"
    model.set_attn_implementation("eager")
    assert any(parameter.device.type == "meta" for parameter in model.parameters())
    yield model
    remove_hook_from_module(model, recurse=True)


def test_search_measure_and_sparsify_are_those_of_the_plain_model(dispatched, relu, ids, quiet):
    batches = [ids["greedy64_relu"]]
    before = hooks_on(dispatched)
    plain, found = (sl.find_thresholds(m, batches, 5.0) for m in (relu, dispatched))
    assert found.values == plain.values and found.cett == plain.cett
    for rule in (plain, sl.TopK(0.1), sl.FAT(0.1), sl.StraightforwardReLU(), sl.CETT(0.2)):
        one, two = (sl.measure(m, batches, rule) for m in (relu, dispatched))
        assert two.activation_ratio == one.activation_ratio
        assert (two.dense_ppl, two.sparse_ppl, two.kl) == (one.dense_ppl, one.sparse_ppl, one.kl)
        assert all(torch.equal(a, b) for a, b in zip(one.neuron_counts, two.neuron_counts, strict=True))
    with sl.sparsify(relu, plain), sl.sparsify(dispatched, plain), torch.no_grad():
        assert torch.equal(relu(batches[0]).logits, dispatched(batches[0]).logits)
    assert hooks_on(dispatched) == before


def test_a_device_map_needs_a_folder_for_what_goes_to_disk(tmp_path):
    with pytest.raises(sl.CheckpointError, match="offload"):
        sl.load(GOLDEN / "tiny_minicpm_hub_layout", device_map=SPLIT)


def test_the_decode_kernel_asks_for_weights_in_memory(dispatched, relu, ids, quiet):
    found = sl.find_thresholds(relu, [ids["greedy64_relu"]], 5.0)
    with pytest.raises(ValueError, match="runs on the CPU"), decoding.sparse_decoding(dispatched, found):
        pass
