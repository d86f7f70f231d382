"""One model computed in other ways (attention, dtype, head, window, padding, threads) gives the same numbers."""

import copy
import math

import pytest
import torch
import transformers as tf
from families import COMMON, TEXT, build
from helpers import greedy, tiny_llama

import sparsinglib as sl

ATTENTION = ["Llama", "Qwen2", "Gemma3Text", "Granite", "Phi3", "GPTNeoX", "OPT"]


def numbers(model, batches):
    """Activation ratio, perplexities and thresholds at one CETT."""
    result = sl.measure(model, batches, sl.CETT(0.1))
    return [result.activation_ratio, result.dense_ppl, result.sparse_ppl, *result.rule.values]


@pytest.mark.parametrize("family", ATTENTION)
def test_eager_and_sdpa(family):
    model, _ = build(family)
    model.set_attn_implementation("eager")
    eager = numbers(model, [TEXT])
    model.set_attn_implementation("sdpa")
    assert numbers(model, [TEXT]) == pytest.approx(eager, rel=1e-3)


@pytest.mark.parametrize("family", ATTENTION)
def test_bfloat16(family):
    model, _ = build(family, scale=15)
    text = greedy(model, 24, rows=12)
    rule = sl.thresholds_for_cett(model, [text], 0.4)
    exact = sl.measure(model, [text], rule)
    half = sl.measure(copy.deepcopy(model).to(torch.bfloat16), [text], rule)
    # Eight bits of mantissa: values near a threshold fall on its other side.
    assert half.activation_ratio == pytest.approx(exact.activation_ratio, abs=0.002)
    assert half.dense_ppl == pytest.approx(exact.dense_ppl, rel=0.01)
    assert 0.05 < math.log(exact.ppl_ratio) == pytest.approx(math.log(half.ppl_ratio), rel=0.1)


def test_tied_and_untied_heads():
    model = tiny_llama(tie_word_embeddings=True)
    other = tiny_llama(tie_word_embeddings=False)
    other.load_state_dict({**model.state_dict(), "lm_head.weight": model.lm_head.weight})
    assert numbers(other, [TEXT]) == pytest.approx(numbers(model, [TEXT]), rel=1e-6)


def test_a_sliding_window_as_wide_as_the_text_is_none():
    config = COMMON | {"head_dim": 8}
    models = []
    for window in (None, TEXT.shape[1] + 1, 3):
        torch.manual_seed(0)
        models.append(tf.AutoModelForCausalLM.from_config(tf.MistralConfig(**config, sliding_window=window)).eval())
    none, wide, narrow = (numbers(model, [TEXT]) for model in models)
    assert wide == pytest.approx(none, rel=1e-6)
    assert narrow[1] != pytest.approx(none[1], rel=1e-4), "a narrow window is another model"


def test_one_and_two_threads():
    model, _ = build("Llama")
    text = [greedy(model, 30, rows=8)]
    one = numbers(model, text)
    torch.set_num_threads(2)
    try:
        two = numbers(model, text)
    finally:
        torch.set_num_threads(1)
    assert two == pytest.approx(one, rel=1e-5)
    assert numbers(model, text) == one, "a second run gives the same bits"
