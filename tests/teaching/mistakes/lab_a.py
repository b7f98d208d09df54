"""Mistakes that readers make in labs/a_linear_regression, and a part of what they are told."""

import torch

from iclnb.teaching import checks


def weights(X, y, ridge):
    return torch.linalg.solve(X.T @ X + ridge, X.T @ y)


MISTAKES = [
    (checks.ridge_weights, lambda X, y, lam: weights(X, y, 0.0), "the weights of least squares"),
    (checks.ridge_weights, lambda X, y, lam: weights(X, y, lam), "it belongs on the diagonal"),
    (checks.ridge_weights, lambda X, y, lam: weights(X, y, lam**2 * torch.eye(4)), "the ridge is lam squared"),
    (checks.ridge_weights, lambda X, y, lam: weights(X, y, 6 * lam * torch.eye(4)), "the loss is a sum"),
    (checks.ridge_weights, lambda X, y, lam: weights(X, y, -lam * torch.eye(4)), "the wrong sign"),
    (checks.ridge_weights, lambda X, y, lam: (X.T @ X + lam * torch.eye(4)) @ X.T @ y, "not inverted"),
    (checks.expected_error, lambda n, d: 1 - n / d, "it falls below 0"),
    (checks.expected_error, lambda n, d: (n / d).clamp(max=1), "the share of w that is known"),
    (checks.expected_error, lambda n, d: (d - n).clamp(min=0).double(), "not divided by d"),
    (checks.expected_error, lambda n, d: (1 - n / d).clamp(min=0) ** 2, "each direction counts once"),
    (checks.expected_error, lambda n, d: (n < d).double(), "n of the d directions"),
]
