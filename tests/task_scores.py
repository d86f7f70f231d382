"""Made-up scores on tasks."""

import pandas as pd

from sparsinglib.tasks import statistics


def scores(cells):
    """Rows of scores from {(model, rule, p, task, metric): scores}."""
    rows = [(*key, f"{key[3]}/{i}", float(s)) for key, scores in cells.items() for i, s in enumerate(scores)]
    return pd.DataFrame(rows, columns=statistics.COLUMNS)


def two_groups():
    """Scores of two models on two groups of two tasks, of which u2 is at chance; the groups; what is above chance."""
    right, half = [1.0] * 30 + [0.0] * 10, [1.0] * 20 + [0.0] * 20
    worse = [1.0] * 28 + [0.0] * 12
    groups = pd.DataFrame({"task": ["t1", "t2", "u1", "u2"], "metric": "acc", "group": list("TTUU")})
    examples = scores(
        {
            (model, rule, p, task, "acc"): half if task == "u2" else values
            for model in ("a-relu", "a-silu")
            for rule, p, values in (("dense", 0.0, right), ("r", 1.0, worse))
            for task in groups.task
        }
    )
    return examples, groups, statistics.above_chance(statistics.summarise(examples), groups.assign(chance=0.5))
