"""Downstream scores of a model under ``sparsify``, by lm-eval (EleutherAI's harness), with no modelling file touched.

One call scores the dense model and any number of rules on the same examples. What is done is kept on disk by content
(weights, rule, task), so that an interrupted evaluation goes on where it stopped.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import joblib
import pandas as pd
import torch
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..core.ffn import find_ffns
from ..core.rules import Rule
from ..core.thresholds import Thresholds
from ..files import code_digest, content_digest, kept
from ..texts.corpora import cache_dir
from . import offline as offline_tasks
from .lm_harness import Harness, TaskError
from .statistics import COLUMNS, DENSE, summarise

__all__ = ["TaskError", "evaluate", "examples", "model_digest", "rule_name"]


def evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    tasks: str | Sequence[str] | None = None,
    thresholds: Rule | Sequence[Rule] | Mapping[str, Rule] | None = None,
    limit: int | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Score the dense model, and the model under each rule, on the same examples (Sec 4.2, Appendix H).

    ``tasks`` are names known to lm-eval (``data/suites/benchmarks.yaml`` lists the paper's), tasks of ``folder`` or
    offline tasks (default: all of these). ``thresholds`` is one Thresholds artefact or other rule, a list, or a dict
    by name. ``limit`` is the number of examples of each (sub)task. ``options`` are those of ``examples``.

    Returns one row a rule, task and metric: model, rule, p (percent; 0 for dense), task, metric, value (0 to 1),
    standard_error, n, and the paired difference from dense with its 95 % interval and, for 0/1 scores, the exact
    McNemar ``p_value``. Raises TaskError and ValueError before any model is run, except for what a task itself raises.
    """
    return summarise(examples(model, tokenizer, tasks, thresholds, limit, **options))


def examples(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    tasks: str | Sequence[str] | None = None,
    thresholds: Rule | Sequence[Rule] | Mapping[str, Rule] | None = None,
    limit: int | None = None,
    *,
    folder: Path | None = None,
    shots: Mapping[str, int] | None = None,
    batch_size: int = 64,
    max_new_tokens: int | None = None,
    run_code: bool = False,
    name: str | None = None,
    cache: Path | None = None,
) -> pd.DataFrame:
    """Give the score of every single example, as ``evaluate`` counts it: model, rule, p, task, metric, example, score.

    Args:
        model: causal language model in evaluation mode; left as it was.
        tokenizer: its tokenizer.
        tasks: as for ``evaluate``.
        thresholds: as for ``evaluate``.
        limit: examples of each (sub)task, from the first; None for all.
        folder: lm-eval YAML files of your own, with the JSONL files they read.
        shots: examples in the prompt by task name, where lm-eval's default is not wanted.
        batch_size: sequences run at once.
        max_new_tokens: overrides the tasks' own limit on generated tokens.
        run_code: let lm-eval execute generated code in this process (humaneval, mbpp need it; offline tasks do not).
        name: what the column ``model`` says (default: the tokenizer's or model's own).
        cache: where finished pairs of rule and task are kept (default: in the cache directory).

    Raises:
        TaskError: unknown task (with the nearest names), no data, broken example file, more tokens to generate than
            the model's context holds.
        ValueError: no tokenizer, a limit below 1, a rule that does not fit the model.
    """
    if tokenizer is None:
        raise ValueError("tasks are text: this checkpoint has no tokenizer; load one that fits.")
    if limit is not None and limit < 1:
        raise ValueError(f"limit is the number of examples of a task, at least 1; got {limit}.")
    named = _named(thresholds)
    ffns = find_ffns(model)
    for rule in named.values():
        rule.check(ffns)
    chosen = [tasks] if isinstance(tasks, str) else list(tasks or offline_tasks.names())
    harness = Harness(model, tokenizer, chosen, folder, batch_size, max_new_tokens, run_code)
    loaded = {task: harness.load(task, (shots or {}).get(task)) for task in chosen}
    settings = {t: (t, _task_digest(t, folder), (shots or {}).get(t), limit, max_new_tokens) for t in chosen}
    scores = cache or cache_dir() / "scores"
    digest = model_digest(model, tokenizer)
    label = name or tokenizer.name_or_path or type(model).__name__
    rows = []
    for rule_name, rule in tqdm([(DENSE, None), *named.items()], desc=label, disable=None, leave=False):
        for task in chosen:
            key = digest, *_key(rule), *settings[task]
            scored = kept(scores, key, partial(harness.score, loaded[task], rule, limit))
            rows += [(label, rule_name, _p(rule), *row) for row in scored]
    return pd.DataFrame(rows, columns=COLUMNS)


def _named(thresholds: Rule | Sequence[Rule] | Mapping[str, Rule] | None) -> dict[str, Rule]:
    if isinstance(thresholds, Mapping):
        if DENSE in thresholds:
            raise ValueError(f"{DENSE!r} names the rows of the model without a rule; give yours another name.")
        return dict(thresholds)
    if thresholds is None:
        return {}
    given = list(thresholds) if isinstance(thresholds, Iterable) else [thresholds]
    names = [rule_name(rule) for rule in given]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"two rules are called {min(twice)}; give a dict of them by names of your own.")
    return dict(zip(names, given, strict=True))


def rule_name(rule: Rule) -> str:
    """What tables call a rule: "CETT-PPL-1%" for thresholds found for p = 1 %."""
    if not isinstance(rule, Thresholds):
        return str(rule)
    p = rule.ppl_increase_pct
    return f"CETT={rule.cett:.3g}" if p is None else f"CETT-PPL-{p:g}%"


def _p(rule: Rule | None) -> float:
    p = 0.0 if rule is None else getattr(rule, "ppl_increase_pct", None)
    return float("nan") if p is None else float(p)


def _key(rule: Rule | None) -> tuple[str, str]:
    """What a rule does to a model, by content: where its thresholds were found makes no difference."""
    return type(rule).__name__, joblib.hash(rule.values if isinstance(rule, Thresholds) else rule)


def model_digest(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 of what a score depends on besides rule and task: weights, configuration, tokens, code and versions."""
    digest = hashlib.sha256(model.config.to_json_string().encode())
    for key, tensor in sorted(model.state_dict().items()):
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    digest.update(joblib.hash((sorted(tokenizer.get_vocab().items()), tokenizer.special_tokens_map)).encode())
    digest.update((code_digest(__name__) + version("lm-eval")).encode())
    return digest.hexdigest()


def _task_digest(task: str, folder: Path | None) -> str:
    """Hash of what a local task is read from; nothing for one of the harness's own, whose version is in the model's."""
    if task in offline_tasks.MAKERS:
        paths = [offline_tasks.template(task), offline_tasks.build() / f"{task}.jsonl"]
    elif folder is not None:
        paths = sorted(path for path in folder.iterdir() if path.suffix in (".yaml", ".py", ".jsonl"))
    else:
        return ""
    return content_digest(*paths)
