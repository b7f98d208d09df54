"""Checks of the exercises in 07_momentum_attention."""

import torch

from iclnb.attention import ema, softmax_attention
from iclnb.teaching.checks.core import Case, exercise, pick, randn


@exercise("the matrix", "(T, T)", "row t weighs position i < t by eta^(t-i)")
def momentum_weights() -> Case:
    """Checks the (T, T) weights eta^(t-i) for i < t, zero elsewhere, given (T, eta)."""
    T, eta = pick((6, 0.7), (5, 0.6), (8, 0.9), (7, 0.35))
    right = ema(torch.eye(T, dtype=torch.float64), eta, method="loop")  # (T, T) one value vector a position
    yield (T, eta), right
    yield right.T, "the matrix is transposed: row t holds the weights of position t, so its entries are left of t"
    yield right + torch.eye(T), "the diagonal must be zero: momentum sums over i < t, without position t itself"
    yield right / eta, "the powers are one too low: the position just before t weighs eta, not 1"
    yield right + right.T, "positions after t have weight too; momentum looks back only"
    yield right + right.T + torch.eye(T), "positions from t on have weight too; momentum sums over i < t"
    yield (1 - eta) * right, "you multiplied by 1 - eta; the paper's sum is not normalised"


@exercise("A", "(T, T)", "A v is momentum attention, for any values v")
def combined_weights() -> Case:
    """Checks the one matrix A with MoAttn = A v, given (q (T, D), k (T, D), eta)."""
    q, k, eta, T = randn(5, 4, seed=10), randn(5, 4, seed=11), 0.6, 5
    eye = torch.eye(T, dtype=torch.float64)  # (T, T) as values: what comes out is the weights themselves
    softmax, momentum = softmax_attention(q, k, eye), ema(eye, eta)  # (T, T), (T, T)
    unmasked = softmax_attention(q, k, eye, causal=False)  # (T, T)
    unscaled = softmax_attention(q, k, eye, scale=1.0)  # (T, T)
    by_width = softmax_attention(q, k, eye, scale=1 / q.shape[1])  # (T, T)
    late = unmasked.tril()  # (T, T) its rows do not sum to 1
    right = softmax + momentum  # (T, T)
    yield (q, k, eta), right
    yield softmax, "these are the softmax weights alone; the weights of momentum are missing"
    yield momentum, "these are the weights of momentum alone; the softmax weights are missing"
    yield unmasked + momentum, "the softmax looks ahead: mask the scores of positions after t before it"
    yield unscaled + momentum, "the scores are not scaled; divide them by the square root of D"
    yield by_width + momentum, "the scores are divided by D; divide them by its square root"
    yield late + momentum, "you masked after the softmax, so its rows do not sum to 1; mask the scores before it"
    yield right / right.sum(1, keepdim=True), "you normalised the rows; momentum attention adds its weights on top"
    yield (1 - eta) * softmax + eta * momentum, "this is a weighted mean; momentum attention is a plain sum"
