"""Checks of the exercises in 06_does_it_hold_up."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from iclnb.teaching.checks.core import Case, exercise, randn


@exercise("the random update", "(C, C)", "as long as fine-tuning's update, and it knows nothing of the task")
def random_direction() -> Case:
    """Checks the random update of the length of a given one, given (update, noise), each (C, C)."""
    update, noise = 0.3 * randn(5, 5, seed=61), randn(5, 5, seed=62)  # (C, C) each
    rows = noise * update.norm(dim=1, keepdim=True) / noise.norm(dim=1, keepdim=True)  # (C, C)
    yield (update, noise), noise * update.norm() / noise.norm()  # (C, C)
    yield update, "this is the update itself; only its length is wanted, the direction is that of `noise`"
    yield noise, "this is the noise as it came; bring it to the length of `update`"
    yield noise * update.norm(), "you multiplied by the wanted length; divide by the noise's own length as well"
    yield noise / noise.norm(), "this has length 1; multiply it by the length of `update`"
    yield noise * (update.norm() / noise.norm()) ** 2, "you used squared lengths; take their roots"
    yield rows, "you matched the length of every row; one factor for the whole matrix is wanted"
    yield noise.sign() * update.abs(), "you matched the size of every entry; one factor for the whole matrix is wanted"


@exercise("G", "(L, C, C)", "each layer learns from its own reading, and from nothing above it")
def layer_causal_gradients() -> Case:
    """Checks each layer's gradient of its own loss, given (x (T, C), W (L, C, C), U (V, C), labels (T,))."""
    x, W, U = randn(6, 4, seed=63), 0.5 * randn(3, 4, 4, seed=64), randn(5, 4, seed=65)
    labels = torch.tensor([0, 3, 1, 4, 2, 2])  # (T,)
    right = _gradients(x, W, U, labels)
    yield (x, W, U, labels), right
    yield _gradients(x, W, U, labels, cut=False), "errors of higher layers flow down; `detach` the input of each layer"
    plain = _gradients(x, W, U, labels, cut=False, last_only=True)  # (L, C, C)
    yield plain, "this is plain backpropagation: only the last layer's loss, flowing down; every layer needs its own"
    yield _gradients(x, W, U, labels, last_only=True), "only the last layer has a loss; every layer needs its own"
    yield _gradients(x, W, U, labels, residual=False), "the residual is missing: the output is x + x W^T, not x W^T"
    yield len(labels) * right, "your losses are sums over tokens; take the mean, as `cross_entropy` does by itself"
    yield -right, "the sign is turned round: this is the step downhill, the gradient points uphill"


def _gradients(
    x: Tensor, W: Tensor, U: Tensor, labels: Tensor, cut: bool = True, last_only: bool = False, residual: bool = True
) -> Tensor:
    """Gradients (L, C, C) of the losses read from residual linear layers; `cut` detaches each layer's input."""
    W, losses = W.clone().requires_grad_(), []
    for W_l in W:
        x = x.detach() if cut else x
        x = (x if residual else 0) + x @ W_l.T  # (T, C)
        losses.append(cross_entropy(x @ U.T, labels))
    return torch.autograd.grad(losses[-1] if last_only else sum(losses), W)[0]  # (L, C, C)
