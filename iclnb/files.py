"""Writing a file whole or not at all."""

import os
from pathlib import Path


def write_whole(file: Path, content: bytes) -> None:
    """Replace a file's content in one move, so that a failure or a kill leaves the earlier file whole.

    Args:
        file: its folder is made if missing.
        content: all of the new content.

    Raises:
        OSError: it cannot be written; the earlier file is untouched.
    """
    beside = file.with_name(f"{file.name}.{os.getpid()}.part")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
        os.replace(beside, file)
    finally:
        beside.unlink(missing_ok=True)
