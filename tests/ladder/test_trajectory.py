"""Measurements along a run: what the library measures, once for each checkpoint and shared CETT."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch

import sparsinglib as sl
from sparsinglib.files import LADDER
from sparsinglib.ladder import recipe, trajectory
from sparsinglib.ladder.recipe import RUNS

RUN = RUNS["0.1m-relu"]


def test_a_trajectory_is_resumed_and_holds_what_the_library_measures(tmp_path, monkeypatch):
    shipped = sorted((LADDER / RUN.name / "steps").iterdir())[-5:]
    for path in shipped:
        shutil.copytree(path, tmp_path / RUN.name / "steps" / path.name)
    monkeypatch.setattr(trajectory, "LADDER", tmp_path)
    monkeypatch.setattr(trajectory, "WORK", tmp_path / "none")
    monkeypatch.setattr(trajectory, "INCREASES", (1.0,))  # the other two take as long again each
    table = trajectory.measure_run(RUN, 2048)
    assert set(table["step"]) == {int(path.name[5:]) for path in shipped}
    assert set(table["p_pct"].dropna()) == {1.0}
    last = table[table["step"] == max(table["step"])].set_index("metric")["value"]
    batches = trajectory.validation_batches(2048)
    models = [trajectory.open_model(path) for path in shipped]
    shared = sl.shared_cett(models, batches, 1.0)
    assert last["cett_shared"] == pytest.approx(shared)
    found = sl.thresholds_for_cett(models[-1], batches, shared)
    assert last["activation_ratio_shared_cett"] == pytest.approx(found.activation_ratio)
    assert last["cett_searched"] == pytest.approx(sl.find_thresholds(models[-1], batches, 1.0).cett)
    zeros = sl.measure(models[-1], batches, sl.StraightforwardReLU())
    assert last["relu_nonzero_ratio"] == pytest.approx(zeros.activation_ratio)
    monkeypatch.setattr(trajectory, "measure_checkpoint", lambda *_, **__: pytest.fail("measured again"))
    assert len(trajectory.measure_run(RUN, 2048)) == len(table)


@pytest.fixture
def stubbed(monkeypatch, tmp_path):
    """Measures of runs' kept checkpoints made up, all but the bookkeeping; returns the steps that were measured."""
    measured = []

    def rows(path, batches, cett, relu):
        measured.append(int(path.name[5:]))
        found = [("cett_shared", p, value) for p, value in cett.items()] + [("cett_searched", 1.0, 0.1)]
        return pd.DataFrame(found, columns=["metric", "p_pct", "value"])

    monkeypatch.setattr(trajectory, "LADDER", tmp_path / "shipped")
    monkeypatch.setattr(trajectory, "WORK", tmp_path / "work")
    monkeypatch.setattr(trajectory, "validation_batches", lambda _: [])
    monkeypatch.setattr(trajectory, "open_model", lambda path: None)
    monkeypatch.setattr(trajectory, "measure_checkpoint", rows)

    def stub(cett, *runs):
        monkeypatch.setattr(trajectory, "shared_cett", lambda models, batches, p: cett * p)
        for run in runs:
            for step in recipe.kept_steps(run)[-6:]:
                (tmp_path / "work" / run.name / f"step_{step:07d}").mkdir(parents=True)
        return measured

    return stub


@pytest.mark.parametrize("cett", [0.0123456789012345, 0.2345678901234567])
def test_what_was_measured_at_this_shared_cett_is_kept(stubbed, cett):
    measured = stubbed(cett, RUN)
    table = trajectory.measure_run(RUN, 2048)
    assert sorted(measured) == sorted(set(table["step"])) and len(measured) > 4
    measured.clear()
    trajectory.measure_run(RUN, 2048)
    assert not measured
    stubbed(cett + 1e-6)
    trajectory.measure_run(RUN, 2048)
    assert sorted(measured) == sorted(set(table["step"]))


@pytest.mark.parametrize("missing", ["another p", "its own CETT"])
def test_an_incomplete_checkpoint_is_measured_again(stubbed, missing):
    measured = stubbed(0.1, RUN)
    whole = trajectory.measure_run(RUN, 2048)
    step = whole["step"].iloc[0]
    gone = (whole["p_pct"] == 5.0) if missing == "another p" else (whole["metric"] == "cett_searched")
    whole[~gone | (whole["step"] != step)].to_csv(trajectory.LADDER / RUN.name / "trajectory.csv", index=False)
    measured.clear()
    again = trajectory.measure_run(RUN, 2048)
    assert measured == [step]
    assert len(again) == len(whole) and not again.duplicated(["step", "metric", "p_pct"]).any()


def test_measurements_whose_checkpoints_are_gone_are_not_thrown_away(tmp_path, stubbed):
    stubbed(0.1, RUN)
    trajectory.measure_run(RUN, 2048)
    kept = (tmp_path / "shipped" / RUN.name / "trajectory.csv").read_bytes()
    shutil.rmtree(min((tmp_path / "work" / RUN.name).iterdir()))
    stubbed(0.2)
    with pytest.raises(ValueError, match="checkpoints are gone"):
        trajectory.measure_run(RUN, 2048)
    assert (tmp_path / "shipped" / RUN.name / "trajectory.csv").read_bytes() == kept


def test_all_measures_finished_runs_once(tmp_path, stubbed):
    shape, whole, mixture = RUNS["0.1m-relu-w24x16"], RUNS["0.1m-silu"], RUNS["moe-16"]
    measured = stubbed(0.1, shape, whole, mixture)
    for run, finished in ((shape, True), (whole, False), (mixture, True), (RUNS["0.4m-relu"], True)):
        facts = tmp_path / "shipped" / run.name / "run.json"
        facts.parent.mkdir(parents=True)
        facts.write_text(json.dumps({"finished": finished, "steps": run.steps}))
    trajectory.main(["--all"])
    paths = {run: tmp_path / "shipped" / run.name / "trajectory.csv" for run in (shape, mixture)}
    assert set((tmp_path / "shipped").glob("*/trajectory.csv")) == set(paths.values())
    tables = {run: pd.read_csv(path) for run, path in paths.items()}
    assert sorted(measured) == sorted(step for table in tables.values() for step in set(table["step"]))
    assert all(set(table["p_pct"]) == {1.0, 5.0, 10.0} for table in tables.values())
    for run, table in tables.items():  # they were interrupted: late checkpoints are measured first
        table[table["step"] > table["step"].min()].to_csv(paths[run], index=False)
    assert trajectory.unmeasured() == [shape, mixture]
    measured.clear()
    trajectory.main(["--all"])
    assert measured == [table["step"].min() for table in tables.values()]
    assert not trajectory.unmeasured()


def test_the_loss_along_a_mixture_is_that_of_transformers():
    path, held_out = LADDER / "moe-30", trajectory.validation_batches(1024)
    value = trajectory.measure_checkpoint(path, held_out, {1.0: 0.1}, relu=False).set_index("metric")["value"]
    assert 0 < value["activation_ratio_shared_cett"] < 8 / 30 and value["dead_neuron_share"] > 0
    model = trajectory.open_model(path)
    model.set_experts_implementation("eager")
    with torch.inference_mode():
        losses = [  # of rows of one length, without the router's
            float(model(input_ids=batch, labels=batch, output_router_logits=False).loss) for batch in held_out
        ]
    expected = np.average(losses, weights=[len(batch) for batch in held_out])
    assert value["validation_loss"] == pytest.approx(expected, rel=1e-4)
