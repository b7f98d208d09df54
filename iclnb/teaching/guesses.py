"""A reader's guess, written down before anything is measured, and how far off it was."""

from collections.abc import Callable, Mapping


def how_far_off(
    guess: Mapping[str, float | None], measure: Callable[[], Mapping[str, float]], spec: str = ".2f"
) -> None:
    """Measures what was guessed, and prints for each quantity the guess, the measurement and the distance.

    Nothing is measured before every number stands there, so that the guess comes first.

    Args:
        guess: name -> the reader's number; None where there is none yet.
        measure: called once, without arguments; gives a number for each name of `guess`.
        spec: format of the numbers.
    """
    missing = [name for name, number in guess.items() if not _is_number(number)]
    if missing:
        print(f"Not yet: write down a number for {', '.join(missing)}; then it is measured.")
        return
    measured, width = measure(), max(map(len, guess))
    for name, number in guess.items():
        found = measured[name]
        print(
            f"{name:{width}s}  you said {number:{spec}}, measured {found:{spec}}: off by {abs(number - found):{spec}}"
        )


def _is_number(x: object) -> bool:
    return isinstance(x, (int, float)) and not isinstance(x, bool)
