"""A model under a rule as lm-eval runs it: for its command line and its Python functions."""

import os
from contextlib import ExitStack
from typing import Any

import torch
from lm_eval.api.registry import register_model
from lm_eval.models.huggingface import HFLM
from torch import Tensor
from transformers import PreTrainedModel

from ..core.checkpoints import load
from ..core.hooks import sparsify
from ..core.rules import Rule


class TaskError(ValueError):
    """A task that is unknown, has no data here, or cannot be run with this model; says what to do."""


@register_model("sparsinglib")
class SparseLM(HFLM):
    """lm-eval's own wrapper around a model with its weak neurons left out, which counts the prompts that it cuts.

    ``pretrained`` is what ``sparsinglib.load`` takes, or a loaded model; ``thresholds`` a rule or the path of a
    thresholds file, None for the dense model. The rule holds for as long as this object is in use; ``close`` ends it.
    The other arguments are lm-eval's. Raises ValueError if the rule does not fit the model.
    """

    def __init__(
        self,
        pretrained: str | PreTrainedModel,
        thresholds: Rule | str | os.PathLike[str] | None = None,
        *,
        tokenizer: Any = None,
        dtype: Any = "auto",
        revision: str | None = None,
        device: str | None = None,
        **options: Any,
    ) -> None:
        model: Any = pretrained
        if isinstance(pretrained, (str, os.PathLike)):
            # Its command line says "cuda:0" where nobody chose: lm-eval then takes what there is, as ``load`` does.
            place = None if str(device).startswith("cuda") and not torch.cuda.is_available() else device
            model, found = load(
                pretrained, dtype=dtype, revision=None if revision == "main" else revision, device_map=place
            )
            tokenizer = tokenizer if tokenizer is not None else found
        super().__init__(pretrained=model, tokenizer=tokenizer, **options)
        self.cut = 0  # prompts whose start was left out, since the context cannot hold them
        self._in_use = ExitStack()
        if thresholds is not None:
            self._in_use.enter_context(sparsify(model, thresholds))

    def close(self) -> None:
        """Leave the model as it was."""
        self._in_use.close()

    def _loglikelihood_tokens(self, requests: Any, *args: Any, **options: Any) -> Any:
        longest: list[int] = max((after for _, _, after in requests), key=len, default=[])
        if len(longest) > self.max_length:
            raise TaskError(
                f"a target of {len(longest)} tokens ({self.tok_decode(longest[:12])!r}…) is longer than the model's "
                f"context of {self.max_length}: shorten it, leave its task out, or take a model with a longer context."
            )
        # The last token is only predicted, never read.
        self.cut += sum(len(before) + len(after) > self.max_length + 1 for _, before, after in requests)
        return super()._loglikelihood_tokens(requests, *args, **options)

    def tok_batch_encode(
        self,
        strings: list[str],
        padding_side: str = "left",
        left_truncate_len: int | None = None,
        truncation: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """As lm-eval's, which cuts prompts at their start to leave room for what is to be generated."""
        ids, mask = super().tok_batch_encode(strings, padding_side, None, truncation)
        if left_truncate_len:
            self.cut += int((mask.sum(dim=1) > left_truncate_len).sum())
            ids, mask = ids[:, -left_truncate_len:], mask[:, -left_truncate_len:]
        return ids, mask
