"""Checks of the exercises in labs/d_induction_heads."""

import torch
from torch import Tensor

from iclnb.teaching.checks.core import Case, exercise, randn


@exercise("the score", "()", "the mean of the first diagonal below the main")
def previous_token_score() -> Case:
    """Checks the mean attention to the position just before, of positions t >= 1, given attention weights (T, T)."""
    A = randn(6, 6, seed=20).tril().exp().tril()  # (T, T)
    A = A / A.sum(1, keepdim=True)
    yield (A,), A.diagonal(-1).mean()  # ()
    yield A.diagonal().mean(), "this is the attention to the token itself; the one before lies below the diagonal"
    yield A.diagonal(1).mean(), "this is the attention to the token after, which the mask sets to zero"
    yield A.diagonal(-1).sum(), "this is the sum; divide it by the number of positions that have a token before them"
    yield A.diagonal(-1).sum() / 6, "you divided by T; position 0 has no token before it, so T - 1 positions count"
    yield A.T.diagonal(-1).mean(), "rows and columns are exchanged: row t holds what position t attends to"


@exercise("the share", "()", "for these tokens the head copies: it writes what it attends to")
def copying_share() -> Case:
    """Checks the share of tokens whose own logit a head raises most, given W_E (V, C), W_OV (C, C), W_U (V, C)."""
    W_E, W_OV, W_U = randn(9, 5, seed=21), torch.eye(5) + 0.6 * randn(5, 5, seed=36), randn(9, 5, seed=23)
    W_U = (W_E + 0.5 * W_U).double()  # (V, C)
    effect = W_U @ W_OV.double() @ W_E.T  # (V out, V in)

    def share(of: Tensor, dim: int = 0) -> Tensor:
        return (of.argmax(dim) == torch.arange(9)).double().mean()  # ()

    right = share(effect)
    inputs = (W_E, W_OV.double(), W_U)
    yield inputs, right
    yield share(effect, 1), "you looked for the attended token that raises a logit most; ask it the other way round"
    yield share(W_U @ W_OV.double().T @ W_E.T), "W_OV is transposed: it maps an embedding x to W_OV x"
    yield share(W_U @ W_E.T), "W_OV is missing: this is what the embedding alone says"
    yield right * 9, "this is a count; divide by the number of tokens"
    yield (effect.diagonal() > 0).double().mean(), "a logit that rises is not yet the one that rises most"


@exercise("the output", "(B, T, H, D)", "the head now says the same at every position, and that is typical of it")
def mean_ablated() -> Case:
    """Checks head outputs (B, T, H, D) in which head h is replaced by its mean over sequences and positions."""
    y, h = randn(2, 3, 4, 5, seed=24), 2
    right, zeroed, by_position, by_sequence, others = (y.clone() for _ in range(5))
    right[:, :, h] = y[:, :, h].mean((0, 1))
    zeroed[:, :, h] = 0
    by_position[:, :, h] = y[:, :, h].mean(0)
    by_sequence[:, :, h] = y[:, :, h].mean(1, keepdim=True)
    others[:, :, h] = y.mean(2)
    single = y.clone()
    single[:, :, h] = y[:, :, h].mean()
    yield (y, h), right
    yield zeroed, "this is zero ablation; put the head's mean output in its place"
    yield by_position, "you kept one mean for each position; average over positions too"
    yield by_sequence, "you kept one mean for each sequence; average over sequences too"
    yield others, "you took the mean over the heads; take it over sequences and positions of this head"
    yield single, "you averaged over the D entries as well; each entry has a mean of its own"
    yield y, "nothing has changed"
