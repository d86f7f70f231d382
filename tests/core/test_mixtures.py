"""A mixture of experts is one wide FFN: as exact as an ordinary one, ratios over all experts, and without traces."""

import copy
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import transformers as tf
from accelerate import cpu_offload
from accelerate.hooks import remove_hook_from_module
from exactness import exactness, within
from families import MIXTURES, MOE, TEXT
from helpers import logits

import sparsinglib as sl
from sparsinglib.core.scan import scan

RULE = sl.OutputTopK(0.25)


def mixture(family="Qwen2Moe", **more):
    config, arguments = MIXTURES[family]
    torch.manual_seed(0)
    model = tf.AutoModelForCausalLM.from_config(config(**arguments | more)).eval()
    for name, parameter in model.named_parameters():
        if "bias" in name:  # zero at the start, which would hide a bias counted as a neuron
            torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.mark.parametrize("family", MIXTURES)
def test_exactness(family):
    assert not within(exactness(mixture(family), TEXT))


def test_ratios_are_over_all_neurons_of_a_layer():
    model = mixture()
    result = sl.measure(model, [TEXT], sl.thresholds_for_cett(model, [TEXT], 0.1))
    table = result.by_layer
    assert table.layer.tolist() == [0, 0, 1, 2, 2] and table.neurons.tolist() == [32, 8, 24, 32, 8]
    assert table.experts.tolist() == [4, 0, 0, 4, 0]
    active = [float(c.sum()) / TEXT.numel() for c in result.neuron_counts]
    pooled = [(active[0] + active[1]) / 40, active[2] / 24, (active[3] + active[4]) / 40]
    assert result.activation_ratio == pytest.approx(np.mean(pooled))
    assert result.token_activation.mean(axis=1).tolist() == pytest.approx(pooled)
    assert result.by_position.activation_ratio.mean() == pytest.approx(result.activation_ratio)
    # Two of four experts have a token, so that of the neurons that are computed twice the share is active.
    assert table.routed_ratio[[0, 3]].tolist() == pytest.approx((2 * table.activation_ratio[[0, 3]]).tolist())
    assert table.routed_ratio.isna().tolist() == [False, True, True, False, True]
    loads, chosen = result.expert_loads, 2 * TEXT.numel()
    assert [len(x) for x in loads] == [4, 0, 0, 4, 0] and [int(x.sum()) for x in loads] == [chosen, 0, 0, chosen, 0]
    halves = [sl.measure(model, [part], result.rule) for part in TEXT[:, None]]
    both = halves[0] + halves[1]
    assert both.activation_ratio == pytest.approx(result.activation_ratio)
    assert all(torch.equal(a, b) for a, b in zip(both.expert_loads, loads, strict=True))


def test_counts_and_loads_are_those_of_the_tokens_that_are_no_padding():
    model = mixture()
    chosen, kept = [], []
    experts = model.model.layers[0].mlp.experts
    mask = torch.ones_like(TEXT)
    mask[1, :5] = 0
    result = sl.measure(model, [{"input_ids": TEXT, "attention_mask": mask}], RULE)
    seen = experts.register_forward_pre_hook(lambda _module, args: chosen.append(args[1]))
    look = sl.hook_ffns(sl.find_ffns(model)[:1], lambda ffn, neurons, gate: kept.append(neurons != 0))
    with sl.sparsify(model, RULE), look, torch.no_grad():
        for row in (TEXT[:1], TEXT[1:, 5:]):
            model(row)
    seen.remove()
    loads, counts = torch.zeros(4, dtype=torch.int64), torch.zeros(4, 8, dtype=torch.int64)
    for experts_of, active in zip(torch.cat(chosen).tolist(), torch.cat(kept).view(-1, 2, 8), strict=True):
        for expert, neurons in zip(experts_of, active, strict=True):
            loads[expert] += 1
            counts[expert] += neurons
    assert torch.equal(result.expert_loads[0], loads) and loads.sum() == 2 * mask.sum()
    assert torch.equal(result.neuron_counts[0], counts.flatten())


def test_the_routers_weight_is_in_the_length_of_a_neuron():
    model = mixture("Mixtral")
    experts = model.model.layers[0].mlp.experts
    seen = []
    experts.register_forward_pre_hook(lambda _module, args: seen.append(args[1:]))

    def look(ffn, neurons, gate):
        chosen, weights = seen.pop()
        norms = experts.down_proj.detach().double().norm(dim=1)  # experts × neurons
        expected = neurons.view(*chosen.shape, -1).abs() * norms[chosen] * weights[..., None]
        assert torch.allclose(ffn.magnitudes(neurons).double(), expected.flatten(1).double(), rtol=1e-5)

    with sl.hook_ffns(sl.find_ffns(model)[:1], look):
        logits(model, TEXT)
    assert not seen


def test_thresholds_go_through_a_file(tmp_path, quiet):
    model = mixture()
    found = sl.find_thresholds(model, [TEXT], 5.0)
    found.save(tmp_path / "t.json")
    result = sl.measure(model, [TEXT], tmp_path / "t.json")
    assert result.ppl_ratio == pytest.approx(found.ppl_ratio, rel=1e-6)
    assert result.activation_ratio == pytest.approx(found.activation_ratio)


def test_nothing_is_left_behind(tmp_path):
    model, twin = mixture(), mixture()
    twin.config = model.config
    for module in twin.modules():
        if hasattr(module, "_is_expert_parallel"):
            module.config = model.config
    experts = [module for module in model.modules() if hasattr(module, "_is_expert_parallel")]
    dense, configs = logits(model, TEXT), [module.config for module in experts]
    with sl.sparsify(model, RULE):
        outer = logits(model, TEXT)
        assert torch.equal(logits(twin, TEXT), dense), "a twin that shares the config is not touched"
        model.save_pretrained(tmp_path)
        copied = copy.deepcopy(model)
        with sl.sparsify(model, sl.OutputTopK(0.05)):
            assert not torch.equal(logits(model, TEXT), outer)
        assert torch.equal(logits(model, TEXT), outer)
    assert not torch.equal(outer, dense) and torch.equal(logits(model, TEXT), dense)
    assert torch.equal(logits(copied, TEXT), dense), "a copy made meanwhile runs dense"
    assert "sparsinglib" not in (tmp_path / "config.json").read_text()
    assert all(module.config is config for module, config in zip(experts, configs, strict=True))


@pytest.mark.parametrize("rule", [sl.FAT(0.1), sl.TopK(0.5), sl.TopP(0.5), sl.StraightforwardReLU()], ids=str)
def test_gate_rules_say_what_they_cannot_do(rule):
    with pytest.raises(sl.UnsupportedModel, match=r"mlp\.experts holds experts.*CETT, Thresholds, OutputTopK"):
        sl.measure(mixture("Mixtral"), [TEXT], rule)


def test_experts_have_no_gate_scores_to_set_thresholds_on():
    with pytest.raises(sl.UnsupportedModel, match=r"mlp\.experts holds experts"):
        sl.gate_thresholds(mixture("Mixtral"), [TEXT], 0.5)


def test_eight_experts_offloaded_give_the_same_numbers(quiet):
    plain = mixture("Mixtral", num_local_experts=8)
    offloaded = cpu_offload(copy.deepcopy(plain), execution_device=torch.device("cpu"))
    assert any(parameter.is_meta for parameter in offloaded.parameters())
    one, two = (sl.find_thresholds(model, [TEXT], 5.0) for model in (plain, offloaded))
    assert one.values == two.values and one.ppl_ratio == two.ppl_ratio
    for rule in (one, RULE, sl.CETT(0.2)):
        a, b = (sl.measure(model, [TEXT], rule) for model in (plain, offloaded))
        assert (a.dense_ppl, a.sparse_ppl, a.activation_ratio) == (b.dense_ppl, b.sparse_ppl, b.activation_ratio)
        assert a.by_layer.equals(b.by_layer)
    remove_hook_from_module(offloaded, recurse=True)


def test_an_adapter_on_experts_is_to_be_merged():
    peft = pytest.importorskip("peft")
    parts = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    settings = peft.LoraConfig(r=4, target_modules=[], target_parameters=parts)
    model = peft.get_peft_model(mixture("Mixtral"), settings).eval()
    with pytest.raises(sl.UnsupportedModel, match="adapter on experts; merge it first"):
        sl.find_ffns(model)


def test_llama_4_scales_what_its_experts_are_given():
    torch.manual_seed(0)
    sizes = MOE | {"num_local_experts": 4, "num_experts_per_tok": 1, "intermediate_size_mlp": 24, "head_dim": 8}
    model = tf.Llama4ForCausalLM(tf.Llama4TextConfig(**sizes)).eval()
    assert not within(exactness(model, TEXT))


def test_a_scan_gives_what_measure_gives_whatever_other_threads_do(quiet):
    model, rules = mixture("Mixtral"), [sl.OutputTopK(0.2), sl.OutputTopK(0.05)]
    with sl.sparsify(model, rules[1]), ThreadPoolExecutor(1) as pool:  # whose rule is shared with later threads
        scanned = pool.submit(scan, model, [TEXT], rules).result()
    for index, rule in enumerate(rules):
        measured = sl.measure(model, [TEXT], rule)
        assert math.exp(scanned.log_ratio[index]) == measured.ppl_ratio
        assert scanned.activation_ratio[index] == pytest.approx(measured.activation_ratio, rel=1e-12)
