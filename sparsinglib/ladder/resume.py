"""What an interrupted run continues from: the Trainer's checkpoints on this machine, or a state that was shipped."""

import json
import shutil
import sys
import zipfile
from pathlib import Path

from safetensors import SafetensorError, safe_open

from ..files import copy_file, replacing_directory
from . import snapshots

STATE = ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json")
FOLDER = "resume"  # of an unfinished run, among what is shipped of it


def step_of(checkpoint: Path) -> int:
    """Step of a Trainer checkpoint, from its name."""
    return int(checkpoint.name.rpartition("-")[2])


def last_checkpoint(work: Path) -> Path | None:
    """Newest complete Trainer checkpoint: all that a run continues from is there and can be read."""
    for path in sorted(work.glob("checkpoint-*"), key=step_of, reverse=True):
        if _readable(path):
            return path
        print(f"{path.name} is only half written and is left out", file=sys.stderr)
    return None


def _readable(checkpoint: Path) -> bool:
    try:
        with safe_open(checkpoint / "model.safetensors", "pt"):  # a file that was cut off does not open
            # Pickles in a zip, whose directory is at its end: one that was cut off is no zip any more.
            whole = all(zipfile.is_zipfile(checkpoint / name) for name in STATE if name.endswith((".pt", ".pth")))
        return whole and bool(json.loads((checkpoint / "trainer_state.json").read_text()))
    except (OSError, ValueError, SafetensorError):
        return False


def keep_state(checkpoint: Path, target: Path, finished: bool) -> None:
    """Put the state of an unfinished run beside what is shipped of it in ``target``; of a finished one none is left."""
    if finished:
        shutil.rmtree(target / FOLDER, ignore_errors=True)
        return
    with replacing_directory(target / FOLDER) as partial:
        for name in STATE:
            shutil.copy(checkpoint / name, partial / name)


def restore(work: Path, target: Path) -> None:
    """Bring back the state of an unfinished run from where it was shipped, if this machine has none of its own."""
    state = target / FOLDER
    if last_checkpoint(work) is not None or not _readable(state):
        return
    step = json.loads((state / "trainer_state.json").read_text())["global_step"]
    with replacing_directory(work / f"checkpoint-{step}") as partial:
        shutil.copytree(state, partial, dirs_exist_ok=True)
        shutil.copy(target / "config.json", partial)
    if (target / snapshots.FILE).is_file():
        copy_file(target / snapshots.FILE, work / snapshots.FILE)
