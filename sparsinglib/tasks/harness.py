"""Downstream scores of a model under ``sparsify``, by lm-eval (EleutherAI's harness), with no modelling file touched.

One call scores the dense model and any number of rules on the same examples. What is done is kept on disk by content
(weights, rule, task, examples), so that an interrupted evaluation goes on where it stopped. Nothing is kept of a model
with hooks or code of the reader's own (``model_digest``), nor of a rule of a class of theirs.
"""

import contextlib
import difflib
import io
import json
import logging
import math
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import lm_eval
import pandas as pd
from lm_eval.tasks import TaskManager
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..core import arguments
from ..core.ffn import FFN
from ..core.hooks import sparsify
from ..core.layout import find_ffns
from ..core.rules import Rule
from ..core.thresholds import Thresholds, as_rule
from ..files import cache_dir, kept
from . import offline
from .digests import LoadedTask, model_digest, rule_key, task_digest
from .model import SparseLM, TaskError
from .statistics import COLUMNS, DENSE, summarise

Rules = Rule | str | os.PathLike[str] | Iterable[Rule | str | os.PathLike[str]] | Mapping[str, Rule] | None
Scored = tuple[list[tuple[str, str, str, float]], int]  # task, metric, example and score; prompts that were cut
DEFAULT_NEW_TOKENS = 256  # lm-eval's, where a task sets no limit
FEWSHOT_SEED = 1234  # lm-eval's own
# Notes that say nothing new: a loaded model is what is wanted, defaults are the usual ones, prompts that are cut are
# counted, and where shots come from is told where it matters.
IDLE_NOTE = re.compile("`pretrained`|using default|runcat|fewshot_split is None|using test_docs as fewshot_docs")


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
    ffns, tokenizer = _checked(model, tokenizer)
    limit = None if limit is None else arguments.whole("limit, the examples of a task,", limit, 1)
    most = None if max_new_tokens is None else arguments.whole("max_new_tokens", max_new_tokens, 1)
    batch_size = arguments.whole("batch_size", batch_size, 1)
    run_code = arguments.flag("run_code", run_code)
    named = _named(thresholds)
    for rule in named.values():
        rule.check(ffns)
    chosen = _chosen(tasks)
    wanted = _shots(shots, chosen)
    place, scores = _places(folder, cache)
    harness = Harness(model, tokenizer, chosen, place, batch_size, most, run_code)
    loaded = {task: harness.load(task, wanted.get(task)) for task in chosen}
    settings = {t: (t, task_digest(loaded[t], place, limit), wanted.get(t), limit, most) for t in chosen}
    digest = model_digest(model, tokenizer)
    label = name or tokenizer.name_or_path or type(model).__name__
    rows, cut = [], dict.fromkeys(chosen, 0)
    for called, rule in tqdm([(DENSE, None), *named.items()], desc=label, disable=None, leave=False):
        for task in chosen:
            make = partial(harness.score, loaded[task], rule, limit)
            scored, cut[task] = kept(scores, (digest, rule_key(rule), *settings[task]), make) if digest else make()
            p = 0.0 if rule is None else getattr(rule, "ppl_increase_pct", None)
            rows += [(label, called, math.nan if p is None else p, *row) for row in scored]
    for task in filter(cut.get, cut):
        warnings.warn(
            f"{task}: {cut[task]} prompts are longer than the model's context of {harness.lm.max_length} tokens; "
            "their start was cut off, and the scores are of what was left.",
            stacklevel=2,
        )
    return pd.DataFrame(rows, columns=COLUMNS)


def _checked(model: PreTrainedModel, tokenizer: Any) -> tuple[Sequence[FFN], PreTrainedTokenizerBase]:
    """The model's FFNs and the tokenizer, or a ValueError that says why they cannot be scored."""
    ffns = find_ffns(model)
    if model.training:
        raise ValueError("The model is in training mode, where dropout makes every score another: call model.eval().")
    if tokenizer is None:
        raise ValueError("tasks are text: this checkpoint has no tokenizer; load one that fits.")
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise ValueError(f"tokenizer must be one, as load gives it; got {type(tokenizer).__name__}.")
    return ffns, tokenizer


def _shots(shots: Any, chosen: Sequence[str]) -> dict[str, int]:
    if shots is not None and not isinstance(shots, Mapping):
        raise ValueError(f"shots must give a number by task, as {{{chosen[0]!r}: 5}}; got {shots!r:.100}.")
    wanted = {task: arguments.whole(f"shots of {task}", number, 0) for task, number in (shots or {}).items()}
    if strange := sorted(set(wanted) - set(chosen)):
        raise ValueError(f"shots are given for {', '.join(strange)}, not among the tasks: {', '.join(chosen)}.")
    return wanted


def _places(folder: Any, cache: Any) -> tuple[Path | None, Path]:
    """The reader's folder of tasks, which is there, and that of finished scores, which is made."""
    tasks = None if folder is None else arguments.path("folder", folder)
    if tasks is not None and not tasks.is_dir():
        raise TaskError(f"folder: there is no folder {tasks}; give the one that holds your tasks' YAML files.")
    scores = cache_dir() / "scores" if cache is None else arguments.path("cache", cache)
    try:
        scores.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"cache: {scores} is no folder and cannot be one ({error.strerror}); give another.") from error
    return tasks, scores


def _chosen(tasks: str | Iterable[str] | None) -> list[str]:
    """Names of tasks, each once; one string may hold several, as on lm-eval's command line."""
    names = tasks.split(",") if isinstance(tasks, str) else list(tasks) if isinstance(tasks, Iterable) else tasks
    if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise ValueError(f"tasks must be names of tasks, got {tasks!r:.100}.")
    if names is not None and not any(map(str.strip, names)):
        raise ValueError(f"tasks is empty ({tasks!r:.100}): name some, or leave it out for all offline tasks.")
    return list(dict.fromkeys(map(str.strip, names or offline.names())))


def _named(thresholds: Rules) -> dict[str, Rule]:
    if isinstance(thresholds, Mapping):
        if DENSE in thresholds:
            raise ValueError(f"{DENSE!r} names the rows of the model without a rule; give yours another name.")
        if len(set(map(str, thresholds))) < len(thresholds):
            raise ValueError(f"two of the names {list(thresholds)} are written alike; give each rule its own.")
        return {str(name): as_rule(rule) for name, rule in thresholds.items()}
    if thresholds is None:
        return {}
    many = isinstance(thresholds, Iterable) and not isinstance(thresholds, (str, os.PathLike))
    given: list[Rule] = [as_rule(rule) for rule in (thresholds if many else [thresholds])]  # type: ignore[union-attr,arg-type]
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


@contextlib.contextmanager
def quiet() -> Iterator[list[str]]:
    """Keep lm-eval's and datasets' bars and notes off the screen: the caller has one bar for all of it.

    What they warn of is in the list that is given.
    """
    said: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    loggers = [logging.getLogger(name) for name in ("lm_eval", "lm-eval", "datasets")]
    before = [(logger.propagate, logger.handlers) for logger in loggers]
    bars = not datasets.are_progress_bars_disabled()  # in a notebook they are widgets, which no stream carries
    datasets.disable_progress_bars()
    for logger in loggers:
        logger.propagate, logger.handlers = False, [handler]
    try:
        with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings(record=True) as caught:
            yield said
            said += [str(warning.message) for warning in caught if warning.category is not DeprecationWarning]
    finally:
        if bars:
            datasets.enable_progress_bars()
        for logger, (propagate, handlers) in zip(loggers, before, strict=True):
            logger.propagate, logger.handlers = propagate, handlers


class Harness:
    """One model behind lm-eval, and the tasks it can be asked for."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        tasks: Sequence[str],
        folder: Path | None = None,
        batch_size: int = 64,
        max_new_tokens: int | None = None,
        run_code: bool = False,
    ) -> None:
        """Raises TaskError for names that are neither offline tasks, in ``folder``, nor known to lm-eval."""
        self.model, self.max_new_tokens, self.run_code = model, max_new_tokens, run_code
        self.manager = find(tasks, folder)
        with quiet() as said:
            self.lm = SparseLM(model, tokenizer=tokenizer, batch_size=batch_size)
        _tell("lm-eval", said)

    def load(self, name: str, shots: int | None = None) -> LoadedTask:
        """Read a task's examples; raises TaskError if they are not to be had or the task does not fit the model."""
        try:
            with quiet() as said:
                loaded = self.manager.load([name])
        except Exception as error:  # lm-eval and datasets raise whatever the network, the disk or a file gives them
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise TaskError(
                f"{name}: its examples cannot be read here ({type(error).__name__}: {reason}). Tasks of lm-eval are "
                "read from the model hub: connect once, or set HF_HOME to a copy of a cache that has them. These need "
                f"no hub: {', '.join(offline.names())}."
            ) from error
        _tell(name, said)
        for task in loaded["tasks"].values():
            task.set_config(key="num_fewshot", value=shots if shots is not None else task.config.num_fewshot or 0)
            task.set_fewshot_seed(seed=FEWSHOT_SEED)
            _check_shots(name, task)
            if task.config.output_type != "generate_until":
                continue
            if self.max_new_tokens is not None:
                task.set_config(key="generation_kwargs", value={"max_gen_toks": self.max_new_tokens}, update=True)
            tokens = (task.config.generation_kwargs or {}).get("max_gen_toks", DEFAULT_NEW_TOKENS)
            if not 0 < tokens < self.lm.max_length:
                raise TaskError(
                    f"{name}: may generate {tokens} tokens, and this model's context holds {self.lm.max_length}: give "
                    f"max_new_tokens, between 1 and {self.lm.max_length - 1} less the length of the questions."
                )
        return name, loaded

    def score(self, task: LoadedTask, rule: Rule | None, limit: int | None) -> Scored:
        """Run a task under a rule (None: dense): one row an example and metric, and the number of prompts cut.

        Only metrics that are a mean over examples are given; the mean is compared with lm-eval's own.
        """
        name, loaded = task
        self.lm.cut = 0
        options = {"limit": limit, "bootstrap_iters": 0, "confirm_run_unsafe_code": self.run_code}
        with quiet() as said, sparsify(self.model, rule) if rule is not None else contextlib.nullcontext():
            results = lm_eval.evaluate(lm=self.lm, task_dict=loaded, log_samples=True, **options)
        _tell(name, said)
        rows = []
        for part, samples in results["samples"].items():
            for metric, scores in _by_metric(samples).items():
                stated = results["results"][part].get(metric if "," in metric else f"{metric},none")
                if stated is not None and abs(stated - sum(scores.values()) / len(scores)) < 1e-9:
                    rows += [(name, metric, f"{part}/{example}", score) for example, score in scores.items()]
        if not rows:
            raise TaskError(f"{name}: none of its metrics is a mean over examples, so differences cannot be paired.")
        return rows, self.lm.cut


def _tell(name: str, said: Iterable[str]) -> None:
    """Warn of what lm-eval warned of while it was kept quiet."""
    for message in dict.fromkeys(said):
        if not IDLE_NOTE.search(message):
            warnings.warn(f"{name}: {message}", stacklevel=3)


def _check_shots(name: str, task: Any) -> None:
    """Raise TaskError if a task has too few examples for its shots; warn if a question can be a shot of its own."""
    number, config, source = task.config.num_fewshot, task.config, task.fewshot_cfg
    if not number or not hasattr(task, "sampler"):
        return
    # lm-eval leaves the question itself out only where the split is named and is the test split.
    apart = source.split is not None and source.split == config.test_split
    if number > (most := len(task.sampler.df) - apart):
        raise TaskError(f"{name}: {number} shots, but there are {most} examples to take them from; ask for fewer.")
    own = source.split or (None if source.samples else config.training_split or config.validation_split)
    scored = config.test_split or config.validation_split
    if not apart and not (source.samples and not source.split) and (own or config.test_split) == scored:
        warnings.warn(
            f"{name}: its {number} shots are taken from the examples it is scored on (split {scored!r}), so that a "
            "question can stand in its own prompt with its answer; name another fewshot_split, or that split itself.",
            stacklevel=4,
        )


def _by_metric(samples: Sequence[dict[str, Any]]) -> dict[str, dict[int, float]]:
    """Scores by metric and example; a filter's name stands after the metric's, as lm-eval writes it."""
    found: dict[str, dict[int, float]] = {}
    for sample in samples:
        for metric in sample["metrics"]:
            if isinstance(sample[metric], (bool, int, float)):
                name = metric if sample["filter"] == "none" else f"{metric},{sample['filter']}"
                found.setdefault(name, {})[sample["doc_id"]] = float(sample[metric])
    return found


def find(tasks: Sequence[str], folder: Path | None = None) -> TaskManager:
    """A manager that knows ``tasks``; lm-eval's own, which take seconds to scan, only if one of them is asked for.

    Raises TaskError, with the nearest names, for a task that neither ``folder`` nor lm-eval has.
    """
    places = [str(offline.build())] if set(tasks) & set(offline.MAKERS) else []
    if folder is not None:
        check_examples(folder)
        places.append(str(folder))
    manager = TaskManager(include_defaults=False, include_path=places)
    if set(tasks) <= set(manager.all_tasks):
        return manager
    manager = TaskManager(include_path=places)
    known = [*manager.all_tasks, *offline.MAKERS]
    for task in set(tasks) - set(known):
        near = ", ".join(difflib.get_close_matches(task, known, n=4))
        raise TaskError(f"unknown task {task!r}; {f'nearest names: {near}' if near else 'no name is like it'}.")
    return manager


def check_examples(folder: Path) -> None:
    """Raise TaskError, naming file and line, for a JSONL file that cannot be read, is empty or changes its fields."""
    for path in sorted(folder.glob("*.jsonl")):
        fields: set[str] | None = None
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            place = f"{path.name}, line {number}"
            try:
                example = json.loads(line)
            except ValueError as error:
                raise TaskError(f"{place}: not JSON ({error}); mend or remove the line.") from error
            if not isinstance(example, dict) or (fields is not None and set(example) != fields):
                raise TaskError(f"{place}: not an object with the fields of the first line ({fields}).")
            fields = set(example)
        if fields is None:
            raise TaskError(f"{path.name} holds no examples.")
