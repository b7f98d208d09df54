"""Grids: what a setting computes, what is refused, and that no kill loses, doubles or changes a result."""

import dataclasses
import io
import json
import os
import random
import signal
import time
from contextlib import redirect_stdout
from pathlib import Path

import dask
import distributed
import numpy as np
import pandas as pd
import pytest
import torch
from distributed.utils import get_mp_context

import iclnb
from iclnb import __main__ as cli
from iclnb.experiment import grid, selection
from iclnb.experiment.grid import Setting, run_grid, run_setting
from iclnb.experiment.results import Results
from iclnb.experiment.run import held_out, run_task
from iclnb.tasks.formats import PromptFormat

LISTS = ["correct", "losses", "held_out_correct"]  # columns whose entries are lists


def write_model(folder: Path, seed: int = 0) -> None:
    from toys import save_checkpoint  # here, since it brings much of transformers, which the processes below can spare

    save_checkpoint(folder, seed=seed)


def write_task(folder: Path, train: int, evaluation: int) -> None:
    from toys import toy_task

    task = toy_task(train, evaluation)
    (folder / "sst2").mkdir(parents=True)
    for split, examples in (("train", task.train), ("validation", task.evaluation)):
        texts = (example.text.removeprefix("Sentence: ").removesuffix(" Label:") for example in examples)
        rows = [json.dumps({"sentence": text, "label": e.label}) for text, e in zip(texts, examples, strict=True)]
        (folder / "sst2" / f"{split}.jsonl").write_text("\n".join(rows))


def setting(place, method="ft", **options):
    defaults = {"model": str(place / "model"), "task": "sst2", "source": str(place / "data"), "k": 4}
    return Setting(method=method, **defaults | ({"lr": 0.05} if method == "ft" else {}) | options)


# ---------------------------------------------------------------------------------------------------------------------
# What a setting computes


def test_settings_equal_the_same_calls_by_hand(place, tmp_path):
    model, tokenizer = iclnb.load(place / "model", device="cpu", dtype="float32")
    task = iclnb.load_task("sst2", place / "data")
    settings = [
        setting(place, "icl", seed=3),
        setting(place, "icl", k=0),
        setting(place, seed=3, lr=0.2, limit=5, held_out=7),
        setting(place, "compare", lr=0.05, limit=3),
    ]
    table = run_grid(settings, Results(tmp_path))
    student = iclnb.finetune_attention(model, tokenizer, task, 4, 3, 0.2)
    runs = [
        iclnb.few_shot(model, tokenizer, task, 4, 3),
        iclnb.zero_shot(model, tokenizer, task),
        iclnb.zero_shot(student, tokenizer, task, limit=5),
    ]
    assert table.accuracy[:3].tolist() == [100 * run.accuracy for run in runs]
    assert table.correct[:3].tolist() == [run.correct.int().tolist() for run in runs]
    assert table.n[:3].tolist() == [9, 9, 5] and table.k_used.tolist() == [4, 0, 4, 4]
    judged = iclnb.zero_shot(student, tokenizer, held_out(task, 4, 3, 7))
    assert table.held_out_correct[2] == judged.correct.int().tolist() and len(table.losses[2]) == 4
    compared = run_task(model, tokenizer, task, k=4, seed=1, lr=0.05, limit=3)
    assert table["measures.sim_aou.mean"][3] == compared["measures"]["sim_aou"]["mean"]


def test_pocket_gpt_stays_on_the_cpu_beside_a_gpu(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)  # with no GPU behind it: to use it would raise
    options = {"source": "sample", "k": 2, "lr": 0.01, "limit": 3}
    results = Results(tmp_path)
    run_grid([Setting("pocket-gpt", "sst2", method, **options) for method in ("ft", "compare")], results)
    assert results.table().dtype.tolist() == ["float64", "float64"]


def test_a_rate_that_diverges_is_a_record_that_says_so(place, tmp_path):
    results = Results(tmp_path)
    table = run_grid([setting(place, lr=lr) for lr in (0.05, 1e30)], results)
    assert table.accuracy.isna().tolist() == [False, True]
    assert "diverged: the loss is nan at step" in table.diverged[1] and not isinstance(table.diverged[0], str)
    again = run_grid([setting(place, lr=1e30)], results, compute=run_setting)
    assert "lr = 1e+30" in again.diverged[0]


def test_without_demonstrations_fine_tuning_is_zero_shot(place, tmp_path):
    table = run_grid([setting(place, k=0), setting(place, "icl", k=0)], Results(tmp_path))
    assert table.correct[0] == table.correct[1] and table.k_used.tolist() == [0, 0]


def test_a_task_of_three_rows_runs_with_what_it_has(place, tmp_path):
    three = {"source": str(place / "three")}
    table = run_grid([setting(place, k=2, held_out=5, **three)], Results(tmp_path))
    assert table.n[0] == 3 and len(table.held_out_correct[0]) == 1


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"method": "magic"}, "method is 'magic'; known are icl, ft, compare"),
        ({"method": "icl", "lr": 0.1}, "lr is 0.1; in-context learning has none"),
        ({"lr": None}, "lr is None; fine-tuning takes a positive number"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"method": "compare", "lr": "best"}, "lr is 'best'"),
        ({"k": 32}, "k is 32; task sst2 has 3 training examples"),
        ({"k": 3, "held_out": 5}, "k is 3, which leaves none of the 3 training examples"),
        ({"k": 0, "method": "compare", "lr": 0.1}, "k is 0; comparing"),
        ({"limit": 0}, "limit is 0"),
        ({"held_out": -1}, "held_out is -1"),
        ({"position": "last"}, "position is 'last'"),
        ({"batch_size": 0}, "batch_size is 0"),
    ],
)
def test_a_setting_that_cannot_be_run_is_refused_before_any_is(wrong, message, place, tmp_path):
    three = {"source": str(place / "three"), "k": 2}
    with pytest.raises(ValueError, match=message):
        run_grid([setting(place, **three), setting(place, **three | wrong)], Results(tmp_path))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "given, plain",
    [
        ({"k": np.arange(5)[4], "seed": torch.tensor(3)}, {"k": 4, "seed": 3}),
        ({"limit": np.array(5), "held_out": np.uint8(2), "batch_size": np.int32(3)}, {"limit": 5, "held_out": 2}),
        *(({"lr": to(0.05)}, {"lr": 0.05}) for to in (np.float16, np.float32, np.float64, np.array, torch.tensor)),
        ({"lr": torch.tensor(0.05, dtype=torch.float64, requires_grad=True)}, {"lr": 0.05}),
        ({"lr": torch.tensor(0.5, dtype=torch.bfloat16)}, {"lr": 0.5}),
        ({"lr": 1}, {"lr": 1.0}),
        ({"task": np.array(["sst2"])[0]}, {}),
    ],
)
def test_numbers_of_numpy_and_torch_are_plain_numbers(given, plain, place):
    one, other = setting(place, **given), setting(place, **plain)
    assert one == dataclasses.replace(other, batch_size=one.batch_size)
    assert json.dumps(grid.configuration(one)) == json.dumps(grid.configuration(other))


def test_paths_arrays_and_ranges_are_plain_too(place, tmp_path):
    paths = Setting(place / "model", "sst2", "icl", place / "data", k=2)
    assert paths == Setting(str(place / "model"), "sst2", "icl", str(place / "data"), k=2)
    rates = (torch.logspace(-2, -1, 2), (0.01, 0.1))
    one, other = (
        selection.candidates(model, "sst2", k, seeds, rates, source=place / "data")
        for model, k, seeds, rates in zip(
            (place / "model", str(place / "model")),
            (np.int64(2), 2),
            (np.arange(1, 3), range(1, 3)),
            rates,
            strict=True,
        )
    )
    assert one == other and {*one} == {*other}
    table = run_grid(one[:2], Results(tmp_path), compute=selection.judge)
    assert table.seeds.tolist() == [[1, 2]] * 2


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"k": 4.0}, "k is 4.0; it must be a whole number and at least 0"),
        ({"k": "4"}, "k is '4'; it must be a whole number"),
        ({"k": True}, "k is True; it must be a whole number"),
        ({"k": None}, "k is None; it must be a whole number"),
        ({"k": np.arange(3)}, r"k is \(0, 1, 2\); it must be a whole number"),
        ({"k": -1}, "k is -1; it must be a whole number and at least 0"),
        ({"seed": -1}, "seed is -1; it must be a whole number and at least 0"),
        ({"seed": np.float64("nan")}, "seed is nan; it must be a whole number"),
        ({"limit": [3]}, r"limit is \(3,\); it must be a whole number and at least 1"),
        ({"lr": "0.1"}, "lr is '0.1'; fine-tuning takes a positive number"),
        ({"lr": True}, "lr is True; fine-tuning takes a positive number"),
        ({"lr": torch.tensor([0.1, 0.2])}, "fine-tuning takes a positive number"),
        ({"lr": torch.tensor(1j)}, "lr is 1j; fine-tuning takes a positive number"),
        ({"source": None}, "source is None; it must be a name or a path"),
        ({"task": 3}, "task is 3; it must be a name or a path"),
    ],
)
def test_what_is_no_number_or_no_name_is_said_in_one_sentence(wrong, message, place):
    with pytest.raises(ValueError, match=message):
        setting(place, **wrong)


def test_a_place_that_cannot_be_written_to_is_refused_before_a_model_is_loaded(place, tmp_path, monkeypatch):
    monkeypatch.setattr(grid, "load", lambda *_: pytest.fail("a model was loaded"))
    (tmp_path / "results").touch()
    with pytest.raises(ValueError, match="results cannot be stored in"):
        run_grid([setting(place)], Results(tmp_path / "results"))


# ---------------------------------------------------------------------------------------------------------------------
# Stored, and for which configuration


@dataclasses.dataclass(frozen=True)
class Marked(Setting):
    """A setting that leaves a marker for each time it was begun and finished."""

    markers: str = ""
    fatal: int = 0  # the seed whose first attempt kills its process


def marked(setting: Marked) -> dict:
    """run_setting with markers, slow enough to be hit by a kill."""
    folder = Path(setting.markers)
    begun = len(list(folder.glob(f"begun-{setting.seed}-*")))
    (folder / f"begun-{setting.seed}-{begun}").touch()
    record = run_setting(setting)
    time.sleep(0.05)
    if setting.seed == setting.fatal and not begun:
        os.kill(os.getpid(), signal.SIGKILL)
    done = len(list(folder.glob(f"done-{setting.seed}-*")))
    (folder / f"done-{setting.seed}-{done}").touch()
    return record


def marked_settings(place, markers, count, **options):
    markers.mkdir()
    plain = [dataclasses.asdict(setting(place, seed=seed)) for seed in range(1, count + 1)]
    return [Marked(**one, markers=str(markers), **options) for one in plain]


def finished(markers):
    return sorted(int(path.name.split("-")[1]) for path in markers.glob("done-*"))


def test_nothing_stored_is_computed_again_and_nothing_else_is_taken_for_it(place, tmp_path):
    results, markers = Results(tmp_path / "results"), tmp_path / "markers"
    settings = marked_settings(place, markers, 3)
    first = run_grid(settings[:2], results, compute=marked)
    again = run_grid([*settings, settings[0]], results, compute=marked)  # a repeated setting is computed once
    assert finished(markers) == [1, 2, 3]
    pd.testing.assert_frame_equal(again[:2], first)
    assert again.correct[3] == again.correct[0]
    run_grid(settings[:1], results)  # by another function, so under another name
    assert len(results.table()) == 4


def test_device_and_batches_are_no_part_of_what_a_record_is_found_by_and_the_dtype_is(place):
    one = setting(place)
    assert grid.configuration(one) == grid.configuration(dataclasses.replace(one, device="cpu", batch_size=3))
    for dtype in ("float32", "float64"):
        assert grid.configuration(dataclasses.replace(one, dtype=dtype))["dtype"] == dtype


def test_settings_that_come_to_the_same_share_a_record(place, monkeypatch):
    monkeypatch.setenv("ICLNB_DATA", str(place / "data"))
    published = setting(place, "compare", lr="published", seed=3)
    same = setting(place, "compare", lr=5e-4, seed=3, source="auto")
    assert grid.configuration(published) == grid.configuration(same)


# ---------------------------------------------------------------------------------------------------------------------
# Kills


@pytest.fixture(scope="module")
def processes():
    """Starts processes, dask's workers among them, that have imported this file already and done nothing else."""
    with (
        dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"}),
        pytest.MonkeyPatch.context() as m,
    ):
        m.setenv("PYTHONPATH", os.pathsep.join(map(str, Path(__file__).parents[:2])))
        context = get_mp_context()  # multiprocessing's own; dask has put its preload there, and the last one counts
        slow_to_import = ["torch._dynamo", "transformers.models.gpt2.tokenization_gpt2"]  # what iclnb.load brings in
        context.set_forkserver_preload(["distributed", "test_grid", *slow_to_import])
        yield context


def run_table(place, out):
    options = {"model": place / "model", "source": place / "data", "task": "sst2", "k": 4, "lr": 0.05, "out": out}
    with redirect_stdout(io.StringIO()):
        assert cli.main(["table", "--quiet", *(f"--{name}={value}" for name, value in options.items())]) == 0


def run_settings(place, out):
    run_grid([setting(place, seed=seed, lr=lr) for seed in range(1, 6) for lr in (0.01, 0.05)], Results(out))


@pytest.mark.parametrize("work", [run_table, run_settings])
def test_killed_at_any_moment_the_same_bytes_come_out(work, place, tmp_path, processes):
    rng = random.Random(7)

    def run(out, seconds=None):
        """Whether the work came to its end, and how long it took."""
        start, process = time.monotonic(), processes.Process(target=work, args=(place, out))
        process.start()
        process.join(seconds)
        process.kill()
        process.join()
        return process.exitcode == 0, time.monotonic() - start

    def stored(out):
        return {file.name: file.read_bytes() for file in out.glob("*") if file.suffix != ".part"}

    run(tmp_path / "first")  # which also starts the process that all others are forked from
    (done, seconds), kills, folders = run(tmp_path / "undisturbed"), 0, 1
    assert done and stored(tmp_path / "undisturbed") == stored(tmp_path / "first")
    while kills < 5:
        out = tmp_path / str(folders)
        if run(out, rng.uniform(0, seconds))[0]:
            assert stored(out) == stored(tmp_path / "undisturbed")
            folders += 1
        else:
            kills += 1
    assert run(out)[0] and stored(out) == stored(tmp_path / "undisturbed")


def test_a_grid_killed_three_times_ends_in_the_table_of_an_undisturbed_one(place, tmp_path, processes):
    rng = random.Random(5)
    results, markers = Results(tmp_path / "results"), tmp_path / "markers"
    settings = marked_settings(place, markers, 14)
    for _ in range(3):
        before = len(finished(markers))
        process = processes.Process(target=run_grid, args=(settings, results), kwargs={"compute": marked})
        process.start()
        deadline = time.monotonic() + 60
        while len(finished(markers)) < before + rng.randint(1, 3) and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.1))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL, "the grid ended before it was killed"
    disturbed = run_grid(settings, results, compute=marked)
    undisturbed = run_grid(settings, Results(tmp_path / "other"), compute=marked)
    pd.testing.assert_frame_equal(disturbed, undisturbed)
    # Once disturbed and once undisturbed; a kill between the marker and the record may add one each time.
    assert set(finished(markers)) == set(range(1, 15)) and len(finished(markers)) <= 2 * 14 + 3


class DiesAfterSaving(Results):
    """Kills its process right after it has stored the first record of seed 6: stored, and not yet reported."""

    def save(self, config, record):
        file = super().save(config, record)
        if config["seed"] == 6 and os.getpid() != int((self.folder / "caller").read_text()):
            os.kill(os.getpid(), signal.SIGKILL)
        return file


def test_a_cluster_loses_and_doubles_nothing_when_workers_are_killed(place, tmp_path, processes):
    results, markers = DiesAfterSaving(tmp_path / "results"), tmp_path / "markers"
    results.folder.mkdir()
    (results.folder / "caller").write_text(str(os.getpid()))
    settings = marked_settings(place, markers, 10, fatal=3)
    options = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    with distributed.LocalCluster(**options) as cluster, distributed.Client(cluster) as client:
        table = run_grid(settings, results, client, compute=marked)
    assert table.seed.tolist() == list(range(1, 11))
    assert finished(markers) == list(range(1, 11)), "each setting was computed to its end once"
    assert len(list(markers.glob("begun-3-*"))) == 2, "the worker was killed while it computed seed 3"
    here = run_grid([setting(place, seed=seed) for seed in range(1, 11)], Results(tmp_path / "here"))
    assert table[LISTS[:2]].equals(here[LISTS[:2]])


def test_the_format_of_the_prompt_is_part_of_the_key(place):
    plain = setting(place, method="icl")
    named, other = (dataclasses.replace(plain, prompt_format=f) for f in (PromptFormat(), PromptFormat("<s>", "\n")))
    keys = [grid.configuration(s) for s in (plain, named, other)]
    assert keys[0] == keys[1] and keys[2] == keys[0] | {"prompt_format": {"start": "<s>", "separator": "\n"}}
