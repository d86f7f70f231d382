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

from sparsinglib import suites, survey
from sparsinglib.rules import FAT


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["0.4m-relu", "0.4m-silu"], help="at least two")
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pieces", type=int, default=6, help="measurements for the two processes, 4 × tokens each")
    options = parser.parse_args()
    torch.set_num_threads(1)
    points = [suites.Checkpoint(name=m, source=m, scale=m, activation="relu") for m in options.models]
    text = survey.corpora.load("mixture", "validation")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "text.txt"
        file.write_text(text[: 4 * options.tokens * survey.CHARACTERS_A_TOKEN], encoding="utf-8")
        suite = suites.Suite("benchmark", "own", (str(file),), 256, options.tokens, tuple(points))

        def spent(tokens, checkpoints, rounds):
            """CPU seconds of measuring, with a cache that has seen ``rounds - 1`` of the same."""
            os.environ["SPARSINGLIB_CACHE"] = tempfile.mkdtemp(dir=folder)
            for _ in range(rounds):
                started = time.process_time()
                survey.measure(suite, {"fat": FAT(0.1)}, checkpoints=checkpoints, tokens=tokens)
                found = time.process_time() - started
            return found

        few, many = options.tokens, 4 * options.tokens
        works = {
            f"1 model, {few} tokens": (few, points[:1], 1, 1),
            f"1 model, {many} tokens": (many, points[:1], 1, 4),
            f"{len(points)} models, {few} tokens": (few, points, 1, len(points)),
            f"1 model, {many} tokens, again": (many, points[:1], 2, 0),
        }
        spent(few, points[:1], 1)
        times = {name: [] for name in works}
        for _ in range(options.rounds):
            for name, (tokens, checkpoints, rounds, _) in works.items():
                survey.loaded.cache_clear()
                times[name].append(spent(tokens, checkpoints, rounds))
        base = statistics.median(times[next(iter(works))])
        print(f"one thread, windows of {suite.sequence_length}, models {', '.join(options.models)}")
        print(f"{'work':32}{'CPU s':>8}{'spread':>8}{'ratio':>8}{'expected':>10}")
        for name, (_, _, _, expected) in works.items():
            middle = statistics.median(times[name])
            spread = (max(times[name]) - min(times[name])) / middle
            print(f"{name:32}{middle:8.2f}{100 * spread:7.0f}%{middle / base:8.2f}{expected:10}")

        def waited(jobs):
            """Seconds of wall-clock time of measuring ``pieces`` rules that nobody has measured yet.

            The processes keep the cache directory that they started with, so the rules have to be new each time.
            """
            rules = {f"fat {i}": FAT(0.1 + next(unused) / 1e6) for i in range(options.pieces)}
            started = time.perf_counter()
            survey.measure(suite, rules, checkpoints=points[:1], tokens=many, jobs=jobs)
            return time.perf_counter() - started

        unused = itertools.count()
        waited(2)  # starts the processes, which stay, and loads the model there
        ratios = []
        for _ in range(options.rounds):
            alone, together = waited(1), waited(2)
            ratios.append(alone / together)
        ends = f"{min(ratios):.2f} to {max(ratios):.2f}"
        print(f"two jobs of one thread over one, wall time: {statistics.median(ratios):.2f} times ({ends}); wanted 1.6")


if __name__ == "__main__":
    main()
