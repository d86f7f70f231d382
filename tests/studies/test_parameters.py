"""Parameters as papermill gives them: "4k" stays a text, one name is no list. Refused before anything is loaded."""

import pytest

from sparsinglib import suites
from sparsinglib.ladder import batches
from sparsinglib.paper import scoreboard
from sparsinglib.studies.checkpoint import numbers, slider
from sparsinglib.studies.downstream import scores
from sparsinglib.studies.neurons import frequency, tokens
from sparsinglib.studies.scaling import trends
from sparsinglib.studies.tradeoff import sweep
from sparsinglib.suites import survey

LADDER = suites.read("ladder")
REFUSED = [
    ("^tokens ", lambda: frequency.validate_parameters(LADDER, "4k", 1.0)),
    ("^ppl_increase_pct ", lambda: frequency.validate_parameters(LADDER, 0, "1%")),
    ("^top_share ", lambda: frequency.validate_parameters(LADDER, 0, 1.0, "10%")),
    ("^jobs ", lambda: frequency.measure_frequencies(LADDER, jobs="two")),
    ("^min_occurrences ", lambda: tokens.validate_parameters("ten", 14)),
    ("^shown ", lambda: tokens.validate_parameters(10, 0)),
    ("^p_values ", lambda: scores.validate_parameters(["1%"], 150, 75, 8192)),
    ("^examples ", lambda: scores.validate_parameters(1.0, "150x", 75, 8192)),
    ("^figure_3_examples ", lambda: scores.validate_parameters(1.0, 150, None, 8192)),
    ("^models ", lambda: scores.choose(3)),
    ("^points ", lambda: sweep.sweep(LADDER, LADDER.checkpoints, points="6 points")),
    ("^max_tokens ", lambda: batches.validation_batches("16k")),
    ("^evidence ", lambda: trends.activations("papers")),
    ("^the unit of tokens ", lambda: trends.own("run.csv", "1G")),
    ("p_values", lambda: scores.validate_parameters([], 10, 5, 8192)),
    ("p_values", lambda: scores.validate_parameters([100.0], 10, 5, 8192)),
    ("tokens", lambda: scores.validate_parameters([1.0], 10, 5, 100)),
    ("figure_3_examples", lambda: scores.validate_parameters([1.0], 10, 0, 8192)),
    ("figure_3_examples", lambda: scores.validate_parameters([1.0], 10, 99, 8192)),
    (f"one window of {LADDER.sequence_length}", lambda: frequency.measure_frequencies(LADDER, 1.0, 8)),
    ("ppl_increase_pct", lambda: frequency.measure_frequencies(LADDER, 0.0)),
    ("at least 1", lambda: tokens.validate_parameters(0, 14)),
    ("points", lambda: sweep.sweep(LADDER, LADDER.checkpoints, points=1)),
    ("tokens", lambda: sweep.sweep(LADDER, LADDER.checkpoints, tokens=100)),
    ("no corpus and no file", lambda: sweep.sweep(LADDER, LADDER.checkpoints, corpus="wikipdia")),
    ("0.4m-relu", lambda: slider.validate_parameters(LADDER, "no-such", "", "auto")),
    ("empty", lambda: slider.validate_parameters(LADDER, "", "  \n", "auto")),
    ("'auto', 'slider', 'picture'", lambda: slider.validate_parameters(LADDER, "", "", "always")),
    ("'auto', 'slider', 'picture'", lambda: slider.show(None, "always")),
    ("one of", lambda: numbers.validate_strategy("none", 1)),
    ("ratio", lambda: numbers.validate_strategy("pplp", 5)),
    ("ratio", lambda: numbers.validate_strategy("pplp", 1.0)),
    ("share", lambda: numbers.validate_strategy("topk", 0)),
    ("eps", lambda: numbers.validate_strategy("fat", -1)),
    ("CETT", lambda: numbers.validate_strategy("cett", 1)),
]


@pytest.mark.parametrize(("message", "call"), REFUSED)
def test_a_bad_parameter_is_named_before_anything_is_loaded(message, call, monkeypatch):
    monkeypatch.setattr(survey, "loaded", lambda _: pytest.fail("a model was loaded"))
    with pytest.raises(ValueError, match=message):
        call()


def test_one_name_is_a_list_of_itself():
    assert scores.choose("0.4m-relu") == ["0.4m-relu"]
    scores.validate_parameters(5, 150, 75, 8192)
    assert set(trends.activations("paper").evidence) == {"paper"}
    assert list(scoreboard.verdicts(scoreboard.read(), "ladder")) == ["ladder"]
