"""One text recoloured live: a slider over CETT, and beside it what the text needs and what it costs.

Everything is measured when the cell is run; the slider then only turns pages, in the browser alone, so that it also
works in an exported HTML page. Where no slider can be shown, the same states make a picture.
"""

import html
import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import pandas as pd

from ...core import arguments
from ...core.measure import measure
from ...core.search import thresholds_for_cett
from ...core.thresholds import Thresholds
from ...core.token_batches import token_batches
from ...files import SAMPLE
from ...paper import style
from ...suites import survey
from ...suites.suite import Checkpoint, Suite
from ...texts.pieces import token_pieces
from . import figures

if TYPE_CHECKING:
    from ipywidgets import Widget

STEPS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
DRAWN = (0.05, 0.2, 0.5)
FITTED_ON = 2048  # tokens of the mixture on which each step's thresholds are found
MOST_TOKENS = 320


def validate_parameters(suite: Suite, checkpoint: str, text: str, mode: str) -> None:
    """Raise ValueError for a checkpoint the suite has not, a text of white space or an unknown mode."""
    if checkpoint:
        arguments.one_of("checkpoint", checkpoint, [c.name for c in suite.checkpoints])
    if text and not text.strip():
        raise ValueError("the text is empty: write some words, or leave it at '' for the shipped sample.")
    live(mode)


def live(mode: str) -> bool:
    """Whether to show a slider: as ``mode`` says, or, for "auto", where a Jupyter server has opened the notebook.

    papermill, nbval and nbconvert start the kernel by themselves; only a server names the notebook's session. Raises
    ValueError for an unknown mode.
    """
    arguments.one_of("mode", mode, ("auto", "slider", "picture"))
    return mode == "slider" or (mode == "auto" and bool(os.environ.get("JPY_SESSION_NAME")))


def states(suite: Suite, checkpoint: str = "", text: str = "", steps: Sequence[float] = STEPS) -> pd.DataFrame:
    """``recoloured`` at each CETT of ``steps``, with thresholds found on the mixture, not on the text itself.

    ``checkpoint`` "" takes the suite's first; ``text`` "" the shipped sample. At most 320 tokens of the text are read.
    Raises ValueError as ``validate_parameters`` does.
    """
    validate_parameters(suite, checkpoint, text, "auto")
    chosen = next(c for c in suite.checkpoints if checkpoint in ("", c.name))
    model, tokenizer = survey.loaded(chosen)
    fit = survey.batches(survey.Text("mixture", FITTED_ON, suite.sequence_length), tokenizer)
    found = (thresholds_for_cett(model, fit, cett) for cett in steps)
    return recoloured(chosen, found, min(suite.sequence_length, MOST_TOKENS), text)


def recoloured(checkpoint: Checkpoint, found: Iterable[Thresholds], length: int, text: str = "") -> pd.DataFrame:
    """The first ``length`` tokens of a text ("": the shipped sample) under thresholds: one row a state and token.

    Columns: model, cett; on the text itself activation_ratio, dense_ppl, sparse_ppl, ppl_increase_pct; where the
    thresholds were found mixture_ratio, mixture_increase_pct and its standard error increase_se_pct: one short text
    says little about perplexity, and may even get easier. Of the token position, piece (how it is shown) and share (of
    neurons that it needs, mean over layers).
    """
    model, tokenizer = survey.loaded(checkpoint)
    sample = token_batches(text or SAMPLE.read_text(encoding="utf-8"), tokenizer, length, 1, length)[:1]
    pieces, frames = token_pieces(tokenizer, sample[0][0].tolist()), []
    for rule in found:
        m = measure(model, sample, rule, kl=False, cett=False, keep_tokens=True)
        state = {"model": checkpoint.name, "cett": rule.cett, "activation_ratio": m.activation_ratio}
        state |= {"dense_ppl": m.dense_ppl, "sparse_ppl": m.sparse_ppl, "ppl_increase_pct": 100 * (m.ppl_ratio - 1)}
        state |= {"mixture_ratio": rule.activation_ratio, "mixture_increase_pct": 100 * (rule.ppl_ratio - 1)}
        state |= {"increase_se_pct": 100 * (rule.ppl_ratio_se or 0.0), "share": m.by_position.activation_ratio}
        frames.append(pd.DataFrame(state | {"position": range(len(pieces)), "piece": pieces}))
    return pd.concat(frames, ignore_index=True)


def table(found: pd.DataFrame) -> pd.DataFrame:
    """One row a state of ``recoloured``: what holds for all tokens of the text."""
    columns = ["cett", "activation_ratio", "dense_ppl", "sparse_ppl", "ppl_increase_pct", "mixture_increase_pct"]
    return found.drop_duplicates("cett")[columns].reset_index(drop=True)


def page(found: pd.DataFrame, cett: float) -> str:
    """The text at one step as HTML: each token on a ground coloured by the share of neurons it needed."""
    tokens = found[found.cett == cett]
    first = tokens.iloc[0]
    # Without CETT 0, at which ReLU keeps every nonzero neuron: the steps of interest would all look dark.
    most = float((found[found.cett > 0] if found.cett.any() else found).share.max())
    head = (
        f"<b>{html.escape(style.name(first.model))}, CETT {cett:.2f}</b>: "
        f"{100 * first.activation_ratio:.1f} % of neurons active; perplexity of this text "
        f"{first.dense_ppl:.2f} → {first.sparse_ppl:.2f} ({first.ppl_increase_pct:+z.1f} %), "
        f"of the mixture {first.mixture_increase_pct:+z.1f} %"
    )
    ends = f"dark: none of its neurons; yellow: {100 * most:.0f} % of them or more (hold the mouse over a token)"
    text = style.text_html(tokens.piece, tokens.share, most)
    return f'<div style="max-width:72em">{head}<div style="color:gray">{ends}</div>{text}</div>'


def slider(found: pd.DataFrame) -> "Widget":
    """A slider over the steps with the page of each: linked in the browser, so no kernel is needed to move it."""
    import ipywidgets

    steps = found.cett.unique()
    names, start = [f"{cett:.2f}" for cett in steps], int(abs(steps - 0.1).argmin())
    handle = ipywidgets.SelectionSlider(options=names, index=start, description="CETT", continuous_update=True)
    pages = ipywidgets.Stack([ipywidgets.HTML(page(found, cett)) for cett in steps], selected_index=start)
    ipywidgets.jslink((handle, "index"), (pages, "selected_index"))
    return ipywidgets.VBox([handle, pages])


def picture(found: pd.DataFrame) -> style.Picture:
    """The same as a static figure: the text at three of the steps."""
    steps = found.cett.unique()
    shown = found[found.cett.isin(steps[[abs(steps - near).argmin() for near in DRAWN]])]
    shown = shown.assign(rule=shown.cett.map("CETT {:.2f}".format))
    titles = {
        r.rule: f"{r.rule}: {100 * r.activation_ratio:.1f} % active, perplexity of the mixture "
        f"{r.mixture_increase_pct:+z.1f} %"
        for r in shown.drop_duplicates("rule").itertuples()
    }
    tokens = shown.drop(columns="activation_ratio").rename(columns={"piece": "token", "share": "activation_ratio"})
    return figures.coloured_text(tokens, style.name(found.model.iloc[0]), titles)


def show(found: pd.DataFrame, mode: str = "auto") -> "Widget | style.Picture":
    """The slider where it can be moved, else the picture. Raises ValueError for an unknown ``mode``."""
    return slider(found) if live(mode) else picture(found)
