"""How the generated answers of the offline tasks are judged; lm-eval calls these by the names in ``data/tasks``."""

import re
import subprocess
import sys
import tempfile
from collections import Counter
from functools import lru_cache
from typing import Any

SECONDS = 2  # of processor time that a generated program may take; twice that on the wall clock
MEGABYTES = 256  # of memory

# Runs in the new process, before the generated program, which cannot raise hard limits again.
LIMITS = f"""
import resource
resource.setrlimit(resource.RLIMIT_CPU, ({SECONDS}, {SECONDS}))
resource.setrlimit(resource.RLIMIT_AS, ({2**20 * MEGABYTES}, {2**20 * MEGABYTES}))
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
"""


def f1(answer: str, wanted: str) -> float:
    """Harmonic mean of precision and recall over the digits and signs of two numbers, as bags (0 to 1)."""
    given, right = Counter(re.findall(r"[-\d]", answer)), Counter(re.findall(r"[-\d]", wanted))
    common = (given & right).total()
    return 2 * common / (given.total() + right.total()) if common else 0.0


def span(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """F1 and exact match of a number named in the passage; the answer ends with the line.

    As in tydiqa's exact match, punctuation behind the answer does not count.
    """
    answer = results[0].partition("\n")[0]
    return {"f1": f1(answer, doc["answer"]), "acc": float(answer.strip().rstrip(".,;:!?") == doc["answer"].strip())}


def arithmetic(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Whether the number written after "Answer:" is the right one."""
    found = re.search(r"Answer: (?:\w = )?(-?\d+)\s*(?:\n|$)", results[0])
    return {"acc": float(found is not None and found[1] == doc["answer"])}


def code_line(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Whether the completed program passes its test."""
    line = results[0].partition("\n")[0]
    return {"pass": float(runs(f"{doc['query']}{line}\n{doc['test']}\n"))}


@lru_cache(maxsize=4096)
def runs(program: str) -> bool:
    """Whether a Python program ends without an error in a process of its own, within limits of time and memory.

    The process has no environment, no site packages, an empty working directory, and cannot write files. That guards
    against accidents, not against an attacker: give it only code that a language model wrote by itself.
    """
    try:
        compile(program, "<generated>", "exec")
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return False
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-I", "-S", "-c", LIMITS + program]
        closed: Any = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
        try:
            done = subprocess.run(command, cwd=folder, env={}, timeout=2 * SECONDS, check=False, **closed)
        except subprocess.TimeoutExpired:
            return False
    return done.returncode == 0
