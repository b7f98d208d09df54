"""The command line, as a user meets it: the table, what is stored, what is refused."""

import io
import json
import subprocess
import sys

import pytest
import torch
from toys import save_checkpoint

import iclnb.__main__ as cli
from iclnb.experiment import grid
from iclnb.experiment.results import Results
from iclnb.model.checkpoints import resolve_device, resolve_dtype
from iclnb.tasks.task import SPECS

ACCURACIES = {"zsl", "ft", "icl"}
MEASURES = {
    "rec2ftp",
    "sim_aou",
    "sim_aou_unnormalised",
    "sim_aou_projected",
    "sim_am",
    "sim_am_update",
    "kendall_tokens",
    "kendall_demonstrations",
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    save_checkpoint(folder, positions=512)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for name in ("sst2", "cb"):
        spec = SPECS[name]
        (folder / name).mkdir()
        for split, n in (("train", 30), (spec.evaluation_split, 8)):
            rows = [
                {field: f"a {'warm' if i % 2 else 'cold'} film {split} {i}" for field in spec.fields}
                | {"label": i % len(spec.answers)}
                for i in range(n)
            ]
            (folder / name / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def run(model, data, tmp_path, capsys):
    def call(*more):
        arguments = ["table", "--model", str(model), "--source", str(data), "--task", "sst2,cb", "--k", "4"]
        status = cli.main([*arguments, "--out", str(tmp_path / "out"), *more])
        return status, *capsys.readouterr()

    return call


def test_the_table_shows_every_task_accuracy_and_measure(run):
    status, out, err = run("--lr", "0.01")
    assert status == 0
    lines = [line.rstrip() for line in out.splitlines()]
    for label in ("ZSL", "FT", "ICL", *cli.MEASURES.values(), "  random state", "  another query", "  before FT"):
        assert label in out
    assert sum(line.startswith("  random state, expected") for line in lines) == 1
    assert sum(line.startswith("  another query") for line in lines) == 7  # of each measure but Rec2FTP
    assert [line.split()[0] for line in lines if line.split()[:1] in (["sst2"], ["cb"], ["mean"])] == [
        *("sst2", "cb", "mean"),  # a row each of the accuracies
        "sst2",  # and the heading of the measures, a column each
    ]
    assert any(line.split() == ["sst2", "cb", "mean"] for line in lines)
    assert "[1/2] sst2: fine-tuning with lr = 0.01" in err and "[2/2] cb: stored in" in err


def test_json_holds_intervals_controls_and_layers(run):
    status, out, _ = run("--json", "--quiet")
    assert status == 0
    for record in json.loads(out).values():
        assert record["n"] == 8 and record["k_used"] == 4
        assert set(record["accuracy"]) == ACCURACIES and MEASURES < set(record["measures"])
        for entry in record["accuracy"].values():
            assert 0 <= entry["low"] <= entry["mean"] <= entry["high"] <= 100
        for name in MEASURES - {"rec2ftp"}:
            entry = record["measures"][name]
            assert entry["low"] <= entry["mean"] <= entry["high"] and len(entry["layers"]) == 2
            assert f"{name}: another query" in entry["above"]
        assert len(record["grid"]) > 2 and record["lr"] in [row["lr"] for row in record["grid"]]


def test_stored_tasks_are_not_computed_again(run, monkeypatch, tmp_path):
    first = run("--lr", "0.01", "--json", "--quiet")
    monkeypatch.setattr(grid, "run_task", lambda *a, **k: pytest.fail("computed again"))
    assert run("--lr", "0.01", "--json", "--quiet")[1] == first[1]


def test_a_stopped_run_keeps_what_it_finished_and_goes_on_there(run, monkeypatch):
    whole, done = grid.run_task, []

    def stop_at_second(model, tokenizer, task, **options):
        if done:
            raise KeyboardInterrupt
        done.append(task.name)
        return whole(model, tokenizer, task, **options)

    monkeypatch.setattr(grid, "run_task", stop_at_second)
    status, out, err = run("--lr", "0.01")
    assert status == 130 and out == "" and "finished tasks are kept" in err
    monkeypatch.setattr(grid, "run_task", lambda m, t, task, **o: done.append(task.name) or whole(m, t, task, **o))
    assert run("--lr", "0.01")[0] == 0
    assert done == ["sst2", "cb"]


def test_a_grid_finds_what_the_table_stored_and_the_table_what_a_grid_did(run, model, data, tmp_path, monkeypatch):
    def settings(seed):
        where = {"model": str(model), "source": str(data), "method": "compare"}
        return [grid.Setting(**where, task=name, k=4, seed=seed, lr=0.01) for name in ("sst2", "cb")]

    shown = json.loads(run("--lr", "0.01", "--json", "--quiet")[1])
    results = Results(tmp_path / "out")
    theirs = grid.run_grid(settings(2), results)
    monkeypatch.setattr(grid, "run_task", lambda *a, **k: pytest.fail("computed again"))
    ours = grid.run_grid(settings(1), results)
    assert ours["accuracy.icl.mean"].tolist() == [shown[name]["accuracy"]["icl"]["mean"] for name in ("sst2", "cb")]
    found = json.loads(run("--lr", "0.01", "--seed", "2", "--json", "--quiet")[1])
    assert theirs["accuracy.icl.mean"].tolist() == [found[name]["accuracy"]["icl"]["mean"] for name in ("sst2", "cb")]


@pytest.mark.parametrize("change", [("--seed", "2"), ("--limit", "5"), ("--position", "answer"), ("--lr", "0.02")])
def test_another_configuration_is_computed_anew(change, run):
    first = run("--lr", "0.01", "--task", "sst2", "--json", "--quiet")
    other = run("--lr", "0.01", "--task", "sst2", "--json", "--quiet", *change)
    assert other[0] == 0 and other[1] != first[1]


@pytest.mark.parametrize(
    "wrong, message",
    [
        (("--model", "pocket-gtp"), "model is 'pocket-gtp'"),
        (("--task", "sst2,rte"), "task is 'rte'"),
        (("--source", "nowhere"), "source is 'nowhere'"),
        (("--task", "all"), "has no sst5/train.jsonl"),
        (("--k", "31"), "k is 31; task sst2 has 30 training examples"),
        (("--k", "0"), "k is 0; comparing"),
        (("--k", "30"), "leaves none of the 30 training examples"),
        (("--limit", "0"), "limit is 0"),
        (("--lr", "-1"), "lr is -1.0"),
        (("--device", "tpu9"), "device is 'tpu9'"),
        (("--device", "meta"), "device is 'meta'; accepted are 'auto', 'cpu', 'cuda', 'cuda:1' and 'mps'"),
        (("--device", "cuda:0"), "device is 'cuda:0', but this machine's torch sees no GPU of this kind"),
        (("--dtype", "int4"), "dtype is 'int4'"),
        (("--task", ""), "task is ''; known are"),
        (("--task", " , "), "task is ' , '; known are"),
        (("--task", "sst2 cb"), "task is 'sst2 cb'; known are"),
        (("--seed", "-1"), "seed is -1; accepted are 0 to 2**32 - 1"),
        (("--seed", str(2**64)), f"seed is {2**64}; accepted are"),
        (("--limit", "-3"), "limit is -3"),
        (("--lr", "inf"), "lr is inf"),
        (("--lr", "nan"), "lr is nan"),
        (("--batch-size", "0"), "batch_size is 0"),
    ],
)
def test_bad_input_is_one_sentence_status_2_and_nothing_written(wrong, message, run, tmp_path):
    status, out, err = run(*wrong)
    assert status == 2 and out == ""
    assert message in err and err.strip().splitlines()[-1].startswith("iclnb: ")
    assert not (tmp_path / "out").exists()


def test_a_place_that_cannot_be_written_to_is_found_out_before_the_work(run, monkeypatch, tmp_path):
    monkeypatch.setattr(grid, "run_task", lambda *a, **k: pytest.fail("work began"))
    (tmp_path / "file").write_text("")
    status, _, err = run("--out", str(tmp_path / "file"))
    assert status == 2 and "results cannot be stored in" in err


def test_a_rate_that_is_no_number_is_refused_by_the_parser(run, capsys):
    with pytest.raises(SystemExit) as stop:
        run("--lr", "abc")
    assert stop.value.code == 2
    assert "--lr: 'abc' is neither a number nor held-out nor published" in capsys.readouterr().err


def test_divergence_is_said_and_is_no_traceback(run):
    status, _, err = run("--lr", "1e30", "--quiet")
    assert status == 1 and "diverged" in err and "Traceback" not in err


@pytest.mark.parametrize(
    "text, names",
    [
        ("sst2, cb", ["sst2", "cb"]),
        (" SST2 ,Cb,", ["sst2", "cb"]),
        ("cb,sst2,cb,CB", ["cb", "sst2"]),
        ("all", list(SPECS)),
        ("ALL ", list(SPECS)),
    ],
)
def test_tasks_are_named_with_spaces_in_any_case_and_once(text, names):
    assert cli.task_names(text) == names


def test_a_task_named_twice_is_one_task(run):
    once = run("--lr", "0.01", "--task", "sst2,cb", "--json", "--quiet")
    assert once[0] == 0 and run("--lr", "0.01", "--task", "SST2, cb ,sst2", "--json", "--quiet") == once


@pytest.mark.parametrize("gpus, mps, auto", [(0, False, "cpu"), (2, False, "cuda"), (0, True, "cpu")])
def test_a_device_is_taken_where_there_is_one(gpus, mps, auto, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert resolve_device("auto").type == auto
    there = {"cpu": True, "cuda": gpus > 0, "cuda:1": gpus > 1, "cuda:2": False, "mps": mps, "cpu:1": False}
    for device, is_there in there.items():
        if is_there:
            assert resolve_device(device) == torch.device(device)
            assert resolve_dtype("auto", torch.device("mps")) == torch.float32  # it has no float64
        else:
            with pytest.raises(ValueError, match=f"device is '{device}', but this machine's torch sees (no GPU|. of)"):
                resolve_device(device)
    for device in ("meta", "tpu", "", "cuda:-1", "CUDA", None, "xla"):
        with pytest.raises(ValueError, match=f"device is {device!r}; accepted are"):
            resolve_device(device)


def test_what_the_terminal_cannot_show_is_escaped(monkeypatch):
    shown, said = (io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict") for _ in range(2))
    monkeypatch.setattr(sys, "stdout", shown)
    monkeypatch.setattr(sys, "stderr", said)
    monkeypatch.setattr(cli, "fetch", lambda name, progress: name)
    assert cli.main(["fetch", "caf\u00e9\udce9"]) == 0
    assert cli.main(["table", "--model", "caf\u00e9", "--source", "sample", "--task", "sst2", "--quiet"]) == 2
    for stream, text in ((shown, b"caf\\xe9\\udce9\n"), (said, b"iclnb: model is 'caf\\xe9'")):
        stream.flush()
        assert stream.buffer.getvalue().startswith(text)


def test_the_module_runs_from_the_shell():
    done = subprocess.run([sys.executable, "-m", "iclnb", "--version"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout.strip() == cli.iclnb.__version__


def test_a_prompt_of_another_format_and_calibration_are_shown_and_change_the_record(run):
    _, plain, _ = run("--lr", "0.01", "--quiet", "--limit", "4")
    status, out, _ = run("--lr", "0.01", "--quiet", "--limit", "4", "--calibrate", "--prompt", "</s>", r"\n\n")
    assert status == 0
    assert "prompt '<s>', then demonstrations that end in '</s>'" in plain and "calibration" not in plain
    assert r"prompt '</s>', then demonstrations that end in '\n\n'" in out
    before, after = out.split("The same after contextual calibration")
    assert "ZSL" in before and [line.split()[0] for line in after.splitlines()[1:4]] == ["task", "sst2", "cb"]


def test_a_prompt_that_cannot_be_is_refused_before_any_work(run):
    status, _, err = run("--prompt", "two words", "x", "--lr", "0.01")
    assert status == 2 and "start of a prompt is 'two words', which is no token of this model" in err
    assert "fine-tuning" not in err
