"""Figures on neurons and tokens show the numbers of their table: panels, places, labels, ends of axes."""

import numpy as np
import pandas as pd
import pytest

from sparsinglib.paper import style
from sparsinglib.studies.neurons import figures as use_figures
from sparsinglib.studies.neurons import tokens as token_use
from sparsinglib.studies.neurons.frequency import POSITIONS

CORPORA = ("code", "wikipedia")


def test_distances_have_a_mark_for_each_kind_and_position():
    kinds = ("scales", "halves")
    rows = [(a, c, p, k, 1.0) for a in style.ACTIVATIONS for c in CORPORA for p in POSITIONS for k in kinds]
    rows += [("both", c, p, "activations", 8.0) for c in CORPORA for p in POSITIONS]
    table = pd.DataFrame(rows, columns=["activation", "corpus", "position", "kind", "distance_pp"])
    figure = use_figures.distances(table.assign(distance_pp=np.arange(len(table)) + 1.0), POSITIONS)
    table = table.assign(distance_pp=np.arange(len(table)) + 1.0)
    (ax,) = figure.axes
    drawn = [(kind, a) for kind in ("halves", "scales") for a in style.ACTIVATIONS] + [("activations", "both")]
    first = []
    for bar, (kind, activation) in zip(ax.containers, drawn, strict=True):
        rows = table[(table.kind == kind) & (table.activation == activation)]
        expected = rows.groupby("position").distance_pp.median().reindex(POSITIONS).tolist()
        assert bar.lines[0].get_ydata().tolist() == expected
        first.append(f"{expected[0]:.0f}")
    assert figure.message == f"Sizes differ by {first[2]} to {first[3]} points, ReLU and SiLU by {first[4]}"
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
    assert figure.message == (
        "code and wikipedia share 25 to 25 % of their most active neurons (chance: 10 %; two halves of one corpus: 90 "
        "to 90 %)"
    )


def test_pairs_lie_around_the_line_of_equality():
    rng = np.random.default_rng(0)
    parts = []
    for activation, names in (("relu", ("0.1m-relu", "0.4m-relu")), ("silu", ("0.1m-silu", "0.4m-silu"))):
        ratio = rng.uniform(0.1, 0.3, 50)
        parts.append(pd.DataFrame({"activation": activation, "a": names[0], "b": names[1], "ratio_a": ratio,
                                   "ratio_b": ratio}))  # fmt: skip
    columns = ["activation", "a", "b", "share_near", "rank_correlation", "halves_correlation", "shuffled_near"]
    pairs = pd.DataFrame([(p.activation[0], p.a[0], p.b[0], 1.0, 0.5 + i / 4, 0.95, 0.9) for i, p in enumerate(parts)],
                         columns=columns)  # fmt: skip
    figure = use_figures.figure_10(pd.concat(parts), pairs)
    shown = [ax for ax in figure.axes if ax.lines]
    titles = [f"rank corr. {r}\nnear 100 %\nshuffled 90 %" for r in ("0.50", "0.75")]
    assert [ax.get_title("left") for ax in shown] == titles
    for ax, part in zip(shown, parts, strict=True):
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
    said = f"most for “{order[0]}” and “{order[1]}” (21 %), fewest for “{order[2]}” (11 %)"
    assert said in figure.message  # the two whose intervals hold the end


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
