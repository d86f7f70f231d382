"""A ladder run's model and optimizer under the maximal update parametrisation (muP), as MiniCPM and the paper use it.

Neither the Granite classes nor the Trainer scale deviations and learning rates with width by themselves; both are set
here. The multipliers of the forward pass are native to Granite and travel with its config.
"""

import math
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    GraniteConfig,
    GraniteForCausalLM,
    GraniteMoeConfig,
    GraniteMoeForCausalLM,
    PreTrainedModel,
)
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS
from transformers.models.granitemoe.modeling_granitemoe import GraniteMoeExperts

from ..core.checkpoints import load
from . import recipe
from .recipe import MixtureRun, Run

ONE_PRODUCT = "one_product"  # name of ``one_product`` among transformers' ways to compute experts
EXPERTS_DOWN = "experts.down_proj"
BLOCK_CAUSAL = "block_causal"  # name of ``block_causal`` among transformers' ways to attend
BLOCK = 64  # queries; a length that this does not divide is one block


def build(run: Run) -> PreTrainedModel:
    """New model of a run: native Granite classes with the paper's muP scalings and initial deviations (Appendix I)."""
    ratio = run.width / recipe.BASE_WIDTH
    settings: dict[str, Any] = dict(
        vocab_size=recipe.VOCABULARY,
        hidden_size=run.width,
        intermediate_size=run.neurons,
        num_hidden_layers=run.layers,
        num_attention_heads=run.heads,
        num_key_value_heads=run.heads,
        hidden_act=run.activation,
        max_position_embeddings=recipe.CONTEXT,
        initializer_range=recipe.INITIAL_DEVIATION,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        embedding_multiplier=recipe.EMBEDDING_SCALE,
        residual_multiplier=recipe.DEPTH_SCALE / math.sqrt(run.layers),
        attention_multiplier=1 / math.sqrt(run.width // run.heads),
        logits_scaling=ratio,
        bos_token_id=0,
        eos_token_id=0,
        use_cache=False,
    )
    torch.manual_seed(run.seed)
    model = _mixture(run, settings) if isinstance(run, MixtureRun) else GraniteForCausalLM(GraniteConfig(**settings))
    # Granite gives every matrix the same deviation; under muP that of the hidden matrices falls with width.
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            inputs = 1 if "embed_tokens" in name else _inputs(name, run)
            nn.init.normal_(parameter, std=recipe.INITIAL_DEVIATION / math.sqrt(inputs))
    return model


def _inputs(name: str, run: Run) -> float:
    """Inputs of a hidden matrix over those in the base model; an expert's down projection reads its own neurons."""
    if EXPERTS_DOWN in name:
        assert isinstance(run, MixtureRun)
        return run.expert_neurons / (recipe.BASE_WIDTH * 5 / 2)
    return run.width / recipe.BASE_WIDTH


def _mixture(run: MixtureRun, settings: dict[str, Any]) -> GraniteMoeForCausalLM:
    """The same model with its FFNs cut into experts; the router's loss is part of the training loss."""
    config = GraniteMoeConfig(
        **settings | {"intermediate_size": run.expert_neurons},
        num_local_experts=run.experts,
        num_experts_per_tok=run.active_experts,
        output_router_logits=True,
        # transformers' loss is the number of active experts, not 1, when tokens are spread evenly.
        router_aux_loss_coef=run.router_loss / run.active_experts,
    )
    model = GraniteMoeForCausalLM(config)
    use_one_product(model)
    # By default weights are saved under older names, which the Trainer passes over without an error when it resumes.
    # In the object's dictionary: as an attribute of a module it would be a method assigned to.
    vars(model)["save_pretrained"] = partial(type(model).save_pretrained, model, save_original_format=False)
    return model


def one_product(experts: GraniteMoeExperts, tokens: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
    """Output of a layer's experts, (tokens, d), from all experts at once, those not ``chosen`` with weight 0.

    The function is that of transformers' own ways, which compute only the chosen experts. With experts of 4 to 15
    neurons one product of the whole FFN trains 1.3 to 1.6 times as fast on one core, and the grouped product, which is
    the default, refuses experts whose rows are not a multiple of 16 bytes.
    """
    share = weights.new_zeros(len(tokens), len(experts.down_proj)).scatter(1, chosen, weights)
    gate, up = experts.gate_up_proj.chunk(2, dim=1)
    neurons = experts.act_fn(tokens @ gate.flatten(0, 1).T) * (tokens @ up.flatten(0, 1).T)
    scaled = neurons * share.repeat_interleave(experts.intermediate_dim, dim=1)
    return scaled @ experts.down_proj.transpose(1, 2).flatten(0, 1)


def use_one_product(model: PreTrainedModel) -> None:
    """Let a mixture compute its experts by ``one_product``."""
    ALL_EXPERTS_FUNCTIONS.register(ONE_PRODUCT, one_product)
    model.set_experts_implementation(ONE_PRODUCT)


def open_model(source: str | Path) -> PreTrainedModel:
    """A run by name, or a checkpoint along it; a mixture computes its experts, of any width, by ``one_product``."""
    model, _ = load(source)
    if isinstance(model, GraniteMoeForCausalLM):
        use_one_product(model)
    return model


def make_optimizer(model: nn.Module, run: Run) -> torch.optim.AdamW:
    """AdamW with muP's rates: hidden matrices at rate / (d / d_base), embeddings and norms at the base rate.

    The down projections of experts learn by their own number of inputs, with the same rate × decay as other matrices.
    """
    named = list(model.named_parameters())
    embedding = [p for name, p in named if "embed_tokens" in name]
    norms = [p for _, p in named if p.ndim == 1]
    down = [p for name, p in named if EXPERTS_DOWN in name]
    matrices = [p for name, p in named if p.ndim > 1 and "embed_tokens" not in name and EXPERTS_DOWN not in name]
    rate, decay, ratio = run.learning_rate, run.weight_decay, run.width / recipe.BASE_WIDTH
    groups = [
        {"params": matrices, "lr": rate / ratio, "weight_decay": decay},
        {"params": embedding, "lr": rate, "weight_decay": decay},
        {"params": norms, "lr": rate, "weight_decay": 0.0},
    ]
    if down:
        inputs = _inputs(EXPERTS_DOWN, run)
        groups.append({"params": down, "lr": rate / inputs, "weight_decay": decay * inputs / ratio})
    return torch.optim.AdamW(groups, betas=recipe.BETAS, fused=True)


def block_causal(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: None, scaling: float, **_: Any
) -> tuple[Tensor, None]:
    """Causal attention over whole windows: query, key and value of batch × heads × length × head size, no padding.

    The same function as torch's own, faster in training on a CPU (``benchmarks/training_speed.py``): each block of
    queries meets the keys up to its own end only, so that most of the masked half is never computed.

    Returns batch × length × heads × head size, and no attention weights. Raises ``ValueError`` for a mask and for
    fewer queries than keys (a cache), which the blocks would get wrong.
    """
    length = query.shape[2]
    if mask is not None or key.shape[2] != length:
        raise ValueError("block-causal attention is for training on whole windows, without padding and without cache")
    size = BLOCK if length % BLOCK == 0 else length
    later = torch.full((size, size), -torch.inf, dtype=query.dtype, device=query.device).triu(1)
    outputs = []
    for start in range(0, length, size):
        end = start + size
        scores = query[:, :, start:end] @ key[:, :, :end].transpose(-1, -2) * scaling
        scores = scores + functional.pad(later, (start, 0))
        outputs.append(torch.softmax(scores.float(), -1).to(query.dtype) @ value[:, :, :end])
    return torch.cat(outputs, 2).transpose(1, 2).contiguous(), None


def use_block_attention(model: PreTrainedModel) -> None:
    """Let a model attend by ``block_causal``."""
    AttentionInterface.register(BLOCK_CAUSAL, block_causal)
    AttentionMaskInterface.register(BLOCK_CAUSAL, _only_causal)
    model.set_attn_implementation(BLOCK_CAUSAL)


def _only_causal(*_: Any, attention_mask: Tensor | None = None, **__: Any) -> Tensor | None:
    """No mask of transformers' own is built; a given one is passed on, to be refused."""
    return attention_mask
