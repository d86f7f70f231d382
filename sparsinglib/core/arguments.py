"""What a caller gives, checked at the public surface: taken as what it is meant to be, or refused in one sentence.

Numbers come from config files, tables and tensors as well as from code: numpy's are taken, and 1e3 is a whole number.
"""

import math
import os
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from torch import nn

CORPORA = ("wikipedia", "chinese", "code", "math", "mixture")  # what ``corpora.load`` knows by name
ENDINGS = r"\.(txt|md|log|dat|pdf|docx?|zip|jsonl?|ndjson|csv|tsv|parquet|gz|bz2|xz|html?|xml|py)"
A_PATH = re.compile(
    r"[a-z]+://\S+"  # an address
    r"|(/|~/|\.\.?/|[a-z]:\\)\S+"  # of a root, of home, of here
    r"|[\w.-]+([/\\][\w.-]+)+/?"
    r"|\S+\.[a-z][a-z0-9]{0,7}"  # one word with an ending
    rf"|[^\n]*[/\\][^\n]*{ENDINGS}",  # blanks between, as only files of known endings have them here
    re.IGNORECASE,
)


def number(
    name: str, value: Any, wanted: str = "a finite number", fits: Callable[[float], bool] = math.isfinite
) -> float:
    """``value`` as a float for which ``fits`` is true; ``wanted`` says in words which those are."""
    taken = _plain(value)
    if taken is None or not fits(taken):
        raise ValueError(f"{name} must be {wanted}, got {value!r:.100}.")
    return float(taken)


def whole(name: str, value: Any, least: int | None = None) -> int:
    """``value`` as an int, at least ``least``; 1e3 is one, 1.5 is not."""
    taken = _plain(value)
    if taken is None or not math.isfinite(taken) or taken != int(taken) or (least is not None and taken < least):
        limit = "" if least is None else f" of at least {least}"
        raise ValueError(f"{name} must be a whole number{limit}, got {value!r:.100}.")
    return int(taken)


def _plain(value: Any) -> int | float | None:
    """The number in one of Python, numpy or torch; None for anything else, bools and ints beyond floats included."""
    if hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
        value = value.item()
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return None
    return value if isinstance(value, float) or abs(value) <= sys.float_info.max else None


def share(name: str, value: Any) -> float:
    """``value`` as a float above 0 and at most 1."""
    return number(name, value, "a share in (0, 1]", lambda part: 0 < part <= 1)


def lengths(name: str, values: Any) -> tuple[float, ...]:
    """``values`` as thresholds, one for each layer: finite and not negative."""
    wanted = "finite numbers, one for each layer, none below 0"
    if isinstance(values, str) or not hasattr(values, "__iter__") or not len(values):
        raise ValueError(f"{name} must be {wanted}, got {values!r:.100}.")
    return tuple(number(name, value, wanted, lambda length: 0 <= length < math.inf) for value in values)


def flag(name: str, value: Any) -> bool:
    """``value`` as a bool; 0, "no" and the like are refused, since "no" would count as true."""
    if isinstance(value, bool) or type(value).__name__ == "bool":  # numpy's has a class of its own
        return bool(value)
    raise ValueError(f"{name} must be True or False, got {value!r:.100}.")


def path(name: str, value: Any) -> Path:
    """``value`` as a Path, ``~`` written out."""
    if not isinstance(value, (str, os.PathLike)) or not isinstance(os.fspath(value), str) or not str(value).strip():
        raise ValueError(f"{name} must be a path, got {value!r:.100}.")
    return Path(value).expanduser()


def names_a_text(value: Any) -> bool:
    """Whether ``value``, given as a text, is the path or address of one, or the name of a corpus: one short line."""
    if not isinstance(value, str) or len(value) > 1024 or "\n" in (line := value.strip()) or "\0" in line:
        return False
    return line in CORPORA or bool(A_PATH.fullmatch(line)) or os.path.exists(os.path.expanduser(line))


def one_of(name: str, value: Any, choices: Iterable[str]) -> str:
    """``value`` if it is one of ``choices``."""
    choices = list(choices)
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r:.100}.")
    return value


def text(name: str, value: Any) -> str:
    """``value`` if it is a text; papermill makes a number of one that looks like it."""
    if not isinstance(value, str):
        raise ValueError(f"{name} is a text, got {value!r:.100}: papermill keeps it one with -r {name} {value!s:.100}.")
    return value


def several(name: str, value: Any, each: Callable[..., Any], **limits: Any) -> list[Any]:
    """``value`` as a list of what ``each`` takes; one alone, as a command line gives it, is a list of itself."""
    alone = isinstance(value, str) or not isinstance(value, Iterable)
    return [each(name, item, **limits) for item in ([value] if alone else value)]


def model(value: Any) -> Any:
    """``value`` if it is a loaded model: not its name, and not what ``load`` gives, the model with its tokenizer."""
    if not isinstance(value, nn.Module) or not hasattr(value, "config"):
        raise ValueError(
            f"model must be a loaded model, as in model, tokenizer = sparsinglib.load(name); "
            f"got {type(value).__name__}{f' {value!r:.80}' if isinstance(value, str) else ''}."
        )
    return value
