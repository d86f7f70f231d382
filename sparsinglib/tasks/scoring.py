"""Downstream scores of a model under ``sparsify``, by lm-eval (EleutherAI's harness), with no modelling file touched.

One call scores the dense model and any number of rules on the same examples. What is done is kept on disk by content
(weights, rule, task, examples), so that an interrupted evaluation goes on where it stopped. Nothing is kept of a model
with hooks or code of the reader's own (``model_digest``), nor of a rule of a class of theirs.
"""

import math
import os
import warnings
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import pandas as pd
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..core.arguments import flag, whole
from ..files import cached
from .arguments import Rules, model_and_tokenizer, places, rules_by_name, shots_of, task_names
from .digests import model_digest, rule_key, task_digest
from .harness import Harness
from .statistics import COLUMNS, DENSE, summarise


def evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    tasks: str | Iterable[str] | None = None,
    thresholds: Rules = None,
    limit: int | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Score the dense model, and the model under each rule, on the same examples (Sec 4.2, Appendix H).

    ``tasks`` are names known to lm-eval (``data/suites/benchmarks.yaml`` lists the paper's), tasks of ``folder`` or
    offline tasks (default: all of these); one that is named twice is scored once. ``thresholds`` is one Thresholds
    artefact, the path of its file, or another rule; a list of these, or a dict by name. ``limit`` is the number of
    examples of each (sub)task. ``options`` are those of ``examples``.

    Returns one row a rule, task and metric: model, rule, p (percent; 0 for dense), task, metric, value (0 to 1),
    standard_error, n, and the paired difference from dense with its 90 % interval and, for 0/1 scores, the exact
    McNemar ``p_value``. Raises TaskError and ValueError before any model is run, except for what a task itself raises.
    Warns of prompts that were cut because the model's context cannot hold them.
    """
    return summarise(examples(model, tokenizer, tasks, thresholds, limit, **options))


def examples(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    tasks: str | Iterable[str] | None = None,
    thresholds: Rules = None,
    limit: int | None = None,
    *,
    folder: str | os.PathLike[str] | None = None,
    shots: Mapping[str, int] | None = None,
    batch_size: int = 64,
    max_new_tokens: int | None = None,
    run_code: bool = False,
    name: str | None = None,
    cache: str | os.PathLike[str] | None = None,
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
        TaskError: unknown task (with the nearest names), no ``folder``, no data, broken example file, more tokens to
            generate than the model's context holds.
        ValueError: no tokenizer, a limit below 1, a rule that does not fit the model, a model in training mode, a
            ``cache`` that is no folder.
    """
    ffns, tokenizer = model_and_tokenizer(model, tokenizer)
    limit = None if limit is None else whole("limit, the examples of a task,", limit, 1)
    most = None if max_new_tokens is None else whole("max_new_tokens", max_new_tokens, 1)
    batch_size = whole("batch_size", batch_size, 1)
    run_code = flag("run_code", run_code)
    named = rules_by_name(thresholds)
    for rule in named.values():
        rule.check(ffns)
    chosen = task_names(tasks)
    wanted = shots_of(shots, chosen)
    place, scores = places(folder, cache)
    harness = Harness(model, tokenizer, chosen, place, batch_size, most, run_code)
    loaded = {task: harness.load(task, wanted.get(task)) for task in chosen}
    settings = {t: (t, task_digest(loaded[t], place, limit), wanted.get(t), limit, most) for t in chosen}
    digest = model_digest(model, tokenizer)
    label = name or tokenizer.name_or_path or type(model).__name__
    rows, cut = [], dict.fromkeys(chosen, 0)
    for called, rule in tqdm([(DENSE, None), *named.items()], desc=label, disable=None, leave=False):
        for task in chosen:
            make = partial(harness.score, loaded[task], rule, limit)
            scored, cut[task] = cached(scores, (digest, rule_key(rule), *settings[task]), make) if digest else make()
            p = 0.0 if rule is None else getattr(rule, "ppl_increase_pct", None)
            rows += [(label, called, math.nan if p is None else p, *row) for row in scored]
    for task in filter(cut.get, cut):
        warnings.warn(
            f"{task}: {cut[task]} prompts are longer than the model's context of {harness.lm.max_length} tokens; "
            "their start was cut off, and the scores are of what was left.",
            stacklevel=2,
        )
    return pd.DataFrame(rows, columns=COLUMNS)
