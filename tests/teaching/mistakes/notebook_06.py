"""Mistakes that readers make in 06_does_it_hold_up, and a part of what they are told."""

import torch
from torch.nn.functional import cross_entropy

from iclnb.teaching import checks


def gradients(x, W, U, labels, keep=False, reduction="mean", start=None, last=False):
    W, losses = W.clone().requires_grad_(), []
    for layer in W:
        x = (x if keep else x.detach()) if start is None else x.detach()
        x = (x if start is None else start) + x @ layer.T
        losses.append(cross_entropy(x @ U.T, labels, reduction=reduction))
    return torch.autograd.grad(losses[-1] if last else sum(losses), W)[0]


MISTAKES = [
    (checks.random_direction, lambda u, e: u, "this is the update itself"),
    (checks.random_direction, lambda u, e: e, "bring it to the length of `update`"),
    (checks.random_direction, lambda u, e: e * u.norm(), "divide by the noise's own length"),
    (checks.random_direction, lambda u, e: e / e.norm(), "this has length 1"),
    (checks.random_direction, lambda u, e: e * u.square().sum() / e.square().sum(), "squared lengths"),
    (
        checks.random_direction,
        lambda u, e: torch.nn.functional.normalize(e, dim=1) * u.norm(dim=1)[:, None],
        "length of every row",
    ),
    (checks.random_direction, lambda u, e: u.abs() * e.sign(), "size of every entry"),
    (checks.random_direction, lambda u, e: e.mul_(u.norm() / e.norm()), "changes one of its arguments in place"),
    (checks.random_direction, lambda u, e: 0.5 * e / e.norm() * u.norm(), "is 0.5 times what it should be"),
    (checks.layer_causal_gradients, lambda *a: gradients(*a, keep=True), "errors of higher layers flow down"),
    (checks.layer_causal_gradients, lambda *a: gradients(*a, keep=True, last=True), "plain backpropagation"),
    (checks.layer_causal_gradients, lambda *a: gradients(*a, reduction="sum"), "sums over tokens"),
    (checks.layer_causal_gradients, lambda *a: gradients(*a, start=0), "the residual is missing"),
    (checks.layer_causal_gradients, lambda *a: -gradients(*a), "points uphill"),
]
