"""Mistakes that readers make in 07_momentum_attention, and a part of what they are told."""

import torch

from iclnb.teaching import checks


def tril(T, eta, diagonal=-1):
    lag = torch.arange(T)[:, None] - torch.arange(T)
    return (eta ** lag.double()).tril(diagonal)


def softmax(q, k, scale=None, masked=True):
    scores = q @ k.T * (scale or q.shape[1] ** -0.5)
    return scores.masked_fill(torch.ones(len(q), len(q)).triu(1).bool() & masked, -torch.inf).softmax(1)


MISTAKES = [
    (checks.momentum_weights, lambda T, eta: tril(T, eta).T, "the matrix is transposed"),
    (checks.momentum_weights, lambda T, eta: tril(T, eta, 0), "the diagonal must be zero"),
    (checks.momentum_weights, lambda T, eta: tril(T, eta) / eta, "the powers are one too low"),
    (checks.momentum_weights, lambda T, eta: tril(T, eta) + tril(T, eta).T, "positions after t have weight too"),
    (checks.momentum_weights, lambda T, eta: tril(T, eta, 0) + tril(T, eta).T, "positions from t on have weight"),
    (checks.momentum_weights, lambda T, eta: (1 - eta) * tril(T, eta), "you multiplied by 1 - eta"),
    (checks.combined_weights, lambda q, k, eta: softmax(q, k), "the weights of momentum are missing"),
    (checks.combined_weights, lambda q, k, eta: tril(5, eta), "the softmax weights are missing"),
    (checks.combined_weights, lambda q, k, eta: softmax(q, k, masked=False) + tril(5, eta), "the softmax looks ahead"),
    (checks.combined_weights, lambda q, k, eta: softmax(q, k, scale=1) + tril(5, eta), "the scores are not scaled"),
    (checks.combined_weights, lambda q, k, eta: softmax(q, k, scale=1 / 4) + tril(5, eta), "are divided by D"),
    (
        checks.combined_weights,
        lambda q, k, eta: softmax(q, k, masked=False).tril() + tril(5, eta),
        "you masked after the softmax",
    ),
    (
        checks.combined_weights,
        lambda q, k, eta: (A := softmax(q, k) + tril(5, eta)) / A.sum(1, keepdim=True),
        "you normalised the rows",
    ),
    (
        checks.combined_weights,
        lambda q, k, eta: (1 - eta) * softmax(q, k) + eta * tril(5, eta),
        "this is a weighted mean",
    ),
]
