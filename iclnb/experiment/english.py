"""The recorded runs of smollm2 on the six real tasks, which data/english/make.py made."""

import json
from pathlib import Path
from typing import Any

from iclnb.paths import data_folder

FILES = ("compare", "controls", "prompts")


def recorded(kind: str, folder: Path | None = None) -> dict[str, list[dict[str, Any]]]:
    """Records of one kind by task, in the order in which they were made.

    Args:
        kind: "rate", "compare", "untrained", "layer-causal", "labels", "order", "prompt" or "example".
        folder: of the records; None is the one that comes with iclnb.

    Raises:
        ValueError: there are none of this kind.
    """
    records = records_in(folder or data_folder() / "english")
    found: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        if record["kind"] == kind:
            found.setdefault(record["task"], []).append(record)
    if not found:
        raise ValueError(f"kind is {kind!r}; recorded are {', '.join(sorted({r['kind'] for r in records}))}")
    return found


def records_in(folder: Path) -> list[dict[str, Any]]:
    """The records of all files that are there."""
    files = (folder / f"{name}.json" for name in FILES)
    return [record for file in files if file.is_file() for record in json.loads(file.read_text())["records"]]
