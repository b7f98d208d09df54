"""Demonstrations with other labels: what changes, and that nothing else does."""

from collections import Counter

import pytest
from toys import toy_task

from iclnb.labels import balanced, frozen, permuted, random_labels
from iclnb.tasks import TaskError


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
