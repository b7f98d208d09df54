"""The fair test of momentum: its recipe in miniature tunes, trains, measures, keeps what is done, and goes on."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from toys import script

from iclnb.language.curriculum import Phase
from iclnb.language.documents import recall, repeats
from iclnb.training.loop import TrainingError, train

TINY = (("n_embd", 16),)


@pytest.fixture
def study(monkeypatch):
    """The recipe, with trainings of a few steps."""
    study = script("momentum", "study.py")
    study.CURRICULUM = (Phase(3, 2, 16, {repeats: 1.0}), Phase(3, 2, 24, {recall: 1.0}))
    study.KINDS = {
        "english": replace(study.KINDS["english"], steps=4, shape=TINY),
        "copying": replace(study.KINDS["copying"], steps=6, shape=TINY, phases=2),
        "tasks": replace(study.KINDS["tasks"], steps=6, shape=TINY, phases=2),
    }
    study.ORDER = tuple((kind, 0, 1) for kind in study.KINDS)
    study.SCORED, study.QUERIES, study.K, study.DRAWS = 3, 3, 2, (1,)
    study.TASKS = ("sst2",)
    return study


@pytest.fixture
def data(tmp_path):
    """A folder of texts."""
    (tmp_path / "text").mkdir()
    lines = [f"{i} bottles of beer on the wall, {i * i} bottles of beer" for i in range(2000)]
    (tmp_path / "text" / "war_and_peace.txt").write_text("\n".join(lines))
    rows = {"mr": {"text": "a film"}, "subj": {"text": "he says"}, "agnews": {"text": "Oil is up"}}
    for task, row in (rows | {"cb": {"premise": "it rains", "hypothesis": "it is wet"}}).items():
        (tmp_path / task).mkdir()
        (tmp_path / task / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for _ in range(300)))
    return tmp_path


def run(study, data, tmp_path, *more):
    (tmp_path / "out").mkdir(exist_ok=True)
    study.main(["--data", str(data), "--work", str(tmp_path / "work"), "--out", str(tmp_path / "out"), *more])
    return {file.stem: json.loads(file.read_text()) for file in (tmp_path / "out").iterdir()}


def only(study, arms, *kinds):
    study.KINDS = {name: replace(study.KINDS[name], arms=arms) for name in kinds}


def test_a_record_holds_what_was_measured_and_is_not_made_twice(study, data, tmp_path, monkeypatch):
    only(study, ("plain", "longer", "gated"), "english")
    found = run(study, data, tmp_path)
    assert set(found) == {"english", "rates"} and set(found["rates"]) == {"english plain", "english gated"}
    rates = found["rates"]["english gated"]
    assert rates["losses"][f"{rates['rate']:g}"] == min(rates["losses"].values()) and len(rates["losses"]) >= 3
    plain, longer, gated = (found["english"][f"{arm} 0"] for arm in ("plain", "longer", "gated"))
    assert (plain["training"]["step"], longer["training"]["step"]) == ([4], [4]) and plain["rate"] == longer["rate"]
    assert gated["parameters"] == plain["parameters"] + 4 * (4 + 4 * 4 + 4)  # eta, gate and its bias, in 4 layers
    kinds = gated["by_kind"].values()
    assert sum(n for _, n in kinds) == 3 * 256
    mean = sum(loss * n for loss, n in kinds if n) / (3 * 256)
    assert abs(mean - gated["loss"]) < 1e-3
    assert plain["ablated"] == {} and set(gated["ablated"]) == {"all", *(f"layer {i}" for i in (1, 2, 3, 4))}
    assert plain["eta"] == plain["kernel"] == [None] * 4 and torch.tensor(gated["eta"]).shape == (4, 4)
    before = {file: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    monkeypatch.setattr(study, "train", None)  # no training is needed any more
    (tmp_path / "work" / "english_gated_0.json").unlink()
    (tmp_path / "out" / "english.json").unlink()  # measured again, of the model that is kept
    run(study, data, tmp_path)
    assert {file: file.read_bytes() for file in (tmp_path / "out").iterdir()} == before
    shutil.rmtree(tmp_path / "work")
    run(study, data, tmp_path)  # the records are enough
    assert {file: file.read_bytes() for file in (tmp_path / "out").iterdir()} == before


def test_the_language_is_measured_with_the_term_and_without(study, data, tmp_path):
    only(study, ("plain", "half", "first", "convolution", "gated"), "copying", "tasks")
    study.KINDS["tasks"] = replace(study.KINDS["tasks"], arms=("half",))
    found = run(study, data, tmp_path)
    plain, half, first = (found["copying"][f"{arm} 0"] for arm in ("plain", "half", "first"))
    assert half["eta"] == [[0.5, 0.5, 0.0, 0.0]] * 4 and first["eta"][1:] == [None] * 3
    assert set(first["ablated"]) == {"all", "layer 1"} and "given" not in half
    assert torch.tensor(found["copying"]["convolution 0"]["kernel"]).shape == (4, 4, 4)  # layers, heads, weights
    assert half["gates"] == [] and torch.tensor(found["copying"]["gated 0"]["gates"]).shape == (4, 4)
    rates = found["rates"]["copying half"]
    assert rates["skills"].keys() == rates["losses"].keys() and set(rates["skills"]["0.003"]) == {"copying", "recall"}
    spaces = ("whole", "without most read", "without least read", "without drawn", "as little")
    assert list(plain["given"]) == [f"{eta}, {space}" for eta in (0.2, 0.3, 0.4) for space in spaces]
    left = [plain["given"][f"0.3, {space}"]["left"] for space in spaces]
    assert left[0] == 1 and left[1] == left[4] and all(0 < share < 1 for share in left[1:])
    tasks = found["tasks"]["half 0"]["tasks"]
    assert set(tasks) == {"sst2"} and all(0 <= n <= 3 for n in tasks["sst2"]["own"] + tasks["sst2"]["arbitrary"])
    assert found["tasks"]["half 0"]["rate"] == found["rates"]["copying half"]["rate"]


def test_the_grid_of_rates_grows_while_the_best_is_at_its_end(study, tmp_path, monkeypatch):
    best = {"plain": 0.0007, "gated": 0.024, "half": 1.0}  # the nearest rate has the lowest loss

    class Fake:
        def __init__(self, arm, rate):
            self.distance = abs(rate - best[arm])

        def loss(self, model):
            return self.distance

    runner = study.Study(None, tmp_path, tmp_path)
    fitted = lambda name, arm, seed, rate, tuning: (None, Fake(arm, rate), [], 0.0)  # noqa: E731
    monkeypatch.setattr(runner, "fitted", fitted)
    assert runner.tune("english", "plain")["rate"] == study.RATES[0]
    assert len(runner.tune("english", "gated")["losses"]) == 3
    assert len(runner.tune("english", "plain")["losses"]) == 7  # from where curves begin
    assert runner.tune("english", "half")["rate"] == study.RATES[-1]


def test_a_training_that_was_stopped_goes_on_and_ends_the_same(study, data, tmp_path, monkeypatch):
    runs = [study.Study(data, tmp_path / name, tmp_path) for name in ("whole", "stopped")]
    monkeypatch.setattr(study, "train", lambda *given, **how: train(*given, **how, checkpoint_every=2))
    whole, *_ = runs[0].fitted("english", "adaptive", 0, 0.003)

    def interrupted(model, data, *given, **how):
        def stop_at(step):
            if step == 3:
                raise KeyboardInterrupt
            return data(step)

        return train(model, stop_at, *given, **how, checkpoint_every=2)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(study, "train", interrupted)
        runs[1].fitted("english", "adaptive", 0, 0.003)
    resumed, *_ = runs[1].fitted("english", "adaptive", 0, 0.003)
    assert all(torch.equal(p, q) for p, q in zip(whole.parameters(), resumed.parameters(), strict=True))
    assert sorted(file.name for file in (tmp_path / "stopped").iterdir()) == ["english_adaptive_0_0.003.pt", "text.txt"]


def test_every_arm_starts_from_the_same_weights_and_reads_the_same_rows(study, data, tmp_path, monkeypatch):
    seen = {}

    def look(model, data, *given, **how):
        weights = {name: p.clone() for name, p in model.named_parameters() if ".momentum." not in name}
        seen[how["identity"]["arm"]] = (weights, data(0)[0])
        return [{"step": 0}]

    monkeypatch.setattr(study, "train", look)
    runner = study.Study(data, tmp_path / "work", tmp_path)
    for arm in study.ARMS:
        runner.fitted("english", arm, 1, 0.003)
    weights, rows = seen["plain"]
    for others, same in seen.values():
        assert torch.equal(rows, same) and weights.keys() == others.keys()
        assert all(torch.equal(w, others[name]) for name, w in weights.items())


def test_the_text_holds_every_source_in_every_part(study, data):
    text = study.mixed_text(data)
    assert text.count("he says") == text.count("Oil is up") == 300 and text.count("it rains it is wet") == 300
    halves = text[: len(text) // 2], text[len(text) // 2 :]
    assert all("bottles" in half for half in halves)
    lines = list(study.in_pieces(["word " * 2000]))
    assert all(len(line) <= study.PIECE + 5 for line in lines) and " ".join(lines).split() == ["word"] * 2000


@pytest.mark.parametrize("arguments", [["--kinds", "english,none"], ["--arms", "plain,none"], ["--kinds", "english"]])
def test_what_is_wrong_is_said_before_any_work(arguments, study, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ICLNB_DATA", "")
    with pytest.raises(SystemExit):
        study.main([*arguments, "--work", str(tmp_path / "work")])
    assert "argument --" in capsys.readouterr().err and not (tmp_path / "work").exists()


def test_a_training_of_another_text_is_not_gone_on_with(study, data, tmp_path, monkeypatch):
    def interrupted(*given, **how):
        train(*given, **how, checkpoint_every=1)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(study, "train", interrupted)
        study.Study(data, tmp_path / "work", tmp_path).fitted("english", "plain", 0, 0.003)
    file = tmp_path / "work" / "text.txt"
    file.write_text(file.read_text().replace("bottles of beer", "glasses of milk"))
    with pytest.raises(TrainingError, match="is of another run: its data is"):
        study.Study(data, tmp_path / "work", tmp_path).fitted("english", "plain", 0, 0.003)
