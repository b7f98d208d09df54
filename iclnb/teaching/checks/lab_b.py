"""Checks of the exercises in labs/b_gradient_descent_by_construction."""

import torch
from torch import Tensor

from iclnb.teaching.checks.core import Case, exercise, randn


@exercise("(lr, loss)", "(2,)", "lr is E tr(H) / E tr(H^2), and the loss is what it cannot reach")
def best_single_step() -> Case:
    """Checks the best learning rate of one step and its expected loss, (2,), given (d, N)."""
    d, N = 6, 9

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


@exercise("the result", "(d,)", "large eigenvalues shrink most, so the valley becomes rounder")
def new_curvature() -> Case:
    """Checks the eigenvalues of the curvature after x -> x - gamma H x, given (eigenvalues (d,), gamma)."""
    eigenvalues, gamma = torch.tensor([0.1, 0.8, 1.5, 2.9], dtype=torch.float64), 0.2
    shrunk = 1 - gamma * eigenvalues  # (d,)
    yield (eigenvalues, gamma), eigenvalues * shrunk.square()
    yield eigenvalues * shrunk, "x enters H = X^T X twice, so the factor counts twice: square it"
    yield shrunk, "this is what x is multiplied by; the eigenvalue itself is missing"
    yield shrunk.square(), "this is the factor; multiply it by the eigenvalue"
    yield eigenvalues * (1 + gamma * eigenvalues).square(), "the sign is wrong: the correction subtracts gamma H x"
    yield eigenvalues * (1 - gamma) ** 2, "you subtracted gamma x; the correction subtracts gamma H x"
