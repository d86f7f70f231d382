"""What the recorded timings say about Appendix L's claims, and what a factor of 4.1 between two engines can mean."""

import pandas as pd

from ...paper import published as paper
from .figures import CASES, LARGEST

ARITHMETIC = "arithmetic on the printed numbers, no measurement"
TYPICAL = 0.065  # activation ratio of the paper's sparsest runs, at which the goal for the kernel is set
GOAL_OVER_DENSE, GOAL_OF_MEMORY = 2.2, 0.85
EVIDENCE = "own timing"
ENGINES = {"C63": "powerinfer", "C64": "llama_cpp"}


def weights(scale: str = LARGEST) -> dict[str, float]:
    """Weights read for each token of a dense model of the paper: attention, FFNs and output head (counts)."""
    shape = paper.read("model_architectures").set_index("scale").loc[scale]
    hidden, layers = int(shape.hidden_size), int(shape.num_layers)
    return {
        "attention": 4.0 * layers * hidden**2,
        "FFNs": 3.0 * layers * hidden * int(shape.intermediate_size),
        "output head": float(hidden * int(shape.vocab_size)),
    }


def limit_ratio(scale: str = LARGEST) -> float:
    """Limit activation ratio of the paper's ReLU run (Table 2, A0)."""
    table = paper.table(2)
    return float(table[(table.scale == scale) & (table.activation == "relu")].a0.iloc[0])


def most_gain(scale: str = LARGEST) -> pd.DataFrame:
    """Most that skipping inactive neurons can gain where reading weights is all that takes time.

    Of the FFNs alone and of the whole model, whose attention and output head are read whole; with the gate read, as
    our kernel does, and with a predictor that knows the active neurons beforehand and costs nothing.
    """
    parts, a = weights(scale), limit_ratio(scale)
    share = parts["FFNs"] / sum(parts.values())
    gains = {"gate read whole": 3 / (1 + 2 * a), "gate predicted, free and perfect": 1 / a}
    rows = [(how, ffn, 1 / (1 - share + share / ffn)) for how, ffn in gains.items()]
    return pd.DataFrame(rows, columns=["way", "FFNs", "whole model"]).round(2)


def engines(bits: int = 16) -> pd.DataFrame:
    """The paper's two engines: printed tokens/s, and GB/s if all weights were read at so many bits (not stated)."""
    table = paper.read("appendix_l_decode_speed").set_index("framework")
    size = sum(weights().values()) * bits / 8 / 1e9
    rate = table.decode_tokens_per_s
    return pd.DataFrame({"tokens/s": rate, "GB/s if dense": (size * rate).round(), "GPU": table.gpu}).reset_index()


def what_the_factor_means() -> str:
    """The factor between the engines beside what sparsity could give one engine, in plain sentences."""
    rate = paper.read("appendix_l_decode_speed").set_index("framework").decode_tokens_per_s
    factor, gain = rate["powerinfer"] / rate["llama_cpp"], most_gain()
    read, predicted = gain["whole model"]
    parts = weights()
    share = 100 * parts["FFNs"] / sum(parts.values())
    verdict = "more than" if factor > predicted else "within"
    return (
        f"{factor:.2f} times is {verdict} what skipping FFN neurons can do for one engine that is limited by reading "
        f"weights.\n{share:.0f} % of the 2.4B model's weights are in FFNs; with {100 * limit_ratio():.2f} % of their "
        f"neurons active that is at most {read:.2f} times with the gate\nread whole, and {predicted:.2f} times with a "
        "perfect, free predictor. What is more has to come from the engines: what each keeps on the GPU,\n"
        "how it stores weights, how it uses 104 cores. The paper's text does not take these apart."
    )


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


def checks(table: pd.DataFrame) -> pd.DataFrame:
    """Claims C62, C63, C64 and C82: what can be said of each without the two engines and their GPU."""
    return paper.check("10_decoding_speed", [*_factor(table), *_speeds(), _smartphones()])


def _factor(table: pd.DataFrame) -> list[paper.Check]:
    claim = float(paper.old_claims().set_index("id").paper_value["C62"])
    rate = paper.read("appendix_l_decode_speed").set_index("framework").decode_tokens_per_s
    factor = rate["powerinfer"] / rate["llama_cpp"]
    rows = table[(table.part == "shapes") & (table.model == LARGEST) & (table.case == "zeros")]
    best = rows[rows.dtype == "float32"].sort_values("threads").iloc[0]
    ours = (
        f"{best.over_kernel:.2f} x for one FFN of that shape at {100 * best.a:.2f} % active, our kernel against itself "
        f"(bound {best.bound:.2f}; {best.speedup:.2f} over torch); "
        f"whole model at most {most_gain()['whole model'].iloc[0]:.2f} x"
    )
    why = "two engines on a GPU that is not here; one engine with and without sparsity is what we time"
    read, predicted = most_gain()["whole model"]
    caveat = f"two engines; skipping neurons in one: at most {read:.2f} x, {predicted:.2f} x with a free predictor"
    rule = f"Rule: the printed speeds' ratio rounds to the printed factor; {ARITHMETIC}."
    return [
        paper.Check("C62", "paper", f"{factor:.3f} x ({caveat})", round(factor, 1) == claim, rule),
        paper.Check("C62", EVIDENCE, ours, None, why),
    ]


def _speeds() -> list[paper.Check]:
    implied = engines().set_index("framework")["GB/s if dense"]
    why = "the engine, its 104 cores and its GPU are not here; the printed speed is only set in relation to bytes"
    return [
        paper.Check(claim, "paper", f"as printed; {implied[name]:.0f} GB/s if all 16-bit weights were read", None, why)
        for claim, name in ENGINES.items()
    ]


def _smartphones() -> paper.Check:
    factor = float(paper.old_claims().set_index("id").paper_value["C82"])
    gain = most_gain().set_index("way").loc["gate predicted, free and perfect"]
    value = f"at most {gain['FFNs']:.1f} x for FFNs, {gain['whole model']:.1f} x for the 2.4B model at its limit"
    needed = f"{factor:g} x of an FFN alone would need {100 / factor:.1f} % active and a free, perfect predictor"
    return paper.Check("C82", "paper", value, None, f"another paper's result, on phones we do not have; {needed}")
