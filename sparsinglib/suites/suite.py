"""A suite: which checkpoints a study is about, on which texts and on how many tokens. A YAML file, read and checked.

``ladder`` and ``released`` are shipped in ``data/suites``; ``example.yaml`` there explains every line for your own.
"""

import difflib
import os
from collections.abc import Collection
from dataclasses import dataclass, fields, replace
from pathlib import Path
from reprlib import repr as short
from typing import Any

import yaml

from ..core import checkpoints as models
from ..files import SUITES
from ..texts import corpora

EVIDENCE = ("ladder", "released", "own")
PARTS = {  # of a checkpoint's directory, and the names that each may have
    "config.json": ("config.json",),
    "weights": ("*.safetensors", "pytorch_model*.bin"),
    "tokenizer": ("tokenizer*", "vocab.json", "spiece.model"),
}


class SuiteError(ValueError):
    """A suite file that is missing, cannot be read, or says something that makes no sense; names file and entry."""


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint of a suite.

    Attributes:
        name: how it is called in tables.
        source: what ``sl.load`` takes: ladder name, directory, ``.gguf`` file or hub id; a relative path is one
            from the folder of the suite's file.
        scale: label of its size, such as "0.1B".
        activation: "relu", "silu", …: how series are named and coloured.
        revision: revision of a hub id.
    """

    name: str
    source: str
    scale: str
    activation: str
    revision: str | None = None

    @property
    def here(self) -> bool:
        """Whether its files lie on this machine, or have to come from the hub."""
        # os.path: a name that no file can have is no error there. A path that was found is absolute by now.
        known = self.source in (*models.ladder_names(), models.WHEEL)
        return known or (os.path.isabs(self.source) and os.path.exists(self.source))


@dataclass(frozen=True)
class Suite:
    """Checkpoints, and how they are measured.

    Attributes:
        evidence: what its numbers are called: "ladder", "released" or "own".
        corpora: names of shipped corpora or paths of text files, relative ones from the folder of the suite's file.
        sequence_length: tokens of a window.
        tokens: tokens that each corpus is measured on.
        checkpoints: those that can be loaded.
        missing: names of those that cannot, because nothing was trained or downloaded yet.
    """

    name: str
    evidence: str
    corpora: tuple[str, ...]
    sequence_length: int
    tokens: int
    checkpoints: tuple[Checkpoint, ...]
    missing: tuple[str, ...] = ()

    def pick(self, scale: str | None = None, activation: str | None = None) -> list[Checkpoint]:
        """Checkpoints of one scale and activation, in the order of the file."""
        chosen = (c for c in self.checkpoints if scale in (None, c.scale) and activation in (None, c.activation))
        return list(chosen)

    def gaps(self) -> str:
        """A sentence naming the checkpoints that are not there; "" if all are."""
        return f"{self.name}: {', '.join(self.missing)} not there yet" if self.missing else ""


def check(suite: Suite) -> None:
    """Raise SuiteError naming each directory that lacks a file to be loaded, or each text that is not there."""
    known = (*corpora.SOURCES, "mixture")
    if gone := [name for name in suite.corpora if name not in known and not os.path.exists(os.path.expanduser(name))]:
        raise SuiteError(
            f"suite {suite.name}: no corpus and no file called {', '.join(gone)}; corpora: {', '.join(known)}."
        )
    lacking = []
    for folder in (Path(c.source).expanduser() for c in suite.checkpoints if c.source not in models.ladder_names()):
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


def is_released(name: str) -> bool:
    """Whether this is one of the authors' checkpoints: its hub id, or a directory of that name."""
    return Path(name).name in {Path(c.source).name for c in _parse(SUITES / "released.yaml").checkpoints}


def read(suite: str | Path) -> Suite:
    """Read a suite: a shipped name, a YAML file, or a directory of downloaded checkpoints of the released suite.

    Such a directory holds one folder for each checkpoint, named as the last part of its hub id. Raises SuiteError that
    names the file and the entry; a checkpoint that is not there is no error as long as one is.
    """
    path = Path(suite).expanduser()
    if path.is_dir():
        return _downloaded(path)
    if path.suffix not in (".yaml", ".yml"):
        path = SUITES / f"{suite}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in SUITES.glob("*.yaml") if "\ncheckpoints:" in p.read_text("utf-8")))
        raise SuiteError(f"no suite called {suite}: give {known}, a YAML file, or a directory of checkpoints.")
    return _present(_parse(path))


def _downloaded(directory: Path) -> Suite:
    released = _parse(SUITES / "released.yaml")
    placed = tuple(
        replace(c, source=os.path.abspath(directory / c.source.rpartition("/")[2])) for c in released.checkpoints
    )
    return _present(replace(released, checkpoints=placed))


def _present(suite: Suite) -> Suite:
    """Leave out what is not there; a hub id counts as there, only loading can tell."""
    there = tuple(c for c in suite.checkpoints if c.here or _hub_id(c.source))
    if not there:
        names = ", ".join(c.source for c in suite.checkpoints)
        raise SuiteError(f"suite {suite.name}: none of its checkpoints is there: {names}.")
    return replace(suite, checkpoints=there, missing=tuple(c.name for c in suite.checkpoints if c not in there))


def _hub_id(source: str) -> bool:
    return source.count("/") == 1 and not source.startswith((".", "/", "~")) and not source.startswith("data/")


def _parse(path: Path) -> Suite:
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SuiteError(f"{path.name}: cannot be read as YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(raw, dict):
        raise SuiteError(f"{path.name}: a suite is a mapping with the entry checkpoints; see example.yaml.")
    known = {"evidence", "corpora", "sequence_length", "tokens", "checkpoints"}
    _only(path.name, raw, known)
    entries = raw.get("checkpoints")
    if not isinstance(entries, list) or not entries:
        raise SuiteError(f"{path.name}: checkpoints must be a list with at least one entry.")
    found = (_checkpoint(f"{path.name}, checkpoint {i}", entry) for i, entry in enumerate(entries, 1))
    checkpoints = tuple(replace(c, source=_from(path, c.source, models.ladder_names())) for c in found)
    names = [c.name for c in checkpoints]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise SuiteError(f"{path.name}: two checkpoints are called {twice[0]}.")
    evidence = raw.get("evidence", "own")
    if evidence not in EVIDENCE:
        raise SuiteError(f"{path.name}: evidence is {short(evidence)}; it must be one of {', '.join(EVIDENCE)}.")
    texts = raw.get("corpora", ["mixture"])
    if not isinstance(texts, list) or not texts or not all(isinstance(name, str) and name for name in texts):
        raise SuiteError(f"{path.name}: corpora must be a list of names or files.")
    return Suite(
        name=path.stem,
        evidence=evidence,
        corpora=tuple(_from(path, name, (*corpora.SOURCES, "mixture")) for name in texts),
        sequence_length=_size(path.name, raw, "sequence_length", 512),
        tokens=_size(path.name, raw, "tokens", 16_384),
        checkpoints=checkpoints,
    )


def _from(suite: Path, name: str, known: Collection[str]) -> str:
    """A name from a suite's file, as an absolute path where it leads to something from there.

    Notebooks read the file again in a working directory of their own.
    """
    path = os.path.abspath(suite.parent / os.path.expanduser(name))
    return path if name not in known and os.path.exists(path) else name


def _checkpoint(where: str, entry: Any) -> Checkpoint:
    if not isinstance(entry, dict):
        raise SuiteError(f"{where}: an entry has at least name, scale and activation, got {short(entry)}.")
    _only(where, entry, {field.name for field in fields(Checkpoint)})
    for name, value in entry.items():
        if not isinstance(value, str) or not value.strip() or len(value) > 1000:
            raise SuiteError(f"{where}: {name} must be a text, got {short(value)}; quote it if it looks like a number.")
    if absent := [name for name in ("name", "scale", "activation") if name not in entry]:
        raise SuiteError(f"{where}: {', '.join(absent)} is missing.")
    return Checkpoint(**{"source": entry["name"], **entry})


def _only(where: str, entry: dict[str, Any], known: set[str]) -> None:
    for name in entry:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, 1)
            hint = f"; did you mean {near[0]}?" if near else f"; known: {', '.join(sorted(known))}."
            raise SuiteError(f"{where}: unknown entry {short(name)}{hint}")


def _size(where: str, raw: dict[str, Any], name: str, default: int) -> int:
    value = raw.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < 2:
        raise SuiteError(f"{where}: {name} must be a whole number of at least 2, got {short(value)}.")
    return value
