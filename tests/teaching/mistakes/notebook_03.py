"""Mistakes that readers make in 03_prompting_gpt, and a part of what they are told."""

import torch

from iclnb.teaching import checks


def share(x, classes):
    return torch.bincount(x, minlength=classes).double() / len(x)


def whole(q):
    return q / q.sum(-1, keepdim=True)


MISTAKES = [
    (checks.label_bias, lambda p, y, c: share(y, c) - share(p, c), "the sign is turned round"),
    (checks.label_bias, lambda p, y, c: len(y) * (share(p, c) - share(y, c)), "differences of counts"),
    (checks.label_bias, lambda p, y, c: share(p, c), "the share of the predictions alone"),
    (
        checks.label_bias,
        lambda p, y, c: torch.bincount(p[p == y], minlength=c) / len(y) - share(y, c),
        "only the predictions that are right",
    ),
    (checks.label_bias, lambda p, y, c: share(p, 0) - share(y, 0), "has shape (3,)"),  # bincount without minlength
    (checks.calibrated, lambda x, b: x.softmax(-1) / b.softmax(-1).mean(0), "the rows do not sum to 1"),
    (checks.calibrated, lambda x, b: (x - b.mean(0)).softmax(-1), "the mean of log-probabilities"),
    (checks.calibrated, lambda x, b: whole(x.softmax(-1) * b.softmax(-1).mean(0)), "you multiplied by the bias"),
    (checks.calibrated, lambda x, b: x.softmax(-1), "not calibrated yet"),
    (checks.calibrated, lambda x, b: whole(x.softmax(-1) - b.softmax(-1).mean(0)), "you subtracted the bias"),
]
