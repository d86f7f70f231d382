"""The page's exhibit: how many neurons each token of a text still needs when perplexity may rise by p %."""

import os

import pandas as pd

from ..core.forward import token_batches
from ..core.measure import measure
from ..core.search import thresholds_for_cett
from ..files import DATA
from ..paper import style
from ..suites import suite as suites
from ..suites import survey
from ..suites.suite import Checkpoint

MODELS = ("0.4m-relu", "0.4m-silu")
SAMPLE = DATA / "texts" / "sample.txt"
INCREASES = (
    0.0,
    0.5,
    1.0,
    2.0,
    5.0,
    10.0,
    20.0,
    50.0,
    100.0,
)  # percent of perplexity; 0: only zeros left out
LENGTH, TOKENS = 256, 12_288  # of the held-out text that thresholds are found on


def states(checkpoint: Checkpoint) -> pd.DataFrame:
    """Measure one model: a row for each p and token of the sample text.

    Columns: model, p_pct, cett, activation_ratio (a fraction), ppl_increase_pct and its standard error
    increase_se_pct, all on a held-out text; position, piece (the token's text) and share (of neurons that the token
    needs, mean over layers).
    """
    model, tokenizer = survey.loaded(checkpoint)
    sample = token_batches(SAMPLE.read_text(encoding="utf-8"), tokenizer, LENGTH, 1)[:1]
    pieces = style.token_pieces(tokenizer, sample[0][0].tolist())
    rows = []
    for p in INCREASES:
        if p:
            found = survey.thresholds(checkpoint, survey.PPLIncrease(p), LENGTH, TOKENS)
        else:
            found = thresholds_for_cett(model, survey.batches(survey.Text("mixture", TOKENS, LENGTH), tokenizer), 0.0)
        state = {
            "model": checkpoint.name,
            "p_pct": p,
            "cett": found.cett,
            "activation_ratio": found.activation_ratio,
            "ppl_increase_pct": 100 * (found.ppl_ratio - 1),
            "increase_se_pct": 100 * (found.ppl_ratio_se or 0.0),
        }
        needed = measure(model, sample, found, kl=False, keep_tokens=True).by_position.activation_ratio
        of_tokens = {"position": range(len(pieces)), "piece": pieces, "share": needed.to_numpy()}
        rows.append(pd.DataFrame(state | of_tokens))
    return pd.concat(rows, ignore_index=True)


def read() -> pd.DataFrame | None:
    """The states of both models, measured (a minute or two) or from disk; None if a model is missing."""
    chosen = [c for c in suites.read("ladder").checkpoints if c.name in MODELS]
    if len(chosen) < len(MODELS):
        return None
    return pd.concat(survey.run(states, chosen, min(len(MODELS), os.cpu_count() or 1)), ignore_index=True)
