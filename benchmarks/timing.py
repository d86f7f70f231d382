"""Time several kinds of work one after another, round by round, so that what slows the machine slows all of them."""

import time
from collections.abc import Callable, Mapping


def cpu_seconds(works: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of the process for each kind of work in each round."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            started = time.process_time()
            work()
            times[name].append(time.process_time() - started)
    return times
