"""Where a training writes: nothing is overwritten by mistake, one training a place, and found out before the work."""

import os
import signal
import subprocess
import sys

import pytest
from filelock import FileLock, Timeout
from test_text import some_text

import iclnb.__main__ as cli
from iclnb.training import pretrain
from iclnb.training.claim import claim
from iclnb.training.loop import TrainingError


@pytest.fixture
def train(tmp_path, monkeypatch, capsys):
    """Runs `pretrain --out <tmp_path>/m` on a text; returns the status, what it printed, and the files of m."""
    shape = {"n_layer": 1, "n_head": 2, "n_embd": 16, "n_positions": 640, "positions": "rotary"}
    monkeypatch.setitem(cli.SHAPES, "pocket", shape)
    text = tmp_path / "text.txt"
    text.write_text(some_text(800))

    def run(*more):
        small = ["--context", "16", "--batch", "2", "--tokens", "64", "--device", "cpu", "--quiet"]
        status = cli.main(["pretrain", "--text", str(text), "--out", str(tmp_path / "m"), *small, *more])
        return status, *capsys.readouterr(), {file.name: file.read_bytes() for file in (tmp_path / "m").iterdir()}

    return run


@pytest.mark.parametrize("change", [[], ["--seed", "1"], ["--momentum", "0.5"], ["--tokens", "96"], ["--batch", "3"]])
def test_a_finished_model_is_overwritten_by_force_alone(train, change, tmp_path):
    *_, first = train()
    status, _, said, files = train(*change)
    assert status == 2 and "/m holds a model; --force overwrites it" in said and files == first
    status, out, said, files = train(*change, "--resume")
    assert files == first
    if change:
        assert status == 2 and "/m is of another run: its " in said
    else:
        assert status == 0 and "holds the finished model already" in out
    status, _, _, files = train(*change, "--force")
    assert status == 0 and (files["model.safetensors"] == first["model.safetensors"]) == (not change)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m", "text.txt"]


@pytest.mark.parametrize("content", [b"{}", b"[1]", b"\xff", b'{"seed": 0}'])
def test_a_model_that_came_otherwise_is_not_overwritten_either(content, tmp_path):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "m").mkdir(exist_ok=True)
        (tmp_path / "m" / name).write_text("{}")
        (tmp_path / "m" / "training.json").write_bytes(content)
        for resume in (False, True):
            with pytest.raises(TrainingError, match="m holds a model|m is of another run"):
                pretrain.pretrain(tmp_path / "m", pretrain.Language(), resume=resume)
        (tmp_path / "m" / name).unlink()


def test_what_an_earlier_model_left_beside_the_new_one_goes(train, monkeypatch):
    *_, first = train()
    assert "perplexity.csv" in first
    monkeypatch.setattr(pretrain, "Measurement", lambda tokenizer: lambda model: {})
    monkeypatch.setattr(cli, "training_data", lambda *_: pretrain.Language())
    status, *_, files = train("--force")
    assert status == 0 and set(first) - set(files) == {"perplexity.csv"}


def test_one_training_a_place(train, tmp_path):
    (tmp_path / "m.training").mkdir()
    (tmp_path / "m").mkdir()
    with FileLock(tmp_path / "m.training" / "lock"):
        status, _, said, files = train()
        assert status == 2 and "/m', where another training runs; wait for it" in said and not files
    assert train()[0] == 0
    with claim(tmp_path / "new"), claim(tmp_path / "new"), pytest.raises(Timeout):
        FileLock(tmp_path / "new.training" / "lock", timeout=0).acquire()


def test_a_lock_dies_with_its_process(tmp_path):
    code = "import sys, filelock\nwith filelock.FileLock(sys.argv[1]): print('held', flush=True), sys.stdin.read()"
    folder = tmp_path / "m.training"
    folder.mkdir()
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code, folder / "lock"], **pipes) as holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(TrainingError, match="where another training runs"), claim(tmp_path / "m"):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with claim(tmp_path / "m") as place:
            assert place.folder == folder
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("out, place", [(".", "."), ("..", ".."), ("~/m", "m"), ("m/", "m"), ("link", "m")])
def test_a_place_has_one_name(out, place, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "link").symlink_to("m")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "here"))
    with claim(out) as found:
        assert found.out == (tmp_path / "here" / place).resolve()
        assert found.folder.parent == found.out.parent and found.folder.is_dir()


def test_a_place_that_will_not_do_is_found_out_before_the_work(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cli, "training_data", lambda *_: pytest.fail("work began"))
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to(tmp_path / "file" / "below")
    for out, status in (("file", 2), ("/", 2), ("file/below", 1), ("loop", 2), ("dangling", 1), ("x" * 300, 1)):
        assert cli.main(["pretrain", "--out", str(tmp_path / out)]) == status
        said = capsys.readouterr().err
        assert said.startswith("iclnb: out is '/") and len(said.splitlines()) == 1
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
@pytest.mark.parametrize("folder", [".", "m"])
def test_a_place_that_others_own_is_found_out_before_the_work(folder, tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / folder).chmod(0o500)
    with pytest.raises(OSError, match="where nothing can be written"), claim(tmp_path / "m"):
        pytest.fail("claimed")
