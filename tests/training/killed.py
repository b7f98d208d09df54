"""Trainings that are killed, meet each other, or meet a full disk; a script, so that one import serves them all.

`python killed.py FOLDER TEXT KILLS` exits with 0 if all of them end in the bytes of a training that nothing disturbed.
"""

import contextlib
import io
import os
import random
import resource
import signal
import sys
import time
from pathlib import Path

import iclnb.__main__ as cli
from iclnb.training import pretrain, text

pretrain.CHECKPOINT_EVERY = text.Text.every = 2
cli.SHAPES["pocket"] = {"n_layer": 2, "n_head": 2, "n_embd": 16, "n_positions": 640, "positions": "rotary"}
FOLDER, TEXT, KILLS = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
OPTIONS = [
    "--text",
    TEXT,
    "--context",
    "32",
    "--batch",
    "3",
    "--tokens",
    "960",
    "--device",
    "cpu",
    "--quiet",
]  # 10 steps


def start(name, *more, largest=resource.RLIM_INFINITY):
    """Begin a training in a process of its own, which writes what it says to <name>.log; returns its id."""
    if pid := os.fork():
        return pid
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, resource.RLIM_INFINITY))
    said, status = io.StringIO(), 99
    with contextlib.suppress(BaseException), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        status = cli.main(["pretrain", *OPTIONS, "--out", str(FOLDER / name), *more])
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    (FOLDER / f"{name}-{os.getpid()}.log").write_text(said.getvalue())
    os._exit(status)


def end(name, pid):
    """The exit status of a training, and what it said."""
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    log = FOLDER / f"{name}-{pid}.log"
    return status, log.read_text() if log.exists() else ""


def whole(name):
    """Whether a place holds what the undisturbed training wrote, and nothing else is left."""
    ours, theirs = ({f.name: f.read_bytes() for f in (FOLDER / n).iterdir() if f.is_file()} for n in (name, "whole"))
    return ours == theirs and not (FOLDER / f"{name}.training").exists()


assert cli.main(["pretrain", *OPTIONS, "--out", str(FOLDER / "whole")]) == 0  # here, so that all is imported once
started = time.monotonic()
assert end("again", start("again"))[0] == 0 and whole("again")
seconds = time.monotonic() - started

kills, killed = 0, 0
while kills < KILLS:
    name = f"killed-{kills}"
    for most in (1.0, 0.5):  # the second one lands in a training that is resumed
        pid = start(name, "--resume")
        time.sleep(random.uniform(0, most * seconds))
        os.kill(pid, signal.SIGKILL)
        kills, killed = kills + 1, killed + (end(name, pid)[0] == -signal.SIGKILL)
    status, said = end(name, start(name, "--resume"))
    assert status == 0 and whole(name), (name, status, said)

pids = [start("two") for _ in range(2)]
ends = sorted(end("two", pid) for pid in pids)
assert [status for status, _ in ends] == [0, 2] and "where another training runs" in ends[1][1], ends
assert whole("two")

for _ in range(2):  # before the first checkpoint, and after one
    status, said = end("full", start("full", "--resume", largest=4096))  # bytes of a file; a checkpoint has more
    assert status == 1 and "could not be written" in said and len(said.splitlines()) == 1, (status, said)
    pid = start("full", "--resume")
    while not (FOLDER / "full.training" / "checkpoint.pt").exists():
        time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)
    end("full", pid)
    if (FOLDER / "full").exists():  # it ended before it was killed
        break
assert end("full", start("full", "--resume"))[0] == 0 and whole("full")

print(f"{killed} of {kills} killed before their end", sum(path.is_dir() for path in FOLDER.glob("*/*")), "folders left")
