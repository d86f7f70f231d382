"""FFNs are found in every decoder family, masking nothing changes nothing, and neuron outputs add up to the FFN's."""

import warnings

import pytest
import torch
import transformers as tf

import sparsinglib as sl

COMMON = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "vocab_size": 40}
GPT2_LIKE = {**IDS, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64}
NO_KV = {k: v for k, v in COMMON.items() if k != "num_key_value_heads"}

# family: (config class, arguments, kind)
FAMILIES = {
    "Llama": (tf.LlamaConfig, COMMON, "gated"),
    "LlamaBias": (tf.LlamaConfig, COMMON | {"mlp_bias": True}, "gated"),
    "Qwen2": (tf.Qwen2Config, COMMON, "gated"),
    "Qwen3": (tf.Qwen3Config, COMMON | {"head_dim": 8}, "gated"),
    "Mistral": (tf.MistralConfig, COMMON | {"head_dim": 8}, "gated"),
    "Gemma": (tf.GemmaConfig, COMMON | {"head_dim": 8}, "gated"),
    "Gemma2": (tf.Gemma2Config, COMMON | {"head_dim": 8}, "gated"),
    "Gemma3Text": (tf.Gemma3TextConfig, COMMON | {"head_dim": 8}, "gated"),
    "Granite": (tf.GraniteConfig, COMMON, "gated"),
    "SmolLM3": (tf.SmolLM3Config, COMMON, "gated"),
    "Olmo": (tf.OlmoConfig, COMMON, "gated"),
    "Olmo2": (tf.Olmo2Config, COMMON, "gated"),
    "StableLm": (tf.StableLmConfig, COMMON, "gated"),
    "Cohere": (tf.CohereConfig, COMMON, "gated"),
    "Phi3": (tf.Phi3Config, COMMON, "fused"),
    "Glm": (tf.GlmConfig, COMMON | {"head_dim": 8}, "fused"),
    "Glm4": (tf.Glm4Config, COMMON | {"head_dim": 8}, "fused"),
    "Starcoder2": (tf.Starcoder2Config, COMMON, "plain"),
    "Nemotron": (tf.NemotronConfig, COMMON, "plain"),
    "Phi": (tf.PhiConfig, COMMON, "plain"),
    "Persimmon": (tf.PersimmonConfig, NO_KV, "plain"),
    "GPTNeoX": (tf.GPTNeoXConfig, NO_KV, "plain"),
    "OPT": (
        tf.OPTConfig,
        {**IDS, "hidden_size": 16, "word_embed_proj_dim": 16, "ffn_dim": 24, "num_hidden_layers": 2}
        | {"num_attention_heads": 2, "max_position_embeddings": 64},
        "plain",
    ),
    "GPT2": (tf.GPT2Config, GPT2_LIKE | {"n_inner": 24}, "plain"),
    "GPTNeo": (
        tf.GPTNeoConfig,
        {**IDS, "hidden_size": 16, "num_layers": 2, "num_heads": 2, "intermediate_size": 24}
        | {"max_position_embeddings": 64, "attention_types": [[["global", "local"], 1]]},
        "plain",
    ),
    "GPTJ": (tf.GPTJConfig, GPT2_LIKE | {"n_inner": 24, "rotary_dim": 4}, "plain"),
    "CodeGen": (tf.CodeGenConfig, GPT2_LIKE | {"n_inner": 24, "n_head": 4, "rotary_dim": 4, "n_ctx": 64}, "plain"),
    "GPTBigCode": (tf.GPTBigCodeConfig, GPT2_LIKE | {"n_inner": 24}, "plain"),
    "Falcon": (
        tf.FalconConfig,
        {**IDS, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "ffn_hidden_size": 24},
        "plain",
    ),
    "Bloom": (tf.BloomConfig, {**IDS, "hidden_size": 16, "n_layer": 2, "n_head": 2}, "plain"),
    "Mpt": (
        tf.MptConfig,
        {**IDS, "d_model": 16, "n_layers": 2, "n_heads": 2, "max_seq_len": 64, "expansion_ratio": 2},
        "plain",
    ),
}
TEXT = torch.tensor([[3, 5, 9, 31, 20, 7, 7, 12, 39, 4, 11, 30], [8, 3, 3, 17, 25, 6, 38, 13, 14, 21, 34, 5]])


def build(family):
    config, arguments, kind = FAMILIES[family]
    torch.manual_seed(0)
    model = tf.AutoModelForCausalLM.from_config(config(**arguments)).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):  # zero at the start, which would hide a bias counted as a neuron
            torch.nn.init.normal_(parameter, std=0.3)
    return model, kind


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


def test_enough_families():
    assert len(FAMILIES) >= 20


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


MOE = COMMON | {"num_experts_per_tok": 2}
MIXTURES = {
    "Mixtral": (tf.MixtralConfig, MOE | {"num_local_experts": 4}, []),
    "GraniteMoe": (tf.GraniteMoeConfig, MOE | {"num_local_experts": 4}, []),
    "Qwen2Moe": (
        tf.Qwen2MoeConfig,
        MOE
        | {"num_experts": 4, "num_hidden_layers": 3, "mlp_only_layers": [1], "moe_intermediate_size": 8}
        | {"shared_expert_intermediate_size": 8},
        ["model.layers.1"],
    ),
    "Qwen3Moe": (tf.Qwen3MoeConfig, MOE | {"num_experts": 4, "moe_intermediate_size": 8, "head_dim": 8}, []),
    "Olmoe": (tf.OlmoeConfig, MOE | {"num_experts": 4}, []),
    "GptOss": (tf.GptOssConfig, MOE | {"num_local_experts": 4, "head_dim": 8}, []),
}


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
