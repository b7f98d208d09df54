"""What a stored result is found by: whatever can change a number, in files or in memory, and nothing else."""

import dataclasses
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from test_grid import setting, write_model, write_task

import iclnb
from iclnb.experiment import grid
from iclnb.experiment.grid import Setting, run_grid, run_setting
from iclnb.experiment.results import Results


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
