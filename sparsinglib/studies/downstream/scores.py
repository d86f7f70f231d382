"""The steps of the notebook on downstream tasks: models, rules at equal sparsity, scores, tables and checks."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ... import tasks
from ...core import arguments
from ...core.calibration import rules_at
from ...core.checkpoints import ladder_names, load
from ...core.layout import find_ffns
from ...core.measure import measure
from ...core.rules import Rule, StraightforwardReLU
from ...core.search import find_thresholds
from ...core.thresholds import Thresholds
from ...core.token_batches import token_batches
from ...files import LADDER
from ...ladder import batches
from ...ladder.recipe import SCALES, record
from ...paper import style
from ...paper.claims import Row
from ...suites import suite as suites
from ...tasks import offline as offline_tasks
from ...tasks.statistics import DENSE, above_chance, group_means, summarise
from ...texts import corpora
from . import claims
from . import tables as task_tables

MEASURED_TOKENS = 4096  # for the sparsity of each rule
WINDOW = 256  # tokens a model of somebody else's sees at once


@dataclass(frozen=True)
class TaskScores:
    """Scores of every example, and what follows from them; ``curves`` is the data of Figure 3."""

    models: list[str]
    scores: pd.DataFrame
    summary: pd.DataFrame
    chance: pd.DataFrame
    groups: pd.DataFrame
    curves: pd.DataFrame
    compared: pd.DataFrame


def validate_parameters(p_values: float | Sequence[float], examples: int, figure_3_examples: int, tokens: int) -> None:
    """Raise ValueError for parameters that cannot work, before anything is loaded."""
    _rises(p_values)
    if arguments.whole("figure_3_examples", figure_3_examples, 1) > arguments.whole("examples", examples, 1):
        raise ValueError(f"figure_3_examples must be from 1 to examples ({examples}), got {figure_3_examples}.")
    arguments.whole("tokens", tokens, MEASURED_TOKENS)


def _rises(p_values: float | Sequence[float]) -> list[float]:
    """Rises of perplexity in percent; one alone is a list of itself."""
    wanted = "a rise of perplexity in percent, between 0 and 100"
    rises = arguments.several("p_values", p_values, arguments.number, wanted=wanted, fits=lambda p: 0 < p < 100)
    if not rises:
        raise ValueError("p_values is empty: give at least one rise of perplexity in percent.")
    return rises


def choose(names: str | Sequence[str] = (), suite: str = "ladder") -> list[str]:
    """The models asked for, or of each activation the largest of a suite that is there."""
    if names:
        return arguments.several("models", names, arguments.text)
    there = suites.read(suite)  # small ones first
    fit = [[c.source for c in there.pick(activation=a) if c.revision is None] for a in style.ACTIVATIONS]
    if not any(fit):
        raise ValueError(f"suite {suite} has no ReLU and no SiLU model; name what to score in models.")
    return [sources[-1] for sources in fit if sources]


def _load(name: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase | None]:
    """The decayed checkpoint of a ladder run where there is one, as the paper scores models after that stage."""
    decayed = LADDER / name / "decayed"
    return load(decayed if (decayed / "config.json").is_file() else name)


def stages(names: Sequence[str]) -> str:
    """Say of each model which checkpoint is scored, and, with one of the ladder's, which runs are not trained yet."""
    lines = [f"{_label(name)}: {_stage(name)}" for name in names]
    if set(names) & set(there := ladder_names()):
        missing = [f"{s}-{a}" for s in SCALES for a in style.ACTIVATIONS if f"{s}-{a}" not in there]
        lines.append(f"not trained yet: {', '.join(missing) or 'none'}")
    return "\n".join(lines)


def _label(name: str) -> str:
    """What tables call a model: the last part of a hub id or a path."""
    return Path(name).name


def _stage(name: str) -> str:
    if not (said := record(LADDER / name)):
        return "as it is"
    if (LADDER / name / "decayed" / "config.json").is_file():
        return "after its decay stage, as the models the paper scores"
    place = "end" if said["finished"] else "middle"
    return f"{place} of the stable stage; the paper scores models after the decay stage"


def _batches(name: str, tokenizer: PreTrainedTokenizerBase | None, tokens: int) -> Sequence[Tensor]:
    """Held-out text to find thresholds on, in the shares of the ladder's training data."""
    if name in ladder_names():
        return batches.validation_batches(tokens)
    text = corpora.load("mixture", split="validation")
    return token_batches(text, tokenizer, WINDOW, 16, tokens)


def measure_tasks(
    names: Sequence[str], p_values: float | Sequence[float], examples: int, figure_3_examples: int, tokens: int
) -> TaskScores:
    """Score each model dense, at each p, and under the rivals of CETT at the same sparsity.

    ``examples`` of each task for the tables, the first ``figure_3_examples`` of them for Figure 3; ``tokens`` of
    held-out text to find thresholds on.
    """
    p_values = _rises(p_values)
    scores, sparsities, rivals = [], [], []
    grouped = offline_tasks.table()
    easy = grouped[grouped.group != task_tables.COMPLEX]
    simple = list(dict.fromkeys(easy.task))
    for name in names:
        model, tokenizer = _load(name)
        found, others = rules(model, _batches(name, tokenizer, tokens), p_values)
        scores.append(tasks.examples(model, tokenizer, None, found, examples, name=_label(name)))
        rivals.append(tasks.examples(model, tokenizer, simple, others, figure_3_examples, name=_label(name)))
        few = _batches(name, tokenizer, MEASURED_TOKENS)
        for label, rule in {**found, **others}.items():
            ratio = measure(model, few, rule, kl=False, cett=False, keep_tokens=False).activation_ratio
            sparsities.append((_label(name), label, task_tables.NAMES[type(rule)], 1 - ratio))
    scored = pd.concat(scores, ignore_index=True)
    summary = summarise(scored)
    chance = above_chance(summary, offline_tasks.floors())
    first = scored[scored.task.isin(simple) & (scored.example.str.rpartition("/")[2].astype(int) < figure_3_examples)]
    compared = pd.concat([first[first.rule != DENSE], *rivals], ignore_index=True)
    curves = group_means(compared, easy, chance)
    sparse = pd.DataFrame(sparsities, columns=["model", "rule", "family", "sparsity"])
    curves = curves[curves.model != "mean"].merge(sparse, on=["model", "rule"], how="left")
    curves = curves.assign(family=curves.family.fillna(DENSE), evidence=_evidence(names), n=figure_3_examples)
    compared = compared.merge(sparse, on=["model", "rule"], how="left")
    return TaskScores(list(names), scored, summary, chance, group_means(scored, grouped, chance), curves, compared)


def _evidence(names: Sequence[str]) -> str:
    """What a study of these models is: "ladder" only if all of them are the ladder's."""
    kinds = {suites.evidence(name) for name in names}
    return kinds.pop() if len(kinds) == 1 else "own"


def rules(
    model: PreTrainedModel, batches: Sequence[Tensor], p_values: Sequence[float]
) -> tuple[dict[str, Thresholds], dict[str, Rule]]:
    """Thresholds for each p, and the rules that Figure 3 sets beside them at the same share of neurons."""
    with warnings.catch_warnings():
        # The searches warn of text too short for p; the intervals of the scores are far wider than that.
        warnings.simplefilter("ignore", UserWarning)
        found = {tasks.rule_name(t): t for t in (find_thresholds(model, batches, p) for p in p_values)}
    others: dict[str, Rule] = {}
    for p, rule in zip(p_values, found.values(), strict=True):
        for family, rival in rules_at(model, batches[:1], rule.activation_ratio).items():
            others[f"{family} at the sparsity of p = {p:g}%"] = rival
    if all(ffn.zeroes_negatives for ffn in find_ffns(model)):
        others["zeros of ReLU"] = StraightforwardReLU()
    return found, others


def save_tables(s: TaskScores, save_as: str = "") -> dict[int, pd.DataFrame]:
    """Tables 1, 4, 5 and 6, the paper's rows and the ladder's, as CSV files beside the figures."""
    own = offline_tasks.table()[["task", "metric", "group"]]
    kind = _evidence(s.models)
    tables = {1: task_tables.table_1(s.groups, kind)}
    tables |= {number: task_tables.table_4_to_6(number, s.summary, own, kind) for number in (4, 5, 6)}
    for number, table in tables.items():
        style.save_table(table, f"table_0{number}{save_as and '_' + save_as}")
    return tables


def chance_table(s: TaskScores) -> pd.DataFrame:
    """What each task's chance is and whether the dense model beats it by two standard errors; printed values."""
    wide = s.chance.assign(
        dense=[f"{100 * r.value:.1f} ± {100 * r.standard_error:.1f}" for r in s.chance.itertuples()],
        chance=(100 * s.chance.chance).round(1),
        enters=s.chance.testable.map({True: "yes", False: "no"}),
    )
    return wide[["model", "task", "metric", "n", "chance", "dense", "enters"]]


def group_table(s: TaskScores) -> pd.DataFrame:
    """The ladder's Table 1: mean dense score, change at each p with its 90 % interval (points); printed values."""
    return task_tables.by_group(task_tables.scaled(s.groups), "tasks").fillna("–")


def verdicts(s: TaskScores) -> list[Row]:
    """The claims on tasks held against the printed tables and these models."""
    own = claims.own_verdicts(_evidence(s.models), s.groups, s.summary, s.scores, s.compared, s.chance)
    return sorted([*claims.paper_verdicts(), *own], key=lambda row: row.id)
