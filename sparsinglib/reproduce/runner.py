"""Runs notebooks, each in a process of its own, some at a time; remembers how each ended and what it was made from.

A loop of our own in place of make or doit: they know neither which notebook takes longest nor that one reads what the
others write, and a notebook's parameters are no file.
"""

import hashlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import nbformat
from tqdm import tqdm

from .. import suites
from ..files import DATA, FIGURES, NOTEBOOKS, OUTPUT, ROOT, SUITES, WRITTEN, content_digest, copy_file, write_atomically

PROCESS = Path(__file__).with_name("notebook_process.py")
SECONDS = NOTEBOOKS / "seconds.json"  # what each took when it was stored: which are long, on any machine
GUESS = 60.0


@dataclass(frozen=True)
class Record:
    """How the last run of a notebook went."""

    notebook: str  # its name without ending
    inputs: str  # digest of everything it was made from
    parameters: dict[str, Any]  # those that were not its own defaults
    commit: str  # the repository's, with "+" if files were changed since
    finished: str  # end of the run, UTC, to the second
    seconds: float  # wall-clock time
    outputs: dict[str, str] = field(default_factory=dict)  # what it wrote, by path below the figures, and its digest
    error: str = ""  # the first one; "" if it ran through

    def save(self, folder: Path) -> None:
        """Write it to ``folder``, whole or not at all."""
        write_atomically(folder / f"{self.notebook}.json", json.dumps(asdict(self), indent=1, ensure_ascii=False))


def load(folder: Path, notebook: str) -> Record | None:
    """The record of ``notebook`` in ``folder``; None if there is none that can be read."""
    try:
        return Record(**json.loads((folder / f"{notebook}.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


@dataclass
class Job:
    """One notebook to run."""

    notebook: Path
    parameters: dict[str, Any]  # those that differ from its own
    out: Path  # of the run: ``notebooks`` takes executed copy, log and record, ``figures`` what is drawn

    def __post_init__(self) -> None:
        self.name = self.notebook.stem
        self.copy = self.out / "notebooks" / self.notebook.name  # the executed one
        self.state = self.out / "notebooks" / "state"  # where records lie
        self.last = self.name.endswith("_claims")  # the claims notebook reads the results of the others
        cells = [(cell.cell_type, cell.source) for cell in nbformat.read(self.notebook, as_version=4).cells]
        named = [_content(name) for name in _named(self.parameters.values())]
        made_from = json.dumps([cells, sorted(self.parameters.items()), named, shipped()])
        self._digest = hashlib.sha256(made_from.encode()).hexdigest()
        self.before = load(self.state, self.name)

    @property
    def inputs(self) -> str:
        """Digest of everything it depends on: cells, parameters and files they name, code, data, others' results."""
        read = [f for place in (FIGURES, self.out / "figures") for f in (place / "results").glob("*.json")]
        return self._digest + content_digest(*(f for f in read if f.stem != self.name)) * self.last

    @property
    def expected(self) -> float:
        """Seconds it took last time, here or when it was stored."""
        stored = json.loads(SECONDS.read_text(encoding="utf-8")) if SECONDS.is_file() else {}
        return self.before.seconds if self.before else float(stored.get(self.name, GUESS))

    @property
    def current(self) -> bool:
        """Whether a run would only repeat the last one, all of whose files are there as it wrote them."""
        last = load(self.state, self.name)
        return bool(
            last
            and not last.error
            and last.inputs == self.inputs
            and self.copy.is_file()
            and all(content_digest(self.out / "figures" / name) == found for name, found in last.outputs.items())
        )


def _content(name: str) -> str | None:
    """Digest of a file or folder, or the commit of a model on the hub, that a parameter may name."""
    path = Path(name).expanduser()
    if path.exists():
        return content_digest(path)
    if not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name):
        return None
    from ..suites.survey import hub_commit  # torch and transformers, which take seconds

    return hub_commit(name)


def _named(values: Any) -> Iterator[str]:
    """What parameters may name: files, models; for a suite also its checkpoints and texts."""
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from _named(value)
        elif isinstance(value, str) and value:
            yield value
            if (value.endswith((".yaml", ".yml")) and Path(value).is_file()) or (SUITES / f"{value}.yaml").is_file():
                suite = suites.read(value)
                yield from (*(c.source for c in suite.checkpoints), *suite.corpora)


@cache
def shipped() -> list[str]:
    """Digests of the library's code and of the data, and versions of the required packages."""
    installed = {d.name: d.version for d in metadata.distributions()}
    required = {re.split(r"[^\w.-]", line)[0] for line in metadata.requires("sparsinglib") or []}
    versions = [f"{name} {installed.get(name)}" for name in sorted(required)]
    return [content_digest(*Path(__file__).parents[1].rglob("*.py")), content_digest(DATA), *versions]


@cache
def commit() -> str:
    """Short id of the repository's commit, "+" behind it if tracked files were changed since; "" without git."""
    try:
        call = ["git", "-C", str(ROOT), "describe", "--always", "--exclude=*", "--dirty=+", "--abbrev=10"]
        return subprocess.run(call, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def run(jobs: Sequence[Job], width: int, environment: Mapping[str, str]) -> list[Record]:
    """Run jobs, ``width`` at a time; interrupted, it ends its processes first. Gives how each ended.

    Longest first, so that no process waits at the end; what reads the others' results after them.
    """
    waiting = sorted(jobs, key=lambda job: (job.last, -job.expected))
    running: dict[subprocess.Popen[str], tuple[Job, str, float]] = {}
    records = []
    try:
        with tqdm(total=len(jobs), desc="notebooks", unit="notebook", disable=None) as bar:
            while waiting or running:
                while waiting and len(running) < width and not (waiting[0].last and running):
                    job = waiting.pop(0)
                    inputs = job.inputs  # before it starts: what it reads may change again while it runs
                    running[_start(job, environment)] = job, inputs, time.monotonic()
                time.sleep(0.1)
                for process in [p for p in running if p.poll() is not None]:
                    record = _finish(process, *running.pop(process))
                    result = f"FAILED: {record.error}" if record.error else "done"
                    tqdm.write(f"{record.notebook}: {result} ({record.seconds:.0f} s)")
                    bar.update()
                    records.append(record)
                now = time.monotonic()
                left = [max(0.0, job.expected - (now - started)) for job, _, started in running.values()]
                rest = max([sum([*left, *(job.expected for job in waiting)]) / width, *left])
                names = ", ".join(job.name.split("_")[0] for job, *_ in running.values())
                bar.set_postfix_str(f"running {names}; about {rest:.0f} s left")
    finally:
        for process in running:
            process.kill()
    return records


def _start(job: Job, environment: Mapping[str, str]) -> subprocess.Popen[str]:
    job.copy.unlink(missing_ok=True)
    notes = job.state / f"{job.name}.written"
    notes.unlink(missing_ok=True)
    order = {"notebook": str(job.notebook), "copy": str(job.copy), "parameters": job.parameters}
    with job.copy.with_suffix(".log").open("w", encoding="utf-8") as log:
        return subprocess.Popen(
            # -P: the package's modules must not hide standard ones of the same name.
            [sys.executable, "-P", str(PROCESS), json.dumps(order)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**environment, OUTPUT: str(job.out / "figures"), WRITTEN: str(notes)},
            start_new_session=True,  # Ctrl-C is ours; the process ends when its standard input closes
        )


def _finish(process: subprocess.Popen[str], job: Job, inputs: str, started: float) -> Record:
    said = process.communicate()[0].strip()
    notes, figures = job.state / f"{job.name}.written", job.out / "figures"
    written = [Path(line) for line in notes.read_text(encoding="utf-8").splitlines()] if notes.is_file() else []
    kept = sorted({path for path in written if path.is_relative_to(figures) and path.is_file()})
    notes.unlink(missing_ok=True)
    record = Record(
        notebook=job.name,
        inputs=inputs,
        parameters=job.parameters,
        commit=commit(),
        finished=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        seconds=round(time.monotonic() - started, 1),
        outputs={path.relative_to(figures).as_posix(): content_digest(path) for path in kept},
        error=json.loads(said)["error"]
        if said.startswith("{")
        else f"its process ended with status {process.returncode}; see {job.name}.log",
    )
    record.save(job.state)
    return record


def store(job: Job) -> None:
    """Keep in the repository what a run gave: outputs in the notebook, figures and results in ``figures``.

    Without what differs from run to run: papermill's notes, and progress bars, which whoever runs it sees again.
    """
    document = nbformat.read(job.copy, as_version=4)
    for name in ("papermill", "widgets"):
        document.metadata.pop(name, None)
    document.metadata["language_info"] = {"name": "python"}
    for cell in document.cells:
        for name in ("papermill", "execution"):
            cell.metadata.pop(name, None)
        if not cell.metadata.get("tags", True):
            del cell.metadata["tags"]
    write_atomically(job.notebook, nbformat.writes(document))
    record = load(job.state, job.name)
    for name in record.outputs if record else ():
        copy_file(job.out / "figures" / name, FIGURES / name)
    if record and job.notebook.parent == NOTEBOOKS:
        stored = json.loads(SECONDS.read_text(encoding="utf-8")) if SECONDS.is_file() else {}
        stored[job.name] = int(float(f"{record.seconds:.1g}"))
        write_atomically(SECONDS, json.dumps(dict(sorted(stored.items())), indent=1))
