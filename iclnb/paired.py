"""Few runs and their spread: Student's interval of a mean, and of a difference between arms that share their seeds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.stats


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval, from n runs.

    Args:
        mean: of the runs.
        low, high: Student's interval with n - 1 degrees of freedom; not a number for a single run.
        n: how many runs.
    """

    mean: float
    low: float
    high: float
    n: int

    def __format__(self, spec: str) -> str:
        """ "1.23 [1.20, 1.26]", with `spec` for each number; the mean alone for a single run."""
        if math.isnan(self.low):
            return f"{self.mean:{spec}}"
        return f"{self.mean:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"


def estimate(values: Sequence[float]) -> Estimate:
    """The mean of some runs, one number a run.

    Raises:
        ValueError: no run.
    """
    if not len(values):
        raise ValueError("values is empty; a mean needs a run")
    mean, n = float(np.mean(values)), len(values)
    half = scipy.stats.t.ppf(0.975, n - 1) * scipy.stats.sem(values) if n > 1 else math.nan
    return Estimate(mean, float(mean - half), float(mean + half), n)


def difference(one: Sequence[float], other: Sequence[float]) -> Estimate:
    """one - other, run by run: runs in one place share seed, weights and data, so that much of the spread cancels.

    Raises:
        ValueError: not as many runs of one as of the other, or none.
    """
    if len(one) != len(other):
        raise ValueError(f"one has {len(one)} runs and other {len(other)}; runs are compared in pairs")
    return estimate([a - b for a, b in zip(one, other, strict=True)])


def word(change: Estimate, lower_is_better: bool = False) -> str:
    """What a difference says: "better", "worse", "not told apart" (the interval holds 0), "one run only"."""
    if math.isnan(change.low):
        return "one run only"
    if change.low <= 0 <= change.high:
        return "not told apart"
    return "better" if (change.mean < 0) == lower_is_better else "worse"
