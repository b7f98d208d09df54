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
    yield A - outer / (1 + u @ u), "the divisor is 1 + x . u, not 1 + u . u"
    yield A - outer / (u @ u), "the divisor is 1 + x . u, not u . u"
    yield A - u * u / (1 + s), "u * u is a vector of squares; the outer product is a matrix, (d, d)"
    yield A - torch.outer(u, x) / (1 + s), "the outer product is of u and x; it should be of u and u"
    yield A - torch.outer(x, u) / (1 + s), "the outer product is of x and u; it should be of u and u"
    yield outer / (1 + s), "this is the update alone; it has to be taken away from A"
    yield -outer / (1 + s), "this is the update alone; it has to be added to A"
    flat = A.clone()
    flat[0] = flat[:, 0] = 0  # no inverse of anything, but a matrix to which the formula applies
    v = flat @ x  # (d,)
    inverted = "this inverts a matrix, or solves with one; the update needs products and a division by a number alone"
    yield (flat, x), flat - torch.outer(v, v) / (1 + x @ v), inverted


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
    tall = torch.cat([queries, torch.ones(9, 1, dtype=queries.dtype)], dim=1)  # (M, d + 1)
    with_intercept = torch.linalg.lstsq(tall, predictions[:, None]).solution[:3, 0]  # (d,)
    yield with_intercept, "this fit has an intercept; at the query 0 the black box should answer 0"
    gram, eye = queries.T @ queries, torch.eye(3, dtype=queries.dtype)  # (d, d) each
    fitted = "this is a ridge fit, whose weights are too small; nothing is noisy here, so fit by least squares"
    for lam in (1e-3, 0.01, 0.1, 0.5, 1.0):
        yield torch.linalg.solve(gram + lam * eye, moment), fitted
