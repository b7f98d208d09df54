"""A reader's prediction, written down before anything is measured, and how far off it was."""

import math
from collections.abc import Callable, Mapping

from iclnb.intervals import Estimate
from iclnb.teaching.checks.core import NotYet


def how_far(
    guesses: Mapping[str, float | None], measure: Callable[[], Mapping[str, Estimate | float]], spec: str = ".1f"
) -> None:
    """Measures what a reader has predicted, and prints each number beside its prediction, in one line.

    Nothing is measured, and so nothing given away, before every prediction is a number.

    Args:
        guesses: what is predicted -> the number; None as long as there is none.
        measure: returns the number of each of them in the same unit, or an estimate with its interval.
        spec: format of the numbers.
    """
    if missing := _missing(guesses):
        print(f"{missing} Nothing is measured before.")
        return
    found = measure()
    for name, guess in guesses.items():
        estimate = found[name] if isinstance(found[name], Estimate) else Estimate(found[name], math.nan, math.nan)
        off = "inside the interval" if estimate.low <= guess <= estimate.high else _off(guess - estimate.mean, spec)
        print(f"{name}: you said {guess:g}, measured {estimate:{spec}}: {off}")


def committed(guesses: Mapping[str, float | None] | float | None) -> None:
    """Grades predictions, which earn their point by being made, whatever they say.

    Args:
        guesses: as `how_far` gets them, or one number alone.

    Raises:
        NotYet: one of them is no number.
    """
    if missing := _missing(guesses if isinstance(guesses, Mapping) else {"the prediction": guesses}):
        raise NotYet(missing)
    print("Predicted.")


def _missing(guesses: Mapping[str, float | None]) -> str | None:
    if open_ones := [name for name, guess in guesses.items() if not _is_number(guess)]:
        return f"Not yet: write a number for {'; '.join(open_ones)}."
    return None


def _is_number(guess) -> bool:
    return isinstance(guess, (int, float)) and not isinstance(guess, bool) and guess == guess


def _off(gap: float, spec: str) -> str:
    return f"{abs(gap):{spec}} too {'high' if gap > 0 else 'low'}"
