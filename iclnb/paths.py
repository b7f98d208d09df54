"""Where the project's own data lies, and which model the environment asks for."""

import os
from pathlib import Path

EMBEDDED = "pocket-gpt"


def data_folder() -> Path:
    """The folder that holds pocket-gpt and the reference tables.

    Returns:
        `data/` of the checkout, or `iclnb/data/` of an installed wheel.
    """
    inside = Path(__file__).parent / "data"
    return inside if inside.is_dir() else Path(__file__).parents[1] / "data"


def chosen_model() -> str:
    """The model that the environment variable ICLNB_MODEL names; pocket-gpt where it is not set."""
    return os.environ.get("ICLNB_MODEL") or EMBEDDED
