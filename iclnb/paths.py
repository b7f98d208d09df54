"""Where data, results and fetched models lie, which model the environment asks for, how files are written whole."""

import hashlib
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock
from platformdirs import user_cache_path

__version__ = "0.2.0"  # of this package; every stored result carries it
EMBEDDED = "pocket-gpt"


def data_folder() -> Path:
    """The folder that holds pocket-gpt and the reference tables.

    Returns:
        `data/` of the checkout, or `iclnb/data/` of an installed wheel.
    """
    inside = Path(__file__).parent / "data"
    return inside if inside.is_dir() else Path(__file__).parents[1] / "data"


def quiz_folder() -> Path:
    """The folder that holds the questions of the notebooks.

    Returns:
        `notebooks/quiz/` of the checkout, or `iclnb/quiz/` of an installed wheel.
    """
    inside = Path(__file__).parent / "quiz"
    return inside if inside.is_dir() else Path(__file__).parents[1] / "notebooks" / "quiz"


def chosen_model() -> str:
    """The model that the environment variable ICLNB_MODEL names; pocket-gpt where it is not set."""
    return os.environ.get("ICLNB_MODEL") or EMBEDDED


def local_path(path: str | Path) -> Path:
    """A path as a user writes it, with ~ and ~name for home folders.

    Raises:
        ValueError: there is no such home folder.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ValueError(f"{str(path)!r} begins with a home folder that there is not ({error})") from error


def results_folder() -> Path:
    """The folder of stored results that the environment variable ICLNB_RESULTS names; `results` where it is not set."""
    return local_path(os.environ.get("ICLNB_RESULTS") or "results")


def cache_folder() -> Path:
    """The folder of fetched models: ICLNB_CACHE where that is set, else iclnb in the user's cache folder."""
    chosen = os.environ.get("ICLNB_CACHE")
    return local_path(chosen) if chosen else user_cache_path("iclnb", appauthor=False)


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


def sync(file: Path) -> None:
    """Return once a file's bytes are on the disk, so that a power cut after its move does not leave it empty."""
    with file.open("r+b") as written:
        os.fsync(written.fileno())


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """An empty folder inside `folder`, for files that will then move out into it.

    One process at a time has it, and others wait. What a killed process left there is deleted by the next one.

    Args:
        folder: made if missing; taken away again if the work fails and nothing else came into it.

    Raises:
        OSError: it cannot be written to.
    """
    made = not folder.exists()
    place = folder / ".saving"
    while True:
        place.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # the process before has just deleted the place that we wait in
            lock = FileLock(place / "lock")
            lock.acquire()
            break
    try:
        shutil.rmtree(place / "files", ignore_errors=True)
        (place / "files").mkdir()
        yield place / "files"
    finally:
        shutil.rmtree(place, ignore_errors=True)  # while the lock is held, so that nobody else's files are in it
        lock.release()
        if made:
            with suppress(OSError):  # it is not empty
                folder.rmdir()


def stamp(said: os.stat_result) -> tuple[int, ...]:
    """What changes when a file's bytes do: its inode, size, and times of change.

    Two changes within one tick of the file system's clock (some milliseconds; a second or two on some network and USB
    drives) that keep the size look like one.
    """
    return said.st_ino, said.st_size, said.st_mtime_ns, said.st_ctime_ns


def state(files: Iterable[Path]) -> tuple[tuple, ...]:
    """Where each of the files that exist is, and its stamp."""
    return tuple((str(file.absolute()), *stamp(file.stat())) for file in files if file.is_file())


def sha256_of(file: Path) -> str:
    """The SHA-256 of a file's bytes, in hex; remembered in the cache folder until the file changes."""
    where = file.resolve()
    kept = cache_folder() / "sha256" / hashlib.sha256(os.fsencode(where)).hexdigest()
    with where.open("rb") as opened:
        state = " ".join(map(str, stamp(os.fstat(opened.fileno()))))
        with suppress(OSError, ValueError):
            known, digest = kept.read_text().split("\n")
            if known == state:
                return digest
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    with suppress(OSError):  # a cache folder that cannot be written to: it is computed again each time
        write_whole(kept, f"{state}\n{digest}".encode())
    return digest
