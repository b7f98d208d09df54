"""The two forms of a trained linear layer, against autograd, torch.optim.SGD and torch's own attention."""

import pytest
import torch
from torch.nn import functional as F

from iclnb.attention import duality

SHAPES = [(1, 2, 3), (5, 4, 3), (9, 3, 4)]  # (N, d_in, d_out)


def agree(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


def problem(N, d_in, d_out, loss):
    X, Y, W0 = (torch.randn(*shape, dtype=torch.float64) for shape in [(N, d_in), (N, d_out), (d_out, d_in)])
    return W0, X, Y if loss == "squared" else torch.randint(d_out, (N,))


def torch_loss(Y_hat, Y, loss):
    return (
        0.5 * F.mse_loss(Y_hat, Y, reduction="sum") if loss == "squared" else F.cross_entropy(Y_hat, Y, reduction="sum")
    )


def sgd(W0, X, Y, lr, loss, batch_size, epochs):
    W = W0.clone().requires_grad_()
    optimizer = torch.optim.SGD([W], lr=lr)
    for _ in range(epochs):
        for x, y in zip(X.split(batch_size), Y.split(batch_size), strict=True):
            optimizer.zero_grad()
            torch_loss(x @ W.T, y, loss).backward()
            optimizer.step()
    return W.detach()


@pytest.mark.parametrize("loss", duality.LOSSES)
@pytest.mark.parametrize("shape", SHAPES)
def test_output_gradient_is_autograds(shape, loss):
    W0, X, Y = problem(*shape, loss)
    Y_hat = (X @ W0.T).requires_grad_()
    torch_loss(Y_hat, Y, loss).backward()
    agree(duality.output_gradient(Y_hat.detach(), Y, loss), Y_hat.grad)


@pytest.mark.parametrize("epochs", [1, 3])
@pytest.mark.parametrize("order", duality.ORDERS)
@pytest.mark.parametrize("loss", duality.LOSSES)
@pytest.mark.parametrize("shape", SHAPES)
def test_weights_are_sgds_and_the_dual_form_is_the_trained_layer(shape, loss, order, epochs):
    W0, X, Y = problem(*shape, loss)
    before = W0.clone()
    W, E = duality.gradient_descent(W0, X, Y, 0.1, order=order, loss=loss, epochs=epochs)
    agree(W, sgd(W0, X, Y, 0.1, loss, len(X) if order == "batch" else 1, epochs))
    assert E.shape == (epochs * shape[0], shape[2])
    x = torch.randn(7, shape[1], dtype=torch.float64)
    agree(duality.dual_form(W0, X.repeat(epochs, 1), E, x), x @ W.T)
    assert torch.equal(W0, before), "the given weights were changed"


def test_an_epoch_more_is_the_examples_once_more():
    W0, X, Y = problem(5, 4, 3, "squared")
    W, E = duality.gradient_descent(W0, X, Y, 0.1, order="sequential", epochs=2)
    W_twice, E_twice = duality.gradient_descent(W0, X.repeat(2, 1), Y.repeat(2, 1), 0.1, order="sequential")
    agree(W, W_twice)
    agree(E, E_twice)


def test_only_the_sequential_order_depends_on_the_order_of_examples():
    W0, X, Y = problem(6, 4, 3, "squared")
    moved = {}
    for order in duality.ORDERS:
        forward, _ = duality.gradient_descent(W0, X, Y, 0.1, order=order)
        backward, _ = duality.gradient_descent(W0, X.flip(0), Y.flip(0), 0.1, order=order)
        moved[order] = (forward - backward).abs().max().item()
    assert moved["batch"] < 1e-12 < 1e-3 < moved["sequential"]


def test_sequential_errors_solve_a_triangular_system():
    W0, X, Y = problem(6, 4, 3, "squared")
    _, E = duality.gradient_descent(W0, X, Y, 0.1, order="sequential")
    left = torch.eye(6, dtype=torch.float64) + 0.1 * (X @ X.T).tril(-1)
    agree(E, torch.linalg.solve(left, -0.1 * (X @ W0.T - Y)))


@pytest.mark.parametrize(
    "change, complaint",
    [
        ({"order": "random"}, "order is 'random'; it is one of batch, sequential"),
        ({"loss": "hinge"}, "loss is 'hinge'; it is one of squared, cross_entropy"),
        ({"X": torch.ones(0, 4), "Y": torch.ones(0, 3)}, r"X is \(0, 4\)"),
        ({"Y": torch.ones(4, 3)}, r"Y is \(4, 3\)"),
        ({"X": torch.ones(5, 3)}, r"W0 is \(3, 4\)"),
    ],
)
def test_bad_input_is_named(change, complaint):
    good = {"W0": torch.ones(3, 4), "X": torch.ones(5, 4), "Y": torch.ones(5, 3), "lr": 0.1}
    with pytest.raises(ValueError, match=complaint):
        duality.gradient_descent(**(good | change))


def head(P=6, T=3, d=5, D=4):
    X_demo, X_query = torch.randn(P, d, dtype=torch.float64), torch.randn(T, d, dtype=torch.float64)
    W_Q, W_K, W_V = torch.randn(3, D, d, dtype=torch.float64)
    return X_demo, X_query, X_query[-1:] @ W_Q.T, W_K, W_V


def test_relaxed_split_is_linear_attention_token_by_token():
    X_demo, X_query, q, W_K, W_V = head()
    W_ZSL, dW_ICL = duality.relaxed_split(X_demo, X_query, W_K, W_V)
    for W, tokens in [(W_ZSL, X_query), (dW_ICL, X_demo), (W_ZSL + dW_ICL, torch.cat([X_demo, X_query]))]:
        agree(q[0] @ W.T, sum((q[0] @ (W_K @ x)) * (W_V @ x) for x in tokens))


@pytest.mark.parametrize("size", [0.01, 1.0, 100.0])
def test_exact_split_is_torchs_attention_over_everything(size):
    q, k, v = torch.randn(3, 2, 5, 9, 4, dtype=torch.float64)  # (B, H, S, D)
    q = size * q[..., :3, :]
    lam, A_demo, A_query = duality.exact_split(q, k[..., :6, :], v[..., :6, :], k[..., 6:, :], v[..., 6:, :])
    agree(A_demo, F.scaled_dot_product_attention(q, k[..., :6, :], v[..., :6, :]))
    agree(A_query, F.scaled_dot_product_attention(q, k[..., 6:, :], v[..., 6:, :]))
    agree(lam * A_demo + (1 - lam) * A_query, F.scaled_dot_product_attention(q, k, v))
    weights = (q @ k.transpose(-2, -1) / 2).softmax(-1)
    agree(lam, weights[..., :6].sum(-1, keepdim=True))


def test_exact_split_takes_another_scale():
    q, k, v = torch.randn(3, 4, 4, dtype=torch.float64)
    lam, A_demo, A_query = duality.exact_split(q, k[:2], v[:2], k[2:], v[2:], scale=3.0)
    agree(lam * A_demo + (1 - lam) * A_query, F.scaled_dot_product_attention(q, k, v, scale=3.0))
