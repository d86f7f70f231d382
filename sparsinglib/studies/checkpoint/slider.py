"""One text recoloured live: a slider over CETT, and beside it what the text needs and what it costs.

Everything is measured when the cell is run; the slider then only turns pages, in the browser alone, so that it also
works in an exported HTML page. Where no slider can be shown, the same states make a picture.
"""

import html
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from transformers import PreTrainedTokenizerBase

from ...core.measure import Measurement, measure
from ...core.search import thresholds_for_cett
from ...core.token_batches import token_batches
from ...files import SAMPLE
from ...paper import style
from ...suites import survey
from ...suites.suite import Suite
from ...texts.pieces import token_pieces
from . import figures

if TYPE_CHECKING:
    from ipywidgets import Widget

STEPS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
DRAWN = (0.05, 0.2, 0.5)
MODES = ("auto", "slider", "picture")
FITTED_ON = 2048  # tokens of the mixture on which each step's thresholds are found
MOST_TOKENS = 320


@dataclass(frozen=True, eq=False)
class States:
    """One text measured at each CETT of the slider.

    Attributes:
        checkpoint: its name.
        tokenizer: the checkpoint's.
        pieces: the tokens as readable text.
        at: measurement of the text at each CETT.
        mixture_rise: rise of the mixture's perplexity at each CETT, in percent.
    """

    checkpoint: str
    tokenizer: PreTrainedTokenizerBase
    pieces: list[str]
    at: dict[float, Measurement]
    mixture_rise: dict[float, float]

    @property
    def need(self) -> dict[float, np.ndarray]:
        """Share of neurons that each token needed at each CETT, mean over layers."""
        return {cett: np.asarray(m.token_activation, dtype=float).mean(axis=0) for cett, m in self.at.items()}


def validate_parameters(suite: Suite, checkpoint: str, text: str, mode: str, steps: Sequence[float] = STEPS) -> None:
    """Raise ValueError for a checkpoint the suite has not, a text of white space, an unknown mode or a bad step."""
    names = [c.name for c in suite.checkpoints]
    if checkpoint and checkpoint not in names:
        raise ValueError(f"checkpoint {checkpoint!r} is not in the suite {suite.name}; there are: {', '.join(names)}.")
    if text and not text.strip():
        raise ValueError("the text is empty: write some words, or leave it at '' for the shipped sample.")
    live(mode)
    if not steps or sorted(set(steps)) != list(steps) or not 0 <= steps[0] <= steps[-1] < 1:
        raise ValueError(f"steps must be CETT values in [0, 1), rising; got {list(steps)}.")


def live(mode: str) -> bool:
    """Whether to show a slider: as ``mode`` says, or, for "auto", where a Jupyter server has opened the notebook.

    papermill, nbval and nbconvert start the kernel by themselves; only a server names the notebook's session. Raises
    ValueError for an unknown mode.
    """
    if mode not in MODES:
        raise ValueError(f"mode must be one of {', '.join(MODES)}; got {mode!r}.")
    return mode == "slider" or (mode == "auto" and bool(os.environ.get("JPY_SESSION_NAME")))


def states(suite: Suite, checkpoint: str = "", text: str = "", steps: Sequence[float] = STEPS) -> States:
    """Measure one text at each CETT of ``steps``, with thresholds found on the mixture, not on the text itself.

    ``checkpoint`` "" takes the suite's first; ``text`` "" the shipped sample. At most 320 tokens of the text are read.
    Raises ValueError as ``validate_parameters`` does.
    """
    validate_parameters(suite, checkpoint, text, "auto", steps)
    chosen = next(c for c in suite.checkpoints if checkpoint in ("", c.name))
    model, tokenizer = survey.loaded(chosen)
    length = min(suite.sequence_length, MOST_TOKENS)
    sample = token_batches(text or SAMPLE.read_text(encoding="utf-8"), tokenizer, length, 1, length)[:1]
    fit = survey.batches(survey.Text("mixture", FITTED_ON, suite.sequence_length), tokenizer)
    found = {cett: thresholds_for_cett(model, fit, cett) for cett in steps}
    at = {cett: measure(model, sample, rule, kl=False, cett=False, keep_tokens=True) for cett, rule in found.items()}
    rise = {cett: 100 * (rule.ppl_ratio - 1) for cett, rule in found.items()}
    return States(chosen.name, tokenizer, token_pieces(tokenizer, sample[0][0].tolist()), at, rise)


def table(found: States) -> pd.DataFrame:
    """One row a step: cett, then on the text itself activation_ratio, dense_ppl, sparse_ppl, ppl_increase_pct.

    ``mixture_increase_pct`` is the rise on the longer text that the thresholds were found on: one short text says
    little about perplexity, and may even get easier.
    """
    columns = ["cett", "activation_ratio", "dense_ppl", "sparse_ppl", "ppl_increase_pct", "mixture_increase_pct"]
    rows = [
        (cett, m.activation_ratio, m.dense_ppl, m.sparse_ppl, 100 * (m.ppl_ratio - 1), found.mixture_rise[cett])
        for cett, m in found.at.items()
    ]
    return pd.DataFrame(rows, columns=columns)


def page(found: States, cett: float) -> str:
    """The text at one step as HTML: each token on a ground coloured by the share of neurons it needed."""
    result, need = found.at[cett], found.need
    # Without CETT 0, at which ReLU keeps every nonzero neuron: the steps of interest would all look dark.
    most = max(float(shares.max()) for step, shares in need.items() if step > 0 or len(need) == 1)
    head = (
        f"<b>{html.escape(style.name(found.checkpoint))}, CETT {cett:.2f}</b>: "
        f"{100 * result.activation_ratio:.1f} % of neurons active; perplexity of this text "
        f"{result.dense_ppl:.2f} → {result.sparse_ppl:.2f} ({100 * (result.ppl_ratio - 1):+.1f} %), "
        f"of the mixture {found.mixture_rise[cett]:+.1f} %"
    )
    ends = f"dark: none of its neurons; yellow: {100 * most:.0f} % of them or more (hold the mouse over a token)"
    text = style.text_html(found.pieces, need[cett], most)
    return f'<div style="max-width:72em">{head}<div style="color:gray">{ends}</div>{text}</div>'


def slider(found: States) -> "Widget":
    """A slider over the steps with the page of each: linked in the browser, so no kernel is needed to move it."""
    import ipywidgets

    names = [f"{cett:.2f}" for cett in found.at]
    start = list(found.at).index(_nearest(found, 0.1))
    handle = ipywidgets.SelectionSlider(options=names, index=start, description="CETT", continuous_update=True)
    pages = ipywidgets.Stack([ipywidgets.HTML(page(found, cett)) for cett in found.at], selected_index=start)
    ipywidgets.jslink((handle, "index"), (pages, "selected_index"))
    return ipywidgets.VBox([handle, pages])


def _nearest(found: States, to: float) -> float:
    return min(found.at, key=lambda cett: abs(cett - to))


def picture(found: States) -> style.Picture:
    """The same as a static figure: the text at three of the steps."""
    at, titles = {}, {}
    for cett in dict.fromkeys(_nearest(found, step) for step in DRAWN):
        name, rise = f"CETT {cett:.2f}", f"perplexity of the mixture {found.mixture_rise[cett]:+.1f} %"
        at[name] = found.at[cett]
        titles[name] = f"{name}: {100 * at[name].activation_ratio:.1f} % active, {rise}"
    return figures.coloured_text(figures.token_table(at, found.tokenizer), style.name(found.checkpoint), titles)


def show(found: States, mode: str = "auto") -> "Widget | style.Picture":
    """The slider where it can be moved, else the picture. Raises ValueError for an unknown ``mode``."""
    return slider(found) if live(mode) else picture(found)
