"""The files of a checkpoint: any bytes give a clear error or what they say, and nothing from outside the folder."""

import json
import random
import re
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from toys import hf_model, save_checkpoint

from iclnb.model.checkpoints import CheckpointError, load, load_model, load_tokenizer, save
from iclnb.model.files import INDEX, SINGLE, Folder, read_json
from iclnb.model.gpt import GPT

CPU = torch.device("cpu")
ONE = {"a": torch.arange(4.0)}
NAMES = ["one.safetensors", "two.safetensors", "../outside.safetensors", "sub/one.safetensors", "pickle.bin", "", "."]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from([*NAMES, "x" * 9000, "\0"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with two shards, a pickle and a folder in it, and tensors outside of it."""
    folder = tmp_path_factory.mktemp("place") / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "pickle.bin").write_bytes(b"\x80\x04\x95")
    for place in folder / "one", folder / "sub" / "one", folder.parent / "outside":
        save_file(ONE, place.with_suffix(".safetensors"))
    save_file({"b": torch.zeros(2)}, folder / "two.safetensors")
    return folder


def read_all(folder):
    """The tensors of a folder by name, each from a file that lies there itself; None where it is refused."""
    try:
        source = Folder(folder)
        assert all(file.parent == folder and file.suffix == ".safetensors" for file in source.files.values())
        return {name: source.tensor(name) for name in source.files}
    except CheckpointError as error:
        assert str(folder) in str(error) and "\n" not in str(error)
        return None


def is_right(found):
    return found is None or all(name == "b" or torch.equal(tensor, ONE["a"]) for name, tensor in found.items())


@given(data=st.binary(max_size=60) | VALUES.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_an_object_or_refused(data, tmp_path_factory):
    file = tmp_path_factory.getbasetemp() / "any.json"
    file.write_bytes(data)
    try:
        assert read_json(file) == json.loads(data)
    except CheckpointError as error:
        assert str(file) in str(error)


@pytest.mark.parametrize(
    "data",
    [b"[" * 100_000, b'{"a": ' + b"9" * 5_000 + b"}", b"[1]", b"null", b"\xff\xfe{", b'{"a": "\xe4"}', b"", b"\0"],
)
def test_json_that_breaks_readers_is_refused(data, checkpoint):
    for name in "config.json", "tokenizer_config.json", "vocab.json":
        kept = (checkpoint / name).read_bytes()
        (checkpoint / name).write_bytes(data)
        with pytest.raises(CheckpointError, match=str(checkpoint)):
            load(checkpoint, device="cpu")
        (checkpoint / name).write_bytes(kept)
    (checkpoint / SINGLE).unlink()
    (checkpoint / INDEX).write_bytes(data)
    with pytest.raises(CheckpointError, match=INDEX):
        load_model(checkpoint, CPU, torch.float32)


def test_a_byte_order_mark_is_read_over(checkpoint):
    (checkpoint / "config.json").write_bytes(b"\xef\xbb\xbf" + (checkpoint / "config.json").read_bytes())
    assert load_model(checkpoint, CPU, torch.float32).config.vocab_size == 400


WEIGHT_MAPS = VALUES | st.dictionaries(st.sampled_from("abc"), st.sampled_from(NAMES) | VALUES, max_size=3)


@given(index=st.binary(max_size=40) | st.builds(lambda v: json.dumps({"weight_map": v}).encode(), WEIGHT_MAPS))
def test_any_index_leads_to_its_own_folder_or_nowhere(index, folder):
    (folder / INDEX).write_bytes(index)
    assert is_right(read_all(folder))


@pytest.mark.parametrize(
    "name", [*NAMES[2:], "/etc/passwd", "C:\\x.safetensors", 1, None, ["one.safetensors"], "*.safetensors"]
)
def test_an_index_names_files_of_its_own_folder_alone(name, folder):
    (folder / INDEX).write_text(json.dumps({"weight_map": {"a": name, "b": "two.safetensors"}}))
    message = f"names the shard {re.escape(repr(name))}; accepted are \\*.safetensors of its own folder"
    with pytest.raises(CheckpointError, match=message):
        Folder(folder).files  # noqa: B018
    (folder / INDEX).write_text(json.dumps({"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}))
    assert read_all(folder).keys() == {"a", "b"}


def test_two_shards_with_the_same_tensor_are_refused(folder, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    for name in "one.safetensors", "two.safetensors":
        save_file(ONE, tmp_path / name)
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}))
    with pytest.raises(CheckpointError, match="two.safetensors holds the tensor a, as another shard does"):
        Folder(tmp_path).files  # noqa: B018


ENTRY = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F16", "I8", "BOOL", "F8_E5M2", "C64", "F4", "X", ""]) | VALUES,
        "shape": st.lists(st.integers(-1, 4) | st.just(2**62), max_size=3) | VALUES,
        "data_offsets": st.lists(st.integers(-1, 40), min_size=2, max_size=2) | VALUES,
    }
)
HEADER = st.dictionaries(st.text(max_size=3) | st.just("__metadata__"), ENTRY | VALUES, max_size=3)


@given(
    header=HEADER.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=60),
    length=st.none() | st.integers(0, 2**64 - 1),
    data=st.binary(max_size=40),
)
def test_any_header_of_safetensors_is_read_or_refused(header, length, data, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp() / "header"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text("{}")
    (folder / SINGLE).write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + data)
    read_all(folder)


# ------------------------------------------------------------------------------------------------- whole checkpoints


@pytest.fixture
def checkpoint(tmp_path):
    save_checkpoint(tmp_path, layers=1)
    return tmp_path


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    """Folders with every file that load reads."""
    base = tmp_path_factory.mktemp("kinds")
    save_checkpoint(base / "plain", layers=1)
    save(*load(base / "plain", device="cpu"), base / "fast")
    save_checkpoint(base / "shards", layers=1)
    (base / "shards" / SINGLE).unlink()
    hf_model("xglm", layers=1).save_pretrained(base / "shards", max_shard_size="40KB")
    return base


def mutated(data, draw):
    """The bytes with a bit flipped, a piece lost, doubled or put in, or the rest cut off; mostly near the start."""
    i, n = draw.randrange(min(len(data), 3000)), draw.randrange(1, 40)
    piece = draw.choice(
        [draw.randbytes(n), b"null", b"-1", b"1e400", b"[" * 100_000, b"9" * 5_000, b"\xff", b'"\\ud800"']
    )
    flipped = data[:i] + bytes([data[i] ^ 1 << draw.randrange(8)]) + data[i + 1 :]
    return draw.choice(
        [flipped, data[:i] + data[i + n :], data[: i + n] + data[i:], data[:i] + piece + data[i:], data[:i]]
    )


@pytest.mark.parametrize(
    "name",
    ["plain/config.json", "plain/vocab.json", "plain/merges.txt", "plain/tokenizer_config.json", "fast/tokenizer.json"]
    + ["plain/" + SINGLE, "shards/" + INDEX, "shards/model-00001-of-00003.safetensors"],
)
def test_mutated_files_are_refused_in_one_sentence_or_loaded(name, kinds):
    file = kinds / name
    whole, outcomes = file.read_bytes(), []
    for seed in range(20):
        file.write_bytes(mutated(whole, random.Random(seed)))
        try:
            outcomes.append(isinstance(load(file.parent, device="cpu", dtype="float32")[0], GPT))
        except CheckpointError as error:
            assert str(file.parent) in str(error) and "\n" not in str(error) and len(str(error)) < 800
            outcomes.append(None)
    file.write_bytes(whole)
    assert None in outcomes and load(file.parent, device="cpu")[0].config.n_layer == 1


def test_more_layers_than_tensors_are_refused_before_they_are_made(checkpoint):
    config = json.loads((checkpoint / "config.json").read_text())
    for entries, message in (
        ({"num_layers": 999}, "says 999 layers, more than"),
        ({"d_model": 2**40}, "d_model is"),
    ):
        (checkpoint / "config.json").write_text(json.dumps(config | entries))
        with pytest.raises(CheckpointError, match=f"config.json.*({message})"):
            load(checkpoint, device="cpu")


def test_names_longer_than_any_file_has_are_refused(checkpoint):
    with pytest.raises(CheckpointError, match="neither a folder nor a file here"):
        load("x" * 5000)
    (checkpoint / SINGLE).unlink()
    (checkpoint / INDEX).write_text(json.dumps({"weight_map": {"a": "x" * 5000 + ".safetensors"}}))
    with pytest.raises(CheckpointError, match="lacks the shard xxx"):
        load(checkpoint)


# ---------------------------------------------------------------------------------------------------- what stands in


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 134\n"


@pytest.mark.parametrize("name", ["plain/config.json", "plain/vocab.json", "plain/" + SINGLE, "fast/tokenizer.json"])
@pytest.mark.parametrize(
    "content, message",
    [
        (POINTER, "is a pointer of git-LFS, which `git lfs pull` in its folder replaces by the file itself"),
        (b"\n<!DOCTYPE html>\n<html>", "is a web page; fetch the file itself"),
        (b"<html lang=en>", "is a web page; fetch the file itself"),
    ],
)
def test_what_stands_in_the_place_of_a_file_is_said(name, content, message, kinds):
    file = kinds / name
    whole = file.read_bytes()
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{file} {message}"):
        load(file.parent, device="cpu")
    file.write_bytes(whole)


def test_a_pointer_in_the_place_of_a_gguf_file_is_said(tmp_path):
    (tmp_path / "model.gguf").write_bytes(POINTER)
    for place in tmp_path, tmp_path / "model.gguf":
        with pytest.raises(CheckpointError, match="model.gguf is a pointer of git-LFS"):
            load(place)


def test_links_that_lead_nowhere_are_said(checkpoint):
    for name in "vocab.json", SINGLE, "config.json":
        (checkpoint / name).unlink()
        (checkpoint / name).symlink_to(name)
        with pytest.raises(CheckpointError, match="cannot be read|holds no"):
            load(checkpoint, device="cpu")


@pytest.mark.parametrize("name", ["plain/config.json", "plain/vocab.json", "plain/" + SINGLE, "fast/tokenizer.json"])
def test_a_link_out_of_the_folder_is_not_followed_and_one_inside_is(name, kinds, tmp_path):
    file = kinds / name
    inside, outside = file.with_name("the file itself"), tmp_path / "outside"
    outside.write_bytes(file.read_bytes())
    file.rename(inside)
    file.symlink_to(outside)
    with pytest.raises(CheckpointError, match=f"{file} is a link out of its folder, to {outside}"):
        load(file.parent, device="cpu")
    file.unlink()
    file.symlink_to(inside.name)
    load(file.parent, device="cpu")
    (tmp_path / "link").symlink_to(file.parent)
    load(tmp_path / "link", device="cpu")
    inside.replace(file)


def test_a_file_that_cannot_be_read_is_named(checkpoint, monkeypatch):
    def refuse(self, *arguments):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(CheckpointError, match="config.json cannot be read .Permission denied."):
        load_model(checkpoint, CPU, torch.float32)
    with pytest.raises(CheckpointError, match="cannot be read .Permission denied."):
        load_tokenizer(checkpoint)


def test_a_checkpoint_that_is_written_to_while_it_is_read_is_not_used(checkpoint, monkeypatch):
    other = checkpoint / "other"
    save_checkpoint(other, layers=1, seed=1)
    read = load_tokenizer

    def meanwhile(folder):
        (other / SINGLE).replace(folder / SINGLE)
        return read(folder)

    monkeypatch.setattr("iclnb.model.checkpoints.load_tokenizer", meanwhile)
    with pytest.raises(CheckpointError, match="was written to while it was read; load it again"):
        load(checkpoint, device="cpu")
