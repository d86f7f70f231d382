"""The kernels' loops run as plain Python, line by line, against numpy; test_decoding has the compiled ones."""

import os
import subprocess
import sys

import numba
import numpy as np
import pytest
import torch

from sparsinglib.decoding import kernel

LOOPS = ("_scattered", "_dots", "_eight_dots", "_mix", "_mix_eight", "_add", "_multiply", "_select")
D, NEURONS = 6, 45  # neither a multiple of the rows that go together, and enough of those that a part keeps


@pytest.fixture(params=[np.float32, np.uint16], ids=["float32", "bfloat16"])
def kind(request, monkeypatch):
    """The type weights are stored in; the loops as Python functions, with what numba picks for each type."""
    for name in LOOPS:
        monkeypatch.setattr(kernel, name, getattr(kernel, name).py_func)
    stored = numba.from_dtype(np.dtype(request.param))
    wide = kernel._wide_for(stored)
    rounded = kernel._rounded_for(numba.float32, numba.types.Array(stored, 2, "C"))
    monkeypatch.setattr(kernel, "_wide", wide)
    monkeypatch.setattr(kernel, "_rounded", rounded)
    return request.param


def matrix(kind, rows, columns, seed):
    """Weights as stored, and the numbers they stand for."""
    numbers = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    if kind is np.float32:
        return numbers.numpy(), numbers.numpy()
    half = numbers.bfloat16()
    return half.view(torch.uint16).numpy(), half.float().numpy()


def rounded(kind, values):
    """As torch rounds them between two operations."""
    values = torch.from_numpy(np.asarray(values, dtype=np.float32))
    return (values if kind is np.float32 else values.bfloat16().float()).numpy()


def vector(size, seed):
    return np.random.default_rng(seed).normal(size=size).astype(np.float32)


@pytest.mark.parametrize("threads", [1, 3])
def test_product(kind, threads):
    stored, weights = matrix(kind, NEURONS, D, 0)
    x, bias = vector(D, 1), vector(NEURONS, 2)
    np.testing.assert_allclose(kernel.product(stored, bias, x, threads), rounded(kind, weights @ x + bias), rtol=1e-2)


@pytest.mark.parametrize("threads", [1, 2])
def test_all_up(kind, threads):
    stored, columns = matrix(kind, NEURONS, D, 3)
    score, ups, limits = vector(NEURONS, 4), vector(NEURONS, 5), np.full(NEURONS, 0.4, np.float32)
    score[2] = 0
    values = rounded(kind, score * ups)
    kept = (values != 0) & (np.abs(values) >= limits)
    assert 0 < kept.sum() < NEURONS
    output, active = kernel.all_up(score, ups, limits, stored, threads)
    assert active == kept.sum()
    np.testing.assert_allclose(output, (values * kept) @ columns, rtol=1e-4, atol=1e-5)
    score[7] = np.nan
    assert kernel.all_up(score, ups, limits, stored, threads)[1] == -1


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("given", [True, False])
def test_gathered(kind, threads, given):
    gate, gate_numbers = matrix(kind, NEURONS, D, 6)
    up, up_numbers = matrix(kind, NEURONS, D, 7)
    down, down_numbers = matrix(kind, NEURONS, D, 8)
    x, gate_bias, up_bias = vector(D, 9), vector(NEURONS, 10), vector(NEURONS, 11)
    limits = np.full(NEURONS, 2, np.float32)
    score = np.maximum(rounded(kind, gate_numbers @ x + gate_bias), 0)
    values = rounded(kind, score * rounded(kind, up_numbers @ x + up_bias))
    kept = (values != 0) & (np.abs(values) >= limits)
    assert 0 < kept.sum() < (score != 0).sum() < NEURONS
    first = score if given else np.empty(0, np.float32)
    arguments = (gate, gate_bias, up, up_bias, down, limits, x, threads)
    output, nonzero, active = kernel.gathered(first, *arguments)
    assert (nonzero, active) == ((score != 0).sum(), kept.sum())
    np.testing.assert_allclose(output, (values * kept) @ down_numbers, rtol=1e-2, atol=1e-2)
    assert kernel.gathered(np.full(NEURONS, np.nan, np.float32), *arguments)[1] == -1


def test_rounding_is_to_even_and_keeps_what_is_no_number(kind):
    if kind is np.float32:
        assert kernel._rounded(np.float32(1.2345678), None) == np.float32(1.2345678)
        return
    for value in (1.0, 1.00390625, 1.01171875, -2.7182817, 3e38, 1e-40, np.inf, -np.inf):
        assert kernel._rounded(np.float32(value), None) == torch.tensor(value).bfloat16().float().item()
    assert np.isnan(kernel._rounded(np.float32(np.nan), None))


ONE_CALL = """
import numba, numpy as np
from sparsinglib.decoding import kernel
threads = {threads}
weights, nothing, x = np.ones((8, 4), np.float32), np.zeros(8, np.float32), np.ones(4, np.float32)
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
        environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path), "NUMBA_NUM_THREADS": "2"}
        seen.append(subprocess.run(call, env=environment, capture_output=True, text=True, check=True).stdout.strip())
    assert seen[0] == "no threads"
    assert seen[1] == ("tbb" if kernel.TBB else "workqueue")
