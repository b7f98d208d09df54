"""The stored comparison: it trains what it says, keeps what is done, and goes on where it was stopped."""

import json

import pytest

from iclnb import study
from iclnb.corpus import Phase, repeats
from iclnb.training import train


@pytest.fixture
def small(monkeypatch, tmp_path):
    monkeypatch.setattr(study, "PHASES", (Phase(4, 2, 16, {repeats: 1.0}),))
    monkeypatch.setattr(study, "ENGLISH_STEPS", 4)
    monkeypatch.setattr(study, "CONTEXTS", {study.LANGUAGE: (8, 16), study.ENGLISH: (8, 16)})
    monkeypatch.setattr(study, "QUERIES", 3)
    monkeypatch.setattr(study, "K", 2)
    monkeypatch.setattr(study, "HELD_OUT_ROWS", 3)
    monkeypatch.setattr(study, "Measurement", lambda tokenizer: lambda model: {"copying": 0.5})
    text = tmp_path / "text.txt"
    text.write_text("\n".join(f"{i} bottles of beer on the wall, {i * i} bottles of beer" for i in range(600)))
    return text


def test_a_record_holds_what_was_measured_and_is_not_made_twice(small, tmp_path, monkeypatch):
    monkeypatch.setattr(study, "MAIN", {study.LANGUAGE: ("learned",), study.ENGLISH: ("plain", "longer")})
    monkeypatch.setattr(study, "ONCE", {study.LANGUAGE: (), study.ENGLISH: ("learned-long",)})
    out = tmp_path / "records"
    study.main(["--out", str(out), "--text", str(small), "--seeds", "1"])
    records = study.stored(out)
    assert set(records) == {("language", "learned", 0)} | {
        ("english", arm, 0) for arm in ("plain", "longer", "learned-long")
    }
    language = records["language", "learned", 0]
    plain, long = (records["english", arm, 0] for arm in ("plain", "learned-long"))
    assert plain["training"]["step"] == [4] and long["training"]["step"] == [16]
    assert set(language["accuracy"]["cb"]) == {"zero-shot", "in context", "arbitrary", "queries"}
    assert all(0 <= count <= 3 for count in language["accuracy"]["cb"].values())
    assert [len(layer) for layer in language["eta"]] == [4] * 4 and plain["eta"] == []
    entry = plain["perplexity"]["16"]
    assert 1 < entry["low"] < entry["value"] < entry["high"]
    assert plain["by_position"]["last"] == [1, 2, 4, 8, 16]
    assert sorted(path.name for path in out.iterdir()) == sorted(f"{'_'.join(map(str, key))}.json" for key in records)
    before = {path: path.read_bytes() for path in out.iterdir()}
    (out / "english_plain_0.json").unlink()
    study.main(["--out", str(out), "--text", str(small), "--seeds", "1"])
    assert {path: path.read_bytes() for path in out.iterdir()} == before


def test_a_stopped_study_goes_on_and_ends_the_same(small, tmp_path, monkeypatch):
    monkeypatch.setattr(study, "MAIN", {study.LANGUAGE: (), study.ENGLISH: ("learned",)})
    monkeypatch.setattr(study, "ONCE", {study.ENGLISH: ()})
    calls = ["--only", "english", "--text", str(small), "--seeds", "1", "--out"]
    study.main([*calls, str(tmp_path / "whole")])

    def interrupted(model, batches, schedule, **options):
        def stop_at(step):
            if step == 3:
                raise KeyboardInterrupt
            return batches(step)

        return train(model, stop_at, schedule, **options | {"checkpoint_every": 2})

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(study, "train", interrupted)
        study.main([*calls, str(tmp_path / "stopped")])
    assert (tmp_path / "stopped" / "english_learned_0.training" / "checkpoint.pt").exists()
    study.main([*calls, str(tmp_path / "stopped")])
    whole, stopped = (
        json.loads((tmp_path / name / "english_learned_0.json").read_text()) for name in ("whole", "stopped")
    )
    assert whole == stopped


def test_every_main_arm_has_every_seed_and_the_others_one():
    for kind in (study.LANGUAGE, study.ENGLISH):
        arms = study.settings(kind, seeds=3)
        assert len(arms) == len(set(arms)) and {arm for arm, _ in arms} <= set(study.ARMS)
        for name in study.MAIN[kind] + study.ONCE[kind]:
            assert [seed for arm, seed in arms if arm == name] == ([0, 1, 2] if name in study.MAIN[kind] else [0])
