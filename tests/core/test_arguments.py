"""Whatever a caller gives to a public function: taken as what it is meant to be, or refused in one sentence."""

import itertools
import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import IDS, NO_NUMBERS, golden_model

import sparsinglib as sl
from sparsinglib.core import arguments, forward

TEXT = "The river ran low that summer, and the mill stood still.\n" * 60
HALVES = (0.5, np.float32(0.5), np.float64(0.5), np.array(0.5), torch.tensor(0.5))


@pytest.fixture(scope="module")
def loaded():
    return sl.load("0.4m-relu", device_map="cpu")  # in the wheel, where these tests run too


@pytest.fixture(scope="module")
def batches(loaded):
    return sl.token_batches(TEXT, loaded[1], 64, 4, 512)


@pytest.fixture(scope="module")
def found(loaded, batches):
    return sl.thresholds_for_cett(loaded[0], batches, 0.3)


@pytest.mark.parametrize("make", [sl.FAT, sl.TopK, sl.OutputTopK, sl.TopP, sl.CETT, lambda x: sl.GateThresholds((x,))])
def test_a_rule_takes_any_number_and_nothing_else(make):
    assert len({make(half) for half in HALVES}) == 1
    for other in NO_NUMBERS:
        with pytest.raises(ValueError):
            make(other)


def test_whole_numbers():
    for value in (8, 8.0, np.int32(8), np.float32(8), torch.tensor(8), np.array(8.0)):
        taken = arguments.whole("size", value)
        assert taken == 8 and type(taken) is int
    for other in (*NO_NUMBERS, 8.5, "8", float("inf"), 7):
        with pytest.raises(ValueError, match="size must be a whole number of at least 8"):
            arguments.whole("size", other, 8)


@pytest.mark.parametrize("name", ["kl", "cett", "keep_tokens"])
def test_flags_of_a_measurement(name, relu):
    with pytest.raises(ValueError, match=f"{name} must be True or False"):
        sl.measure(relu, [IDS], sl.FAT(0.1), **{name: "no"})


def test_paths_flags_and_choices():
    assert arguments.path("out", "~/x") == Path.home() / "x" == arguments.path("out", Path("~/x"))
    for other in (None, 3, "", " ", b"x", ["x"]):
        with pytest.raises(ValueError, match="out must be a path"):
            arguments.path("out", other)
    assert arguments.flag("kl", np.bool_(False)) is False
    for other in (0, 1, "no", None):
        with pytest.raises(ValueError, match="kl must be True or False"):
            arguments.flag("kl", other)
    for other in ("KL", None, ["kl"]):
        with pytest.raises(ValueError, match="criterion must be one of 'ppl', 'kl'"):
            arguments.one_of("criterion", other, ("ppl", "kl"))


def test_sizes_of_windows_as_config_files_write_them(loaded):
    plain = sl.token_batches(TEXT, loaded[1], 64, 4, 512)
    for size in (float, np.int64, np.float32, torch.tensor):
        other = sl.token_batches(TEXT, loaded[1], size(64), size(4), size(512))
        assert all(torch.equal(a, b) for a, b in zip(plain, other, strict=True))


def sparsified(model, batches, rule):
    with sl.sparsify(model, rule):
        return model(batches[0]).logits.sum()


@pytest.mark.parametrize("use", [sparsified, lambda *a: sl.measure(*a).activation_ratio], ids=["sparsify", "measure"])
def test_the_path_of_a_thresholds_file_is_a_rule(use, loaded, batches, found, tmp_path):
    path = tmp_path / "thresholds.json"
    found.save(str(path))
    call = partial(use, loaded[0], batches)
    assert call(found) == call(path) == call(str(path))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())  # saved again by an editor of Windows
    assert sl.Thresholds.load(path) == found
    for other in (0.1, None, True, [0.1], sl.TopK, found.values, json.loads(path.read_text("utf-8-sig")), object()):
        with pytest.raises(ValueError, match=r"the rule must be Thresholds.*path"):
            call(other)
    with pytest.raises(ValueError, match="neither a thresholds file nor a rule; rules are objects"):
        call("topk")
    assert sl.Thresholds(np.array(found.values), found.cett, 1.0, None, 0.5).values == found.values
    for other in (tmp_path, tmp_path / "none.json", "none.json", ""):
        with pytest.raises(ValueError, match="thresholds file"):
            call(other)


def test_what_is_no_model_is_named(batches, found):
    for call in (
        sl.find_ffns,
        lambda m: sl.measure(m, batches, found),
        lambda m: sl.find_thresholds(m, batches),
        lambda m: sl.thresholds_for_cett(m, batches, 0.1),
        lambda m: sl.gate_thresholds(m, batches, 0.1),
        lambda m: sl.shared_cett([m], batches),
    ):
        for other in ("0.1m-relu", None, (1, 2), torch.nn.Linear(1, 1), torch.nn.Linear):
            with pytest.raises(ValueError, match=r"model must be a loaded model.*load"):
                call(other)
    for other in (None, [], golden_model("relu"), 3):
        with pytest.raises(ValueError, match="list of at least one model"):
            sl.shared_cett(other, batches)


@pytest.mark.parametrize("ratio", HALVES, ids=repr)
def test_numbers_of_a_search(loaded, batches, ratio):
    assert sl.gate_thresholds(loaded[0], batches, ratio) == sl.gate_thresholds(loaded[0], batches, 0.5)
    assert sl.thresholds_for_cett(loaded[0], batches[:1], ratio).values


def test_rise_in_percent(loaded, batches, quiet):
    plain = sl.find_thresholds(loaded[0], batches, 5.0)
    for p in (5, np.float32(5), np.int64(5), torch.tensor(5.0)):
        assert sl.find_thresholds(loaded[0], batches, p) == plain


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint16, torch.int32, torch.int16, torch.uint8], ids=str)
def test_token_ids_of_any_whole_type(kind, relu):
    ids = IDS % 200
    other = ids.numpy().astype(kind) if isinstance(kind, type) else ids.to(kind)
    assert len({sl.measure(relu, [b], sl.FAT(0.1)).dense_ppl for b in (ids, other, {"input_ids": other})}) == 1


def test_a_stream_is_read_and_an_endless_one_is_told(relu, monkeypatch, quiet):
    class Loader:
        """As torch's, over data without a length: it has ``__len__`` and raises when asked."""

        def __iter__(self):
            return iter([IDS, IDS])

        def __len__(self):
            raise TypeError("no length")

    assert sl.measure(relu, (b for b in [IDS, IDS]), sl.FAT(0.1)).tokens == 2 * IDS.numel()
    assert sl.measure(relu, Loader(), sl.FAT(0.1)).tokens == 2 * IDS.numel()
    monkeypatch.setattr(forward, "MOST_STREAMED", 50 * IDS.numel())
    assert sl.measure(relu, [IDS] * 60, sl.FAT(0.1), kl=False).tokens == 60 * IDS.numel()
    for listed in ([IDS.tolist()], itertools.repeat({"input_ids": IDS.tolist()})):
        with pytest.raises(ValueError, match=r"Batch 0: expected a LongTensor of token ids .* got list"):
            sl.measure(relu, listed, sl.FAT(0.1))

    class Huge:
        def __iter__(self):
            return itertools.repeat(IDS)

        def __len__(self):
            return 10**12

    for make in (Huge, lambda: itertools.repeat(IDS), lambda: itertools.cycle([{"input_ids": IDS.numpy()}])):
        for call in (
            lambda b: sl.find_thresholds(relu, b),
            lambda b: sl.measure(relu, b, sl.FAT(0.1)),
            lambda b: sl.find_thresholds(relu, [IDS], held_out=b),
        ):
            with pytest.raises(ValueError, match=r"endless.*max_tokens"):
                call(make())


def test_one_alone_is_a_list_of_itself():
    assert arguments.several("models", "0.4m-relu", arguments.text) == ["0.4m-relu"]
    assert arguments.several("p_values", 5, arguments.number) == [5.0]
    assert arguments.several("p_values", (1, np.float32(5)), arguments.number) == [1.0, 5.0]
    for other in (3, ["a", 3], [None]):
        with pytest.raises(ValueError, match="models is a text"):
            arguments.several("models", other, arguments.text)
