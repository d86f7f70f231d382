"""What can be said of Appendix L's claim, C62, without the two engines and their GPU."""

from ...paper import published
from ...paper.claims import Row, exact, judge
from .numbers import most_gain


def verdicts() -> list[Row]:
    """C62: the factor between the two printed speeds, and the most that skipping neurons can gain in one engine."""
    speed = published.read("appendix_l_decode_speed").set_index("framework").decode_tokens_per_s
    printed = published.claims().set_index("id").printed["C62"].rpartition("=")[2].strip()
    factor = exact(speed["powerinfer"] / speed["llama_cpp"], "x", printed=printed)
    gain = most_gain().set_index("way")["whole model"]
    return [judge("C62", "paper", factor, [exact(value, "x", f"at most, {way}:") for way, value in gain.items()])]
