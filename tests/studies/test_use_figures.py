"""Figures on neurons and tokens show the numbers of their table: panels, places, labels, ends of axes."""

import re

import numpy as np
import pandas as pd
import pytest

from sparsinglib.paper import style
from sparsinglib.studies.neurons import figures as use_figures
from sparsinglib.studies.neurons import tokens as token_use
from sparsinglib.studies.neurons.frequency import POSITIONS

CORPORA = ("code", "wikipedia")


def test_distances_have_a_mark_for_each_kind_and_position():
    drawn = [(kind, a) for kind in ("halves", "scales") for a in style.ACTIVATIONS] + [("activations", "both")]
    rows = [(*kind, c, p) for kind in drawn[2:] + drawn[:2] for c in CORPORA for p in POSITIONS]
    table = pd.DataFrame(rows, columns=["kind", "activation", "corpus", "position"])
    table = table.assign(distance_pp=np.arange(len(table)) + 1.0)
    figure = use_figures.distances(table, POSITIONS)
    (ax,) = figure.axes
    medians = table.groupby(["kind", "activation", "position"]).distance_pp.median()
    for bar, kind in zip(ax.containers, drawn, strict=True):
        assert bar.lines[0].get_ydata().tolist() == medians[kind].reindex(POSITIONS).tolist()
    assert re.findall(r"\d+", figure.message) == [f"{medians[(*kind, POSITIONS[0])]:.0f}" for kind in drawn[2:]]
    keys = figure.legends[0].legend_handles
    assert [key.get_label() for key in keys][-1] == "ReLU against SiLU" and len(keys) == 5
    assert [(key.get_color(), key.get_markerfacecolor()) for key in keys] == [
        (bar.lines[0].get_color(), bar.lines[0].get_markerfacecolor()) for bar in ax.containers
    ]


@pytest.mark.parametrize("models", [1, 5])
def test_overlap_is_written_into_both_halves_of_a_symmetric_matrix(models):
    names = [f"m{i}" for i in range(models)]
    pairs = (("code", "code", 0.9), ("code", "wikipedia", 0.25))  # no halves of wikipedia: an empty place
    table = pd.DataFrame(
        [(n, a, b, value, 0.1) for n in names for a, b, value in pairs],
        columns=["checkpoint", "corpus_a", "corpus_b", "overlap", "chance"],
    )
    figure = use_figures.overlap(table, 0.1)
    shown = [ax for ax in figure.axes if ax.collections]
    assert [ax.get_title("left") for ax in shown] == names
    for ax in shown:
        assert sorted(text.get_text() for text in ax.texts if text.get_text()) == ["25", "25", "90"]
    assert re.findall(r"\d+", figure.message) == ["25", "25", "10", "90", "90"]


def test_pairs_lie_around_the_line_of_equality():
    ratio = np.random.default_rng(0).uniform(0.1, 0.3, 100)
    table = pd.DataFrame({"activation": np.repeat(style.ACTIVATIONS, 50), "ratio_a": ratio, "ratio_b": ratio})
    table = table.assign(a="0.1m-" + table.activation, b="0.4m-" + table.activation)
    pairs = table.drop_duplicates("activation").assign(
        share_near=1.0, rank_correlation=[0.5, 0.75], halves_correlation=0.95, shuffled_near=0.9
    )
    shown = [ax for ax in use_figures.figure_10(table, pairs).axes if ax.lines]
    parts = table.groupby("activation")
    for ax, (_, part), correlation in zip(shown, parts, ("0.50", "0.75"), strict=True):
        assert re.findall(r"[\d.]*\d", ax.get_title("left")) == [correlation, "100", "90"]
        assert ax.get_xlim() == ax.get_ylim()
        low, high = ax.get_xlim()
        assert low < 100 * part.ratio_a.min() and 100 * part.ratio_a.max() < high
        assert int(ax.collections[0].get_array().sum()) == 50  # each entry is in one cell
        assert (ax.get_xlabel(), ax.get_ylabel()) == (style.name(part.a.iloc[0]), style.name(part.b.iloc[0]))


def test_kinds_are_marks_at_their_ratio_in_the_given_order():
    order = token_use.KINDS
    kinds = [order[2], order[0], order[1]]
    rows = [("m", c, k, 0.1 * (1 + i) + 0.01 * j) for j, c in enumerate(CORPORA) for i, k in enumerate(kinds)]
    rows += [("m", token_use.ALL, k, ratio) for k, ratio in zip(kinds, (0.10752, 0.20751, 0.20753), strict=True)]
    table = pd.DataFrame(rows, columns=["checkpoint", "corpus", "kind", "activation_ratio"])
    table = table.assign(low=table.activation_ratio - 0.01, high=table.activation_ratio + 0.02)
    figure = use_figures.kinds(table, order)
    (ax,) = figure.axes
    assert [label.get_text() for label in ax.get_yticklabels()] == list(order[:3])
    for bar, corpus in zip(ax.containers, (*CORPORA, token_use.ALL), strict=True):
        line = bar.lines[0]
        at = {order[round(y)]: x for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)}
        expected = table[table.corpus == corpus].set_index("kind").activation_ratio
        assert at == pytest.approx({k: 100 * expected[k] for k in kinds})
    most = [f"“{order[0]}”", f"“{order[1]}”", "21 %"]  # the two whose intervals hold the end
    assert re.findall(r"“.+?”|\d+ %", figure.message) == [*most, f"“{order[2]}”", "11 %"]


def test_extremes_are_ranked_with_a_gap_between_the_ends():
    order = token_use.KINDS
    rows = [("most", "$x_1$", 0.9), ("most", "⏎······", 0.8), ("fewest", "c", 0.1), ("fewest", "<121>", 0.05)]
    table = pd.DataFrame(rows, columns=["side", "token", "activation_ratio"])
    table = table.assign(checkpoint="m", kind=order[0], low=0.04, high=0.95)
    figure = use_figures.extremes(table, order)
    (ax,) = figure.axes
    assert [label.get_text() for label in ax.get_yticklabels()] == ["$x_1$", "⏎·×6", "c", "piece no. 121"]
    assert [bar.get_width() for bar in ax.patches] == pytest.approx([90, 80, 10, 5])
    middles = [bar.get_y() + bar.get_height() / 2 for bar in ax.patches]
    assert np.diff(middles).tolist() == pytest.approx([1, 2.5, 1])
    assert ax.yaxis_inverted()
