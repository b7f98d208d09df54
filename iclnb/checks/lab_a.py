"""Checks of the exercises in labs/a_linear_regression."""

from collections.abc import Callable

import torch
from torch import Tensor

from iclnb.checks.core import find_fault, randn, say


def ridge_weights(answer: Callable) -> None:
    """Checks (X^T X + lam I)^-1 X^T y, given X (n, d), y (n,) and lam."""
    X, y, lam = randn(6, 4, seed=30), randn(6, seed=31), 0.7
    gram, moment, eye = X.T @ X, X.T @ y, torch.eye(4, dtype=X.dtype)  # (d, d), (d,), (d, d)
    mistakes = [
        (torch.linalg.solve(gram, moment), "there is no ridge in it; these are the weights of least squares"),
        (torch.linalg.solve(gram + lam, moment), "lam is added to every entry of X^T X; it belongs on the diagonal"),
        (torch.linalg.solve(gram + lam**2 * eye, moment), "the ridge is lam squared; it should be lam"),
        (torch.linalg.solve(gram + len(X) * lam * eye, moment), "the ridge is n lam; the loss is a sum, not a mean"),
        (torch.linalg.solve(gram - lam * eye, moment), "lam has the wrong sign"),
        ((gram + lam * eye) @ moment, "the matrix is not inverted"),
    ]
    right = torch.linalg.solve(gram + lam * eye, moment)  # (d,)
    fault = find_fault(answer, (X, y, lam), right, "w", "(d,)", mistakes)
    say(fault, "with lam = sigma^2 nobody who knows only the pairs does better")


def expected_error(answer: Callable) -> None:
    """Checks the expected error of the shortest least-squares solution, max(0, 1 - n / d), given n (m,) and d."""
    n, d = torch.tensor([0, 1, 3, 4, 5, 9]), 4
    share = n / d  # (m,)
    mistakes: list[tuple[Tensor, str]] = [
        (1 - share, "it falls below 0 for n > d; with d pairs everything is known, and the error stays 0"),
        (share.clamp(max=1), "this is the share of w that is known; the error is what is left"),
        ((1 - share).clamp(min=0) * d, "this is not divided by d; predicting 0 should cost 1"),
        ((1 - share).clamp(min=0).square(), "the squares are in the expectation already; each direction counts once"),
        ((n < d).double(), "before n = d something is known: n of the d directions"),
    ]
    fault = find_fault(answer, (n, d), (1 - share).clamp(min=0), "the error", "(m,)", mistakes)
    say(fault, "n of d directions are known, and no predictor can know more")
