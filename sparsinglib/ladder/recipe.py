"""The ladder's runs as plain data: shapes, recipe and names. ``train`` reads it, ``data/ladder`` holds the results.

The paper's models (Section 3, Appendix I) at about a thousandth of their size: the same 11.5 · layers · d² parameters
outside the embedding, a constant head size, d_ff = 2.5 d and muP scalings with the base width scaled down from 256.
"""

import argparse
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

VOCABULARY = 2048
CONTEXT = 256
BASE_WIDTH = 16
HEAD_SIZE = 16
BETAS = (0.9, 0.95)
INITIAL_DEVIATION = 0.1
EMBEDDING_SCALE = 12.0
DEPTH_SCALE = 1.4
DECAY_SHARE = 0.1
GRADIENT_CLIP = 1.0
FIRST_POINT = 250_000  # tokens at the first checkpoint along a run; three more in each doubling
SPACING = 0.03  # share of the run between the other kept checkpoints
LAST = 5  # checkpoints that fix the shared CETT (Appendix E), the end and those SPACING apart before it


@dataclass(frozen=True)
class Run:
    """One training run."""

    name: str
    width: int  # hidden dimension d; the FFN has 2.5 d neurons a layer
    layers: int
    activation: str
    batch: int  # sequences of ``CONTEXT`` tokens in an optimizer step; grows with scale as in the paper's Table 3
    tokens: int  # target of the stable stage; it can be raised later, because nothing before it depends on it
    heads: int
    seed: int = 1  # of the initial weights and of the order of the data
    warmup_tokens: int = 300_000  # fixed for a run, so that its target can be raised
    learning_rate: float = 0.01
    weight_decay: float = 0.1
    snapshots: bool = False  # measured while it trains, as a run too long to keep its checkpoints is

    @property
    def neurons(self) -> int:
        """FFN neurons of a layer."""
        return self.width * 5 // 2

    @property
    def batch_tokens(self) -> int:
        """Tokens of an optimizer step."""
        return self.batch * CONTEXT

    @property
    def steps(self) -> int:
        """Optimizer steps of the stable stage."""
        return self.tokens // self.batch_tokens

    @property
    def non_embedding_parameters(self) -> int:
        """Weights of the layers' matrices, 11.5 · layers · d²: 4 d² of attention, 7.5 d² of the FFN; no norms."""
        return 23 * self.layers * self.width**2 // 2


@dataclass(frozen=True)
class MixtureRun(Run):
    """A training run in which a router gives each token some of the FFN's experts (Figure 12, Appendix B)."""

    experts: int = 16  # equal parts of the 2.5 d neurons: the FFN has as many parameters as an ordinary one
    active_experts: int = 4  # that a token is given in training, about a quarter
    # Weight of the loss that spreads tokens over experts, as it counts where they are even; the Switch Transformer's.
    router_loss: float = 0.01

    @property
    def expert_neurons(self) -> int:
        """Neurons of one expert."""
        return self.neurons // self.experts


def kept_steps(run: Run) -> list[int]:
    """Steps whose checkpoints are kept: log-spaced ones, which do not depend on the target, and evenly spaced ones."""
    spaced = (FIRST_POINT * 2 ** (i / 3) for i in range(100))
    log_spaced = {round(t / run.batch_tokens) for t in spaced if t < run.tokens}
    # Even spacing from the end backwards: a run cut off early still has five checkpoints near its end.
    even = {round(run.steps * (1 - SPACING * i)) for i in range(int(1 / SPACING))}
    return sorted({max(1, step) for step in log_spaced | even if step <= run.steps})


def measured_steps(steps: list[int]) -> list[int]:
    """Those of the kept steps that are measured: up to 24, three in each halving, and at 88, 91, 94, 97 and 100 %."""
    end = max(steps)
    last = {min(steps, key=lambda step: abs(step - end * (1 - SPACING * i))) for i in range(LAST)}
    log_spaced = {min(steps, key=lambda step: abs(step - end * 2 ** (-i / 3))) for i in range(24)}
    return sorted(last | log_spaced)


# scale: width, layers, sequences in a step, tokens
SCALES = {
    "0.1m": (48, 4, 4, 40_000_000),
    "0.2m": (64, 5, 7, 40_000_000),
    "0.4m": (80, 6, 10, 28_000_000),
    "0.8m": (96, 7, 14, 20_000_000),
    "1.2m": (112, 8, 19, 20_000_000),
}

# Tokens at which a run has read 119 a parameter, the paper's least: long enough to fix its limit.
LONG = {"1.2m-relu": 137_000_000, "0.8m-relu": 88_000_000}

# Nine shapes of about the 0.1M model's size, as the paper's Figures 5 and 6: width, layers, heads.
SHAPES = [(20, 23, 1), (24, 16, 1), (28, 12, 1), (32, 9, 2), (40, 6, 2), (48, 4, 3), (56, 3, 4), (68, 2, 2), (96, 1, 6)]
SHAPE_TOKENS = 12_000_000
SHAPE_NAMES = tuple(f"0.1m-relu-w{width}x{layers}" for width, layers, _ in SHAPES)
END_SEEDS = (2, 3, 4, 5)  # of the two widest shapes

# Figure 12's experts. 240 neurons are the fewest that 16, 30 and 60 divide, and with d_ff = 2.5 d they ask for d = 96.
EXPERTS = (16, 30, 60)
VANILLA = Run("moe-vanilla", 96, 3, "relu", 10, 6_000_000, 96 // HEAD_SIZE)


def _runs() -> dict[str, Run]:
    main = [
        Run(f"{scale}-{activation}", width, layers, activation, batch, tokens, width // HEAD_SIZE)
        for scale, (width, layers, batch, tokens) in SCALES.items()
        for activation in ("relu", "silu")
    ]
    long = [
        replace(run, name=f"{run.name}-long", tokens=LONG[run.name], snapshots=True) for run in main if run.name in LONG
    ]
    small = main[:2]
    seeds = [replace(run, name=f"{run.name}-seed{seed}", seed=seed) for run in small for seed in (2, 3)]
    shapes = [
        replace(small[0], name=name, width=width, layers=layers, heads=heads, tokens=SHAPE_TOKENS)
        for name, (width, layers, heads) in zip(SHAPE_NAMES, SHAPES, strict=True)
    ]
    # The two widest shapes again: whether loss rises beyond the best shape, in the error of seeds (claim C37).
    ends = [replace(shape, name=f"{shape.name}-seed{seed}", seed=seed) for shape in shapes[-2:] for seed in END_SEEDS]
    # What weight decay and learning rate do to the activation ratio at this scale.
    short = [replace(run, tokens=SHAPE_TOKENS) for run in small]
    settings = [replace(run, name=f"{run.name}-nodecay", weight_decay=0.0) for run in short]
    settings += [replace(run, name=f"{run.name}-lr3", learning_rate=0.003) for run in short]
    mixtures = [
        MixtureRun(**asdict(VANILLA) | {"name": f"moe-{n}", "experts": n, "active_experts": round(n / 4)})
        for n in EXPERTS
    ]
    return {run.name: run for run in [*main, *seeds, *shapes, *ends, *settings, VANILLA, *mixtures, *long]}


RUNS = _runs()


def record(folder: Path) -> dict[str, Any]:
    """What ``run.json`` says of the run that is shipped in ``folder``; empty if there is none."""
    path = folder / "run.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def chosen(names: list[str], parser: argparse.ArgumentParser) -> list[Run]:
    """The runs of these names; ends the program with the names there are, if one is unknown."""
    if unknown := [name for name in names if name not in RUNS]:
        parser.error(f"no run is called {', '.join(unknown)}; the runs: {', '.join(RUNS)}")
    return [RUNS[name] for name in names]
