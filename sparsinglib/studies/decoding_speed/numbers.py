"""Tables of the decoding speed (Appendix L) from recorded timings, and what skipping neurons can gain at all.

Nothing here measures, so the same recording gives the same tables. Times are seconds for each token, of one FFN (kind
"ffn") or a whole model (kind "model"); ``speedup`` over dense torch is the median of the rounds' ratios, with its
quartiles (_low, _high); ``a`` and ``r`` are shares of active neurons and nonzero gates.
"""

import os
import subprocess
import sys

import pandas as pd

from ...files import DATA, ROOT
from ...paper import published

RECORDED = DATA / "decoding" / "recorded.csv"
BENCHMARK = ROOT / "benchmarks" / "decoding.py"
CASES = {
    "zeros": "ReLU, zeros alone",
    "cett": "ReLU, CETT: up for nonzero gates,\ndown for active neurons",
    "silu": "SiLU, CETT: all of up,\ndown for active neurons",
}
VARIANTS = {"dense": "dense torch", "masked": "masked (sparsify)", "sparse": "sparse kernel"}
LARGEST = "2.4B"
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
TYPICAL = 0.065  # activation ratio of the paper's sparsest runs, at which the goal for the kernel is set
GOAL_OVER_DENSE, GOAL_OF_MEMORY = 2.2, 0.85


def recorded(measure_again: bool = False) -> pd.DataFrame:
    """The recorded timings, after measuring them again on this machine if asked for; with bound and bandwidth.

    Added columns: ``bound``, the most that reading fewer weights can gain, 3 / (1 + share of up + share of down);
    ``over_kernel``, the gain over the same kernel with all neurons active (_low, _high: one's lower quartile of times
    over the other's upper, wider than quartiles of the rounds' ratios); ``of_memory``, the time that reading the
    weights needed takes at the memory's measured speed, over the time taken. Raises RuntimeError, with what the
    benchmark said, if measuring fails, and FileNotFoundError without a recording.
    """
    path = RECORDED
    if measure_again:
        path = ROOT / "build" / "decoding.csv"
        # The runner gives each notebook one thread; the benchmark sets its own.
        environment = {name: value for name, value in os.environ.items() if name not in THREAD_VARIABLES}
        command = [sys.executable, str(BENCHMARK), "--out", str(path)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"benchmarks/decoding.py failed:\n{done.stderr[-2000:]}")
    if not path.is_file():
        raise FileNotFoundError(f"{path.name} is missing: run python benchmarks/decoding.py.")
    table = pd.read_csv(path)
    up = table.r.where(table.case != "silu", 1)
    table["bound"] = 3 / (1 + up + table.a)
    block = ["part", "model", "dtype", "threads"]
    memory = table[table.kind == "memory"].set_index(block)
    speed = (memory.bytes / memory.seconds).groupby(level=block).max()
    keys = pd.MultiIndex.from_frame(table[block])
    whole = table[table.case == "all"].set_index(block).reindex(keys).set_index(table.index)
    return table.assign(
        of_memory=table.bytes / table.seconds / speed.reindex(keys).to_numpy(),
        over_kernel=whole.seconds / table.seconds,
        over_kernel_low=whole.seconds_low / table.seconds_high,
        over_kernel_high=whole.seconds_high / table.seconds_low,
    )


def machine(table: pd.DataFrame) -> str:
    """What was measured on, in a line or two."""
    row = table.iloc[0]
    versions = ", ".join(f"{name} {row[name]}" for name in ("python", "torch", "numba", "transformers"))
    return (
        f"{row.cpu}, {row.cores} cores; {versions}; median of {row.rounds} interleaved rounds; "
        f"other load when the run began: {row.load:.1f} runnable processes"
    )


def memory_table(table: pd.DataFrame) -> pd.DataFrame:
    """Measured reading speed, GB/s (1e9 bytes), at the largest shape: the fastest of three plain reads."""
    rows = table[(table.kind == "memory") & (table.model == LARGEST) & (table.part == "shapes")]
    speed = (rows.bytes / rows.seconds / 1e9).groupby(rows.threads).max()
    return speed.round(1).rename("GB/s").rename_axis("threads").reset_index()


def model_table(table: pd.DataFrame) -> pd.DataFrame:
    """Greedy decoding of whole models under their own thresholds, tokens/s, and how many tokens agree with masking."""
    rows = table[table.kind == "model"]
    keys = ["model", "dtype", "threads"]
    rate = (1 / rows.set_index([*keys, "variant"]).seconds).unstack().map("{:.3g}".format)
    sparse = rows[rows.variant == "sparse"].set_index(keys)
    gain = [f"{r.speedup:.2f} ({r.speedup_low:.2f}–{r.speedup_high:.2f})" for r in sparse.itertuples()]
    same = [f"{r.agree:.0f} of {r.tokens:.0f}" for r in sparse.itertuples()]
    found = {"over dense torch": gain, "bound of FFNs": sparse.bound.round(2), "same tokens": same}
    units = {variant: f"{name} (tokens/s)" for variant, name in VARIANTS.items()}
    return rate.loc[sparse.index, list(units)].rename(columns=units).assign(**found).reset_index()


def weights(scale: str = LARGEST) -> dict[str, float]:
    """Weights read for each token of a dense model of the paper: attention, FFNs and output head (counts)."""
    shape = published.read("model_architectures").set_index("scale").loc[scale]
    hidden, layers = int(shape.hidden_size), int(shape.num_layers)
    return {
        "attention": 4.0 * layers * hidden**2,
        "FFNs": 3.0 * layers * hidden * int(shape.intermediate_size),
        "output head": float(hidden * int(shape.vocab_size)),
    }


def most_gain(scale: str = LARGEST) -> pd.DataFrame:
    """Most that skipping inactive neurons can gain where reading weights is all that takes time.

    Of the FFNs alone and of the whole model, whose attention and output head are read whole; with the gate read, as
    our kernel does, and with a predictor that knows the active neurons beforehand and costs nothing.
    """
    parts, a = weights(scale), published.table(2).set_index(["scale", "activation"]).a0[scale, "relu"]
    share = parts["FFNs"] / sum(parts.values())
    gains = {"gate read whole": 3 / (1 + 2 * a), "gate predicted, free and perfect": 1 / a}
    rows = [(how, ffn, 1 / (1 - share + share / ffn)) for how, ffn in gains.items()]
    return pd.DataFrame(rows, columns=["way", "FFNs", "whole model"]).round(2)


def engines() -> pd.DataFrame:
    """The paper's two engines: printed tokens/s, and GB/s if all weights were read at 16 bits (which is not stated)."""
    table = published.read("appendix_l_decode_speed").set_index("framework")
    size = sum(weights().values()) * 2 / 1e9
    rate = table.decode_tokens_per_s
    return pd.DataFrame({"tokens/s": rate, "GB/s if dense": (size * rate).round(), "GPU": table.gpu}).reset_index()


def goals(table: pd.DataFrame) -> pd.DataFrame:
    """What the kernel was built to reach, against what was recorded, for each number of threads.

    Memory speed is asked of the shapes whose FFN is larger than the processor's last cache, of all where it is unknown.
    """
    rows = table[(table.kind == "ffn") & (table.variant == "sparse") & (table.dtype == "float32")]
    rows = rows[rows.case.isin(CASES)]
    curve, shaped = rows[rows.part == "curve"], rows[rows.part == "shapes"]
    shaped = shaped[3 * 4 * shaped.hidden * shaped.d_ff > 2**20 * shaped.l3_mib.fillna(0)]
    large = f"{shaped.model.nunique()} shapes larger than the cache"
    out = []
    for threads in sorted(rows.threads.unique()):
        mine = curve[curve.threads == threads]
        typical = mine[(mine.case == "zeros") & (mine.a == TYPICAL)].iloc[0]
        share = shaped[shaped.threads == threads].of_memory
        slowest = mine.sort_values("speedup").iloc[0]
        out += [
            (f"{100 * TYPICAL:g} % active, zeros alone: at least {GOAL_OVER_DENSE} x over dense", threads,
             f"{typical.speedup:.2f} x ({typical.over_kernel:.2f} over own dense)", typical.speedup >= GOAL_OVER_DENSE),
            (f"time at memory speed, {large}: at least {100 * GOAL_OF_MEMORY:.0f} %", threads,
             f"{100 * share.min():.0f} to {100 * share.max():.0f} %, median {100 * share.median():.0f} %",
             share.min() >= GOAL_OF_MEMORY),
            ("never slower than dense (upper quartile)", threads,
             f"{slowest.speedup:.2f} x at {100 * slowest.a:.3g} % active ({slowest.over_kernel:.2f} over own dense)",
             slowest.speedup_high >= 1),
        ]  # fmt: skip
    result = pd.DataFrame(out, columns=["goal (float32)", "threads", "recorded", "reached"])
    return result.assign(reached=result.reached.map({True: "yes", False: "no"}))
