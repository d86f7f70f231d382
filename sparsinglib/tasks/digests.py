"""By what a score is kept: everything it depends on, by content."""

import hashlib
import itertools
from importlib.metadata import version
from pathlib import Path
from typing import Any

import joblib
import torch
from torch.nn.modules.module import _global_forward_hooks, _global_forward_pre_hooks
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..core.rules import Rule
from ..core.thresholds import Thresholds
from ..files import code_digest, content_digest, known_code

LoadedTask = tuple[str, dict[str, Any]]  # the name asked for; what lm-eval made of it


def rule_key(rule: Rule | None) -> Any:
    """What a rule does to a model: where its thresholds were found makes no difference."""
    return ("Thresholds", rule.values) if isinstance(rule, Thresholds) else rule


def model_digest(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> str | None:
    """SHA-256 of what a score depends on besides rule and task: weights, configuration, tokens, code and versions.

    None where it depends on what has no digest: a hook (a rule of an open ``sparsify`` is one), a forward or a class
    that is not transformers' or torch's, packed weights, or weights that are not in memory.
    """
    state = {**model.state_dict(), **dict(model.named_buffers(remove_duplicate=False))}
    tensors = all(isinstance(tensor, torch.Tensor) and not tensor.is_meta for tensor in state.values())
    anywhere = _global_forward_hooks or _global_forward_pre_hooks
    if not tensors or anywhere or not all(map(_as_written, [*model.modules(), tokenizer])):
        return None
    # Each module's class and sizes: another activation function changes neither configuration nor weights.
    settings = model.config.to_json_string(), str(model), getattr(model, "generation_config", None)
    digest = hashlib.sha256("\n".join(map(str, settings)).encode())
    for key, tensor in sorted(state.items()):
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    # What a text becomes, not only which tokens there are: tokenizers of one vocabulary split and mark differently.
    backend = getattr(tokenizer, "backend_tokenizer", None)
    said = backend.to_str() if backend is not None else sorted(tokenizer.get_vocab().items())
    more = tokenizer.special_tokens_map, tokenizer.model_max_length, tokenizer.chat_template
    digest.update(joblib.hash((said, more)).encode())
    digest.update((code_digest(f"{__package__}.scoring") + version("lm-eval")).encode())
    return digest.hexdigest()


def _as_written(part: Any) -> bool:
    """Whether a module or tokenizer does what its class in torch or transformers says, with no hook on it."""
    held, kind = vars(part), type(part)
    if held.get("_forward_hooks") or held.get("_forward_pre_hooks"):
        return False
    # accelerate moves weights to where they are used, by a forward around the one that was there before.
    forward = held.get("_old_forward" if "_hf_hook" in held else "forward")
    by_class = getattr(kind, "forward", None)
    own = forward is not None and getattr(forward, "__func__", None) is not by_class
    return not own and all(known_code(code.__module__) for code in (kind, by_class) if code is not None)


def task_digest(loaded: LoadedTask, folder: Path | None, limit: int | None) -> str:
    """Hash of what a task asks: its settings and examples, and the files of ``folder``, whose code it may use."""
    parts = [
        (name, str(task.dump_config()), [dict(doc) for doc in itertools.islice(task.eval_docs, limit)])
        for name, task in loaded[1]["tasks"].items()
    ]
    return joblib.hash(parts) + (content_digest(folder) if folder else "")
