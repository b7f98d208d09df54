"""What the side labs need, one file a lab."""


def at_least(least: int, **values: int) -> None:
    """Raises ValueError for the first of the named values that is below `least`."""
    for name, value in values.items():
        if value < least:
            raise ValueError(f"{name} is {value}; it must be at least {least}")
