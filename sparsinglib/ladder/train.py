"""Train the ladder again: muP scalings, WSD schedule, one data order, by transformers' Trainer.

``python -m sparsinglib.ladder.train 0.4m-relu`` trains one run from nothing, or continues it; ``--list`` shows all.
Running state (Trainer checkpoints, the checkpoints along the run) is kept under ``build/ladder``, results go to
``data/ladder``. A run that was killed or stopped continues from its last complete checkpoint, with the same result as
an unbroken one; a target raised later continues it too, since the stable stage has no horizon.
"""

import argparse
import copy
import hashlib
import json
import shutil
import sys
import time
from dataclasses import asdict
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from filelock import FileLock, Timeout
from transformers import (
    AutoModelForCausalLM,
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    get_wsd_schedule,
)
from transformers.utils import logging

from ..core.checkpoints import LADDER_TOKENIZER
from ..files import LADDER, ROOT, copy_file, naming, replacing, replacing_directory, write_atomically
from ..texts import corpora
from . import recipe, snapshots
from .batches import Windows, training_texts
from .model import build, make_optimizer, use_block_attention
from .recipe import Run, chosen
from .resume import FOLDER, keep_state, last_checkpoint, restore, step_of

WORK = ROOT / "build" / "ladder"
LOG_TOKENS = 65_536  # the training loss is averaged over about this many tokens


class Recorder(TrainerCallback):
    """Keeps the checkpoints along the run, measures snapshots, stops in time, and says how far the run is."""

    def __init__(self, run: Run, work: Path, decay: bool, minutes: float | None) -> None:
        """``decay``: neither checkpoints nor snapshots; ``minutes``: stop cleanly after this long."""
        self.run, self.work, self.minutes = run, work, minutes
        self.keep = set() if decay else set(recipe.kept_steps(run))
        self.groups = snapshots.groups(run) if run.snapshots and not decay else {}

    def on_train_begin(self, args: TrainingArguments, state: Any, control: Any, **_: Any) -> None:
        """Note where and when this piece of the run starts."""
        self.began = self.logged = time.monotonic()
        self.first = state.global_step

    def on_step_end(self, args: TrainingArguments, state: Any, control: Any, **more: Any) -> None:
        """Save the model, as it will be measured, or measure it at once, at the chosen steps."""
        step = state.global_step
        if step in self.keep:
            save(more["model"], self.work / f"step_{step:07d}")
        if step in self.groups:
            snapshots.record(self.run, more["model"], step, self.groups[step], self.work / snapshots.FILE)

    def on_log(self, args: TrainingArguments, state: Any, control: Any, **more: Any) -> None:
        """Print progress; stop only where the loss was just logged, so that no logged average is cut in two."""
        elapsed, done = time.monotonic() - self.began, state.global_step - self.first
        logs = more["logs"]
        if "loss" not in logs or not done:
            return
        state.log_history[-1] |= {"seconds": time.monotonic() - self.logged, "bf16": args.bf16}
        self.logged = time.monotonic()
        left = timedelta(seconds=round(elapsed / done * (state.max_steps - state.global_step)))
        speed = f"{done * self.run.batch_tokens / elapsed:,.0f} tokens/s, {left} left"
        print(f"{self.run.name} step {state.global_step}/{state.max_steps} loss {logs['loss']:.3f} {speed}", flush=True)
        if self.minutes is not None and elapsed > 60 * self.minutes:
            control.should_save = control.should_training_stop = True


def train(
    run: Run,
    texts: dict[str, np.ndarray],
    work: Path,
    *,
    minutes: float | None = None,
    decay: bool = False,
    compiled: bool = True,
) -> int:
    """Train a run to its target or for so many minutes, from its last complete checkpoint under ``work`` if any.

    With ``decay`` the learning rate falls to zero over the last ``DECAY_SHARE`` more tokens, and ``work`` has to hold
    the last checkpoint of the stable stage. ``texts`` holds token ids (n,) of each set, see ``training_texts``.
    Returns the step reached; the checkpoint of that step is in ``work`` (recipe: Section 3, Appendix I).
    """
    steps = run.steps + round(recipe.DECAY_SHARE * run.steps) * decay
    found = last_checkpoint(work)
    if found and step_of(found) >= steps:
        return step_of(found)
    model = build(run)
    use_block_attention(model)
    optimizer = make_optimizer(model, run)
    trainer = Trainer(
        model,
        _arguments(run, work, steps),
        train_dataset=Windows(texts, run.seed),
        optimizers=(optimizer, _schedule(optimizer, run, steps)),
        callbacks=[Recorder(run, work, decay, minutes)],
    )
    trainer.remove_callback(PrinterCallback)
    if compiled:
        model.compile()
    with naming(work):
        trainer.train(resume_from_checkpoint=str(found) if found else None)
    return trainer.state.global_step


def _schedule(optimizer: torch.optim.Optimizer, run: Run, steps: int) -> torch.optim.lr_scheduler.LambdaLR:
    """WSD: warm-up, then constant for ever, or, for ``steps`` beyond the run's own, until the decay begins there."""
    warmup = round(run.warmup_tokens / run.batch_tokens)
    return get_wsd_schedule(
        optimizer,
        num_warmup_steps=warmup,
        num_stable_steps=run.steps - warmup if steps > run.steps else 10**9,
        num_decay_steps=steps - run.steps,
        decay_type="1-sqrt",
    )


def fast_bf16() -> bool:
    """Whether this processor multiplies bf16 natively; where it does not, bf16 is several times slower than fp32."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported() and torch.cpu._is_avx512_bf16_supported())


def _arguments(run: Run, work: Path, steps: int) -> TrainingArguments:
    log_steps = max(1, round(LOG_TOKENS / run.batch_tokens))
    return TrainingArguments(
        output_dir=str(work),
        max_steps=steps,
        per_device_train_batch_size=run.batch,
        max_grad_norm=recipe.GRADIENT_CLIP,
        train_sampling_strategy="sequential",
        logging_steps=log_steps,
        save_steps=16 * log_steps,
        save_total_limit=2,
        seed=run.seed,
        use_cpu=True,
        bf16=fast_bf16(),
        report_to="none",
        disable_tqdm=True,
    )


def save(model: PreTrainedModel, directory: Path) -> None:
    """Write a checkpoint in bf16, all or nothing; ``model`` is left as it is. Raises OSError if the disk is full."""
    half = copy.deepcopy(model).bfloat16()
    half.config.use_cache = True
    with replacing_directory(directory) as partial:
        half.save_pretrained(partial)


def _history(checkpoint: Path) -> pd.DataFrame:
    """The Trainer's log up to a checkpoint, one row for each logged loss."""
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    rows = [row for row in state["log_history"] if "loss" in row]
    return pd.DataFrame(rows, columns=["step", "loss", "seconds", "bf16"])


def loss_log(run: Run, checkpoint: Path) -> pd.DataFrame:
    """Training loss in nats: run, step, tokens, loss (mean of 65k tokens), loss_smoothed (half-life 0.5M tokens)."""
    log = _history(checkpoint)
    smoothed = log["loss"].ewm(halflife=8).mean().round(4)
    facts = {"run": run.name, "step": log["step"], "tokens": log["step"] * run.batch_tokens}
    return pd.DataFrame(facts | {"loss": log["loss"].round(4), "loss_smoothed": smoothed})


def describe(run: Run, model: PreTrainedModel, checkpoint: Path) -> dict[str, Any]:
    """What ``run.json`` says of a run at ``checkpoint``: recipe, size, speed, seed, versions, hashes of its data."""
    total, embedding = (sum(p.numel() for p in part.parameters()) for part in (model, model.get_input_embeddings()))
    step, log = step_of(checkpoint), _history(checkpoint)
    seconds = log["seconds"].sum()
    rate = run.learning_rate * recipe.BASE_WIDTH / run.width
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
        "rate_times_decay_times_steps": round(rate * run.weight_decay * step, 2),
        "seconds": round(seconds),
        "tokens_per_second": round(log["step"].iloc[-1] * run.batch_tokens / seconds),
        "steps_in_bf16_share": round(float(log["bf16"].mean()), 3),
        "threads": torch.get_num_threads(),
        "shares": corpora.SHARES,
        "corpora_sha256": corpora.SHA256,
        "tokenizer_sha256": hashlib.sha256((LADDER_TOKENIZER / "tokenizer.json").read_bytes()).hexdigest(),
        "versions": {name: version(name) for name in ("torch", "transformers", "tokenizers", "numpy")},
    }


def publish(run: Run, work: Path, target: Path) -> None:
    """Write what is shipped of a run's stable stage: bf16 weights, ``run.json``, ``training.csv``, its snapshots.

    An unfinished run's state is put beside them in ``resume``, so that another machine can continue it.
    """
    checkpoint = last_checkpoint(work)
    assert checkpoint is not None  # that which ``train`` leaves
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    half = work / f"step_{step_of(checkpoint):07d}"
    save(model, half)
    for name in ("config.json", "model.safetensors"):
        copy_file(half / name, target / name)
    with replacing(target / "training.csv") as file:
        loss_log(run, checkpoint).to_csv(file, index=False)
    if (work / snapshots.FILE).is_file():
        copy_file(work / snapshots.FILE, target / snapshots.FILE)
    keep_state(checkpoint, target, finished=step_of(checkpoint) >= run.steps)
    # Last: what it says is there is there.
    write_atomically(target / "run.json", json.dumps(describe(run, model, checkpoint), indent=1))


def decay_branch(run: Run, texts: dict[str, np.ndarray], work: Path, target: Path) -> None:
    """Train the WSD decay from the end of the stable stage and save it as ``decayed`` beside the stable checkpoint.

    One that is there from this end is left as it is. Raises ValueError if the end of the stable stage is not there.
    """
    written = target / "decayed" / "training.csv"  # last of all
    if written.is_file() and pd.read_csv(written)["step"].min() > run.steps:
        return
    end = last_checkpoint(work)
    if end is None or step_of(end) < run.steps:
        raise ValueError(f"{run.name}: the stable stage is not finished on this machine; train it first")
    branch = work / f"decay_{step_of(end)}"  # a target raised later decays anew, from its own end
    if last_checkpoint(branch) is None:
        with replacing_directory(branch / end.name) as partial:
            shutil.copytree(end, partial, dirs_exist_ok=True)
    train(run, texts, branch, decay=True)
    done = last_checkpoint(branch)
    assert done is not None  # the stable stage's, at least
    save(AutoModelForCausalLM.from_pretrained(done), target / "decayed")
    log = loss_log(run, done)
    with replacing(written) as file:
        log[log["step"] > run.steps].to_csv(file, index=False)


def _one(run: Run, minutes: float | None, decay: bool) -> None:
    """Train or continue one run, and ship what is new of it; what is shipped is never replaced by an older state."""
    work, target = WORK / run.name, LADDER / run.name
    shipped = recipe.record(target).get("steps", 0)
    work.mkdir(parents=True, exist_ok=True)
    with FileLock(work / ".lock", timeout=0):
        restore(work, target)
        found = last_checkpoint(work)
        if found and step_of(found) < shipped:
            steps = f"{work} is at step {step_of(found)}, {target} further on, at {shipped}"
            raise ValueError(f"{run.name}: {steps}; remove the first to go on from the second")
        if shipped >= run.steps:
            tokens = f"{run.steps * run.batch_tokens / 1e6:.1f}M tokens"
            print(f"{run.name}: trained to its {tokens}. To train it anew, remove {work} and {target} first")
        elif shipped and found is None:
            remedy = f"bring it back (git restore), or remove {target} to train from nothing"
            raise ValueError(f"{run.name}: {target / FOLDER}, to go on from, is gone or damaged: {remedy}")
        else:
            train(run, training_texts(), work, minutes=minutes)
            publish(run, work, target)
        if decay and minutes is None:
            decay_branch(run, training_texts(), work, target)


def main(arguments: list[str] | None = None) -> None:
    """Command line: train, continue or decay runs by name."""
    parser = argparse.ArgumentParser(prog="python -m sparsinglib.ladder.train", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="runs to train or to continue")
    parser.add_argument("--list", action="store_true", help="show the runs, and train nothing (as without any NAME)")
    parser.add_argument("--all", action="store_true", help="every run but the long ones, each with its decay branch")
    parser.add_argument("--decay", action="store_true", help="after the run, train its decay branch (10 %% more)")
    parser.add_argument("--minutes", type=float, help="stop each run cleanly after so long; the same command continues")
    options = parser.parse_args(arguments)
    if options.minutes is not None and not options.minutes > 0:
        parser.error(f"--minutes must be above 0, got {options.minutes:g}.")
    if options.decay and options.minutes:
        parser.error("--decay trains to its end: leave out --minutes, or give it without --decay first.")
    runs = [run for run in recipe.RUNS.values() if not run.snapshots] if options.all else chosen(options.names, parser)
    if options.list or not runs:
        print(pd.DataFrame([asdict(run) for run in recipe.RUNS.values()]).to_string(index=False))
        return
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    for run in runs:
        try:
            _one(run, options.minutes, options.decay or options.all)
        except Timeout:
            sys.exit(f"{run.name}: another process trains it; wait for that, or stop it first")
        except (ValueError, ModuleNotFoundError, OSError) as error:
            sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
