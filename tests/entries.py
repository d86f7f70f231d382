"""Tiny random models of the entries of transformers' mappings from config to model class, where they build by rule."""

import dataclasses
import inspect
from typing import Any

import torch
import transformers as tf
from transformers.models.auto import modeling_auto

MAPPINGS = {
    "causal": modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    "image-text": modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    "seq2seq": modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
}
VOCABULARY, LAYERS, HIDDEN, HEADS = 64, 2, 32, 4
SIZES: dict[int, str] = {
    VOCABULARY: "vocab_size n_vocab vocab_size_per_layer_input encoder_hash_byte_group_vocab",
    LAYERS: """num_hidden_layers n_layer num_layers n_layers encoder_layers decoder_layers depth num_decoder_layers
        num_encoder_layers num_experts_per_tok moe_topk top_k moe_k moe_top_k num_experts_per_token
        num_key_value_heads eos_token_id""",
    HIDDEN: """hidden_size n_embd d_model embed_dim emb_dim word_embed_proj_dim dim model_dim lm_hidden_size
        out_hidden_size""",
    24: """moe_intermediate_size expert_ffn_hidden_size moe_ffn_hidden_size shared_expert_intermediate_size
        shared_intermediate_size moe_shared_expert_intermediate_size""",
    48: """intermediate_size ffn_dim n_inner ffn_hidden_size encoder_ffn_dim decoder_ffn_dim d_ff
        intermediate_size_mlp mlp_dim dim_ff d_inner""",
    HEADS: """num_attention_heads n_head num_heads n_heads encoder_attention_heads decoder_attention_heads num_experts
        num_local_experts n_routed_experts moe_num_experts num_routed_experts rotary_dim""",
    HIDDEN // HEADS: """head_dim d_head kv_channels attention_head_dim global_head_dim qk_rope_head_dim
        qk_nope_head_dim v_head_dim qk_head_dim q_lora_rank kv_lora_rank patch_size hidden_size_per_layer_input
        mamba_d_head""",
    1: """n_shared_experts num_shared_experts moe_num_shared_experts n_group topk_group first_k_dense_replace
        bos_token_id decoder_start_token_id num_dense_layers""",
    128: """max_position_embeddings n_positions n_ctx max_seq_len max_target_positions max_source_positions""",
    16: "image_size",
    0: "pad_token_id num_kv_shared_layers",
}
NAMED = {name: size for size, names in SIZES.items() for name in names.split()}
MLA = {"num_key_value_heads": HEADS}  # of one size with the heads
MIXED = ["linear_attention", "full_attention"]
SAME_HEADS = """axk1 axk2 deepseek_v2 deepseek_v3 deepseek_v32 glm4_moe_lite glm_moe_dsa minicpm3 youtu
    dots3_note_text longcat_flash bamba granitemoehybrid bailing_hybrid mistral4 glm5_next_text"""
SPECIAL: dict[str, dict[str, Any]] = {  # whose sizes depend on one another
    **{entry: MLA for entry in SAME_HEADS.split()},
    **{entry: {"layer_types": MIXED} for entry in ("qwen3_next", "qwen3_5_text", "qwen3_5_moe_text")},
    "codegen": {"rotary_dim": 4},
    "gemma3n_text": {"layer_types": ["sliding_attention", "full_attention"]}
    | {"activation_sparsity_pattern": [0.5, 0.0], "laurel_rank": 4},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "gptj": {"rotary_dim": 4},
    "dbrx": {"attn_config": {"kv_n_heads": HEADS, "clip_qkv": 8.0, "rope_theta": 1e4}}
    | {"ffn_config": {"ffn_hidden_size": 48, "moe_num_experts": 4, "moe_top_k": 2, "hidden_size": HIDDEN}},
    "diffusion_gemma_text": {"top_k_experts": 2},
    "step3p5": {"sliding_window": 8},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "lfm3": {"layer_types": ["conv", "full_attention"]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1},
    "recurrent_gemma": {"num_hidden_layers": 3},
    "bailing_hybrid": MLA | {"layer_group_size": 2},
    "mamba2": {"num_heads": 8, "head_dim": 8},
    "zaya": {"num_experts_per_tok": 1},
    "zamba": {"num_hidden_layers": 3, "layer_types": ["mamba", "hybrid", "hybrid"]},
    "zamba2": {"num_hidden_layers": 3, "layer_types": ["mamba", "hybrid", "hybrid"]},
}
for hybrid in ("bamba", "granitemoehybrid"):
    SPECIAL[hybrid] = MLA | {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_expand": 2}


def _arguments(config: type) -> dict[str, Any]:
    """Small values of the entries that a config class has."""
    defaults = {name: p.default for name, p in inspect.signature(config).parameters.items()}
    if dataclasses.is_dataclass(config):
        for entry in dataclasses.fields(config):
            defaults.setdefault(entry.name, None if entry.default is dataclasses.MISSING else entry.default)
    chosen: dict[str, Any] = {}
    for name, part in config.sub_configs.items():
        if part is not tf.AutoConfig:
            chosen[name] = _arguments(part)
        elif isinstance(usual := getattr(config(), name, None), tf.PreTrainedConfig):
            chosen[name] = _arguments(type(usual)) | {"model_type": usual.model_type}
    depth = next((default for name, default in defaults.items() if NAMED.get(name) == LAYERS and "layer" in name), None)
    for name, default in defaults.items():
        if name in config.sub_configs or isinstance(default, (str, bool)):
            continue
        if isinstance(default, (list, tuple)):
            if len(default) == depth:
                chosen[name] = list(default)[:LAYERS]
        elif name in NAMED:
            chosen[name] = NAMED[name]
        elif name.endswith(("token_id", "token_index")) and default is not None:
            chosen[name] = 3
    if issubclass(config, tf.PreTrainedConfig) and "is_decoder" in defaults:
        chosen["is_decoder"] = True
    return chosen | SPECIAL.get(config.model_type, {})


def build(mapping: str, entry: str) -> tf.PreTrainedModel:
    """A tiny model of an entry in eval mode; raises whatever its classes do if the sizes do not suit them."""
    config_class = tf.CONFIG_MAPPING[entry]
    config = config_class(**_arguments(config_class))
    if mapping == "causal":
        config.is_encoder_decoder = False
    rope = getattr(config.get_text_config(decoder=True), "rope_parameters", None)
    if rope and "rope_theta" in rope:
        rope["mrope_section"] = [1, 1, 2]  # of half a head: those that know it take theirs from no other entry
    name = MAPPINGS[mapping][entry]
    model_class = getattr(tf, name if isinstance(name, str) else name[0])
    if type(config) is not model_class.config_class is type(part := config.get_text_config(decoder=True)):
        config = part
    with torch.device("meta"):
        if sum(p.numel() for p in model_class._from_config(config).parameters()) > 3e7:
            raise ValueError("too large to build by rule")
    torch.manual_seed(0)
    return model_class._from_config(config, dtype=torch.float32).eval()
