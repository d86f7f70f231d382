"""A ladder run's model and optimizer under the maximal update parametrisation (muP), as MiniCPM and the paper use it.

Neither the Granite classes nor the Trainer scale deviations and learning rates with width by themselves; both are set
here. The multipliers of the forward pass are native to Granite and travel with its config.
"""

import math

import torch
from torch import nn
from transformers import GraniteConfig, GraniteForCausalLM

from . import ladder
from .ladder import Run


def build(run: Run) -> GraniteForCausalLM:
    """New model of a run: native Granite classes with the paper's muP scalings and initial deviations (Appendix I)."""
    ratio = run.width / ladder.BASE_WIDTH
    config = GraniteConfig(
        vocab_size=ladder.VOCABULARY,
        hidden_size=run.width,
        intermediate_size=run.neurons,
        num_hidden_layers=run.layers,
        num_attention_heads=run.heads,
        num_key_value_heads=run.heads,
        hidden_act=run.activation,
        max_position_embeddings=ladder.CONTEXT,
        initializer_range=ladder.INITIAL_DEVIATION,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        embedding_multiplier=ladder.EMBEDDING_SCALE,
        residual_multiplier=ladder.DEPTH_SCALE / math.sqrt(run.layers),
        attention_multiplier=1 / math.sqrt(run.width // run.heads),
        logits_scaling=ratio,
        bos_token_id=0,
        eos_token_id=0,
        use_cache=False,
    )
    torch.manual_seed(run.seed)
    model = GraniteForCausalLM(config)
    # Granite gives every matrix the same deviation; under muP that of the hidden matrices falls with width.
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:
            hidden = "embed_tokens" not in name
            nn.init.normal_(parameter, std=ladder.INITIAL_DEVIATION / math.sqrt(ratio if hidden else 1))
    return model


def make_optimizer(model: nn.Module, run: Run) -> torch.optim.AdamW:
    """AdamW with muP's rates: hidden matrices at rate / (d / d_base), embeddings and norms at the base rate."""
    named = list(model.named_parameters())
    embedding = [p for name, p in named if "embed_tokens" in name]
    norms = [p for _, p in named if p.ndim == 1]
    matrices = [p for name, p in named if p.ndim > 1 and "embed_tokens" not in name]
    rate, decay = run.learning_rate, run.weight_decay
    groups = [
        {"params": matrices, "lr": rate / (run.width / ladder.BASE_WIDTH), "weight_decay": decay},
        {"params": embedding, "lr": rate, "weight_decay": decay},
        {"params": norms, "lr": rate, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, betas=ladder.BETAS, fused=True)
