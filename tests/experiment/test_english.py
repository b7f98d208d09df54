"""The recorded runs with a real GPT: the recipe makes what it says, goes on where it stopped, and is read back."""

import json

import pytest
import torch
from toys import save_checkpoint, script

from iclnb.experiment import run
from iclnb.experiment.descent import descend
from iclnb.experiment.english import recorded
from iclnb.tasks.task import SPECS, TASKS


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for spec in SPECS.values():
        (folder / spec.name).mkdir()
        for split, n in (("train", 30), (spec.evaluation_split, 8)):
            words = [f"a {'warm' if i % 2 else 'cold'} film {split} {i}" for i in range(n)]
            rows = [dict.fromkeys(spec.fields, words[i]) | {"label": i % len(spec.answers)} for i in range(n)]
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (folder / spec.name / f"{split}.jsonl").write_text(text)
    return folder


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """The recipe in miniature, on a random model."""
    recipe = script("english")
    save_checkpoint(tmp_path / "model", positions=512)
    recipe.MODEL, recipe.K, recipe.N, recipe.HELD_OUT = str(tmp_path / "model"), dict.fromkeys(TASKS, 4), 6, 5
    recipe.RATES, recipe.SEEDS = (0.01, 0.1), (1, 2)
    return recipe


def make(recipe, data, tmp_path, command, *more, seeds=1):
    arguments = ["--data", data, "--work", tmp_path / "work", "--out", tmp_path / "out", "--seeds", seeds, *more]
    recipe.main([command, *map(str, arguments)])


def test_the_records_hold_the_experiment(recipe, data, tmp_path):
    make(recipe, data, tmp_path, "compare")
    found = recorded("compare", tmp_path / "out")
    assert list(found) == list(TASKS)
    experiment = recipe.Experiment(data, tmp_path / "other")
    record, task = found["cb"][0], experiment.task("cb")
    ours = run.run_task(
        experiment.model, experiment.tokenizer, task, k=4, seed=1, lr=record["lr"], limit=6, calibrate=True
    )
    assert record["correct"] == ours["correct"]
    assert record["calibrated"]["correct"] == ours["calibrated"]["correct"]
    for name, entry in ours["measures"].items():
        if name != "rec2ftp":
            assert record["measures"][name]["mean"] == pytest.approx(entry["mean"], rel=1e-3, abs=1e-4), name
    held = recorded("rate", tmp_path / "out")["cb"][0]
    assert record["lr"] == held["lr"] and [row["lr"] for row in held["grid"]] == [0.01, 0.1]


def test_controls_and_prompts_are_what_they_are_called(recipe, data, tmp_path):
    make(recipe, data, tmp_path, "controls", seeds=2)
    out = tmp_path / "out"
    assert {len(records) for records in recorded("order", out).values()} == {2}
    assert {len(records) for records in recorded("untrained", out).values()} == {1}
    causal = recorded("layer-causal", out)["sst2"][0]
    experiment = recipe.Experiment(data, tmp_path / "work")
    icl = experiment.encoded(experiment.task("sst2"), 4, 1)
    tuned = descend(experiment.model, [[s] for s in icl.prompt.sequences], causal["lr"], layer_causal=True).model
    assert causal["correct"]["ft"] == experiment._ask(tuned, icl.zero_shot)[0].correct.int().tolist()
    make(recipe, data, tmp_path, "prompts")
    asked = recorded("prompt", out)["sst2"]
    assert {(r["k"], r["written"]) for r in asked} == {(k, f) for k in (1, 4, 16) for f in recipe.FORMATS}
    shown = recorded("example", out)["sst2"][0]
    assert shown["prompt"].count("Label:") == 4 and {shown["gold"], shown["answered"]} <= set(SPECS["sst2"].answers)
    with pytest.raises(ValueError, match="kind is 'nonsense'; recorded are example, labels, layer-causal, order, p"):
        recorded("nonsense", out)


def test_what_is_finished_is_not_computed_again(recipe, data, tmp_path, monkeypatch):
    make(recipe, data, tmp_path, "compare")
    before = (tmp_path / "out" / "compare.json").read_bytes()
    monkeypatch.setattr(recipe, "train_on", None)
    for gone in (tmp_path / "out" / "compare.json", *(tmp_path / "work").iterdir()):  # either of the two will do
        gone.unlink()
        make(recipe, data, tmp_path, "compare")
    assert (tmp_path / "out" / "compare.json").read_bytes() == before


def test_fewer_seeds_lose_no_record(recipe, data, tmp_path):
    make(recipe, data, tmp_path, "prompts", seeds=2)
    file = tmp_path / "out" / "prompts.json"
    before = json.loads(file.read_text())["records"]
    make(recipe, data, tmp_path, "prompts", seeds=1)
    after = json.loads(file.read_text())["records"]
    assert len(after) == len(before) and all(record in after for record in before)


def test_what_is_finished_can_be_written_alone(recipe, data, tmp_path):
    make(recipe, data, tmp_path, "prompts")
    file, (first, *others) = tmp_path / "out" / "prompts.json", sorted((tmp_path / "work").iterdir())
    for gone in (file, *others):
        gone.unlink()
    make(recipe, data, tmp_path, "prompts", "--finished")
    assert json.loads(file.read_text())["records"] == [recipe.rounded(json.loads(first.read_text())["record"])]


def test_the_records_that_come_with_iclnb_are_whole():
    compared = recorded("compare")
    assert list(compared) == list(TASKS)
    for name, records in compared.items():
        for record in records:
            right = torch.tensor(record["correct"]["icl"]).double()
            assert len(right) == record["n"] or name == "cb"
            assert record["accuracy"]["icl"]["mean"] == pytest.approx(100 * right.mean().item(), abs=0.01)
