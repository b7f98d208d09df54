"""The experiment on one task: the same numbers streamed as at once, and honest choices of the learning rate."""

import pytest
from toys import save_checkpoint, toy_task

import iclnb
from iclnb.experiment import run
from iclnb.experiment.descent import DivergedError
from iclnb.experiment.finetune import finetune
from iclnb.experiment.run import best_rate, held_out, measures, rate_grid, run_task
from iclnb.tasks.prompts import CONTENT_FREE
from iclnb.tasks.task import TASKS


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    save_checkpoint(folder, positions=512)
    return iclnb.load(folder, device="cpu", dtype="float32")


@pytest.mark.parametrize("batch_size", [1, 4, 50])
def test_streamed_measures_equal_those_of_whole_recorded_runs(batch_size, setting):
    model, tokenizer = setting
    task = toy_task(train=20, evaluation=107)  # more than the 100 that Kendall looks at
    record = run_task(model, tokenizer, task, k=5, seed=2, lr=0.05, batch_size=batch_size)
    zsl = iclnb.zero_shot(model, tokenizer, task, record=True)
    icl = iclnb.few_shot(model, tokenizer, task, 5, 2, record=True)
    tuned = finetune(model, tokenizer, task, 5, 2, 0.05, record=True)
    ft = iclnb.zero_shot(tuned.model, tokenizer, task, record=True)
    expected = measures(zsl, ft, icl, tuned.queries)
    assert record["measures"].keys() == expected.keys()
    for name, entry in expected.items():
        for key, value in (entry | entry.pop("above", {})).items():
            found = record["measures"][name]
            found = found["above"][key] if isinstance(value, dict) else found[key]
            assert found == (value if value is None else pytest.approx(value, rel=1e-3, abs=1e-4)), (name, key)
    for name, found in (("zsl", zsl), ("ft", ft), ("icl", icl)):
        assert record["accuracy"][name]["mean"] == pytest.approx(100 * found.accuracy)
    assert record["k_used"] == 5 and record["n"] == 107


def test_streaming_holds_one_batch_of_internals(setting, monkeypatch):
    model, tokenizer = setting
    sizes = []
    whole = run.measures_with_floors
    monkeypatch.setattr(run, "measures_with_floors", lambda z, *rest: sizes.append(len(z.output)) or whole(z, *rest))
    run_task(model, tokenizer, toy_task(evaluation=20), k=3, lr=0.01, batch_size=6)
    assert sizes == [6, 6, 6, 2]


def test_held_out_examples_are_no_demonstrations_and_no_queries(setting):
    task = toy_task(train=30)
    judge = held_out(task, k=8, seed=3, limit=10)
    assert len(judge.evaluation) == 10
    assert not set(judge.evaluation) & set(task.evaluation)
    assert list(judge.evaluation) == task.demonstrations(18, 3)[8:]


def test_rates_are_judged_on_held_out_examples_and_divergence_is_marked(setting):
    model, tokenizer = setting
    task = toy_task(train=30)
    grid = rate_grid(model, tokenizer, task, 4, 1, rates=(0.01, 1e30))
    student = iclnb.finetune_attention(model, tokenizer, task, 4, 1, 0.01)
    expected = iclnb.zero_shot(student, tokenizer, held_out(task, 4, 1)).accuracy
    assert grid == [{"lr": 0.01, "accuracy": expected}, {"lr": 1e30, "accuracy": None}]
    on_test = rate_grid(model, tokenizer, task, 4, 1, rates=(0.01,), on="evaluation", limit=None)
    assert on_test[0]["accuracy"] == iclnb.zero_shot(student, tokenizer, task).accuracy


def test_a_split_that_is_none_is_refused_and_not_taken_for_the_test_split(setting):
    with pytest.raises(ValueError, match="on is 'heldout'; accepted are 'held-out', 'evaluation'"):
        rate_grid(*setting, toy_task(train=30), 4, 1, on="heldout")


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"position": "last"}, "position is 'last'"),
        ({"limit": 0}, "limit is 0"),
        ({"k": 0}, "k is 0; comparing"),
        ({"k": 12}, "k is 12, which leaves none of the 12 training examples"),
        ({"lr": 0}, "lr is 0"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_trained(wrong, message, setting, monkeypatch):
    monkeypatch.setattr(run, "train_on", lambda *a, **k: pytest.fail("training began"))
    with pytest.raises(ValueError, match=message):
        run_task(*setting, toy_task(), **{"k": 3} | wrong)
    if wrong.keys() <= {"batch_size", "limit"} or wrong == {"k": 12}:
        with pytest.raises(ValueError, match=message):
            rate_grid(*setting, toy_task(), **{"k": 3, "seed": 1} | wrong)


def test_a_task_is_encoded_once(setting):
    model, tokenizer = setting
    task, texts = toy_task(train=30, evaluation=20), []

    class Counting:
        def __len__(self):
            return len(tokenizer)

        def __getattr__(self, name):
            return getattr(tokenizer, name)

        def __call__(self, some, **options):
            texts.extend([some] if isinstance(some, str) else some)
            return tokenizer(some, **options)

    run_task(model, Counting(), task, k=5, lr=0.05)
    shown = [f"{example.text} {task.answers[example.label]}" for example in task.demonstrations(5, 1)]
    assert [texts.count(text) for text in [*shown, *(example.text for example in task.evaluation)]] == [1] * 25
    assert len(texts) == 25 + len(task.answers) + len(CONTENT_FREE)


def test_one_class_may_be_missing_among_the_demonstrations(setting):
    model, tokenizer = setting
    task = toy_task(train=12, name="sst5")
    assert len({example.label for example in task.demonstrations(2, 1)}) < len(task.answers) == 5
    record = run_task(model, tokenizer, task, k=2, lr=0.05, limit=5)
    assert record["k_used"] == 2 and all(0 <= entry["mean"] <= 100 for entry in record["accuracy"].values())


def test_where_fine_tuning_corrects_nothing_the_record_says_that_rec2ftp_is_undefined(setting):
    model, tokenizer = setting
    record = run_task(model, tokenizer, toy_task(), k=3, lr=1e-9, limit=5)  # too small a rate to change a prediction
    assert record["measures"]["rec2ftp"] == {"mean": None, "both": 0, "total": 0}


def test_the_best_rate_is_the_smallest_of_equals():
    grid = [{"lr": lr, "accuracy": a} for lr, a in ((0.1, 0.5), (0.2, 0.7), (0.4, 0.7), (0.8, None))]
    assert best_rate(grid) == 0.2
    with pytest.raises(DivergedError, match=r"every learning rate of \[0.8\]"):
        best_rate(grid[3:])


def test_published_seeds_and_rates_are_used_unless_a_seed_is_given():
    task = toy_task(name="cb")
    assert run.resolve_seed_and_rate(task, None, "published") == (3, 0.08)
    assert run.resolve_seed_and_rate(task, 7, "published") == (7, 0.08)
    with pytest.raises(ValueError, match="lr is 'best'"):
        run.resolve_seed_and_rate(task, None, "best")


@pytest.mark.parametrize("name", TASKS)
def test_real_sentences_go_through_the_whole_experiment(name, iclnb_data):
    """pocket-gpt reads them in bytes; k is what fits beside the longest one."""
    model, tokenizer = iclnb.load("pocket-gpt")
    record = run_task(model, tokenizer, iclnb.load_task(name, iclnb_data), k=2, lr=0.01, limit=4)
    assert record["n"] == 4 and 1 <= record["k_used"] <= 2
    assert all(0 <= entry["mean"] <= 100 for entry in record["accuracy"].values())
    assert all(abs(entry["mean"]) <= 1 for key, entry in record["measures"].items() if key != "rec2ftp")
