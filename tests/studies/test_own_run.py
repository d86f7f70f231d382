"""A run's table as people's tools write it, and where a checkpoint's thresholds go."""

import dataclasses
import types

import numpy as np
import pandas as pd
import pytest

import sparsinglib as sl
from sparsinglib.studies.checkpoint import numbers
from sparsinglib.studies.scaling import trends

TOKENS = [k * 1_000_000_000 for k in range(1, 21)]
RATIO = [round(0.08 + 0.1 * k**-0.5, 5) for k in range(1, 21)]
ROWS = list(zip(TOKENS, RATIO, strict=True))


def lines(head, row):
    return head + "\n" + "".join(row(t, a) + "\n" for t, a in ROWS)


PLAIN = lines("tokens,activation_ratio", lambda t, a: f"{t},{a}")
AS_WRITTEN = {
    "plain": PLAIN,
    "thousands": lines("tokens,activation_ratio", lambda t, a: f'"{t:,}",{a}'),
    "suffix": lines("Tokens, Activation_Ratio", lambda t, a: f"{t / 1e9:.1f}B, {a}"),
    "percent": lines("tokens,activation_ratio", lambda t, a: f"{t:.1e},{100 * a:.4f}%"),
    "percent apart": lines("tokens,activation_ratio", lambda t, a: f"{t},{100 * a:.4f} %"),
    "semicolon": lines("tokens;activation_ratio", lambda t, a: f"{t};{a}".replace(".", ",")),
    "german": lines("tokens;activation_ratio", lambda t, a: f"{t:,}".replace(",", ".") + f";{a}".replace(".", ",")),
    "tabs": lines("step\ttokens\tactivation_ratio", lambda t, a: f"1\t{t}\t{a}"),
    "spaces": lines("tokens,activation_ratio", lambda t, a: f"{t:,}".replace(",", "\u202f") + f",{a}"),
    "gaps": "step,tokens,activation_ratio\n" + "".join(f"0,{t},{a}\n0,{t},\n0,,{a}\n" for t, a in ROWS),
}


@pytest.mark.parametrize("kind", AS_WRITTEN)
def test_a_run_as_tools_write_it(kind, tmp_path):
    path = tmp_path / "run.csv"
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        path.write_text(AS_WRITTEN[kind], encoding=encoding)
        for given in (path, str(path)):
            mine = trends.own(given)
            assert np.allclose(mine.tokens, TOKENS) and np.allclose(mine.activation_ratio, RATIO)
            assert np.allclose(mine.d, np.arange(1, 21))


def test_points_group_digits_where_commas_are_decimal(tmp_path):
    for body, tokens in (
        ("tokens;activation_ratio\n1.500;0,2\n20.000;0,1\n", [1500, 20000]),
        ("tokens;activation_ratio\n1.500B;0,2\n1,5B;0,1\n", [1.5e9, 1.5e9]),
        ("tokens;activation_ratio\n1.500;0.2\n2.000.000;0.1\n", [1.5, 2e6]),
        ("tokens,activation_ratio\n1’500,0.2\n2'000'000,0.1\n", [1500, 2e6]),
    ):
        (tmp_path / "run.csv").write_text(body, encoding="utf-8")
        assert trends.own(tmp_path / "run.csv").tokens.tolist() == tokens


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("tokens,ratio\n1,0.5\n", r"run\.csv: no column activation_ratio; it has tokens, ratio"),
        (PLAIN + "many,0.1\n", r"run\.csv, line 22: tokens is 'many', not a count"),
        (PLAIN + "5e9,0.1x\n", r"run\.csv, line 22: activation_ratio is '0.1x'"),
        ("tokens,activation_ratio\n1e9,18.5\n", r"run\.csv: activation_ratio goes up to 18.5; it is a share"),
        ("", r"run\.csv: cannot be read as a table"),
        ("tokens,activation_ratio\n1,000,000,0.18\n", r"run\.csv, line 2: 4 fields, but the header names 2; .*quotes"),
        (PLAIN + "1,000,0.1\n", r"run\.csv, line 22: 3 fields, but the header names 2; .*quotes"),
        ("tokens,activation_ratio\n10%,0.18\n", r"run\.csv, line 2: tokens is '10%', not a count such as"),
    ],
)
def test_what_cannot_be_read_names_file_line_and_column(body, says, tmp_path):
    (tmp_path / "run.csv").write_text(body)
    with pytest.raises(ValueError, match=says):
        trends.own(tmp_path / "run.csv")


def test_a_missing_table_is_looked_for_at_a_place_that_is_told(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=f"looked for at {tmp_path}/none.csv.; give a CSV with tokens"):
        trends.own("none.csv")
    with pytest.raises(ValueError, match="the CSV of a run must be a path"):
        trends.own(pd.DataFrame())


def test_checkpoints_of_one_name_keep_a_thresholds_file_each(tmp_path, monkeypatch):
    monkeypatch.setenv("SPARSINGLIB_FIGURES", str(tmp_path / "out"))
    rules = [sl.Thresholds((v,), 0.1, 1.01, None, 0.2, ppl_increase_pct=p) for v, p in ((1, 1), (2, 1), (3, 5))]
    places = [tmp_path / "a" / "final", tmp_path / "b" / "final", tmp_path / "a" / "final"]
    for place in places:
        place.mkdir(parents=True, exist_ok=True)
    texts = [dataclasses.replace(rules[0], provenance={"corpus_sha256": digest}) for digest in ("ab12", "cd34")]
    models = [(str(place), rule, "") for place, rule in zip(places, rules, strict=True)]
    models += [(name, rules[0], "") for name in ("owner/final", "0.4m-relu", "other/final")]
    models += [("0.4m-relu", rule, "a text of the reader's") for rule in texts]
    models = [types.SimpleNamespace(name=n, rule=r, **({"sample_text": t} if t else {})) for n, r, t in models]
    saved = [numbers.save_thresholds(s) for s in models] + [numbers.save_thresholds(models[0], 2024)]
    with pytest.raises(ValueError, match="save_as is an ending"):
        numbers.save_thresholds(models[0], "../x")
    assert len(set(saved)) == 9 and {path.parent for path in saved} == {tmp_path / "out"}
    assert [sl.Thresholds.load(path) for path in saved[:3]] == rules
    assert saved[4].name == "thresholds-0.4m-relu-p1.json"
