"""Tiny random models of every decoder family that the tests go through, from the config classes of transformers."""

import torch
import transformers as tf

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
    "Gemma": (tf.GemmaConfig, COMMON | {"head_dim": 8, "tie_word_embeddings": False}, "gated"),
    "Gemma2": (tf.Gemma2Config, COMMON | {"head_dim": 8, "tie_word_embeddings": False}, "gated"),
    "Gemma3Text": (tf.Gemma3TextConfig, COMMON | {"head_dim": 8, "tie_word_embeddings": False}, "gated"),
    "Granite": (tf.GraniteConfig, COMMON, "gated"),
    "SmolLM3": (tf.SmolLM3Config, COMMON, "gated"),
    "Olmo": (tf.OlmoConfig, COMMON, "gated"),
    "Olmo2": (tf.Olmo2Config, COMMON, "gated"),
    "StableLm": (tf.StableLmConfig, COMMON, "gated"),
    "Cohere": (tf.CohereConfig, COMMON | {"logit_scale": 1.0}, "gated"),
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

MOE = COMMON | {"num_experts_per_tok": 2}
MIXTURES = {
    "Mixtral": (tf.MixtralConfig, MOE | {"num_local_experts": 4}),
    "GraniteMoe": (tf.GraniteMoeConfig, MOE | {"num_local_experts": 4}),
    "Qwen2Moe": (
        tf.Qwen2MoeConfig,
        MOE
        | {"num_experts": 4, "num_hidden_layers": 3, "mlp_only_layers": [1], "moe_intermediate_size": 8}
        | {"shared_expert_intermediate_size": 8},
    ),
    "Qwen3Moe": (tf.Qwen3MoeConfig, MOE | {"num_experts": 4, "moe_intermediate_size": 8, "head_dim": 8}),
    "Olmoe": (tf.OlmoeConfig, MOE | {"num_experts": 4}),
    "GptOss": (tf.GptOssConfig, MOE | {"num_local_experts": 4, "head_dim": 8}),
}
TEXT = torch.tensor([[3, 5, 9, 31, 20, 7, 7, 12, 39, 4, 11, 30], [8, 3, 3, 17, 25, 6, 38, 13, 14, 21, 34, 5]])


def build(family, scale=1.0):
    """A model and its kind of FFN; ``scale`` of 15 or so makes its loss respond to pruning."""
    config, arguments, kind = FAMILIES[family]
    torch.manual_seed(0)
    model = tf.AutoModelForCausalLM.from_config(config(**arguments)).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):  # zero at the start, which would hide a bias counted as a neuron
            torch.nn.init.normal_(parameter, std=0.3)
        if parameter.dim() > 1:
            parameter.data.mul_(scale)
    return model, kind
