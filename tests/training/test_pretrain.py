"""Pretraining: pocket-gpt and text models are trained, killed, resumed and written; what the shipped model can do."""

import hashlib
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from iclnb.experiment.predict import few_shot, zero_shot
from iclnb.language.tokenizer import build_tokenizer
from iclnb.model.checkpoints import load
from iclnb.paths import data_folder
from iclnb.tasks.task import TASKS, load_task
from iclnb.tasks.variants import with_arbitrary_answers
from iclnb.training import pretrain
from iclnb.training.loop import TrainingError

ROOT = Path(__file__).parents[2]
POCKET = data_folder() / "pocket-gpt"


def test_killed_and_resumed_pocket_training_gives_the_same_files(tmp_path):
    code = (
        "import sys, torch; from pathlib import Path; from iclnb.training import pretrain; torch.set_num_threads(1)\n"
        "pretrain.Measurement = lambda tokenizer: lambda model: {}\n"
        "pretrain.CHECKPOINT_EVERY = 2\n"
        "data, tiny = pretrain.Language(), {'n_layer': 1, 'n_embd': 16, 'n_head': 2}\n"
        "data.steps = pretrain.steps_of(12 * 3840, data)\n"
        "pretrain.pretrain(Path(sys.argv[1]), data, resume=True, progress=False, **tiny)\n"
    )
    command = [sys.executable, "-c", code]
    subprocess.run([*command, tmp_path / "whole"], cwd=ROOT, check=True)
    process = subprocess.Popen([*command, tmp_path / "killed"], cwd=ROOT)
    checkpoint = tmp_path / "killed.training" / "checkpoint.pt"
    while not checkpoint.exists() and process.poll() is None:
        time.sleep(0.005)
    time.sleep(random.random() * 0.3)
    process.send_signal(signal.SIGKILL)
    process.wait()
    checkpoint.parent.mkdir(exist_ok=True)
    (checkpoint.parent / "checkpoint.pt.1.part").write_bytes(b"half")  # as a kill in the middle of a write leaves it
    subprocess.run([*command, tmp_path / "killed"], cwd=ROOT, check=True)
    for name in ("model.safetensors", "config.json", "training.csv"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not checkpoint.parent.exists()


def test_an_unfinished_training_is_not_overwritten(tmp_path):
    (tmp_path / "model.training").mkdir()
    (tmp_path / "model.training" / "checkpoint.pt").write_bytes(b"")
    with pytest.raises(TrainingError, match="holds an unfinished training; continue it with --resume"):
        pretrain.pretrain(tmp_path / "model", pretrain.Language())


def test_tokens_become_whole_steps():
    language = pretrain.Language()
    assert [pretrain.steps_of(tokens, language) for tokens in (16_640_000, 2 * 16_640_000, 1)] == [8150, 16300, 1]


def test_separators_stay_tokens_whatever_the_tokenizer_is_used_for_meanwhile():
    language = pretrain.Language()
    language.tokenizer("</s>", split_special_tokens=True)
    (inputs, targets, _), (expected, _, _) = language(3000), pretrain.Language()(3000)
    assert inputs.equal(expected) and inputs[:, 0].eq(0).all() and targets.eq(1).any()


def test_a_training_without_a_length_is_refused(tmp_path):
    data = pretrain.Language()
    data.steps = 0
    with pytest.raises(TrainingError, match="steps is 0; a training has at least 1"):
        pretrain.pretrain(tmp_path / "model", data)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("found, asked, expected", [(True, None, True), (False, None, False), (False, False, False)])
def test_a_gpu_compiles_unless_told_not_to_or_without_a_compiler(found, asked, expected, monkeypatch):
    monkeypatch.setattr(pretrain.shutil, "which", lambda name: name if found else None)
    assert pretrain.to_compile(asked, "cuda") is expected and pretrain.to_compile(asked, "cpu") is False


# ------------------------------------------------------------------------------------------------- the shipped model


@pytest.fixture(scope="module")
def pocket():
    return load("pocket-gpt", device="cpu")


def test_the_card_names_the_shipped_weights():
    weights = POCKET / "model.safetensors"
    assert weights.stat().st_size <= 10e6
    assert hashlib.sha256(weights.read_bytes()).hexdigest() in (POCKET / "README.md").read_text()


def test_transformers_loads_it_and_gives_the_same_logits(pocket):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, tokenizer = pocket
    theirs = AutoModelForCausalLM.from_pretrained(POCKET).eval()
    text = "Sentence: the loan was superb Label: dax</s>a word in bytes: Zürich"
    ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]  # (1, T)
    with torch.no_grad():
        torch.testing.assert_close(model(ids).float(), theirs(ids).logits, rtol=1e-4, atol=1e-4)
    assert AutoTokenizer.from_pretrained(POCKET).decode(ids[0]) == text
    assert build_tokenizer().get_vocab() == tokenizer.get_vocab()


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("arbitrary", [False, True], ids=["own answers", "arbitrary answers"])
def test_it_learns_in_context(pocket, name, arbitrary):
    task = load_task(name, "sample")
    task = with_arbitrary_answers(task) if arbitrary else task
    without = zero_shot(*pocket, task, limit=150).accuracy
    with_demonstrations = few_shot(*pocket, task, 32, seed=1, limit=150).accuracy
    assert with_demonstrations > without + 0.15
    assert with_demonstrations > 0.7
