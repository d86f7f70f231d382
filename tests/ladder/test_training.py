"""The ladder's trainer: the same weights twice, and stopped or damaged runs that lose nothing."""

import json
import math
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from filelock import FileLock
from made_up import TINY, training_texts
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from sparsinglib.ladder import recipe, resume, snapshots, train
from sparsinglib.ladder.model import build

COMPILED = train.train


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """A log row every 4 steps, a Trainer checkpoint every 64; no compilation, which takes most of a minute."""
    monkeypatch.setattr(train, "LOG_TOKENS", 4 * recipe.CONTEXT)
    monkeypatch.setattr(train, "train", partial(COMPILED, compiled=False))


@pytest.fixture(scope="module")
def texts():
    return training_texts()


def weights(work: Path) -> dict[str, torch.Tensor]:
    return load_file(train.last_checkpoint(work) / "model.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_multipliers_survive_saving(tmp_path):
    model = build(TINY)
    train.save(model, tmp_path / "m")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "m", dtype=torch.float32, trust_remote_code=False)
    ids = torch.arange(40).unsqueeze(0)
    model.load_state_dict({name: value.to(torch.bfloat16).float() for name, value in model.state_dict().items()})
    torch.testing.assert_close(again(ids).logits, model(ids).logits)
    config = again.config
    assert config.embedding_multiplier == 12
    assert config.residual_multiplier == pytest.approx(1.4 / math.sqrt(2))
    assert config.logits_scaling == TINY.width / 16


def test_same_seed_same_weights_and_another_seed_others(texts, tmp_path):
    for name, run in (("a", TINY), ("b", TINY), ("c", replace(TINY, seed=2))):
        assert train.train(run, texts, tmp_path / name) == 50
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert not same(weights(tmp_path / "a"), weights(tmp_path / "c"))


def test_stopped_extended_and_half_written_equals_unbroken(texts, tmp_path, capsys):
    long = replace(TINY, tokens=72 * recipe.CONTEXT)
    train.train(long, texts, tmp_path / "whole")
    work = tmp_path / "pieces"
    assert train.train(long, texts, work, minutes=0) == 4  # the first log row
    train.train(TINY, texts, work)
    whole = train.last_checkpoint(work)
    (work / "checkpoint-51").mkdir()
    (work / "checkpoint-51" / "trainer_state.json").write_text('{"global_step": 5')
    (shutil.copytree(whole, work / "checkpoint-53") / "optimizer.pt").unlink()
    # Complete but for the end of a file, as a disk that lost its power may leave one.
    for step, name in ((54, "model.safetensors"), (55, "optimizer.pt"), (56, "rng_state.pth"), (57, "scheduler.pt")):
        cut = shutil.copytree(whole, work / f"checkpoint-{step}") / name
        cut.write_bytes(cut.read_bytes()[:-100])
    assert train.train(long, texts, work) == 72
    said = capsys.readouterr().err
    assert all(f"checkpoint-{step} is only half written" in said for step in (51, 53, 54, 55, 56, 57))
    assert same(weights(tmp_path / "whole"), weights(work))
    whole, pieces = (train.loss_log(long, train.last_checkpoint(p)) for p in (tmp_path / "whole", work))
    shared = whole.merge(pieces, on="step")
    assert len(shared) == len(whole)
    shared = shared[shared["step"] != 52]  # averaged over two steps only, since the first target was step 50
    np.testing.assert_allclose(shared["loss_x"], shared["loss_y"], atol=2e-4)


@pytest.mark.slow
def test_compiled_and_stopped_equals_compiled_and_unbroken(texts, tmp_path):
    """As the ladder is trained."""
    COMPILED(TINY, texts, tmp_path / "whole")
    assert COMPILED(TINY, texts, tmp_path / "pieces", minutes=0) == 4
    assert COMPILED(TINY, texts, tmp_path / "pieces") == 50
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "pieces"))


def logged_rates(checkpoint):
    return [row["learning_rate"] for row in json.loads((checkpoint / "trainer_state.json").read_text())["log_history"]]


def test_what_is_shipped_and_the_decay_branch(texts, tmp_path):
    work, target = tmp_path / "work", tmp_path / "shipped"
    train.train(TINY, texts, work, minutes=0)
    train.publish(TINY, work, target)
    facts = json.loads((target / "run.json").read_text())
    assert (facts["finished"], facts["steps"], facts["parameters"]) == (False, 4, 11.5 * 2 * 16**2 + 5 * 16)
    # Another machine, which has only what was shipped, continues it.
    elsewhere = tmp_path / "elsewhere"
    train.restore(elsewhere, target)
    train.train(TINY, texts, elsewhere)
    train.train(TINY, texts, work)
    assert same(weights(work), weights(elsewhere))
    train.publish(TINY, elsewhere, target)
    assert json.loads((target / "run.json").read_text())["finished"]
    assert not (target / "resume").exists()
    shipped = load_file(target / "model.safetensors")
    assert {t.dtype for t in shipped.values()} == {torch.bfloat16}
    assert same({k: v.to(torch.bfloat16) for k, v in weights(elsewhere).items()}, shipped)
    train.decay_branch(TINY, texts, elsewhere, target)
    decayed = load_file(target / "decayed" / "model.safetensors")
    assert not same(decayed, shipped)
    branch = train.last_checkpoint(elsewhere / "decay_50")
    assert branch.name == "checkpoint-55"
    # Step 52, one of five into the decay.
    assert logged_rates(branch)[-1] == pytest.approx(0.01 * (1 - math.sqrt(1 / 5)))
    assert same(weights(elsewhere), weights(work))  # the stable stage is left as it was
    # A target raised afterwards decays from its own end, not on from the first decay.
    further = replace(TINY, tokens=60 * recipe.CONTEXT)
    train.train(further, texts, elsewhere)
    train.decay_branch(further, texts, elsewhere, target)
    last = train.last_checkpoint(elsewhere / "decay_60")
    assert last.name == "checkpoint-66" and logged_rates(last)[-2] > 0.009
    assert not same(load_file(target / "decayed" / "model.safetensors"), decayed)


def test_snapshots_change_no_weight_and_go_on_elsewhere(texts, tmp_path, monkeypatch):
    monkeypatch.setattr(snapshots, "TOKENS", 512)
    run, work, shipped = replace(TINY, snapshots=True), tmp_path / "work", tmp_path / "shipped"
    train.train(TINY, texts, tmp_path / "plain")
    monkeypatch.setattr(train.Recorder, "on_log", stop_once(train.Recorder.on_log))
    assert train.train(run, texts, work, minutes=0) == 24
    train.publish(run, work, shipped)
    begun = pd.read_csv(shipped / snapshots.FILE)
    elsewhere = tmp_path / "elsewhere"
    train.restore(elsewhere, shipped)
    train.train(run, texts, elsewhere)
    assert same(weights(tmp_path / "plain"), weights(elsewhere))
    train.publish(run, elsewhere, shipped)
    table = pd.read_csv(shipped / snapshots.FILE)
    assert 0 < len(begun) < len(table) and table[: len(begun)].equals(begun)
    assert table.groupby("step").size().to_dict() == dict.fromkeys(snapshots.groups(run), len(snapshots.GRID))


def stop_once(on_log):
    """Of a run stopped at once, the stop is let through at step 24 only, when some snapshots are taken."""

    def later(self, args, state, control, **more):
        on_log(self, args, state, control, **more)
        control.should_training_stop &= state.global_step == 24
        control.should_save &= state.global_step == 24

    return later


def test_a_decay_branch_that_is_there_is_left_alone(tmp_path):
    written = tmp_path / "decayed" / "training.csv"
    written.parent.mkdir()
    written.write_text(f"run,step\ntiny,{TINY.steps + 1}\n")
    train.decay_branch(TINY, {}, tmp_path / "work", tmp_path)
    with pytest.raises(ValueError, match="not finished"):  # of a higher target it is not the decay
        train.decay_branch(replace(TINY, tokens=2 * TINY.tokens), {}, tmp_path / "work", tmp_path)


def test_facts_are_written_after_what_they_speak_of(texts, tmp_path, monkeypatch):
    train.train(TINY, texts, tmp_path / "work", minutes=0)

    def killed(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "write_atomically", killed)
    with pytest.raises(KeyboardInterrupt):
        train.publish(TINY, tmp_path / "work", tmp_path / "shipped")
    assert {path.name for path in (tmp_path / "shipped" / "resume").iterdir()} == set(resume.STATE)
    assert not (tmp_path / "shipped" / "run.json").exists()


# The command line.


@pytest.fixture
def command(monkeypatch, tmp_path, texts):
    """The command line on the tiny run, in a folder of its own."""
    monkeypatch.setattr(train, "training_texts", lambda: texts)
    monkeypatch.setattr(recipe, "RUNS", {"tiny": TINY})
    monkeypatch.setattr(train, "WORK", tmp_path / "work")
    monkeypatch.setattr(train, "LADDER", tmp_path / "ladder")
    return train.main


def test_a_trained_run_says_so_and_how_to_train_it_anew(command, tmp_path, capsys):
    command(["tiny"])
    assert "To train it anew" not in capsys.readouterr().out
    before = (tmp_path / "ladder" / "tiny" / "model.safetensors").read_bytes()
    shutil.rmtree(tmp_path / "work")  # what a fresh clone has
    command(["tiny"])
    said = capsys.readouterr().out
    assert "To train it anew, remove" in said and "trained to its 0.0M tokens" in said
    assert (tmp_path / "ladder" / "tiny" / "model.safetensors").read_bytes() == before


def test_an_older_state_never_replaces_what_is_shipped(command, tmp_path, texts):
    train.train(TINY, texts, tmp_path / "work" / "tiny", minutes=0)
    target = tmp_path / "ladder" / "tiny"
    train.train(TINY, texts, tmp_path / "elsewhere")
    train.publish(TINY, tmp_path / "elsewhere", target)
    before = (target / "run.json").read_bytes()
    with pytest.raises(SystemExit, match=r"is at step 4, .* further on, at 50"):
        command(["tiny"])
    assert (target / "run.json").read_bytes() == before


def test_all_leaves_out_the_long_runs(command, tmp_path, monkeypatch):
    monkeypatch.setattr(recipe, "RUNS", {run.name: run for run in (TINY, replace(TINY, name="l", snapshots=True))})
    command(["--all"])
    assert {path.name for path in (tmp_path / "ladder").iterdir()} == {"tiny"}
    assert (tmp_path / "ladder" / "tiny" / "decayed" / "model.safetensors").is_file()


def test_a_shipped_run_whose_state_is_damaged_or_gone_is_not_begun_anew(command, tmp_path, texts):
    work, target = tmp_path / "work" / "tiny", tmp_path / "ladder" / "tiny"
    train.train(TINY, texts, work, minutes=0)
    train.publish(TINY, work, target)
    shutil.rmtree(work)
    state = {target / "resume" / name: (target / "resume" / name).read_bytes() for name in resume.STATE}
    others = {path: path.read_bytes() for path in target.rglob("*") if path.is_file() and path not in state}

    def refused():
        with pytest.raises(SystemExit, match=r"tiny/resume, to go on from, is gone or .* remove .*tiny to train"):
            command(["tiny"])
        assert all(path.read_bytes() == before for path, before in others.items())

    for file, whole in state.items():
        for left in (whole[:0], whole[:50]):
            file.write_bytes(left)
            refused()
            assert file.read_bytes() == left
        file.unlink()
        refused()
        file.write_bytes(whole)
    shutil.rmtree(target / "resume")
    refused()
    assert not (target / "resume").exists()


def test_one_process_at_a_time_trains_a_run(command, tmp_path):
    folder = tmp_path / "work" / "tiny"
    folder.mkdir(parents=True)
    with FileLock(folder / ".lock"), pytest.raises(SystemExit, match="another process trains it"):
        command(["tiny"])
    assert not (tmp_path / "ladder").exists()


def test_a_decay_has_no_time_limit(command, capsys):
    with pytest.raises(SystemExit):
        command(["tiny", "--decay", "--minutes", "5"])
    assert "leave out --minutes" in capsys.readouterr().err
