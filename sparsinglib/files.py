"""Where the package keeps its data; files that appear whole or not at all, with errors that name what was written."""

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

ROOT = Path(__file__).resolve().parent.parent  # never the working directory
DATA = ROOT / "data"
PAPER = DATA / "paper"
LADDER = DATA / "ladder"
SUITES = DATA / "suites"
FIGURES = ROOT / "figures"
NOTEBOOKS = ROOT / "notebooks"

OUTPUT = "SPARSINGLIB_FIGURES"

# A failed write in the words of safetensors and of torch.save, which raise no OSError.
FAILED_WRITE = re.compile(r"os error \d+|inline_container|file write failed")


def output_dir() -> Path:
    """Folder for figures, tables and (in ``results``) claims: ``build/figures``, or what SPARSINGLIB_FIGURES names.

    Never the tracked ``figures``, which only ``make store`` writes.
    """
    return Path(os.environ.get(OUTPUT) or ROOT / "build" / "figures").absolute()


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Give the name of ``path`` to an error of writing that has none; what is not about writing stays as it is."""
    try:
        yield
    except OSError as error:
        named = error.filename is not None and f".{path.name}." not in str(error.filename)
        if error.errno is None or named:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error
    except Exception as error:
        said = next(iter(str(error).splitlines()), "")
        if not FAILED_WRITE.search(said):
            raise
        free = shutil.disk_usage(path if path.is_dir() else path.parent).free / 2**20
        raise OSError(f"{path}: cannot be written ({said}); {free:,.1f} MiB of that disk are free") from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file beside ``path`` to be written, which takes its place at the end; an error leaves ``path`` as it was.

    So nobody ever sees half of it, neither a reader nor the run that goes on after one that was killed.
    """
    partial = None
    try:
        with naming(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
            os.close(handle)
            yield Path(partial)
            os.chmod(partial, 0o644)
            os.replace(partial, path)
    except BaseException:
        if partial:
            Path(partial).unlink(missing_ok=True)
        raise


@contextmanager
def replacing_directory(path: Path) -> Iterator[Path]:
    """The same for a directory, empty at first; killed in its last moment, it leaves none, but never half of one."""
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with naming(path):
            partial.mkdir(parents=True)
            yield partial
            shutil.rmtree(path, ignore_errors=True)
            partial.rename(path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def write_atomically(path: Path, text: str) -> None:
    """Write a text file, ending in a line feed, whole or not at all."""
    with replacing(path) as partial:
        partial.write_text(text if text.endswith("\n") else text + "\n", encoding="utf-8")


def copy(source: Path, target: Path) -> None:
    """Copy a file, whole or not at all."""
    with replacing(target) as partial:
        shutil.copyfile(source, partial)


def kept(path: Path, make: Callable[[], T]) -> T:
    """What ``make`` gives, read from ``path`` if it was made before; made again if what lies there cannot be read.

    For results of our own under the cache directory, whose names hold what they depend on.
    """
    import joblib

    if path.is_file():
        with suppress(Exception):  # a damaged file can raise anything
            return joblib.load(path)
    made = make()
    with replacing(path) as partial:
        joblib.dump(made, partial)
    return made


@cache
def code_digest(*others: Path) -> str:
    """SHA-256 of the core, of ``others`` and of the versions of what computes: part of the key of each result."""
    digest = hashlib.sha256(" ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "numpy")).encode())
    for path in (*sorted((Path(__file__).parent / "core").glob("*.py")), *others):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()
