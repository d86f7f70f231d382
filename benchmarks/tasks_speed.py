"""Evaluation of a sparsified model against the dense one, in batches against one by one, and from the cache.

python benchmarks/tasks_speed.py [--model 0.4m-relu] [--examples 60]

CPU seconds of one thread, interleaved, median of several rounds in one run.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

import torch
from timing import cpu_seconds

import sparsinglib as sl
from sparsinglib import tasks
from sparsinglib.ladder.batches import validation_batches
from sparsinglib.tasks.harness import Harness

TASKS = ["offline_continuation", "offline_agreement", "offline_last_word", "offline_span"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="0.4m-relu")
    parser.add_argument("--examples", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, tokenizer = sl.load(options.model)
    rule = sl.thresholds_for_cett(model, validation_batches(4096), 0.1)
    batched = Harness(model, tokenizer, TASKS)
    single = Harness(model, tokenizer, TASKS, batch_size=1)
    loaded = [batched.load(task) for task in TASKS]

    def run(harness, under):
        for task in loaded:
            harness.score(task, under, options.examples)

    with tempfile.TemporaryDirectory() as folder:

        def cached():
            tasks.evaluate(model, tokenizer, TASKS, None, options.examples, cache=Path(folder))

        cached()
        works = {
            "dense, in batches": lambda: run(batched, None),
            "sparsified, in batches": lambda: run(batched, rule),
            "dense, one by one": lambda: run(single, None),
            "dense, all of it in the cache": cached,
        }
        times = cpu_seconds(works, options.rounds)
    dense = statistics.median(times["dense, in batches"])
    print(f"{options.model}, {len(TASKS)} offline tasks of {options.examples} examples, one thread")
    print(f"{'work':32}{'CPU s':>8}{'spread':>8}{'ratio':>8}")
    for name, spent in times.items():
        middle = statistics.median(spent)
        print(f"{name:32}{middle:8.2f}{100 * (max(spent) - min(spent)) / middle:7.0f}%{middle / dense:8.2f}")


if __name__ == "__main__":
    main()
