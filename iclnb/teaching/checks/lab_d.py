"""Checks of the exercises in labs/d_induction_heads."""

import torch
from torch import Tensor

from iclnb.teaching.checks.core import Case, exercise, randn


@exercise("the share", "()", "for these tokens the head copies: it writes what it attends to")
def copying_share() -> Case:
    """Checks the share of tokens whose own logit a head raises most, given W_E (V, C), W_OV (C, C), W_U (V, C)."""
    W_E, W_OV, W_U = randn(30, 6, seed=25), torch.eye(6) + 0.6 * randn(6, 6, seed=36), randn(30, 6, seed=27)
    W_U = (W_E + 0.5 * W_U).double()  # (V, C)
    effect = W_U @ W_OV.double() @ W_E.T  # (V out, V in)

    def share(of: Tensor, dim: int = 0) -> Tensor:
        return (of.argmax(dim) == torch.arange(30)).double().mean()  # ()

    right = share(effect)
    inputs = (W_E, W_OV.double(), W_U)
    yield inputs, right
    yield share(effect, 1), "you looked for the attended token that raises a logit most; ask it the other way round"
    yield share(W_U @ W_OV.double().T @ W_E.T), "W_OV is transposed: it maps an embedding x to W_OV x"
    yield share(W_E @ W_OV.double() @ W_E.T), "these are inner products with embeddings; logits are those with W_U"
    yield share(W_U @ W_OV.double() @ W_U.T), "a token enters the head as its embedding, a row of W_E and not of W_U"
    yield share(W_E @ W_OV.double() @ W_U.T), "W_E and W_U are exchanged: W_E is how a token enters, W_U how it leaves"
    yield share(W_U @ W_E.T), "W_OV is missing: this is what the embedding alone says"
    yield right * 30, "this is a count; divide by the number of tokens"
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
    position, every = y.clone(), y.mean((0, 1)).expand_as(y)  # (B, T, H, D)
    position[:, h] = y[:, h].mean((0, 1))
    single = y.clone()
    single[:, :, h] = y[:, :, h].mean()
    yield (y, h), right
    yield zeroed, "this is zero ablation; put the head's mean output in its place"
    yield by_position, "you kept one mean for each position; average over positions too"
    yield by_sequence, "you kept one mean for each sequence; average over sequences too"
    yield others, "you took the mean over the heads; take it over sequences and positions of this head"
    yield single, "you averaged over the D entries as well; each entry has a mean of its own"
    yield position, "`[:, h]` is position h; the heads are the third dimension, `[:, :, h]`"
    yield every, "you averaged every head; the others should stay as they are"
    yield y, "nothing has changed"
