"""Checks of the exercises in 03_prompting_gpt."""

from collections.abc import Callable

import torch
from torch import Tensor

from iclnb.calibrate import contextual
from iclnb.checks.core import find_fault, randn, say


def label_bias(answer: Callable) -> None:
    """Checks how much more often each answer is predicted than right, given (predicted (n,), labels (n,), classes)."""
    predicted, labels = torch.tensor([0, 0, 2, 0, 0, 2, 0, 2, 0, 0]), torch.tensor([0, 1, 2, 1, 0, 2, 1, 0, 0, 1])

    def share(x: Tensor) -> Tensor:
        return torch.bincount(x, minlength=4).double() / len(x)  # (classes,)

    right = share(predicted) - share(labels)  # (classes,)
    hits = torch.bincount(predicted[predicted == labels], minlength=4).double() / len(labels)  # (classes,)
    mistakes = [
        (-right, "the sign is turned round: share of the predictions minus share of the labels"),
        (10 * right, "these are differences of counts; divide them by the number of examples"),
        (share(predicted), "this is the share of the predictions alone; subtract the share of the labels"),
        (hits - share(labels), "you count only the predictions that are right; count all of them"),
    ]
    fault = find_fault(answer, (predicted, labels, 4), right, "the bias", "(classes,)", mistakes)
    say(fault, "above zero is an answer that the model gives too often; the entries sum to zero")


def calibrated(answer: Callable) -> None:
    """Checks contextual calibration, given (log_probs (n, classes), bias (m, classes))."""
    log_probs, bias = randn(5, 3, seed=31) - 3, 2 * randn(2, 3, seed=32) - 4  # (n, classes), (m, classes)
    p, free = log_probs.softmax(-1), bias.softmax(-1)  # (n, classes), (m, classes)

    def whole(q: Tensor) -> Tensor:
        return q / q.sum(-1, keepdim=True)  # (n, classes)

    mistakes = [
        (p / free.mean(0), "the rows do not sum to 1; divide each by its sum at the end"),
        (whole(log_probs.exp() / bias.exp().mean(0)), "bring each row of `bias` to sum 1 before you take the mean"),
        (whole(p / bias.mean(0).softmax(-1)), "you took the mean of log-probabilities; it belongs on probabilities"),
        (whole(p * free.mean(0)), "you multiplied by the bias; what the model says without content is divided out"),
        (p, "this is not calibrated yet: nothing of `bias` is in it"),
        (whole(p - free.mean(0)), "you subtracted the bias from the probabilities; divide by it"),
    ]
    fault = find_fault(answer, (log_probs, bias), contextual(log_probs, bias), "q", "(n, classes)", mistakes)
    say(fault, "an answer that the model gives to anything at all now has to earn it")


def order_ensemble(answer: Callable) -> None:
    """Checks the mean over orders of the answers' probabilities, given (log_probs (S, n, classes))."""
    log_probs = 2 * randn(4, 5, 3, seed=33) - 3  # (S, n, classes)
    right = log_probs.softmax(-1).mean(0)  # (n, classes)
    mistakes = [
        (log_probs.mean(0).softmax(-1), "you took the mean of log-probabilities; it belongs on probabilities"),
        (log_probs.exp().mean(0), "bring each row to sum 1 over the answers before you take the mean"),
        (log_probs.softmax(0).mean(0), "your softmax runs over the orders (dim 0); it belongs over the answers"),
        (log_probs.softmax(1).mean(0), "your softmax runs over the examples (dim 1); it belongs over the answers"),
        (log_probs.softmax(-1).sum(0), "this is the sum over orders; take the mean"),
    ]
    fault = find_fault(answer, (log_probs,), right, "the mean probability", "(n, classes)", mistakes)
    say(fault, "each order has one vote, as strong as it is sure")
