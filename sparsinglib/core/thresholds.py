"""The artefact of a search: one threshold per layer, how and on what it was found. A JSON file, and a rule to apply."""

import dataclasses
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from reprlib import repr as short
from types import NoneType, UnionType
from typing import Any, ClassVar, get_args, get_origin, get_type_hints

from torch import Tensor

from ..files import write_atomically
from . import arguments
from .ffn import FFN
from .rules import CETT, Rule, above_threshold

FORMAT = "sparsinglib thresholds 1"
NORM_TOLERANCE = 1e-3  # mean column norms: bf16 and float32 copies agree to 1e-5, other checkpoints of a run do not


@dataclass(frozen=True)
class Thresholds:
    """Thresholds on the length of a neuron's output vector, and the search that gave them (Sec 4.2, Appendix F).

    ``values[l]`` is the threshold of layer l: neurons of D = {i : ||n_i|| < value} are left out (Eq 3). Ratios are
    fractions; ``ppl_ratio`` is sparse over dense perplexity, measured with these thresholds on the text given to the
    search, ``ppl_ratio_se`` its standard error (None: too little text to tell). ``tolerance`` is how far the log of
    the ratio (or KL) may lie from log(1 + p) in the scatter of this text, ``converged`` whether it does not lie further
    off. ``layers`` and ``column_norms`` have d_ff and the mean ||W_out[:, i]|| of each layer. Intervals are 90 %.
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
    converged: bool = True
    tolerance: float | None = None
    monotone: bool = True
    cett_se: float | None = None
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
        object.__setattr__(self, "values", arguments.lengths("Thresholds: values", self.values))
        for name in ("layers", "column_norms"):
            if len(getattr(self, name)) not in (0, len(self.values)):
                raise ValueError(f"Thresholds: {len(self.values)} values, but {len(getattr(self, name))} {name}.")
        for name, most in {"activation_ratio": 1.0, "ppl_ratio": math.inf}.items():
            if getattr(self, name) < 0 or getattr(self, name) > most:  # what was not measured is NaN
                raise ValueError(f"Thresholds: {name} must be from 0 to {most:g}, got {getattr(self, name):g}.")

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
        return above_threshold(ffn, neurons, self.values[ffn.site]).bool()

    def as_env(self) -> str:
        """Give the thresholds as the comma-separated line that the authors' evaluation reads, at full precision."""
        return ",".join(repr(value) for value in self.values)

    def card(self) -> str:
        """Give a section in Markdown for the model's card: what was measured, on what, how sure it is."""
        name = self.provenance.get("model") or "this model"
        title = "" if self.ppl_increase_pct is None else f" (CETT-PPL-{self.ppl_increase_pct:g}%)"
        error = "" if self.ppl_ratio_se is None else f" ± {self.ppl_ratio_se:.4f}"
        ends = self.activation_interval and "{:.1%} to {:.1%}".format(*self.activation_interval)
        rows = {
            "active FFN neurons": f"{self.activation_ratio:.1%}" + (f" (90 %: {ends})" if ends else ""),
            "perplexity, sparse over dense": f"{self.ppl_ratio:.4f}{error}",
            "CETT, the same in every layer": f"{self.cett:.4f}",
            "found on": f"{self.tokens:,} tokens, SHA-256 {(self.provenance.get('corpus_sha256') or 'unknown')[:12]}",
            "weights": ", ".join(filter(None, (name, self.provenance.get("revision"), self.provenance.get("dtype")))),
            "measured with": f"sparsinglib {self.provenance.get('sparsinglib') or 'of an unknown version'}",
        }
        told = "" if self.target_met else "\nThis text could not raise perplexity by that much.\n"
        table = "".join(f"| {what} | {value.replace('|', '/')} |\n" for what, value in rows.items())
        return (
            f"## Activation sparsity{title}\n\n"
            "Neurons whose output vector is shorter than its layer's threshold are left out, after *Sparsing Law* "
            f"(arXiv 2411.02335).\n\n| | |\n| --- | --- |\n{table}{told}\n"
            "```python\nimport sparsinglib as sl\n\n"
            f"model, tokenizer = sl.load({name!r})\n"
            'with sl.sparsify(model, "thresholds.json"):\n    model.generate(...)\n```\n\n'
            f"Thresholds by layer: `{self.as_env()}`\n"
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a JSON file, whole or not at all; raises OSError, naming the file, where that is not possible."""
        document = {"format": FORMAT, **dataclasses.asdict(self)}
        write_atomically(arguments.path("path", path), json.dumps(document, indent=1, allow_nan=False))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Thresholds":
        """Read a file written by ``save``; raises ValueError, naming file and cause, for anything else."""
        try:
            # An editor of Windows puts a mark before the text, which utf-8-sig leaves out.
            document = json.loads(arguments.path("path", path).read_text(encoding="utf-8-sig"))
        except (OSError, ValueError, RecursionError) as error:
            raise ValueError(f"{path}: not a readable thresholds file ({error}).") from error
        if not isinstance(document, dict) or document.pop("format", None) != FORMAT:
            raise ValueError(f"{path}: not a thresholds file of this version (expected format {FORMAT!r}).")
        hints = get_type_hints(cls)
        if unknown := sorted(set(document) - {field.name for field in dataclasses.fields(cls)}):
            raise ValueError(f"{path}: unknown entries {unknown}.")
        try:
            return cls(**{name: _typed(name, hints[name], value) for name, value in document.items()})
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path}: {error}") from error


def _typed(name: str, hint: Any, value: Any) -> Any:
    """Give an entry of the file the type of its field; lists become tuples. Raises ValueError if it cannot have it."""
    kinds = get_args(hint)
    if isinstance(hint, UnionType):
        if value is None and NoneType in kinds:
            return None
        fitting = [kind for kind in kinds if kind is type(value)]  # 7 is no 7.0 where a field may be either
        return _typed(name, (fitting or kinds)[0], value)
    if get_origin(hint) is tuple:
        if not isinstance(value, list):
            raise ValueError(f"{name} must be a list, got {type(value).__name__}.")
        inside = kinds[:1] * len(value) if kinds[-1] is Ellipsis else kinds
        return tuple(_typed(name, kind, item) for kind, item in zip(inside, value, strict=True))
    if get_origin(hint) is dict and isinstance(value, dict):
        return {key: _typed(f"{name}: {key}", kinds[1], item) for key, item in value.items()}
    if hint is float:
        return arguments.number(name, value)
    if type(value) is not hint:
        raise ValueError(f"{name} holds {short(value)}, which is not {getattr(hint, '__name__', hint)}.")
    return value


def as_rule(given: Rule | CETT | str | os.PathLike[str]) -> Rule:
    """A rule as it is, or the thresholds in the file whose path is given; raises ValueError for anything else."""
    if isinstance(given, (str, os.PathLike)):
        if not os.path.exists(os.path.expanduser(given)) and not os.path.splitext(given)[1]:
            raise ValueError(
                f"{short(given)} is neither a thresholds file nor a rule; rules are objects, such as TopK(0.05)."
            )
        return Thresholds.load(given)
    if isinstance(given, CETT):
        raise ValueError(
            f"{given} has no thresholds yet: find them with thresholds_for_cett(model, batches, {given.target})."
        )
    if isinstance(given, type) or not all(hasattr(given, name) for name in ("check", "active", "uses_gate")):
        raise ValueError(
            "the rule must be Thresholds (as find_thresholds gives them), the path of a file of theirs, or a rule such "
            f"as TopK(0.05); got {short(given)}."
        )
    return given
