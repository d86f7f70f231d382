"""Where the package keeps its data; files that appear whole or not at all, with errors that name what was written."""

import ast
import hashlib
import os
import pickle
import pickletools
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib.metadata import version
from importlib.util import resolve_name
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

PACKAGE = Path(__file__).resolve().parent
CARRIED = (PACKAGE / "data").is_dir()  # installed from a wheel, which carries its data among the modules
ROOT = Path.cwd() if CARRIED else PACKAGE.parent  # of a checkout: never the working directory
DATA = (PACKAGE if CARRIED else ROOT) / "data"
PAPER = DATA / "paper"
LADDER = DATA / "ladder"
SUITES = DATA / "suites"
SAMPLE = DATA / "texts" / "sample.txt"  # a short text for what is drawn token by token
FIGURES = ROOT / "figures"
NOTEBOOKS = ROOT / "notebooks"

OUTPUT = "SPARSINGLIB_FIGURES"
CACHE = "SPARSINGLIB_CACHE"
WRITTEN = "SPARSINGLIB_WRITTEN"  # file that takes the path of each file written, one a line; for who runs notebooks

# Code that ``code_digest`` covers, by content or version, and Python's own; any other can change unseen.
KNOWN_CODE = {__package__, "torch", "transformers", "numpy", *sys.stdlib_module_names}

# A failed write in the words of safetensors and of torch.save, which raise no OSError.
FAILED_WRITE = re.compile(r"os error \d+|inline_container|file write failed")


def output_dir() -> Path:
    """Folder for figures, tables and (in ``results``) claims: ``build/figures``, or what SPARSINGLIB_FIGURES names.

    Never the tracked ``figures``, which only ``make store`` writes.
    """
    root = Path.cwd() if CARRIED else ROOT
    return Path(os.environ.get(OUTPUT) or root / "build" / "figures").expanduser().absolute()


def cache_dir() -> Path:
    """Folder for what is slow to make again: ``$SPARSINGLIB_CACHE``, or ``sparsinglib`` in the user's cache folder.

    Raises OSError, in one line that says what to set, where there is none or nothing can be written to it.
    """
    try:
        user = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        path = Path(os.environ.get(CACHE) or Path(user) / "sparsinglib").expanduser().absolute()
        path.mkdir(parents=True, exist_ok=True)
        writable = os.access(path, os.W_OK | os.X_OK)
    except (OSError, RuntimeError) as error:  # the latter: there is no home directory
        raise OSError(f"no cache folder ({error}); set {CACHE} to a folder that can be written.") from error
    if not writable:
        raise PermissionError(f"the cache folder {path} cannot be written; set {CACHE} to one that can.")
    return path


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
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
        try:
            yield Path(partial)
            os.chmod(partial, 0o644)
            os.replace(partial, path)
        finally:
            Path(partial).unlink(missing_ok=True)
    if notes := os.environ.get(WRITTEN):
        with open(notes, "a", encoding="utf-8") as file:
            file.write(f"{path.absolute()}\n")


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
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_atomically(path: Path, text: str) -> None:
    """Write a text file, ending in a line feed, whole or not at all."""
    with replacing(path) as partial:
        partial.write_text(text if text.endswith("\n") else text + "\n", encoding="utf-8")


def copy_file(source: Path, target: Path) -> None:
    """Copy a file, whole or not at all."""
    with replacing(target) as partial:
        shutil.copyfile(source, partial)


def cached(folder: Path, key: Any, make: Callable[[], T], wait: float = -1) -> T:
    """What ``make`` gives, read from ``folder`` if it was made for this ``key`` before; for results of our own.

    ``key`` holds everything that the result depends on, code too (``code_digest``). A key that holds an object of a
    class of the reader's own, such as a rule, does not tell what that class does: nothing is kept then. A process that
    needs what another one is making waits for it, at most ``wait`` seconds (-1: for ever), then filelock's Timeout is
    raised. What cannot be read is made again.
    """
    import joblib
    from filelock import FileLock

    if not _says_all(key):
        return make()
    path = folder / f"{joblib.hash(key)}.pkl"
    (folder / "locks").mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "locks" / path.stem, timeout=wait):
        if path.is_file():
            with suppress(Exception):  # a damaged file can raise anything
                return joblib.load(path)
        made = make()
        with replacing(path) as partial:
            joblib.dump(made, partial)
    return made


def _says_all(key: Any) -> bool:
    """Whether all classes and functions in a key are known code, so that equal keys mean equal results."""
    try:
        found = pickletools.genops(pickle.dumps(key, 2, fix_imports=False))  # 2 names each in one piece
    except Exception:  # a class defined in a function, a lambda: pickle raises what it likes
        return False
    return all(known_code(name.split()[0]) for opcode, name, _ in found if opcode.name == "GLOBAL")  # type: ignore[union-attr]


def known_code(module: str | None) -> bool:
    """Whether the code of a module, by name, is covered by ``code_digest`` or Python's own."""
    return (module or "").partition(".")[0] in KNOWN_CODE


def content_digest(*paths: Path) -> str:
    """SHA-256 of files, and of all files below directories, by name and content; times do not count.

    Where a path lies makes no difference, and what is not there counts as such.
    """
    digest = hashlib.sha256()
    for path in sorted(paths):
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in files:
            name = file.relative_to(path).as_posix() if path.is_dir() else file.name
            content = b"missing"
            if file.is_file():
                with file.open("rb") as stream:
                    content = hashlib.file_digest(stream, "sha256").digest()
            digest.update(f"{len(files)} {name}\0".encode() + content)
    return digest.hexdigest()


@cache
def code_digest(module: str) -> str:
    """SHA-256 of a module of this package, of those it imports, and of the versions of what computes."""
    digest = hashlib.sha256(" ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "numpy")).encode())
    seen: dict[str, Path] = {}
    todo = [module]
    while todo:
        name = todo.pop()
        path = PACKAGE.parent.joinpath(*name.split("."))
        source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if name in seen or not name.startswith(__package__ or "") or not source.is_file():
            continue
        seen[name] = source
        todo.append(name.rpartition(".")[0])
        package = name if path.is_dir() else name.rpartition(".")[0]
        for node in ast.walk(ast.parse(source.read_bytes())):
            if isinstance(node, ast.Import):
                todo += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                base = resolve_name("." * node.level + (node.module or ""), package)
                todo += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    for name in sorted(seen):
        digest.update(name.encode() + seen[name].read_bytes())
    return digest.hexdigest()
