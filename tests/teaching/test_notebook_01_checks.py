"""Sequential descent without weights: other right ways than the printed one are accepted."""

import pytest
import torch

from iclnb.teaching import checks


def one_by_one(W0, X, Y, lr):
    W, E = W0.clone(), []  # a copy that is never changed
    for i in range(len(X)):
        earlier = sum((E[j] * (X[j] @ X[i]) for j in range(i)), torch.zeros(len(W0)))
        E.append(-lr * (W @ X[i] + earlier - Y[i]))
    return torch.stack(E)


def closed_form(W0, X, Y, lr):
    left = torch.eye(len(X)) + lr * (X @ X.T).tril(-1)
    return torch.linalg.solve_triangular(left, -lr * (X @ W0.T - Y), upper=False, unitriangular=True)


def in_float32(W0, X, Y, lr):
    return closed_form(*(x.float() for x in (W0, X, Y)), lr).double()


@pytest.mark.parametrize("answer", [one_by_one, closed_form, in_float32])
def test_a_right_way_without_weights_is_right(answer, capsys):
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32 if answer is in_float32 else torch.float64)
    try:
        checks.sequential_errors(answer)
    finally:
        torch.set_default_dtype(before)
    assert capsys.readouterr().out.startswith("Right: ")
