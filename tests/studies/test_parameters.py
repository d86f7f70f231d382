"""Parameters as papermill gives them: "4k" stays a text, one name is no list. Refused before anything is loaded."""

import pytest

from sparsinglib import suites
from sparsinglib.ladder import batches
from sparsinglib.paper import scoreboard
from sparsinglib.studies.downstream import scores
from sparsinglib.studies.neurons import frequency, tokens
from sparsinglib.studies.scaling import trends
from sparsinglib.studies.tradeoff import sweep

LADDER = suites.read("ladder")
BAD = {
    "tokens": lambda: frequency.validate_parameters(LADDER, "4k", 1.0),
    "ppl_increase_pct": lambda: frequency.validate_parameters(LADDER, 0, "1%"),
    "top_share": lambda: frequency.validate_parameters(LADDER, 0, 1.0, "10%"),
    "jobs": lambda: frequency.validate_parameters(LADDER, 0, 1.0, jobs="two"),
    "min_occurrences": lambda: tokens.validate_parameters("ten", 14),
    "shown": lambda: tokens.validate_parameters(10, 0),
    "p_values": lambda: scores.validate_parameters(["1%"], 150, 75, 8192),
    "examples": lambda: scores.validate_parameters(1.0, "150x", 75, 8192),
    "figure_3_examples": lambda: scores.validate_parameters(1.0, 150, None, 8192),
    "models": lambda: scores.choose(3),
    "points": lambda: sweep.sweep(LADDER, LADDER.checkpoints, points="6 points"),
    "max_tokens": lambda: batches.validation_batches("16k"),
    "evidence": lambda: trends.activations("papers"),
    "the unit of tokens": lambda: trends.own("run.csv", "1G"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_parameter_of_the_wrong_kind_is_named(name):
    with pytest.raises(ValueError, match=f"^{name} "):
        BAD[name]()


def test_one_name_is_a_list_of_itself():
    assert scores.choose("0.4m-relu") == ["0.4m-relu"]
    scores.validate_parameters(5, 150, 75, 8192)
    assert set(trends.activations("paper").evidence) == {"paper"}
    assert list(scoreboard.verdicts(scoreboard.read(), "ladder")) == ["ladder"]
