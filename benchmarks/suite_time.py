"""How the time to measure a suite grows: with tokens, with models, and when everything was measured before.

python benchmarks/suite_time.py [--models 0.4m-relu 0.4m-silu] [--tokens 4096]

CPU seconds of one thread, rounds interleaved, medians of one run. Ratios to expect of a method that does each task
once: as many times the tokens or models, as many times the time; read from disk, next to none.

Last, wall-clock time: the same measurements one after another on one thread, and by two processes of one thread each
that have already started. It needs two idle cores: what else the machine does counts.
"""

import argparse
import itertools
import os
import statistics
import tempfile
import time
from pathlib import Path

import torch

from sparsinglib import suites
from sparsinglib.core.rules import FAT
from sparsinglib.suites import survey


def timed(suite, checkpoints, tokens, rounds, folder):
    """CPU seconds of measuring, with a cache that has seen ``rounds - 1`` of the same; no model is loaded yet."""
    os.environ["SPARSINGLIB_CACHE"] = tempfile.mkdtemp(dir=folder)
    for _ in range(rounds):
        started = time.process_time()
        survey.measure(suite, {"fat": FAT(0.1)}, checkpoints=checkpoints, tokens=tokens)
        found = time.process_time() - started
    return found


def growth(suite, tokens, rounds, folder):
    """Print the CPU time of more tokens, more models, and of the same again."""
    points, many = suite.checkpoints, 4 * tokens
    works = {  # checkpoints, tokens, times measured, ratio expected
        f"1 model, {tokens} tokens": (points[:1], tokens, 1, 1),
        f"1 model, {many} tokens": (points[:1], many, 1, 4),
        f"{len(points)} models, {tokens} tokens": (points, tokens, 1, len(points)),
        f"1 model, {many} tokens, again": (points[:1], many, 2, 0),
    }
    timed(suite, points[:1], tokens, 1, folder)  # what is only done once in a process
    times = {name: [] for name in works}
    for _ in range(rounds):
        for name, (*work, _) in works.items():
            times[name].append(timed(suite, *work, folder))
    base = statistics.median(times[next(iter(works))])
    print(f"{'work':32}{'CPU s':>8}{'spread':>8}{'ratio':>8}{'expected':>10}")
    for name, (*_, expected) in works.items():
        middle = statistics.median(times[name])
        spread = (max(times[name]) - min(times[name])) / middle
        print(f"{name:32}{middle:8.2f}{100 * spread:7.0f}%{middle / base:8.2f}{expected:10}")


def two_processes(suite, tokens, pieces, rounds):
    """Print how much faster two processes are than one; ``pieces`` measurements, of 4 × ``tokens`` each.

    The processes keep the cache directory that they started with, so the rules have to be new each time.
    """
    unused = itertools.count()

    def waited(jobs):
        rules = {f"fat {i}": FAT(0.1 + next(unused) / 1e6) for i in range(pieces)}
        started = time.perf_counter()
        survey.measure(suite, rules, checkpoints=suite.checkpoints[:1], tokens=4 * tokens, jobs=jobs)
        return time.perf_counter() - started

    waited(2)  # starts the processes, which stay, and loads the model there
    ratios = [waited(1) / waited(2) for _ in range(rounds)]
    ends = f"{min(ratios):.2f} to {max(ratios):.2f}"
    print(f"two jobs of one thread over one, wall time: {statistics.median(ratios):.2f} times ({ends}); wanted 1.6")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["0.4m-relu", "0.4m-silu"], help="at least two")
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pieces", type=int, default=6, help="measurements for the two processes, 4 × tokens each")
    options = parser.parse_args()
    torch.set_num_threads(1)
    points = tuple(suites.Checkpoint(name=m, source=m, scale=m, activation="relu") for m in options.models)
    text = survey.corpora.load("mixture", "validation")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "text.txt"
        file.write_text(text[: 4 * options.tokens * survey.CHARACTERS_A_TOKEN], encoding="utf-8")
        suite = suites.Suite("benchmark", "own", (str(file),), 256, options.tokens, points)
        print(f"one thread, windows of {suite.sequence_length}, models {', '.join(options.models)}")
        growth(suite, options.tokens, options.rounds, folder)
        two_processes(suite, options.tokens, options.pieces, options.rounds)


if __name__ == "__main__":
    main()
