"""The only code that touches lm-eval: tasks found and loaded, a model run on them under a rule, scores read off."""

import contextlib
import difflib
import io
import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import lm_eval
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..core.hooks import sparsify
from ..core.rules import Rule
from . import offline as offline_tasks

LoadedTask = tuple[str, dict[str, Any]]  # the name asked for; what lm-eval made of it (a group has many tasks)
DEFAULT_NEW_TOKENS = 256  # lm-eval's, where a task sets no limit
FEWSHOT_SEED = 1234  # lm-eval's own


class TaskError(ValueError):
    """A task that is unknown, has no data here, or cannot be run with this model; says what to do."""


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep lm-eval's and datasets' bars and notes off the screen: the caller has one bar for all of it."""
    loggers = [logging.getLogger(name) for name in ("lm_eval", "lm-eval", "datasets")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


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
        with quiet():
            self.lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)

    def load(self, name: str, shots: int | None = None) -> LoadedTask:
        """Read a task's examples; raises TaskError if they are not to be had or the task does not fit the model."""
        try:
            with quiet():
                loaded = self.manager.load([name])
        except Exception as error:  # lm-eval and datasets raise whatever the network, the disk or a file gives them
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise TaskError(
                f"{name}: its examples cannot be read here ({type(error).__name__}: {reason}). Tasks of lm-eval are "
                "read from the model hub: connect once, or set HF_HOME to a copy of a cache that has them. These need "
                f"no hub: {', '.join(offline_tasks.names())}."
            ) from error
        for task in loaded["tasks"].values():
            task.set_config(key="num_fewshot", value=shots if shots is not None else task.config.num_fewshot or 0)
            task.set_fewshot_seed(seed=FEWSHOT_SEED)
            if task.config.output_type == "generate_until":
                self._limit_generation(name, task)
        return name, loaded

    def _limit_generation(self, name: str, task: Any) -> None:
        if self.max_new_tokens is not None:
            limit = {"max_gen_toks": self.max_new_tokens}
            task.set_config(key="generation_kwargs", value=limit, update=True)
        tokens = (task.config.generation_kwargs or {}).get("max_gen_toks", DEFAULT_NEW_TOKENS)
        if not 0 < tokens < self.lm.max_length:
            raise TaskError(
                f"{name}: may generate {tokens} tokens, and this model's context holds {self.lm.max_length}: give "
                f"max_new_tokens, between 1 and {self.lm.max_length - 1} less the length of the questions."
            )

    def score(self, task: LoadedTask, rule: Rule | None, limit: int | None) -> list[tuple[str, str, str, float]]:
        """Run a task under a rule (None: dense): task, metric, example and score, one row an example and metric.

        Only metrics that are a mean over examples are given; the mean is compared with lm-eval's own.
        """
        name, loaded = task
        with quiet(), sparsify(self.model, rule) if rule is not None else contextlib.nullcontext():
            results = lm_eval.evaluate(
                lm=self.lm,
                task_dict=loaded,
                limit=limit,
                bootstrap_iters=0,
                log_samples=True,
                confirm_run_unsafe_code=self.run_code,
            )
        rows = []
        for part, samples in results["samples"].items():
            for metric, scores in _by_metric(samples).items():
                stated = results["results"][part].get(metric if "," in metric else f"{metric},none")
                if stated is not None and abs(stated - sum(scores.values()) / len(scores)) < 1e-9:
                    rows += [(name, metric, f"{part}/{example}", score) for example, score in scores.items()]
        if not rows:
            raise TaskError(f"{name}: none of its metrics is a mean over examples, so differences cannot be paired.")
        return rows


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
    places = [offline_tasks.build()] if set(tasks) & set(offline_tasks.MAKERS) else []
    if folder is not None:
        check_examples(folder)
        places.append(folder)
    manager = TaskManager(include_defaults=False, include_path=[str(place) for place in places])
    if set(tasks) <= set(manager.all_tasks):
        return manager
    manager = TaskManager(include_path=[str(place) for place in places])
    known = [*manager.all_tasks, *offline_tasks.MAKERS]
    for task in tasks:
        if task not in known:
            near = difflib.get_close_matches(task, known, n=4)
            raise TaskError(
                f"unknown task {task!r}; " + (f"nearest names: {', '.join(near)}." if near else "no name is like it.")
            )
    return manager


def check_examples(folder: Path) -> None:
    """Raise TaskError, naming file and line, for a JSONL file that cannot be read, is empty or changes its fields."""
    for path in sorted(Path(folder).glob("*.jsonl")):
        fields: set[str] | None = None
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            try:
                example = json.loads(line)
            except ValueError as error:
                raise TaskError(f"{path.name}, line {number}: not JSON ({error}); mend or remove the line.") from error
            if not isinstance(example, dict) or (fields is not None and set(example) != fields):
                raise TaskError(
                    f"{path.name}, line {number}: not an object with the fields of the first line ({fields})."
                )
            fields = set(example)
        if fields is None:
            raise TaskError(f"{path.name} holds no examples.")


datasets.disable_progress_bars()
