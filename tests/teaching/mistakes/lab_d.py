"""Mistakes that readers make in labs/d_induction_heads, and a part of what they are told."""

import torch

from iclnb.teaching import checks


def share(effect, dim=0):
    return (effect.argmax(dim) == torch.arange(len(effect))).double().mean()


def replaced(y, h, value):
    y = y.clone()
    y[:, :, h] = value
    return y


def position_replaced(y, h):
    y = y.clone()
    y[:, h] = y[:, h].mean((0, 1))
    return y


MISTAKES = [
    (checks.copying_share, lambda E, OV, U: share(U @ OV @ E.T, 1), "ask it the other way round"),
    (checks.copying_share, lambda E, OV, U: share(U @ OV.T @ E.T), "W_OV is transposed"),
    (checks.copying_share, lambda E, OV, U: share(E @ OV @ E.T), "these are inner products with embeddings"),
    (checks.copying_share, lambda E, OV, U: share(U @ OV @ U.T), "enters the head as its embedding"),
    (checks.copying_share, lambda E, OV, U: share(E @ OV @ U.T), "W_E and W_U are exchanged"),
    (checks.copying_share, lambda E, OV, U: share(U @ E.T), "W_OV is missing"),
    (checks.copying_share, lambda E, OV, U: share(U @ OV @ E.T)[None], "it should be a scalar, shape ()"),
    (checks.copying_share, lambda E, OV, U: share(U @ OV @ E.T) * len(E), "this is a count"),
    (checks.copying_share, lambda E, OV, U: ((U @ OV @ E.T).diagonal() > 0).double().mean(), "not yet the one"),
    (checks.mean_ablated, lambda y, h: replaced(y, h, 0), "this is zero ablation"),
    (checks.mean_ablated, lambda y, h: replaced(y, h, y[:, :, h].mean(0)), "one mean for each position"),
    (checks.mean_ablated, lambda y, h: replaced(y, h, y[:, :, h].mean(1, True)), "one mean for each sequence"),
    (checks.mean_ablated, lambda y, h: replaced(y, h, y.mean(2)), "the mean over the heads"),
    (checks.mean_ablated, lambda y, h: replaced(y, h, y[:, :, h].mean()), "the D entries as well"),
    (checks.mean_ablated, lambda y, h: position_replaced(y, h), "`[:, h]` is position h"),
    (checks.mean_ablated, lambda y, h: y.mean((0, 1)).expand_as(y).clone(), "you averaged every head"),
    (checks.mean_ablated, lambda y, h: y, "nothing has changed"),
]
