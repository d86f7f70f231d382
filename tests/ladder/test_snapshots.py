"""Snapshots in training: what is read off them at a CETT found later is what a measurement there would have given."""

import numpy as np
import pandas as pd
import pytest
import torch
import transformers as tf
from families import MIXTURES

import sparsinglib as sl
from sparsinglib.ladder import ends, recipe, snapshots
from sparsinglib.ladder.batches import validation_batches
from sparsinglib.ladder.model import build
from sparsinglib.ladder.recipe import RUNS, Run

BETWEEN = [0.0229, 0.118, 0.35]  # as far as can be from the values of the grid


def taken(name, tokens):
    model, _ = sl.load(name)
    held_out = validation_batches(tokens)
    table = snapshots.measure_snapshot(model, held_out).assign(run="r", step=10, group=10, tokens=100)
    return model, held_out, table


@pytest.fixture(scope="module", params=["0.1m-relu", "0.1m-silu", "moe-30"])
def measured(request):
    return taken(request.param, 4096)


def dense_share(model, held_out, thresholds):
    shares = []

    def count(ffn, neurons, gate):
        shares.append(float(thresholds.active(ffn, neurons, gate).float().mean()) * ffn.width / ffn.d_ff)

    with sl.hook_ffns(sl.find_ffns(model), count):
        for batch in held_out:
            model(batch)
    return np.mean(shares)


def test_between_the_grid_the_dense_share_is_what_counting_gives(measured):
    model, held_out, table = measured
    for cett in BETWEEN:
        counted = dense_share(model, held_out, sl.thresholds_for_cett(model, held_out, cett))
        share = snapshots.at_cett(table.assign(activation_ratio=table.dense_ratio), cett).activation_ratio[0]
        assert share == pytest.approx(counted, abs=5e-4)  # 0.05 points


@pytest.mark.slow  # the sparse run scatters with its thresholds, by 0.05 points on 4,096 tokens
@pytest.mark.parametrize("name", ["0.1m-relu", "0.1m-silu"])
def test_between_the_grid_it_is_what_a_measurement_gives(name):
    model, held_out, table = taken(name, 32_768)
    for cett in BETWEEN:
        row = snapshots.at_cett(table, cett).iloc[0]
        found = sl.measure(model, held_out, sl.thresholds_for_cett(model, held_out, cett))
        assert row.activation_ratio == pytest.approx(found.activation_ratio, abs=5e-4)  # 0.05 points
        assert row.kl == pytest.approx(found.kl, rel=0.03)
        rise = np.log(found.ppl_ratio)
        assert row.log_ppl_ratio == pytest.approx(rise, abs=found.ppl_ratio_se)  # as noisy along CETT


def test_on_the_grid_errors_and_loss_are_those_of_a_measurement(measured):
    model, held_out, table = measured
    row = table.iloc[6]
    found = sl.measure(model, held_out, sl.thresholds_for_cett(model, held_out, row.cett))
    assert found.by_layer.cett.mean() == pytest.approx(row.cett, rel=0.1)
    assert row.kl_se == pytest.approx(found.kl_se, rel=0.05)
    assert row.log_ppl_ratio_se * found.ppl_ratio == pytest.approx(found.ppl_ratio_se, rel=0.05)
    assert row.validation_loss == pytest.approx(np.log(found.dense_ppl), rel=1e-5)


def test_shared_experts_are_pooled_with_their_layers_routed_ones():
    torch.manual_seed(0)
    config, arguments = MIXTURES["Qwen2Moe"]
    model = tf.AutoModelForCausalLM.from_config(config(**arguments)).eval()
    text = [torch.randint(3, 40, (16, 64), generator=torch.Generator().manual_seed(0))]
    row = snapshots.measure_snapshot(model, text).iloc[6]
    found = sl.measure(model, text, sl.thresholds_for_cett(model, text, row.cett))
    apart = found.by_layer.activation_ratio.mean()  # every FFN for itself
    assert abs(apart - found.activation_ratio) > 0.03
    assert row.activation_ratio == pytest.approx(found.activation_ratio, abs=0.005)
    assert row.dense_ratio == pytest.approx(found.activation_ratio, abs=0.01)


def test_the_shared_cett_is_that_of_a_search(measured):
    model, held_out, table = measured
    found = sl.find_thresholds(model, held_out, 5.0, criterion="kl")
    assert snapshots.cett_at_rise(table, 5.0) == pytest.approx(found.cett, rel=0.02)
    with pytest.raises(ValueError, match="reached by no CETT"):
        snapshots.cett_at_rise(table, 1e-4)
    with pytest.raises(ValueError, match="outside what was measured"):
        snapshots.at_cett(table, 0.5)


def test_a_group_is_the_mean_of_its_snapshots_with_what_its_end_adds():
    flat = {"cett": snapshots.GRID, "run": "r", "group": 40, "log_ppl_ratio": 0.01, "kl": 0.02}
    parts = [
        pd.DataFrame(flat | {"step": step, "tokens": step, "dense_ratio": ratio, "activation_ratio": np.nan})
        for step, ratio in ((20, 0.10), (40, 0.14))
    ]
    parts[1]["activation_ratio"] = 0.15
    row = snapshots.at_cett(pd.concat(parts), 0.1).iloc[0]
    assert (row.snapshots, row.tokens, row.kl) == (2, 40, pytest.approx(0.02))
    assert row.activation_ratio == pytest.approx(0.12 + 0.01)
    assert row.spread == pytest.approx(np.std([0.10, 0.14], ddof=1))
    assert not len(snapshots.at_cett(parts[0].assign(step=20), 0.1))  # a run stopped before the group's end


def test_groups_of_the_long_runs():
    for name in recipe.LONG:
        run = RUNS[f"{name}-long"]
        steps = snapshots.groups(run)
        sizes = pd.Series(list(steps.values())).value_counts().sort_index()
        assert sizes.iloc[-5:].eq(10).all() and sizes.index[-1] == run.steps
        assert 0.1e6 < sizes.index[0] * run.batch_tokens < 1e6
        assert 24 <= len(sizes) <= 29 and (sizes[sizes.index >= 900] == 10).all()
        shares = np.array(sizes.index[-5:]) / run.steps
        np.testing.assert_allclose(shares, [0.88, 0.91, 0.94, 0.97, 1.0], atol=0.01)
        assert min(steps) > 0


def test_a_recorded_snapshot_is_of_the_model_as_shipped_and_leaves_it_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(snapshots, "TOKENS", 2048)
    run = Run("tiny", 16, 2, "relu", 1, 100 * recipe.CONTEXT, 1)
    model = build(run)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    path = tmp_path / "snapshots.csv"
    snapshots.record(run, model, 20, 40, path)
    snapshots.record(run, model, 40, 40, path)
    kept = path.read_bytes()
    snapshots.record(run, model, 40, 40, path)
    assert path.read_bytes() == kept
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items()) and model.training
    table = pd.read_csv(path)
    assert table.groupby("step").size().to_dict() == {20: 12, 40: 12}
    assert table.kl.isna().sum() == 12 and table[table.step == 40].kl.notna().all()
    model.load_state_dict({name: value.bfloat16().float() for name, value in before.items()})
    again = snapshots.measure_snapshot(model.eval(), validation_batches(2048))
    np.testing.assert_allclose(table[table.step == 40].activation_ratio, again.activation_ratio, atol=1e-6)


@pytest.mark.parametrize("criterion", ends.CRITERIA)
def test_an_end_is_read_off_as_a_search_finds_it(measured, criterion):
    model, held_out, table = measured
    found = sl.find_thresholds(model, held_out, 5.0, criterion=criterion)
    cett, low, high, ratio, least, most = ends.read_off(table, criterion, 5.0)
    assert found.cett_interval[0] < cett < found.cett_interval[1]
    assert low < cett < high and least < ratio < most
    assert np.log(high / low) == pytest.approx(np.log(found.cett_interval[1] / found.cett_interval[0]), rel=0.25)
    assert ratio == pytest.approx(found.activation_ratio, abs=0.5 * np.ptp(found.activation_interval))


def test_ends_are_written_run_by_run_and_kept(monkeypatch, tmp_path):
    monkeypatch.setattr(ends, "TARGET", tmp_path / "ends.csv")
    runs = [RUNS["0.1m-relu"], RUNS["0.1m-relu-seed2"]]
    ends.measure_ends(runs[:1], 2048)
    first = (tmp_path / "ends.csv").read_text()
    table = ends.measure_ends(runs, 2048)
    assert (tmp_path / "ends.csv").read_text().startswith(first)
    assert list(table.columns) == ends.COLUMNS and len(table) == 12 and not table.isna().any().any()
    monkeypatch.setattr(ends.snapshots, "measure_snapshot", lambda *_, **__: pytest.fail("measured again"))
    ends.measure_ends(runs, 2048)
