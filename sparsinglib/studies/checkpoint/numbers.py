"""The steps of notebook 00: a rule by the authors' strategies, one checkpoint measured, its tables."""

import itertools
import math
import re
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

from ...core import arguments
from ...core.calibration import rules_at
from ...core.checkpoints import ladder_names, load
from ...core.ffn import UnsupportedModel
from ...core.forward import Batches
from ...core.layout import find_ffns
from ...core.measure import Measurement, measure
from ...core.rules import CETT, FAT, Rule, StraightforwardReLU, TopK
from ...core.search import find_thresholds, thresholds_for_cett
from ...core.thresholds import Thresholds
from ...core.token_batches import token_batches
from ...files import LADDER, ROOT, SAMPLE, output_dir
from ...ladder.recipe import record
from ...suites.survey import length_of
from ...texts import corpora
from ...texts.pieces import token_pieces
from .ffn_output import FFNOutput, decompose_ffn_output

LEAST = 64  # tokens of half a text
FIRST = 44  # tokens of the sample among which Figure 1 picks its own
RULES: dict[str, Callable[[float], Rule | CETT]]
RULES = {"relu": lambda _: StraightforwardReLU(), "topk": TopK, "fat": FAT, "cett": CETT}
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
    sample_text: str = ""  # what pictures show the beginning of; "" for the shipped sample

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
        text = self.sample_text or SAMPLE.read_text(encoding="utf-8")
        batches = token_batches(text, self.tokenizer, length_of(self.model, 160), 1)[:1]
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
    for name, value in {"model": model, "compare_with": compare_with, "text_file": text_file}.items():
        arguments.text(name, value)
    arguments.number("argument", argument)
    for name, size in {"max_tokens": max_tokens, "window": window}.items():
        arguments.whole(name, size, 2)
    validate_strategy(strategy, argument)
    if not model:
        raise ValueError("model is empty: give a hub id, a directory, a .gguf file or a ladder name.")
    if text_file and text_file not in arguments.CORPORA and not (path := Path(text_file).expanduser()).exists():
        raise ValueError(f"text_file {text_file!r} does not exist: there is no {path.resolve()}.")


def validate_strategy(strategy: str, argument: float) -> None:
    """Raise ValueError for an unknown strategy or an argument out of range."""
    arguments.one_of("strategy", strategy, STRATEGIES)
    if strategy != "pplp":
        RULES[strategy](argument)
    else:
        allowed = "the allowed perplexity ratio with pplp, 1.01 for one percent (between 1 and 2)"
        arguments.number("argument", argument, allowed, lambda ratio: 1 < ratio < 2)


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
    rule = RULES[strategy](argument)
    return thresholds_for_cett(model, batches, rule, tokenizer=tokenizer) if isinstance(rule, CETT) else rule


def halves(batches: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor] | None]:
    """Cut a text into a part to find thresholds on and a part to judge them on, (rows × length) batches both.

    A text of fewer than two windows of 64 tokens is not cut: the second part is then None.
    """
    rows = [row for batch in batches for row in batch]
    if len(rows) == 1:
        rows = list(rows[0].split(max(LEAST, -(-len(rows[0]) // 2))))
    if len(rows) < 2 or sum(map(len, rows)) < 2 * LEAST:
        return list(batches), None
    cut, size = len(rows) // 2, max(len(batch) for batch in batches)

    def stacked(part: list[Tensor]) -> list[Tensor]:  # each batch of rows of one length
        groups = [list(group) for _, group in itertools.groupby(part, key=len)]
        return [torch.stack(group[i : i + size]) for group in groups for i in range(0, len(group), size)]

    return stacked(rows[:cut]), stacked(rows[cut:])


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
    return Measured(model, network, tokenizer, rule, found_on, measured, text[:2000] if text_file else "")


def summary(*models: Measured | None) -> pd.DataFrame:
    """One column a model: what it is, what was asked for, what was reached where, and how sure it is; printed values.

    The ladder's own last row is where its trend ends in notebook 02: on windows that hold one kind of text each.
    """
    return pd.DataFrame({s.label: _summary(s) for s in models if s is not None}).fillna("–")


def _summary(s: Measured) -> dict[str, str]:
    m, rows = s.measured, {"parameters, no embedding": f"{s.model.num_parameters(exclude_embeddings=True) / 1e6:.2f}M"}
    if isinstance(s.rule, Thresholds):
        t = s.rule
        rows["CETT, all layers"] = f"{t.cett:.3f}" + _interval(t.cett_interval, "{:.3f}")
        rows["tokens to find it on"] = f"{t.tokens}, {t.sparse_passes} sparse and {t.dense_passes} dense passes"
        rows["perplexity ratio there"] = _with_error(t.ppl_ratio, t.ppl_ratio_se)
        percent = t.activation_interval and tuple(100 * end for end in t.activation_interval)
        rows["activation ratio there (%)"] = f"{100 * t.activation_ratio:.1f}" + _interval(percent, "{:.1f}")
        if t.tokens_needed:
            rows["tokens to resolve p to a tenth"] = f"{math.ceil(t.tokens_needed / 1000)}k"
    else:
        rows["rule"] = str(s.rule)
    rows["dense perplexity"] = f"{m.dense_ppl:.2f} on {m.tokens} tokens"
    rows["perplexity ratio"] = _with_error(m.ppl_ratio, m.ppl_ratio_se)
    rows["KL(dense ‖ sparse), nats"] = "–" if m.kl is None else f"{m.kl:.4f}"
    rows["activation ratio (%)"] = f"{100 * m.activation_ratio:.1f}"
    if s.zeros:
        rows["zeros alone, on the first half (%)"] = f"{100 * s.zeros.activation_ratio:.1f}"
    said, file = record(LADDER / s.name), LADDER / s.name / "trajectory.csv"
    if s.name in ladder_names() and said:
        rows["parameters, no embedding"] += f", trained on {said['tokens'] / 1e6:.0f}M tokens"
        trend = "metric == 'activation_ratio_shared_cett' and p_pct == 1"
        along = pd.read_csv(file).query(trend).sort_values("tokens") if file.is_file() else pd.DataFrame()
        rows |= {"on notebook 02's text (%)": f"{100 * along.value.iloc[-1]:.1f}"} if len(along) else {}
    return rows


def _with_error(value: float, error: float | None) -> str:
    return f"{value:.3f} ± " + ("unknown" if error is None else f"{error:.4f}")


def _interval(ends: Sequence[float] | None, form: str) -> str:
    return f" (90 %: {' to '.join(map(form.format, ends))})" if ends else ""


def save_thresholds(s: Measured, save_as: str = "") -> Path | None:
    """Write the thresholds where the figures go; None if the strategy has none.

    The name keeps a directory or hub id apart from another of the same name, one tolerance from another, and a text of
    the reader's from others. Raises ValueError for a ``save_as`` that is no part of a file's name.
    """
    if not isinstance(s.rule, Thresholds):
        return None
    if re.search(r"[/\\]", ending := str(save_as)):
        raise ValueError(f"save_as is an ending of files' names, got {save_as!r}.")
    place, p = Path(s.name).expanduser(), s.rule.ppl_increase_pct
    digest = sha256(str(place.resolve()).encode()).hexdigest()[:8] if place.exists() else ""
    name, text = place.name if digest else s.name.replace("/", "-"), (s.rule.provenance.get("corpus_sha256") or "")[:8]
    level = f"cett{s.rule.cett:.3g}" if p is None else f"p{p:.3g}"
    parts = [name, digest, level, text if getattr(s, "sample_text", "") else "", ending]
    path = output_dir() / f"thresholds-{'-'.join(filter(None, parts))}.json"
    s.rule.save(path)
    return path


def place(path: Path) -> Path:
    """Where a file lies, from the checkout's root if it is in there."""
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path


def profile(*models: Measured | None) -> pd.DataFrame:
    """What was measured layer by layer: ``Measurement.by_layer`` with the model's name in ``series``."""
    return pd.concat([s.measured.by_layer.assign(series=s.label) for s in models if s], ignore_index=True)


def layers_by_p(p_values: Sequence[float], tokens: int, *models: Measured | None) -> pd.DataFrame:
    """Active share of each layer at each allowed rise p: series, p_pct, layer, activation_ratio, ppl_ratio, monotone.

    ``monotone`` is False where perplexity fell somewhere along the search, and ``ppl_ratio`` not quite 1 + p %, as it
    may be on a text this short.
    Thresholds are found and judged on about the first ``tokens`` of each model's text (a batch at least).
    """
    frames = []
    for s in filter(None, models):
        batches = s.found_on[: max(1, tokens // s.found_on[0].numel())]
        for p in p_values:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*(not monotone|search ended at)")  # said in the table
                found = find_thresholds(s.model, batches, p)
            rows = measure(s.model, batches, found, kl=False).by_layer[["layer", "activation_ratio"]]
            frames.append(rows.assign(series=s.label, p_pct=p, ppl_ratio=found.ppl_ratio, monotone=found.monotone))
    columns = ["series", "p_pct", "layer", "activation_ratio", "ppl_ratio", "monotone"]
    return pd.concat(frames, ignore_index=True)[columns]


def one_token(s: Measured) -> tuple[FFNOutput, str]:
    """The middle layer's FFN on the longest of the sample's first tokens, taken apart (Figure 1), and that token."""
    rule = s.rule if isinstance(s.rule, Thresholds) else thresholds_for_cett(s.model, s.found_on, 0.1)
    assert s.sample.by_token is not None
    ids = s.sample.by_token[0]
    pieces = token_pieces(s.tokenizer, ids[:FIRST].tolist())
    position = max(range(len(pieces)), key=lambda j: len(pieces[j]))
    return decompose_ffn_output(s.model, ids, rule, len(rule.values) // 2, position), pieces[position]


def heat_map_rules(s: Measured) -> dict[str, Measurement]:
    """The model's rule on the sample text, and the two other metrics set to the same activation ratio on it.

    These two need a gate score that can be read; the rule is left alone, with a warning, where it cannot.
    """
    assert s.sample.by_token is not None
    sample = [s.sample.by_token[0][None]]
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
