"""Checks of the exercises in labs/d_induction_heads."""

from collections.abc import Callable

import torch
from torch import Tensor

from iclnb.checks.core import find_fault, randn, say


def previous_token_score(answer: Callable) -> None:
    """Checks the mean attention to the position just before, of positions t >= 1, given attention weights (T, T)."""
    A = randn(6, 6, seed=20).tril().exp().tril()  # (T, T)
    A = A / A.sum(1, keepdim=True)
    right = A.diagonal(-1).mean()  # ()
    mistakes = [
        (A.diagonal().mean(), "this is the attention to the token itself; the one before lies below the diagonal"),
        (A.diagonal(1).mean(), "this is the attention to the token after, which the mask sets to zero"),
        (A.diagonal(-1).sum(), "this is the sum; divide it by the number of positions that have a token before them"),
        (A.diagonal(-1).sum() / 6, "you divided by T; position 0 has no token before it, so T - 1 positions count"),
        (A.T.diagonal(-1).mean(), "rows and columns are exchanged: row t holds what position t attends to"),
    ]
    say(find_fault(answer, (A,), right, "the score", "()", mistakes), "the mean of the first diagonal below the main")


def copying_share(answer: Callable) -> None:
    """Checks the share of tokens whose own logit a head raises most, given W_E (V, C), W_OV (C, C), W_U (V, C)."""
    W_E, W_OV, W_U = randn(9, 5, seed=21), torch.eye(5) + 0.6 * randn(5, 5, seed=36), randn(9, 5, seed=23)
    W_U = (W_E + 0.5 * W_U).double()  # (V, C)
    effect = W_U @ W_OV.double() @ W_E.T  # (V out, V in)

    def share(of: Tensor, dim: int = 0) -> Tensor:
        return (of.argmax(dim) == torch.arange(9)).double().mean()  # ()

    right = share(effect)
    mistakes = [
        (share(effect, 1), "you looked for the attended token that raises a logit most; ask it the other way round"),
        (share(W_U @ W_OV.double().T @ W_E.T), "W_OV is transposed: it maps an embedding x to W_OV x"),
        (share(W_U @ W_E.T), "W_OV is missing: this is what the embedding alone says"),
        (right * 9, "this is a count; divide by the number of tokens"),
        ((effect.diagonal() > 0).double().mean(), "a logit that rises is not yet the one that rises most"),
    ]
    inputs = (W_E, W_OV.double(), W_U)
    say(
        find_fault(answer, inputs, right, "the share", "()", mistakes),
        "for these tokens the head copies: it writes what it attends to",
    )


def mean_ablated(answer: Callable) -> None:
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
    mistakes = [
        (zeroed, "this is zero ablation; put the head's mean output in its place"),
        (by_position, "you kept one mean for each position; average over positions too"),
        (by_sequence, "you kept one mean for each sequence; average over sequences too"),
        (others, "you took the mean over the heads; take it over sequences and positions of this head"),
        (single, "you averaged over the D entries as well; each entry has a mean of its own"),
        (y, "nothing has changed"),
    ]
    fault = find_fault(answer, (y, h), right, "the output", "(B, T, H, D)", mistakes)
    say(fault, "the head now says the same at every position, and what it says is typical of it")
