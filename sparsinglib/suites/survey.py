"""Measure a suite: independent tasks, each done once and kept on disk by content, in one process or on many machines.

A task is one checkpoint under one rule on one part of one text. ``measure`` runs the tasks through joblib: one after
another, on ``jobs`` processes, or on the dask cluster whose scheduler ``SPARSINGLIB_DASK`` names.
"""

import os
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import joblib
import pandas as pd
import torch
from filelock import Timeout
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.hub import cached_file, extract_commit_hash

from ..core import arguments
from ..core.checkpoints import load, locate
from ..core.measure import Measurement
from ..core.measure import measure as measure_model
from ..core.rules import CETT, Rule
from ..core.search import find_thresholds
from ..core.thresholds import Thresholds, as_rule
from ..core.token_batches import token_batches
from ..files import cached, code_digest, content_digest
from ..texts import corpora
from .suite import Checkpoint, Suite

DASK = "SPARSINGLIB_DASK"
BATCH_TOKENS = 4096  # of a batch: short windows go many at a time, long ones few
CHARACTERS_A_TOKEN = 12  # more than any of the texts has; only to tokenise no more than is measured
WAIT: ContextVar[float] = ContextVar("WAIT", default=-1)  # seconds for a result that another process is making


@dataclass(frozen=True)
class PPLIncrease:
    """Stands for a rule: the thresholds at which perplexity on ``corpus`` rises by ``pct`` % (CETT-PPL-p %)."""

    pct: float
    corpus: str = "mixture"


@dataclass(frozen=True)
class Text:
    """Which part of which corpus: windows ``part`` of ``parts`` among the first ``tokens`` tokens."""

    corpus: str
    tokens: int
    length: int
    part: int = 0
    parts: int = 1


R = TypeVar("R")  # a rule, or what stands for one and is known to the task's function


@dataclass(frozen=True)
class Task(Generic[R]):
    """One measurement: a checkpoint under a rule on a text."""

    checkpoint: Checkpoint
    rule: R
    text: Text


class Key(NamedTuple):
    """What a measurement is of: checkpoint, rule and corpus by name."""

    checkpoint: str
    rule: str
    corpus: str


def measure(
    suite: Suite,
    rules: Mapping[str, Rule | CETT | PPLIncrease | str | os.PathLike[str]],
    *,
    checkpoints: Iterable[Checkpoint] | None = None,
    tokens: int | None = None,
    jobs: int = 1,
) -> dict[Key, Measurement]:
    """Measure checkpoints of a suite under each rule on each corpus; what was measured before is read from disk.

    ``rules``: by name, a rise of perplexity or what ``sparsinglib.measure`` takes. ``checkpoints`` and ``tokens`` (2 or
    more) default to the suite's. Raises ValueError for what is no rule or number, and what loading and measuring raise;
    tasks done until then are kept.
    """
    if not isinstance(suite, Suite) or not isinstance(rules, Mapping):
        raise ValueError("measure takes a suite, as suites.read(name) gives it, and a dict of rules by name.")
    chosen = list(suite.checkpoints if checkpoints is None else checkpoints)
    if other := [c for c in chosen if not isinstance(c, Checkpoint)]:
        raise ValueError(f"checkpoints are those of a suite, as suite.pick() gives them; got {other[0]!r:.100}.")
    tokens = suite.tokens if tokens is None else arguments.whole("tokens", tokens, 2)
    rules = {name: rule if isinstance(rule, (PPLIncrease, CETT)) else as_rule(rule) for name, rule in rules.items()}
    tasks = {
        Key(c.name, name, corpus): Task(c, rule, Text(corpus, tokens, suite.sequence_length))
        for c in chosen
        for corpus in suite.corpora
        for name, rule in rules.items()
    }
    return dict(zip(tasks, run(measured, list(tasks.values()), jobs), strict=True))


def table(measurements: Mapping[Key, Measurement]) -> pd.DataFrame:
    """Tidy: checkpoint, rule, corpus, activation_ratio, dense_ppl, sparse_ppl, ppl_ratio and kl with _se, tokens."""
    names = ("activation_ratio", "dense_ppl", "sparse_ppl", "ppl_ratio", "ppl_ratio_se", "kl", "kl_se", "tokens")
    return pd.DataFrame([{**key._asdict(), **{n: getattr(m, n) for n in names}} for key, m in measurements.items()])


def run(function: Callable[[Any], Any], tasks: Sequence[Any], jobs: int = 1) -> list[Any]:
    """Results of ``function`` for each task, in order: here, on ``jobs`` processes (-1: all cores), or on dask.

    Processes that walk the same tasks share them. Raises ValueError if no scheduler answers at the address in
    ``SPARSINGLIB_DASK``, and what ``function`` raises.
    """
    address, jobs = os.environ.get(DASK), jobs if jobs == -1 else arguments.whole("jobs", jobs, 1)
    if not address and jobs == 1:
        return _shared(function, tasks)
    delayed = [joblib.delayed(function)(task) for task in tasks]
    if not address:
        with joblib.parallel_config(backend="loky", inner_max_num_threads=1):
            return list(joblib.Parallel(n_jobs=jobs)(delayed))
    from distributed import Client

    try:
        client = Client(address, timeout="10s", set_as_default=True)
    except (OSError, ValueError) as error:
        raise ValueError(f"{DASK}={address}: no dask scheduler answers there ({error}).") from error
    with client, joblib.parallel_config(backend="dask"):
        # No batches of tasks: each can be repeated by itself if its worker dies.
        return list(joblib.Parallel(batch_size=1)(delayed))


def _shared(function: Callable[[Any], Any], tasks: Sequence[Any]) -> list[Any]:
    """Results of the tasks, in order; a task that another process is at work on is come back to after the others."""
    done: dict[int, Any] = {}
    waits = WAIT.set(0)
    try:
        while len(done) < len(tasks):
            before = len(done)
            for i in [i for i in range(len(tasks)) if i not in done]:
                with suppress(Timeout):
                    done[i] = function(tasks[i])
            if len(done) == before:
                time.sleep(0.2)
    finally:
        WAIT.reset(waits)
    return [done[i] for i in range(len(tasks))]


def measured(task: Task[Rule | PPLIncrease]) -> Measurement:
    """The measurement of a task, from disk if it was made before."""
    return once(_measure, task)


def thresholds(checkpoint: Checkpoint, rule: PPLIncrease, length: int, tokens: int) -> Thresholds:
    """Thresholds of a checkpoint for a rise in perplexity (Sec 4.2), from disk if they were found before.

    ``length`` and ``tokens``: window and size of the text, in tokens. Raises what loading and searching raise.
    """
    return once(_search, Task(checkpoint, rule, Text(rule.corpus, tokens, length)))


def once(function: Callable[[Task[R]], Any], task: Task[R]) -> Any:
    """Call a function of a task once for its content: checkpoint, text, rule, code and versions.

    Processes that need the same result at the same time wait for the one that makes it. Use only for results that
    depend on nothing else.
    """
    name = f"{function.__module__}.{function.__qualname__}"
    code = code_digest(__name__), code_digest(function.__module__)
    key = name, code, _checkpoint_digest(task.checkpoint), _text_digests(task), task
    return cached(corpora.cache_dir() / "survey", key, lambda: function(task), WAIT.get())


def _measure(task: Task[Rule | PPLIncrease]) -> Measurement:
    model, tokenizer = loaded(task.checkpoint)
    rule = task.rule
    if isinstance(rule, PPLIncrease):
        rule = thresholds(task.checkpoint, rule, task.text.length, task.text.tokens)
    return measure_model(model, batches(task.text, tokenizer), rule, kl=False)


def _search(task: Task[PPLIncrease]) -> Thresholds:
    model, tokenizer = loaded(task.checkpoint)
    with warnings.catch_warnings():
        # The result says it itself (target_met, monotone, tokens_needed), and tables show its standard error.
        warnings.filterwarnings("ignore", message=".*(cannot resolve|not monotone|was not raised|search ended at).*")
        return find_thresholds(model, batches(task.text, tokenizer), task.rule.pct)


def loaded(checkpoint: Checkpoint) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model and tokenizer of a checkpoint; the last one stays in memory while its files are what they were.

    The tokenizer's ``model_max_length`` is at most the model's context. Raises ValueError without a tokenizer.
    """
    return _loaded(checkpoint, _checkpoint_digest(checkpoint))


@lru_cache(maxsize=1)
def _loaded(checkpoint: Checkpoint, _: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    model, tokenizer = load(checkpoint.source, revision=checkpoint.revision)
    if tokenizer is None:
        raise ValueError(
            f"{checkpoint.name}: has no tokenizer, so no text can be given to it; put its files beside it."
        )
    tokenizer.model_max_length = length_of(model, tokenizer.model_max_length)
    return model, tokenizer


def length_of(model: PreTrainedModel, window: int) -> int:
    """Tokens of a window: at most the model's context, if it states one."""
    context = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    return min(window, context or window)


loaded.cache_clear = _loaded.cache_clear  # type: ignore[attr-defined]  # gives the model's memory back


def batches(text: Text, tokenizer: PreTrainedTokenizerBase) -> list[torch.LongTensor]:
    """Windows of a held-out text, or of the part of it that a task is about; none longer than the model's context.

    Batches of token ids, rows × length. Raises ValueError for a text too short for its parts, with the remedy.
    """
    characters = corpora.load(text.corpus, "validation")[: text.tokens * CHARACTERS_A_TOKEN]
    length = min(text.length, tokenizer.model_max_length)
    size = max(1, BATCH_TOKENS // length)
    found = token_batches(characters, tokenizer, length, size, text.tokens)
    if text.part >= len(found):
        raise ValueError(
            f"{text.corpus}: {sum(b.numel() for b in found):,} tokens, of the {text.tokens:,} asked for, make "
            f"{len(found)} batches of up to {size} windows of {length}, too few for {text.parts} parts: give a longer "
            "text, or lower tokens or parts."
        )
    return found[text.part :: text.parts]


def _text_digests(task: Task[Any]) -> list[str]:
    names = {task.text.corpus, getattr(task.rule, "corpus", task.text.corpus)}
    known = corpora.SHA256 | {"mixture": joblib.hash(({n: corpora.SHA256[n] for n in corpora.SHARES}, corpora.PIECES))}
    return [known.get(name) or content_digest(Path(name).expanduser()) for name in sorted(names)]


def _checkpoint_digest(checkpoint: Checkpoint) -> str:
    """Hash of a checkpoint's files; for one on the hub its commit, which a branch's name may leave for another."""
    where, options = locate(checkpoint.source)
    path = Path(where)
    if path.is_dir():
        return content_digest(*([path / options["gguf_file"]] if options else filter(Path.is_file, path.iterdir())))
    return f"{checkpoint.source} {hub_commit(where, checkpoint.revision)}"


def hub_commit(name: str, revision: str | None = None) -> str | None:
    """The commit that a branch of a model on the hub has now; the branch's name where that is not to be had."""
    with suppress(OSError):  # what is not to be had is said by loading it
        return extract_commit_hash(cached_file(name, "config.json", revision=revision), None)
    return revision
