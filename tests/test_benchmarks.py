"""The benchmarks run, say where they ran, and compare like with like."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from toys import save_checkpoint, toy_task

from iclnb import few_shot, load
from iclnb.tasks.prompts import build_prompt, encode_query

FOLDER = Path(__file__).parents[1] / "benchmarks"
sys.path.append(str(FOLDER))

import peers  # noqa: E402
from products import Product, Products, Replay, operations  # noqa: E402

SCRIPTS = ("fewshot", "memory", "finetuning", "momentum", "gpu_table")


def run(name, out):
    command = [sys.executable, str(FOLDER / f"{name}.py"), "--quick", "--out", str(out), "--threads", "1"]
    environment = os.environ | {"TQDM_DISABLE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads((out / f"{name}.json").read_text())


@pytest.mark.parametrize("name", SCRIPTS)
def test_each_script_runs_and_records_where(name, tmp_path):
    printed, found = run(name, tmp_path)
    assert "| --- |" in printed, "it prints a table"
    assert found["quick"] and found["command"] == f"python benchmarks/{name}.py --quick --out FOLDER --threads 1"
    assert found["machine"]["cores"] == os.cpu_count() and found["machine"]["threads"] == 1
    assert found["versions"]["torch"] == torch.__version__
    assert str(tmp_path) not in json.dumps(found), "no path of this machine"
    assert all(budget["met"] for budget in found.get("budgets", [])), "float32: the same predictions by every way"
    assert found.get("same_update", True), "fine-tuning: the same weights as the plain loop"


def test_recorded_results_are_whole_runs():
    for file in (FOLDER / "results").glob("*.json"):
        found = json.loads(file.read_text())
        assert found["quick"] is False and file.stem in SCRIPTS
        assert found["command"].startswith(f"python benchmarks/{file.name.replace('.json', '.py')}")
        assert "/" not in found["command"].removeprefix("python benchmarks/"), "no path of one machine"


def test_peers_give_our_log_probabilities(tmp_path):
    save_checkpoint(tmp_path, positions=512)
    model, tokenizer = load(tmp_path, device="cpu", dtype="float32")
    task, hf = toy_task(evaluation=11), peers.load_xglm(tmp_path, torch.float32)
    prompt = build_prompt(model.config, tokenizer, task, k=5, seed=3)
    queries = [encode_query(tokenizer, example) for example in task.evaluation]
    ours = few_shot(model, tokenizer, task, k=5, seed=3)
    first = [tokenizer.encode(f" {answer}")[0] for answer in task.answers]
    full = peers.full_prompt(hf, prompt.prefix, queries, first)
    cached = peers.repeated_cache(hf, peers.encode_prefix(hf, prompt.prefix), queries, first, batch=4)
    torch.testing.assert_close(cached, full, rtol=1e-5, atol=1e-5)
    if all(len(tokenizer.encode(f" {answer}")) == 1 for answer in task.answers):
        torch.testing.assert_close(ours.log_probs, full, rtol=1e-5, atol=1e-5)
        assert torch.equal(ours.predicted, full.argmax(-1))


def test_products_are_all_that_torch_counts():
    """The limit leaves no product out and adds none: torch's own counter finds as many operations."""
    from torch.utils.flop_counter import FlopCounterMode

    from iclnb.model.gpt import GPT, GPTConfig

    model = GPT(GPTConfig(vocab_size=50, n_layer=2, n_head=2, n_embd=16)).initialise(0)
    ids, prefix = torch.arange(12).view(2, 6), model.encode_prefix(torch.tensor([[1, 2, 9]]))
    with FlopCounterMode(display=False) as counter:  # with gradients: attention's plain form, whose products it counts
        model(ids, prefix)
    with Products(model) as plain:
        model(ids, prefix)
    with torch.no_grad(), Products(model) as fused:
        model(ids, prefix)
    assert operations(fused.done) == operations(plain.done) == counter.get_total_flops() > 0
    weights = [product for product in fused.done if product.weight is not None]
    assert len(weights) == sum(isinstance(module, torch.nn.Linear) for module in model.modules())


def test_replay_runs_the_products_it_is_given(monkeypatch):
    """Their operations, counted again while they run."""
    from torch.utils.flop_counter import FlopCounterMode

    products = [Product(3, 5, 7, 11), Product(1, 4, 8, 6, torch.randn(8, 6)), Product(2, 900, 3, 700)]
    replay = Replay(products, torch.empty(0, dtype=torch.float64).float())
    with FlopCounterMode(display=False) as counter:
        replay(products)
    assert counter.get_total_flops() == operations(products)
