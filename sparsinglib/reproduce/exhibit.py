"""The gallery's exhibit: how many neurons each token of a text still needs when perplexity may rise by p %.

Everything a slider over p shows is measured beforehand and shipped as ``figures/exhibit.csv``; it is measured again
when a model or the text has changed.
"""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd

from ..core.cett import CettCurves
from ..core.checkpoints import ladder_names, load
from ..core.forward import token_batches
from ..core.measure import measure
from ..core.rules import CETT
from ..core.search import thresholds_for_cett
from ..files import DATA, FIGURES, LADDER, write_atomically
from ..paper import style
from ..texts import corpora

MODELS = ("0.4m-relu", "0.4m-silu")
SAMPLE = DATA / "texts" / "sample.txt"
INCREASES = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)  # percent of perplexity
CETTS = np.geomspace(0.04, 0.9, 10)  # where perplexity is measured before CETT is chosen for each p
TOKENS, LENGTH = 12_288, 256


def states(model: str) -> pd.DataFrame:
    """Measure one model: a row for each p and token of the sample text.

    Columns: model, p_pct (0: only what is exactly zero is left out), cett, activation_ratio (a fraction), ppl,
    ppl_increase_pct and its standard error increase_se_pct, all on a held-out text; position, piece (the token's text)
    and share (of neurons that the token needs, mean over layers).
    """
    network, tokenizer = load(model)
    if tokenizer is None:
        raise ValueError(f"{model} has no tokenizer, so no text can be shown.")
    text = token_batches(corpora.load("mixture", split="validation"), tokenizer, LENGTH, 16, TOKENS)
    sample = token_batches(SAMPLE.read_text(encoding="utf-8"), tokenizer, LENGTH, 1)[:1]
    pieces = style.token_pieces(tokenizer, sample[0][0].tolist())
    rows, dense_ppl = [], measure(network, text, CETT(0.0), kl=False, cett=False).dense_ppl
    for p, cett in zip((0.0, *INCREASES), (0.0, *_cetts(CettCurves(network, text))), strict=True):
        found = thresholds_for_cett(network, text, cett)
        needed = measure(network, sample, found, kl=False, cett=False, keep_tokens=True).by_position
        rows.append(
            {
                "model": model,
                "p_pct": p,
                "cett": cett,
                "activation_ratio": found.activation_ratio,
                "ppl": dense_ppl * found.ppl_ratio,
                "ppl_increase_pct": 100 * (found.ppl_ratio - 1),
                "increase_se_pct": 100 * (found.ppl_ratio_se or 0.0),
                "position": range(len(pieces)),
                "piece": pieces,
                "share": needed.activation_ratio.to_numpy(),
            }
        )
    return pd.concat([pd.DataFrame(row) for row in rows], ignore_index=True)


def _cetts(curves: CettCurves) -> np.ndarray:
    """CETT for each p of INCREASES, read off a monotone curve through measured points; the rise goes as CETT²."""
    curves.refine(CETTS)
    rise = np.maximum.accumulate([max(curves.evaluate(float(cett)).log_ratio, 0.0) for cett in CETTS])
    goals = np.log1p(np.array(INCREASES) / 100)
    return np.sqrt(np.interp(goals, np.append(0.0, rise), np.append(0.0, CETTS**2)))


def inputs() -> str:
    """Digest of the models, the text and the settings; "" if one of the models is not there."""
    if not set(MODELS) <= set(ladder_names()):
        return ""
    files = [SAMPLE, *(LADDER / model / "model.safetensors" for model in MODELS)]
    settings = repr((MODELS, INCREASES, CETTS.tolist(), TOKENS, LENGTH)).encode()
    return hashlib.sha256(settings + b"".join(hashlib.sha256(p.read_bytes()).digest() for p in files)).hexdigest()


def read(folder: Path = FIGURES) -> pd.DataFrame | None:
    """The exhibit's states (see ``states``), measured first if they are not there or out of date (a minute).

    None if a model is missing and nothing was measured before.
    """
    path, noted = folder / "exhibit.csv", folder / "exhibit.sha256"
    now = inputs()
    if now and not (path.is_file() and noted.is_file() and noted.read_text(encoding="utf-8").strip() == now):
        style.save_table(pd.concat([states(model) for model in MODELS], ignore_index=True), "exhibit", folder)
        write_atomically(noted, now)
    return pd.read_csv(path, keep_default_na=False, encoding="utf-8") if path.is_file() else None
