"""Saving: what is saved is what is loaded, whatever lay there; full disks, kills at any moment, two at once."""

import itertools
import multiprocessing
import os
import random
import resource
import shutil
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toys import hf_model, save_checkpoint
from transformers import AutoModelForCausalLM

from iclnb.model.checkpoints import CheckpointError, load, save
from iclnb.model.gpt import GPT


@pytest.fixture
def checkpoint(tmp_path):
    save_checkpoint(tmp_path)
    return tmp_path


def contents(folder):
    return {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@contextmanager
def files_up_to(size):
    """Files may have this many bytes; the system refuses more as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)  # before pytest writes into a file


@pytest.mark.parametrize("size", [0, 100, 2_000, 20_000])  # the tokenizer's small files, its large one, the weights
def test_a_full_disk_leaves_the_earlier_checkpoint_and_no_half_folder(size, checkpoint):
    before = contents(checkpoint)
    model, tokenizer = load(checkpoint, device="cpu", dtype="float32")
    for folder in checkpoint, checkpoint / "new":
        with files_up_to(size), pytest.raises(OSError, match=f"not be written to {folder} .*too large.*is untouched"):
            save(model, tokenizer, folder)
    assert contents(checkpoint) == before and not (checkpoint / "new").exists()


def test_a_folder_that_cannot_be_written_is_named(checkpoint, tmp_path):
    model, _ = load(checkpoint, device="cpu", dtype="float32")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match="a checkpoint could not be written to .*file .*untouched"):
        save(model, None, tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def shard(folder, **shape):
    """Turn a folder into one of shards, as transformers writes it."""
    save_checkpoint(folder, **shape)
    (folder / "model.safetensors").unlink()
    hf_model("xglm", **shape).save_pretrained(folder, max_shard_size="20KB")


def same(model, other):
    return all(map(torch.equal, model.parameters(), other.parameters()))


@torch.no_grad()
def test_what_is_saved_over_shards_and_other_leftovers_is_what_is_loaded(tmp_path):
    shard(tmp_path)
    for name in "model.fp16.safetensors", "pytorch_model.bin", "model.gguf", "notes.txt":
        (tmp_path / name).write_bytes(b"left")
    model, tokenizer = load(tmp_path, device="cpu", dtype="float32")
    model.embed_tokens.weight.mul_(2)
    save(model, tokenizer, tmp_path)
    assert same(load(tmp_path, device="cpu", dtype="float32")[0], model)
    ids = torch.randint(0, 400, (1, 20))
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path).eval()(ids).logits
    torch.testing.assert_close(theirs, model(ids), rtol=1e-5, atol=1e-5)
    assert {file.name for file in tmp_path.glob("*.safetensors*")} == {"model.safetensors", "model.fp16.safetensors"}
    assert (tmp_path / "notes.txt").read_bytes() == b"left"


def test_a_tokenizer_replaces_all_files_of_another_and_none_replaces_none(checkpoint, tmp_path):
    model, tokenizer = load(checkpoint, device="cpu", dtype="float32")
    folder = tmp_path / "saved"
    save(model, tokenizer, folder)
    first = contents(folder)
    (folder / "added_tokens.json").write_text('{"<other>": 300}')
    save(model, None, folder)
    assert (folder / "added_tokens.json").exists()
    save(model, tokenizer, folder)
    assert contents(folder) == first


def test_one_file_is_preferred_to_shards_as_transformers_does(tmp_path):
    shard(tmp_path)
    whole = hf_model("xglm", seed=1)
    whole.save_pretrained(tmp_path / "whole")
    (tmp_path / "whole" / "model.safetensors").rename(tmp_path / "model.safetensors")
    next(tmp_path.glob("model-00002-*")).unlink()
    for model in load(tmp_path, device="cpu")[0], AutoModelForCausalLM.from_pretrained(tmp_path):
        held = {tuple(p.shape): p for p in model.parameters()}
        assert torch.equal(held[400, 32], whole.model.embed_tokens.weight)


# -------------------------------------------------------------------------------------------------------------- kills


@pytest.fixture
def old_and_new(tmp_path):
    """A folder with shards, a GGUF file and a tokenizer; a function that saves another model over it or elsewhere; and
    what the folder holds before and after."""
    old = tmp_path / "old"
    shard(old, layers=1)
    (old / "added_tokens.json").write_text("{}")
    (old / "other.gguf").write_bytes(b"left")
    model, tokenizer = load(old, device="cpu", dtype="float32")
    new = GPT(replace(model.config, scale_embeddings=False)).initialise(1)
    save(new, tokenizer, shutil.copytree(old, tmp_path / "new"))
    return old, lambda folder: save(new, tokenizer, folder), contents(old), contents(tmp_path / "new")


def outcome(folder, before, after):
    """What a save that was cut short has left, which is one of three, and that the next save puts it right."""
    left = {name: data for name, data in contents(folder).items() if name.parts[0] != ".saving"}
    if left in (before, after):
        return "earlier" if left == before else "new"
    with pytest.raises(CheckpointError, match="holds no config.json .a save that is cut short leaves a folder so"):
        load(folder, device="cpu")
    return "refused"


class Killed(BaseException):
    pass


def test_a_save_that_is_cut_short_at_any_step_leaves_the_earlier_the_new_or_a_refused_folder(
    old_and_new, tmp_path, monkeypatch
):
    old, save_new, before, after = old_and_new
    outcomes = []
    for steps in itertools.count():
        folder, left = shutil.copytree(old, tmp_path / str(steps)), iter(range(steps))

        def dying(step, left=left):
            def do(*arguments, **options):
                if next(left, None) is None:  # and nothing that cleans up works either
                    raise Killed
                return step(*arguments, **options)

            return do

        with monkeypatch.context() as patch:
            for place, name in (os, "replace"), (os, "unlink"), (os, "rmdir"), (Path, "unlink"), (Path, "mkdir"):
                patch.setattr(place, name, dying(getattr(place, name)))
            try:
                save_new(folder)
                finished = True
            except Killed:
                finished = False
        outcomes.append(outcome(folder, before, after))
        save_new(folder)  # what is left stops nobody
        assert contents(folder) == after
        if finished:
            break
    assert list(dict.fromkeys(outcomes)) == ["earlier", "refused", "new"]


KILLS = 10
FORK = multiprocessing.get_context("fork") if hasattr(os, "fork") else None


@pytest.mark.skipif(FORK is None, reason="needs fork")
def test_a_save_that_is_killed_at_a_random_moment_leaves_the_earlier_the_new_or_a_refused_folder(old_and_new, tmp_path):
    old, save_new, before, after = old_and_new
    draw = random.Random(0)
    save_new(tmp_path / "alone")
    alone = contents(tmp_path / "alone")
    for i in range(KILLS):
        folder = shutil.copytree(old, tmp_path / str(i)) if i % 2 else tmp_path / str(i)
        process = FORK.Process(target=save_new, args=[folder])
        process.start()
        process.join(draw.uniform(0, 0.1))
        process.kill()
        process.join()
        whole = after if i % 2 else alone
        if folder.exists():
            outcome(folder, before, whole)
        save_new(folder)
        assert contents(folder) == whole


@pytest.mark.skipif(FORK is None, reason="needs fork")
def test_of_two_processes_that_save_into_one_folder_one_waits(old_and_new, tmp_path):
    old, save_new, before, after = old_and_new
    other = load(old, device="cpu", dtype="float32")
    save(*other, shutil.copytree(old, tmp_path / "other"))
    for i in range(4):
        folder = shutil.copytree(old, tmp_path / str(i))
        both = [FORK.Process(target=save_new, args=[folder]), FORK.Process(target=save, args=[*other, folder])]
        for process in both:
            process.start()
        for process in both:
            process.join(60)
        assert [process.exitcode for process in both] == [0, 0]
        assert contents(folder) in (after, contents(tmp_path / "other"))
