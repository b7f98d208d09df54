"""Mistakes that readers make in labs/c_which_algorithm, and a part of what they are told."""

import torch
from torch.linalg import inv

from iclnb.teaching import checks


def outer(A, x):
    return torch.outer(A @ x, A @ x)


def eye(A):
    return torch.eye(len(A), dtype=A.dtype)


def with_ones(Q):
    return torch.cat([Q, torch.ones(len(Q), 1, dtype=Q.dtype)], dim=1)


MISTAKES = [
    (checks.sherman_morrison, lambda A, x: A - outer(A, x), "not divided by 1 + x . A x"),
    (checks.sherman_morrison, lambda A, x: A - outer(A, x) / (x @ A @ x), "lacks its 1"),
    (checks.sherman_morrison, lambda A, x: A + outer(A, x) / (1 + x @ A @ x), "the sign is wrong"),
    (checks.sherman_morrison, lambda A, x: A + torch.outer(x, x), "A is the inverse"),
    (checks.sherman_morrison, lambda A, x: A - torch.outer(x, x) / (1 + x @ A @ x), "it should be of u = A x"),
    (checks.sherman_morrison, lambda A, x: A - outer(A, x) / (1 + x @ x), "not 1 + x . x"),
    (checks.sherman_morrison, lambda A, x: A - outer(A, x) / (1 + (A @ x) @ (A @ x)), "not 1 + u . u"),
    (checks.sherman_morrison, lambda A, x: A - outer(A, x) / (A @ x).square().sum(), "not u . u"),
    (checks.sherman_morrison, lambda A, x: A - (A @ x) * (A @ x) / (1 + x @ A @ x), "a vector of squares"),
    (checks.sherman_morrison, lambda A, x: A - torch.outer(A @ x, x) / (1 + x @ A @ x), "is of u and x"),
    (checks.sherman_morrison, lambda A, x: A - torch.outer(x, A @ x) / (1 + x @ A @ x), "is of x and u"),
    (checks.sherman_morrison, lambda A, x: outer(A, x) / (1 + x @ A @ x), "the update alone; it has to be taken away"),
    (checks.sherman_morrison, lambda A, x: -outer(A, x) / (1 + x @ A @ x), "the update alone; it has to be added"),
    (checks.sherman_morrison, lambda A, x: inv(inv(A) + torch.outer(x, x)), "this inverts a matrix"),
    (checks.sherman_morrison, lambda A, x: torch.linalg.solve(inv(A) + torch.outer(x, x), eye(A)), "solves with one"),
    (checks.implied_weights, lambda Q, p: Q.T @ p, "one gradient step's direction"),
    (checks.implied_weights, lambda Q, p: Q.T @ p / len(Q), "the mean of prediction times query"),
    (checks.implied_weights, lambda Q, p: torch.linalg.solve(Q[:3], p[:3]), "only the first d queries"),
    (checks.implied_weights, lambda Q, p: torch.linalg.lstsq(Q, p[:, None]).solution, "has shape (3, 1)"),
    (checks.implied_weights, lambda Q, p: torch.linalg.lstsq(with_ones(Q), p).solution[:3], "has an intercept"),
    (checks.implied_weights, lambda Q, p: torch.linalg.solve(Q.T @ Q + 0.1 * eye(Q.T), Q.T @ p), "a ridge fit"),
]
