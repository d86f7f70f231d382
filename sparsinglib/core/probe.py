"""Whether a model can be measured: one short pass over the first few tokens of a text."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from .ffn import FFN, UnsupportedModel
from .forward import Batch, TokenBatches, logits
from .hooks import hook_ffns

TOKENS = 8


def probe(model: PreTrainedModel, ffns: Sequence[FFN], corpus: TokenBatches) -> None:
    """Check on the first few tokens of a text that a model can be measured, in one short pass.

    Raises UnsupportedModel if the model needs more than token ids, if a token's scores depend on later ones, or an FFN
    is not called once with every token.
    """
    row = next(b.ids[i][b.seen[i]][:TOKENS] for b in corpus.batches for i in b.targets.any(dim=1).nonzero())
    other = row.clone()
    different = corpus.batches[0].ids.new_tensor([t for t in row.tolist() if t != int(row[-1])][:1])
    other[-1:] = different if len(different) else (row[-1:] + 1) % model.config.get_text_config(decoder=True).vocab_size
    both = torch.stack([row, other])
    everything = torch.ones_like(both, dtype=torch.bool)
    batch = Batch(both, everything, everything)
    scores, seen = _run(model, ffns, batch)
    for ffn in ffns:
        calls, tokens = len(seen[ffn.site]), sum(seen[ffn.site])
        if not calls:
            raise UnsupportedModel(
                f"{ffn.name}: its output projection was never called; this model computes it another way."
            )
        if (calls, tokens) != (1, both.numel()):
            raise UnsupportedModel(
                f"{ffn.name}: called {calls} times with {tokens} tokens in a pass over {both.numel()}: its neurons "
                "would not be counted once a token."
            )
    if len(scores) != int(batch.targets.sum()):
        raise UnsupportedModel(f"{type(model).__name__} gives no score for each token; load it as a ForCausalLM class.")
    one, two = scores.float().chunk(2)
    allowed = torch.finfo(scores.dtype).eps ** 0.5 * float(one.abs().max())
    if float((one - two).abs().max()) > allowed:
        again = _run(model, ffns, batch)[0].float().chunk(2)[0]
        raise UnsupportedModel(_why(model, random=float((one - again).abs().max()) > allowed))


def _run(model: PreTrainedModel, ffns: Sequence[FFN], batch: Batch) -> tuple[Tensor, dict[int, list[int]]]:
    """Scores of the batch, and by FFN the number of tokens in each of its calls."""
    seen: dict[int, list[int]] = {ffn.site: [] for ffn in ffns}

    def count(ffn: FFN, neurons: Tensor, gate: Tensor) -> None:
        seen[ffn.site].append(neurons.numel() // ffn.width)

    try:
        with hook_ffns(ffns, count):
            return logits(model, batch), seen
    except AttributeError as error:
        raise UnsupportedModel(
            f"{type(model).__name__} gives no logits ({error}): load it with its head (AutoModelForCausalLM) and leave "
            "config.return_dict on."
        ) from error
    except UnsupportedModel:
        raise
    except (TypeError, ValueError) as error:  # what a forward pass raises that misses something it needs
        raise UnsupportedModel(f"{type(model).__name__} cannot run on token ids alone: {error}") from error


def _why(model: PreTrainedModel, random: bool) -> str:
    """Why a token's scores differ in two rows that are alike up to it."""
    if random:
        training = ", ".join(name for name, part in model.named_modules() if part.training) or "one of its parts"
        return (
            f"{type(model).__name__} gives one row other scores each time: {training:.200} draws at random, as dropout "
            "does in training mode; call model.eval() first."
        )
    switch = next((name for name in ("is_decoder", "causal") if getattr(model.config, name, None) is False), "")
    hint = f" Load it as a decoder ({switch}=True), if it was trained as one." if switch else ""
    return (
        f"{type(model).__name__} is not causal on this text: changing a token changes the scores of earlier ones, so "
        f"that it sees what it is asked to predict.{hint}"
    )
