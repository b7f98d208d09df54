"""The files of a checkpoint in the Hub's layout: which are read, and that each is what its name says."""

import hashlib
import json
import os
import re
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from iclnb.model.layouts import CheckpointError
from iclnb.paths import sha256_of, state

CONFIG, SINGLE, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
SHARDS = "model-*-of-*.safetensors"
TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
)
STAND_INS = {  # how a file begins that stands in the place of another -> what it is
    rb"version https://git-lfs": "a pointer of git-LFS, which `git lfs pull` in its folder replaces by the file itself",
    rb"\s*<(!doctype html|html)": "a web page; fetch the file itself",
}


class Folder:
    """A checkpoint in the Hub's layout, read tensor by tensor; it has the attributes of GGUFFile.

    Raises:
        CheckpointError: no config.json or no weights, or files that are incomplete, corrupt or elsewhere.
    """

    def __init__(self, folder: Path):
        self.place, self.said_in = folder, folder / CONFIG
        if not os.path.isfile(self.said_in):
            raise CheckpointError(f"{folder} holds no config.json (a save that is cut short leaves a folder so)")
        self.config = read_json(self.said_in)

    @cached_property
    def files(self) -> dict[str, Path]:
        """Tensor name -> file, for one model.safetensors, which is preferred, or for shards with an index."""
        single, index = self.place / SINGLE, self.place / INDEX
        if os.path.isfile(single):
            files = [single]
        elif os.path.isfile(index):
            files = [self.place / name for name in shards_of(index)]
        else:
            raise CheckpointError(f"{self.place} holds no model.safetensors (pickled .bin files are never loaded)")
        names: dict[str, Path] = {}
        for file in files:
            if not os.path.isfile(file):  # unlike Path's, for any name
                raise CheckpointError(f"{self.place} lacks the shard {file.name:.80}, which its index names")
            check(file)
            try:
                with safe_open(file, framework="pt") as tensors:
                    held = dict.fromkeys(tensors.keys(), file)
            except (SafetensorError, OSError) as error:
                raise _damaged(file, error) from error
            if twice := names.keys() & held.keys():
                raise CheckpointError(f"{file} holds the tensor {min(twice)}, as another shard does")
            names |= held
        return names

    def tensor(self, name: str) -> torch.Tensor:
        """A tensor by its name; each time the file is opened anew, since one that stays open keeps all it has read."""
        try:
            with safe_open(self.files[name], framework="pt") as tensors:
                return tensors.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise _damaged(self.files[name], error) from error


def _damaged(file: Path, error: Exception) -> CheckpointError:
    return CheckpointError(f"{file} is corrupt or truncated ({error}); delete it, then fetch or copy it again")


def read_json(file: Path) -> dict[str, Any]:
    """What a JSON file holds, which is an object.

    Raises:
        CheckpointError: it cannot be read, is no JSON, or holds something else.
    """
    check(file)
    try:
        held = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:  # no JSON, no text, thousands of digits; nested too deeply
        raise CheckpointError(f"{file} is not JSON ({error})") from error
    if not isinstance(held, dict):
        raise CheckpointError(f"{file} holds a JSON {type(held).__name__}, where an object with entries belongs")
    return held


def shards_of(index: Path) -> list[str]:
    """The names of the files that an index names, all of them of the index's own folder.

    Raises:
        CheckpointError: it is no such index, or names a file elsewhere or of another kind.
    """
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index} is not an index of safetensors shards: its weight_map is {weight_map!r:.80}")
    for name in weight_map.values():
        if not isinstance(name, str) or not re.fullmatch(r"[^/\\:*?\[\]\0]+\.safetensors", name):
            raise CheckpointError(f"{index} names the shard {name!r:.80}; accepted are *.safetensors of its own folder")
    return sorted(set(weight_map.values()))


def check(file: Path) -> None:
    """Hold that a file can be read, lies in its folder (or is the Hub's own link to a blob), and is no stand-in.

    Raises:
        CheckpointError: one of these does not hold.
    """
    real, folder = os.path.realpath(file), os.path.realpath(file.parent)
    if file.is_symlink() and blob_of(file) is None and not Path(real).is_relative_to(folder):
        raise CheckpointError(f"{file} is a link out of its folder, to {os.readlink(file)}; put the file itself there")
    try:
        with file.open("rb") as opened:
            start = opened.read(64)
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read ({error.strerror})") from error
    for pattern, what in STAND_INS.items():
        if re.match(pattern, start, re.IGNORECASE):
            raise CheckpointError(f"{file} is {what}")


def blob_of(file: Path) -> Path | None:
    """The blob that a file of a snapshot in the Hub's cache is a link to; None for any other file."""
    if not file.is_symlink():
        return None
    snapshot = file.parent.resolve()
    target = Path(os.path.normpath(snapshot / os.readlink(file)))
    blobs = snapshot.parents[1] / "blobs" if snapshot.parent.name == "snapshots" else None
    return target if target.parent == blobs else None


def state_of(place: Path) -> tuple[tuple, ...]:
    """What changes when a checkpoint is written to: the state of each file that load may read."""
    return state([place] if place.is_file() else filter(_is_read, sorted(place.iterdir())))


def _is_read(file: Path) -> bool:
    return file.name in (CONFIG, INDEX, *TOKENIZER) or file.suffix in (".safetensors", ".gguf")


def damaged(folder: Path) -> list[Path]:
    """The files that load reads of a snapshot in the Hub's cache that hold other bytes than the Hub's name says."""
    try:
        return [file for file in sorted(folder.iterdir()) if _is_read(file) and is_damaged(file)]
    except OSError as error:
        raise CheckpointError(f"{error.filename or folder} cannot be read ({error.strerror})") from error


def is_damaged(file: Path) -> bool:
    """Whether a file's bytes are other ones than the Hub's name for them says.

    The Hub names a large file by its SHA-256, a small one as git does. A file under another name is not judged.
    """
    blob = blob_of(file)
    if blob is None or not blob.exists():
        return False
    if re.fullmatch("[0-9a-f]{64}", blob.name):
        return sha256_of(blob) != blob.name
    if re.fullmatch("[0-9a-f]{40}", blob.name):
        held = blob.read_bytes()
        forms = b"blob %d\0%b" % (len(held), held), held  # the Hub's own; some mirrors'
        return blob.name not in [hashlib.sha1(form).hexdigest() for form in forms]
    return False
