"""The bench gives what a hand-made comparison gives, stores it, and knows what a likeness could be at most."""

import pytest
from toys import save_checkpoint, toy_task

import iclnb
from iclnb.experiment import compare
from iclnb.experiment.bench import IF_FT, Bench, moved
from iclnb.experiment.controls import random_update, untrained
from iclnb.experiment.descent import FineTuned
from iclnb.experiment.results import Results


@pytest.fixture
def bench(tmp_path):
    save_checkpoint(tmp_path / "model", positions=512)
    model, tokenizer = iclnb.load(tmp_path / "model", device="cpu", dtype="float32")
    tasks = {"sst2": toy_task(train=40)}
    return Bench(model, tokenizer, tasks, ("sst2",), (1, 2), 4, 8, (0.01, 0.1), Results(tmp_path / "results"))


def test_a_trial_holds_training_against_icl_run_by_run(bench):
    found = bench.trial("fine-tuning", bench.fine_tune)
    assert list(found.index) == [("sst2", 1), ("sst2", 2)] and set(found["learnt"]) <= {
        "above",
        "not told apart",
        "below",
    }
    task, lr = bench.tasks["sst2"], bench.lr("sst2", 2)
    zsl = iclnb.zero_shot(bench.model, bench.tokenizer, task, limit=8, record=True)
    icl = iclnb.few_shot(bench.model, bench.tokenizer, task, 4, 2, limit=8, record=True)
    student = iclnb.finetune_attention(bench.model, bench.tokenizer, task, 4, 2, lr)
    ft = iclnb.zero_shot(student, bench.tokenizer, task, limit=8, record=True)
    row = found.loc["sst2", 2]
    assert row["ICL"] == 100 * icl.accuracy and row["FT"] == 100 * ft.accuracy and lr in (0.01, 0.1)
    expected = compare.sim_aou(zsl.internals, ft.internals, icl.internals, "projected").mean().item()
    assert row["projected"] == pytest.approx(expected) and -1 <= row["Kendall"] <= 1


def test_the_ceiling_is_what_icl_would_score_if_it_were_fine_tuning(bench):
    found = bench.trial("fine-tuning", bench.fine_tune)
    for measure in ("SimAOU", "unnormalised", "projected"):
        assert found[IF_FT + measure].tolist() == pytest.approx([1, 1])
    still = bench.trial("nothing", lambda first, name, draw: FineTuned(first, []))
    assert still[IF_FT + "projected"].tolist() == still["moved"].tolist() == [0, 0] and "Kendall" not in still


def test_a_student_is_moved_as_far_as_fine_tuning_moves_the_model(bench):
    noise = random_update(bench.model, bench.tuned("sst2", 1).model, seed=3, scale=4.0)
    found = bench.move_as_far(bench.model, noise, "sst2", 1).model
    zsl, ft, _ = (run.internals for run in bench.asked("sst2", 1))
    there = bench.answer(found, "sst2").internals
    assert moved(zsl, there) == pytest.approx(moved(zsl, ft), rel=0.05)


def test_records_are_found_again_and_another_start_has_no_ceiling(bench, monkeypatch):
    first = bench.trial("fine-tuning", bench.fine_tune)
    again = bench.trial("fine-tuning", lambda *run: pytest.fail("trained again"))
    assert first.equals(again)
    blank = bench.trial("all random", bench.fine_tune, lambda draw: untrained(bench.model, draw))
    assert IF_FT + "projected" not in blank and not first["projected"].equals(blank["projected"])


def test_a_training_that_diverges_leaves_its_numbers_out(bench):
    found = bench.trial("far too fast", lambda first, name, draw: bench_diverges(bench, first, name, draw))
    assert found.empty or found.isna().all(axis=None)


def bench_diverges(bench, first, name, draw):
    from iclnb.experiment.finetune import train_on

    return train_on(first, bench.sequences(name, draw), 1e30)
