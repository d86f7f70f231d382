"""Pictures of a checkpoint: any token can be drawn, sizes stay bounded, data saved beside them are the measured."""

import numpy as np
import pandas as pd
import pytest
import torch

import sparsinglib as sl
from sparsinglib.files import SAMPLE
from sparsinglib.paper import style
from sparsinglib.studies.checkpoint import figures
from sparsinglib.studies.checkpoint.ffn_output import decompose_ffn_output
from sparsinglib.studies.checkpoint.numbers import find_rule, halves
from sparsinglib.texts.pieces import token_pieces


@pytest.fixture(scope="module")
def text():
    return SAMPLE.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def batches(ladder, text):
    return sl.token_batches(text, ladder[1], 128, 1)[:1]


@pytest.fixture(scope="module")
def measured(ladder, batches):
    rules = {"FAT": sl.FAT(0.1), "ReLU": sl.StraightforwardReLU()}
    return {name: sl.measure(ladder[0], batches, rule) for name, rule in rules.items()}


def test_pieces_put_together_give_the_text_back(ladder, text):
    tokenizer = ladder[1]
    pieces = token_pieces(tokenizer, tokenizer(text)["input_ids"])
    joined = "".join(pieces).replace("‥", "").replace("·", " ").replace("⏎", "\n")
    assert joined == text


def test_a_character_of_several_tokens_is_shown_once(ladder):
    tokenizer = ladder[1]
    ids = tokenizer("\N{DROMEDARY CAMEL}")["input_ids"]
    assert len(ids) > 1
    assert token_pieces(tokenizer, ids) == ["\N{DROMEDARY CAMEL}"] + ["‥"] * (len(ids) - 1)


def test_the_table_of_tokens_and_the_heat_map_are_the_measurement(ladder, measured):
    table = figures.token_table(measured, ladder[1])
    drawn = table[table.rule == "FAT"].pivot(index="layer", columns="position", values="activation_ratio")
    np.testing.assert_array_equal(drawn.to_numpy(), measured["FAT"].token_activation[:, : drawn.shape[1]])
    picture = figures.heat_map(table, measured)
    maps = [ax for ax in picture.axes if ax.images]
    for ax, result in zip(maps, measured.values(), strict=True):
        cells = np.asarray(ax.images[0].get_array())
        np.testing.assert_allclose(cells, 100 * result.token_activation[:, : figures.MOST_TOKENS_DRAWN])
        assert f"KL {result.kl:.3f}" in ax.get_title("left")


def test_a_measurement_without_a_map_is_refused(ladder, batches):
    result = sl.measure(ladder[0], batches, sl.FAT(0.1), keep_tokens=False)
    with pytest.raises(ValueError, match="keep_tokens=True"):
        figures.token_table({"FAT": result}, ladder[1])


def test_layers_that_shed_nothing_are_not_said_to_shed_minus_zero():
    table = pd.DataFrame({"series": "0.4m-relu", "p_pct": [1, 5], "layer": 0, "activation_ratio": [0.201, 0.2]})
    assert figures.layers_by_p(table).message.endswith("layer 0 of 0.4M ReLU (0 points)")


@pytest.mark.filterwarnings("ignore:Glyph")
def test_any_token_text_can_be_drawn_and_a_long_text_stays_small(ladder, tmp_path):
    model, tokenizer = ladder
    hostile = "$x^{2 \\frac{ $$ % _ & # \x07 \u202e العربية 清华大学 🙂 " * 40
    batches = [batch[:1, :256] for batch in sl.token_batches(hostile, tokenizer, 256, 1)[:4]]
    result = {"all": sl.measure(model, batches, sl.FAT(0.0))}
    table = figures.token_table(result, tokenizer)
    for name, picture in {"map": figures.heat_map(table, result), "text": figures.coloured_text(table, "FAT")}.items():
        style.save(picture, name, table, tmp_path)
        width, height = picture.get_size_inches() * style.DPI
        assert max(width, height) < 4000
        assert (tmp_path / f"{name}.png").stat().st_size < 2e6


def test_same_data_give_the_same_bytes(ladder, measured, tmp_path):
    for folder in ("a", "b"):
        table = figures.token_table(measured, ladder[1])
        style.save(figures.heat_map(table, measured), "map", table, tmp_path / folder)
    for name in ("map.png", "map.svg", "map.csv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_figure_1_splits_the_output_as_eq_3_says(ladder, batches):
    model, _ = ladder
    found = sl.thresholds_for_cett(model, batches, 0.2)
    taken = decompose_ffn_output(model, batches[0][0], found, layer=2, position=5)
    full, strong = taken.output["all_neurons"].to_numpy(), taken.output["strong_only"].to_numpy()
    assert taken.cett == pytest.approx(np.linalg.norm(full - strong) / np.linalg.norm(full), rel=1e-4)
    strongest = taken.neurons[taken.neurons.strong]
    assert strongest.magnitude.min() >= found.values[2] * (1 - 1e-6) > 0
    assert taken.neurons[~taken.neurons.strong].magnitude.max() <= found.values[2] * (1 + 1e-6)
    with pytest.raises(ValueError, match="No layer"):
        decompose_ffn_output(model, batches[0][0], found, layer=99, position=0)


def test_find_rule_gives_what_the_name_says(ladder, batches):
    rules = {"topk": sl.TopK(0.1), "fat": sl.FAT(0.1), "relu": sl.StraightforwardReLU()}
    rules["cett"] = sl.thresholds_for_cett(ladder[0], batches, 0.1)
    assert {name: find_rule(ladder[0], batches, name, 0.1) for name in rules} == rules


@pytest.mark.parametrize(("tokens", "length", "rows"), [(1000, 128, 4), (200, 256, 1), (100, 256, 1), (40, 32, 8)])
def test_halves_lose_no_token_and_keep_their_order(tokens, length, rows):
    batches = sl.token_batches("x", lambda *_, **__: {"input_ids": list(range(tokens))}, length, rows)
    fit, judge = halves(batches)
    ids = torch.cat([row for batch in [*fit, *(judge or [])] for row in batch])
    assert ids.tolist() == torch.cat([row for batch in batches for row in batch]).tolist()
    assert (judge is None) == (tokens < 128)
