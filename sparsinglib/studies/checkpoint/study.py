"""The steps of the first notebook: one model, one text, one strategy, measured, drawn and checked."""

import json
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import pandas as pd
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ...core.calibration import rules_at
from ...core.checkpoints import ladder_names, load
from ...core.ffn import UnsupportedModel, find_ffns
from ...core.forward import token_batches
from ...core.measure import Measurement, measure
from ...core.rules import Rule, StraightforwardReLU
from ...core.search import find_thresholds, thresholds_for_cett
from ...core.thresholds import Thresholds
from ...files import DATA, LADDER, ROOT, output_dir
from ...paper import style
from ...texts import corpora
from .anatomy import Anatomy, dissect
from .strategies import check_strategy, find_rule, halves

FIRST = 44  # tokens of the sample among which Figure 1 picks its own
SAMPLE = DATA / "texts" / "sample.txt"


@dataclass(frozen=True, eq=False)
class Study:
    """A model with the rule found for it; ``measured`` on text the search has not seen, ``sample`` on a short one.

    ``zeros``, what straightforward ReLU leaves, is measured where the rule was found, as the rule's own intervals are;
    None for a model whose gate has no exact zeros.
    """

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    rule: Rule
    fitted_on: list[torch.Tensor]
    measured: Measurement
    sample_ids: torch.Tensor
    sample: Measurement
    zeros: Measurement | None

    @property
    def label(self) -> str:
        """What tables and figures call it: its name, or the last part of its path."""
        return Path(self.name).name if Path(self.name).exists() else self.name


def check(
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
    check_strategy(strategy, argument)
    if not model:
        raise ValueError("model is empty: give a hub id, a directory, a .gguf file or a ladder name.")
    if text_file and not Path(text_file).is_file():
        raise ValueError(f"text_file {text_file!r} does not exist: there is no {Path(text_file).resolve()}.")
    if window < 2 or max_tokens < 2:
        raise ValueError(f"max_tokens and window must be at least 2, got {max_tokens} and {window}.")


def study(model: str, text_file: str, strategy: str, argument: float, max_tokens: int, window: int) -> Study:
    """Load a model, find the rule on the first half of the text and measure it on the second."""
    text = corpora.load(text_file) if text_file else corpora.load("mixture", split="validation")
    network, tokenizer = load(model)
    if tokenizer is None:
        raise ValueError(f"{model} has no tokenizer: put its files beside the weights.")
    context = getattr(network.config.get_text_config(decoder=True), "max_position_embeddings", None) or window
    batches = token_batches(text, tokenizer, min(window, context), 16, max_tokens)
    fit, held_out = halves(batches)
    rule = find_rule(network, fit, strategy, argument, held_out=held_out, tokenizer=tokenizer)
    judge = held_out or fit
    zeroes = all(ffn.zeroes_negatives for ffn in find_ffns(network))
    sample_text = text[:2000] if text_file else SAMPLE.read_text(encoding="utf-8")
    sample = token_batches(sample_text, tokenizer, min(160, context), 1)[:1]
    return Study(
        model,
        network,
        tokenizer,
        rule,
        fit,
        measure(network, judge, rule),
        sample[0][0],
        measure(network, sample, rule, keep_tokens=True),
        measure(network, fit, StraightforwardReLU(), kl=False) if zeroes else None,
    )


def summary(*studies: Study | None) -> pd.DataFrame:
    """One column a model: what was asked for, what was reached where, and how sure it is; printed values."""
    columns = {s.label: _summary(s) for s in studies if s is not None}
    return pd.DataFrame(columns).fillna("–")


def _summary(s: Study) -> dict[str, str]:
    m, rows = s.measured, {}
    if isinstance(s.rule, Thresholds):
        rows["CETT, all layers"] = f"{s.rule.cett:.3f}" + _interval(s.rule.cett_interval, "{:.3f}")
        rows["tokens to find it on"] = f"{s.rule.tokens}"
        rows["perplexity ratio there"] = _with_error(s.rule.ppl_ratio, s.rule.ppl_ratio_se)
        rows["activation ratio there (%)"] = f"{100 * s.rule.activation_ratio:.1f}" + _interval(
            s.rule.activation_interval, "{:.1f}", 100
        )
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
    return rows


def _with_error(value: float, error: float | None) -> str:
    return f"{value:.3f} ± " + ("unknown" if error is None else f"{error:.4f}")


def _interval(ends: tuple[float, float] | None, form: str, scale: float = 1.0) -> str:
    return "" if ends is None else " (90 %: " + " to ".join(form.format(scale * end) for end in ends) + ")"


def save_thresholds(s: Study, save_as: str = "") -> Path | None:
    """Write the thresholds where the figures go; None if the strategy has none.

    A checkpoint's directory is told from another of the same name, and one tolerance from another.
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


def shown(path: Path) -> str:
    """A path as it is printed: from the project's folder if it lies there."""
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else str(path)


def profile(*studies: Study | None) -> pd.DataFrame:
    """What was measured layer by layer: ``Measurement.by_layer`` with the model's name in ``series``."""
    return pd.concat([s.measured.by_layer.assign(series=s.label) for s in studies if s], ignore_index=True)


def layers_by_p(p_values: Sequence[float], tokens: int, *studies: Study | None) -> pd.DataFrame:
    """Activation ratio of each layer at each allowed rise p: series, p_pct, layer, activation_ratio, monotone.

    ``monotone`` is False where perplexity fell somewhere along the search, as it may on a text this short.
    Thresholds are found and judged on about the first ``tokens`` of each study's text (a batch at least).
    """
    frames = []
    for s in filter(None, studies):
        batches = s.fitted_on[: max(1, tokens // s.fitted_on[0].numel())]
        for p in p_values:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*not monotone")  # said in the table
                found = find_thresholds(s.model, batches, p)
            rows = measure(s.model, batches, found, kl=False).by_layer[["layer", "activation_ratio"]]
            frames.append(rows.assign(series=s.label, p_pct=p, monotone=found.monotone))
    return pd.concat(frames, ignore_index=True)[["series", "p_pct", "layer", "activation_ratio", "monotone"]]


def one_token(s: Study) -> tuple[Anatomy, str]:
    """The middle layer's FFN on the longest of the sample's first tokens, taken apart (Figure 1), and that token."""
    rule = s.rule if isinstance(s.rule, Thresholds) else thresholds_for_cett(s.model, s.fitted_on, 0.1)
    pieces = style.token_pieces(s.tokenizer, s.sample_ids[:FIRST].tolist())
    position = max(range(len(pieces)), key=lambda j: len(pieces[j]))
    return dissect(s.model, s.sample_ids, rule, len(rule.values) // 2, position), pieces[position]


def heat_map_rules(s: Study) -> dict[str, Measurement]:
    """The study's rule on the sample text, and the two other metrics set to the same activation ratio on it.

    These two need a gate score that can be read; the study's rule is left alone, with a warning, where it cannot.
    """
    sample = [s.sample_ids[None]]
    try:
        others = rules_at(s.model, sample, s.sample.activation_ratio)
    except UnsupportedModel as error:
        warnings.warn(f"{s.label} is drawn without Top-k and FAT-ε: {error}", stacklevel=2)
        others = {}
    label = str(s.rule)
    if isinstance(s.rule, Thresholds):
        p = s.rule.ppl_increase_pct
        label = f"CETT = {s.rule.cett:.3g}" if p is None else f"CETT-PPL-{p:.3g}%"
    return {label: s.sample} | {n: measure(s.model, sample, rule, keep_tokens=True) for n, rule in others.items()}


def rule_table(results: dict[str, Measurement]) -> pd.DataFrame:
    """Activation ratio, its spread over tokens and layers, perplexity ratio and KL of each rule on the sample."""
    rows = [
        {
            "rule": name,
            "activation ratio (%)": f"{100 * m.activation_ratio:.1f}",
            "least–most needed by a token (%)": "–".join(f"{100 * x:.0f}" for x in _ends(m)),
            "perplexity ratio": f"{m.ppl_ratio:.3f}",
            "KL (nats)": f"{m.kl or 0:.3f}",
        }
        for name, m in results.items()
    ]
    return pd.DataFrame(rows)


def _ends(m: Measurement) -> tuple[float, float]:
    assert m.token_activation is not None  # kept: the sample is short
    need = m.token_activation.mean(axis=0)
    return float(need.min()), float(need.max())


def trained_on(s: Study) -> str:
    """Size of a model and, of one of the ladder's, its training tokens and the end of its trend."""
    words = f"{s.label}: {s.model.num_parameters(exclude_embeddings=True) / 1e6:.2f}M parameters beside the embedding"
    record = LADDER / s.name / "run.json"
    if s.name not in ladder_names() or not record.is_file():
        return words
    words += f", trained on {json.loads(record.read_text(encoding='utf-8'))['tokens'] / 1e6:.0f}M tokens"
    if not (file := record.with_name("trajectory.csv")).is_file():
        return words
    along = pd.read_csv(file).query("metric == 'activation_ratio_shared_cett' and p_pct == 1")
    if along.empty:
        return words
    return (
        f"{words}; {along.sort_values('tokens').value.iloc[-1]:.1%} active at its end in notebook 02, on another text"
    )
