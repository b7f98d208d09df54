"""Muon: its singular values against the polynomial that defines them, its steps against torch's own."""

import pytest
import torch

from iclnb.training.muon import COEFFICIENTS, ITERATIONS, Muon, orthogonalise


@pytest.mark.parametrize("shape", [(3, 5, 5), (2, 4, 9)])
def test_singular_vectors_stay_and_singular_values_follow_the_polynomial(shape):
    matrices = torch.randn(*shape, dtype=torch.float64)
    U, S, Vh = torch.linalg.svd(matrices, full_matrices=False)
    S = S / S.square().sum(-1, keepdim=True).sqrt()
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        S = a * S + b * S**3 + c * S**5
    expected = U @ S.diag_embed() @ Vh
    torch.testing.assert_close(orthogonalise(matrices, torch.float64), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("precision, tolerance", [(torch.bfloat16, 1e-2), (torch.float32, 2e-2)])
def test_steps_equal_torchs_own(precision, tolerance):
    """Whose iterations are in bfloat16: to its digits."""
    start = [torch.randn(*shape) for shape in ((6, 4), (4, 6), (4, 6), (5, 5))]
    ours, theirs = ([torch.nn.Parameter(x.clone()) for x in start] for _ in range(2))
    one = Muon(ours, lr=0.1, weight_decay=0.2, precision=precision)
    other = torch.optim.Muon(theirs, lr=0.1, weight_decay=0.2)
    for _ in range(3):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        one.step(), other.step()
    for p, q, x in zip(ours, theirs, start, strict=True):
        assert (p - q).norm() <= tolerance * (q - x).norm()


def test_matrices_of_one_shape_are_one_product_each_by_itself(monkeypatch):
    """However they lie, upright or not; and the step of each is what it would be alone."""
    shapes, calls = [(6, 4), (4, 6), (5, 5), (4, 6)], []
    start, grads = ([torch.randn(*shape, dtype=torch.float64) for shape in shapes] for _ in range(2))
    monkeypatch.setattr(
        "iclnb.training.muon.orthogonalise", lambda x, to: calls.append(x.shape) or orthogonalise(x, to)
    )

    def stepped(*which):
        parameters = [torch.nn.Parameter(start[i].clone()) for i in which]
        for i, p in zip(which, parameters, strict=True):
            p.grad = grads[i].clone()
        Muon(parameters, lr=0.1, precision=torch.float64).step()
        return parameters

    together = stepped(0, 1, 2, 3)
    assert calls == [(3, 4, 6), (1, 5, 5)]
    torch.testing.assert_close(together, [stepped(i)[0] for i in range(4)], rtol=1e-10, atol=1e-10)


def test_a_matrix_without_a_gradient_stays():
    still, moved = (torch.nn.Parameter(torch.ones(2, 3)) for _ in range(2))
    moved.grad = torch.ones(2, 3)
    Muon([still, moved], lr=0.1).step()
    assert still.equal(torch.ones(2, 3)) and not moved.equal(torch.ones(2, 3))
