"""FFNs are found in every decoder family, masking nothing changes nothing, and neuron outputs add up to the FFN's."""

import warnings

import pytest
import torch
import transformers as tf
from families import FAMILIES, MIXTURES, TEXT, build

import sparsinglib as sl


def run(model):
    with torch.no_grad():
        return model(TEXT).logits


@pytest.mark.parametrize("family", FAMILIES)
def test_family(family):
    model, kind = build(family)
    ffns = sl.find_ffns(model)
    assert [f.layer for f in ffns] == [0, 1] and {f.kind for f in ffns} == {kind}
    modules = dict(model.named_modules())
    dense = run(model)

    seen = {}

    def look(ffn, neurons, gate):
        seen[ffn.layer] = (neurons, gate)

    outputs = {}
    with sl.tap(ffns, look, gate=True, after=lambda ffn, output: outputs.update({ffn.layer: output.clone()})):
        assert torch.equal(run(model), dense), "looking must not change the logits"
    with sl.tap(ffns, lambda ffn, neurons, gate: neurons.masked_fill(torch.zeros_like(neurons, dtype=bool), 0)):
        assert torch.equal(run(model), dense), "masking nothing must not change the logits"

    for ffn in ffns:
        neurons, gate = seen[ffn.layer]
        assert neurons.shape[-1] == ffn.d_ff and gate.shape == neurons.shape
        assert any(m is ffn.down for m in modules.values()) and modules[ffn.name] is not None
        weight = ffn.down.weight.detach()
        columns = (weight if isinstance(ffn.down, tf.pytorch_utils.Conv1D) else weight.T).double()  # d_ff × hidden
        whole = sum(neurons.reshape(-1, ffn.d_ff)[:, i, None].double() * columns[i] for i in range(ffn.d_ff))
        bias = 0 if ffn.down.bias is None else ffn.down.bias.detach().double()
        assert torch.allclose(whole, outputs[ffn.layer].reshape(len(whole), -1).double() - bias, atol=1e-5)
        assert torch.allclose(ffn.output(neurons.reshape(-1, ffn.d_ff)).detach().double(), whole, atol=1e-5)
        assert torch.allclose(ffn.column_norms.double(), columns.norm(dim=1), atol=1e-6)
    assert {f.d_ff for f in ffns} == {columns.shape[0]}

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = sl.find_thresholds(model, [TEXT], 5.0)
    assert len(found.values) == 2 and (0 < found.activation_ratio <= 1 or not found.target_met)
    with sl.sparsify(model, found):
        sparse = run(model)
    assert not torch.equal(sparse, dense)
    assert torch.equal(run(model), dense)


@pytest.mark.parametrize("family", ["Llama", "Phi3", "Gemma", "OPT", "Nemotron", "Glm4"])
def test_gate_rules_run(family):
    model, _ = build(family)
    for rule in (sl.FAT(1e-3), sl.TopK(0.5)):
        result = sl.measure(model, [TEXT], rule)
        assert 0 < result.activation_ratio <= 1
    if family not in ("OPT", "Nemotron"):  # ReLU can leave fewer than half of the scores nonzero
        assert result.activation_ratio == pytest.approx(0.5, abs=1e-6)


def test_straightforward_relu_knows_who_has_exact_zeros():
    for family in ("OPT", "Nemotron"):
        model, _ = build(family)
        result = sl.measure(model, [TEXT], sl.StraightforwardReLU())
        assert result.ppl_ratio == 1 and 0 < result.activation_ratio < 1
    with pytest.raises(ValueError, match="exact zeros"):
        sl.measure(build("Gemma")[0], [TEXT], sl.StraightforwardReLU())


@pytest.mark.parametrize("family", MIXTURES)
def test_mixture_of_experts_is_refused_by_name(family):
    config, arguments, dense = MIXTURES[family]
    model = tf.AutoModelForCausalLM.from_config(config(**arguments)).eval()
    calls = []
    model.register_forward_pre_hook(lambda *_: calls.append(1))
    with pytest.raises(sl.UnsupportedModel, match="mixture of experts") as error:
        sl.find_thresholds(model, [TEXT])
    message = str(error.value)
    assert type(model).__name__ in message and "(" in message
    assert f"ordinary FFN: {', '.join(dense) or 'none'}" in message
    assert not calls, "refused before any forward pass"


def test_layer_without_an_ffn_is_named():
    model, _ = build("Llama")
    model.model.layers[1].mlp = torch.nn.Identity()
    with pytest.raises(sl.UnsupportedModel, match=r"model\.layers\.1"):
        sl.find_ffns(model)


def test_odd_ffn_is_named_with_its_widths():
    model, _ = build("Llama")
    model.model.layers[0].mlp.up_proj = torch.nn.Linear(16, 20)
    with pytest.raises(sl.UnsupportedModel, match=r"model\.layers\.0\.mlp.*24 neurons.*20"):
        sl.find_ffns(model)


def test_model_without_a_stack_of_layers():
    model, _ = build("Llama")
    model.config.num_hidden_layers = 5
    with pytest.raises(sl.UnsupportedModel, match="5 decoder layers"):
        sl.find_ffns(model)


def test_projection_that_is_never_called_is_named():
    model, _ = build("Llama")
    mlp = model.model.layers[1].mlp
    mlp.forward = lambda x: torch.nn.functional.linear(
        mlp.act_fn(mlp.gate_proj(x)) * mlp.up_proj(x), mlp.down_proj.weight
    )
    with pytest.raises(ValueError, match=r"model\.layers\.1\.mlp.*never called"):
        sl.find_thresholds(model, [TEXT])
    with pytest.raises(ValueError, match=r"model\.layers\.1\.mlp.*never called"):
        sl.measure(model, [TEXT], sl.FAT(0.1))


@pytest.mark.parametrize("family", ["GPT2", "OPT", "GPTNeo", "GPTBigCode", "Llama", "Bloom", "Mpt"])
def test_left_padding_does_not_shift_positions(family):
    model, _ = build(family)
    mask = torch.cat([torch.zeros(2, 5, dtype=torch.long), torch.ones_like(TEXT)], dim=1)
    ids = torch.cat([torch.full((2, 5), 3), TEXT], dim=1)
    plain = sl.measure(model, [TEXT], sl.FAT(1e-3)) if family != "Bloom" else sl.measure(model, [TEXT], sl.CETT(0.1))
    padded = sl.measure(model, [{"input_ids": ids, "attention_mask": mask}], plain.rule)
    assert padded.dense_ppl == pytest.approx(plain.dense_ppl, rel=1e-5)
    assert padded.activation_ratio == pytest.approx(plain.activation_ratio, abs=2e-3)
