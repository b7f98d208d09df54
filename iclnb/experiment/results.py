"""Results on disk: one JSON file a configuration, written whole or not at all, found again by its configuration."""

import functools
import hashlib
import itertools
import json
import tempfile
import warnings
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from xxhash import xxh3_128

from iclnb.model.gpt import GPT
from iclnb.paths import __version__, data_folder, local_path, results_folder, write_whole
from iclnb.tasks.formats import own_format
from iclnb.tasks.task import Task

FORM = 4  # what stored numbers mean; raise it when prompts, predictions, measures or what a record holds change


class Results:
    """A folder of records. Several processes and users may share it.

    A file that is damaged, that cannot be read, or that another version of iclnb wrote, counts as missing, and that is
    said once. A new file has the mode and the group that any file made in this folder would have.

    Args:
        folder: made with the first record; None is the one that the environment variable ICLNB_RESULTS names, else
            `results`.
    """

    def __init__(self, folder: str | Path | None = None):
        self.folder = results_folder() if folder is None else local_path(folder)
        self._said: set[str] = set()

    def check(self) -> None:
        """Find out before the work whether records can be stored; makes nothing.

        Raises:
            ValueError: the folder cannot be made or written to.
        """
        try:
            there = next(place for place in (self.folder, *self.folder.absolute().parents) if place.exists())
            tempfile.TemporaryFile(dir=there).close()
        except OSError as error:
            raise ValueError(
                f"results cannot be stored in {self.folder} ({error.strerror}); make it writable for you, or choose "
                "another folder (--out, ICLNB_RESULTS or Results(folder))"
            ) from error

    def find(self, config: dict[str, Any]) -> dict[str, Any] | None:
        """The stored record of exactly this configuration, or None."""
        stored = self._read(self.file(config))
        return stored and stored["record"]

    def get(self, config: dict[str, Any], compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The record of a configuration: the stored one, else what `compute` gives, which is then stored."""
        record = self.find(config)
        if record is None:
            record = compute()
            self.save(config, record)
        return record

    def save(self, config: dict[str, Any], record: dict[str, Any]) -> Path:
        """Write a record beside its place, then move it there; returns the file.

        Raises:
            OSError: it cannot be written, as on a full disk; what was stored there before still is.
        """
        file = self.file(config)
        stored = {"version": __version__, "config": config, "record": record}
        try:
            write_whole(file, json.dumps(stored, indent=1).encode())
        except OSError as error:
            raise OSError(
                f"the result {file} cannot be written ({error.strerror}); those before it are kept"
            ) from error
        return file

    def file(self, config: dict[str, Any]) -> Path:
        """Where the record of a configuration lies, whichever version of iclnb wrote it."""
        digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16]
        return self.folder / f"{config.get('task', 'record')}-{digest}.json"

    def table(self, configs: Iterable[dict[str, Any]] | None = None) -> pd.DataFrame:
        """Stored records as rows, with a column for each entry of configuration and record.

        Args:
            configs: the configurations wanted, in order, those without a record left out; None is all, by file name.

        Returns:
            The frame. A nested entry's column is named by its path, as in "accuracy.icl.mean"; where configuration and
            record share a name (the learning rate that was asked for, the one that was chosen), the record's stands.
        """
        files = sorted(self.folder.glob("*.json")) if configs is None else map(self.file, configs)
        rows = [stored["config"] | stored["record"] for file in files if (stored := self._read(file))]
        return pd.json_normalize(rows)

    def _read(self, file: Path) -> dict[str, Any] | None:
        """All that a file holds, or None where it counts as missing."""
        try:
            stored = json.loads(file.read_bytes())
            whole = file == self.file(stored["config"]) and isinstance(stored["record"], dict)
            version = stored["version"]
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            return self._say(f"{file} cannot be read ({error.strerror}); its result counts as missing")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):  # no JSON, or JSON that is no record
            whole = False
        if not whole:
            return self._say(f"{file} is damaged; its result counts as missing")
        if version != __version__:
            return self._say(f"{self.folder} holds results of iclnb {version}; they count as missing")
        return stored

    def _say(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            warnings.warn(text, stacklevel=4)


def identity(model: GPT, task: Task, tokenizer: Any) -> dict[str, Any]:
    """What a record's configuration says of where its numbers come from, whatever that is called."""
    return source_of(model, tokenizer) | {"examples": fingerprint(task)}


def source_of(model: GPT, tokenizer: Any) -> dict[str, Any]:
    """The part of `identity` that no task changes."""
    dtype = str(model.embed_tokens.weight.dtype).removeprefix("torch.")
    return {
        "weights": fingerprint(model),
        "tokenizer": _tokenizer_fingerprint(tokenizer),
        "prompt_format": asdict(own_format(tokenizer)),
        "dtype": dtype,
        "form": FORM,
    }


def fingerprint(thing: GPT | Task) -> str:
    """Sixteen hex digits that change with any bit of a model's configuration and weights or of a task's examples.

    All bytes are read each time, some 10 GB a second, since nothing tells whether a tensor was changed in place.
    """
    if isinstance(thing, Task):
        return _task_fingerprint(thing)
    digest = xxh3_128(repr(thing.config).encode())
    for name, x in itertools.chain(thing.named_parameters(), thing.named_buffers()):
        digest.update(f"{name} {x.dtype} {tuple(x.shape)}".encode())
        digest.update(x.detach().flatten().view(torch.uint8).numpy(force=True))
    return digest.hexdigest()[:16]


def _tokenizer_fingerprint(tokenizer: Any) -> str:
    """Sixteen hex digits that change with anything that a tokenizer does."""
    if hasattr(tokenizer, "backend_tokenizer"):
        written = [tokenizer.backend_tokenizer.to_str(), str(tokenizer.split_special_tokens)]
    else:  # one that is written in Python
        with tempfile.TemporaryDirectory() as folder:
            tokenizer.save_pretrained(folder)
            written = [f"{file.name} {file.read_text(encoding='utf-8')}" for file in sorted(Path(folder).iterdir())]
    return hashlib.sha256(json.dumps(written).encode()).hexdigest()[:16]


@functools.lru_cache(maxsize=16)  # a grid asks for the same few tasks again and again
def _task_fingerprint(task: Task) -> str:
    written = json.dumps([task.spec.template, task.answers, task.train, task.evaluation])
    return hashlib.sha256(written.encode()).hexdigest()[:16]


# ------------------------------------------------------------------------------------- the records of data/momentum


def stored(kind: str, folder: Path | None = None) -> dict[tuple[str, int | str], dict[str, Any]]:
    """The stored records of one kind of training, with momentum, without it and with its rivals, by arm and seed.

    Args:
        kind: the name of a file in the folder, such as "english"; its README lists them. "rates" are by kind and arm.
        folder: of the records; None is the one that comes with iclnb.
    """
    file = (folder or data_folder() / "momentum") / f"{kind}.json"
    records = {}
    for key, record in json.loads(file.read_text()).items():
        arm, seed = key.split(" ")
        records[arm, int(seed) if seed.isdecimal() else seed] = record
    return records


def rounded(value: Any) -> Any:
    """A record with its numbers to five digits, and tuples as lists: the last digits differ between machines."""
    if isinstance(value, dict):
        return {name: rounded(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(entry) for entry in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def write_records(file: Path, records: dict[str, dict[str, Any]]) -> None:
    """Write records such as `stored` reads, a line each, whole or not at all."""
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(records[key])}" for key in sorted(records))
    write_whole(file, f"{{\n{lines}\n}}\n".encode())


def by_seed(records: dict[tuple[str, int], dict[str, Any]], arm: str, value: Callable[[dict], float]) -> list[float]:
    """A number of every record of an arm, in the order of the seeds."""
    return [value(records[key]) for key in sorted(records) if key[0] == arm]
