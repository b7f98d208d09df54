"""Grids: what a setting computes, what is refused, and that no kill loses, doubles or changes a result."""

import dataclasses
import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import dask
import distributed
import numpy as np
import pandas as pd
import pytest
import torch
from distributed.utils import get_mp_context
from safetensors.torch import load_file, save_file

import iclnb
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


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a checkpoint, a task of 20 training examples, one of three rows, and room for markers."""
    folder = tmp_path_factory.mktemp("grid")
    write_model(folder / "model")
    write_task(folder / "data", 20, 9)
    write_task(folder / "three", 3, 3)
    return folder


@pytest.fixture(autouse=True)
def forget():
    """What a new process does; a test may call it again."""

    def clear():
        for cached in (grid._held.clear, grid._sources.clear, grid._load_task.cache_clear):
            cached()

    clear()
    return clear


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


def edit(file: Path, change) -> None:
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}  # no part of the file
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def zero_values(tensors):
    for name, tensor in tensors.items():
        if name.endswith("v_proj.weight"):
            tensor[1:] = 0


def one_bit(tensors):
    tensor = tensors["model.layers.1.fc2.weight"]  # (C, 4 C)
    tensor.view(torch.int32)[-1, -1] ^= 1


def swap_merges(file: Path) -> None:
    first, *lines = file.read_text().splitlines()
    file.write_text("\n".join([first, *reversed(lines)]) + "\n")  # as long as before


def one_letter(file: Path) -> None:
    """Another text of the same length, at the same time as far as the file says."""
    before = file.stat()
    file.write_text(file.read_text().replace("warm", "worm"))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


CHANGES = {
    "values": ("weights", "model/model.safetensors", lambda file: edit(file, zero_values)),
    "one bit": ("weights", "model/model.safetensors", lambda file: edit(file, one_bit)),
    "configuration": (
        "weights",
        "model/config.json",
        lambda file: file.write_text(file.read_text().replace('"scale_embedding": true', '"scale_embedding": false')),
    ),
    "tokenizer": ("tokenizer", "model/merges.txt", swap_merges),
    "training examples": ("examples", "data/sst2/train.jsonl", one_letter),
    "evaluation examples": ("examples", "data/sst2/validation.jsonl", one_letter),
}


@pytest.mark.parametrize("linked", [False, True], ids=["folder", "link"])
@pytest.mark.parametrize("change", CHANGES)
def test_whatever_changes_in_a_file_changes_the_key_and_the_answer_in_the_same_process(change, linked, place, tmp_path):
    key, name, make = CHANGES[change]
    there = tmp_path / "there"
    shutil.copytree(place, there)
    if linked:
        (tmp_path / "link").symlink_to(there)
    one, results = setting(tmp_path / ("link" if linked else "there"), seed=2), Results(tmp_path / "results")
    first, losses = grid.configuration(one), run_grid([one], results).losses[0]
    make(there / name)
    second = grid.configuration(one)
    assert {entry for entry in first if first[entry] != second[entry]} == {key}
    again = run_grid([one], results).losses[0]
    assert len(results.table()) == 2, "computed, not found"
    fresh = run_setting(dataclasses.replace(one, model=str(there / "model"), source=str(there / "data")))["losses"]
    assert again == fresh and (again != losses or change == "evaluation examples" or change == "one bit")


def test_a_link_that_points_elsewhere_is_another_model(place, tmp_path):
    write_model(tmp_path / "other", 1)
    link = tmp_path / "model"
    link.symlink_to(place / "model")
    one = dataclasses.replace(setting(place), model=str(link))
    first = grid.configuration(one)
    link.unlink()
    link.symlink_to(tmp_path / "other")
    assert grid.configuration(one)["weights"] != first["weights"]


def test_a_name_means_what_it_means_where_and_when_it_is_used(place, tmp_path, monkeypatch):
    """A relative path in another folder, and "auto" under another environment."""
    write_model(tmp_path / "model", 1)
    write_task(tmp_path / "data", 20, 8)
    relative = Setting("model", "sst2", "icl", source="data", k=2)
    auto = Setting("auto", "sst2", "icl", k=2)
    found = {}
    for folder in (place, tmp_path):
        monkeypatch.chdir(folder)
        monkeypatch.setenv("ICLNB_MODEL", str(folder / "model"))
        monkeypatch.setenv("ICLNB_DATA", str(folder / "data"))
        found[folder] = [grid.configuration(one) for one in (relative, auto)]
    for one, other in zip(*found.values(), strict=True):
        assert one["weights"] != other["weights"] and one["examples"] != other["examples"]


def test_a_model_that_somebody_changed_in_memory_is_not_what_its_name_means(place, tmp_path):
    one, results = setting(place), Results(tmp_path / "results")
    model, _ = grid.loaded(one.model)
    for block in model.blocks:
        block.attn.v_proj.weight.data[1:] = 0  # in a way that autograd does not count
    changed = run_grid([one], results).losses[0]
    assert changed == run_grid([one], Results(tmp_path / "other")).losses[0]
    model, tokenizer = grid.loaded(one.model)
    tokenizer.add_tokens(["warm"])
    assert run_grid([one], Results(tmp_path / "third")).losses[0] == changed
    assert grid.loaded(one.model)[0] is not model


def test_a_file_that_is_written_over_changes_no_model_in_memory(place, tmp_path):
    shutil.copytree(place / "model", tmp_path / "model")
    model, _ = grid.loaded(str(tmp_path / "model"), "cpu", "float32")
    before = {name: p.clone() for name, p in model.named_parameters()}
    with (tmp_path / "model/model.safetensors").open("r+b") as file:
        file.seek(10_000)
        file.write(bytes(100_000))
    assert all(p.equal(before[name]) for name, p in model.named_parameters())
    (tmp_path / "model/model.safetensors").write_bytes(b"")  # reading what is no longer there would kill the process
    assert all(p.equal(before[name]) for name, p in model.named_parameters())


def test_what_is_unchanged_is_loaded_once_in_a_process(place, tmp_path, monkeypatch):
    times = []
    monkeypatch.setattr(grid, "load", lambda *args: times.append(args) or iclnb.load(*args))
    for folder in ("one", "two"):
        run_grid([setting(place, seed=seed) for seed in (1, 2)], Results(tmp_path / folder))
    assert len(times) == 1
    other = setting(place)
    write_model(tmp_path / "model", 1)
    settings = [other, dataclasses.replace(other, model=str(tmp_path / "model"))] * 2
    run_grid(settings, Results(tmp_path / "one"))
    times.clear()
    run_grid(settings, Results(tmp_path / "one"))
    assert not times, "all is stored, so nothing needs to be loaded"


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
