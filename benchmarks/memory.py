"""Peak memory of search and measure for a short and a long corpus: it must not grow with the text.

python benchmarks/memory.py [--model 0.4m-relu]

Each measurement is a process of its own; the peak is the operating system's (maximum resident set, MiB). The C library
is told to give freed tensors back at once (MALLOC_MMAP_THRESHOLD_), so that the peak is what is in use: by default it
may keep some hundred MiB of freed logits in a scattered heap.
"""

import argparse
import os
import resource
import subprocess
import sys

SIZES = (4096, 65536)


def work(model_name, what, tokens):
    import torch

    import sparsinglib as sl

    torch.set_num_threads(1)
    model, tokenizer = sl.load(model_name)
    text = sl.corpora.load("mixture", split="validation")
    # Both sizes hold the same text in memory; only the number of tokens worked on differs.
    batches = sl.token_batches(text, tokenizer, 256, 8, max(SIZES))[: tokens // 2048]
    if what == "search":
        sl.find_thresholds(model, batches, 1.0)
    else:
        sl.measure(model, batches, sl.FAT(0.05), keep_tokens=False)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="0.4m-relu")
    parser.add_argument("--work", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.model, options.work[0], int(options.work[1]))
        return
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "1000000"}
    for what in ("search", "measure"):
        peaks = []
        for tokens in SIZES:
            command = [sys.executable, "-W", "ignore", __file__, "--model", options.model, "--work", what, str(tokens)]
            peaks.append(
                float(
                    subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout.split()[
                        -1
                    ]
                )
            )
        print(
            f"{what}: {peaks[0]:.0f} MiB for {SIZES[0]} tokens, {peaks[1]:.0f} MiB for {SIZES[1]}: "
            f"ratio {peaks[1] / peaks[0]:.3f}"
        )


if __name__ == "__main__":
    main()
