"""One streaming pass over a text: what a rule leaves active, by layer, position, vocabulary entry and neuron."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from transformers import PreTrainedModel

from . import arguments, forward
from .cett import token_cett
from .ffn import FFN, Experts
from .forward import Batch, Batches, TokenBatches
from .hooks import hook_ffns, marks, masked_values
from .layout import find_ffns
from .probe import probe
from .rules import CETT, Rule
from .scan import compare
from .search import thresholds_for_cett
from .thresholds import NORM_TOLERANCE, Thresholds, as_rule

MOST_KEPT_TOKENS = 4096  # up to here the layer × token map is kept without being asked for


@dataclass(frozen=True, eq=False)
class Measurement:
    """What a rule does to a model on a text: sums over tokens, from which every mean is formed.

    Two measurements of the same model and rule on two parts of a text add up to that of the whole: ``a + b``.
    Activation ratios are fractions, counted in the sparse run; losses are in nats.
    """

    rule: Rule
    layers: tuple[int, ...]  # by FFN: the layer it is in, which has several if it has shared experts
    column_norms: tuple[float, ...]  # by FFN: mean length of the neurons' output directions, which tells models apart
    neuron_counts: list[Tensor]  # by FFN (d_ff,): tokens on which the neuron was active
    expert_loads: list[Tensor]  # by FFN (experts,): tokens for which the expert was chosen; empty if it has none
    cett_sums: Tensor  # (FFNs,); NaN if it was not asked for
    position_counts: Tensor  # (layers, positions): active neurons at the position, summed over windows
    position_tokens: Tensor  # (positions,)
    vocabulary_counts: Tensor  # (layers, vocabulary): active neurons on the entry, summed over its occurrences
    vocabulary_squares: Tensor  # (vocabulary,): squares of the activation ratio, summed over its occurrences
    vocabulary_tokens: Tensor  # (vocabulary,)
    dense_blocks: Tensor  # (blocks, 2): sum of dense losses, number of targets
    rise_blocks: Tensor  # (blocks, 2): the same for sparse - dense
    kl_blocks: Tensor | None  # (blocks, 2): the same for KL(dense ‖ sparse)
    by_token: tuple[Tensor, Tensor] | None  # token ids (tokens,), active neurons (layers, tokens)

    def __add__(self, other: "Measurement") -> "Measurement":
        models = [(m.layers, [len(c) for c in (*m.neuron_counts, m.vocabulary_tokens)]) for m in (self, other)]
        norms = (self.column_norms, other.column_norms)
        if self.rule != other.rule or models[0] != models[1] or not np.allclose(*norms, rtol=NORM_TOLERANCE):
            raise ValueError("Only measurements of one model under one rule add up.")
        names = [field.name for field in fields(self)]
        return Measurement(*(_merged(name, getattr(self, name), getattr(other, name)) for name in names))

    def __radd__(self, other: object) -> "Measurement":
        return self if isinstance(other, int) and other == 0 else NotImplemented  # where ``sum`` begins

    @property
    def tokens(self) -> int:
        """Number of tokens measured, padding left out."""
        return int(self.position_tokens.sum())

    @cached_property
    def _neurons(self) -> Tensor:
        """Neurons of each layer, its experts and shared experts together, (layers,)."""
        return _by_layer(self.layers, [len(c) for c in self.neuron_counts])

    @property
    def activation_ratio(self) -> float:
        """Share of active neurons, mean over tokens and layers (Sec 2.2); of all experts, chosen or not."""
        return float((self.position_counts.sum(dim=1) / self._neurons / self.tokens).mean())

    @property
    def dense_ppl(self) -> float:
        """Perplexity with all neurons."""
        return math.exp(forward.mean_and_error(self.dense_blocks)[0])

    @property
    def sparse_ppl(self) -> float:
        """Perplexity with the weak neurons left out."""
        return self.dense_ppl * self.ppl_ratio

    @property
    def ppl_ratio(self) -> float:
        """Sparse over dense perplexity, exp(mean loss difference) over the whole text (Algorithm 1)."""
        return math.exp(forward.mean_and_error(self.rise_blocks)[0])

    @property
    def ppl_ratio_se(self) -> float | None:
        """Standard error of ``ppl_ratio``, paired by token over blocks; None if the text is too short to tell."""
        error = forward.mean_and_error(self.rise_blocks)[1]
        return None if error is None else self.ppl_ratio * error

    @property
    def kl(self) -> float | None:
        """Mean KL(dense ‖ sparse) over tokens, in nats; None if it was not asked for."""
        return None if self.kl_blocks is None else forward.mean_and_error(self.kl_blocks)[0]

    @property
    def kl_se(self) -> float | None:
        """Standard error of ``kl``."""
        return None if self.kl_blocks is None else forward.mean_and_error(self.kl_blocks)[1]

    @property
    def by_layer(self) -> pd.DataFrame:
        """One row a layer: activation_ratio, cett, threshold (NaN unless CETT), neurons.

        ``cett`` is that of the sparse run, NaN if it was not asked for. A mixture of experts has a row for the routed
        experts of a layer and one for each shared expert, and two columns more: experts, and routed_ratio, the active
        share of the chosen experts' neurons.
        """
        values = self.rule.values if isinstance(self.rule, Thresholds) else [math.nan] * len(self.neuron_counts)
        active = np.array([float(c.sum()) for c in self.neuron_counts])
        neurons = np.array([len(c) for c in self.neuron_counts])
        table = pd.DataFrame(
            {
                "layer": self.layers,
                "activation_ratio": active / (self.tokens * neurons),
                "cett": (self.cett_sums / self.tokens).numpy(),
                "threshold": list(values),
                "neurons": neurons,
            }
        )
        if experts := [len(loads) for loads in self.expert_loads]:
            chosen = np.array([float(loads.sum()) for loads in self.expert_loads]) / np.maximum(experts, 1)
            table["experts"] = experts
            table["routed_ratio"] = np.where(chosen > 0, active / neurons / np.where(chosen > 0, chosen, 1), math.nan)
        return table

    @property
    def by_position(self) -> pd.DataFrame:
        """One row a position in the window: activation_ratio (mean over layers), tokens."""
        return self._mean_over_layers("position", self.position_counts, self.position_tokens)

    @property
    def by_vocabulary(self) -> pd.DataFrame:
        """One row a vocabulary entry that occurs: token_id, activation_ratio (mean over layers), tokens, se (Sec 5.3).

        ``se`` is the standard error of the ratio over the entry's occurrences; NaN of one that occurs once.
        """
        table = self._mean_over_layers("token_id", self.vocabulary_counts, self.vocabulary_tokens)
        squares, n = self.vocabulary_squares.numpy()[table.token_id], table.tokens.to_numpy(float)
        spread = np.maximum(squares / n - table.activation_ratio**2, 0)
        return table.assign(se=np.sqrt(spread / np.where(n > 1, n - 1, math.nan)))

    def _mean_over_layers(self, name: str, counts: Tensor, tokens: Tensor) -> pd.DataFrame:
        seen = tokens.nonzero().squeeze(1)
        ratio = (counts[:, seen] / self._neurons[:, None]).mean(dim=0) / tokens[seen]
        return pd.DataFrame({name: seen.numpy(), "activation_ratio": ratio.numpy(), "tokens": tokens[seen].numpy()})

    @property
    def neuron_frequency(self) -> list[np.ndarray]:
        """For each layer (each FFN of it), the share of tokens on which each neuron is active, (d_ff,) (Sec 5.3)."""
        return [(c / self.tokens).numpy() for c in self.neuron_counts]

    @property
    def token_activation(self) -> np.ndarray | None:
        """Activation ratio of each layer and token, (layers, tokens), the paper's heat map; None for a long text."""
        return None if self.by_token is None else (self.by_token[1] / self._neurons[:, None]).numpy()


def measure(
    model: PreTrainedModel,
    batches: Batches,
    rule: Rule | CETT | str | os.PathLike[str],
    *,
    kl: bool = True,
    cett: bool = True,
    keep_tokens: bool | None = None,
) -> Measurement:
    """Measure a rule on a text: a dense and a sparse pass, batch by batch, in memory that does not grow with the text.

    ``batches`` are token ids (rows × length) or dicts with ``attention_mask``; padding is left out everywhere. ``rule``
    is a rule, thresholds, or the path of a thresholds file. A bare ``CETT`` target is given thresholds on the same text
    first. ``kl`` and ``cett`` (that of the sparse run) cost up to a tenth of the time each and can be left out.
    ``keep_tokens`` asks for (True) or declines (False) the layer × token map, kept by itself for up to 4,096 tokens.
    Raises ValueError if the rule does not fit the model, the text cannot be measured, or a loss is not finite;
    UnsupportedModel if the model cannot be measured (``find_ffns``, ``probe``).
    """
    kl, cett = arguments.flag("kl", kl), arguments.flag("cett", cett)
    keep_tokens = None if keep_tokens is None else arguments.flag("keep_tokens", keep_tokens)
    ffns = find_ffns(model)
    if isinstance(rule, CETT):
        batches = forward.as_list(batches)
        rule = thresholds_for_cett(model, batches, rule)
    rule = as_rule(rule)
    rule.check(ffns)
    corpus = TokenBatches(model, batches)
    probe(model, ffns, corpus)
    embedding: Any = model.get_input_embeddings()
    keep = corpus.tokens <= MOST_KEPT_TOKENS if keep_tokens is None else keep_tokens
    counter = _Counter(rule, ffns, embedding.weight.shape[0], cett, keep)

    def run(batch: Batch) -> Tensor:
        counter.start(batch)
        with hook_ffns(ffns, counter.mask, gate=rule.uses_gate, on_output=counter.add_cett if cett else None):
            scores = forward.logits(model, batch)
        counter.finish(batch)
        return scores

    dense, [rises], divergences = compare(model, ffns, corpus, [run], kl)
    return counter.result(dense, rises, divergences[0] if kl else None)


class _Counter:
    """Sums over the tokens of one sparse run; ``mask`` and ``add_cett`` are called in each FFN.

    What they find stays on the FFN's device until the batch is done: no layer waits for the host.
    """

    def __init__(self, rule: Rule, ffns: list[FFN], vocabulary: int, cett: bool, keep: bool) -> None:
        self.rule, self.keep = rule, keep
        self.layers = tuple(ffn.layer for ffn in ffns)
        self.norms = tuple(float(ffn.column_norms.mean()) for ffn in ffns)
        self.rows = _ranks(self.layers).tolist()  # of each FFN in what is counted by layer
        self.widths = _by_layer(self.layers, [ffn.d_ff for ffn in ffns])
        layers = len(set(self.layers))
        self.loads = [torch.zeros(getattr(ffn, "experts", 0), dtype=torch.int64) for ffn in ffns]
        self.neurons = [torch.zeros(ffn.d_ff, dtype=torch.int64) for ffn in ffns]
        self.cett = torch.full((len(ffns),), 0.0 if cett else math.nan, dtype=torch.float64)
        self.positions = torch.zeros(layers, 0, dtype=torch.int64)
        self.position_tokens = torch.zeros(0, dtype=torch.int64)
        self.vocabulary = torch.zeros(layers, vocabulary, dtype=torch.int64)
        self.vocabulary_squares = torch.zeros(vocabulary, dtype=torch.float64)
        self.vocabulary_tokens = torch.zeros(vocabulary, dtype=torch.int64)
        self.by_token: list[tuple[Tensor, Tensor]] = []
        self.wants_cett = cett

    def start(self, batch: Batch) -> None:
        self.valid = forward.Copies(batch.valid.reshape(-1)) if batch.padded else None
        self.found: dict[int, dict[str, Tensor]] = {}  # by FFN

    def mask(self, ffn: FFN, neurons: Tensor, gate: Tensor) -> Tensor:
        valid = None if self.valid is None else self.valid.on(neurons.device)
        active = marks(self.rule, ffn, neurons, gate, valid)
        counted = active.reshape(-1, ffn.width)
        if valid is not None:
            counted = counted * valid[:, None]
        # Float sums of zeros and ones are exact below 2**24 and several times faster than sums of booleans.
        self.found[ffn.site] = {"by_token": counted.sum(dim=1), "by_neuron": ffn.tally(counted)}
        if isinstance(ffn, Experts):
            self.found[ffn.site]["loads"] = ffn.loads(valid)
        kept = masked_values(active, neurons)
        if self.wants_cett:
            self.tail = ffn.output(neurons - kept)
        return kept

    def add_cett(self, ffn: FFN, output: Tensor) -> None:
        tail = self.tail.float()
        lengths = (x.reshape(-1, x.shape[-1]).norm(dim=-1) for x in (tail, output.float() + tail))
        cett = token_cett(*lengths).double()
        counts = cett if self.valid is None else torch.where(self.valid.on(cett.device), cett, 0.0)
        self.found[ffn.site]["cett"] = counts.sum()

    def finish(self, batch: Batch) -> None:
        if not batch.valid.any():
            return
        active = torch.zeros(len(self.positions), batch.valid.numel(), dtype=torch.int64)
        for site, found in self.found.items():
            active[self.rows[site]] += found["by_token"].long().cpu()
            self.neurons[site] += found["by_neuron"].long().cpu()
            if "loads" in found:
                self.loads[site] += found["loads"].long().cpu()
            if "cett" in found:
                self.cett[site] += found["cett"].cpu()
        active = active[:, batch.valid.reshape(-1)]
        ids, positions = batch.ids[batch.valid], batch.positions[batch.valid]
        grow = max(0, int(positions.max()) + 1 - len(self.position_tokens))
        self.positions = torch.nn.functional.pad(self.positions, (0, grow))
        self.position_tokens = torch.nn.functional.pad(self.position_tokens, (0, grow))
        self.positions.index_add_(1, positions, active)
        self.position_tokens += torch.bincount(positions, minlength=len(self.position_tokens))
        self.vocabulary.index_add_(1, ids, active)
        self.vocabulary_squares.index_add_(0, ids, (active / self.widths[:, None]).mean(dim=0) ** 2)
        self.vocabulary_tokens += torch.bincount(ids, minlength=len(self.vocabulary_tokens))
        if self.keep:
            self.by_token.append((ids, active))

    def result(self, dense: Tensor, rises: Tensor, divergences: Tensor | None) -> Measurement:
        tokens = [torch.cat(parts, dim=-1) for parts in zip(*self.by_token, strict=True)]
        return Measurement(
            rule=self.rule,
            layers=self.layers,
            column_norms=self.norms,
            neuron_counts=self.neurons,
            expert_loads=self.loads if any(map(len, self.loads)) else [],
            cett_sums=self.cett,
            position_counts=self.positions,
            position_tokens=self.position_tokens,
            vocabulary_counts=self.vocabulary,
            vocabulary_squares=self.vocabulary_squares,
            vocabulary_tokens=self.vocabulary_tokens,
            dense_blocks=dense,
            rise_blocks=rises,
            kl_blocks=divergences,
            by_token=(tokens[0], tokens[1]) if tokens else None,
        )


def _ranks(layers: Sequence[int]) -> Tensor:
    """Place of each FFN's layer among the layers that have FFNs."""
    return torch.tensor([sorted(set(layers)).index(layer) for layer in layers])


def _by_layer(layers: Sequence[int], widths: Sequence[int]) -> Tensor:
    """Neurons of each layer, all its FFNs together, (layers,)."""
    by_ffn = torch.tensor(widths, dtype=torch.float64)
    return torch.zeros(len(set(layers)), dtype=torch.float64).index_add(0, _ranks(layers), by_ffn)


def _merged(name: str, a: Any, b: Any) -> Any:
    """Combine one entry of two measurements: sums add up, lists of tokens and blocks follow one another."""
    if name in ("rule", "layers", "column_norms"):
        return a
    if a is None or b is None:
        return None
    if name in ("neuron_counts", "expert_loads"):
        return [x + y for x, y in zip(a, b, strict=True)]
    if name == "by_token":
        return torch.cat([a[0], b[0]]), torch.cat([a[1], b[1]], dim=1)
    if name.endswith("_blocks"):
        return torch.cat([a, b])
    width = max(a.shape[-1], b.shape[-1])
    pad = torch.nn.functional.pad
    return pad(a, (0, width - a.shape[-1])) + pad(b, (0, width - b.shape[-1]))
