"""`python -m iclnb pretrain`, as a user meets it: what it writes and prints, killed and resumed, shared, refused."""

import csv
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from test_text import some_text
from torch.nn.utils import parameters_to_vector

import iclnb.__main__ as cli
from iclnb.model.checkpoints import load
from iclnb.model.gpt import GPT
from iclnb.training import pretrain
from iclnb.training.perplexity import perplexity
from iclnb.training.text import TextFile

ROOT = Path(__file__).parents[2]
SMALL = ["--context", "32", "--batch", "3", "--device", "cpu", "--quiet"]


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    file = tmp_path_factory.mktemp("text") / "novel.txt"
    file.write_text(some_text(), encoding="utf-8")
    return file


@pytest.fixture
def small(monkeypatch):
    """A model small enough for a test."""
    shape = {"n_layer": 1, "n_head": 2, "n_embd": 16, "n_positions": 640, "positions": "rotary"}
    monkeypatch.setitem(cli.SHAPES, "pocket", shape)


def table(file):
    with file.open() as lines:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(lines)]


@pytest.mark.parametrize("momentum", [[], ["--momentum", "0.9"], ["--momentum", "0.5,0"], ["--momentum", "learned"]])
def test_it_trains_on_a_text_and_reports_held_out_perplexity(text, tmp_path, small, capsys, momentum):
    out = tmp_path / "model"
    status = cli.main(["pretrain", "--text", str(text), "--tokens", "9600", "--out", str(out), *SMALL, *momentum])
    shown = capsys.readouterr().out
    assert status == 0
    rows = table(out / "training.csv")
    assert [row["step"] for row in rows] == [100] and rows[-1]["tokens"] == 9600
    model, tokenizer = load(out, device="cpu")
    data = TextFile(text, context=32, batch=3)
    assert tokenizer.get_vocab() == data.tokenizer.get_vocab()
    assert model.config.n_layer == 1 and (model.config.momentum is not None) == bool(momentum)
    kept = table(out / "perplexity.csv")
    assert [row["context"] for row in kept] == [4, 8, 16, 32]
    assert kept[-1]["value"] == pytest.approx(perplexity(model, data.held_out, 32).value, rel=1e-4)
    assert kept[-1]["value"] < 0.5 * len(tokenizer) and len({row["tokens"] for row in kept}) == 1
    printed = re.search(r"^ *32 +([\d.]+) \[([\d.]+), ([\d.]+)\]$", shown, re.MULTILINE).groups()
    in_file = [kept[-1][name] for name in ("value", "low", "high")]  # which is rounded to four decimals first
    assert [float(number) for number in printed] == pytest.approx(in_file, abs=0.0051)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_it_trains_on_a_dataset_that_is_streamed(text, tmp_path, small, capsys):
    folder, tokenizer, out = tmp_path / "documents", tmp_path / "tokenizer", tmp_path / "model"
    folder.mkdir()
    pd.DataFrame({"content": [f"{i} {line}" for i, line in enumerate(text.read_text().splitlines() * 2)]}).to_parquet(
        folder / "train.parquet"
    )
    TextFile(text, context=32).tokenizer.save_pretrained(tokenizer)
    where = ["--dataset", str(folder), "--field", "content", "--tokenizer", str(tokenizer)]
    assert cli.main(["pretrain", *where, "--tokens", "4800", "--out", str(out), *SMALL]) == 0
    assert "Perplexity of" in capsys.readouterr().out
    assert [row["tokens"] for row in table(out / "training.csv")] == [4800]
    assert load(out, device="cpu")[1].get_vocab() == TextFile(text, context=32).tokenizer.get_vocab()


def test_a_place_that_cannot_be_written_to_is_status_1(text, tmp_path, small, capsys):
    (tmp_path / "file").write_text("")
    arguments = ["pretrain", "--text", str(text), "--tokens", "96", "--out", str(tmp_path / "file" / "model"), *SMALL]
    assert cli.main(arguments) == 1
    assert capsys.readouterr().err.startswith("iclnb: ")


def test_minutes_become_tokens(text, tmp_path, small, capsys):
    out = tmp_path / "model"
    assert cli.main(["pretrain", "--text", str(text), "--minutes", "0.005", "--out", str(out), *SMALL]) == 0
    assert table(out / "training.csv")[-1]["step"] >= 1


def test_a_text_alone_is_enough(text, tmp_path, small, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["pretrain", "--momentum", "learned", "--text", str(text), *SMALL]) == 0
    rows, ids = table(tmp_path / "build" / "trained" / "training.csv"), TextFile(text, context=32, batch=3).ids
    assert len(ids) - 96 < rows[-1]["tokens"] <= len(ids)  # as many as it has, in whole steps
    assert "Perplexity of" in capsys.readouterr().out
    assert cli.main(["pretrain", "--dataset", "owner/name"]) == 2
    assert "say how far with --tokens or --minutes" in capsys.readouterr().err


def test_compiling_is_passed_on_and_needs_a_compiler(text, tmp_path, small, monkeypatch, capsys):
    given, arguments = [], ["pretrain", "--text", str(text), "--out", str(tmp_path / "model"), *SMALL]
    monkeypatch.setattr(cli, "pretrain", lambda *_, compile, **__: given.append(compile) or ([], []))
    monkeypatch.setattr(cli, "steps_in", lambda minutes, data, device, compile, **shape: given.append(compile) or 1)
    for options in ([], ["--compile"], ["--no-compile", "--minutes", "1"]):
        assert cli.main([*arguments, *options]) == 0
    assert given == [None, True, False, False]
    monkeypatch.undo()
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert cli.main([*arguments, "--compile", "--tokens", "96"]) == 2
    assert "compile is True, but torch.compile needs a C++ compiler, and no-such-compiler is" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_without_a_text_it_trains_pocket_gpt(tmp_path, small, monkeypatch):
    monkeypatch.setattr(pretrain, "Measurement", lambda tokenizer: lambda model: {})
    out = tmp_path / "model"
    arguments = ["pretrain", "--tokens", "20000", "--seed", "3", "--device", "cpu", "--quiet", "--out", str(out)]
    assert cli.main(arguments) == 0
    data = pretrain.Language(seed=3)
    data.steps = pretrain.steps_of(20000, data)
    pretrain.pretrain(tmp_path / "again", data, seed=3, progress=False, **cli.SHAPES["pocket"])
    for name in ("model.safetensors", "training.csv", "tokenizer.json"):
        assert (out / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


WORKER = """
import sys
from iclnb.training import loop, pretrain, text
loop.has_bf16 = lambda device: False
pretrain.CHECKPOINT_EVERY = text.Text.every = 2
import iclnb.__main__ as cli
cli.SHAPES["pocket"] = {"n_layer": 2, "n_head": 2, "n_embd": 16, "n_positions": 640, "positions": "rotary"}
sys.exit(cli.main(["pretrain", *sys.argv[1:]]))
"""


@pytest.fixture(scope="module")
def worker(tmp_path_factory):
    file = tmp_path_factory.mktemp("worker") / "worker.py"
    file.write_text(WORKER)
    return file


def run_group(command):
    """The finished process; where it fails or hangs, it ends with all that it started."""
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        out, _ = process.communicate(timeout=120)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    assert process.returncode == 0
    return out


@pytest.fixture(scope="module")
def undisturbed(worker, text, tmp_path_factory):
    """The options of a training with learned momentum in one process, and the folder it wrote."""
    out = tmp_path_factory.mktemp("undisturbed") / "model"
    options = ["--text", str(text), "--momentum", "learned", "--tokens", "2880", *SMALL]  # 30 steps
    subprocess.run([sys.executable, worker, *options, "--out", out], cwd=ROOT, check=True)
    return options, out


def test_trainings_that_are_killed_or_meet_or_find_the_disk_full_end_in_the_same_bytes(text, tmp_path):
    script = Path(__file__).with_name("killed.py")
    done = subprocess.run([sys.executable, script, tmp_path, text, "4"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and " of 4 killed before their end" in done.stdout, done.stderr


def test_two_processes_take_the_steps_that_one_takes_on_the_whole_batch(undisturbed, worker, tmp_path):
    options, whole = undisturbed  # three rows a step: two for one process, one for the other
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    quiet = ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    command = [*launch, *quiet, worker, *options, "--out", tmp_path / "shared"]
    printed = run_group(command)
    ours, theirs = table(tmp_path / "shared" / "training.csv"), table(whole / "training.csv")
    assert len(ours) == 15 and [row["tokens"] for row in ours] == [192 * i for i in range(1, 16)]
    for one, other in zip(ours, theirs, strict=True):
        assert one == pytest.approx(other, abs=2e-4)  # the record is rounded to four decimals
    models = [load(folder, device="cpu")[0] for folder in (tmp_path / "shared", whole)]
    models.append(GPT(models[0].config).initialise(0))
    one, other, start = (parameters_to_vector(model.parameters()) for model in models)
    assert (one - other).norm() < 0.02 * (one - start).norm()  # Muon may round to bfloat16 on its way
    assert printed.count("Perplexity of") == 1


@pytest.mark.parametrize(
    "wrong, message",
    [
        (["--text", "nowhere.txt"], "text is 'nowhere.txt', which cannot be read"),
        (["--text", "TEXT", "--dataset", "owner/name"], "one of them can be given"),
        (["--text", "TEXT", "--context", "100000"], "a row of context 100000 needs 100001"),
        (["--text", "TEXT", "--batch", "0"], "batch is 0; it must be above 0"),
        (["--text", "TEXT", "--momentum", "1"], "is 1.0; momentum needs numbers in [0, 1)"),
        (["--text", "TEXT", "--momentum", "-0.1"], "is -0.1; momentum needs"),
        (["--text", "TEXT", "--momentum", "0.5,0.9,0.9"], "one for each of the 4 heads"),
        (["--text", "TEXT", "--momentum", "nan"], "is nan; momentum needs"),
        (["--dataset", "nobody/nothing"], "cannot be had"),
        (["--momentum", "2"], "is 2.0; momentum needs"),
        (["--batch", "4"], "batch is 4, but the synthetic language comes in batches of its own"),
        (["--context", "64"], "context is 64, but the synthetic language"),
        (["--tokens", "0"], "tokens is 0; it must be above 0"),
        (["--threads", "0"], "threads is 0; it must be above 0"),
        (["--device", "tpu9"], "device is 'tpu9'"),
        (["--device", "meta"], "device is 'meta'"),
        (["--device", "mps:3"], "device is 'mps:3'"),
        (["--seed", "-1"], "seed is -1; accepted are 0 to 2**32 - 1"),
        (["--seed", str(2**32)], "seed is 4294967296; accepted are"),
    ],
)
def test_bad_input_is_one_sentence_status_2_and_nothing_written(wrong, message, text, tmp_path, capsys):
    wrong = [str(text) if word == "TEXT" else word for word in wrong]
    status = cli.main(["pretrain", "--out", str(tmp_path / "model"), "--tokens", "5000", "--device", "cpu", *wrong])
    shown = capsys.readouterr()
    assert status == 2 and shown.out == ""
    assert message in shown.err and shown.err.startswith("iclnb: ") and len(shown.err.splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "wrong, message",
    [
        (["inf"], "minutes is inf; it must be above 0 and finite"),
        (["nan"], "minutes is nan; it must"),
        (["-1"], "-1.0"),
    ],
)
def test_minutes_are_a_number_above_0(wrong, message, tmp_path, capsys):
    assert cli.main(["pretrain", "--out", str(tmp_path / "model"), "--minutes", *wrong]) == 2
    assert message in capsys.readouterr().err and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "wrong", [["--tokens", "1", "--minutes", "1"], ["--tokens", "x"], ["--tokens", "1", "--momentum", "big"]]
)
def test_what_the_parser_refuses(wrong, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["pretrain", "--out", str(tmp_path / "model"), *wrong])
    assert stop.value.code == 2 and "error:" in capsys.readouterr().err


def test_an_unfinished_training_needs_resume_and_its_own_options(text, tmp_path, small, capsys, monkeypatch):
    arguments = ["pretrain", "--text", str(text), "--tokens", "19200", "--out", str(tmp_path / "model"), *SMALL]
    call = TextFile.__call__

    def stop(self, step):
        if step == 150:
            raise KeyboardInterrupt
        return call(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(TextFile, "__call__", stop)
        assert cli.main(arguments) == 130
    assert "stopped; --resume continues from the last checkpoint" in capsys.readouterr().err
    assert cli.main(arguments) == 2
    assert "holds an unfinished training; continue it with --resume" in capsys.readouterr().err
    assert cli.main([*arguments, "--resume", "--seed", "1"]) == 2
    assert "is of another run: its data is" in capsys.readouterr().err
    assert cli.main([*arguments, "--resume"]) == 0
    assert [row["step"] for row in table(tmp_path / "model" / "training.csv")] == [100, 200]
