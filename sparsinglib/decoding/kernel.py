"""The numba kernels of sparse decoding: dense products, and the rows of up and down that a token needs.

Weights are float32, or bfloat16 seen as uint16; everything else is float32. One token at a time. All matrices have
one neuron a row (down is transposed), so that whatever is read is contiguous.
"""

import ctypes
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import FunctionType
from typing import Any

import numba
import numpy as np
from numba.extending import overload

from ..files import cache_dir

# By itself numba keeps compiled code in the module's folder, which may be read-only or shared. Set while the functions
# below are declared, so that others' stay where they are. (mypy knows none of what numba's config sets at run time.)
_ELSEWHERE = numba.config.CACHE_DIR  # type: ignore[attr-defined]
numba.config.CACHE_DIR = _ELSEWHERE or str(cache_dir() / "numba")  # type: ignore[attr-defined]


@cache
def tbb() -> bool:
    """Whether a TBB serves numba's threads: loaded and chosen once, before the first of them starts.

    torch brings its own OpenMP runtime; numba's OpenMP layer would load a second one, whose waiting threads keep the
    cores from torch's (measured: 20 times slower). TBB's threads are at work some microseconds after they are called,
    those of the workqueue layer, which is always there, after a third of a millisecond.
    """
    name = {"win32": "tbb12.dll", "darwin": "libtbb.12.dylib"}.get(sys.platform, "libtbb.so.12")
    loaded = False
    for path in (name, str(Path(sys.prefix, "lib", name))):  # pip's folder, where no linker looks
        with suppress(OSError):
            loaded = loaded or bool(ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL))
    if "NUMBA_THREADING_LAYER" not in os.environ:
        numba.config.THREADING_LAYER = "tbb" if loaded else "workqueue"  # type: ignore[attr-defined]
    return loaded


# Sums may be reordered, so that they vectorise; NaN keeps its meaning, which "fast" would take away.
_MATHS = {"reassoc", "contract", "nsz"}


def _wide(weight):
    """Widen a stored weight to float32: bfloat16, kept as uint16, is a float32's upper half."""


@overload(_wide)
def _wide_for(weight):
    if weight == numba.uint16:
        return lambda weight: np.uint32(np.uint32(weight) << np.uint32(16)).view(np.float32)
    return lambda weight: weight


def _rounded(value, weights):
    """Round a float32 to the type of ``weights``, to even, as torch does between two operations."""


@overload(_rounded)
def _rounded_for(value, weights):
    if weights.dtype != numba.uint16:
        return lambda value, weights: value

    def to_bfloat16(value, weights):
        bits = np.float32(value).view(np.uint32)
        even = np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
        rounded = np.uint32((bits + even) & np.uint32(0xFFFF0000)).view(np.float32)
        return value if np.isnan(value) else rounded  # a NaN's bits could carry over into infinity

    return to_bfloat16


@numba.njit(fastmath=_MATHS, cache=True)
def _scattered(rows):
    """Whether fewer than half of the rows from the first to the last are wanted; ``rows`` rise."""
    return rows.size > 1 and 2 * rows.size < rows[-1] - rows[0]


@numba.njit(fastmath=_MATHS, cache=True)
def _dots(weights, rows, x, out):
    """out[k] = weights[rows[k]] · x.

    Four rows at a time, a quarter of the list apart: four long streams keep the memory far busier than one, or than
    four neighbouring rows that each end soon. Scattered rows all end soon: of those, eight.
    """
    done = _eight_dots(weights, rows, x, out) if _scattered(rows) else 0
    far = (rows.size - done) // 4
    for k in range(done, done + far):
        a, b, c, d = weights[rows[k]], weights[rows[k + far]], weights[rows[k + 2 * far]], weights[rows[k + 3 * far]]
        sa, sb, sc, sd = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
        for j in range(x.size):
            sa += _wide(a[j]) * x[j]
            sb += _wide(b[j]) * x[j]
            sc += _wide(c[j]) * x[j]
            sd += _wide(d[j]) * x[j]
        out[k], out[k + far], out[k + 2 * far], out[k + 3 * far] = sa, sb, sc, sd
    for last in range(done + 4 * far, rows.size):
        a = weights[rows[last]]
        s = np.float32(0)
        for j in range(x.size):
            s += _wide(a[j]) * x[j]
        out[last] = s


@numba.njit(fastmath=_MATHS, cache=True)
def _eight_dots(weights, rows, x, out):
    """As ``_dots``, of as many rows as eight divides; returns their number."""
    far = rows.size // 8
    for k in range(far):
        a, b, c, d = weights[rows[k]], weights[rows[k + far]], weights[rows[k + 2 * far]], weights[rows[k + 3 * far]]
        n = k + 4 * far
        e, f, g, h = weights[rows[n]], weights[rows[n + far]], weights[rows[n + 2 * far]], weights[rows[n + 3 * far]]
        sa, sb, sc, sd = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
        se, sf, sg, sh = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
        for j in range(x.size):
            sa += _wide(a[j]) * x[j]
            sb += _wide(b[j]) * x[j]
            sc += _wide(c[j]) * x[j]
            sd += _wide(d[j]) * x[j]
            se += _wide(e[j]) * x[j]
            sf += _wide(f[j]) * x[j]
            sg += _wide(g[j]) * x[j]
            sh += _wide(h[j]) * x[j]
        out[k], out[k + far], out[k + 2 * far], out[k + 3 * far] = sa, sb, sc, sd
        out[n], out[n + far], out[n + 2 * far], out[n + 3 * far] = se, sf, sg, sh
    return 8 * far


@numba.njit(fastmath=_MATHS, cache=True)
def _mix(weights, rows, values, out):
    """Add sum over k of values[k] · weights[rows[k]] to ``out``, four or eight rows at a time as in ``_dots``."""
    done = _mix_eight(weights, rows, values, out) if _scattered(rows) else 0
    far = (rows.size - done) // 4
    for k in range(done, done + far):
        a, b, c, d = weights[rows[k]], weights[rows[k + far]], weights[rows[k + 2 * far]], weights[rows[k + 3 * far]]
        va, vb, vc, vd = values[k], values[k + far], values[k + 2 * far], values[k + 3 * far]
        for j in range(out.size):
            out[j] += (va * _wide(a[j]) + vb * _wide(b[j])) + (vc * _wide(c[j]) + vd * _wide(d[j]))
    for last in range(done + 4 * far, rows.size):
        a = weights[rows[last]]
        for j in range(out.size):
            out[j] += values[last] * _wide(a[j])


@numba.njit(fastmath=_MATHS, cache=True)
def _mix_eight(weights, rows, values, out):
    """As ``_mix``, of as many rows as eight divides; returns their number."""
    far = rows.size // 8
    for k in range(far):
        a, b, c, d = weights[rows[k]], weights[rows[k + far]], weights[rows[k + 2 * far]], weights[rows[k + 3 * far]]
        va, vb, vc, vd = values[k], values[k + far], values[k + 2 * far], values[k + 3 * far]
        n = k + 4 * far
        e, f, g, h = weights[rows[n]], weights[rows[n + far]], weights[rows[n + 2 * far]], weights[rows[n + 3 * far]]
        ve, vf, vg, vh = values[n], values[n + far], values[n + 2 * far], values[n + 3 * far]
        for j in range(out.size):
            first = (va * _wide(a[j]) + vb * _wide(b[j])) + (vc * _wide(c[j]) + vd * _wide(d[j]))
            out[j] += first + ((ve * _wide(e[j]) + vf * _wide(f[j])) + (vg * _wide(g[j]) + vh * _wide(h[j])))
    return 8 * far


# Rounding has loops of its own: amid other work the compiler gives up vectorising everything around it.
@numba.njit(fastmath=_MATHS, cache=True)
def _add(values, bias, weights):
    """Add ``bias`` to ``values``, rounded to the weights' type."""
    for i in range(values.size):
        values[i] = _rounded(values[i] + bias[i], weights)


@numba.njit(fastmath=_MATHS, cache=True)
def _multiply(score, rows, ups, weights, values):
    """values[k] = score[rows[k]] · ups[k], rounded to the weights' type; ``values`` may be ``ups``."""
    for k in range(rows.size):
        values[k] = _rounded(score[rows[k]] * ups[k], weights)


@numba.njit(fastmath=_MATHS, cache=True)
def _select(limits, rows, values):
    """Put rows and values of active neurons first; return their number. Neuron rows[k] has the value values[k]."""
    end = 0
    for k in range(rows.size):
        i, value = rows[k], values[k]
        if value != 0 and abs(value) >= limits[i]:
            rows[end], values[end] = i, value
            end += 1
    return end


def product(weights, bias, x, threads):
    """weights · x + bias, all rows, rounded to the weights' type."""
    rows = np.arange(weights.shape[0])
    out = np.empty(rows.size, np.float32)
    for t in numba.prange(threads):
        lo, hi = t * rows.size // threads, (t + 1) * rows.size // threads
        _dots(weights, rows[lo:hi], x, out[lo:hi])
        _add(out[lo:hi], bias[lo:hi], weights)
    return out


def all_up(score, ups, limits, columns, threads):
    """(output, active neurons) from all gate scores and up products; NaN among them: -1 neurons."""
    size = score.size
    out = np.zeros((threads, columns.shape[1]), np.float32)
    rows, values = np.arange(size), np.empty(size, np.float32)
    for i in range(size):
        if np.isnan(score[i]):
            return out[0], -1
    _multiply(score, rows, ups, columns, values)
    count = _select(limits, rows, values)
    for t in numba.prange(threads):
        lo, hi = t * count // threads, (t + 1) * count // threads
        _mix(columns, rows[lo:hi], values[lo:hi], out[t])
    return out.sum(axis=0), count


def gathered(score, gate, gate_bias, up, up_bias, columns, limits, x, threads):
    """(output, nonzero gates, active neurons): up's rows of nonzero gate scores, down's columns of active neurons.

    An empty ``score`` stands for max(0, gate · x + bias), computed here. NaN among the scores: -1 nonzero gates.
    """
    size = up.shape[0]
    rows, values = np.arange(size), np.empty(size, np.float32)
    if score.size == 0:
        score = np.empty(size, np.float32)
        for t in numba.prange(threads):
            lo, hi = t * size // threads, (t + 1) * size // threads
            _dots(gate, rows[lo:hi], x, score[lo:hi])
            _add(score[lo:hi], gate_bias[lo:hi], gate)
            for i in range(lo, hi):
                score[i] = np.float32(0) if score[i] <= 0 else score[i]  # which keeps NaN
    out = np.zeros((threads, x.size), np.float32)
    count = 0
    for i in range(size):
        if np.isnan(score[i]):
            return out[0], -1, 0
        if score[i] != 0:
            rows[count] = i
            count += 1
    active = np.zeros(threads, np.int64)
    for t in numba.prange(threads):
        lo, hi = t * count // threads, (t + 1) * count // threads
        _dots(up, rows[lo:hi], x, values[lo:hi])
        _add(values[lo:hi], up_bias[rows[lo:hi]], up)
        _multiply(score, rows[lo:hi], values[lo:hi], up, values[lo:hi])
        end = lo + _select(limits, rows[lo:hi], values[lo:hi])
        _mix(columns, rows[lo:end], values[lo:end], out[t])
        active[t] = end - lo
    return out.sum(axis=0), count, active.sum()


# Nothing but the loops marked with prange is worth waking threads for.
_THREADED: Any = {"prange": True} | dict.fromkeys(
    ("comprehension", "fusion", "inplace_binop", "numpy", "reduction", "setitem", "stencil"), False
)


def _compile(function: Callable, parallel: Any) -> Callable:
    """Compile ``function`` under a name of its own.

    numba's cache on disk knows a function by its name and its types alone: with one name for both, the one that is
    compiled second would be the first one's code, and two threads would be one.
    """
    name = f"{function.__name__}_{'threaded' if parallel else 'alone'}"
    copy = FunctionType(function.__code__, function.__globals__, name)
    copy.__qualname__ = name
    return numba.njit(copy, fastmath=_MATHS, cache=True, parallel=parallel)


_COMPILED = {
    function: tuple(_compile(function, how) for how in (False, _THREADED)) for function in (product, all_up, gathered)
}
numba.config.CACHE_DIR = _ELSEWHERE  # type: ignore[attr-defined]


def run(function: Callable, threads: int, *arguments: Any) -> Any:
    """Call a kernel on so many threads."""
    if threads > 1:
        tbb()
    return _COMPILED[function][threads > 1](*arguments, threads)
