"""The place of a training: what may be written where, checked before any work, and kept from other trainings."""

import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from iclnb.interrupts import Stopped
from iclnb.training.loop import TrainingError


@dataclass(frozen=True)
class Place:
    """Where a training writes.

    Args:
        out: folder of the finished model.
    """

    out: Path

    @property
    def folder(self) -> Path:
        """The folder beside `out` that holds what a running training needs."""
        return self.out.with_name(f"{self.out.name}.training")

    @property
    def checkpoint(self) -> Path:
        """The checkpoint of the running training."""
        return self.folder / "checkpoint.pt"

    @property
    def finished(self) -> bool:
        """Whether there is a model, and no training that was about to write it."""
        files = (self.out / name for name in ("config.json", "model.safetensors"))
        return not self.checkpoint.exists() and any(file.exists() for file in files)


@contextmanager
def claim(out: str | Path, resume: bool = False, force: bool = False, rank: int = 0) -> Iterator[Place]:
    """Keep a place from other trainings; its folder is made, and removed again if nothing is left in it.

    Args:
        out: folder of the finished model.
        resume: an unfinished training there is to be continued.
        force: a finished model there may be overwritten.
        rank: which of several processes this is; the first one holds the lock for all.

    Raises:
        TrainingError: `out` is no folder's name, another training runs there, or there is an unfinished training that
            is not to be resumed, or a finished model that is not to be overwritten.
        OSError: nothing can be written there.
        Stopped: a signal came; the text says whether there is a checkpoint.
    """
    place = Place(Path(os.path.realpath(os.path.expanduser(out))))
    if not place.out.name or (os.path.lexists(place.out) and not place.out.is_dir()):
        raise TrainingError(f"out is {str(place.out)!r}; accepted is the name of a folder, which may be new")
    lock = FileLock(place.folder / "lock", timeout=0, is_singleton=True)
    try:
        place.folder.mkdir(parents=True, exist_ok=True)
        for folder in filter(Path.is_dir, (place.folder, place.out)):
            tempfile.TemporaryFile(dir=folder).close()
        if rank == 0:
            lock.acquire()
    except Timeout as error:
        raise TrainingError(f"out is {str(place.out)!r}, where another training runs; wait for it") from error
    except OSError as error:
        raise OSError(f"out is {str(place.out)!r}, where nothing can be written ({error.strerror})") from error
    try:
        if place.checkpoint.exists() and not resume:
            raise TrainingError(
                f"{place.folder} holds an unfinished training; continue it with --resume, or delete the folder"
            )
        if place.finished and not resume and not force:
            raise TrainingError(f"{place.out} holds a model; --force overwrites it once another is trained")
        yield place
    except KeyboardInterrupt as stopped:
        there = place.checkpoint.exists()
        kept = "--resume continues from the last checkpoint" if there else "there is no checkpoint yet"
        raise Stopped(getattr(stopped, "number", signal.SIGINT), str(stopped) or kept) from stopped
    finally:
        if rank == 0:
            # Before the lock is given up, since another may hold it then; and not by a claim inside of another.
            if lock.lock_counter == 1 and not place.checkpoint.exists():
                (place.folder / "lock").unlink(missing_ok=True)
            lock.release()
        with suppress(OSError):
            place.folder.rmdir()
