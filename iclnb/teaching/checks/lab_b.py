"""Checks of the exercises in labs/b_gradient_descent_by_construction."""

import torch
from torch import Tensor

from iclnb.teaching.checks.core import Case, exercise, pick, randn


@exercise("(lr, loss)", "(2,)", "lr is E tr(H) / E tr(H^2), and the loss is what it cannot reach")
def best_single_step() -> Case:
    """Checks the best learning rate of one step and its expected loss, (2,), given (d, N)."""
    d, N = pick((6, 9), (5, 8), (7, 4), (3, 12))

    def best(square: float, loss_factor: float = 0.5) -> Tensor:
        """For E tr(H^2) = square: the rate that is best, and its loss."""
        trace = N * d / 12  # E tr(H)
        lr = trace / square
        return torch.tensor([lr, loss_factor / 12 * (d - 2 * lr * trace + lr**2 * square)], dtype=torch.float64)  # (2,)

    def square_of(fourth: float) -> float:
        return N * (d * fourth + d * (d - 1) / 144) + N * (N - 1) * d / 144  # E tr(H^2)

    right = best(square_of(1 / 80))  # (2,) lr and loss; E x^4 = 1 / 80
    trace, scale = N * d / 12, torch.tensor([N, 1.0], dtype=torch.float64)
    yield (d, N), right
    yield best(square_of(1 / 80), 1.0), "the rate is right; the loss has a factor 1/2 in front of the squared error"
    yield right * scale, "this rate is N times too large: the loss is a sum over the examples, not a mean"
    yield best(square_of(3 / 144)), "this holds for normal inputs; for uniform ones E x^4 is 1/80, not 3 sigma^4"
    yield best(square_of(1 / 144)), "E x^4 is not (E x^2)^2: for inputs uniform in (-1/2, 1/2) it is 1/80"
    alone = N * (d / 80 + d * (d - 1) / 144)  # the terms i = j of E tr(H^2)
    yield best(alone + N**2 * d / 144), "there are N (N - 1) pairs with i other than j, not N^2"
    yield best(alone), "the pairs with i other than j are missing: E (x_i . x_j)^2 is not 0 though its root's mean is"
    yield best(N * d / 80 + N * (N - 1) * d / 144), "|x|^4 also holds the products of two different entries squared"
    yield right.flip(0), "the two are swapped: the rate comes first, then the loss"
    yield (
        right * torch.tensor([1.0, 12.0], dtype=torch.float64),
        "the rate is right; the loss lacks the 1/12 of the query",
    )
    yield best(trace**2 / d), "you replaced H by its mean; tr(H^2) also holds how H varies from task to task"


@exercise("w", "(d,)", "K steps are one polynomial in H, applied to X^T y")
def many_steps() -> Case:
    """Checks w after K steps of descent from 0, (d,), given (X (N, d), y (N,), lr, K)."""
    X, y, lr, K = randn(6, 3, seed=31), randn(6, seed=32), 0.07, 4  # (N, d), (N,)
    H, b, eye = X.T @ X, X.T @ y, torch.eye(3, dtype=torch.float64)  # (d, d), (d,), (d, d)

    def steps(count: int, first: int = 0) -> Tensor:
        return lr * sum(torch.linalg.matrix_power(eye - lr * H, k) @ b for k in range(first, count))  # (d,)

    yield (X, y, lr, K), steps(K)  # (d,)
    yield steps(1), "this is one step; K were asked for"
    yield steps(K + 1), "this is one step too many: the sum runs over the powers 0 to K - 1"
    yield steps(K - 1), "this is one step too few: the sum runs over the powers 0 to K - 1"
    yield steps(K + 1, 1), "the powers are one too high: the newest step is multiplied by nothing, that is by power 0"
    yield steps(K) / lr, "the learning rate in front of the sum is missing"
    yield K * steps(1), "each step sees what the ones before it have left; these K steps all see y itself"
    yield torch.linalg.solve(H, b), "this is least squares, where infinitely many steps end; K were asked for"
    elementwise = sum((eye - lr * H) ** k for k in range(K))  # (d, d)
    yield (
        lr * elementwise @ b,
        "`A**k` raises each entry to a power; a power of the matrix is `torch.linalg.matrix_power`",
    )
    uphill = sum(torch.linalg.matrix_power(eye + lr * H, k) for k in range(K))  # (d, d)
    yield lr * uphill @ b, "the sign is wrong: a step multiplies what is left by I - lr H, not by I + lr H"
    mean = sum(torch.linalg.matrix_power(eye - lr / 6 * H, k) for k in range(K))  # (d, d)
    yield lr / 6 * mean @ b, "the loss is a sum over the examples, not a mean: the rate is not divided by N"
    X, y = randn(2, 3, seed=33), randn(2, seed=34)  # (N, d), (N,) with N < d
    w = torch.zeros(3, dtype=torch.float64)  # (d,)
    for _ in range(K):
        w = w + lr * X.T @ (y - X @ w)
    yield (X, y, lr, K), w, "it fails where N < d: there H has no inverse, so do not divide by it"
