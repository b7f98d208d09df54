"""Checks of the exercises in labs/a_linear_regression."""

import torch

from iclnb.teaching.checks.core import Case, exercise, pick, randn


@exercise("w", "(d,)", "with lam = sigma^2 nobody who knows only the pairs does better")
def ridge_weights() -> Case:
    """Checks (X^T X + lam I)^-1 X^T y, given X (n, d), y (n,) and lam."""
    X, y, lam = randn(6, 4, seed=30), randn(6, seed=31), 0.7
    gram, moment, eye = X.T @ X, X.T @ y, torch.eye(4, dtype=X.dtype)  # (d, d), (d,), (d, d)
    yield (X, y, lam), torch.linalg.solve(gram + lam * eye, moment)  # (d,)
    yield torch.linalg.solve(gram, moment), "there is no ridge in it; these are the weights of least squares"
    yield torch.linalg.solve(gram + lam, moment), "lam is added to every entry of X^T X; it belongs on the diagonal"
    yield torch.linalg.solve(gram + lam**2 * eye, moment), "the ridge is lam squared; it should be lam"
    yield torch.linalg.solve(gram + len(X) * lam * eye, moment), "the ridge is n lam; the loss is a sum, not a mean"
    yield torch.linalg.solve(gram - lam * eye, moment), "lam has the wrong sign"
    yield (gram + lam * eye) @ moment, "the matrix is not inverted"


@exercise("the error", "(m,)", "n of d directions are known, and no predictor can know more")
def expected_error() -> Case:
    """Checks the expected error of the shortest least-squares solution, max(0, 1 - n / d), given n (m,) and d."""
    n, d = torch.tensor([0, 1, 3, 4, 5, 9]), pick(4, 5, 3, 8)
    share = n / d  # (m,)
    yield (n, d), (1 - share).clamp(min=0)
    yield 1 - share, "it falls below 0 for n > d; with d pairs everything is known, and the error stays 0"
    yield share.clamp(max=1), "this is the share of w that is known; the error is what is left"
    yield (1 - share).clamp(min=0) * d, "this is not divided by d; predicting 0 should cost 1"
    yield (1 - share).clamp(min=0).square(), "the squares are in the expectation already; each direction counts once"
    yield (n < d).double(), "before n = d something is known: n of the d directions"
