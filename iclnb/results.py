"""Results on disk: one JSON file a configuration, written whole or not at all, found again by its configuration."""

import hashlib
import json
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch

from iclnb.files import write_whole
from iclnb.gpt import GPT
from iclnb.tasks import Task


class Results:
    """A folder of records. Several processes may share it.

    Args:
        folder: made with the first record.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    def prepare(self) -> None:
        """Make the folder, so that a place that cannot be written to is found out before the work.

        Raises:
            ValueError: the folder cannot be made or written to.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self.folder).close()
        except OSError as error:
            raise ValueError(f"results cannot be stored in {self.folder} ({error.strerror})") from error

    def find(self, config: dict[str, Any]) -> dict[str, Any] | None:
        """The stored record of exactly this configuration, or None; a damaged file is said and counts as none."""
        file = self.file(config)
        if not file.is_file():
            return None
        try:
            stored = json.loads(file.read_text())
            if stored["config"] == json.loads(json.dumps(config)):
                return stored["record"]
        except (json.JSONDecodeError, KeyError, TypeError):
            pass  # said below, as for a file whose name and configuration disagree
        warnings.warn(f"{file} is damaged; its result is computed again", stacklevel=2)
        return None

    def save(self, config: dict[str, Any], record: dict[str, Any]) -> Path:
        """Write a record beside its place, then move it there; returns the file."""
        file = self.file(config)
        write_whole(file, json.dumps({"config": config, "record": record}, indent=1).encode())
        return file

    def file(self, config: dict[str, Any]) -> Path:
        """Where the record of a configuration lies."""
        digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16]
        return self.folder / f"{config.get('task', 'record')}-{digest}.json"


def fingerprint(thing: GPT | Task) -> str:
    """Sixteen hex digits that change when a model's weights or a task's examples do.

    A model is judged by the first 64 values of every parameter, a task by all its examples.
    """
    digest = hashlib.sha256()
    if isinstance(thing, GPT):
        for name, p in thing.named_parameters():
            head = p.detach().flatten()[:64].to("cpu", torch.float64)  # (64,) at most
            digest.update(name.encode() + head.numpy().tobytes())
    else:
        digest.update(json.dumps([thing.spec.template, thing.answers, thing.train, thing.evaluation]).encode())
    return digest.hexdigest()[:16]
