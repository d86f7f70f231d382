"""The ladder's trainer: muP by a coordinate check, the same weights twice, and killed runs that lose nothing."""

import hashlib
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from filelock import FileLock
from made_up import TINY, training_texts
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import sparsinglib as sl
from sparsinglib.ladder import batches, recipe, snapshots, train, trajectory
from sparsinglib.ladder.batches import PATTERN, Windows
from sparsinglib.ladder.model import block_causal, build, make_optimizer, use_block_attention
from sparsinglib.ladder.recipe import RUNS, Run
from sparsinglib.texts import corpora

# Of the windows that shipped runs of three seeds have read.
DIGESTS = {
    1: "3a64f5ce6e87e51b1b89ae3243f072a41b387468571eba1475adf99d16ed6dc7",
    2: "355e66ab8c860ad565fa0bcd44d0e20a0e6dd0787542e84b3c133e949c0d6e3d",
    3: "9eeeb51ecd9b68fc5245e82c1028942d157b36021855ed756fb19139ca48b2bf",
}


@pytest.fixture(autouse=True)
def short_logs(monkeypatch):
    """A log row every 4 steps, a Trainer checkpoint every 64."""
    monkeypatch.setattr(train, "LOG_TOKENS", 4 * recipe.CONTEXT)


@pytest.fixture(scope="module")
def texts():
    return training_texts()


def weights(work: Path) -> dict[str, torch.Tensor]:
    return load_file(train.last_checkpoint(work) / "model.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# --- the recipe ----------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", list(recipe.SCALES))
def test_parameters_follow_the_papers_formula(scale):
    run = RUNS[f"{scale}-relu"]
    model = build(run)
    matrices = sum(p.numel() for p in model.model.layers.parameters() if p.ndim == 2)
    assert matrices == 11.5 * run.layers * run.width**2 == run.non_embedding_parameters
    assert matrices == pytest.approx(float(scale[:-1]) * 1e6, rel=0.2)
    assert run.width // run.heads == recipe.HEAD_SIZE
    assert 12 <= run.width / run.layers <= 14
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_batches_grow_as_in_table_3():
    paper = pd.read_csv(train.LADDER.parent / "paper" / "table3_training.csv")["batch_size_tokens"][:5]
    ours = [RUNS[f"{scale}-relu"].batch_tokens for scale in recipe.SCALES]
    np.testing.assert_allclose(np.array(ours) / ours[0], paper / paper[0], rtol=0.06)


def test_shapes_keep_the_size_of_the_smallest_model():
    shapes = [RUNS[name] for name in recipe.SHAPE_NAMES]
    sizes = np.array([run.layers * run.width**2 for run in shapes])
    assert len({run.width for run in shapes}) == 9
    np.testing.assert_allclose(sizes, RUNS["0.1m-relu"].layers * RUNS["0.1m-relu"].width ** 2, rtol=0.05)
    for run in shapes:
        build(run)(torch.zeros(1, 8, dtype=torch.long))


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


def moved(width: int, mup: bool, steps: int = 4) -> np.ndarray:
    """Mean change, over a few steps, of the input of the last layer, of its FFN's neurons and of the logits."""
    run = replace(TINY, width=width, heads=width // 16)
    model = build(run)
    optimizer = make_optimizer(model, run)
    if not mup:
        for group in optimizer.param_groups:
            group["lr"] = run.learning_rate
    ids = torch.randint(0, recipe.VOCABULARY, (4, 64), generator=torch.Generator().manual_seed(0))
    neurons: list[torch.Tensor] = []
    model.model.layers[-1].mlp.down_proj.register_forward_pre_hook(lambda _, args: neurons.append(args[0].detach()))

    def look() -> list[torch.Tensor]:
        with torch.no_grad():
            out = model(ids, output_hidden_states=True)
        return [out.hidden_states[-2], neurons[-1], out.logits]

    before = look()
    for _ in range(steps):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return np.array([float((b - a).abs().mean()) for a, b in zip(before, look(), strict=True)])


def test_coordinate_check():
    """A few steps move activations about equally at every width; at one rate for all they move more and more."""
    widths = (32, 64, 128, 256)
    slopes = {mup: np.polyfit(np.log(widths), np.log([moved(w, mup) for w in widths]), 1)[0] for mup in (True, False)}
    assert np.all(np.abs(slopes[True]) < 0.3), slopes
    assert np.all(slopes[False][:2] > 0.4), slopes  # the logits keep their divisor either way


def test_rates_and_decay_by_group():
    run = RUNS["0.4m-relu"]
    matrices, embedding, norms = make_optimizer(build(run), run).param_groups
    assert (matrices["lr"], embedding["lr"], norms["lr"]) == (0.01 / 5, 0.01, 0.01)
    assert (matrices["weight_decay"], embedding["weight_decay"], norms["weight_decay"]) == (0.1, 0.1, 0.0)
    assert sum(len(g["params"]) for g in (matrices, embedding, norms)) == len(list(build(run).parameters()))


# --- the data ------------------------------------------------------------------------------------


def test_every_block_holds_the_shares_and_every_epoch_every_window(texts):
    data = Windows(texts, seed=3)
    starts = {
        name: {ids[i : i + recipe.CONTEXT].tobytes() for i in range(0, 78 * recipe.CONTEXT, recipe.CONTEXT)}
        for name, ids in texts.items()
    }
    seen = {name: [] for name in texts}
    for index in range(10 * PATTERN):
        window = data[index]["input_ids"].numpy().astype(np.uint16).tobytes()
        seen[next(name for name in texts if window in starts[name])].append(window)
    assert {name: len(s) / (10 * PATTERN) for name, s in seen.items()} == corpora.SHARES
    assert len(set(seen["code"][:70])) == 70  # nothing twice before all 78 were read, to the end of the block
    assert set(seen["code"][:84]) == starts["code"]


def test_order_depends_on_the_seed_alone(texts):
    first, again, other = (Windows(texts, seed) for seed in (1, 1, 2))
    assert torch.equal(first[123]["input_ids"], again[123]["input_ids"])
    assert any(not torch.equal(first[i]["input_ids"], other[i]["input_ids"]) for i in range(5))


@pytest.mark.slow
def test_windows_of_the_shipped_runs_are_what_they_were():
    """Every 61st of 44M tokens, as before mathematics had new seeds: the digests are of the code of that time."""
    texts = batches.training_texts()
    for seed, digest in DIGESTS.items():
        data = Windows(texts, seed)
        found = [data[i]["input_ids"].numpy().astype(np.uint16).tobytes() for i in range(0, 171_880, 61)]
        assert hashlib.sha256(b"".join(found)).hexdigest() == digest, seed
    longest = max(run.steps + round(recipe.DECAY_SHARE * run.steps) for run in RUNS.values() if not run.snapshots)
    assert longest * RUNS["0.1m-relu"].batch < batches.NEW_PROBLEMS * PATTERN  # in windows


def test_mathematics_beyond_them_is_new_and_read_once(texts, monkeypatch):
    made = []

    def tokens(name, part):
        made.append((name, part))
        return np.arange(3 * recipe.CONTEXT) + 10_000 * part

    monkeypatch.setattr(batches, "NEW_PROBLEMS", 2)
    monkeypatch.setattr(batches, "NEW_WINDOWS", 3)
    monkeypatch.setattr(batches, "tokens", tokens)
    data = Windows(texts, seed=1)
    seen = [int(data[i]["input_ids"][0]) for i in range(2 * PATTERN, 4 * PATTERN)]
    new = sorted(first for first in seen if first >= 10_000)
    assert new == [10_000 * part + 256 * window for part in range(1, 9) for window in range(3)]  # 12 a block
    assert {name for name, _ in made} == {"math"}
    monkeypatch.setattr(batches, "NEW_PROBLEMS", 4)
    old = Windows(texts, seed=1)
    assert all(torch.equal(old[i]["input_ids"], data[i]["input_ids"]) for i in range(2 * PATTERN))


def test_too_short_a_text(texts):
    with pytest.raises(ValueError, match="math"):
        Windows({**texts, "math": texts["math"][:100]}, seed=1)


# --- runs ----------------------------------------------------------------------------------------


def test_same_seed_same_weights_and_another_seed_others(texts, tmp_path):
    for name, run in (("a", TINY), ("b", TINY), ("c", replace(TINY, seed=2))):
        assert train.train(run, texts, tmp_path / name, compiled=False) == 50
    assert same(weights(tmp_path / "a"), weights(tmp_path / "b"))
    assert not same(weights(tmp_path / "a"), weights(tmp_path / "c"))


def test_stopped_extended_and_half_written_equals_unbroken(texts, tmp_path, monkeypatch, capsys):
    long = replace(TINY, tokens=72 * recipe.CONTEXT)
    train.train(long, texts, tmp_path / "whole", compiled=False)
    work = tmp_path / "pieces"
    assert train.train(long, texts, work, minutes=0, compiled=False) == 4  # the first log row
    train.train(TINY, texts, work, compiled=False)
    broken = work / "checkpoint-51"
    broken.mkdir()
    (broken / "trainer_state.json").write_text('{"global_step": 5')
    # Complete but for the end of its weights, as a disk that lost its power may leave one.
    cut = shutil.copytree(train.last_checkpoint(work), work / "checkpoint-53") / "model.safetensors"
    cut.write_bytes(cut.read_bytes()[:-100])
    shutil.copytree(train.last_checkpoint(work), work / "checkpoint-54")
    (work / "checkpoint-54" / "optimizer.pt").unlink()
    for step, name in ((55, "optimizer.pt"), (56, "rng_state.pth"), (57, "scheduler.pt")):
        cut = shutil.copytree(train.last_checkpoint(work), work / f"checkpoint-{step}") / name
        cut.write_bytes(cut.read_bytes()[:-100])
    assert train.train(long, texts, work, compiled=False) == 72
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
    """As the ladder is trained: the tests above leave compilation out, which takes most of a minute."""
    train.train(TINY, texts, tmp_path / "whole")
    assert train.train(TINY, texts, tmp_path / "pieces", minutes=0) == 4
    assert train.train(TINY, texts, tmp_path / "pieces") == 50
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "pieces"))


def test_what_is_shipped_and_the_decay_branch(texts, tmp_path, monkeypatch):
    work, target = tmp_path / "work", tmp_path / "shipped"
    train.train(TINY, texts, work, minutes=0, compiled=False)
    train.publish(TINY, work, target)
    facts = json.loads((target / "run.json").read_text())
    assert (facts["finished"], facts["steps"], facts["parameters"]) == (False, 4, 11.5 * 2 * 16**2 + 5 * 16)
    # Another machine, which has only what was shipped, continues it.
    elsewhere = tmp_path / "elsewhere"
    train.restore(elsewhere, target)
    train.train(TINY, texts, elsewhere, compiled=False)
    train.train(TINY, texts, work, compiled=False)
    assert same(weights(work), weights(elsewhere))
    train.publish(TINY, elsewhere, target)
    assert json.loads((target / "run.json").read_text())["finished"]
    assert not (target / "resume").exists()
    shipped = load_file(target / "model.safetensors")
    assert {t.dtype for t in shipped.values()} == {torch.bfloat16}
    assert same({k: v.to(torch.bfloat16) for k, v in weights(elsewhere).items()}, shipped)
    eager = train.train
    monkeypatch.setattr(train, "train", lambda *a, **k: eager(*a, **k, compiled=False))
    train.decay_branch(TINY, texts, elsewhere, target)
    decayed = load_file(target / "decayed" / "model.safetensors")
    assert not same(decayed, shipped)
    branch = train.last_checkpoint(elsewhere / "decay_50")
    assert branch.name == "checkpoint-55"
    rates = [row["learning_rate"] for row in json.loads((branch / "trainer_state.json").read_text())["log_history"]]
    assert rates[-1] == pytest.approx(0.01 * (1 - math.sqrt(1 / 5)))  # step 52, one of five into the decay
    assert same(weights(elsewhere), weights(work))  # the stable stage is left as it was
    # A target raised afterwards decays from its own end, not on from the first decay.
    further = replace(TINY, tokens=60 * recipe.CONTEXT)
    train.train(further, texts, elsewhere)
    train.decay_branch(further, texts, elsewhere, target)
    last = train.last_checkpoint(elsewhere / "decay_60")
    rates = [row["learning_rate"] for row in json.loads((last / "trainer_state.json").read_text())["log_history"]]
    assert last.name == "checkpoint-66" and rates[-2] > 0.009
    assert not same(load_file(target / "decayed" / "model.safetensors"), decayed)


def test_snapshots_change_no_weight_and_go_on_elsewhere(texts, tmp_path, monkeypatch):
    monkeypatch.setattr(snapshots, "TOKENS", 512)
    run, work, shipped = replace(TINY, snapshots=True), tmp_path / "work", tmp_path / "shipped"
    train.train(TINY, texts, tmp_path / "plain", compiled=False)
    monkeypatch.setattr(train.Recorder, "on_log", stop_once(train.Recorder.on_log))
    assert train.train(run, texts, work, minutes=0, compiled=False) == 24
    train.publish(run, work, shipped)
    begun = pd.read_csv(shipped / snapshots.FILE)
    elsewhere = tmp_path / "elsewhere"
    train.restore(elsewhere, shipped)
    train.train(run, texts, elsewhere, compiled=False)
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


def test_flops_of_a_token_by_hand():
    run = Run("tiny", 16, 2, "relu", 1, 1, 1)
    matrices = 2 * (4 * 16 * 16 + 3 * 16 * 40) + recipe.VOCABULARY * 16
    scores = 2 * recipe.CONTEXT * 16  # for each layer and token: with the keys, and with the values
    assert run.flops_per_token(causal=False) == 3 * (2 * matrices + 2 * 2 * scores)
    assert run.flops_per_token() == 3 * (2 * matrices + 2 * scores)


@pytest.mark.parametrize(("batch", "length"), [(1, 64), (2, 256), (3, 50)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_in_blocks_is_causal_attention(batch, length, dtype):
    query, key, value = torch.randn(3, batch, 2, length, 16, generator=torch.Generator().manual_seed(0), dtype=dtype)
    found, _ = block_causal(torch.nn.Identity(), query, key, value, None, scaling=0.25)
    wanted = torch.nn.functional.scaled_dot_product_attention(
        query.double(), key.double(), value.double(), is_causal=True, scale=0.25
    )
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(found.double(), wanted.transpose(1, 2), atol=tolerance, rtol=tolerance)


def test_attention_in_blocks_refuses_padding_and_a_cache():
    model = build(TINY)
    ids = torch.arange(8).unsqueeze(0)
    before = model(ids).logits
    use_block_attention(model)
    torch.testing.assert_close(model(ids).logits, before)
    with pytest.raises(ValueError, match="without padding"):
        model(ids, attention_mask=torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1]]))
    with pytest.raises(ValueError, match="without cache"):
        model.generate(ids, max_new_tokens=2, use_cache=True)


def test_points_do_not_depend_on_the_target():
    run = RUNS["0.1m-relu"]
    early = [step for step in recipe.kept_steps(run) if step < 0.02 * run.steps]
    longer = replace(run, tokens=2 * run.tokens)
    assert [s for s in recipe.kept_steps(longer) if s in early] == early
    assert run.steps in recipe.kept_steps(run)
    steps = recipe.measured_steps(recipe.kept_steps(run))
    assert np.allclose(np.array(steps[-5:]) / run.steps, [0.88, 0.91, 0.94, 0.97, 1.0], atol=0.01)


# --- the command line ----------------------------------------------------------------------------


@pytest.fixture
def command(monkeypatch, tmp_path, texts):
    """The command line on the tiny run, in a folder of its own."""
    eager = train.train
    monkeypatch.setattr(train, "training_texts", lambda: texts)
    monkeypatch.setattr(train, "train", lambda *a, **k: eager(*a, **k, compiled=False))
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


def test_a_shipped_run_whose_state_is_gone_is_not_begun_anew(command, tmp_path, texts, monkeypatch):
    command(["tiny"])
    shutil.rmtree(tmp_path / "work")
    monkeypatch.setattr(recipe, "RUNS", {"tiny": replace(TINY, tokens=2 * TINY.tokens)})
    before = (tmp_path / "ladder" / "tiny" / "run.json").read_bytes()
    with pytest.raises(SystemExit, match=r"resume, to go on from, is gone or damaged.* remove .*tiny to train"):
        command(["tiny"])
    assert (tmp_path / "ladder" / "tiny" / "run.json").read_bytes() == before


def test_all_leaves_out_the_long_runs(command, tmp_path, monkeypatch):
    monkeypatch.setattr(recipe, "RUNS", {run.name: run for run in (TINY, replace(TINY, name="l", snapshots=True))})
    command(["--all"])
    assert {path.name for path in (tmp_path / "ladder").iterdir()} == {"tiny"}
    assert (tmp_path / "ladder" / "tiny" / "decayed" / "model.safetensors").is_file()


@pytest.mark.parametrize("name", ["optimizer.pt", "rng_state.pth", "trainer_state.json", "model.safetensors"])
@pytest.mark.parametrize("left", [0, 50, None])
def test_a_damaged_state_never_begins_a_shipped_run_anew(command, tmp_path, texts, name, left):
    work, target = tmp_path / "work" / "tiny", tmp_path / "ladder" / "tiny"
    train.train(TINY, texts, work, minutes=0)
    train.publish(TINY, work, target)
    shutil.rmtree(work)
    file = target / "resume" / name
    if left is None:
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:left])
    kept = {path: path.read_bytes() for path in target.rglob("*") if path.is_file()}
    with pytest.raises(SystemExit, match=r"tiny/resume, to go on from, is gone or damaged.* remove .*tiny to train"):
        train.main(["tiny"])
    assert {path: path.read_bytes() for path in target.rglob("*") if path.is_file()} == kept


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


def test_facts_are_written_after_what_they_speak_of(texts, tmp_path, monkeypatch):
    train.train(TINY, texts, tmp_path / "work", minutes=0, compiled=False)

    def killed(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "write_atomically", killed)
    with pytest.raises(KeyboardInterrupt):
        train.publish(TINY, tmp_path / "work", tmp_path / "shipped")
    assert {path.name for path in (tmp_path / "shipped" / "resume").iterdir()} == set(train.STATE)
    assert not (tmp_path / "shipped" / "run.json").exists()


# --- the measurements along a run ----------------------------------------------------------------


def test_a_trajectory_is_resumed_and_holds_what_the_library_measures(tmp_path, monkeypatch):
    run = RUNS["0.1m-relu"]
    shipped = sorted((train.LADDER / run.name / "steps").iterdir())[-5:]
    for path in shipped:
        shutil.copytree(path, tmp_path / run.name / "steps" / path.name)
    monkeypatch.setattr(trajectory, "LADDER", tmp_path)
    monkeypatch.setattr(trajectory, "WORK", tmp_path / "none")
    monkeypatch.setattr(trajectory, "INCREASES", (1.0,))  # the other two take as long again each
    table = trajectory.measure_run(run, 2048)
    assert set(table["step"]) == {int(path.name[5:]) for path in shipped}
    assert set(table["p_pct"].dropna()) == {1.0}
    last = table[table["step"] == max(table["step"])].set_index("metric")["value"]
    batches = trajectory.validation_batches(2048)
    models = [trajectory.load(path)[0] for path in shipped]
    shared = sl.shared_cett(models, batches, 1.0)
    assert last["cett_shared"] == pytest.approx(shared)
    found = sl.thresholds_for_cett(models[-1], batches, shared)
    assert last["activation_ratio_shared_cett"] == pytest.approx(found.activation_ratio)
    assert last["cett_searched"] == pytest.approx(sl.find_thresholds(models[-1], batches, 1.0).cett)
    assert last["relu_nonzero_ratio"] == pytest.approx(
        sl.measure(models[-1], batches, sl.StraightforwardReLU()).activation_ratio
    )
    monkeypatch.setattr(trajectory, "measure_checkpoint", lambda *_, **__: pytest.fail("measured again"))
    assert len(trajectory.measure_run(run, 2048)) == len(table)


def stubbed(monkeypatch, tmp_path, run, cett):
    """Measures of a run's kept checkpoints made up, all but the bookkeeping; returns the steps that were measured."""
    measured = []

    def rows(path, batches, cett, relu):
        measured.append(int(path.name[5:]))
        found = [("cett_shared", p, value) for p, value in cett.items()] + [("cett_searched", 1.0, 0.1)]
        return pd.DataFrame(found, columns=["metric", "p_pct", "value"])

    def loss(path, batches):
        measured.append(int(path.name[5:]))
        return pd.DataFrame([("validation_loss", math.nan, 3.0)], columns=["metric", "p_pct", "value"])

    monkeypatch.setattr(trajectory, "LADDER", tmp_path / "shipped")
    monkeypatch.setattr(trajectory, "WORK", tmp_path / "work")
    monkeypatch.setattr(trajectory, "validation_batches", lambda _: [])
    monkeypatch.setattr(trajectory, "load", lambda path: (None, None))
    monkeypatch.setattr(trajectory, "shared_cett", lambda models, batches, p: cett * p)
    monkeypatch.setattr(trajectory, "measure_checkpoint", rows)
    monkeypatch.setattr(trajectory, "measure_loss", loss)
    for step in recipe.kept_steps(run)[-6:]:
        (tmp_path / "work" / run.name / f"step_{step:07d}").mkdir(parents=True)
    return measured


@pytest.mark.parametrize("cett", [0.0123456789012345, 0.2345678901234567])
def test_what_was_measured_at_this_shared_cett_is_kept(tmp_path, monkeypatch, cett):
    run = RUNS["0.1m-relu"]
    measured = stubbed(monkeypatch, tmp_path, run, cett)
    table = trajectory.measure_run(run, 2048)
    assert sorted(measured) == sorted(set(table["step"])) and len(measured) > 4
    measured.clear()
    trajectory.measure_run(run, 2048)
    assert not measured
    monkeypatch.setattr(trajectory, "shared_cett", lambda models, batches, p: (cett + 1e-6) * p)
    trajectory.measure_run(run, 2048)
    assert sorted(measured) == sorted(set(table["step"]))


@pytest.mark.parametrize("missing", ["another p", "its own CETT"])
def test_an_incomplete_checkpoint_is_measured_again(tmp_path, monkeypatch, missing):
    run = RUNS["0.1m-relu"]
    measured = stubbed(monkeypatch, tmp_path, run, 0.1)
    whole = trajectory.measure_run(run, 2048)
    step = whole["step"].iloc[0]
    gone = (whole["p_pct"] == 5.0) if missing == "another p" else (whole["metric"] == "cett_searched")
    whole[~gone | (whole["step"] != step)].to_csv(trajectory.LADDER / run.name / "trajectory.csv", index=False)
    measured.clear()
    again = trajectory.measure_run(run, 2048)
    assert measured == [step]
    assert len(again) == len(whole) and not again.duplicated(["step", "metric", "p_pct"]).any()


def test_measurements_whose_checkpoints_are_gone_are_not_thrown_away(tmp_path, monkeypatch):
    run = RUNS["0.1m-relu"]
    stubbed(monkeypatch, tmp_path, run, 0.1)
    trajectory.measure_run(run, 2048)
    kept = (tmp_path / "shipped" / run.name / "trajectory.csv").read_bytes()
    shutil.rmtree(min((tmp_path / "work" / run.name).iterdir()))
    monkeypatch.setattr(trajectory, "shared_cett", lambda models, batches, p: 0.2 * p)
    with pytest.raises(ValueError, match="checkpoints are gone"):
        trajectory.measure_run(run, 2048)
    assert (tmp_path / "shipped" / run.name / "trajectory.csv").read_bytes() == kept


def test_all_measures_finished_runs_once(tmp_path, monkeypatch):
    shape, whole, mixture = RUNS["0.1m-relu-w24x16"], RUNS["0.1m-silu"], RUNS["moe-16"]
    for run in (shape, whole, mixture):
        measured = stubbed(monkeypatch, tmp_path, run, 0.1)
    for run, finished in ((shape, True), (whole, False), (mixture, True), (RUNS["0.4m-relu"], True)):
        facts = tmp_path / "shipped" / run.name / "run.json"
        facts.parent.mkdir(parents=True)
        facts.write_text(json.dumps({"finished": finished, "steps": run.steps}))
    trajectory.main(["--all"])
    table = pd.read_csv(tmp_path / "shipped" / shape.name / "trajectory.csv")
    losses = pd.read_csv(tmp_path / "shipped" / mixture.name / "trajectory.csv")
    assert sorted(measured) == sorted([*set(table["step"]), *losses["step"]])
    assert set(table["p_pct"]) == {1.0, 5.0, 10.0}
    assert set(losses["metric"]) == {"validation_loss"} and losses["p_pct"].isna().all()
    assert {path.parent.name for path in (tmp_path / "shipped").glob("*/trajectory.csv")} == {shape.name, mixture.name}
    for run, rows in ((shape, table), (mixture, losses)):  # they were interrupted: late checkpoints are measured first
        late = rows[rows["step"] > rows["step"].min()]
        late.to_csv(tmp_path / "shipped" / run.name / "trajectory.csv", index=False)
    assert trajectory.unmeasured() == [shape, mixture]
    measured.clear()
    trajectory.main(["--all"])
    assert measured == [table["step"].min(), losses["step"].min()]
    assert not trajectory.unmeasured()


def test_the_loss_along_a_mixture_is_that_of_transformers():
    path, held_out = train.LADDER / "moe-30", trajectory.validation_batches(1024)
    (row,) = trajectory.measure_loss(path, held_out).itertuples()
    model = trajectory.load(path)[0]
    model.set_experts_implementation("eager")
    with torch.inference_mode():
        losses = [  # of rows of one length, without the router's
            float(model(input_ids=batch, labels=batch, output_router_logits=False).loss) for batch in held_out
        ]
    assert row.metric == "validation_loss"
    assert row.value == pytest.approx(np.average(losses, weights=[len(batch) for batch in held_out]), rel=1e-4)
