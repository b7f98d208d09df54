"""Mistakes that readers make in 01_attention_is_gradient_descent, and a part of what they are told."""

import torch

from iclnb.attention.softmax import linear_attention
from iclnb.teaching import checks


def one_hot(labels):
    return torch.nn.functional.one_hot(labels, 3)


def descend(W0, X, Y, lr, keys=lambda i: slice(0, i), sign=1, use_batch=False):
    E = torch.zeros(len(X), len(W0))
    batch = -lr * (X @ W0.T - Y)
    for i in range(len(X)):
        values = batch if use_batch else E
        E[i] = -lr * (W0 @ X[i] + sign * (X[i] @ X[keys(i)].T) @ values[keys(i)] - Y[i])
    return E


def train(W0, X, Y, lr):
    W, E = W0.clone(), []
    for x, y in zip(X, Y, strict=True):
        E.append(-lr * (W @ x - y))
        W += torch.outer(E[-1], x)
    return torch.stack(E)


def sum_of_outer_products(W0, X, Y, lr):
    E = torch.zeros_like(Y)
    for i in range(len(X)):
        E[i] = -lr * ((W0 + E[:i].T @ X[:i]) @ X[i] - Y[i])
    return E


MISTAKES = [
    (checks.cross_entropy_errors, lambda Y, c, lr: lr * (Y.softmax(1) - one_hot(c)), "the sign is wrong"),
    (checks.cross_entropy_errors, lambda Y, c, lr: Y.softmax(1) - one_hot(c), "the gradient itself"),
    (checks.cross_entropy_errors, lambda Y, c, lr: -lr * Y.softmax(1), "the labels are missing"),
    (checks.cross_entropy_errors, lambda Y, c, lr: -lr * (Y - one_hot(c)), "the softmax is missing"),
    (checks.cross_entropy_errors, lambda Y, c, lr: -lr * (Y.softmax(1) - one_hot(c)) / len(Y), "the mean over"),
    (checks.cross_entropy_errors, lambda Y, c, lr: -lr * (Y.softmax(0) - one_hot(c)), "over the examples"),
    (checks.cross_entropy_errors, lambda Y, c, lr: -lr * (Y.softmax(1) - one_hot(c)).T, "transposed shape, (3, 5)"),
    (checks.cross_entropy_errors, lambda Y, c, lr: -2 * lr * (Y.softmax(1) - one_hot(c)), "2 times what it should be"),
    (checks.cross_entropy_errors, lambda Y, c, lr: Y.sub_(1).softmax(1), "one of its arguments in place"),
    (checks.sequential_errors, lambda W0, X, Y, lr: -lr * (X @ W0.T - Y), "that is the batch order"),
    (checks.sequential_errors, lambda *a: descend(*a, sign=-1), "you subtracted the attention"),
    (checks.sequential_errors, lambda *a: descend(*a, use_batch=True), "your values are the batch error signals"),
    (
        checks.sequential_errors,
        lambda W0, X, Y, lr: (E := -lr * (X @ W0.T - Y)) - lr * linear_attention(X, X, E),
        "attends to itself",
    ),
    (checks.sequential_errors, lambda W0, X, Y, lr: -descend(W0, X, Y, lr) / lr, "these are the gradients"),
    (checks.sequential_errors, lambda W0, X, Y, lr: descend(W0, X, Y, lr).T, "transposed shape, (2, 4)"),
    (checks.sequential_errors, train, "a weight matrix, (d_out, d_in), is made"),
    (checks.sequential_errors, sum_of_outer_products, "a weight matrix, (d_out, d_in), is made"),
    (checks.sequential_errors, lambda *a: descend(*a, keys=lambda i: slice(i - 1, i)), "E[2] is the first part"),
    (checks.implied_targets, lambda W, K, V, lr: V / lr, "what the layer says already"),
    (checks.implied_targets, lambda W, K, V, lr: K @ W.T + lr * V, "you multiplied by lr"),
    (checks.implied_targets, lambda W, K, V, lr: K @ W.T + V, "lr is missing"),
    (checks.implied_targets, lambda W, K, V, lr: K @ W.T - V / lr, "the sign of v_i is wrong"),
    (checks.implied_targets, lambda W, K, V, lr: K @ W + V / lr, "W_ZSL is transposed"),
    (checks.implied_targets, lambda W, K, V, lr: W @ K + V / lr, "stops with RuntimeError"),
    (checks.demonstration_share, lambda d, q: d.exp().sum(1) / q.exp().sum(1), "the ratio of the two masses"),
    (checks.demonstration_share, lambda d, q: torch.cat([d, q], 1).softmax(1)[:, 5:].sum(1), "the query's share"),
    (checks.demonstration_share, lambda d, q: d.sum(1) / (d.sum(1) + q.sum(1)), "you summed the scores"),
    (checks.demonstration_share, lambda d, q: d.logsumexp(1) - q.logsumexp(1), "lam is the sigmoid of it"),
    (checks.demonstration_share, lambda d, q: torch.full((3,), 5 / 7), "you counted tokens"),
    (checks.demonstration_share, lambda d, q: torch.full((3,), 0.5), "take one softmax over all scores"),
    (
        checks.demonstration_share,
        lambda d, q: d.exp().sum(1) / (d.exp().sum(1) + q.exp().sum(1)),
        "right for small scores, but exp overflows",
    ),
]
