"""Where data, results and fetched models lie, which model the environment asks for, how a file is written whole."""

import os
import secrets
from pathlib import Path

from platformdirs import user_cache_path

__version__ = "0.1.0"  # of this package; every stored result carries it
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


def results_folder() -> Path:
    """The folder of stored results that the environment variable ICLNB_RESULTS names; `results` where it is not set."""
    return Path(os.environ.get("ICLNB_RESULTS") or "results").expanduser()


def cache_folder() -> Path:
    """The folder of fetched models: ICLNB_CACHE where that is set, else iclnb in the user's cache folder."""
    chosen = os.environ.get("ICLNB_CACHE")
    return Path(chosen).expanduser() if chosen else user_cache_path("iclnb", appauthor=False)


def write_whole(file: Path, content: bytes) -> None:
    """Replace a file's content in one move, so that a failure or a kill leaves the earlier file whole.

    Args:
        file: its folder is made if missing.
        content: all of the new content.

    Raises:
        OSError: it cannot be written; the earlier file is untouched.
    """
    beside = file.with_name(f"{file.name}.{secrets.token_hex(4)}.part")  # processes on two machines may share an id
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
        os.replace(beside, file)
    finally:
        beside.unlink(missing_ok=True)
