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


def of_square(square):
    """The rate and the loss that follow from E tr(H^2), given (d, N)."""

    def answer(d, N):
        trace = N * d / 12
        return torch.tensor([trace / square(d, N), (d - trace**2 / square(d, N)) / 24])

    return answer


def same(d):
    return d / 80 + d * (d - 1) / 144


def powers(X, y, lr, K, power=torch.linalg.matrix_power, sign=-1):
    A = torch.eye(X.shape[1]) + sign * lr * X.T @ X
    return lr * sum(power(A, k) for k in range(K)) @ X.T @ y


def inverted(X, y, lr, K):
    H, eye = X.T @ X, torch.eye(X.shape[1])
    return torch.linalg.solve(H, (eye - torch.linalg.matrix_power(eye - lr * H, K)) @ X.T @ y)


MISTAKES = [
    (checks.best_single_step, lambda d, N: step(d, N, half=1.0), "a factor 1/2 in front"),
    (checks.best_single_step, lambda d, N: step(d, N) * torch.tensor([N, 1.0]), "N times too large"),
    (checks.best_single_step, lambda d, N: step(d, N, fourth=3 / 144), "this holds for normal inputs"),
    (checks.best_single_step, lambda d, N: step(d, N, fourth=1 / 144), "E x^4 is not (E x^2)^2"),
    (checks.best_single_step, lambda d, N: torch.tensor([12 / N, 0.0]), "you replaced H by its mean"),
    (checks.best_single_step, of_square(lambda d, N: N * same(d) + N**2 * d / 144), "not N^2"),
    (checks.best_single_step, of_square(lambda d, N: N * same(d)), "the pairs with i other than j are missing"),
    (checks.best_single_step, of_square(lambda d, N: N * d / 80 + N * (N - 1) * d / 144), "two different entries"),
    (checks.best_single_step, lambda d, N: step(d, N).flip(0), "the two are swapped"),
    (checks.best_single_step, lambda d, N: step(d, N) * torch.tensor([1.0, 12.0]), "lacks the 1/12"),
    (checks.many_steps, lambda X, y, lr, K: lr * X.T @ y, "this is one step"),
    (checks.many_steps, lambda X, y, lr, K: walk(X, y, lr, K + 1), "one step too many"),
    (checks.many_steps, lambda X, y, lr, K: walk(X, y, lr, K - 1), "one step too few"),
    (checks.many_steps, lambda X, y, lr, K: walk(X, y, lr, K + 1) - lr * X.T @ y, "the powers are one too high"),
    (checks.many_steps, lambda X, y, lr, K: walk(X, y, lr, K) / lr, "in front of the sum is missing"),
    (checks.many_steps, lambda X, y, lr, K: K * lr * X.T @ y, "all see y itself"),
    (checks.many_steps, lambda X, y, lr, K: torch.linalg.lstsq(X, y[:, None]).solution[:, 0], "this is least squares"),
    (checks.many_steps, lambda *given: powers(*given, power=torch.pow), "raises each entry to a power"),
    (checks.many_steps, lambda *given: powers(*given, sign=1), "not by I + lr H"),
    (checks.many_steps, lambda X, y, lr, K: powers(X, y, lr / len(X), K), "not divided by N"),
    (checks.many_steps, inverted, "it fails where N < d"),
]
