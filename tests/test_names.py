"""The names that code outside relies on work together on a shipped model, as the README and their docstrings say."""

import numpy as np
import pytest
import torch
from helpers import golden_model

import sparsinglib as sl

TEXT = "Water flows down the river and the wheel of the mill turns with it. " * 40


@pytest.mark.filterwarnings("ignore::UserWarning")  # the text is too short for p = 1 %, and the search says so
def test_names_that_outside_code_relies_on(tmp_path):
    model, tokenizer = sl.load("0.1m-relu")
    (tmp_path / "mine.txt").write_text(TEXT, encoding="utf-8")
    batches = sl.token_batches(sl.corpora.load(str(tmp_path / "mine.txt"), split="validation"), tokenizer, 64, 8)
    assert batches[0].dtype == torch.int64 and batches[0].shape == (8, 64)
    found = sl.find_thresholds(model, batches, ppl_increase_pct=1.0)
    assert 0 < found.cett < 1 < found.ppl_ratio and found.ppl_ratio_se > 0 < found.sparse_passes
    found.save(tmp_path / "thresholds.json")
    assert sl.Thresholds.load(tmp_path / "thresholds.json") == found
    assert [float(value) for value in found.as_env().split(",")] == list(found.values)
    ffns = sl.find_ffns(model)
    for rule in (found, sl.StraightforwardReLU(), sl.TopK(0.05), sl.FAT(0.1), sl.CETT(0.2)):
        result = sl.measure(model, batches, rule)
        assert result.ppl_ratio == pytest.approx(result.sparse_ppl / result.dense_ppl)
        assert {"layer", "activation_ratio", "cett", "threshold"} <= set(result.by_layer.columns)
        assert [frequency.shape for frequency in result.neuron_frequency] == [(ffn.d_ff,) for ffn in ffns]
        assert result.token_activation.shape == (len(ffns), result.tokens)
        assert np.mean(result.token_activation) == pytest.approx(result.activation_ratio, rel=1e-5)
        changes = not isinstance(rule, sl.StraightforwardReLU)  # it leaves out what is zero anyway
        assert (result.kl > 0, result.kl_se > 0) == (changes, changes)
    assert 0 < sl.shared_cett([model, sl.load("0.1m-silu")[0]], batches, ppl_increase_pct=1.0) < 1
    prompt = batches[0][:1, :8]
    with torch.no_grad():
        before = model(prompt).logits
        with sl.sparsify(model, found):
            assert not torch.equal(model(prompt).logits, before)
            assert model.generate(prompt, max_new_tokens=4, do_sample=False).shape == (1, 12)
        assert torch.equal(model(prompt).logits, before)
    with pytest.raises(ValueError, match="thresholds"), sl.sparsify(golden_model("relu"), found):
        pass


def test_names_from_before_the_topics_had_rooms():
    from sparsinglib.studies import one_checkpoint, trends

    assert callable(one_checkpoint.save_thresholds) and callable(trends.own)
    sl.survey.loaded.cache_clear()
    with pytest.raises(ImportError, match="no_such"):
        from sparsinglib.studies import no_such  # noqa: F401
