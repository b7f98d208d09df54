"""Checks of the exercises in labs/c_which_algorithm."""

import torch

from iclnb.teaching.checks.core import Case, exercise, randn


@exercise("the new inverse", "(d, d)", "a pair costs two products and a division, and no matrix is inverted")
def sherman_morrison() -> Case:
    """Checks A - (A x)(A x)^T / (1 + x . A x), given A (d, d), symmetric, and x (d,)."""
    root, x = randn(4, 4, seed=32), randn(4, seed=33)
    A = root @ root.T + torch.eye(4, dtype=x.dtype)  # (d, d), positive definite
    u = A @ x  # (d,)
    outer, s = torch.outer(u, u), x @ u  # (d, d), ()
    yield (A, x), A - outer / (1 + s)
    yield A - outer, "the outer product is not divided by 1 + x . A x"
    yield A - outer / s, "the divisor lacks its 1: it is 1 + x . A x"
    yield A + outer / (1 + s), "the sign is wrong: a new pair makes the inverse smaller"
    yield A + torch.outer(x, x), "this is A + x x^T; A is the inverse, and its update is another"
    yield A - torch.outer(x, x) / (1 + s), "the outer product is of x; it should be of u = A x"
    yield A - outer / (1 + x @ x), "the divisor is 1 + x . A x, not 1 + x . x"


@exercise("w", "(d,)", "whatever the black box does, these are the weights it acts by")
def implied_weights() -> Case:
    """Checks the least-squares fit w (d,) of predictions (M,) to w . query, given queries (M, d)."""
    queries, predictions = randn(9, 3, seed=34), randn(9, seed=35)
    moment = queries.T @ predictions  # (d,)
    first = torch.linalg.solve(queries[:3], predictions[:3])  # (d,)
    yield (queries, predictions), torch.linalg.lstsq(queries, predictions[:, None]).solution[:, 0]  # (d,)
    yield moment, "this is one gradient step's direction; the fit divides by queries^T queries"
    yield moment / 9, "this is the mean of prediction times query; the fit divides by queries^T queries"
    yield first, "only the first d queries are used; all M should count"
