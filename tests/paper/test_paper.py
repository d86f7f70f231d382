"""The authors' numbers as shipped, checked against each other, and the table of checks."""

import re

import numpy as np
import pandas as pd
import pytest

from sparsinglib import paper
from sparsinglib.files import PAPER
from sparsinglib.paper import style
from sparsinglib.studies.scaling import figures as law_figures
from sparsinglib.studies.scaling import limits as law_tables
from sparsinglib.studies.scaling import trends


def test_trend_has_the_365_points_of_eleven_runs():
    trend = paper.trend()
    runs = trend.groupby(["scale", "activation"])
    assert (len(trend), runs.ngroups) == (365, 11)
    assert trend.activation_ratio.between(0, 1).all()
    assert all(run.tokens.is_monotonic_increasing and run.tokens.is_unique for _, run in runs)


def test_what_is_there_can_be_read_and_what_is_not_is_named():
    assert all(len(paper.table(number)) for number in range(1, 7))
    with pytest.raises(ValueError, match="not 7"):
        paper.table(7)
    with pytest.raises(FileNotFoundError, match="table2_law_coefficients"):
        paper.read("no_such_table")


def test_claims_say_what_the_tables_say():
    table = paper.published.claims().set_index("id")
    assert len(table) == 36
    assert table.paper_value["C61"] == "6.48 in 6.14 to 7.82 percent"
    limits = paper.table(2).set_index(["scale", "activation"]).a0.mul(100)
    assert limits["2.4B", "relu"] == pytest.approx(float(table.printed["C54"]))
    others = limits.xs("relu", level="activation").drop("2.4B")
    assert [others.min(), others.max()] == pytest.approx([6.14, 7.82])


def test_every_file_has_its_source_in_the_readme():
    text = (PAPER / "README.md").read_text(encoding="utf-8")
    assert [path.name for path in PAPER.glob("*.csv") if path.name not in text] == []


def test_split_run_reads_names():
    assert trends.split_run("0.1m-relu-seed2") == ("0.1M", "relu", 2)
    with pytest.raises(ValueError, match="is not named"):
        trends.split_run("0.1m-gelu")


def write_run(folder, run, points=14):
    (folder / run).mkdir()
    tokens = np.arange(1, points + 1) * 1_000_000
    value = 0.4 - 0.1 / np.sqrt(tokens / 1e6) + np.random.default_rng(0).normal(0, 1e-4, points)
    facts = {"run": run, "step": 1, "metric": "activation_ratio_shared_cett", "p_pct": 1.0}
    pd.DataFrame({"tokens": tokens, "value": value, **facts}).to_csv(folder / run / "trajectory.csv", index=False)


def test_ladder_runs_appear_when_measured_and_are_named_when_not(tmp_path, monkeypatch):
    monkeypatch.setattr(trends, "LADDER", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no run of the ladder has a trajectory\.csv .*git restore"):
        trends.activation("ladder")
    write_run(tmp_path, "0.4m-silu")
    write_run(tmp_path, "0.4m-silu-seed2")
    write_run(tmp_path, "0.4m-relu", points=5)  # still being measured
    write_run(tmp_path, "0.1m-relu-w48x4")  # a shape of another study
    ladder = trends.activation("ladder")
    assert sorted(ladder.run.unique()) == ["0.4m-silu", "0.4m-silu-seed2"]
    assert ladder.d.iloc[0] == 1.0
    assert "0.4m-relu" in trends.missing(ladder) and "0.4m-silu" not in trends.missing(ladder)
    both = trends.activations(["paper", "ladder"])
    assert set(both.evidence) == {"paper", "ladder"}


def test_figures_draw_both_kinds_of_evidence_and_say_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(trends, "LADDER", tmp_path)
    write_run(tmp_path, "0.4m-silu")
    trend = trends.activations(["paper", "ladder"])
    trend = trend[trend.run.isin(["0.8b-relu", "0.8b-silu", "0.4m-silu"])]
    fitted = law_tables.fit_all(trend)
    limits, points, drawn = law_tables.limits(fitted), law_tables.used(fitted), law_tables.curves(fitted)
    figure = law_figures.figure_4(points, drawn, limits.assign(identified=True))
    assert re.findall(r"(\d+) of (\d+) runs \((\w+)", figure.message) == [
        ("1", "1", "paper"), ("1", "1", "paper"), ("1", "1", "ladder")]  # fmt: skip
    texts = [text.get_text() for ax in figure.axes for text in ax.texts]
    assert "ladder: no ReLU run" in texts and {"0.8B", "0.4M"} <= set(texts)
    run, strip = trend[trend.run == "0.8b-relu"], figure.axes[1]
    dots = [line for line in figure.axes[0].lines if line.get_ls() == "None"]
    assert sum(len(line.get_xdata()) for line in dots) == len(run)
    mine, printed = limits.set_index("run").loc["0.8b-relu"], paper.table(2).query("scale == '0.8B'").a0.min()
    bar, ours, theirs = strip.lines
    assert bar.get_ydata() == pytest.approx([100 * mine.low, 100 * mine.high])
    assert ours.get_ydata() == pytest.approx([100 * mine.a0]) and theirs.get_ydata() == pytest.approx([100 * printed])
    assert ours.get_markerfacecolor() != "white"
    unfixed = law_figures.figure_4(points, drawn, limits.assign(identified=False)).axes[1]
    assert unfixed.lines[1].get_markerfacecolor() == "white"


def test_save_gives_the_same_bytes_twice_and_the_data_beside(tmp_path):
    data = pd.DataFrame({"x": [1.0, 2.0], "y": [0.5, 1 / 3]})
    contents = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        with style.context():
            figure, (ax,) = style.axes(1, 1)
            ax.plot(data.x, data.y, label="y")
            ax.legend()
        style.save(figure, "test", data, folder)
        contents.append({path.suffix: path.read_bytes() for path in folder.iterdir()})
    assert contents[0] == contents[1]
    assert set(contents[0]) == {".png", ".svg", ".csv"}
    assert contents[0][".csv"] == b"x,y\n1,0.5\n2,0.3333\n"
    with pytest.raises(ValueError, match="no data"):
        style.save(figure, "test", data.iloc[:0], tmp_path)
