"""What a caller gives to the tasks: taken as what it is meant to be, or refused before any model is run."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..core import arguments
from ..core.ffn import FFN
from ..core.layout import find_ffns
from ..core.rules import Rule
from ..core.thresholds import Thresholds, as_rule
from ..files import cache_dir
from . import offline
from .model import TaskError
from .statistics import DENSE

Rules = Rule | str | os.PathLike[str] | Iterable[Rule | str | os.PathLike[str]] | Mapping[str, Rule] | None


def model_and_tokenizer(model: PreTrainedModel, tokenizer: Any) -> tuple[Sequence[FFN], PreTrainedTokenizerBase]:
    """The model's FFNs and the tokenizer, or a ValueError that says why they cannot be scored."""
    ffns = find_ffns(model)
    if model.training:
        raise ValueError("The model is in training mode, where dropout makes every score another: call model.eval().")
    if tokenizer is None:
        raise ValueError("tasks are text: this checkpoint has no tokenizer; load one that fits.")
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise ValueError(f"tokenizer must be one, as load gives it; got {type(tokenizer).__name__}.")
    return ffns, tokenizer


def shots_of(shots: Any, chosen: Sequence[str]) -> dict[str, int]:
    """Shots by task, of tasks that are among the ``chosen``."""
    if shots is not None and not isinstance(shots, Mapping):
        raise ValueError(f"shots must give a number by task, as {{{chosen[0]!r}: 5}}; got {shots!r:.100}.")
    wanted = {task: arguments.whole(f"shots of {task}", number, 0) for task, number in (shots or {}).items()}
    if strange := sorted(set(wanted) - set(chosen)):
        raise ValueError(f"shots are given for {', '.join(strange)}, not among the tasks: {', '.join(chosen)}.")
    return wanted


def places(folder: Any, cache: Any) -> tuple[Path | None, Path]:
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


def task_names(tasks: str | Iterable[str] | None) -> list[str]:
    """Names of tasks, each once; one string may hold several, as on lm-eval's command line."""
    names = tasks.split(",") if isinstance(tasks, str) else list(tasks) if isinstance(tasks, Iterable) else tasks
    if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise ValueError(f"tasks must be names of tasks, got {tasks!r:.100}.")
    if names is not None and not any(map(str.strip, names)):
        raise ValueError(f"tasks is empty ({tasks!r:.100}): name some, or leave it out for all offline tasks.")
    return list(dict.fromkeys(map(str.strip, names or offline.names())))


def rules_by_name(thresholds: Rules) -> dict[str, Rule]:
    """Rules by the names that tables give them, each once; {} for none."""
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
