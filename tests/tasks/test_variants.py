"""Tasks in other forms: what changes, and that nothing else does; calibration, against a bias that is known."""

from collections import Counter

import pytest
import torch
from toys import toy_task

import iclnb
from iclnb.experiment.predict import few_shot
from iclnb.tasks.prompts import build_prompt
from iclnb.tasks.task import TaskError
from iclnb.tasks.variants import (
    CONTENT_FREE,
    balanced,
    content_free,
    contextual,
    frozen,
    partly_right,
    permuted,
    random_labels,
    relabelled,
    with_arbitrary_answers,
)


@pytest.fixture
def task():
    return toy_task(train=40, name="agnews")


def test_frozen_shows_the_same_demonstrations_in_other_orders(task):
    orders = [frozen(task, 6, seed=3).demonstrations(6, seed) for seed in range(5)]
    assert {frozenset(order) for order in orders} == {frozenset(task.demonstrations(6, 3))}
    assert len(set(map(tuple, orders))) > 1


@pytest.mark.parametrize("k", [0, 3, 8, 10])
def test_balanced_takes_the_first_of_each_class(task, k):
    chosen = balanced(task, k, seed=2).demonstrations(k, seed=9)
    counts = Counter(example.label for example in chosen)
    assert len(chosen) == k and max(counts.values(), default=0) - min(counts[y] for y in range(4)) <= 1
    order = task.demonstrations(40, 2)
    for y in range(4):
        mine = [example for example in order if example.label == y]
        assert {example for example in chosen if example.label == y} == set(mine[: counts[y]])


def test_balanced_says_which_class_is_too_small(task):
    with pytest.raises(TaskError, match="k is 41, which needs 11 examples of 'World'; task agnews has 10"):
        balanced(task, 41, seed=1)
    with pytest.raises(TaskError, match="k is -1"):
        balanced(task, -1, seed=1)


def test_relabelled_changes_the_first_demonstrations_of_one_order(task):
    before = task.demonstrations(40, seed=7)
    after = relabelled(task, [3, 3, 0], seed=7)
    assert [example.label for example in after.demonstrations(3, seed=7)] == [3, 3, 0]
    assert [example.text for example in after.demonstrations(40, seed=7)] == [example.text for example in before]
    assert after.demonstrations(40, seed=7)[3:] == before[3:]
    assert relabelled(task, [example.label for example in before], seed=7) == task == relabelled(task, [], seed=7)
    with pytest.raises(ValueError, match="labels holds 4; task agnews has labels 0 to 3"):
        relabelled(task, [0, 4], seed=7)
    with pytest.raises(TaskError, match="labels holds 41; task agnews has 40"):
        relabelled(task, [0] * 41, seed=7)


def test_permuted_maps_every_label_and_nothing_else(task):
    there = permuted(task, [1, 2, 3, 0])
    assert [(old.text, (old.label + 1) % 4) for old in task.train] == list(there.train)
    assert there.evaluation == task.evaluation
    assert permuted(there, [3, 0, 1, 2]) == task
    for wrong in ([0, 1, 2], [0, 1, 2, 2]):
        with pytest.raises(ValueError, match="permutation is"):
            permuted(task, wrong)


def test_random_labels_keep_texts_and_forget_gold(task):
    many = toy_task(train=4000, name="agnews")
    drawn = random_labels(many, seed=1)
    assert [example.text for example in drawn.train] == [example.text for example in many.train]
    assert drawn == random_labels(many, seed=1) and drawn != random_labels(many, seed=2)
    kept = sum(old.label == new.label for old, new in zip(many.train, drawn.train, strict=True))
    assert 900 < kept < 1100  # one in four by chance: 1000, standard deviation 27
    assert min(Counter(example.label for example in drawn.train).values()) > 880


def test_arbitrary_answers_change_the_words_and_nothing_else(task):
    there = with_arbitrary_answers(task)
    assert len(set(there.answers)) == len(task.answers) and not set(there.answers) & set(task.answers)
    assert (there.train, there.evaluation) == (task.train, task.evaluation)


# ---------------------------------------------------------------------------------------------------------------------
# Calibration


def test_an_input_without_content_comes_out_even():
    bias = torch.randn(1, 5, dtype=torch.float64) * 3
    torch.testing.assert_close(contextual(bias, bias), torch.full((1, 5), 0.2, dtype=torch.float64))


def test_it_removes_a_bias_that_multiplies_probabilities():
    clean, factor = torch.randn(50, 4, dtype=torch.float64), 3 * torch.randn(4, dtype=torch.float64)
    even = torch.zeros(1, 4, dtype=torch.float64)
    torch.testing.assert_close(contextual(clean + factor, even + factor), clean.softmax(-1))
    torch.testing.assert_close(contextual(clean - 7, even + 2), clean.softmax(-1))  # only ratios of answers count


def test_several_inputs_without_content_count_by_their_mean_probability():
    p, free = torch.tensor([[0.5, 0.5]]), torch.tensor([[0.9, 0.1], [0.3, 0.7]])  # mean: 0.6, 0.4
    torch.testing.assert_close(contextual(p.log(), free.log()), torch.tensor([[0.4, 0.6]]))


@pytest.mark.parametrize("name", ["sst2", "cb"])
def test_content_free_queries_come_first_and_leave_the_prompt_as_it_is(name):
    task = toy_task(name=name)
    asked = content_free(task)
    texts = [example.text for example in asked.evaluation[: len(CONTENT_FREE)]]
    for word, text in zip(CONTENT_FREE, texts, strict=True):
        assert text == task.spec.template.format(**dict.fromkeys(task.spec.fields, word))
    assert asked.evaluation[len(CONTENT_FREE) :] == task.evaluation and asked.train == task.train


def test_a_model_can_be_asked(pocket):
    model, tokenizer = pocket
    task = toy_task()
    run = few_shot(model, tokenizer, content_free(task), k=4, limit=len(CONTENT_FREE))
    assert run.log_probs.shape == (3, 2) and run.prompt == build_prompt(model.config, tokenizer, task, 4, 1)


@pytest.fixture(scope="module")
def pocket():
    return iclnb.load("pocket-gpt", device="cpu")


@pytest.mark.parametrize("right", [0, 3, 12])
def test_partly_right_keeps_texts_and_order_and_so_many_labels(task, right):
    for seed in (1, 2):
        shown, gold = partly_right(task, 12, seed, right).demonstrations(12, seed), task.demonstrations(12, seed)
        assert [example.text for example in shown] == [example.text for example in gold]
        assert sum(a == b for a, b in zip(shown, gold, strict=True)) == right
    assert partly_right(task, 12, 1, right) == partly_right(task, 12, 1, right)
    assert len({example.label for example in partly_right(task, 12, 1, 0).demonstrations(12, 1)}) > 2


def test_partly_right_says_how_many_can_be(task):
    with pytest.raises(ValueError, match="right is 13; accepted are 0 to k = 12"):
        partly_right(task, 12, 1, 13)
    with pytest.raises(TaskError, match="k is 41"):
        partly_right(task, 41, 1, 20)
