"""Mistakes that readers make in labs/c_which_algorithm, and a part of what they are told."""

import torch

from iclnb.teaching import checks


def outer(A, x):
    return torch.outer(A @ x, A @ x)


MISTAKES = [
    (checks.sherman_morrison, lambda A, x: A - outer(A, x), "not divided by 1 + x . A x"),
    (checks.sherman_morrison, lambda A, x: A - outer(A, x) / (x @ A @ x), "lacks its 1"),
    (checks.sherman_morrison, lambda A, x: A + outer(A, x) / (1 + x @ A @ x), "the sign is wrong"),
    (checks.sherman_morrison, lambda A, x: A + torch.outer(x, x), "A is the inverse"),
    (checks.sherman_morrison, lambda A, x: A - torch.outer(x, x) / (1 + x @ A @ x), "it should be of u = A x"),
    (checks.sherman_morrison, lambda A, x: A - outer(A, x) / (1 + x @ x), "not 1 + x . x"),
    (checks.implied_weights, lambda Q, p: Q.T @ p, "one gradient step's direction"),
    (checks.implied_weights, lambda Q, p: Q.T @ p / len(Q), "the mean of prediction times query"),
    (checks.implied_weights, lambda Q, p: torch.linalg.solve(Q[:3], p[:3]), "only the first d queries"),
    (checks.implied_weights, lambda Q, p: torch.linalg.lstsq(Q, p[:, None]).solution, "has shape (3, 1)"),
]
