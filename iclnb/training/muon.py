"""Muon: steps of momentum whose singular values are all pushed towards 1, for the matrices inside a model.

torch.optim.Muon is the plain twin. It always iterates in bfloat16, which a CPU without the instructions for it emulates
at a twentieth of its speed; this one is told the precision, and takes matrices of one shape in one product.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # a, b, c of the polynomial a s + b s^3 + c s^5 that each iteration applies
ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """Momentum with Nesterov's look ahead, made orthogonal, and weight decay apart from it.

    Args:
        parameters: matrices, each (m, n).
        lr: learning rate; a matrix with more rows than columns takes sqrt(m / n) times as much.
        weight_decay: share of a weight, times lr, that is taken off each step.
        momentum: share of the running mean of gradients that is kept.
        precision: dtype of the iterations.

    Source: Jordan et al. 2024, Muon.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        precision: torch.dtype = torch.bfloat16,
    ):
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        self.precision = precision

    @torch.no_grad()
    def step(self) -> None:
        """Take one step for every matrix that has a gradient."""
        for group in self.param_groups:
            moved = [p for p in group["params"] if p.grad is not None]  # (m, n) each, and so are the next lists'
            if not moved:
                continue
            grads = [p.grad for p in moved]
            means = [self.state[p].setdefault("momentum_buffer", torch.zeros_like(p)) for p in moved]
            torch._foreach_lerp_(means, grads, 1 - group["momentum"])
            ahead = torch._foreach_lerp(grads, means, group["momentum"])
            torch._foreach_mul_(moved, 1 - group["lr"] * group["weight_decay"])
            waiting: dict[tuple[int, int], list[tuple[nn.Parameter, Tensor]]] = {}
            for p, x in zip(moved, ahead, strict=True):
                wide = x.mT if p.shape[0] > p.shape[1] else x  # (short, long)
                waiting.setdefault(tuple(wide.shape), []).append((p, wide))
            for some in waiting.values():
                steps = orthogonalise(torch.stack([wide for _, wide in some]), self.precision)  # (N, short, long)
                for (p, _), wide in zip(some, steps, strict=True):
                    rows, columns = p.shape
                    step = wide.mT if rows > columns else wide  # (m, n)
                    p.add_(step, alpha=-group["lr"] * max(1.0, rows / columns) ** 0.5)


def orthogonalise(matrices: Tensor, precision: torch.dtype) -> Tensor:
    """Matrices with the same singular vectors, and singular values near 1, by Newton and Schulz's iteration.

    Args:
        matrices: (N, m, n) with m <= n.
        precision: dtype that the iterations are computed in.

    Returns:
        (N, m, n) in that dtype.
    """
    a, b, c = COEFFICIENTS
    X = matrices.to(precision)  # (N, m, n)
    X = X / X.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)  # no singular value is above 1
    for _ in range(ITERATIONS):
        A = X @ X.mT  # (N, m, m)
        X = torch.baddbmm(X, torch.baddbmm(A, A, A, beta=b, alpha=c), X, beta=a)  # (N, m, n)
    return X
