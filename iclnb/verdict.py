"""For, against or undecided: one rule that turns repeated measurements and a prediction into a verdict."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from iclnb.experiment import bootstrap_interval


@dataclass(frozen=True)
class Verdict:
    """What repeated measurements say about a prediction.

    Args:
        mean: over tasks of their means.
        low, high: 95 % interval, by bootstrap over the runs of all tasks.
        word: "for", "against", "undecided", or "undefined" where there is no number to judge.
    """

    mean: float
    low: float
    high: float
    word: str


def judge(values: Mapping[str, Sequence[float]], above: float = -math.inf, below: float = math.inf) -> Verdict:
    """Hold measurements against the prediction that they lie between two bounds.

    The verdict is "for" where the whole interval and the mean of every task lie between the bounds, "against" where the
    whole interval and the mean of every task lie beyond the same bound, and "undecided" in every other case. It is
    "undefined" where a value is not finite, as after a run that diverged.

    Args:
        values: for each task its runs, one number a run; every task has the same number of runs.
        above, below: the bounds; by default there is none.

    Raises:
        ValueError: no task, or tasks with different numbers of runs or none.
    """
    if len({len(runs) for runs in values.values()}) != 1 or not all(values.values()):
        counts = {task: len(runs) for task, runs in values.items()}
        raise ValueError(f"values has {counts} runs a task; every task needs the same number, at least 1")
    table = np.array(list(values.values()), dtype=float)  # (tasks, runs)
    if not np.isfinite(table).all():
        return Verdict(math.nan, math.nan, math.nan, "undefined")
    means = table.mean(1)  # (tasks,)
    low, high = bootstrap_interval(table.ravel())
    if min(low, *means) > above and max(high, *means) < below:
        word = "for"
    elif max(high, *means) <= above or min(low, *means) >= below:
        word = "against"
    else:
        word = "undecided"
    return Verdict(float(means.mean()), low, high, word)
