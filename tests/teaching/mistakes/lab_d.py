"""Mistakes that readers make in labs/d_induction_heads, and a part of what they are told."""

import torch

from iclnb.teaching import checks


def share(effect, dim=0):
    return (effect.argmax(dim) == torch.arange(len(effect))).double().mean()


def replaced(y, h, value):
    y = y.clone()
    y[:, :, h] = value
    return y


MISTAKES = [
    (checks.previous_token_score, lambda A: A.diagonal().mean(), "the attention to the token itself"),
    (checks.previous_token_score, lambda A: A.diagonal(1).mean(), "the attention to the token after"),
    (checks.previous_token_score, lambda A: A.diagonal(-1).sum(), "this is the sum"),
    (checks.previous_token_score, lambda A: A.diagonal(-1).sum() / len(A), "you divided by T"),
    (checks.copying_share, lambda E, OV, U: share(U @ OV @ E.T, 1), "ask it the other way round"),
    (checks.copying_share, lambda E, OV, U: share(U @ OV.T @ E.T), "W_OV is transposed"),
    (checks.copying_share, lambda E, OV, U: share(U @ E.T), "W_OV is missing"),
    (checks.copying_share, lambda E, OV, U: share(U @ OV @ E.T) * len(E), "this is a count"),
    (checks.copying_share, lambda E, OV, U: ((U @ OV @ E.T).diagonal() > 0).double().mean(), "not yet the one"),
    (checks.mean_ablated, lambda y, h: replaced(y, h, 0), "this is zero ablation"),
    (checks.mean_ablated, lambda y, h: replaced(y, h, y[:, :, h].mean(0)), "one mean for each position"),
    (checks.mean_ablated, lambda y, h: replaced(y, h, y[:, :, h].mean(1, True)), "one mean for each sequence"),
    (checks.mean_ablated, lambda y, h: replaced(y, h, y.mean(2)), "the mean over the heads"),
    (checks.mean_ablated, lambda y, h: replaced(y, h, y[:, :, h].mean()), "the D entries as well"),
    (checks.mean_ablated, lambda y, h: y, "nothing has changed"),
]
