"""The authors' checkpoints (``MiniCPMForCausalLM``), for which transformers has no class, as Granite models.

The native Granite class computes the same function: its four multipliers are MiniCPM's muP scalings by other names.
"""

import math
from typing import Any

from transformers import GraniteConfig


def granite_config(raw: dict[str, Any]) -> GraniteConfig:
    """Translate a MiniCPM ``config.json``; ValueError for another attention or FFN, or with entries missing."""
    if raw.get("attention_type", "vanilla") != "vanilla" or raw.get("ffn_type", "vanilla") != "vanilla":
        raise ValueError(
            f"MiniCPM with attention {raw.get('attention_type')!r} and FFN {raw.get('ffn_type')!r} is not the "
            "plain layout of the Sparsing Law checkpoints."
        )
    try:
        hidden, layers, heads = (raw[k] for k in ("hidden_size", "num_hidden_layers", "num_attention_heads"))
        return GraniteConfig(
            vocab_size=raw["vocab_size"],
            hidden_size=hidden,
            intermediate_size=raw["intermediate_size"],
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=raw.get("num_key_value_heads") or heads,
            hidden_act=raw["hidden_act"],
            max_position_embeddings=raw["max_position_embeddings"],
            rms_norm_eps=raw["rms_norm_eps"],
            initializer_range=raw.get("initializer_range", 0.1),
            attention_bias=raw.get("attention_bias", False),
            rope_parameters={"rope_theta": raw.get("rope_theta", 10000.0)}
            | (raw.get("rope_scaling") or {"rope_type": "default"}),
            tie_word_embeddings=raw.get("tie_word_embeddings", True),
            bos_token_id=raw.get("bos_token_id"),
            eos_token_id=raw.get("eos_token_id"),
            embedding_multiplier=float(raw["scale_emb"]),
            residual_multiplier=raw["scale_depth"] / math.sqrt(layers),
            logits_scaling=hidden / raw["dim_model_base"],
            attention_multiplier=(hidden // heads) ** -0.5,
        )
    except Exception as error:  # missing, of another type, out of range: transformers checks each in a way of its own
        cause = " ".join(str(error).split())[:200]
        raise ValueError(f"config.json is no complete MiniCPM config ({type(error).__name__}: {cause}).") from error
