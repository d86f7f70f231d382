"""What ``data/ladder/README.md`` says of the runs is what their files hold, and all of them stay small."""

import json
import re

import pandas as pd
import pytest

from sparsinglib.files import LADDER
from sparsinglib.ladder import ends, snapshots
from sparsinglib.ladder.batches import NEW_PROBLEMS, PATTERN
from sparsinglib.ladder.recipe import CONTEXT, LAST, RUNS, SCALES, measured_steps
from sparsinglib.ladder.trajectory import INCREASES
from sparsinglib.texts import corpora

README = (LADDER / "README.md").read_text(encoding="utf-8")
HEAD = "| run | tokens | tokens a parameter | smoothed loss |"


def rows():
    lines = README[README.index(HEAD) :].split("\n\n")[0].splitlines()[2:]
    return {cells[0].strip("`"): cells[1:] for cells in ([c.strip() for c in line.split("|")[1:-1]] for line in lines)}


def spread(values):
    low, high = f"{100 * values.min():.1f}", f"{100 * values.max():.1f}"
    return f"{low} %" if low == high else f"{low}–{high} %"


@pytest.mark.parametrize("run", rows())
def test_a_row_is_what_the_files_of_its_run_say(run):
    facts = json.loads((LADDER / run / "run.json").read_text())
    table = pd.read_csv(LADDER / run / "trajectory.csv")
    loss = pd.read_csv(LADDER / run / "training.csv").loss_smoothed.iloc[-1]
    along = {name: part.sort_values("tokens") for name, part in table.groupby("metric")}
    ratio = along["activation_ratio_shared_cett"]
    ratio = ratio[ratio.p_pct == 1]
    after = ratio[ratio.tokens > facts["warmup_tokens"]]
    lowest = after.loc[after.value.idxmin()]
    shared = along["cett_shared"]
    zeros = along.get("relu_nonzero_ratio")
    assert rows()[run] == [
        f"{facts['tokens'] / 1e6:.0f}M",
        f"{facts['tokens_per_parameter']:.0f}",
        f"{loss:.3f}",
        f"{along['validation_loss'].value.iloc[-1]:.3f}",
        f"{shared[shared.p_pct == 1].value.iloc[-1]:.3f}",
        f"{100 * after.value.iloc[0]:.1f} %",
        f"{100 * lowest.value:.1f} % ({lowest.tokens / 1e6:.1f}M)",
        spread(ratio.value.iloc[-LAST:]),
        "" if zeros is None else spread(zeros.value.iloc[-LAST:]),
    ]


def test_every_run_of_the_scale_study_has_its_row():
    study = {name for name, run in RUNS.items() if run.tokens > 12_000_000 and not run.snapshots}
    assert set(rows()) == study


def test_how_often_each_corpus_is_read():
    lines = [line for line in README.splitlines() if re.match(r"\| (wikipedia|chinese|code|math) \|", line)]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    assert [row[0] for row in cells] == list(corpora.SHARES)
    for name, _, _, size, share, *read in cells:
        assert float(share.split()[0]) / 100 == corpora.SHARES[name]
        again = NEW_PROBLEMS * PATTERN * CONTEXT / 1e6  # millions of tokens, up to which mathematics is read again
        read_to = [min(tokens, again) if name == "math" else tokens for tokens in (40, 88, 137)]
        assert read == [f"{corpora.SHARES[name] * tokens / float(size.split('M')[0]):.1f}" for tokens in read_to]


def test_the_ends_of_the_sizes():
    table = pd.read_csv(ends.TARGET)
    assert list(table.columns) == ends.COLUMNS and set(table.tokens) == {snapshots.TOKENS}
    assert list(table.run.unique()) == [run.name for run in ends.sizes_and_seeds()]
    assert (table.groupby("run")[["criterion", "p_pct"]].value_counts() == 1).all() and len(table) % 6 == 0
    assert (table.low < table.activation_ratio).all() and (table.activation_ratio < table.high).all()
    at_one = table[(table.criterion == "kl") & (table.p_pct == 1)].set_index("run").activation_ratio
    for activation, name in (("relu", "ReLU"), ("silu", "SiLU")):
        sizes = [f"{scale}-{activation}" for scale in SCALES]
        said = ", ".join(f"{100 * at_one[f'{n}-long' if f'{n}-long' in at_one else n]:.1f}" for n in sizes)
        assert re.search(rf"{name}\s+{said} %", README), said


def test_a_long_run_along_its_tokens():
    table = pd.read_csv(LADDER / "0.8m-relu-long" / snapshots.FILE)
    cett = snapshots.cett_at_rise(table)
    ratio = snapshots.at_cett(table, cett).set_index("tokens").activation_ratio
    said = re.search(r"`0.8m-relu-long` falls (.*) by KL", README)[1]
    for share, tokens in re.findall(r"([\d.]+) %[a-z ]* at ([\d.]+)M", said):
        (at,) = ratio.index[(ratio.index / 1e6).round(1) == float(tokens)]
        assert f"{100 * ratio[at]:.1f}" == share
    assert len(re.findall("%", said)) == 3 and f"CETT of {cett:.3f}" in said


def measured(run):
    """ "in full", "briefly", "not" or, of a run measured in full at some checkpoints only, "in part"."""
    path = LADDER / run / "trajectory.csv"
    if not path.is_file():
        along = (LADDER / run / snapshots.FILE).is_file()
        return "in full" if along and json.loads((LADDER / run / "run.json").read_text())["finished"] else "not"
    table = pd.read_csv(path)
    if set(table.metric) == {"validation_loss"}:
        return "only the loss"
    by_step = table.groupby("step")
    full = by_step.apply(
        lambda part: set(part.p_pct.dropna()) >= set(INCREASES) and "cett_searched" in set(part.metric),
        include_groups=False,
    )
    return "in full" if full.all() else "in part" if full.any() else "briefly"


@pytest.mark.parametrize("kind", ["in part", "briefly", "only the loss", "not"])
def test_the_readme_names_what_is_not_measured_in_full(kind):
    listed = re.search(rf"^- {kind}\b[^:\n]*: (`.*?)$(?!\n  )", README, re.MULTILINE | re.DOTALL)
    names = re.findall("`(.*?)`", listed[1]) if listed else []
    assert names == [run for run in RUNS if measured(run) == kind]


def test_a_trajectory_holds_the_chosen_checkpoints_and_ends_with_the_run():
    for name in RUNS:
        if not (LADDER / name / "trajectory.csv").is_file():
            continue
        steps = sorted(set(pd.read_csv(LADDER / name / "trajectory.csv").step))
        assert steps == measured_steps(steps) and steps[-1] == RUNS[name].steps, name
        least = 20 if RUNS[name].tokens > 6_000_000 else 19  # three in each doubling from 0.25M tokens, and five
        assert least <= len(steps) <= 29, name


def test_all_of_it_stays_under_80_megabytes():
    assert sum(path.stat().st_size for path in LADDER.rglob("*") if path.is_file()) < 80e6
