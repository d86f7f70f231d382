"""What is kept of a ladder run: its checkpoints, what is shipped of it, and how another machine goes on from that."""

import copy
import hashlib
import json
import shutil
import sys
import zipfile
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoModelForCausalLM, PreTrainedModel

from ..core.checkpoints import LADDER_TOKENIZER
from ..files import copy as copy_file
from ..files import replacing, replacing_directory, write_atomically
from ..texts import corpora
from . import recipe as ladder
from .recipe import Run


def save(model: PreTrainedModel, directory: Path) -> None:
    """Write a checkpoint in bf16, all or nothing; ``model`` is left as it is. Raises OSError if the disk is full."""
    half = copy.deepcopy(model).bfloat16()
    half.config.use_cache = True
    with replacing_directory(directory) as partial:
        half.save_pretrained(partial)


def last_checkpoint(work: Path) -> Path | None:
    """Newest complete Trainer checkpoint: all that a run continues from is there and can be read."""
    complete = [path for path in work.glob("checkpoint-*") if _readable(path)]
    for path in sorted(set(work.glob("checkpoint-*")) - set(complete)):
        print(f"{path.name} is only half written and is left out", file=sys.stderr)
    return max(complete, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def _readable(checkpoint: Path) -> bool:
    try:
        with safe_open(checkpoint / "model.safetensors", "pt"):  # a file that was cut off does not open
            there = all((checkpoint / name).is_file() for name in ("optimizer.pt", "scheduler.pt"))
        # Pickles in a zip, whose directory is at its end: one that was cut off is no zip any more.
        whole = all(zipfile.is_zipfile(path) for path in checkpoint.glob("*.pt*"))
        return there and whole and bool(json.loads((checkpoint / "trainer_state.json").read_text()))
    except (OSError, ValueError, SafetensorError):
        return False


RESUME_FILES = ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json")


def loss_log(run: Run, checkpoint: Path) -> pd.DataFrame:
    """Training loss in nats: run, step, tokens, loss (mean of 65k tokens), loss_smoothed (half-life 0.5M tokens)."""
    history = json.loads((checkpoint / "trainer_state.json").read_text())["log_history"]
    rows = [{"run": run.name, "step": row["step"], "loss": row["loss"]} for row in history if "loss" in row]
    log = pd.DataFrame(rows, columns=["run", "step", "loss"])
    log.insert(2, "tokens", log["step"] * run.batch_tokens)
    log["loss_smoothed"] = log["loss"].ewm(halflife=8).mean().round(4)
    return log.round({"loss": 4})


def describe(run: Run, model: PreTrainedModel, checkpoint: Path) -> dict[str, Any]:
    """What ``run.json`` says of a run at ``checkpoint``: recipe, size, speed, seed, versions, hashes of its data."""
    total, embedding = (sum(p.numel() for p in part.parameters()) for part in (model, model.get_input_embeddings()))
    step = step_of(checkpoint)
    return {
        **asdict(run),
        "finished": step >= run.steps,
        "steps": step,
        "tokens": step * run.batch_tokens,
        "tokens_per_step": run.batch_tokens,
        "parameters": total - embedding,
        "embedding_parameters": embedding,
        "neurons": run.neurons,
        "width_depth_ratio": round(run.width / run.layers, 2),
        "tokens_per_parameter": round(step * run.batch_tokens / (total - embedding), 1),
        "rate_times_decay_times_steps": round(
            run.learning_rate * ladder.BASE_WIDTH / run.width * run.weight_decay * step, 2
        ),
        **_timing(run, checkpoint),
        "threads": torch.get_num_threads(),
        "shares": corpora.SHARES,
        "corpora_sha256": corpora.SHA256,
        "tokenizer_sha256": hashlib.sha256((LADDER_TOKENIZER / "tokenizer.json").read_bytes()).hexdigest(),
        "versions": {name: version(name) for name in ("torch", "transformers", "tokenizers", "numpy")},
    }


def _timing(run: Run, checkpoint: Path) -> dict[str, Any]:
    """Seconds, tokens a second and share of steps in bf16, of the rows of the log that say it.

    Those of a run that goes on from its shipped weights do not, up to there (``training.rebuild``): speed is that of
    the later steps, and the share is None.
    """
    history = json.loads((checkpoint / "trainer_state.json").read_text())["log_history"]
    rows = [row for row in history if "loss" in row]
    steps = [row["step"] - before for row, before in zip(rows, [0, *(row["step"] for row in rows)], strict=False)]
    timed = [(count, row["seconds"]) for count, row in zip(steps, rows, strict=True) if "seconds" in row]
    seconds, half = sum(time for _, time in timed), [row.get("bf16") for row in rows]
    return {
        "seconds": round(seconds),
        "tokens_per_second": round(sum(count for count, _ in timed) * run.batch_tokens / seconds) if seconds else None,
        "steps_in_bf16_share": round(sum(half) / len(half), 3) if half and None not in half else None,
    }


def publish(run: Run, work: Path, target: Path) -> None:
    """Write what is shipped of a run's stable stage: bf16 weights, ``run.json``, ``training.csv``.

    An unfinished run's state is put beside them in ``resume``, so that another machine can continue it. Raises
    ValueError if ``work`` holds no complete checkpoint.
    """
    checkpoint = last_checkpoint(work)
    if checkpoint is None:
        raise ValueError(f"{run.name} has no complete checkpoint yet: train it first")
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    half = work / f"step_{step_of(checkpoint):07d}"
    save(model, half)
    for name in ("config.json", "model.safetensors"):
        copy_file(half / name, target / name)
    with replacing(target / "training.csv") as file:
        loss_log(run, checkpoint).to_csv(file, index=False)
    resume = target / "resume"
    if step_of(checkpoint) < run.steps:
        with replacing_directory(resume) as partial:
            for name in RESUME_FILES:
                shutil.copy(checkpoint / name, partial / name)
    else:
        shutil.rmtree(resume, ignore_errors=True)
    # Last of all: what it says is there is there.
    write_atomically(target / "run.json", json.dumps(describe(run, model, checkpoint), indent=1))


def is_shipped(work: Path, target: Path) -> bool:
    """Whether ``target`` already holds what the last checkpoint under ``work`` would make of it."""
    checkpoint, facts = last_checkpoint(work), target / "run.json"
    return bool(checkpoint and facts.is_file() and json.loads(facts.read_text())["steps"] == step_of(checkpoint))


def restore(work: Path, target: Path) -> None:
    """Bring back the state of an unfinished run from where ``publish`` put it, if this machine has none of its own.

    Raises ValueError if that state is damaged: without it the run would begin anew, and replace what is shipped.
    """
    state = target / "resume" / "trainer_state.json"
    if last_checkpoint(work) is None and state.parent.is_dir():
        if not _readable(state.parent) or not all((state.parent / name).is_file() for name in RESUME_FILES):
            raise ValueError(
                f"{state.parent} is damaged, so the run cannot go on from it: bring it back (git restore), or remove "
                f"{target} to train from nothing"
            )
        step = json.loads(state.read_text())["global_step"]
        with replacing_directory(work / f"checkpoint-{step}") as partial:
            shutil.copytree(state.parent, partial, dirs_exist_ok=True)
            shutil.copy(target / "config.json", partial)


def step_of(checkpoint: Path) -> int:
    """Step of a Trainer checkpoint, from its name."""
    return int(checkpoint.name.rpartition("-")[2])
