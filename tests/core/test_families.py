"""Every decoder family goes the whole way, from a saved checkpoint to text generated under thresholds read from a file.

``docs/families.md`` lists every class of transformers that was tried (``test_entries``).
"""

import warnings

import pytest
import torch
from families import FAMILIES, TEXT, build
from helpers import greedy

import sparsinglib as sl


@pytest.mark.parametrize("family", FAMILIES)
def test_the_whole_way(family, tmp_path):
    """Save, load, search, save thresholds, read them, apply, generate."""
    folder = tmp_path
    model, _ = build(family, scale=15)
    model.save_pretrained(folder / "model")
    loaded, tokenizer = sl.load(folder / "model", device_map="cpu")
    assert tokenizer is None
    with torch.no_grad():
        dense = loaded(TEXT).logits
        assert torch.equal(dense, model(TEXT).logits), "loaded as saved"
    text = greedy(loaded, 24, rows=12)  # random text would lose nothing by pruning
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        found = sl.find_thresholds(loaded, [text], 5.0)
    found.save(folder / "thresholds.json")
    read = sl.Thresholds.load(folder / "thresholds.json")
    assert read == found and len(found.values) == 2 and found.target_met and 0.05 < found.activation_ratio < 0.95
    result = sl.measure(loaded, [text], read)
    assert result.sparse_ppl == pytest.approx(result.dense_ppl * found.ppl_ratio, rel=1e-5)
    options = {"max_new_tokens": 6, "do_sample": False, "attention_mask": torch.ones_like(TEXT)}
    with sl.sparsify(loaded, read) as sparse:
        cached = sparse.generate(TEXT, use_cache=True, **options)
        plain = sparse.generate(TEXT, use_cache=False, **options)
        with torch.no_grad():
            logits = sparse(cached).logits
            assert not torch.equal(sparse(TEXT).logits, dense)
    assert cached.shape[1] > TEXT.shape[1]
    assert torch.equal(cached, plain), "the cache of keys and values changes nothing"
    first = TEXT.shape[1]
    assert torch.equal(logits[:, first - 1].argmax(-1), cached[:, first]), "generated under the thresholds"
    with torch.no_grad():
        assert torch.equal(loaded(TEXT).logits, dense), "left as it was"
