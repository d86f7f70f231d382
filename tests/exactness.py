"""How exactly a model is measured, against computations of its own: hooks beside the library's, products in float64."""

import copy

import torch
from torch import nn

import sparsinglib as sl
from sparsinglib.core.ffn import Experts
from sparsinglib.core.layout import _is_projection, find_ffns

PAD = 5


LIMITS = {"looking": 0.0, "thresholds of zero": 0.0, "all masked": 0.0, "missed": 0.0}
LIMITS |= {"counts": 0.0, "cett": 1e-7, "padding": 1e-6}


def within(found: dict[str, float]) -> list[str]:
    """What exceeds its limit."""
    return [f"{name} {value:.3g}" for name, value in found.items() if not value <= LIMITS[name]]


def exactness(model, ids: torch.Tensor) -> dict[str, float]:
    """Largest differences; each should be zero but for rounding: see ``LIMITS``."""
    ffns = find_ffns(model)
    found, dense = {}, _run(model, ids)
    with sl.hook_ffns(ffns, lambda ffn, neurons, gate: None):
        found["looking"] = _apart(_run(model, ids), dense)
    with sl.sparsify(model, _thresholds(ffns, 0.0)):
        found["thresholds of zero"] = _apart(_run(model, ids), dense)
    with sl.sparsify(model, _thresholds(ffns, 1e30)):
        masked = _run(model, ids)
    silent = copy.deepcopy(model)
    for ffn in find_ffns(silent):
        (ffn.down.down_proj if isinstance(ffn, Experts) else ffn.down.weight).data.zero_()
    found["all masked"] = _apart(masked, _run(silent, ids))
    found["missed"] = _missed(silent, ids)
    rule = sl.thresholds_for_cett(model, [ids], 0.1)
    result = sl.measure(model, [ids], rule, kl=False)
    found |= _brute(model, ids, rule, result)
    row = torch.cat([ids, ids[:, :PAD]], dim=1)
    mask = torch.cat([torch.ones_like(ids), torch.zeros_like(ids[:, :PAD])], dim=1)
    padded = sl.measure(model, [{"input_ids": row, "attention_mask": mask}], rule, kl=False)
    found["padding"] = max(abs(padded.dense_ppl / result.dense_ppl - 1), abs(padded.ppl_ratio / result.ppl_ratio - 1))
    return found


def _run(model, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False).logits.float()


def _apart(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max())


def _thresholds(ffns, value: float):
    return sl.Thresholds((value,) * len(ffns), 0.1, 1.0, None, 0.5)


def _missed(silent, ids: torch.Tensor) -> float:
    """What whole blocks of FFNs still tell of a token when every output projection is zero, and its bias too."""
    seen: list[float] = []

    def note(_module, args, output):
        if len(args) == 1:  # and no residual that it adds
            output = output[0] if isinstance(output, tuple) else output
            seen.append(float(output.abs().max()))

    handles = []
    for ffn in find_ffns(silent):
        bias = ffn.down.down_proj_bias if getattr(ffn.down, "has_bias", False) else getattr(ffn.down, "bias", None)
        if bias is not None:
            bias.data.zero_()
    for layer in {ffn.name.split(".mlp")[0].split(".feed_forward")[0] for ffn in find_ffns(silent)}:
        for name, module in silent.get_submodule(layer).named_children():
            if name in ("mlp", "feed_forward", "moe", "ffn", "block_sparse_moe") and not _is_projection(module):
                handles.append(module.register_forward_hook(note))
    _run(silent, ids)
    for handle in handles:
        handle.remove()
    return max(seen, default=0.0)


def _brute(model, ids: torch.Tensor, rule, result) -> dict[str, float]:
    """Counts and CETT of a sparse pass, neuron by neuron in float64, from what the projections are given."""
    before, after, routing = {}, {}, {}
    ffns = find_ffns(model)

    def keep(store):
        def on_neurons(ffn, neurons, gate):
            store[ffn.site] = neurons.reshape(-1, ffn.width).clone()
            routing[ffn.site] = ffn.routing

        return on_neurons

    with sl.hook_ffns(ffns, keep(before)), sl.sparsify(model, rule), sl.hook_ffns(ffns, keep(after)):
        _run(model, ids)
    counts, cett = 0.0, 0.0
    for ffn, counted, reached in zip(ffns, result.neuron_counts, result.by_layer.cett, strict=True):
        chosen, vectors = _vectors(ffn, before[ffn.site], routing[ffn.site])
        kept = after[ffn.site] != 0
        lengths, limit = vectors.norm(dim=-1), rule.values[ffn.site]
        clear = (lengths - limit).abs() > 1e-5 * limit  # a neuron at the threshold may fall on either side
        wrong = (kept != ((lengths >= limit) & (lengths > 0))) & clear
        mine = torch.zeros_like(counted).index_add_(0, chosen.reshape(-1), kept.reshape(-1).long())
        counts = max(counts, float(wrong.sum()), float((mine - counted).abs().max()))
        full, tail = vectors.sum(dim=1).norm(dim=-1), (vectors * ~kept[..., None]).sum(dim=1).norm(dim=-1)
        mean = float(torch.where(full > 0, tail / full.clamp_min(1e-300), torch.zeros_like(tail)).mean())
        cett = max(cett, abs(mean - reached))
    return {"counts": counts, "cett": cett}


def _vectors(ffn, values, routing):
    """Neurons' numbers and output vectors in float64: (tokens, width), (tokens, width, hidden size)."""
    if not isinstance(ffn, Experts):
        weight = ffn.down.weight.detach().double()
        columns = weight.T if isinstance(ffn.down, nn.Linear) else weight
        return torch.arange(ffn.d_ff).expand_as(values), values.double()[..., None] * columns
    chosen, weights = routing
    each = ffn.neurons_each
    down = ffn.down.down_proj.detach().double()
    down = down if ffn.transposed else down.transpose(1, 2)  # experts × neurons × hidden size
    scaled = values.double().view(*chosen.shape, each, 1) * weights.double()[..., None, None] * down[chosen]
    numbers = chosen[..., None] * each + torch.arange(each)
    return numbers.flatten(1), scaled.flatten(1, 2)
