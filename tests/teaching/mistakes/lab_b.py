"""Mistakes that readers make in labs/b_gradient_descent_by_construction, and a part of what they are told."""

import torch

from iclnb.teaching import checks


def step(d, N, fourth=1 / 80, half=0.5):
    trace, square = N * d / 12, N * (d * fourth + d * (d - 1) / 144) + N * (N - 1) * d / 144
    return torch.tensor([trace / square, half / 12 * (d - trace**2 / square)])


def walk(X, y, lr, K):
    w = torch.zeros(X.shape[1])
    for _ in range(K):
        w = w - lr * X.T @ (X @ w - y)
    return w


MISTAKES = [
    (checks.best_single_step, lambda d, N: step(d, N, half=1.0), "a factor 1/2 in front"),
    (checks.best_single_step, lambda d, N: step(d, N) * torch.tensor([N, 1.0]), "N times too large"),
    (checks.best_single_step, lambda d, N: step(d, N, fourth=3 / 144), "this holds for normal inputs"),
    (checks.best_single_step, lambda d, N: step(d, N, fourth=1 / 144), "E x^4 is not (E x^2)^2"),
    (checks.best_single_step, lambda d, N: torch.tensor([12 / N, 0.0]), "you replaced H by its mean"),
    (checks.many_steps, lambda X, y, lr, K: lr * X.T @ y, "this is one step"),
    (checks.many_steps, lambda X, y, lr, K: walk(X, y, lr, K + 1), "one step too many"),
    (checks.many_steps, lambda X, y, lr, K: walk(X, y, lr, K - 1), "one step too few"),
    (checks.many_steps, lambda X, y, lr, K: walk(X, y, lr, K + 1) - lr * X.T @ y, "the powers are one too high"),
    (checks.many_steps, lambda X, y, lr, K: walk(X, y, lr, K) / lr, "in front of the sum is missing"),
    (checks.many_steps, lambda X, y, lr, K: K * lr * X.T @ y, "all see y itself"),
    (checks.many_steps, lambda X, y, lr, K: torch.linalg.lstsq(X, y[:, None]).solution[:, 0], "this is least squares"),
    (checks.new_curvature, lambda e, gamma: e * (1 - gamma * e), "the factor counts twice"),
    (checks.new_curvature, lambda e, gamma: 1 - gamma * e, "the eigenvalue itself is missing"),
    (checks.new_curvature, lambda e, gamma: (1 - gamma * e) ** 2, "multiply it by the eigenvalue"),
    (checks.new_curvature, lambda e, gamma: e * (1 + gamma * e) ** 2, "the sign is wrong"),
    (checks.new_curvature, lambda e, gamma: e * (1 - gamma) ** 2, "you subtracted gamma x;"),
]
