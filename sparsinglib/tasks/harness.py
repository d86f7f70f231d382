"""One model behind lm-eval (EleutherAI's harness), and the tasks it can be asked for."""

import contextlib
import difflib
import io
import json
import logging
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import lm_eval
from lm_eval.tasks import TaskManager
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..core.hooks import sparsify
from ..core.rules import Rule
from . import offline
from .digests import LoadedTask
from .model import SparseLM, TaskError

Scored = tuple[list[tuple[str, str, str, float]], int]  # task, metric, example and score; prompts that were cut
DEFAULT_NEW_TOKENS = 256  # lm-eval's, where a task sets no limit
FEWSHOT_SEED = 1234  # lm-eval's own
# Notes that say nothing new: a loaded model is what is wanted, defaults are the usual ones, prompts that are cut are
# counted, and where shots come from is told where it matters.
IDLE_NOTE = re.compile("`pretrained`|using default|runcat|fewshot_split is None|using test_docs as fewshot_docs")


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
