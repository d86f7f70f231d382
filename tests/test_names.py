"""The names that code outside relies on: each works, and gives what the README and its docstring say."""

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import IDS, golden_model

import sparsinglib as sl

pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning"
)  # the text is too short for p = 1 %, and the search says so
TEXT = "Water flows down the river and the wheel of the mill turns with it. " * 40


@pytest.fixture(scope="module")
def loaded():
    return sl.load("0.1m-relu")


@pytest.fixture(scope="module")
def batches(loaded):
    return sl.token_batches(TEXT, loaded[1], length=64, batch_size=8)


@pytest.fixture(scope="module")
def found(loaded, batches):
    return sl.find_thresholds(loaded[0], batches, ppl_increase_pct=1.0)


def test_a_batch_is_a_tensor_or_a_dict(loaded, batches):
    model, _ = loaded
    assert batches[0].dtype == torch.int64 and batches[0].ndim == 2 and batches[0].shape[1] == 64
    as_dicts = [{"input_ids": b, "attention_mask": torch.ones_like(b)} for b in batches]
    rule = sl.TopK(0.05)
    assert sl.measure(model, as_dicts, rule).ppl_ratio == pytest.approx(sl.measure(model, batches, rule).ppl_ratio)


def test_a_checkpoint_without_a_tokenizer_loads_with_none(tmp_path):
    model = golden_model("relu")
    model.save_pretrained(tmp_path)
    again, tokenizer = sl.load(str(tmp_path))
    assert tokenizer is None
    with torch.no_grad():
        torch.testing.assert_close(again(IDS).logits, model(IDS).logits)


def test_thresholds(loaded, found, tmp_path):
    layers = len(sl.find_ffns(loaded[0]))
    assert isinstance(found, sl.Thresholds) and len(found.values) == layers
    assert 0 < found.cett < 1 and found.ppl_ratio > 1 and found.ppl_ratio_se > 0
    assert 0 < found.activation_ratio < 1 and found.sparse_passes > 0
    found.save(tmp_path / "thresholds.json")
    again = sl.Thresholds.load(tmp_path / "thresholds.json")
    assert again == found
    assert [float(value) for value in found.as_env().split(",")] == list(found.values)


@pytest.mark.parametrize("rule", ["found", sl.StraightforwardReLU(), sl.TopK(0.05), sl.FAT(0.1), sl.CETT(0.2)], ids=str)
def test_measure(loaded, batches, found, rule):
    model, _ = loaded
    result = sl.measure(model, batches, found if rule == "found" else rule)
    ffns, tokens = sl.find_ffns(model), sum(batch.numel() for batch in batches)
    assert 0 < result.activation_ratio < 1
    assert result.ppl_ratio == pytest.approx(result.sparse_ppl / result.dense_ppl)
    assert isinstance(result.by_layer, pd.DataFrame)
    assert {"layer", "activation_ratio", "cett", "threshold"} <= set(result.by_layer.columns)
    assert [frequency.shape for frequency in result.neuron_frequency] == [(ffn.d_ff,) for ffn in ffns]
    assert result.token_activation.shape == (len(ffns), tokens)
    assert np.mean(result.token_activation) == pytest.approx(result.activation_ratio, rel=1e-5)
    changes = not isinstance(rule, sl.StraightforwardReLU)  # it leaves out what is zero anyway
    assert (result.kl > 0, result.kl_se > 0) == (changes, changes)


def test_shared_cett(loaded, batches):
    models = [loaded[0], sl.load("0.1m-silu")[0]]
    assert 0 < sl.shared_cett(models, batches, ppl_increase_pct=1.0) < 1


def test_sparsify_generates_and_leaves_the_model_as_it_was(loaded, batches, found):
    model, prompt = loaded[0], batches[0][:1, :8]
    with torch.no_grad():
        before = model(prompt).logits
        with sl.sparsify(model, found):
            assert not torch.equal(model(prompt).logits, before)
            assert model.generate(prompt, max_new_tokens=4, do_sample=False).shape == (1, 12)
        assert torch.equal(model(prompt).logits, before)
    with pytest.raises(ValueError, match="thresholds"), sl.sparsify(golden_model("relu"), found):
        pass


def test_laws():
    tokens = np.geomspace(1, 100, 20)
    ratio = np.exp(-0.5 * tokens**0.4 - 2) + 0.07
    fit = sl.laws.fit("relu", tokens, ratio, drop=0)
    assert (fit.alpha, fit.b, fit.c, fit.a0) == pytest.approx((0.4, -2, 0.5, 0.07), rel=1e-3)
    assert fit.predict(tokens) == pytest.approx(ratio, rel=1e-4)


@pytest.mark.parametrize("name", ["wikipedia", "code", "math", "chinese"])
def test_corpora(name):
    text = sl.corpora.load(name, split="validation")
    assert isinstance(text, str) and len(text) > 10_000


def test_a_path_is_a_corpus_too(tmp_path):
    (tmp_path / "mine.txt").write_text(TEXT, encoding="utf-8")
    assert sl.corpora.load(str(tmp_path / "mine.txt"), split="validation") == TEXT.strip()


def test_names_from_before_the_topics_had_rooms():
    from sparsinglib.studies import one_checkpoint, trends

    assert callable(one_checkpoint.save_thresholds) and callable(trends.own)
    sl.survey.loaded.cache_clear()
    with pytest.raises(ImportError, match="no_such"):
        from sparsinglib.studies import no_such  # noqa: F401
