"""SIGINT and SIGTERM: the step is finished and kept, what is said is true, and there is never a traceback."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import iclnb.__main__ as cli
from iclnb import interrupts
from iclnb.training.text import TextFile

ROOT = Path(__file__).parents[1]
BOTH = pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])


@pytest.fixture(autouse=True)
def not_ignored():
    """Where the tests run in the background, a shell has them ignore SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def pretrain(tmp_path, monkeypatch, capsys):
    """Runs `pretrain --out <tmp_path>/<out>` for eight steps; returns the status and what it printed."""
    shape = {"n_layer": 1, "n_head": 2, "n_embd": 16, "n_positions": 640, "positions": "rotary"}
    monkeypatch.setitem(cli.SHAPES, "pocket", shape)
    (tmp_path / "text.txt").write_text("a warm and funny film, and a cold and tired one\n" * 40)

    def run(out, *more):
        small = ["--context", "16", "--batch", "2", "--tokens", "256", "--device", "cpu", "--quiet"]
        status = cli.main(
            ["pretrain", "--text", str(tmp_path / "text.txt"), "--out", str(tmp_path / out), *small, *more]
        )
        return status, *capsys.readouterr()

    return run


def at_step(step, action):
    """TextFile's batches, and an action before one of them is given."""
    call = TextFile.__call__

    def batch(self, i):
        if i == step:
            action()
        return call(self, i)

    return batch


@BOTH
def test_a_training_keeps_the_step_and_resume_ends_in_the_same_bytes(number, status, pretrain, tmp_path, monkeypatch):
    assert pretrain("whole")[0] == 0
    with monkeypatch.context() as patch:
        patch.setattr(TextFile, "__call__", at_step(4, lambda: os.kill(os.getpid(), number)))
        found, out, said = pretrain("stopped")
    assert found == status and not out
    assert said == "iclnb: stopped; step 5 of 8 is kept; --resume continues there\n"
    steps = []
    monkeypatch.setattr(TextFile, "__call__", at_step(5, lambda: steps.append(5)))
    assert pretrain("stopped", "--resume")[0] == 0 and steps == [5]
    for file in (tmp_path / "whole").iterdir():
        assert file.read_bytes() == (tmp_path / "stopped" / file.name).read_bytes()


@BOTH
def test_without_a_checkpoint_none_is_promised(number, status, pretrain, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(cli, "training_data", lambda *_: os.kill(os.getpid(), number) or time.sleep(10))
        found, _, said = pretrain("m")
    assert (found, said) == (status, "iclnb: stopped; there is no checkpoint yet\n")
    monkeypatch.setattr(interrupts, "AGAIN", -1.0)  # every signal after the first comes later than that

    def twice():
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)
        time.sleep(10)

    monkeypatch.setattr(TextFile, "__call__", at_step(4, twice))
    found, _, said = pretrain("m")
    assert (found, said) == (status, "iclnb: stopped; there is no checkpoint yet\n")
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


def test_the_same_signal_twice_at_once_is_one(pretrain, monkeypatch):
    monkeypatch.setattr(
        TextFile, "__call__", at_step(4, lambda: [os.kill(os.getpid(), signal.SIGTERM) for _ in range(3)])
    )
    assert pretrain("m")[::2] == (143, "iclnb: stopped; step 5 of 8 is kept; --resume continues there\n")


@BOTH
def test_every_command_says_what_is_kept(number, status, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(cli, "look", lambda *_: os.kill(os.getpid(), number) or time.sleep(10))
    arguments = ["table", "--task", "sst2", "--source", "sample", "--lr", "1", "--quiet", "--out", str(tmp_path)]
    assert cli.main(arguments) == status
    assert capsys.readouterr().err == f"iclnb: stopped; finished tasks are kept in {tmp_path}\n"


@BOTH
def test_while_importing_there_is_no_traceback(number, status, tmp_path):
    (tmp_path / "torch.py").write_text("import time; print('importing', flush=True); time.sleep(60)")
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-m", "iclnb", "pretrain"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, env=environment, cwd=tmp_path, **pipes) as process:
        assert process.stdout.readline() == b"importing\n"
        process.send_signal(number)
        assert process.stderr.read() == b"iclnb: stopped; nothing was done yet\n"
    assert process.returncode == status


def test_what_is_ignored_stays_ignored_and_what_was_there_comes_back():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with interrupts.handled_by(interrupts.stop):
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        with interrupts.noted() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert stop() == 0
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop() == signal.SIGTERM
        assert signal.getsignal(signal.SIGTERM) is interrupts.stop
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_another_thread_leaves_signals_alone():
    found = []

    def inside():
        with interrupts.noted() as stop:
            found.append((stop(), signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert found == [(0, signal.SIG_DFL)]
