"""Figure 12: perplexity against activation ratio, of mixtures of experts by active experts and of ReLU by CETT.

The models are the ladder's four ``moe-…`` runs (Appendix B): FFNs with as many parameters in all, the same tokens.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from transformers import PreTrainedModel

from ...core import forward
from ...core.cett import CettCurves
from ...core.forward import Batches, TokenBatches
from ...core.measure import Measurement
from ...files import LADDER
from ...ladder import recipe
from ...ladder.model import open_model

VANILLA = recipe.VANILLA.name
MIXTURES = tuple(f"moe-{n}" for n in recipe.EXPERTS)
SHARES = (1 / 16, 1 / 8, 3 / 16, 1 / 4, 3 / 8, 1 / 2, 3 / 4, 1.0)  # of a mixture's experts that are active
CETTS_WITHIN = (0.05, 0.1, 0.2, 0.35)  # of the neurons of a mixture's chosen experts
CETT_ALIKE = 0.1  # at which the two are compared in words
CETTS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.55, 0.7, 0.85)
AXIS_END = 0.30  # the paper's axis ends at an activation ratio of 30 %


@dataclass(frozen=True, eq=False)
class Curve:
    """Loss of one model on one text at several activation ratios.

    ``varied`` is CETT for an ordinary model and the number of active experts for a mixture; ``blocks`` holds, for each
    of its values, summed loss and number of targets in each block of the text, (settings, blocks, 2).
    """

    name: str
    varied: list[float]
    activation_ratio: np.ndarray
    blocks: Tensor
    trained_at: float | None = None

    @cached_property
    def perplexity(self) -> np.ndarray:
        """Perplexity at each setting, (settings,)."""
        return np.array([np.exp(forward.mean_and_error(b)[0]) for b in self.blocks])

    def at(self, ratio: float) -> Tensor | None:
        """Blocks at an activation ratio, linear between the two settings around it; None outside the settings."""
        order = np.argsort(self.activation_ratio)
        place = np.interp(ratio, self.activation_ratio[order], np.arange(len(order)), left=np.nan, right=np.nan)
        if np.isnan(place):
            return None
        left = min(int(place), len(order) - 2)
        return torch.lerp(self.blocks[order[left]], self.blocks[order[left + 1]], float(place - left))

    @property
    def table(self) -> pd.DataFrame:
        """One row a setting: series, cett or active_experts, activation_ratio, perplexity, trained_here."""
        varied, none = (pd.array(values, dtype="Float64") for values in (self.varied, [None] * len(self.varied)))
        cett, experts = (varied, none) if self.trained_at is None else (none, varied)
        columns = {"series": self.name, "cett": cett, "active_experts": experts.astype("Int64")}
        columns |= {"activation_ratio": self.activation_ratio, "perplexity": self.perplexity}
        return pd.DataFrame(columns | {"trained_here": np.array(self.varied) == self.trained_at})


def routers(model: PreTrainedModel) -> list[Any]:
    """The routers of a mixture (``num_experts``, ``top_k``), first layer first. ValueError for a model without one."""
    found = [m for m in model.modules() if isinstance(getattr(m, "top_k", None), int) and hasattr(m, "num_experts")]
    if not found:
        raise ValueError(
            f"{type(model).__name__} has no router with num_experts and top_k: it is no mixture of experts of a known "
            "layout; vary its activation ratio by CETT (cett_curve)."
        )
    return found


@contextmanager
def active_experts(model: PreTrainedModel, count: int) -> Iterator[None]:
    """Give each token ``count`` experts in every layer; the model is left as it was.

    The router's softmax runs over the experts it chose, so that their weights add up to one for any count. Raises
    ValueError for a count that is not between 1 and the number of experts, or a model without routers.
    """
    found = routers(model)
    most = min(router.num_experts for router in found)
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= most:
        raise ValueError(f"active experts must be a whole number from 1 to {most}, the model's experts; got {count!r}.")
    before = [router.top_k for router in found]
    try:
        for router in found:
            router.top_k = count
        yield
    finally:
        for router, value in zip(found, before, strict=True):
            router.top_k = value


def mixture_curve(name: str, model: PreTrainedModel, batches: Batches, counts: Sequence[int] | None = None) -> Curve:
    """Loss of a mixture by active experts; its activation ratio is the share of FFN parameters used, count / experts.

    Routers are left out of the ratio (see ``sizes``). ``counts`` defaults to ``SHARES`` of the experts. Raises
    ValueError for a count that does not fit, before anything is computed, or a text that cannot be measured.
    """
    experts = min(router.num_experts for router in routers(model))
    counts = sorted({max(1, int(experts * s + 0.5)) for s in SHARES}) if counts is None else list(counts)
    for count in counts:
        with active_experts(model, count):
            pass
    corpus = TokenBatches(model, batches)
    blocks = []
    for count in counts:
        with active_experts(model, count):
            found = (forward.losses(forward.logits(model, batch), batch) for batch in corpus)
            losses = [forward.require_finite(loss, "loss") for loss in found]
        blocks.append(torch.cat(list(map(forward.block_sums, losses, corpus))))
    ratio = np.array(counts) / experts
    return Curve(name, [float(c) for c in counts], ratio, torch.stack(blocks), float(routers(model)[0].top_k))


def cett_curve(name: str, model: PreTrainedModel, batches: Batches, cetts: Sequence[float] = CETTS) -> Curve:
    """Loss of a model by CETT (Section 4.1), each CETT met to a few percent; ratio of the sparse run.

    Of a mixture with as many active experts as in training: CETT chooses among the neurons of the experts chosen.
    """
    curves = CettCurves(model, forward.as_list(batches))
    curves.refine(cetts)
    dense = torch.cat(list(map(forward.block_sums, curves.dense_losses, curves.corpus)))
    points = [curves.evaluate(cett) for cett in cetts]
    rises = torch.stack([point.blocks[:, 0] for point in points])
    blocks = torch.stack([dense[:, 0] + rises, dense[:, 1].expand_as(rises)], dim=2)
    return Curve(name, list(cetts), np.array([point.activation_ratio for point in points]), blocks)


def trained() -> list[str]:
    """Names of the figure's four runs, the vanilla one first. Raises ValueError that names those to be trained."""
    names = [VANILLA, *MIXTURES]
    if absent := [name for name in names if not recipe.record(LADDER / name).get("finished")]:
        said = " ".join(absent)
        raise ValueError(f"not trained to the end: {said}. Run python -m sparsinglib.ladder.train {said}")
    return names


def sizes(names: Sequence[str]) -> pd.DataFrame:
    """One row a run: experts, how many are active in training, their neurons, FFN and router parameters, tokens."""
    rows = []
    for name in names:
        facts, model = recipe.record(LADDER / name), open_model(name)
        sizes = pd.Series({part: weights.numel() for part, weights in model.named_parameters()})
        ffn, router = (sizes[sizes.index.str.contains(part)].sum() for part in (r"mlp\.|experts\.", "router"))
        experts, active = facts.get("experts", 1), facts.get("active_experts", 1)
        rows.append((name, experts, active, facts["neurons"] // experts, ffn, router, facts["tokens"]))
    counts = ["experts", "active in training", "neurons of an expert", "FFN parameters", "router parameters", "tokens"]
    return pd.DataFrame(rows, columns=["run", *counts])


def curves(names: Sequence[str], batches: Batches) -> dict[str, Curve]:
    """Curves of the runs named, by CETT for the vanilla one and by active experts for the mixtures."""
    batches = forward.as_list(batches)
    make = {name: cett_curve if name == VANILLA else mixture_curve for name in names}
    return {name: make[name](name, open_model(name), batches) for name in names}


def chosen_neurons(found: Mapping[str, Curve], batches: Batches) -> dict[str, Curve]:
    """``curves`` of the mixtures by CETT instead: they leave out neurons of their chosen experts too."""
    batches = forward.as_list(batches)
    new = {n: cett_curve(n, open_model(n), batches, CETTS_WITHIN) for n in found if n in MIXTURES}
    return {**found, **new}


def at_target(measured: Mapping[str, Measurement]) -> pd.DataFrame:
    """One row a model measured with thresholds: active shares (fractions), perplexity with and without the weak.

    ``of the chosen experts'`` is the active share of the neurons that the router left a choice of, mean over layers.
    """
    rows = []
    for name, result in measured.items():
        routed = result.by_layer.get("routed_ratio", result.by_layer.activation_ratio)
        rows.append((name, result.activation_ratio, routed.mean(), result.dense_ppl, result.sparse_ppl))
    columns = ["run", "active of all neurons", "of the chosen experts'", "dense perplexity", "sparse perplexity"]
    return pd.DataFrame(rows, columns=columns)


def table(*found: Mapping[str, Curve]) -> pd.DataFrame:
    """The points of Figure 12: evidence, series, cett, active_experts, activation_ratio, perplexity, trained_here."""
    rows = pd.concat([curve.table for curves in found for curve in curves.values()]).drop_duplicates(ignore_index=True)
    return rows.assign(evidence="ladder")[["evidence", *rows]]


def show(frame: pd.DataFrame) -> str:
    """A table as text: ratios with three digits, perplexities and percentages with one."""
    digits = {"activation_ratio": 3, "perplexity": 1, "gap_pct": 1, "low_pct": 1, "high_pct": 1}
    digits |= {"active of all neurons": 3, "of the chosen experts'": 3, "dense perplexity": 2, "sparse perplexity": 2}
    return frame.round(digits).replace(-0.0, 0.0).to_string(index=False, na_rep="–")


def gaps(found: Mapping[str, Curve]) -> pd.DataFrame:
    """How much higher a mixture's perplexity is than the vanilla model's at equal activation ratio, in percent.

    One row a mixture's setting that the vanilla curve covers: series, active_experts (or cett, where CETT chooses among
    the chosen experts' neurons), activation_ratio, gap_pct, low_pct, high_pct (90 %, paired by blocks of text; the
    spread between seeds is not in it: there is one run of each), trained_here.
    """
    mixtures = {name: curve for name, curve in found.items() if name != VANILLA}
    by_cett = any(curve.trained_at is None for curve in mixtures.values())
    varied = "cett" if by_cett else "active_experts"
    columns = ["series", varied, "activation_ratio", "gap_pct", "low_pct", "high_pct", "trained_here"]
    rows = []
    for name, curve in mixtures.items():
        for setting, ratio, blocks in zip(curve.varied, curve.activation_ratio, curve.blocks, strict=True):
            if (plain := found[VANILLA].at(ratio)) is not None:
                mean, error = forward.mean_and_error(torch.column_stack([blocks[:, 0] - plain[:, 0], plain[:, 1]]))
                half = np.nan if error is None else forward.Z90 * error
                percent = 100 * np.expm1([mean, mean - half, mean + half])
                here = setting == curve.trained_at
                rows.append((name, setting if by_cett else int(setting), ratio, *percent, here))
    return pd.DataFrame(rows, columns=columns)
