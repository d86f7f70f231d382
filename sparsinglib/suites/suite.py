"""A suite: which checkpoints are measured, on which texts and on how many tokens. A YAML file, read and validated.

``ladder`` and ``released`` are shipped in ``data/suites``; ``example.yaml`` there explains every line for your own.
"""

import difflib
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from reprlib import repr as short
from typing import Annotated, Any, Literal

import yaml
from pydantic import ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from ..core import arguments
from ..core.arguments import CORPORA
from ..core.checkpoints import WHEEL, ladder_names
from ..files import SUITES

PARTS = {  # of a checkpoint's directory, and the names that each may have
    "config.json": ("config.json",),
    "weights": ("*.safetensors", "pytorch_model*.bin"),
    "tokenizer": ("tokenizer*", "vocab.json", "spiece.model"),
}


class SuiteError(ValueError):
    """A suite file that is missing, cannot be read, or says something that makes no sense; names file and entry."""


Name = Annotated[str, StringConstraints(strict=True, pattern=r"\S", max_length=1000)]
Size = Annotated[int, Field(strict=True, ge=2)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Checkpoint:
    """One checkpoint of a suite."""

    name: Name  # in tables
    source: Name  # what ``sl.load`` takes; a relative path is one from the folder of the suite's file
    scale: Name  # label of its size, such as "0.1B"
    activation: Name  # "relu", "silu", …: how series are named and coloured
    revision: Name | None = None  # of a hub id

    @property
    def here(self) -> bool:
        """Whether its files lie on this machine, or have to come from the hub."""
        # os.path: a name that no file can have is no error there. A path that was found is absolute by now.
        known = self.source in (*ladder_names(), WHEEL)
        return known or (os.path.isabs(self.source) and os.path.exists(self.source))


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Suite:
    """Checkpoints, and how they are measured."""

    name: str
    evidence: Literal["ladder", "released", "own"]  # what its numbers are called
    corpora: Annotated[tuple[Name, ...], Field(min_length=1)]  # shipped ones by name, or paths, as of checkpoints
    sequence_length: Size  # tokens of a window
    tokens: Size  # that each corpus is measured on
    checkpoints: Annotated[tuple[Checkpoint, ...], Field(min_length=1)]  # those that can be loaded
    missing: tuple[str, ...] = ()  # names of those that cannot: nothing was trained or downloaded yet

    def pick(self, scale: str | None = None, activation: str | None = None) -> list[Checkpoint]:
        """Checkpoints of one scale and activation, in the order of the file."""
        return [c for c in self.checkpoints if scale in (None, c.scale) and activation in (None, c.activation)]

    def gaps(self) -> str:
        """A sentence naming the checkpoints that are not there; "" if all are."""
        return f"{self.name}: {', '.join(self.missing)} not there yet" if self.missing else ""


def validate_suite(suite: Suite) -> None:
    """Raise SuiteError naming each directory that lacks a file to be loaded, or each text that is not there."""
    if gone := [name for name in suite.corpora if name not in CORPORA and not os.path.exists(os.path.expanduser(name))]:
        raise SuiteError(
            f"suite {suite.name}: no corpus and no file called {', '.join(gone)}; corpora: {', '.join(CORPORA)}."
        )
    lacking = []
    for folder in (Path(c.source).expanduser() for c in suite.checkpoints if c.source not in ladder_names()):
        absent = [part for part, names in PARTS.items() if not any(any(folder.glob(name)) for name in names)]
        if folder.is_dir() and absent:
            lacking.append(f"{folder} has no {', no '.join(absent)}")
    if lacking:
        raise SuiteError(f"suite {suite.name}: {'; '.join(lacking)}. Is the download complete?")


def two_models(suite: Suite) -> dict[str, str]:
    """What notebooks about single models take from a suite: ``model`` and ``compare_with``, as ``sl.load`` takes them.

    They are the last ReLU and the last SiLU model of the file, or the last model and "". Empty where a revision is
    asked for, which those notebooks have no place for.
    """
    last = {c.activation: c for c in suite.checkpoints}
    chosen = [last[a] for a in ("relu", "silu") if a in last] or [suite.checkpoints[-1]]
    if any(c.revision for c in chosen):
        return {}
    return {"model": chosen[0].source, "compare_with": chosen[1].source if len(chosen) > 1 else ""}


def evidence(name: str) -> str:
    """Which kind of evidence a checkpoint is: "ladder", "released" (by hub id or a directory's name) or "own"."""
    if name in ladder_names():
        return "ladder"
    theirs = {Path(c.source).name for c in _parse(SUITES / "released.yaml").checkpoints}
    return "released" if Path(name).name in theirs else "own"


def read(suite: str | Path) -> Suite:
    """Read a suite: a shipped name, a YAML file, or a directory of downloaded checkpoints of the released suite.

    Such a directory holds one folder for each checkpoint, named as the last part of its hub id. Raises SuiteError that
    names the file and the entry, ValueError for what is no name; a checkpoint that is not there is no error as long as
    one is.
    """
    path = arguments.path("suite", suite)
    if path.is_dir():
        released = _parse(SUITES / "released.yaml")
        there = (replace(c, source=os.path.abspath(path / Path(c.source).name)) for c in released.checkpoints)
        return _present(replace(released, checkpoints=tuple(there)))
    if path.suffix not in (".yaml", ".yml"):
        path = SUITES / f"{suite}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in SUITES.glob("*.yaml") if "\ncheckpoints:" in p.read_text("utf-8")))
        raise SuiteError(f"no suite called {suite}: give {known}, a YAML file, or a directory of checkpoints.")
    return _present(_parse(path))


def _present(suite: Suite) -> Suite:
    """Leave out what is not there; a hub id counts as there, only loading can tell."""
    there = tuple(c for c in suite.checkpoints if c.here or re.fullmatch(r"(?!data/)[^./~][^/]*/[^/]*", c.source))
    if not there:
        names = ", ".join(c.source for c in suite.checkpoints)
        raise SuiteError(f"suite {suite.name}: none of its checkpoints is there: {names}.")
    return replace(suite, checkpoints=there, missing=tuple(c.name for c in suite.checkpoints if c not in there))


DEFAULTS = {"evidence": "own", "corpora": ["mixture"], "sequence_length": 512, "tokens": 16_384}


def _parse(path: Path) -> Suite:
    try:
        written = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SuiteError(f"{path.name}: cannot be read as YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(written, dict):
        raise SuiteError(f"{path.name}: a suite is a mapping with the entry checkpoints; see example.yaml.")
    entries = written.get("checkpoints")
    if isinstance(entries, list):  # a checkpoint's name is its source, unless it has one of its own
        entries = [{"source": e.get("name"), **e} if isinstance(e, dict) else e for e in entries]
    known = (*DEFAULTS, "checkpoints")
    if unknown := [name for name in written if name not in known]:
        raise SuiteError(f"{path.name}: {short(unknown[0])} is unknown; {hint(str(unknown[0]), known)}")
    try:
        suite = TypeAdapter(Suite).validate_python(DEFAULTS | written | {"name": path.stem, "checkpoints": entries})
    except ValidationError as error:
        raise SuiteError(f"{path.name}: {_said(error.errors())}") from None
    names = [c.name for c in suite.checkpoints]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise SuiteError(f"{path.name}: two checkpoints are called {twice[0]}.")
    checkpoints = tuple(replace(c, source=_from(path, c.source, ladder_names())) for c in suite.checkpoints)
    if fixed := [c.name for c in checkpoints if c.revision and c.here]:
        raise SuiteError(f"{path.name}: {fixed[0]} lies here; only a model on the hub has a revision.")
    return replace(suite, checkpoints=checkpoints, corpora=tuple(_from(path, n, CORPORA) for n in suite.corpora))


def _said(errors: Sequence[Mapping[str, Any]]) -> str:
    """pydantic's errors as one line, a misspelt entry first: entry, what is wrong, what was given, what to do."""
    error = max(errors, key=lambda e: e["type"] == "unexpected_keyword_argument")
    place = [str(part + 1) if isinstance(part, int) else str(part) for part in error["loc"]]
    where = " ".join(place)
    if error["type"] == "unexpected_keyword_argument":
        return f"{where} is unknown; {hint(place[-1], [field.name for field in fields(Checkpoint)])}"
    if error["type"] == "missing":
        return f"{where} is missing; see example.yaml."
    remedy = "quote it if it looks like a number" if error["type"] == "string_type" else "see example.yaml"
    said = error["msg"][0].lower() + error["msg"][1:]
    return f"{where}: {said.replace('tuple', 'list').replace('Tuple', 'list')}, got {short(error['input'])}; {remedy}."


def hint(name: str, known: Collection[str]) -> str:
    """For the error about an unknown ``name``: the one of ``known`` that is like it, or all of them."""
    near = difflib.get_close_matches(name, known, 1)
    return f"did you mean {near[0]}?" if near else f"known: {', '.join(sorted(known))}."


def _from(suite: Path, name: str, known: Collection[str]) -> str:
    """A name from a suite's file, as an absolute path where it leads to something from there.

    Notebooks read the file again in a working directory of their own.
    """
    path = os.path.abspath(suite.parent / os.path.expanduser(name))
    return path if name not in known and os.path.exists(path) else name
