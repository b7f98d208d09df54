"""A task in other forms: other demonstrations, other labels, other answers, queries without content to calibrate by.

Sources: Min et al. 2022, Rethinking the Role of Demonstrations, sections 4 and 5, for the comparison of labels; Zhao et
al. 2021, Calibrate Before Use, section 5, for contextual calibration.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from iclnb.language.miniatures import ARBITRARY_ANSWERS
from iclnb.tasks.prompts import CONTENT_FREE, fill
from iclnb.tasks.task import Example, Task, TaskError, shuffled


def frozen(task: Task, k: int, seed: int) -> Task:
    """The task with k demonstrations as its whole train split: every other seed shows the same ones in another order.

    Raises:
        TaskError: k is negative or larger than the train split.
    """
    return dataclasses.replace(task, train=tuple(task.demonstrations(k, seed)))


def balanced(task: Task, k: int, seed: int) -> Task:
    """The task with k training examples, as many of each class as of any other, as its whole train split.

    They are the first of each class in the order of `seed`; where k is no multiple of the number of classes, the first
    classes get one more.

    Raises:
        TaskError: k is negative, or a class has too few training examples.
    """
    if k < 0:
        raise TaskError(f"k is {k}; it must be at least 0")
    order, chosen = task.demonstrations(len(task.train), seed), []
    for label, answer in enumerate(task.answers):
        wanted = len(range(label, k, len(task.answers)))
        mine = [example for example in order if example.label == label][:wanted]
        if len(mine) < wanted:
            raise TaskError(f"k is {k}, which needs {wanted} examples of {answer!r}; task {task.name} has {len(mine)}")
        chosen += mine
    return dataclasses.replace(task, train=tuple(chosen))


def permuted(task: Task, permutation: Sequence[int]) -> Task:
    """The task with every training example of class y shown as class permutation[y].

    Raises:
        ValueError: `permutation` does not hold every class once.
    """
    if sorted(permutation) != list(range(len(task.answers))):
        raise ValueError(
            f"permutation is {list(permutation)}; accepted are the numbers 0 to {len(task.answers) - 1}, each once"
        )
    return _relabelled(task, [permutation[example.label] for example in task.train])


def random_labels(task: Task, seed: int) -> Task:
    """The task with the label of every training example drawn anew, each class with the same chance."""
    drawn = np.random.default_rng(seed).integers(len(task.answers), size=len(task.train))  # (train,)
    return _relabelled(task, drawn.tolist())


def relabelled(task: Task, labels: Sequence[int], seed: int) -> Task:
    """The task with these labels on its first len(labels) demonstrations in the order of `seed`.

    Args:
        task: any task.
        labels: what each of them is shown with, first to last.
        seed: as in Task.demonstrations.

    Raises:
        TaskError: more labels than training examples.
        ValueError: a label that is not the number of an answer.
    """
    if len(labels) > len(task.train):
        raise TaskError(f"labels holds {len(labels)}; task {task.name} has {len(task.train)} training examples")
    if odd := [y for y in labels if y not in range(len(task.answers))]:
        raise ValueError(f"labels holds {odd[0]!r}; task {task.name} has labels 0 to {len(task.answers) - 1}")
    new = [example.label for example in task.train]
    for i, label in zip(shuffled(len(task.train), seed), labels, strict=False):
        new[i] = label
    return _relabelled(task, new)


def partly_right(task: Task, k: int, seed: int, right: int) -> Task:
    """The task with the labels of its first k demonstrations in the order of `seed` right so many times.

    With right = k / classes the labels say nothing, as random ones do on average. But random ones do so on average
    alone: of 16 labels of two classes, 3 to 13 are right by chance.

    Args:
        task, k, seed: as in few_shot.
        right: how many labels stay; which ones, and what the others become, is drawn with `seed`.

    Raises:
        TaskError: k is negative or larger than the train split.
        ValueError: right is not between 0 and k.
    """
    if not 0 <= right <= k:
        raise ValueError(f"right is {right}; accepted are 0 to k = {k}")
    labels = [example.label for example in task.demonstrations(k, seed)]
    rng, classes = np.random.default_rng(seed), len(task.answers)
    for i in rng.permutation(k)[right:]:
        labels[i] = int(labels[i] + rng.integers(1, classes)) % classes
    return relabelled(task, labels, seed)


def with_arbitrary_answers(task: Task) -> Task:
    """The task with label words that mean nothing."""
    spec = dataclasses.replace(task.spec, answers=ARBITRARY_ANSWERS[: len(task.answers)])
    return dataclasses.replace(task, spec=spec)


def content_free(task: Task) -> Task:
    """The task with one query for each of CONTENT_FREE before its evaluation examples; their labels mean nothing.

    The evaluation examples stay, because the longest of them decides how many demonstrations fit.
    """
    free = (Example(fill(task.spec, text), 0) for text in CONTENT_FREE)
    return dataclasses.replace(task, evaluation=(*free, *task.evaluation))


def contextual(log_probs: Tensor, bias: Tensor) -> Tensor:
    """Probabilities divided by those that the model gives without content.

    Args:
        log_probs: log-probability of each answer, (n, classes).
        bias: the same for content-free inputs, (m, classes), whose mean probabilities are what is divided by.

    Returns:
        (n, classes), each row summing to 1.
    """
    p, p_free = log_probs.softmax(-1), bias.softmax(-1).mean(0)  # (n, classes), (classes,)
    q = p / p_free  # (n, classes)
    return q / q.sum(-1, keepdim=True)  # (n, classes)


def _relabelled(task: Task, labels: Sequence[int]) -> Task:
    train = tuple(Example(example.text, label) for example, label in zip(task.train, labels, strict=True))
    return dataclasses.replace(task, train=train)
