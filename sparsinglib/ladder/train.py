"""Train the ladder again: muP scalings, WSD schedule, one data order, by transformers' Trainer.

``python -m sparsinglib.ladder.train 0.4m-relu`` trains one run from nothing, or continues it; ``--list`` shows all.
Running state (Trainer checkpoints, the checkpoints along the run) is kept under ``build/ladder``, results go to
``data/ladder``. A run that was killed or stopped continues from its last complete checkpoint, with the same result as
an unbroken one; a target raised later continues it too, since the stable stage has no horizon.
"""

import argparse
import json
import shutil
import sys
import time
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from filelock import FileLock, Timeout
from transformers import (
    AutoModelForCausalLM,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    get_wsd_schedule,
)
from transformers.utils import logging

from ..files import LADDER, ROOT, naming, replacing, replacing_directory
from . import recipe as ladder
from .batches import Windows, training_texts
from .block_attention import BLOCK_CAUSAL
from .model import build, make_optimizer
from .recipe import RUNS, Run
from .shipping import is_shipped, last_checkpoint, loss_log, publish, restore, save, step_of

WORK = ROOT / "build" / "ladder"
LOG_TOKENS = 65_536  # the training loss is averaged over about this many tokens
FIRST_POINT = 250_000  # tokens at the first checkpoint along a run; three more in each doubling
SPACING = 0.03  # share of the run between the other kept checkpoints; the last five of them are Appendix E's


def points(run: Run) -> list[int]:
    """Steps whose checkpoints are kept: log-spaced ones, which do not depend on the target, and evenly spaced ones."""
    spaced = (FIRST_POINT * 2 ** (i / 3) for i in range(100))
    log_spaced = {round(t / run.batch_tokens) for t in spaced if t < run.tokens}
    # Even spacing from the end backwards: a run cut off early still has five checkpoints near its end.
    even = {round(run.steps * (1 - SPACING * i)) for i in range(int(1 / SPACING))}
    return sorted({max(1, step) for step in log_spaced | even if step <= run.steps})


class Recorder(TrainerCallback):
    """Keeps the checkpoints along the run, stops in time, and says how far the run is."""

    def __init__(self, run: Run, work: Path, keep: list[int], minutes: float | None) -> None:
        """``keep``: steps to keep; ``minutes``: stop cleanly after this long."""
        self.run, self.work, self.keep, self.minutes = run, work, set(keep), minutes
        self.began, self.logged, self.first = time.monotonic(), time.monotonic(), 0

    def on_train_begin(self, args: TrainingArguments, state: Any, control: Any, **_: Any) -> None:
        """Note where this piece of the run starts."""
        self.began = self.logged = time.monotonic()
        self.first = state.global_step

    def on_step_end(self, args: TrainingArguments, state: Any, control: Any, **more: Any) -> None:
        """Save the model, as it will be measured, at the chosen steps."""
        if state.global_step in self.keep:
            save(more["model"], self.work / f"step_{state.global_step:07d}")

    def on_log(self, args: TrainingArguments, state: Any, control: Any, **more: Any) -> None:
        """Print progress; stop only where the loss was just logged, so that no logged average is cut in two."""
        elapsed, done = time.monotonic() - self.began, state.global_step - self.first
        logs = more["logs"]
        if "loss" not in logs or not done:
            return
        state.log_history[-1] |= {"seconds": time.monotonic() - self.logged, "bf16": args.bf16}
        self.logged = time.monotonic()
        left = timedelta(seconds=round(elapsed / done * (state.max_steps - state.global_step)))
        print(
            f"{self.run.name} step {state.global_step}/{state.max_steps} loss {logs['loss']:.3f} "
            f"{done * self.run.batch_tokens / elapsed:,.0f} tokens/s, {left} left",
            flush=True,
        )
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
    the last checkpoint of the stable stage. ``texts`` holds token ids (n,) of each set, see ``windows.training_texts``.
    Returns the step reached; the checkpoint of that step is in ``work`` (recipe: Section 3, Appendix I).
    """
    steps = run.steps + round(ladder.DECAY_SHARE * run.steps) * decay
    found = last_checkpoint(work)
    if found and step_of(found) >= steps:
        return step_of(found)
    model = build(run)
    model.set_attn_implementation(BLOCK_CAUSAL)
    optimizer = make_optimizer(model, run)
    schedule = _schedule(optimizer, run, steps)
    recorder = Recorder(run, work, [] if decay else points(run), minutes)
    trainer = Trainer(
        model,
        _arguments(run, work, steps),
        train_dataset=Windows(texts, run.seed),
        optimizers=(optimizer, schedule),
        callbacks=[recorder],
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
        max_grad_norm=ladder.GRADIENT_CLIP,
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


def rebuild(run: Run, work: Path, target: Path) -> None:
    """Make a Trainer checkpoint of a finished run from what is shipped of it, if its state is on no disk any more.

    Its weights are the shipped ones, in bf16, and AdamW's moments start at zero, as they do in a fine-tuning; at
    beta2 = 0.95 they are filled again after some twenty steps. Schedule, order of the data and log go on as they were.
    """
    facts = target / "run.json"
    if last_checkpoint(work) is not None or not facts.is_file() or (target / "resume").is_dir():
        return
    step, log = json.loads(facts.read_text())["steps"], pd.read_csv(target / "training.csv")
    checkpoint = work / f"checkpoint-{step}"
    model = AutoModelForCausalLM.from_pretrained(target, dtype=torch.float32, trust_remote_code=False)
    model.save_pretrained(checkpoint)
    optimizer = make_optimizer(model, run)
    schedule = _schedule(optimizer, run, run.steps)
    optimizer.step()  # changes nothing, there being no gradients; the schedule asks for it
    schedule.last_epoch = step - 1
    schedule.step()
    torch.save(optimizer.state_dict(), checkpoint / "optimizer.pt")
    torch.save(schedule.state_dict(), checkpoint / "scheduler.pt")
    history = [{"step": int(row.step), "loss": float(row.loss)} for row in log.itertuples()]
    asked = _arguments(run, work, step)
    state = TrainerState(
        global_step=step,
        max_steps=step,
        train_batch_size=run.batch,
        logging_steps=int(asked.logging_steps),
        save_steps=int(asked.save_steps),
        log_history=history,
        # transformers' annotation names callbacks only; the Trainer itself keeps its control among them.
        stateful_callbacks=[TrainerControl()],  # type: ignore[list-item]
    )
    state.save_to_json(str(checkpoint / "trainer_state.json"))


def decay_branch(run: Run, texts: dict[str, np.ndarray], work: Path, target: Path) -> None:
    """Train the WSD decay from the end of the stable stage and save it as ``decayed`` beside the stable checkpoint.

    One that is there from this end is left as it is. Raises ValueError if the stable stage is not finished.
    """
    written = target / "decayed" / "training.csv"  # last of all
    if written.is_file() and pd.read_csv(written)["step"].min() > run.steps:
        return
    end = last_checkpoint(work)
    if end is None or step_of(end) < run.steps:
        raise ValueError(f"{run.name}: the stable stage is not finished; train it first")
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


def _chosen(names: list[str], everything: bool) -> list[Run]:
    unknown = [name for name in names if name not in RUNS]
    if unknown:
        raise ValueError(f"no run is called {', '.join(unknown)}; the runs: {', '.join(RUNS)}")
    return list(RUNS.values()) if everything else [RUNS[name] for name in names]


def _one(run: Run, texts: dict[str, np.ndarray], work: Path, target: Path, options: argparse.Namespace) -> None:
    """Train or continue one run as the command line asks, and ship what is new of it."""
    restore(work, target)
    with naming(work):
        rebuild(run, work, target)
    found, facts = last_checkpoint(work), target / "run.json"
    shipped = json.loads(facts.read_text())["steps"] if facts.is_file() else 0
    if found and step_of(found) < shipped:
        raise ValueError(
            f"{run.name}: {work} is at step {step_of(found)}, {target} further on, at {shipped}; remove "
            "the first to go on from the second"
        )
    if found and step_of(found) >= run.steps:
        print(
            f"{run.name}: trained to its {run.steps * run.batch_tokens / 1e6:.1f}M tokens. To train it anew, remove "
            f"{work} and {target} first"
        )
    if not options.publish:
        train(run, texts, work, minutes=options.minutes)
    if not is_shipped(work, target):
        publish(run, work, target)
    if (options.decay or options.all) and options.minutes is None:
        decay_branch(run, texts, work, target)


def main(arguments: list[str] | None = None) -> None:
    """Command line: train, continue or decay runs by name."""
    parser = argparse.ArgumentParser(prog="python -m sparsinglib.ladder.train", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="runs to train or to continue")
    parser.add_argument("--all", action="store_true", help="every run, one after another, with its decay branch")
    parser.add_argument("--list", action="store_true", help="show the runs, and train nothing (as without any NAME)")
    parser.add_argument(
        "--decay", action="store_true", help="after the run, train its decay branch (10 %% more tokens)"
    )
    parser.add_argument(
        "--publish",
        action="store_true",
        help="train nothing, only write what a killed run's last checkpoint holds to data/ladder",
    )
    parser.add_argument("--minutes", type=float, help="stop each run cleanly after so long; the same command continues")
    options = parser.parse_args(arguments)
    if options.minutes is not None and not options.minutes > 0:
        parser.error(f"--minutes must be above 0, got {options.minutes:g}.")
    if options.decay and options.minutes is not None:
        parser.error("--decay trains to its end: leave out --minutes, or give it without --decay first.")
    try:
        runs = _chosen(options.names, options.all)
    except ValueError as error:
        parser.error(str(error))
    try:
        if options.list or not runs:
            print(pd.DataFrame([asdict(run) for run in RUNS.values()]).to_string(index=False))
            return
        torch.set_num_threads(1)
        logging.disable_progress_bar()
        texts = {} if options.publish else training_texts()
        for run in runs:
            work, target = WORK / run.name, LADDER / run.name
            work.mkdir(parents=True, exist_ok=True)
            try:
                with FileLock(work / ".lock", timeout=0):
                    _one(run, texts, work, target, options)
            except Timeout:
                raise ValueError(f"{run.name}: another process trains it; wait for that, or stop it first") from None
    except (ValueError, ModuleNotFoundError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
