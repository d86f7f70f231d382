"""Every decoder family goes the whole way, from a saved checkpoint to text generated under thresholds read from a file.

``docs/families.md`` lists every class of transformers that was tried (``test_entries``).
"""

import pytest
import torch
from families import FAMILIES, TEXT, build
from helpers import greedy, logits

import sparsinglib as sl


@pytest.mark.parametrize("family", FAMILIES)
def test_the_whole_way(family, tmp_path, quiet):
    """Save, load, search, save thresholds, read them, apply, generate."""
    model, _ = build(family, scale=15)
    model.save_pretrained(tmp_path / "model")
    loaded, tokenizer = sl.load(tmp_path / "model", device_map="cpu")
    assert tokenizer is None
    dense = logits(loaded, TEXT)
    assert torch.equal(dense, logits(model, TEXT)), "loaded as saved"
    text = greedy(loaded, 24, rows=12)  # random text would lose nothing by pruning
    found = sl.find_thresholds(loaded, [text], 5.0)
    found.save(tmp_path / "thresholds.json")
    read = sl.Thresholds.load(tmp_path / "thresholds.json")
    assert read == found and len(found.values) == 2 and found.target_met and 0.05 < found.activation_ratio < 0.95
    result = sl.measure(loaded, [text], read)
    assert result.sparse_ppl == pytest.approx(result.dense_ppl * found.ppl_ratio, rel=1e-5)
    options = {"max_new_tokens": 6, "do_sample": False, "attention_mask": torch.ones_like(TEXT)}
    with sl.sparsify(loaded, read) as sparse:
        cached = sparse.generate(TEXT, use_cache=True, **options)
        plain = sparse.generate(TEXT, use_cache=False, **options)
        chosen = logits(sparse, cached).argmax(-1)
        assert not torch.equal(logits(sparse, TEXT), dense)
    assert cached.shape[1] > TEXT.shape[1]
    assert torch.equal(cached, plain), "the cache of keys and values changes nothing"
    first = TEXT.shape[1]
    assert torch.equal(chosen[:, first - 1], cached[:, first]), "generated under the thresholds"
    assert torch.equal(logits(loaded, TEXT), dense), "left as it was"
