"""The authors' checkpoints (``MiniCPMForCausalLM``), for which transformers has no class, as Granite models.

The native Granite class computes the same function: its four multipliers are MiniCPM's muP scalings by other names.
"""

import math
from typing import Any

from transformers import GraniteConfig

SAME: tuple[str, ...] = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
SAME += ("hidden_act", "max_position_embeddings", "rms_norm_eps")
USUAL = {"initializer_range": 0.1, "attention_bias": False, "tie_word_embeddings": True}  # where they are not named


def granite_config(raw: dict[str, Any]) -> GraniteConfig:
    """Translate a MiniCPM ``config.json``; ValueError for another attention or FFN, or with entries missing."""
    if raw.get("attention_type", "vanilla") != "vanilla" or raw.get("ffn_type", "vanilla") != "vanilla":
        raise ValueError(
            f"MiniCPM with attention {raw.get('attention_type')!r} and FFN {raw.get('ffn_type')!r} is not the "
            "plain layout of the Sparsing Law checkpoints."
        )
    try:
        same = {name: raw[name] for name in SAME} | {name: raw.get(name, usual) for name, usual in USUAL.items()}
        hidden, layers, heads = (raw[k] for k in ("hidden_size", "num_hidden_layers", "num_attention_heads"))
        rope = {"rope_theta": raw.get("rope_theta", 10000.0)} | (raw.get("rope_scaling") or {"rope_type": "default"})
        return GraniteConfig(
            **same,
            bos_token_id=raw.get("bos_token_id"),
            eos_token_id=raw.get("eos_token_id"),
            num_key_value_heads=raw.get("num_key_value_heads") or heads,
            rope_parameters=rope,
            embedding_multiplier=float(raw["scale_emb"]),
            residual_multiplier=raw["scale_depth"] / math.sqrt(layers),
            logits_scaling=hidden / raw["dim_model_base"],
            attention_multiplier=(hidden // heads) ** -0.5,
        )
    except Exception as error:  # missing, of another type, out of range: transformers checks each in a way of its own
        cause = " ".join(str(error).split())[:200]
        raise ValueError(f"config.json is no complete MiniCPM config ({type(error).__name__}: {cause}).") from error
