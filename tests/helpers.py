"""Independent, plain re-computations that the library is compared with, and tiny models to compute on.

Nothing here imports the modules under test except ``load``: CETT, activation ratios and Algorithm 1 are written again
from the paper's definitions with explicit weights, so that an error in the library does not repeat itself here.
"""

import functools
import json
import math
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from transformers import GraniteConfig, GraniteForCausalLM, LlamaConfig, LlamaForCausalLM

import sparsinglib as sl

GOLDEN = Path(__file__).parent / "data" / "golden"
NO_NUMBERS = (None, True, np.bool_(True), "0.1", [0.1], {}, float("nan"), torch.tensor([1.0, 2.0]), 1j)
IDS = torch.tensor([[5, 9, 31, 2, 7, 7, 0, 12, 39, 1]])


def verdict(rows, claim: str, evidence: str = "ladder") -> str:
    """The verdict of the only row of a claim, for one kind of evidence."""
    (found,) = [row.verdict for row in rows if (row.id, row.evidence) == (claim, evidence)]
    return found


def logits(model, ids: torch.Tensor = IDS) -> torch.Tensor:
    """Logits of one forward pass."""
    with torch.no_grad():
        return model(ids).logits


@functools.cache
def golden() -> dict:
    return json.loads((GOLDEN / "golden.json").read_text())


@functools.cache
def golden_model(activation: str, attention: str = "eager"):
    model, _ = sl.load(GOLDEN / f"tiny_minicpm_{activation}", device_map="cpu")
    model.set_attn_implementation(attention)
    return model


SIZES = {"hidden_size": 16, "num_attention_heads": 2, "num_key_value_heads": 2}


def tiny_llama(seed: int = 0, act: str = "silu", layers: int = 2, d_ff: int = 24, vocab: int = 40, **extra):
    torch.manual_seed(seed)
    sizes = SIZES | {"vocab_size": vocab, "intermediate_size": d_ff, "num_hidden_layers": layers}
    sizes |= {"max_position_embeddings": 128, "initializer_range": 0.3}
    return LlamaForCausalLM(LlamaConfig(**sizes, hidden_act=act, **extra)).eval()


def tiny_granite(vocab: int = 40, **extra):
    torch.manual_seed(0)
    sizes = SIZES | {"vocab_size": vocab, "intermediate_size": 24, "num_hidden_layers": 2}
    return GraniteForCausalLM(GraniteConfig(**sizes, **extra)).eval()


def greedy(model, length: int, rows: int = 1, seed: int = 0) -> torch.Tensor:
    """Text that the model itself continues from four random tokens, so that pruning raises its loss."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, model.config.vocab_size, (rows, 4), generator=generator)
    sampler = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        while ids.shape[1] < length:
            probability = model(ids).logits[:, -1].mul(2).softmax(-1)
            ids = torch.cat([ids, torch.multinomial(probability, 1, generator=sampler)], 1)
    return ids


def padded(rows, before=None, width: int | None = None, filler: int = 0) -> list[dict[str, torch.Tensor]]:
    """A batch of rows of any length, each after so much padding; ``filler`` is the id in padding's place."""
    before = before or [0] * len(rows)
    ids = torch.full((len(rows), width or max(map(len, rows))), filler)
    mask = torch.zeros_like(ids)
    for row, (start, tokens) in enumerate(zip(before, rows, strict=True)):
        ids[row, start : start + len(tokens)], mask[row, start : start + len(tokens)] = tokens, 1
    return [{"input_ids": ids, "attention_mask": mask}]


class PlainMLP:
    """Swap a gated MLP's forward for one written out from Eq 1-2, which prunes by a given rule and keeps its values."""

    def __init__(self, model, keep=None):
        self.mlps = [layer.mlp for layer in model.model.layers]
        self.keep = keep  # (layer, gate score, neuron values, column norms) -> bool tensor, or None
        self.values: dict[int, list[torch.Tensor]] = {}
        self.gates: dict[int, list[torch.Tensor]] = {}
        self.active: dict[int, list[torch.Tensor]] = {}

    def __enter__(self):
        for layer, mlp in enumerate(self.mlps):
            mlp.forward = functools.partial(self._forward, layer, mlp)
        return self

    def __exit__(self, *_):
        for mlp in self.mlps:
            del mlp.forward

    def _forward(self, layer, mlp, x):
        gate = mlp.act_fn(x @ mlp.gate_proj.weight.T)
        value = gate * (x @ mlp.up_proj.weight.T)
        self.values.setdefault(layer, []).append(value.detach().reshape(-1, value.shape[-1]))
        self.gates.setdefault(layer, []).append(gate.detach().reshape(-1, gate.shape[-1]))
        if self.keep is not None:
            kept = self.keep(layer, gate, value, mlp.down_proj.weight.norm(dim=0))
            self.active.setdefault(layer, []).append(kept.reshape(-1, value.shape[-1]))
            value = torch.where(kept, value, torch.zeros_like(value))
        return value @ mlp.down_proj.weight.T


def plain_losses(model, ids: torch.Tensor) -> torch.Tensor:
    """Next-token losses in nats, float64, row by row."""
    return losses_of(log_chances(model, ids), ids)


def log_chances(model, ids: torch.Tensor) -> torch.Tensor:
    """Log probabilities of the next token where there is one, (rows, length - 1, vocabulary), float64."""
    return logits(model, ids)[:, :-1].double().log_softmax(-1)


def losses_of(log_chances: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Losses of the tokens that came, (rows, length - 1)."""
    return -log_chances.gather(-1, ids[:, 1:, None]).squeeze(-1)


def bootstrap(per_token: torch.Tensor, draws: int = 5000, width: int = 32) -> np.ndarray:
    """Means of a number for each token (rows × length) over blocks of a row, drawn with replacement."""
    blocks = [row[i : i + width] for row in per_token for i in range(0, len(row), width)]
    sums = np.array([[float(block.sum()), len(block)] for block in blocks])
    drawn = sums[np.random.default_rng(0).integers(0, len(sums), (draws, len(sums)))].sum(axis=1)
    return drawn[:, 0] / drawn[:, 1]


def dense_values(model, ids: torch.Tensor) -> list[torch.Tensor]:
    """Neuron values of a dense pass by layer, (tokens, d_ff)."""
    with PlainMLP(model) as seen, torch.no_grad():
        model(ids)
    return [torch.cat(seen.values[layer]) for layer in sorted(seen.values)]


def brute_cett(values: torch.Tensor, down: torch.Tensor, threshold: float) -> list[float]:
    """CETT of each token by a plain loop over neurons (Eq 3), in Python floats' precision; down is hidden × d_ff."""
    out = []
    norms = down.double().norm(dim=0).tolist()
    columns = down.double().T
    for row in values.double():
        whole, tail = torch.zeros(down.shape[0]).double(), torch.zeros(down.shape[0]).double()
        for i, value in enumerate(row.tolist()):
            if value == 0:
                continue
            vector = value * columns[i]
            whole += vector
            if abs(value) * norms[i] < threshold:
                tail += vector
        size = float(whole.norm())
        out.append(float(tail.norm()) / size if size else 0.0)
    return out


def grid_cett(values: torch.Tensor, down: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
    """Mean CETT at each threshold of a grid, vectorised over tokens (one neuron at a time, in order of length)."""
    values, down = values.double(), down.double()
    length = values.abs() * down.norm(dim=0)
    whole = (values @ down.T).norm(dim=1)
    out = []
    for t in grid.tolist():
        tail = (torch.where(length < t, values, torch.zeros_like(values)) @ down.T).norm(dim=1)
        out.append(torch.where(whole > 0, tail / whole, torch.zeros_like(tail)).mean())
    return torch.stack(out)


class Algorithm1:
    """Algorithm 1 as printed: bisection on one shared CETT; first crossing per layer on a fine grid of thresholds."""

    def __init__(self, model, ids: torch.Tensor, points: int = 2000):
        self.model, self.ids = model, ids
        self.grids, self.curves = [], []
        for values, layer in zip(dense_values(model, ids), model.model.layers, strict=True):
            down = layer.mlp.down_proj.weight.detach()
            lengths = values.abs() * down.norm(dim=0)
            grid = torch.linspace(0, float(lengths.max()) * 1.001, points).double()
            self.grids.append(grid)
            self.curves.append(grid_cett(values, down, grid))
        self.dense = plain_losses(model, ids).mean()

    def thresholds(self, cett: float) -> list[float]:
        found = []
        for grid, curve in zip(self.grids, self.curves, strict=True):
            above = (curve > cett).nonzero()
            found.append(float(grid[int(above[0]) - 1]) if len(above) else float(grid[-1]))
        return found

    def run(self, cett: float) -> tuple[float, float]:
        """(log perplexity ratio, activation ratio) of a sparse run at a shared CETT."""
        limits = self.thresholds(cett)
        with PlainMLP(
            self.model, lambda i, gate, value, norm: (value.abs() * norm >= limits[i]) & (value != 0)
        ) as seen:
            rise = plain_losses(self.model, self.ids).mean() - self.dense
        share = [torch.cat(seen.active[i]).double().mean() for i in sorted(seen.active)]
        return float(rise), float(torch.stack(share).mean())

    def search(self, p: float, width: float = 1e-6) -> float:
        low, high = 0.0, 1.0
        while high - low > width:
            middle = (low + high) / 2
            if math.exp(self.run(middle)[0]) < 1 + p / 100:
                low = middle
            else:
                high = middle
        return (low + high) / 2


@contextmanager
def noted_passes(model):
    """A list with an entry for each forward pass of a whole model, seen from outside."""
    passes = []
    handle = model.register_forward_pre_hook(lambda *_: passes.append(1))
    try:
        yield passes
    finally:
        handle.remove()


def downs(model) -> list[torch.Tensor]:
    """Output projections by layer, (hidden size, d_ff)."""
    return [layer.mlp.down_proj.weight.detach() for layer in model.model.layers]


def hooks_on(model) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def same_weights(model, before: dict) -> bool:
    after = model.state_dict()
    return set(after) == set(before) and all(torch.equal(after[k], v) for k, v in before.items())
