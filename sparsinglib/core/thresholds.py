"""The artefact of a search: one threshold per layer, how and on what it was found. A JSON file, and a rule to apply."""

import dataclasses
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as short
from typing import Any, ClassVar

from torch import Tensor

from ..files import write_atomically
from .ffn import FFN
from .rules import above_threshold

FORMAT = "sparsinglib thresholds 1"
NORM_TOLERANCE = 1e-3  # mean column norms: bf16 and float32 copies agree to 1e-5, other checkpoints of a run do not


@dataclass(frozen=True)
class Thresholds:
    """Thresholds on the length of a neuron's output vector, and the search that gave them (Sec 4.2, Appendix F).

    ``values[l]`` is the threshold of layer l: neurons of D = {i : ||n_i|| < value} are left out (Eq 3). Ratios are
    fractions; ``ppl_ratio`` is sparse over dense perplexity, measured with these thresholds on the text given to the
    search, ``ppl_ratio_se`` its standard error (None: too little text to tell). Intervals are 90 %.
    """

    values: tuple[float, ...]
    cett: float
    ppl_ratio: float
    ppl_ratio_se: float | None
    activation_ratio: float
    kl: float | None = None
    ppl_increase_pct: float | None = None
    criterion: str | None = None
    target_met: bool = True
    monotone: bool = True
    cett_interval: tuple[float, float] | None = None
    activation_interval: tuple[float, float] | None = None
    tokens: int = 0
    tokens_needed: int | None = None
    sparse_passes: int = 0
    dense_passes: int = 0
    points: tuple[tuple[float, float], ...] = ()
    held_out: dict[str, float | int | None] | None = None
    layers: tuple[int, ...] = ()
    column_norms: tuple[float, ...] = ()
    provenance: dict[str, str | None] = dataclasses.field(default_factory=dict)

    uses_gate: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not self.values or not all(isinstance(v, float) and math.isfinite(v) and v >= 0 for v in self.values):
            raise ValueError("Thresholds: values must be finite numbers ≥ 0, one for each layer.")
        for name in ("layers", "column_norms"):
            if len(getattr(self, name)) not in (0, len(self.values)):
                raise ValueError(f"Thresholds: {len(self.values)} values, but {len(getattr(self, name))} {name}.")

    def __hash__(self) -> int:
        return hash(self.values)

    def check(self, ffns: Sequence[FFN]) -> None:
        """Raise ValueError, naming the difference, if the thresholds were found on another model."""
        found_on = self.provenance.get("model") or "another model"
        if len(ffns) != len(self.values):
            raise ValueError(
                f"These thresholds are for {len(self.values)} layers ({found_on}); this model has {len(ffns)}."
            )
        for ffn, d_ff, norm in zip(ffns, self.layers, self.column_norms, strict=False):
            if ffn.d_ff != d_ff:
                raise ValueError(
                    f"These thresholds ({found_on}) are for {d_ff} neurons in {ffn.name}; this model has {ffn.d_ff}."
                )
            here = float(ffn.column_norms.mean())
            if not math.isclose(here, norm, rel_tol=NORM_TOLERANCE):
                raise ValueError(
                    f"These thresholds were found on {found_on}, whose output columns in layer {ffn.layer} have mean "
                    f"length {norm:.6g}; here it is {here:.6g}. Find thresholds for this model with find_thresholds."
                )

    def active(self, ffn: FFN, neurons: Tensor, gate: Tensor, valid: Tensor | None = None) -> Tensor:
        """Mark the neurons whose output vector is at least as long as the layer's threshold."""
        return above_threshold(ffn, neurons, self.values[ffn.layer])

    def as_env(self) -> str:
        """Give the thresholds as the comma-separated line that the authors' evaluation reads, at full precision."""
        return ",".join(repr(value) for value in self.values)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a JSON file, whole or not at all."""
        document = {"format": FORMAT, **dataclasses.asdict(self)}
        write_atomically(Path(path), json.dumps(document, indent=1, allow_nan=False))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Thresholds":
        """Read a file written by ``save``; raises ValueError, naming file and cause, for anything else."""
        try:
            document = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise ValueError(f"{path}: not a readable thresholds file ({error}).") from error
        if not isinstance(document, dict) or document.pop("format", None) != FORMAT:
            raise ValueError(f"{path}: not a thresholds file of this version (expected format {FORMAT!r}).")
        names = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(document) - names):
            raise ValueError(f"{path}: unknown entries {unknown}.")
        try:
            return cls(**{name: _checked(name, value) for name, value in document.items()})
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: {error}") from error


def _checked(name: str, value: Any) -> Any:
    """Give an entry of the file its type back; lists become tuples. Raises ValueError if it cannot be that entry."""
    numbers = {"cett", "ppl_ratio", "ppl_ratio_se", "activation_ratio", "kl", "ppl_increase_pct"}
    optional = {"ppl_ratio_se", "kl", "ppl_increase_pct", "criterion", "tokens_needed", "held_out"}
    if value is None and (name in optional or name.endswith("_interval")):
        return None
    items = {"values": _number, "column_norms": _number, "layers": _whole}
    if name in items:
        return tuple(items[name](name, item) for item in _listed(name, value))
    if name.endswith("_interval"):
        low, high = _listed(name, value)
        return _number(name, low), _number(name, high)
    if name == "points":
        return tuple((_number(name, x), _number(name, y)) for x, y in _listed(name, value))
    if name in numbers:
        return _number(name, value)
    kinds = {"target_met": bool, "monotone": bool, "held_out": dict, "provenance": dict, "criterion": str}
    if name in kinds and not isinstance(value, kinds[name]):
        raise ValueError(f"{name} is {short(value)}, which is not {kinds[name].__name__}.")
    return value if name in kinds else _whole(name, value)


def _listed(name: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError(f"{name} must be a list, got {type(value).__name__}.")
    return value


def _whole(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{name} holds {short(value)}, which is not a whole number.")
    return value


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{name} holds {short(value)}, which is not a finite number.")
    return float(value)
