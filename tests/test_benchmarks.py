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

import gpu  # noqa: E402
import peers  # noqa: E402
from products import Product, Products, Replay, operations  # noqa: E402

SCRIPTS = ("fewshot", "memory", "finetuning", "momentum", "gpu_table")


def run(name, out):
    command = [sys.executable, str(FOLDER / f"{name}.py"), "--quick", "--out", str(out), "--threads", "1"]
    environment = os.environ | {"TQDM_DISABLE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads((out / f"{name}.json").read_text())


@pytest.mark.parametrize("name", SCRIPTS[:-1])  # the last one runs below, as a part of gpu.sh
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
    for file in set((FOLDER / "results").glob("*.json")) - {gpu.RESULT}:
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


# ---------------------------------------------------------------------------------------------------------------------
# What a GPU has to show


def gpu_sh(out, *arguments, **environment):
    """Runs benchmarks/gpu.sh; returns its status, what it said, and its log."""
    command = ["bash", str(FOLDER / "gpu.sh"), *arguments]
    own = {name: value for name, value in os.environ.items() if name != "ICLNB_DATA"}
    environment = own | {"OUT": str(out), "PYTHON": sys.executable} | environment
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    return done.returncode, done.stdout + done.stderr, (out / "gpu.log").read_text()


def test_a_part_that_hangs_or_fails_costs_no_other_and_named_parts_run_alone(tmp_path):
    """With something in Python's place that says what it was asked, fails for the notebooks and hangs for a table."""
    stub = tmp_path / "python"
    stub.write_text(
        '#!/bin/sh\necho "asked: $@"\ncase "$*" in *tools/notebooks.py*) exit 3;; *gpu_table.py*) sleep 60;; esac\n'
    )
    stub.chmod(0o755)
    status, said, log = gpu_sh(tmp_path, PYTHON=str(stub), LIMIT="1")
    ended = {line.split()[1][:-1]: line.split()[3] for line in log.splitlines() if " status " in line}
    assert ended == dict.fromkeys("tests prediction finetuning momentum pretraining".split(), "0") | {
        "notebooks": "3", "table": "124", "experiment": "1",  # no training, no record of one
    }  # fmt: skip
    assert status == 1 and "== table: status 124" in said
    asked = [line.split()[1:] for line in log.splitlines() if line.startswith("asked:")]
    assert all(Path(FOLDER.parent, word).is_file() for words in asked for word in words if word.endswith(".py"))
    (tmp_path / "gpu.log").unlink()
    status, _, log = gpu_sh(tmp_path, "--quick", "momentum", "tests", PYTHON=str(stub), LIMIT="9")
    assert status == 0
    assert [line for line in log.splitlines() if line.startswith("asked")] == [
        "asked: -m pytest -q -n 12 -p no:cacheprovider --ignore tests/test_notebooks.py",
        f"asked: benchmarks/momentum.py --seconds 1 --quick --data .gpu/datasets --out {tmp_path}",
    ]


def test_a_part_runs_and_records_where(tmp_path):
    status, said, log = gpu_sh(tmp_path, "--quick", "table")
    assert status == 0 and "| --- |" in log, said + log
    found = json.loads((tmp_path / "gpu_table.json").read_text())
    assert found["command"] == "python benchmarks/gpu_table.py --quick --data FOLDER --out FOLDER" and found["quick"]
    assert str(tmp_path) not in json.dumps(found), "no path of this machine"
    assert {work.replace("tiny", "1.3B") for work in found["measured"]} - works() == {
        "the whole table, 1.3B, measures included, s"
    }
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("part", gpu.PARTS)
def test_what_a_part_measures_has_a_row_in_the_table(part, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["gpu.py", part, "--quick", "--threads", "1", "--out", str(tmp_path)])
    gpu.main()
    found = json.loads((tmp_path / f"{part}.json").read_text())
    assert found["command"].startswith(f"python benchmarks/gpu.py {part} --quick")
    assert found["measured"] and set(found["measured"]) <= works()


def works():
    return {row["work"] for row in json.loads(gpu.RESULT.read_text())["rows"]}


def test_every_number_of_a_gpu_has_its_card_its_day_and_its_floor():
    found = json.loads(gpu.RESULT.read_text())
    for row in found["rows"]:
        assert list(row)[:2] == ["work", "wanted"] and row.keys() - {"work", "wanted"} <= found["runs"].keys()
    assert gpu.gpu_rows(found) in (FOLDER / "README.md").read_text(), "the README shows another table"


def test_joining_a_run_gives_the_table_a_column(tmp_path, capsys):
    file = tmp_path / "table.json"
    file.write_text(json.dumps({"runs": {}, "rows": [{"work": "copy, TB/s", "wanted": "at least 3"}]}))
    entry = {"quick": False, "machine": {"gpu": "Card"}, "date": "2027-01-01", "versions": {"torch": "9"}}
    (tmp_path / "run").mkdir()
    for name, measured in (("a", {"copy, TB/s": 4.0}), ("b", {"new": 2.0})):
        (tmp_path / "run" / f"{name}.json").write_text(json.dumps(entry | {"measured": measured}))
    gpu.join(tmp_path / "run", file)
    column = "Card, 2027-01-01"
    found = json.loads(file.read_text())
    assert found["runs"] == {column: {"versions": {"torch": "9"}}}
    copy, new = found["rows"]
    assert copy == {"work": "copy, TB/s", "wanted": "at least 3", column: 4.0}
    assert new == {"work": "new", "wanted": None, column: 2.0}
    assert "| copy, TB/s | at least 3 | 4 |" in capsys.readouterr().out
    (tmp_path / "run" / "a.json").write_text(json.dumps(entry | {"quick": True}))
    with pytest.raises(SystemExit, match="a.json is of a --quick run, which measures nothing"):
        gpu.join(tmp_path / "run", file)


def test_the_package_works_where_datasets_is_not_installed():
    """As on a GPU machine that cannot fetch it; the Hub's tasks and streamed texts alone need it."""
    script = """
import sys
sys.modules["datasets"] = None  # an import of it fails
import iclnb, iclnb.__main__, iclnb.labs, iclnb.training.text
model, tokenizer = iclnb.load("pocket-gpt")
print(len(iclnb.few_shot(model, tokenizer, iclnb.load_task("sst2", "sample"), k=4, limit=3).labels))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=FOLDER.parent)
    assert done.stdout == "3\n", done.stderr
