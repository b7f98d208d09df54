"""The stored comparison: its recipe trains what it says, keeps what is done, and goes on where it was stopped."""

import json

import pytest
import torch
from toys import script

from iclnb.experiment.results import stored
from iclnb.language.curriculum import Phase
from iclnb.language.documents import repeats
from iclnb.language.questions import answering, translation
from iclnb.training import pretrain
from iclnb.training.loop import TrainingError, train


@pytest.fixture
def recipe(monkeypatch):
    """The recipe in miniature."""
    recipe = script("momentum")
    recipe.PHASES = (Phase(4, 2, 16, {repeats: 1.0}),)
    recipe.HARDER = (Phase(4, 2, 24, {translation: 0.5, answering: 0.5}),)
    recipe.CONTEXTS = (8, 16)
    recipe.QUERIES, recipe.K, recipe.HELD_OUT_ROWS = 3, 2, 3
    shape = recipe.make_config
    recipe.make_config = lambda tokenizer, **more: shape(tokenizer, n_layer=2, n_head=2, n_embd=16, **more)
    monkeypatch.setattr(pretrain, "Measurement", lambda tokenizer: lambda model: {"copying": 0.5})
    monkeypatch.setattr("iclnb.training.measure.HELD_OUT", {"rows": 2, "length": 60})
    return recipe


def test_a_record_holds_what_was_measured_and_is_not_made_twice(recipe, tmp_path):
    command = ["language", "--out", str(tmp_path), "--seeds", "1", "--arms", "learned,plain"]
    recipe.main(command)
    records = stored("language", folder=tmp_path)
    assert set(records) == {("learned", 0), ("plain", 0)}
    learned, plain = records["learned", 0], records["plain", 0]
    assert plain["training"]["step"] == [4]
    assert set(learned["accuracy"]["cb"]) == {"zero-shot", "in context", "arbitrary", "queries"}
    assert all(0 <= count <= 3 for count in learned["accuracy"]["cb"].values())
    assert [len(layer) for layer in learned["eta"]] == [2] * 2 and plain["eta"] == []
    entry = plain["perplexity"]["16"]
    assert 1 < entry["low"] < entry["value"] < entry["high"]
    assert plain["by_position"]["last"] == [1, 2, 4, 8, 16]
    assert [path.name for path in tmp_path.iterdir()] == ["language.json"]
    file = tmp_path / "language.json"
    before, kept = file.read_bytes(), json.loads(file.read_text())
    file.write_text(json.dumps({"plain 0": kept["plain 0"]}))
    recipe.main(command)
    assert file.read_bytes() == before
    file.write_text(json.dumps({"plain 0": {"kept": True}, "learned 0": {}}))
    recipe.main(command)
    assert stored("language", folder=tmp_path)["plain", 0] == {"kept": True}


def test_harder_goes_on_with_models_of_the_language_and_keeps_what_is_there(recipe, tmp_path):
    command = ["harder", "--out", str(tmp_path), "--models", str(tmp_path / "models"), "--seeds", "1"]
    shape = {"n_layer": 2, "n_head": 2, "n_embd": 16}
    recipe.ARMS = {arm: shape | momentum for arm, momentum in recipe.ARMS.items()}
    recipe.main([*command, "--arms", "plain,learned,given"])
    found = stored("harder", folder=tmp_path)
    assert set(found) == {(arm, 0) for arm in ("plain", "learned", "given")}
    learned, given, plain = (found[arm, 0] for arm in ("learned", "given", "plain"))
    assert learned["training"]["step"] == [0, 4] and learned["training"]["loss"][0] is None
    assert torch.tensor(learned["eta"]["after"]).shape == (2, 2) and plain["eta"]["after"] == []
    assert given["eta"]["before"] == [[0.1, 0.1]] * 2 and given["training"]["words"][0] == plain["training"]["words"][0]
    right, n = learned["counts"]["words"]
    assert learned["training"]["words"][-1] == recipe.rounded(right / n)
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == ["learned-0", "plain-0"]


@pytest.fixture
def stopped(recipe, monkeypatch):
    """Runs a kind in two folders, in one without a stop and in the other up to step 3; returns the command and both."""

    def run(kind, tmp_path):
        model = recipe.GPT(recipe.make_config(pretrain.build_tokenizer(), momentum=0.5, learn_momentum=True))
        recipe.first_model = lambda arm, seed, models: model.initialise(seed)
        command = [kind, "--seeds", "1", "--arms", "learned", "--out"]
        recipe.main([*command, str(tmp_path / "whole")])

        def interrupted(model, batches, schedule, **options):
            def stop_at(step):
                if step == 3:
                    raise KeyboardInterrupt
                return batches(step)

            return train(model, stop_at, schedule, **options | {"checkpoint_every": 2})

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(recipe, "train", interrupted)
            recipe.main([*command, str(tmp_path / "stopped")])
        assert len(list((tmp_path / "stopped").glob(f"{kind}*.training/checkpoint.pt"))) == 1
        return [*command, str(tmp_path / "stopped")]

    return run


@pytest.mark.parametrize("kind", ["language", "harder"])
def test_a_stopped_training_goes_on_and_ends_the_same(kind, recipe, stopped, tmp_path, monkeypatch):
    command, steps = stopped(kind, tmp_path), []

    def counted(model, batches, schedule, **options):
        return train(model, lambda step: steps.append(step) or batches(step), schedule, **options)

    monkeypatch.setattr(recipe, "train", counted)
    recipe.main(command)
    assert steps == [2, 3], "the first two steps are not taken again"
    whole, stopped = (stored(kind, folder=tmp_path / name) for name in ("whole", "stopped"))
    assert whole == stopped and len(whole) == 1
    assert [path.suffix for path in (tmp_path / "stopped").iterdir()] == [".json"]


def test_a_stopped_training_does_not_go_on_with_another_model(recipe, stopped, tmp_path):
    command = stopped("harder", tmp_path)
    first = recipe.first_model
    recipe.first_model = lambda arm, seed, models: first(arm, seed + 1, models)
    with pytest.raises(TrainingError, match="is of another run: its weights is"):
        recipe.main(command)


@pytest.mark.parametrize(
    "wrong, message",
    [
        (["harder", "--arms", "plain,nesterov"], "unknown is nesterov; known are plain, learned"),
        (["language", "--arms", "given"], "unknown is given"),
    ],
)
def test_bad_input_is_refused(recipe, wrong, message, tmp_path, capsys):
    with pytest.raises(SystemExit):
        recipe.main([*wrong, "--out", str(tmp_path)])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [["a", "--only", "d7"], ["e", "--only", "d5"]])
def test_the_labs_refuse_an_unknown_model(wrong, tmp_path, capsys):
    with pytest.raises(SystemExit):
        script("labs").main([*wrong, "--out", str(tmp_path)])
    assert "is not one of" in capsys.readouterr().err


def test_the_labs_make_regressors(tmp_path, monkeypatch):
    recipes = script("labs")
    tiny = recipes.regression.Recipe(d=1, N=4, n_layer=1, n_embd=16, steps=2, B=4)
    monkeypatch.setitem(recipes.regression.RECIPES, "a", {"tiny": tiny})
    recipes.main(["a", "--out", str(tmp_path)])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny.csv", "tiny.safetensors"]
    assert recipes.regression.load(tmp_path / "tiny.safetensors")[1] == tiny
    assert (tmp_path / "tiny.csv").read_text().startswith("step,active,points,loss\n2,1,4,")


def test_the_labs_make_layers(tmp_path, monkeypatch):
    recipes = script("labs")
    monkeypatch.setattr(
        recipes.constructed_descent, "RECIPES", {"tiny": {"K": 1, "N": 3, "d": 2, "steps": 2, "seed": 0}}
    )
    recipes.main(["b", "--out", str(tmp_path)])
    assert recipes.constructed_descent.load_layers(tmp_path / "layers-tiny.safetensors")[1]["steps"] == 2
