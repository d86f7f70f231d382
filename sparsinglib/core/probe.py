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
    seen: dict[int, list[int]] = {ffn.site: [] for ffn in ffns}

    def count(ffn: FFN, neurons: Tensor, gate: Tensor) -> None:
        seen[ffn.site].append(neurons.numel() // ffn.width)

    everything = torch.ones_like(both, dtype=torch.bool)
    batch = Batch(both, everything, everything)
    try:
        with hook_ffns(ffns, count):
            scores = logits(model, batch)
    except AttributeError as error:
        raise UnsupportedModel(
            f"{type(model).__name__} gives no logits ({error}): load it with its head (AutoModelForCausalLM) and leave "
            "config.return_dict on."
        ) from error
    except (TypeError, ValueError) as error:  # what a forward pass raises that misses something it needs
        if isinstance(error, UnsupportedModel):
            raise
        raise UnsupportedModel(f"{type(model).__name__} cannot run on token ids alone: {error}") from error
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
    if float((one - two).abs().max()) > torch.finfo(scores.dtype).eps ** 0.5 * float(one.abs().max()):
        switch = next((name for name in ("is_decoder", "causal") if getattr(model.config, name, None) is False), "")
        raise UnsupportedModel(
            f"{type(model).__name__} is not causal on this text: changing a token changes the scores of earlier ones, "
            "so that it sees what it is asked to predict."
            + (f" Load it as a decoder ({switch}=True), if it was trained as one." if switch else "")
        )
