"""What a run of the notebooks remembers: from which inputs each was made, what it wrote, how it ended.

A notebook need not run again while its cells, its parameters, the library, the data and the versions of the required
packages are what they were, by content, and everything that it wrote is still there.
"""

import hashlib
import json
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import nbformat
from packaging.requirements import Requirement

from ..files import DATA, ROOT, write_atomically
from ..suites import suite as suites


@dataclass(frozen=True)
class Record:
    """How the last run of one notebook went.

    Attributes:
        notebook: its name without ending.
        inputs: digest of everything it was made from.
        parameters: those that were not its own defaults.
        suite: the suite asked for; "" for the notebook's own.
        commit: the repository's commit, with "+" if files were changed since.
        data: digest of the data directory.
        finished: end of the run, UTC, to the second.
        seconds: wall-clock time.
        outputs: figures and results it wrote, relative to the repository where they lie in it.
        error: first error; "" if it ran through.
    """

    notebook: str
    inputs: str
    parameters: dict[str, Any]
    suite: str
    commit: str
    data: str
    finished: str
    seconds: float
    outputs: list[str] = field(default_factory=list)
    error: str = ""

    def current(self, inputs: str, copy: Path) -> bool:
        """Whether a run with these inputs would only repeat this one."""
        written = [ROOT / name for name in self.outputs]
        return not self.error and self.inputs == inputs and all(path.is_file() for path in (copy, *written))

    def save(self, folder: Path) -> None:
        """Write it to ``folder``, whole or not at all."""
        write_atomically(folder / f"{self.notebook}.json", json.dumps(asdict(self), indent=1, ensure_ascii=False))


def load(folder: Path, notebook: str) -> Record | None:
    """The record of ``notebook`` in ``folder``; None if there is none that can be read."""
    try:
        return Record(**json.loads((folder / f"{notebook}.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def inputs(notebook: Path, parameters: Mapping[str, Any], also: Iterable[Path] = ()) -> str:
    """Digest of what a run of ``notebook`` depends on; ``also`` names further files, by content.

    A parameter that names a file counts with its content, one that names a directory with the names, sizes and times
    of its files (downloaded checkpoints are too large to read for this). So do the checkpoints and texts of a suite.
    """
    cells = [(cell.cell_type, cell.source) for cell in nbformat.read(notebook, as_version=4).cells]
    found = hashlib.sha256(json.dumps([cells, sorted(parameters.items())]).encode())
    found.update((library() + data_digest()).encode())
    found.update(_contents(also).encode())
    for value in (*parameters.values(), *_of_suite(parameters.get("suite", ""), notebook.parent)):
        for part in _named(value, notebook.parent):
            found.update(part.encode())
    return found.hexdigest()


def _of_suite(value: Any, folder: Path) -> list[str]:
    """What a suite's file names; nothing for a shipped suite, whose data count as all that is shipped does."""
    path = folder / str(value)
    if path.suffix not in (".yaml", ".yml") or not path.is_file():
        return []
    suite = suites.read(path)
    return [*(checkpoint.source for checkpoint in suite.checkpoints), *suite.corpora]


def _named(value: Any, folder: Path) -> Iterator[str]:
    """What the file or directory that a parameter may name looks like now."""
    path = folder / str(value).replace("\0", "") if isinstance(value, str) and value else None
    if path is not None and len(path.name) < 250 and path.is_file():
        yield _contents([path])
    elif path is not None and len(path.name) < 250 and path.is_dir():
        for file in sorted(file for file in path.rglob("*") if file.is_file()):
            state = file.stat()
            yield f"{file.relative_to(path)} {state.st_size} {state.st_mtime_ns}"


def _contents(paths: Iterable[Path]) -> str:
    found = hashlib.sha256()
    for path in paths:
        found.update(f"{path.name}\0".encode())
        found.update(hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()


@cache
def data_digest() -> str:
    """Digest of every file under ``data/``, by name and content."""
    files = sorted(path for path in DATA.rglob("*") if path.is_file())
    names = "\n".join(path.relative_to(DATA).as_posix() for path in files)
    return hashlib.sha256((names + _contents(files)).encode()).hexdigest()


@cache
def library() -> str:
    """Digest of the library's modules and of the versions of the packages that it requires."""
    modules = _contents(sorted(Path(__file__).parent.rglob("*.py")))
    return hashlib.sha256((modules + " ".join(_versions())).encode()).hexdigest()


def _versions() -> Iterator[str]:
    try:
        required = metadata.requires("sparsinglib") or []
    except metadata.PackageNotFoundError:  # used from its directory, without being installed
        required = []
    for name in sorted({Requirement(line).name for line in required}):
        try:
            yield f"{name}=={metadata.version(name)}"
        except metadata.PackageNotFoundError:
            yield f"{name} is not installed"


@cache
def commit() -> str:
    """Short id of the repository's commit, "+" behind it if tracked files were changed since; "" without git."""
    try:
        call = ["git", "-C", str(ROOT), "describe", "--always", "--exclude=*", "--dirty=+", "--abbrev=10"]
        return subprocess.run(call, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
