"""Where the project's own data lies: beside the package in a checkout, inside it in a wheel."""

from pathlib import Path


def data_folder() -> Path:
    """The folder that holds pocket-gpt and the reference tables.

    Returns:
        `data/` of the checkout, or `iclnb/data/` of an installed wheel.
    """
    inside = Path(__file__).parent / "data"
    return inside if inside.is_dir() else Path(__file__).parents[1] / "data"
