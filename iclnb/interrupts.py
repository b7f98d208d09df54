"""SIGINT and SIGTERM: what is told to stop keeps what it can, says so, and ends with status 130 or 143."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
AGAIN = 1.0  # seconds; launchers and schedulers send a signal twice at once, a person waits first


class Stopped(KeyboardInterrupt):
    """A run that a signal ended.

    Args:
        number: of the signal.
        kept: what is kept of the run, where that is known; the error's text.
    """

    def __init__(self, number: int, kept: str = ""):
        super().__init__(kept)
        self.number = number


def stop(number: int, _: FrameType | None) -> None:
    """A handler that raises Stopped."""
    raise Stopped(number)


def leave(number: int, _: FrameType | None) -> None:
    """A handler that ends the process at once, for as long as nothing has been done."""
    os.write(2, b"iclnb: stopped; nothing was done yet\n")
    os._exit(128 + number)


def leave_at_once() -> None:
    """Give the signals to `leave` until something else handles them."""
    for number in _free():
        signal.signal(number, leave)


@contextmanager
def handled_by(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Give the signals to a handler for a while; in a thread that is not the main one, nothing changes."""
    before = {number: signal.signal(number, handler) for number in _free()}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


@contextmanager
def noted() -> Iterator[Callable[[], int]]:
    """Only note the signals for a while; what comes again after AGAIN seconds raises Stopped.

    Yields:
        A function that gives the number of the first signal that came, 0 where none has.
    """
    came: list[tuple[int, float]] = []

    def note(number: int, _: FrameType | None) -> None:
        if came and time.monotonic() - came[0][1] > AGAIN:
            raise Stopped(number)
        came.append((number, time.monotonic()))

    with handled_by(note):
        yield lambda: came[0][0] if came else 0


def _free() -> list[int]:
    """The signals that may be handled here: not those that are ignored, as of a job in the background."""
    if threading.current_thread() is not threading.main_thread():
        return []
    return [number for number in SIGNALS if signal.getsignal(number) not in (signal.SIG_IGN, None)]
