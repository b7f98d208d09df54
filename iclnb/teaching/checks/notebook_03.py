"""Checks of the exercises in 03_prompting_gpt."""

import torch
from torch import Tensor

from iclnb.tasks.variants import contextual
from iclnb.teaching.checks.core import Case, exercise, pick, randn


@exercise("the bias", "(classes,)", "above zero is an answer that the model gives too often; the entries sum to zero")
def label_bias() -> Case:
    """Checks how much more often each answer is predicted than right, given (predicted (n,), labels (n,), classes)."""
    predicted, labels = torch.tensor([[0, 0, 2, 0, 0, 2, 0, 2, 0, 0], [0, 1, 2, 1, 0, 2, 1, 0, 0, 1]])  # (n,) each
    predicted, labels = ((x + pick(0, 1, 2, 3)) % 4 for x in (predicted, labels))  # the same of other answers

    def share(x: Tensor) -> Tensor:
        return torch.bincount(x, minlength=4).double() / len(x)  # (classes,)

    right = share(predicted) - share(labels)  # (classes,)
    hits = torch.bincount(predicted[predicted == labels], minlength=4).double() / len(labels)  # (classes,)
    yield (predicted, labels, 4), right
    yield -right, "the sign is turned round: share of the predictions minus share of the labels"
    yield 10 * right, "these are differences of counts; divide them by the number of examples"
    yield share(predicted), "this is the share of the predictions alone; subtract the share of the labels"
    yield hits - share(labels), "you count only the predictions that are right; count all of them"


@exercise("q", "(n, classes)", "an answer that the model gives to anything at all now has to earn it")
def calibrated() -> Case:
    """Checks contextual calibration, given (log_probs (n, classes), bias (m, classes))."""
    log_probs, bias = randn(5, 3, seed=31) - 3, 2 * randn(2, 3, seed=32)  # (n, classes), (m, classes)
    bias = bias.log_softmax(-1) - 4  # (m, classes); rows of one sum, so that the mean may come before or after dividing
    p, free = log_probs.softmax(-1), bias.softmax(-1)  # (n, classes), (m, classes)

    def whole(q: Tensor) -> Tensor:
        return q / q.sum(-1, keepdim=True)  # (n, classes)

    yield (log_probs, bias), contextual(log_probs, bias)
    yield p / free.mean(0), "the rows do not sum to 1; divide each by its sum at the end"
    yield whole(p / bias.mean(0).softmax(-1)), "you took the mean of log-probabilities; it belongs on probabilities"
    yield whole(p * free.mean(0)), "you multiplied by the bias; what the model says without content is divided out"
    yield p, "this is not calibrated yet: nothing of `bias` is in it"
    yield whole(p - free.mean(0)), "you subtracted the bias from the probabilities; divide by it"
