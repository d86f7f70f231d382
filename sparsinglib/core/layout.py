"""Find every feed-forward network (FFN) of a decoder, whatever a model's classes and parts are called."""

import re
import warnings
from collections.abc import Iterator
from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.activations import ACT2CLS
from transformers.pytorch_utils import Conv1D

from . import arguments
from .ffn import FFN, Experts, UnsupportedModel, features, has_interface

DOWN_NAMES = ("down_proj", "dense_4h_to_h", "fc2", "fc_out", "c_proj", "w2", "wo", "proj_2", "output_linear")
# What a part of a layer is its class says, not the name it goes by: a ``mixer`` may be an FFN, a Mamba or attention.
FEED_FORWARD = re.compile("mlp|ffn|feedforward|decoderlayer$", re.IGNORECASE)
OTHER_PARTS = re.compile(
    "att(ention|n)|mamba|mixer|deltanet|ssm|recurrentblock|conv|router|gating|norm(gated)?$|indexer|compressor|embedding|altup|laurel",
    re.IGNORECASE,
)
ACTIVATIONS = tuple({c[0] if isinstance(c, tuple) else c for c in ACT2CLS.values() if isinstance(c, (type, tuple))})
SEE_NOTHING = "Its neurons cannot be seen: "
REFUSED = {  # experts that no hook can see, by a word of their class's name
    "Dbrx": SEE_NOTHING + "the experts' weights are cut from one matrix inside their own forward pass.",
    "JetMoe": SEE_NOTHING + "its experts are called in their own way, attention's among them.",
    "Inkling": SEE_NOTHING + "its shared experts scale each neuron by a router's weight before the projection.",
    "Longcat": SEE_NOTHING + "its experts are called in their own way, and some return their input.",
    "MuseSpark": "Each expert's output is normalised, so that it is no sum over neurons (Eq 2).",
}


def find_ffns(model: PreTrainedModel) -> list[FFN]:
    """List the FFNs of a decoder, first layer first; the routed experts of a layer are one, shared ones are others.

    Warns of layers that have none (attention or a recurrence alone). Raises UnsupportedModel, naming the module, for an
    encoder-decoder model, one that reads something else than rows of token ids, experts whose neurons cannot be seen,
    an FFN that two layers share, or a layer in which no output projection stands out; ValueError for what is no model.
    """
    _check(arguments.model(model))
    layers = _decoder_layers(model)
    found = [ffn for index, (name, layer) in enumerate(layers) for ffn in _ffns_of_layer(index, name, layer)]
    if not found:
        kinds = sorted({type(layer).__name__ for _, layer in layers})
        raise UnsupportedModel(f"{type(model).__name__} has no FFN in any layer ({', '.join(kinds)}).")
    without = sorted(set(range(len(layers))) - {ffn.layer for ffn in found})
    if without:
        warnings.warn(
            f"Layers {', '.join(map(str, without))} of {type(model).__name__} have no FFN: ratios are means over the "
            f"other {len(layers) - len(without)}.",
            stacklevel=3,
        )
    owners: dict[int, str] = {}
    for site, ffn in enumerate(found):
        ffn.site = site
        if (other := owners.setdefault(id(ffn.down), ffn.name)) != ffn.name:
            raise UnsupportedModel(
                f"{other} and {ffn.name} share one FFN: a neuron would be counted twice for each token. Copy the "
                "shared module (copy.deepcopy) for each layer to measure them apart."
            )
    return found


def _check(model: Any) -> None:
    """Raise UnsupportedModel for a model that cannot be measured, whatever its layers look like."""
    kind = type(model).__name__
    if getattr(model.config, "is_encoder_decoder", False):
        raise UnsupportedModel(
            f"{kind} is an encoder-decoder model: its encoder sees the tokens that its decoder is to predict, so that "
            "perplexity says nothing. Load its decoder alone, if there is a ForCausalLM class of it."
        )
    if not hasattr(model, "get_input_embeddings"):
        raise UnsupportedModel(f"{kind} has no get_input_embeddings: give the transformers model inside it.")
    if getattr(model.config.get_text_config(decoder=True), "vocab_size", None) is None:
        raise UnsupportedModel(f"{kind} reads no token ids: its config has no vocab_size.")
    if isinstance(embeddings := model.get_input_embeddings(), nn.ModuleList):
        raise UnsupportedModel(f"{kind} reads {len(embeddings)} ids at each position, not rows of token ids.")
    for name, module in model.named_modules():
        part = type(module).__name__
        if hasattr(module, "base_layer") and any(map(has_interface, module.modules())):
            raise UnsupportedModel(f"{name} ({part}): an adapter on experts; merge it first (merge_and_unload).")
        unseen = "Expert" in part and not has_interface(module) and not FEED_FORWARD.search(part)
        if (unseen and not isinstance(module, nn.ModuleList)) or getattr(module, "has_post_expert_norm", False):
            why = next((why for word, why in REFUSED.items() if word in part), SEE_NOTHING + "an unknown layout.")
            raise UnsupportedModel(f"{name} ({part}): a mixture of experts. {why}")


def _decoder_layers(model: PreTrainedModel) -> list[tuple[str, nn.Module]]:
    """Name and module of each layer of the text part."""
    config: Any = model.config.get_text_config(decoder=True)
    depth = getattr(config, "num_hidden_layers", None)
    if depth is None:
        raise UnsupportedModel(
            f"{type(model).__name__}: {type(config).__name__} names no number of decoder layers (num_hidden_layers); "
            "a model made of several networks is not measured as one."
        )
    owners, lists = {"": config}, []
    for name, module in model.named_modules():
        # A vision tower can be as deep as the text part, and come before it: it has a config of its own.
        owners[name] = getattr(module, "config", owners[name.rpartition(".")[0]])
        if isinstance(module, nn.ModuleList) and any(map(_is_seen, module.modules())):
            # A list of attention alone, or in a list, is no list of layers if there is another.
            other = name[-1].isdigit() or all(OTHER_PARTS.search(type(layer).__name__) for layer in module)
            lists.append((type(owners[name]) is not type(config), other, name, module))
    for *_, name, module in sorted(lists, key=lambda found: found[:2]):
        if len(module) == depth:
            return [(f"{name}.{i}", layer) for i, layer in enumerate(module)]
    held = ", ".join(f"{name} with {len(module)}" for *_, name, module in lists)
    raise UnsupportedModel(
        f"{type(model).__name__}: no list of {depth} decoder layers (config.num_hidden_layers), but {held or 'none'}; "
        "a model that runs its layers several times or in several lists is not measured."
    )


def _is_projection(module: nn.Module) -> bool:
    sizes = getattr(module, "in_features", None), getattr(module, "out_features", None)
    return isinstance(module, Conv1D) or all(isinstance(size, int) for size in sizes)


def _is_seen(module: nn.Module) -> bool:
    return _is_projection(module) or has_interface(module)


def _parts(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Projections and experts of a layer, by name; what is attention, recurrence, router or norm is left out."""
    for name, child in module.named_children():
        kind = type(child).__name__
        if _is_seen(child):
            yield prefix + name, child
        elif FEED_FORWARD.search(kind) or not OTHER_PARTS.search(kind):
            yield from _parts(child, f"{prefix}{name}.")


def _ffns_of_layer(index: int, name: str, layer: nn.Module) -> list[FFN]:
    parts = dict(_parts(layer))
    found: list[FFN] = [
        Experts(index, f"{name}.{n}", "experts", part, None) for n, part in parts.items() if has_interface(part)
    ]
    linears = {n: part for n, part in parts.items() if not has_interface(part)}
    named = [n for n in linears if n.rsplit(".", 1)[-1] in DOWN_NAMES]
    inputs = {n: _inputs(n, linears) for n in linears}
    kinds = {n: _kind(features(linears[n])[0], inputs[n][1]) for n in linears}
    wide = [n for n in linears if features(linears[n])[0] > features(linears[n])[1]]
    shaped = [n for n in wide if kinds[n]]
    if len(shaped) != 1 and not named and not found and linears:
        helps = shaped or (not wide and any(kinds.values()))
        hint = f"add its name to {__name__}.DOWN_NAMES if it is a plain FFN"
        raise UnsupportedModel(
            f"{name} ({type(layer).__name__}): expected one FFN output projection, found {shaped or 'none'} among "
            f"{list(linears)}; {hint if helps else 'none is fed by one or two others of its width alone'}."
        )
    for down in named or shaped:
        parent, widths = inputs[down]
        around = down.rpartition(".")[0]
        wrapper = layer.get_submodule(around)
        if around.rpartition(".")[2] in DOWN_NAMES and any(True for _ in wrapper.parameters(recurse=False)):
            raise UnsupportedModel(
                f"{name}.{around} ({type(wrapper).__name__}): an adapter of its own kind around the projection; "
                "merge it, or give it in_features and out_features, so that it is taken as the projection."
            )
        module = layer.get_submodule(parent)
        if (kind := kinds[down]) is None:
            raise UnsupportedModel(
                f"{name}.{parent} ({type(module).__name__}): an FFN with {features(linears[down])[0]} neurons and "
                f"input projections of width {widths} is neither gated, fused nor plain."
            )
        activations = [child for child in module.children() if isinstance(child, ACTIVATIONS)]
        activation = activations[0] if len(activations) == 1 else None
        found.append(FFN(index, f"{name}.{parent}".rstrip("."), kind, linears[down], activation))
    return found


def _inputs(down: str, linears: dict[str, nn.Module]) -> tuple[str, list[int]]:
    """The nearest module around an output projection that has others, and the widths of those that feed it."""
    hidden = features(linears[down])[1]
    parent = down.rpartition(".")[0]
    while True:
        inside = f"{parent}." if parent else ""
        others = [m for n, m in linears.items() if n != down and n.startswith(inside)]
        if others or not parent:
            return parent, sorted(features(m)[1] for m in others if features(m)[0] == hidden)
        parent = parent.rpartition(".")[0]


def _kind(d_ff: int, widths: list[int]) -> str | None:
    return {(d_ff, d_ff): "gated", (2 * d_ff,): "fused", (d_ff,): "plain"}.get(tuple(widths))
