"""``measure`` against two plain forward passes with the loss, and a sparsified forward against a plain one.

python benchmarks/measure_speed.py [--model 0.4m-relu] [--tokens 8192]

CPU seconds of one thread, interleaved, median of several rounds in one run.
"""

import argparse
import statistics

import torch
from timing import cpu_seconds

import sparsinglib as sl


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="0.4m-relu")
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, tokenizer = sl.load(options.model)
    text = sl.corpora.load("mixture", split="validation")
    batches = sl.token_batches(text, tokenizer, options.length, 8, options.tokens)
    rule = sl.thresholds_for_cett(model, batches, 0.1)

    def forward(loss=True):
        with torch.inference_mode():
            for ids in batches:
                model(ids, labels=ids if loss else None, use_cache=False)

    def sparse():
        with sl.sparsify(model, rule):
            forward()

    works = {
        "plain forward with loss": forward,
        "sparsified forward with loss": sparse,
        "measure without KL": lambda: sl.measure(model, batches, rule, kl=False),
        "measure without KL and CETT": lambda: sl.measure(model, batches, rule, kl=False, cett=False),
        "measure with KL": lambda: sl.measure(model, batches, rule),
    }
    times = cpu_seconds(works, options.rounds)
    plain = statistics.median(times["plain forward with loss"])
    print(f"{options.model}, {options.tokens} tokens in windows of {options.length}, one thread")
    print(f"{'work':32}{'CPU s':>8}{'spread':>8}{'ratio':>8}  against")
    for name, spent in times.items():
        passes = 2 if name.startswith("measure") else 1
        middle = statistics.median(spent)
        spread = (max(spent) - min(spent)) / middle
        print(f"{name:32}{middle:8.2f}{100 * spread:7.0f}%{middle / plain / passes:8.2f}  {passes} plain")


if __name__ == "__main__":
    main()
