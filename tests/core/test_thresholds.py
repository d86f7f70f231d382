"""The artefact of a search survives the disk, the authors' format and the wrong model."""

import dataclasses
import json
import math

import pytest
import torch
from helpers import IDS, golden_model, hooks_on, logits, tiny_granite, tiny_llama
from hypothesis import given
from hypothesis import strategies as st

import sparsinglib as sl


@pytest.fixture(scope="module")
def found(ids):
    return sl.thresholds_for_cett(golden_model("silu"), [ids["tiny64"]], 0.1)


@pytest.mark.parametrize(
    ("other", "word"),
    [
        (lambda: tiny_llama(layers=3), "2 layers"),
        (lambda: tiny_llama(d_ff=32), "24 neurons"),
        (lambda: tiny_llama(seed=1), "mean length"),
        (tiny_granite, "mean length"),
    ],
    ids=["layers", "d_ff", "weights", "family"],
)
def test_refuses_another_model(other, word):
    thresholds, model = sl.thresholds_for_cett(tiny_llama(), [IDS], 0.1), other()
    with pytest.raises(ValueError, match=word), sl.sparsify(model, thresholds):
        pass
    with pytest.raises(ValueError, match=word):
        sl.measure(model, [IDS], thresholds)
    assert hooks_on(model) == 0


def test_takes_the_same_model_in_another_dtype():
    model = tiny_llama()
    thresholds = sl.thresholds_for_cett(model, [IDS], 0.1)
    with sl.sparsify(model.to(torch.bfloat16), thresholds) as half:
        logits(half)


def test_json_round_trip_is_exact(found, tmp_path):
    path = tmp_path / "thresholds.json"
    found.save(path)
    back = sl.Thresholds.load(path)
    assert back == found and hash(back) == hash(found)
    assert [*map(type, vars(back).values())] == [*map(type, vars(found).values())]
    assert [p.name for p in tmp_path.iterdir()] == ["thresholds.json"]
    document = json.loads(path.read_text())
    assert document["tokens"] == 64 and document["layers"] == [160, 160]
    assert {"model", "revision", "dtype", "tokenizer", "corpus_sha256", "sparsinglib"} <= set(document["provenance"])


positive = st.floats(0, 1e30, allow_subnormal=False)


@given(
    st.lists(positive, min_size=1, max_size=5),
    st.floats(0, 1),
    st.one_of(st.none(), positive),
    st.lists(st.tuples(positive, positive), max_size=4),
    st.one_of(st.none(), st.tuples(positive, positive)),
)
def test_any_artefact_survives_the_disk(tmp_path_factory, values, cett, se, points, interval):
    path = tmp_path_factory.mktemp("t") / "a.json"
    more = {"points": tuple(points), "cett_interval": interval, "provenance": {"model": "é"}}
    artefact = sl.Thresholds(tuple(values), cett, 1 / 3, se, math.pi / 4, **more)
    artefact.save(path)
    assert sl.Thresholds.load(path) == artefact
    assert tuple(float(x) for x in artefact.as_env().split(",")) == artefact.values


def test_the_card_says_what_was_measured_on_what_and_how_surely(found):
    sure = {"ppl_increase_pct": 5.0, "ppl_ratio": 1.0512, "ppl_ratio_se": 0.0034, "activation_ratio": 0.25}
    sure |= {"activation_interval": (0.211, 0.304), "tokens": 12345, "provenance": found.provenance | {"model": "a|b"}}
    card = dataclasses.replace(found, **sure).card()
    for part in (
        "(CETT-PPL-5%)",
        "| 25.0% (90 %: 21.1% to 30.4%) |",
        "| 1.0512 ± 0.0034 |",
        f"| {found.cett:.4f} |",
        f"| 12,345 tokens, SHA-256 {found.provenance['corpus_sha256'][:12]} |",
        "| a/b, float32 |",  # a bar would end the cell
        f"`{found.as_env()}`",
    ):
        assert part in card
    unknown = dataclasses.replace(found, target_met=False, ppl_ratio_se=None, activation_interval=None).card()
    assert "could not raise perplexity" in unknown and "could not" not in card
    assert "±" not in unknown and "90 %" not in unknown


def test_save_keeps_the_old_file_if_it_fails(found, tmp_path):
    path = tmp_path / "t.json"
    found.save(path)
    with pytest.raises(ValueError):
        dataclasses.replace(found, ppl_ratio=float("nan")).save(path)
    assert sl.Thresholds.load(path) == found


BROKEN = {
    "nothing": b"",
    "cut short": b'{"format": "sparsinglib thresholds 1", "values": [0.1',
    "not json": b"0.1,0.2",
    "a list": b"[0.1, 0.2]",
    "other format": b'{"values": [0.1]}',
    "binary": b"\xff\xfe\x00",
    "missing": None,
    "deep": b"[" * 100000,
}
CHANGES = {
    "no values": {"values": []},
    "text in values": {"values": [0.1, "x"]},
    "null in values": {"values": [0.1, None]},
    "values missing": {"values": ...},
    "values no list": {"values": 0.1},
    "nan": {"values": [0.1, float("nan")]},
    "infinite": {"values": [0.1, float("inf")]},
    "negative": {"values": [0.1, -0.2]},
    "boolean": {"values": [0.1, True]},
    "percent": {"activation_ratio": 18.0},
    "below nothing": {"activation_ratio": -0.1},
    "negative perplexity": {"ppl_ratio": -1.0},
    "cett text": {"cett": "0.1"},
    "cett null": {"cett": None},
    "tokens text": {"tokens": "64"},
    "tokens boolean": {"tokens": True},
    "points flat": {"points": [0.1, 0.2]},
    "points triple": {"points": [[0.1, 0.2, 0.3]]},
    "interval of three": {"cett_interval": [0.1, 0.2, 0.3]},
    "layers fraction": {"layers": [160.5, 160]},
    "layers too few": {"layers": [160]},
    "norms too few": {"column_norms": [1.0]},
    "unknown entry": {"weights": [1]},
    "met text": {"target_met": "yes"},
    "provenance list": {"provenance": []},
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_unreadable_file_is_one_error_that_names_it(content, tmp_path):
    path = tmp_path / "bad.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"bad\.json"):
        sl.Thresholds.load(path)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_malformed_entry_is_one_error_that_names_the_file(change, found, tmp_path):
    path = tmp_path / "bad.json"
    found.save(path)
    document = json.loads(path.read_text()) | change
    path.write_text(json.dumps({k: v for k, v in document.items() if v is not ...}))
    with pytest.raises(ValueError, match=r"bad\.json"):
        sl.Thresholds.load(path)


@pytest.mark.parametrize("values", [(), (float("nan"),), (-1.0,), (float("inf"),), ("0.1",), (None,)])
def test_values_that_make_no_sense(values):
    with pytest.raises(ValueError, match="finite numbers"):
        sl.Thresholds(values, 0.1, 1.0, None, 0.5)
