"""Gradient descent on a linear layer, and linear attention over its training examples: one function, two forms.

Rows are examples, as in torch. N training inputs are X, (N, d_in); a layer is W, (d_out, d_in), and maps them all by
X @ W.T, (N, d_out). The paper writes an example as a column, so its X' is our X transposed.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from iclnb.attention.softmax import attention_with_mass, linear_attention

ORDERS = ("batch", "sequential")
LOSSES = ("squared", "cross_entropy")


def output_gradient(Y_hat: Tensor, Y: Tensor, loss: str) -> Tensor:
    """Derivative of a loss, summed over examples, with respect to the outputs of a layer.

    Args:
        Y_hat: outputs, (N, d_out).
        Y: for "squared", targets, (N, d_out); for "cross_entropy", class numbers, (N,) int64.
        loss: "squared", half the squared error, or "cross_entropy", on softmax(Y_hat).

    Returns:
        dL/dY_hat, (N, d_out).

    Raises:
        ValueError: an unknown loss.
    """
    if loss == "squared":
        return Y_hat - Y  # (N, d_out)
    if loss == "cross_entropy":
        return Y_hat.softmax(-1) - F.one_hot(Y, Y_hat.shape[-1])  # (N, d_out)
    raise ValueError(f"loss is {loss!r}; it is one of {', '.join(LOSSES)}")


def gradient_descent(
    W0: Tensor, X: Tensor, Y: Tensor, lr: float, order: str = "batch", loss: str = "squared", epochs: int = 1
) -> tuple[Tensor, Tensor]:
    """Trains a linear layer by gradient descent, and keeps the error signal of every example it saw.

    An error signal is e_i = -lr * dL/dy_i, and adds the outer product of e_i and x_i to the weights.

    Args:
        W0: weights before training, (d_out, d_in).
        X: training inputs, (N, d_in).
        Y: targets, as output_gradient takes them.
        lr: learning rate.
        order: "batch", every error signal of an epoch is taken at the same weights; or "sequential", one example at a
            time, so that each error signal depends on the examples before it.
        loss: "squared" or "cross_entropy", summed over examples.
        epochs: how often the examples are gone through.

    Returns:
        Trained weights W, (d_out, d_in), and error signals E, (epochs * N, d_out), in the order of training.

    Raises:
        ValueError: an unknown order or loss, no examples, or shapes that do not fit.

    Source: Dai et al. 2023, eq. 7 and 8.
    """
    if order not in ORDERS:
        raise ValueError(f"order is {order!r}; it is one of {', '.join(ORDERS)}")
    if len(X) == 0 or len(X) != len(Y) or X.shape[-1] != W0.shape[-1]:
        shapes = f"X is {tuple(X.shape)}, Y is {tuple(Y.shape)}, W0 is {tuple(W0.shape)}"
        raise ValueError(f"{shapes}; they must be (N, d_in), (N, ...), (d_out, d_in) with N of at least 1")
    n = len(X) if order == "batch" else 1  # examples that share one state of the weights
    W, E = W0, []
    for _ in range(epochs):
        for x, y in zip(X.split(n), Y.split(n), strict=True):  # (n, d_in), (n, ...)
            e = -lr * output_gradient(x @ W.T, y, loss)  # (n, d_out)
            W = W + e.T @ x  # (d_out, d_in), the sum of n outer products
            E.append(e)
    return W, torch.cat(E)  # (d_out, d_in), (epochs * N, d_out)


def dual_form(W0: Tensor, X: Tensor, E: Tensor, x: Tensor) -> Tensor:
    """A trained linear layer without its trained weights, F(x) = W0 x + sum_i e_i (x_i . x).

    Args:
        W0: weights before training, (d_out, d_in).
        X: training inputs in the order of training, once for each time they were seen, (N, d_in). They are the keys.
        E: their error signals, (N, d_out). They are the values.
        x: test inputs, (M, d_in). They are the queries.

    Returns:
        Outputs of the trained layer, (M, d_out).

    Source: Dai et al. 2023, eq. 9; Irie et al. 2022, section 2; Aizerman et al. 1964.
    """
    return x @ W0.T + linear_attention(q=x, k=X, v=E, causal=False)  # (M, d_out)


def relaxed_split(X_demo: Tensor, X_query: Tensor, W_K: Tensor, W_V: Tensor) -> tuple[Tensor, Tensor]:
    """The two matrices into which linear attention over [demonstrations; query] falls: (W_ZSL + dW_ICL) q.

    Args:
        X_demo: representations of P demonstration tokens, (P, d).
        X_query: representations of the query's own T tokens, (T, d).
        W_K, W_V: key and value projections of the head, (D, d).

    Returns:
        W_ZSL and dW_ICL, each (D, D).

    Source: Dai et al. 2023, eq. 11 and 12, with rows as tokens.
    """
    W_ZSL = (X_query @ W_V.T).T @ (X_query @ W_K.T)  # (D, T) (T, D) -> (D, D)
    dW_ICL = (X_demo @ W_V.T).T @ (X_demo @ W_K.T)  # (D, P) (P, D) -> (D, D)
    return W_ZSL, dW_ICL


def exact_split(
    q: Tensor, k_demo: Tensor, v_demo: Tensor, k_query: Tensor, v_query: Tensor, scale: float | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Softmax attention over [demonstrations; query] as lam * A_demo + (1 - lam) * A_query, with nothing left out.

    Args:
        q: query vectors that see every key, (..., M, D).
        k_demo, v_demo: keys and values of the demonstrations, (..., P, D).
        k_query, v_query: keys and values of the query's own tokens, (..., T, D).
        scale: factor on the inner products; None is 1 / sqrt(D).

    Returns:
        lam, the share of the softmax mass on the demonstrations, (..., M, 1); A_demo, attention over the demonstrations
        alone, (..., M, D); A_query, attention over the query's own tokens alone, (..., M, D).
    """
    plain = {"causal": False, "scale": scale, "fused": False}
    A_demo, mass_demo = attention_with_mass(q, k_demo, v_demo, **plain)  # (..., M, D), (..., M)
    A_query, mass_query = attention_with_mass(q, k_query, v_query, **plain)  # (..., M, D), (..., M)
    return (mass_demo - mass_query).sigmoid().unsqueeze(-1), A_demo, A_query
