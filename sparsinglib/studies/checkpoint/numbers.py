"""The steps of notebook 00: a rule by the authors' strategies, one checkpoint measured, one FFN taken apart."""

import itertools
import json
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...core import forward
from ...core.calibration import rules_at
from ...core.cett import layer_cett
from ...core.checkpoints import ladder_names, load
from ...core.ffn import FFN, UnsupportedModel
from ...core.forward import Batches, TokenBatches
from ...core.hooks import hook_ffns
from ...core.layout import find_ffns
from ...core.measure import Measurement, measure
from ...core.rules import CETT, FAT, Rule, StraightforwardReLU, TopK
from ...core.search import find_thresholds, thresholds_for_cett
from ...core.thresholds import Thresholds
from ...core.token_batches import token_batches
from ...files import DATA, LADDER, output_dir
from ...texts import corpora
from ...texts.pieces import token_pieces

FIRST = 44  # tokens of the sample among which Figure 1 picks its own
SAMPLE = DATA / "texts" / "sample.txt"
RULES: dict[str, Callable[[float], Rule]] = {
    "relu": lambda _: StraightforwardReLU(),
    "topk": TopK,
    "fat": FAT,
    "cett": CETT,
}
STRATEGIES = (*RULES, "pplp")  # as the authors' script names them


@dataclass(frozen=True, eq=False)
class Measured:
    """A model, the rule found for it on ``found_on``, and what it leaves on text that the search has not seen."""

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    rule: Rule
    found_on: list[Tensor]
    measured: Measurement
    sample_text: str = SAMPLE.read_text(encoding="utf-8")

    @property
    def label(self) -> str:
        """What tables and figures call it: its name, or the last part of its path."""
        return Path(self.name).name if Path(self.name).exists() else self.name

    @property
    def rule_name(self) -> str:
        """The rule as figures call it."""
        if not isinstance(self.rule, Thresholds):
            return str(self.rule)
        p = self.rule.ppl_increase_pct
        return f"CETT = {self.rule.cett:.3g}" if p is None else f"CETT-PPL-{p:.3g}%"

    @cached_property
    def sample(self) -> Measurement:
        """The beginning of the sample text under the rule, layer by layer and token by token."""
        batches = token_batches(self.sample_text, self.tokenizer, length_of(self.model, 160), 1)[:1]
        return measure(self.model, batches, self.rule, keep_tokens=True)

    @cached_property
    def zeros(self) -> Measurement | None:
        """What straightforward ReLU leaves where the rule was found; None for a gate without exact zeros."""
        zeroes = all(ffn.zeroes_negatives for ffn in find_ffns(self.model))
        return measure(self.model, self.found_on, StraightforwardReLU(), kl=False) if zeroes else None


def validate_parameters(
    model: str, compare_with: str, text_file: str, strategy: str, argument: float, max_tokens: int, window: int
) -> None:
    """Raise ValueError for parameters that cannot work, before anything is loaded."""
    # papermill -p makes a number of what looks like one, and leaves 1/10 a text.
    for name, value in {"model": model, "compare_with": compare_with, "text_file": text_file}.items():
        if not isinstance(value, str):
            raise ValueError(f"{name} is a text, got {value!r}: papermill keeps it one with -r {name} {value}.")
    for name, size in {"argument": argument, "max_tokens": max_tokens, "window": window}.items():
        if not isinstance(size, (int, float)):
            raise ValueError(f"{name} is a number, got {size!r}.")
    validate_strategy(strategy, argument)
    if not model:
        raise ValueError("model is empty: give a hub id, a directory, a .gguf file or a ladder name.")
    if text_file and not Path(text_file).is_file():
        raise ValueError(f"text_file {text_file!r} does not exist: there is no {Path(text_file).resolve()}.")
    if window < 2 or max_tokens < 2:
        raise ValueError(f"max_tokens and window must be at least 2, got {max_tokens} and {window}.")


def validate_strategy(strategy: str, argument: float) -> None:
    """Raise ValueError for an unknown strategy or an argument out of range."""
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy must be one of {', '.join(STRATEGIES)}, got {strategy!r}.")
    if strategy != "pplp":
        RULES[strategy](argument)
    elif not 1 < float(argument) < 2:
        raise ValueError(
            f"strategy pplp takes the allowed perplexity ratio, 1.01 for one percent (between 1 and 2), got {argument}."
        )


def find_rule(
    model: PreTrainedModel,
    batches: Batches,
    strategy: str,
    argument: float,
    *,
    held_out: Batches | None = None,
    tokenizer: object | None = None,
) -> Rule:
    """Give the rule that a strategy and its argument stand for; thresholds are searched on ``batches``.

    ``argument`` is the share kept (topk), eps (fat), the CETT target (cett) or the allowed perplexity ratio such as
    1.01 (pplp); relu ignores it. Raises ValueError as ``validate_strategy`` and the searches do.
    """
    validate_strategy(strategy, argument)
    if strategy == "pplp":
        return find_thresholds(model, batches, 100 * (float(argument) - 1), held_out=held_out, tokenizer=tokenizer)
    if strategy == "cett":
        return thresholds_for_cett(model, batches, argument, tokenizer=tokenizer)
    return RULES[strategy](argument)


def length_of(model: PreTrainedModel, window: int) -> int:
    """Tokens of a window: at most the model's context, if it states one."""
    context = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    return min(window, context or window)


def halves(batches: Sequence[Tensor], least: int = 64) -> tuple[list[Tensor], list[Tensor] | None]:
    """Cut a text into a part to find thresholds on and a part to judge them on, (rows × length) batches both.

    A text of fewer than two windows of ``least`` tokens is not cut: the second part is then None.
    """
    rows = [row for batch in batches for row in batch]
    if len(rows) == 1:
        rows = list(rows[0].split(max(least, -(-len(rows[0]) // 2))))
    if len(rows) < 2 or sum(map(len, rows)) < 2 * least:
        return list(batches), None
    cut = len(rows) // 2
    size = max(len(batch) for batch in batches)
    return _stacked(rows[:cut], size), _stacked(rows[cut:], size)


def _stacked(rows: list[Tensor], size: int) -> list[Tensor]:
    """Batches of at most ``size`` rows, each of rows of one length."""
    groups = [list(group) for _, group in itertools.groupby(rows, key=len)]
    return [torch.stack(group[i : i + size]) for group in groups for i in range(0, len(group), size)]


def measure_checkpoint(
    model: str, text_file: str, strategy: str, argument: float, max_tokens: int, window: int
) -> Measured:
    """Load a model, find the rule on the first half of the text and measure it on the second, as notebook 00 does."""
    text = corpora.load(text_file or "mixture", "validation")
    network, tokenizer = load(model)
    if tokenizer is None:
        raise ValueError(f"{model} has no tokenizer: put its files beside the weights.")
    found_on, held_out = halves(token_batches(text, tokenizer, length_of(network, window), 16, max_tokens))
    rule = find_rule(network, found_on, strategy, argument, held_out=held_out, tokenizer=tokenizer)
    measured = measure(network, held_out or found_on, rule)
    sample = {"sample_text": text[:2000]} if text_file else {}
    return Measured(model, network, tokenizer, rule, found_on, measured, **sample)


def summary(*models: Measured | None) -> pd.DataFrame:
    """One column a model: what it is, what was asked for, what was reached where, and how sure it is; printed values.

    The ladder's own last row is where its trend ends in notebook 02: on windows that hold one kind of text each.
    """
    return pd.DataFrame({s.label: _summary(s) for s in models if s is not None}).fillna("–")


def _summary(s: Measured) -> dict[str, str]:
    m, rows = s.measured, {"parameters, no embedding": f"{s.model.num_parameters(exclude_embeddings=True) / 1e6:.2f}M"}
    if isinstance(s.rule, Thresholds):
        rows["CETT, all layers"] = f"{s.rule.cett:.3f}" + _interval(s.rule.cett_interval, "{:.3f}")
        rows["tokens to find it on"] = f"{s.rule.tokens}"
        rows["perplexity ratio there"] = _with_error(s.rule.ppl_ratio, s.rule.ppl_ratio_se)
        active = f"{100 * s.rule.activation_ratio:.1f}" + _interval(s.rule.activation_interval, "{:.1f}", 100)
        rows["activation ratio there (%)"] = active
        rows["passes, sparse and dense"] = f"{s.rule.sparse_passes} and {s.rule.dense_passes}"
        if s.rule.tokens_needed:
            rows["tokens to resolve p to a tenth"] = f"{math.ceil(s.rule.tokens_needed / 1000)}k"
    else:
        rows["rule"] = str(s.rule)
    rows["tokens to judge it on"] = f"{m.tokens}"
    rows["dense perplexity"] = f"{m.dense_ppl:.2f}"
    rows["perplexity ratio"] = _with_error(m.ppl_ratio, m.ppl_ratio_se)
    rows["KL(dense ‖ sparse), nats"] = "–" if m.kl is None else f"{m.kl:.4f}"
    rows["activation ratio (%)"] = f"{100 * m.activation_ratio:.1f}"
    if s.zeros:
        rows["zeros alone, on the first half (%)"] = f"{100 * s.zeros.activation_ratio:.1f}"
    return rows | _training(s.name)


def _training(name: str) -> dict[str, str]:
    """Training tokens of a ladder model, and the activation ratio at the end of its trend."""
    record, file = (LADDER / name / part for part in ("run.json", "trajectory.csv"))
    if name not in ladder_names() or not record.is_file():
        return {}
    rows = {"trained on (tokens)": f"{json.loads(record.read_text(encoding='utf-8'))['tokens'] / 1e6:.0f}M"}
    if file.is_file():
        along = pd.read_csv(file).query("metric == 'activation_ratio_shared_cett' and p_pct == 1").sort_values("tokens")
        rows |= {"on notebook 02's text (%)": f"{100 * along.value.iloc[-1]:.1f}"} if len(along) else {}
    return rows


def _with_error(value: float, error: float | None) -> str:
    return f"{value:.3f} ± " + ("unknown" if error is None else f"{error:.4f}")


def _interval(ends: tuple[float, float] | None, form: str, scale: float = 1.0) -> str:
    return "" if ends is None else " (90 %: " + " to ".join(form.format(scale * end) for end in ends) + ")"


def save_thresholds(s: Measured, save_as: str = "") -> Path | None:
    """Write the thresholds where the figures go; None if the strategy has none.

    The name keeps a directory apart from another of the same name, and one tolerance from another.
    """
    if not isinstance(s.rule, Thresholds):
        return None
    place = Path(s.name).expanduser()
    parts = [place.name, sha256(str(place.resolve()).encode()).hexdigest()[:8] if place.exists() else ""]
    p = s.rule.ppl_increase_pct
    parts += [f"cett{s.rule.cett:.3g}" if p is None else f"p{p:.3g}", save_as]
    path = output_dir() / f"thresholds-{'-'.join(filter(None, parts))}.json"
    s.rule.save(path)
    return path


def profile(*models: Measured | None) -> pd.DataFrame:
    """What was measured layer by layer: ``Measurement.by_layer`` with the model's name in ``series``."""
    return pd.concat([s.measured.by_layer.assign(series=s.label) for s in models if s], ignore_index=True)


def layers_by_p(p_values: Sequence[float], tokens: int, *models: Measured | None) -> pd.DataFrame:
    """Activation ratio of each layer at each allowed rise p: series, p_pct, layer, activation_ratio, monotone.

    ``monotone`` is False where perplexity fell somewhere along the search, as it may on a text this short.
    Thresholds are found and judged on about the first ``tokens`` of each model's text (a batch at least).
    """
    frames = []
    for s in filter(None, models):
        batches = s.found_on[: max(1, tokens // s.found_on[0].numel())]
        for p in p_values:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*not monotone")  # said in the table
                found = find_thresholds(s.model, batches, p)
            rows = measure(s.model, batches, found, kl=False).by_layer[["layer", "activation_ratio"]]
            frames.append(rows.assign(series=s.label, p_pct=p, monotone=found.monotone))
    return pd.concat(frames, ignore_index=True)[["series", "p_pct", "layer", "activation_ratio", "monotone"]]


@dataclass(frozen=True, eq=False)
class FFNOutput:
    """One FFN's output on one token, by neuron.

    ``neurons``: neuron, magnitude (length of its output vector), strong; longest first. ``output``: dimension of the
    hidden state, all_neurons, strong_only. ``cett``: the relative error of leaving the weak neurons out (Eq. 3).
    """

    layer: int
    threshold: float
    cett: float
    neurons: pd.DataFrame
    output: pd.DataFrame


def decompose_ffn_output(
    model: PreTrainedModel, ids: Tensor, thresholds: Thresholds, layer: int, position: int
) -> FFNOutput:
    """Take apart the output of ``layer``'s FFN at one ``position`` of the token ids (tokens,), dense model (Fig. 1).

    Raises ValueError if layer or position do not exist or the thresholds do not fit the model.
    """
    ffns = find_ffns(model)
    thresholds.check(ffns)
    corpus = TokenBatches(model, [ids.reshape(1, -1)])
    if not -len(ffns) <= layer < len(ffns) or not 0 <= position < corpus.tokens:
        raise ValueError(f"No layer {layer} of {len(ffns)} or no position {position} of {corpus.tokens} tokens.")
    ffn, seen = ffns[layer], []

    def visit(_ffn: FFN, neurons: Tensor, _gate: Tensor) -> None:
        seen.append(neurons.reshape(corpus.tokens, -1)[position : position + 1])

    with hook_ffns([ffn], visit):
        for batch in corpus:
            forward.logits(model, batch)
    values, threshold = seen[0], thresholds.values[ffn.site]
    strong = thresholds.active(ffn, values, values)
    neurons = pd.DataFrame({"magnitude": ffn.magnitudes(values)[0].cpu().numpy(), "strong": strong[0].cpu().numpy()})
    neurons = neurons.rename_axis("neuron").reset_index().sort_values("magnitude", ascending=False, ignore_index=True)
    full, kept = (ffn.output(x)[0].float().cpu().numpy() for x in (values, torch.where(strong, values, 0)))
    output = pd.DataFrame({"dimension": np.arange(len(full)), "all_neurons": full, "strong_only": kept})
    return FFNOutput(ffn.layer, threshold, float(layer_cett(ffn, values, threshold)), neurons, output)


def one_token(s: Measured) -> tuple[FFNOutput, str]:
    """The middle layer's FFN on the longest of the sample's first tokens, taken apart (Figure 1), and that token."""
    rule = s.rule if isinstance(s.rule, Thresholds) else thresholds_for_cett(s.model, s.found_on, 0.1)
    assert s.sample.kept is not None
    ids = s.sample.kept[0]
    pieces = token_pieces(s.tokenizer, ids[:FIRST].tolist())
    position = max(range(len(pieces)), key=lambda j: len(pieces[j]))
    return decompose_ffn_output(s.model, ids, rule, len(rule.values) // 2, position), pieces[position]


def heat_map_rules(s: Measured) -> dict[str, Measurement]:
    """The model's rule on the sample text, and the two other metrics set to the same activation ratio on it.

    These two need a gate score that can be read; the rule is left alone, with a warning, where it cannot.
    """
    assert s.sample.kept is not None
    sample = [s.sample.kept[0][None]]
    try:
        others = rules_at(s.model, sample, s.sample.activation_ratio)
    except UnsupportedModel as error:
        warnings.warn(f"{s.label} is drawn without Top-k and FAT-ε: {error}", stacklevel=2)
        others = {}
    return {s.rule_name: s.sample} | {n: measure(s.model, sample, rule, keep_tokens=True) for n, rule in others.items()}


def rule_table(results: dict[str, Measurement]) -> pd.DataFrame:
    """What each rule does to the sample: active, fewest and most neurons a token needs (percent), ppl_ratio, kl."""
    rows = {}
    for name, m in results.items():
        need = 100 * np.asarray(m.token_activation).mean(axis=0)
        rows[name] = (100 * m.activation_ratio, need.min(), need.max(), m.ppl_ratio, m.kl)
    return pd.DataFrame.from_dict(rows, orient="index", columns=["active", "fewest", "most", "ppl_ratio", "kl"])
