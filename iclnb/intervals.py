"""A mean, its 95 % interval, a paired difference, and the word that it allows.

The unit is the draw (of demonstrations, labels, a seed, a training); examples are nested in it. A claim about a method
rests on `mean` or `difference` over draws, and an interval over the examples of one draw speaks of that draw alone.
The word is "above", "below" or "not told apart", and `words` corrects where several are judged at once.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import stdtr, stdtrit
from scipy.stats import binomtest
from torch import Tensor

ABOVE, BELOW, OPEN, UNDEFINED = "above", "below", "not told apart", "undefined"
ALPHA = 0.05  # of every word, and 1 - ALPHA of every interval
Values = Sequence[float] | np.ndarray | Tensor


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval.

    Args:
        mean: the number.
        low, high: the interval's ends; nan where nothing can be said, as of a single run.
        df: degrees of freedom of the interval's tails, Student's; infinite is the normal distribution.
        parts: means of the tasks that it is the mean of, if it is; a word about it needs them all on one side.

    For a curve, mean, low and high are arrays with an entry a place; words are for single numbers.
    """

    mean: float
    low: float
    high: float
    df: float = math.inf
    parts: tuple[float, ...] = ()

    def half(self, tests: int = 1) -> float:
        """Half the interval's width: what would just have been told apart, among so many tests (Bonferroni)."""
        return (self.high - self.low) / 2 * float(_quantile(self.df, tests) / _quantile(self.df))

    def p(self, level: float = 0.0) -> float:
        """Two-sided p-value of the number being `level`, read from the interval; nan without one.

        It is below 0.05 where the level lies outside the interval. For means over draws it is Student's own.

        Source: Altman and Bland, How to obtain the P value from a confidence interval, BMJ 2011.
        """
        distance = self.mean - level
        reach = self.mean - self.low if distance > 0 else self.high - self.mean
        if math.isnan(distance):
            return math.nan
        if reach == 0:  # every value alike
            return float(distance == 0)
        return float(2 * stdtr(self.df, -abs(distance) / reach * _quantile(self.df)))

    def word(self, level: float = 0.0, p: float | None = None) -> str:
        """Where the number lies beside a level: "above", "below", "not told apart"; "undefined" without an interval.

        Args:
            level: what to compare with.
            p: a corrected p-value, as `holm` gives it; None is the number's own.
        """
        p = self.p(level) if p is None else p
        if math.isnan(p):
            return UNDEFINED
        word = ABOVE if self.mean > level else BELOW
        return word if p < ALPHA and self._agree(level) else OPEN

    def _agree(self, level: float = 0.0) -> bool:
        return all((part > level) == (self.mean > level) for part in self.parts)

    def phrase(
        self, spec: str = "", above: str = ABOVE, below: str = BELOW, word: str | None = None, tests: int = 1
    ) -> str:
        """The number, its interval and the word: "+0.1 [-0.2, +0.4]: not told apart (0.3 would have been)".

        Args:
            spec: format of each number.
            above, below: what to say for "above" and "below", such as "better" and "worse".
            word: one of `words`; None is the number's own, beside 0.
            tests: as in `half`.
        """
        word = self.word() if word is None else word
        said = {ABOVE: above, BELOW: below}.get(word, word)
        if word == OPEN and not self._agree():
            said += " (tasks disagree)"
        elif word == OPEN and self.high > self.low:
            said += f" ({self.half(tests):{spec.replace('+', '')}} would have been)"
        return f"{self:{spec}}: {said}"

    def entry(self) -> dict[str, float]:
        """{"mean", "low", "high"}, for a record; Estimate(**entry) is read from one with normal tails."""
        return {"mean": self.mean, "low": self.low, "high": self.high}

    def __rmul__(self, factor: float) -> "Estimate":
        """In another unit: factor > 0 times the number and its interval."""
        parts = tuple(factor * part for part in self.parts)
        return Estimate(factor * self.mean, factor * self.low, factor * self.high, self.df, parts)

    def __format__(self, spec: str) -> str:
        """ "1.23 [1.20, 1.26]", with `spec` for each number; the mean alone where there is no interval."""
        if math.isnan(self.low):
            return f"{self.mean:{spec}}"
        return f"{self.mean:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"


def mean(values: Values, over: str = "draws") -> Estimate:
    """Mean of n independent values.

    Args:
        values: (n,); over draws also (..., n), n values at each place of a curve.
        over: "draws", few or many: Student's interval. "examples" of one run, of which there are many and whose values
            may be skewed: percentiles of 1,000 means of examples that are drawn with replacement, the bootstrap.

    Raises:
        ValueError: no value, or another word for over.
    """
    values = _array(values)  # (..., n)
    if over not in ("draws", "examples") or values.shape[-1] == 0:
        count = values.shape[-1]
        raise ValueError(f"over is {over!r}, of {count} values; accepted are 'draws' and 'examples', 1 or more")
    middle, n = values.mean(-1), values.shape[-1]  # (...)
    if over == "examples" and n > 1:
        drawn = np.random.default_rng(0).choice(values, size=(1000, n)).mean(1)  # (1000,)
        low, high = np.percentile(drawn, [50 * ALPHA, 100 - 50 * ALPHA])
        return Estimate(middle.item(), low.item(), high.item())
    half = _quantile(n - 1) * values.std(-1, ddof=1) / n**0.5 if n > 1 else middle * math.nan  # (...)
    ends = (middle, middle - half, middle + half)
    return Estimate(*(end.item() if values.ndim == 1 else end for end in ends), df=n - 1)


def difference(one: Values, other: Values, over: str = "draws") -> Estimate:
    """Mean of one - other, pair by pair: both share seed or example, so that much of the spread cancels.

    Args:
        one, other: (n,) each, in the same order.
        over: as in `mean`.

    Raises:
        ValueError: not as many of one as of the other.
    """
    one, other = _array(one), _array(other)  # (n,) each
    if one.shape != other.shape:
        raise ValueError(f"one has {len(one)} values and other {len(other)}; they are compared in pairs")
    return mean(one - other, over)


def nested(values: Values) -> Estimate:
    """Mean over draws and over the examples in them: what other draws, and other examples, would give.

    All draws are asked about the same examples. So the error has two parts: the spread of the draws' means, which holds
    what is particular to an example of one draw, and the spread of what the examples have in common in all draws. The
    interval's degrees of freedom are Welch's, of both. (A bootstrap of draws and examples counts the first noise twice:
    of 3 draws its intervals held the mean 100 times in 100.) Pass differences of two runs for a paired comparison.

    Args:
        values: (D, n), a row for each draw; nan marks what is undefined, as a measure of an example without a pair.

    Returns:
        The mean of the draws' means; its interval is undefined for a single draw.

    Raises:
        ValueError: not (D, n), or a draw without a value.

    Source: Owen, The pigeonhole bootstrap, Annals of Applied Statistics 2007, section 3, on both sources of error.
    """
    values = _array(values)  # (D, n)
    if values.ndim != 2 or not (~np.isnan(values)).any(1).all():
        raise ValueError(f"values has shape {values.shape}; accepted is (draws, examples), each draw with a value")
    middles = np.nanmean(values, axis=1)  # (D,)
    of_draws = mean(middles)
    rest = (values - middles[:, None])[:, ~np.isnan(values).all(0)]  # (D, n)
    (draws, n), commons = rest.shape, np.nanmean(rest, axis=0)  # (n,)
    if min(draws, n) == 1:
        return of_draws
    noise = np.nansum((rest - commons) ** 2) / (draws - 1) / (n - 1)
    variance = max(0.0, commons.var(ddof=1) - noise / draws) / n  # of the mean, by the examples
    half = _quantile(n - 1) * variance**0.5
    return _weighted([of_draws, Estimate(0.0, -half, half, df=n - 1)], [1, 1])


@dataclass(frozen=True)
class Flips:
    """How a change turns the answers to n questions: from wrong to right, and from right to wrong."""

    gained: int
    lost: int
    n: int

    @property
    def p(self) -> float:
        """Two-sided p-value of as many gained as lost: McNemar's exact test."""
        return binomtest(self.gained, self.gained + self.lost).pvalue if self.gained + self.lost else 1.0

    @property
    def estimate(self) -> Estimate:
        """Share of right answers after the change minus before it; the bootstrap's interval over these questions."""
        steps = np.repeat([1.0, -1.0, 0.0], [self.gained, self.lost, self.n - self.gained - self.lost])  # (n,)
        return mean(steps, "examples")

    def word(self, p: float | None = None) -> str:
        """ "above", "below" or "not told apart" by McNemar's test; p as in Estimate.word."""
        return self.estimate.word(p=self.p if p is None else p)

    def __str__(self) -> str:
        return f"{self.gained} gained, {self.lost} lost of {self.n}"


def flips(before: Values, after: Values) -> Flips:
    """How answers change on the same questions: two methods, or one before and after.

    Args:
        before, after: (n,) each, whether an answer is right.

    Raises:
        ValueError: not as many of one as of the other.
    """
    before, after = _array(before) > 0, _array(after) > 0  # (n,) each
    if before.shape != after.shape:
        raise ValueError(f"before has {len(before)} values and after {len(after)}; they are compared in pairs")
    return Flips(int((after & ~before).sum()), int((before & ~after).sum()), len(before))


def share(hits: int, n: int) -> Estimate:
    """The share of n independent examples that are hits, with Wilson's interval; undefined of none."""
    if not n:
        return Estimate(math.nan, math.nan, math.nan)
    hits, z2 = int(hits), _quantile(math.inf) ** 2
    middle = (hits + z2 / 2) / (n + z2)
    half = math.sqrt(z2 * (hits * (n - hits) / n + z2 / 4)) / (n + z2)
    return Estimate(hits / n, max(0.0, middle - half), min(1.0, middle + half))


def unpaired(one: Estimate, other: Estimate) -> Estimate:
    """one - other, of independent estimates: Welch's interval for means over draws, Newcombe's for shares."""
    return _weighted([one, other], [1, -1])


def over_tasks(values: Mapping[str, Values]) -> Estimate:
    """Mean over these tasks of their means over draws.

    Tasks are not drawn from a population, and runs of several tasks are not one sample. So the tasks are held fixed:
    the interval rests on the spread of draws *within* each task (Welch's), and speaks of these tasks alone. A task with
    a single draw leaves it undefined. No word is said where tasks disagree, whatever their mean: with three draws each,
    few tasks could be told apart by themselves, but none is averaged away.

    Args:
        values: task -> its draws, (n,).

    Raises:
        ValueError: no task, or a task without a draw.
    """
    if not values:
        raise ValueError("values is empty; a mean over tasks needs a task")
    tasks = [mean(draws) for draws in values.values()]
    return replace(_weighted(tasks, [1 / len(tasks)] * len(tasks)), parts=tuple(task.mean for task in tasks))


def words(estimates: Mapping[str, Estimate], level: float | Mapping[str, float] = 0.0) -> dict[str, str]:
    """The words of several estimates judged at once, corrected by Holm's method: all are right 95 times in 100.

    Args:
        estimates: by name.
        level: what they are compared with, one for all or one for each name.

    Returns:
        name -> "above", "below", "not told apart", or "undefined", which is not counted among the tests.
    """
    levels = level if isinstance(level, Mapping) else dict.fromkeys(estimates, level)
    corrected = holm([estimate.p(levels[name]) for name, estimate in estimates.items()])
    pairs = zip(estimates.items(), corrected, strict=True)
    return {name: estimate.word(levels[name], p) for (name, estimate), p in pairs}


def phrases(
    estimates: Mapping[str, Estimate], spec: str = "", above: str = ABOVE, below: str = BELOW
) -> dict[str, str]:
    """Several estimates beside 0, judged at once: name -> its phrase, with the corrected word.

    What would have been told apart is corrected for those that were not, which is where Holm's method stops.
    """
    found = words(estimates)
    tests = list(found.values()).count(OPEN)
    return {name: estimates[name].phrase(spec, above, below, word, tests) for name, word in found.items()}


def holm(p: Sequence[float]) -> list[float]:
    """p-values corrected for their number, in their order; nan stays nan and is not counted.

    Source: Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 1979.
    """
    p = np.asarray(p, dtype=float)
    order = np.argsort(p)[: np.isfinite(p).sum()]  # (m,) smallest first, nan left out
    corrected = np.full_like(p, np.nan)
    corrected[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)))
    return corrected.tolist()


def _weighted(estimates: Sequence[Estimate], weights: Sequence[float]) -> Estimate:
    """The weighted sum of independent estimates, from what each interval says of its own error, below and above."""
    middle = sum(w * e.mean for w, e in zip(weights, estimates, strict=True))
    df = np.array([e.df for e in estimates])
    below = np.array([w * (e.mean - (e.low if w > 0 else e.high)) for w, e in zip(weights, estimates, strict=True)])
    above = np.array([w * ((e.high if w > 0 else e.low) - e.mean) for w, e in zip(weights, estimates, strict=True)])
    below, above = ((reach / _quantile(df)) ** 2 for reach in (below, above))  # (m,) variances
    variance = (below + above) / 2  # (m,)
    spread = (variance**2 / df).sum()
    freedom = float(variance.sum() ** 2 / spread) if spread > 0 else float(df.min())  # Welch and Satterthwaite's
    low, high = (_quantile(freedom) * math.sqrt(reach.sum()) for reach in (below, above))
    return Estimate(middle, middle - low, middle + high, freedom)


def _quantile(df, tests: int = 1):
    """Student's 97.5 % point, or of more tests: 4.30 standard errors at 2 degrees of freedom, 1.96 at infinity."""
    return stdtrit(df, 1 - ALPHA / 2 / tests)


def _array(values: Values) -> np.ndarray:
    return (values.numpy(force=True) if isinstance(values, Tensor) else np.asarray(values)).astype(float)
