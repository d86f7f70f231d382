"""The strategies of the authors' script by name: ``relu``, ``topk``, ``fat``, ``cett``, ``pplp``, and an argument."""

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from ...core.cett import Batches
from ...core.rules import CETT, FAT, Rule, StraightforwardReLU, TopK
from ...core.search import find_thresholds, thresholds_for_cett

STRATEGIES = ("relu", "topk", "fat", "cett", "pplp")


def check_strategy(strategy: str, argument: float) -> None:
    """Raise ValueError for an unknown strategy or an argument out of range, before anything is loaded."""
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy must be one of {', '.join(STRATEGIES)}, got {strategy!r}.")
    if strategy == "pplp" and not 1 < float(argument) < 2:
        raise ValueError(
            f"strategy pplp takes the allowed perplexity ratio, 1.01 for one percent (between 1 and 2), got {argument}."
        )
    checks: dict[str, Callable[[float], object]] = {"topk": TopK, "fat": FAT, "cett": CETT}
    if strategy in checks:
        checks[strategy](argument)


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
    1.01 (pplp); relu ignores it. Raises ValueError as ``check_strategy`` and the searches do.
    """
    check_strategy(strategy, argument)
    if strategy == "pplp":
        increase = 100 * (float(argument) - 1)
        return find_thresholds(model, batches, increase, held_out=held_out, tokenizer=tokenizer)
    if strategy == "cett":
        return thresholds_for_cett(model, batches, argument, tokenizer=tokenizer)
    if strategy == "relu":
        return StraightforwardReLU()
    return TopK(argument) if strategy == "topk" else FAT(argument)


def halves(batches: Sequence[Tensor], least: int = 64) -> tuple[list[Tensor], list[Tensor] | None]:
    """Cut a text into a part to find thresholds on and a part to judge them on, (rows × length) batches both.

    A text of fewer than two windows of ``least`` tokens is not cut: the second part is then None.
    """
    rows = [row for batch in batches for row in batch]
    if len(rows) == 1:
        rows = list(rows[0].split(max(least, -(-len(rows[0]) // 2))))
    if len(rows) < 2 or sum(map(len, rows)) < 2 * least:
        return list(batches), None
    cut = len(rows) // 2
    size = max(len(batch) for batch in batches)
    return _stacked(rows[:cut], size), _stacked(rows[cut:], size)


def _stacked(rows: list[Tensor], size: int) -> list[Tensor]:
    """Batches of at most ``size`` rows, each of rows of one length."""
    groups = [list(group) for _, group in itertools.groupby(rows, key=len)]
    return [torch.stack(group[i : i + size]) for group in groups for i in range(0, len(group), size)]
