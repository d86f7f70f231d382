"""Runs notebooks in processes of their own, some at a time, and records how each ended."""

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..files import ROOT
from . import run_state

PROCESS = Path(__file__).with_name("notebook_process.py")
GUESS = 60.0  # seconds taken for a notebook that never ran here


def is_claims(notebook: Path) -> bool:
    """Whether this notebook is built from the results of the others, and so has to run after them."""
    return notebook.stem.endswith("_claims")


@dataclass
class Job:
    """One notebook to run.

    Attributes:
        notebook: its file.
        parameters: those that differ from its own.
        suite: the suite asked for, "" for none.
        folder: where the executed copy, the log and the record go.
        reads: directories of results that it reads, as the claims notebook does.
    """

    notebook: Path
    parameters: dict[str, Any]
    suite: str
    folder: Path
    reads: Sequence[Path] = ()

    def __post_init__(self) -> None:
        self.before = run_state.load(self.state, self.name)
        self.inputs = self.digest()

    def digest(self) -> str:
        """Digest of everything it depends on, as it is now."""
        read = [path for folder in self.reads for path in sorted(folder.glob("*.json"))]
        others = [path for path in read if path.stem != self.name]
        return run_state.inputs(self.notebook, self.parameters, others)

    @property
    def name(self) -> str:
        """Its name without ending."""
        return self.notebook.stem

    @property
    def copy(self) -> Path:
        """The executed copy."""
        return self.folder / self.notebook.name

    @property
    def state(self) -> Path:
        """Where records lie."""
        return self.folder / "state"

    @property
    def expected(self) -> float:
        """Seconds it took last time, or a guess."""
        return self.before.seconds if self.before else GUESS

    @property
    def current(self) -> bool:
        """Whether a run would only repeat the last one."""
        return bool(self.before and self.before.current(self.inputs, self.copy))


class Runner:
    """Runs jobs in processes of their own, ``width`` at a time, and records how each ended."""

    def __init__(self, jobs: Sequence[Job], width: int, environment: Mapping[str, str]) -> None:
        # Longest first, so that none of the processes waits at the end; what reads the others' results last.
        self.waiting = sorted(jobs, key=lambda job: (is_claims(job.notebook), -job.expected))
        self.width, self.environment = width, dict(environment)
        self.running: dict[subprocess.Popen[str], tuple[Job, float]] = {}
        self.records: list[run_state.Record] = []

    def run(self) -> list[run_state.Record]:
        """Run all of them; interrupted, it ends its processes first."""
        total = len(self.waiting)
        try:
            with tqdm(total=total, desc="notebooks", unit="notebook", disable=None) as bar:
                while self.waiting or self.running:
                    self._start()
                    time.sleep(0.1)
                    for process in [p for p in self.running if p.poll() is not None]:
                        record = self._finish(process)
                        result = f"FAILED: {record.error}" if record.error else "done"
                        tqdm.write(f"{record.notebook}: {result} ({record.seconds:.0f} s)")
                        bar.update()
                    bar.set_postfix_str(self._progress())
        finally:
            for process in self.running:
                process.kill()
        return self.records

    def _progress(self) -> str:
        now = time.monotonic()
        left = [max(0.0, job.expected - (now - started)) for job, started in self.running.values()]
        rest = max([sum([*left, *(job.expected for job in self.waiting)]) / self.width, *left])
        names = ", ".join(job.name.split("_")[0] for job, _ in self.running.values())
        return f"running {names}; about {rest:.0f} s left"

    def _start(self) -> None:
        while self.waiting and len(self.running) < self.width:
            if is_claims(self.waiting[0].notebook) and any(not is_claims(j.notebook) for j, _ in self.running.values()):
                return
            job = self.waiting.pop(0)
            job.inputs = job.digest()  # what it reads may have changed since it was planned
            job.copy.unlink(missing_ok=True)
            notes = job.state / f"{job.name}.written"
            notes.unlink(missing_ok=True)
            order = {"notebook": str(job.notebook), "copy": str(job.copy), "parameters": job.parameters}
            with (job.folder / f"{job.name}.log").open("w", encoding="utf-8") as log:
                process = subprocess.Popen(
                    # -P: the package's modules must not hide standard ones of the same name.
                    [sys.executable, "-P", str(PROCESS), json.dumps(order)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                    env=self.environment | {"SPARSINGLIB_WRITTEN": str(notes)},
                    start_new_session=True,  # Ctrl-C is ours; the process ends when its standard input closes
                )
            self.running[process] = job, time.monotonic()

    def _finish(self, process: subprocess.Popen[str]) -> run_state.Record:
        job, started = self.running.pop(process)
        said = process.communicate()[0].strip()
        crash = f"its process ended with status {process.returncode}; see {job.name}.log"
        notes = job.state / f"{job.name}.written"
        written = notes.read_text(encoding="utf-8").splitlines() if notes.is_file() else []
        notes.unlink(missing_ok=True)
        record = run_state.Record(
            notebook=job.name,
            inputs=job.inputs,
            parameters=job.parameters,
            suite=job.suite,
            commit=run_state.commit(),
            data=run_state.data_digest(),
            finished=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            seconds=round(time.monotonic() - started, 1),
            outputs=sorted(short(path) for path in map(Path, written) if path.is_file()),
            error=json.loads(said)["error"] if said.startswith("{") else crash,
        )
        record.save(job.state)
        self.records.append(record)
        return record


def short(path: Path) -> str:
    """A path as seen from the repository, where it lies in it."""
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else str(path)
