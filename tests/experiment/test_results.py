"""Stored results: found by their configuration alone, and never half written."""

import dataclasses
import json
import os
import tempfile
import tomllib
import warnings
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from toys import save_fairseq_tokenizer, toy_task
from transformers import ByT5Tokenizer

from iclnb.experiment.results import FORM, Results, fingerprint, identity
from iclnb.model.checkpoints import load_tokenizer
from iclnb.model.gpt import GPT, GPTConfig
from iclnb.paths import __version__

CONFIG = {"task": "sst2", "seed": 1, "lr": 0.1, "limit": None}


def test_a_record_is_found_by_its_configuration_and_no_other(tmp_path):
    results = Results(tmp_path / "new")
    results.save(CONFIG, {"accuracy": 0.5})
    assert Results(tmp_path / "new").find(dict(reversed(CONFIG.items()))) == {"accuracy": 0.5}
    for change in ({"seed": 2}, {"lr": 0.2}, {"limit": 5}, {"position": "answer"}):
        assert results.find(CONFIG | change) is None


def test_a_record_is_computed_once_and_a_failed_one_not_kept(tmp_path):
    results, times = Results(tmp_path), []
    for _ in range(2):
        assert results.get(CONFIG, lambda: times.append(1) or {"accuracy": 0.5}) == {"accuracy": 0.5}
    assert len(times) == 1
    with pytest.raises(ZeroDivisionError):
        results.get(CONFIG | {"seed": 2}, lambda: {"accuracy": 1 / 0})
    assert results.find(CONFIG | {"seed": 2}) is None and len(results.table()) == 1


def test_the_environment_names_the_folder_where_none_is_given(tmp_path, monkeypatch):
    monkeypatch.setenv("ICLNB_RESULTS", str(tmp_path / "there"))
    assert Results().folder == tmp_path / "there" and Results("here").folder == Path("here")
    monkeypatch.delenv("ICLNB_RESULTS")
    assert Results().folder == Path("results")


OTHER = json.dumps({"version": __version__, "config": CONFIG | {"seed": 2}, "record": {"accuracy": 0.5}})


@pytest.mark.parametrize("damage", [b"", b'{"config": ', b"[]", b'{"config": []}', b"\xff", OTHER.encode()])
def test_a_damaged_file_is_said_once_and_counts_as_missing(damage, tmp_path, recwarn):
    results = Results(tmp_path)
    file = results.save(CONFIG, {"accuracy": 0.5})
    file.write_bytes(damage)
    assert results.find(CONFIG) is None and results.find(CONFIG) is None and results.table().empty
    assert [str(warning.message) for warning in recwarn] == [f"{file} is damaged; its result counts as missing"]
    results.save(CONFIG, {"accuracy": 0.6})
    assert results.find(CONFIG) == {"accuracy": 0.6}


def test_records_of_another_version_are_said_once_and_count_as_missing(tmp_path, recwarn):
    results = Results(tmp_path)
    for seed in (1, 2):
        file = results.save(CONFIG | {"seed": seed}, {"accuracy": 0.5})
        file.write_text(file.read_text().replace(f'"version": "{__version__}"', '"version": "0.0.9"'))
    assert results.find(CONFIG) is None and results.table().empty
    said = [str(warning.message) for warning in recwarn]
    assert said == [f"{tmp_path} holds results of iclnb 0.0.9; they count as missing"]
    results.save(CONFIG, {"accuracy": 0.6})
    assert results.find(CONFIG) == {"accuracy": 0.6} and len(results.table()) == 1


def test_the_version_that_is_stored_is_that_of_the_package():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert __version__ == project["version"]


def test_the_table_has_a_row_for_each_record_and_a_column_for_each_entry(tmp_path):
    results = Results(tmp_path)
    assert results.table().empty
    for seed in (1, 2):
        results.save(CONFIG | {"seed": seed}, {"accuracy": {"icl": {"mean": 50.0 * seed}}, "correct": [0, seed]})
    table = results.table([CONFIG | {"seed": seed} for seed in (2, 3, 1)])  # seed 3 is not stored
    assert table.seed.tolist() == [2, 1] and table["accuracy.icl.mean"].tolist() == [100.0, 50.0]
    assert table.correct.tolist() == [[0, 2], [0, 1]]
    assert sorted(results.table().seed) == [1, 2]


def write_and_read(folder):
    """A hundred times: write a record that others write too, and read another; never half of one."""
    results, size = Results(folder), 10_000
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for turn in range(100):
            results.save(CONFIG | {"seed": turn % 3}, {"long": [turn] * size})
            record = results.find(CONFIG | {"seed": (turn + 1) % 3})
            assert record is None or len(record["long"]) == size and len(set(record["long"])) == 1


def test_processes_share_a_folder(tmp_path):
    with ProcessPoolExecutor(2, mp_context=get_context("fork")) as pool:
        list(pool.map(write_and_read, [tmp_path, tmp_path]))
    assert len(Results(tmp_path).table()) == len(list(tmp_path.iterdir())) == 3


@pytest.fixture
def shared():
    """A folder that everybody may write to, of a group of its own where the tests may give it one."""
    with tempfile.TemporaryDirectory() as folder:  # pytest's own folders are closed to other users
        if os.geteuid() == 0:
            os.chown(folder, 0, 4242)
        os.chmod(folder, 0o2777)
        yield Path(folder)


@contextmanager
def another_user():
    """Work as somebody who owns nothing here; where that cannot be, permissions bind the owner as well."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


@pytest.mark.skipif(os.name == "nt", reason="Windows has other permissions")
def test_a_file_of_another_user_that_cannot_be_read_is_said_once_and_replaced(shared, recwarn):
    file = Results(shared).save(CONFIG, {"accuracy": 0.5})
    file.chmod(0)
    with another_user():
        results = Results(shared)
        assert results.find(CONFIG) is None and results.find(CONFIG) is None and results.table().empty
        assert results.get(CONFIG, lambda: {"accuracy": 0.6}) == {"accuracy": 0.6} == results.find(CONFIG)
    assert [str(warning.message) for warning in recwarn] == [
        f"{file} cannot be read (Permission denied); its result counts as missing"
    ]


@pytest.mark.skipif(os.name == "nt", reason="Windows has other permissions")
@pytest.mark.parametrize("inside", [".", "new/folder"])
def test_a_folder_that_cannot_be_written_to_is_refused_before_any_work(inside, shared):
    shared.chmod(0o555)
    with another_user(), pytest.raises(ValueError) as caught:
        Results(shared / inside).check()
    shared.chmod(0o755)
    assert str(caught.value) == (
        f"results cannot be stored in {shared / inside} (Permission denied); make it writable for you, or choose "
        "another folder (--out, ICLNB_RESULTS or Results(folder))"
    )
    assert not list(shared.iterdir())


def test_a_file_in_the_folders_place_is_refused(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "inside"):
        with pytest.raises(ValueError, match=r"results cannot be stored in .*file.* \(Not a directory\); make it"):
            Results(folder).check()


@pytest.mark.skipif(os.name == "nt", reason="Windows has other permissions")
@pytest.mark.parametrize("umask", [0o002, 0o022, 0o077])
def test_a_new_file_has_the_folders_group_and_the_mode_of_any_other(umask, shared):
    before = os.umask(umask)
    try:
        stored = Results(shared / "new").save(CONFIG, {"accuracy": 0.5}).stat()
        (shared / "new" / "other").touch()
    finally:
        os.umask(before)
    assert stored.st_mode & 0o777 == 0o666 & ~umask
    assert stored.st_gid == (shared / "new" / "other").stat().st_gid == shared.stat().st_gid


def test_home_is_spelled_out(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("ICLNB_RESULTS", "~/there")
    assert Results().folder == tmp_path / "there" and Results("~/here").folder == tmp_path / "here"


def test_what_is_no_file_counts_as_missing_and_cannot_be_replaced(tmp_path, recwarn):
    results = Results(tmp_path)
    file = results.file(CONFIG)
    file.mkdir()
    assert results.find(CONFIG) is None
    assert [str(warning.message) for warning in recwarn] == [
        f"{file} cannot be read (Is a directory); its result counts as missing"
    ]
    with pytest.raises(OSError, match=r"the result .*sst2-\w+\.json cannot be written \(Is a directory\)"):
        results.save(CONFIG, {"accuracy": 0.5})


def test_a_full_disk_is_said_in_one_sentence_and_loses_no_earlier_record(tmp_path):
    resource = pytest.importorskip("resource", reason="Windows has no limit of file sizes")
    results = Results(tmp_path)
    results.save(CONFIG, {"accuracy": 0.5})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
        for config in (CONFIG, CONFIG | {"seed": 2}):
            with pytest.raises(OSError) as caught:
                results.save(config, {"long": list(range(10_000))})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    kept = "those before it are kept"
    assert str(caught.value) == f"the result {results.file(config)} cannot be written (File too large); {kept}"
    assert results.find(CONFIG) == {"accuracy": 0.5} and len(list(tmp_path.iterdir())) == 1


def test_writers_of_the_same_number_on_two_machines_do_not_meet(tmp_path, monkeypatch):
    """In containers every process is number 1; one that is slow must not write into the file of the other."""
    monkeypatch.setattr(os, "getpid", lambda: 1)
    names = []
    monkeypatch.setattr(os, "replace", lambda source, target: names.append(source))
    for _ in range(2):
        Results(tmp_path).save(CONFIG, {"accuracy": 0.5})
    assert len(set(names)) == 2 and not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_earlier_record_and_nothing_else(tmp_path):
    results = Results(tmp_path)
    results.save(CONFIG, {"accuracy": 0.5})
    with pytest.raises(TypeError):
        results.save(CONFIG, {"accuracy": torch.tensor(1.0)})  # no JSON
    assert results.find(CONFIG) == {"accuracy": 0.5}
    assert len(list(tmp_path.iterdir())) == 1


def test_stored_files_are_json(tmp_path):
    stored = json.loads(Results(tmp_path).save(CONFIG, {"a": 1}).read_text())
    assert stored == {"version": __version__, "config": CONFIG, "record": {"a": 1}}


CONFIGURATION = GPTConfig(vocab_size=20, n_layer=1, n_head=1, n_embd=8, momentum=0.5, learn_momentum=True)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_models_fingerprint_follows_every_bit_of_every_parameter(dtype):
    model, other = (GPT(CONFIGURATION).initialise(0).to(dtype) for _ in range(2))
    known = {fingerprint(model)}
    assert fingerprint(other) in known
    changes = {
        "the lowest bit of the last number": lambda bits: bits[-1:].bitwise_xor_(1),
        "two signs": lambda bits: bits[:2].bitwise_xor_(torch.iinfo(bits.dtype).min),
        "the order": lambda bits: bits.copy_(bits.flip(0)),
    }
    for name, p in model.named_parameters():
        bits = p.data.view(-1).view({8: torch.int64, 4: torch.int32, 2: torch.int16}[p.itemsize])  # (n,)
        before = bits.clone()
        for what, change in changes.items():
            change(bits)
            if not bits.equal(before):
                assert fingerprint(model) not in known, f"{what} of {name}"
                known.add(fingerprint(model))
            bits.copy_(before)
    assert fingerprint(model) == fingerprint(other)


def test_fingerprints_follow_configuration_dtype_buffers_and_examples():
    one = GPT(CONFIGURATION).initialise(0)
    others = [
        GPT(dataclasses.replace(CONFIGURATION, n_head=2)).initialise(0),
        GPT(CONFIGURATION).initialise(0).double(),
    ]
    others.append(GPT(CONFIGURATION).initialise(0))
    others[-1].register_buffer("shift", torch.ones(3))
    assert len({fingerprint(model) for model in (one, *others)}) == 4
    assert fingerprint(toy_task()) == fingerprint(toy_task()) != fingerprint(toy_task(train=11))


def test_an_identity_follows_the_tokenizer(tmp_path):
    model, task = GPT(CONFIGURATION).initialise(0), toy_task()
    save_fairseq_tokenizer(tmp_path)
    fast, same = load_tokenizer(tmp_path), load_tokenizer(tmp_path)
    first = identity(model, task, fast)
    assert first == identity(model, task, same)
    same.add_tokens(["warm"])
    python = [ByT5Tokenizer(extra_ids=n) for n in (5, 5, 6)]
    found = [identity(model, task, tokenizer)["tokenizer"] for tokenizer in (fast, same, *python)]
    assert found[2] == found[3] and len(set(found)) == 4
    assert json.loads(json.dumps(first)) == first and first["form"] == FORM and first["dtype"] == "float32"
