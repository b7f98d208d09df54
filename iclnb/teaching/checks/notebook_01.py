"""Checks of the exercises in 01_attention_is_gradient_descent."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from iclnb.attention import duality, linear_attention
from iclnb.teaching.checks.core import Case, exercise, randn


@exercise("E", "(N, d_out)", "each row is -lr times (probabilities - one-hot label)")
def cross_entropy_errors() -> Case:
    """Checks E = -lr * dL/dY_hat of the summed cross-entropy, given (Y_hat (N, d_out), labels (N,), lr)."""
    Y_hat, labels, lr = randn(5, 3, seed=1), torch.tensor([0, 2, 1, 1, 0]), 0.3
    p, one_hot = Y_hat.softmax(1), torch.nn.functional.one_hot(labels, 3)  # (N, d_out), (N, d_out)
    right = -lr * (p - one_hot)  # (N, d_out)
    over_examples = -lr * (Y_hat.softmax(0) - one_hot)  # (N, d_out)
    yield (Y_hat, labels, lr), right
    yield p - one_hot, "this is the gradient itself; the error signal is -lr times it"
    yield lr * (p - one_hot), "the sign is wrong: an error signal points downhill, against the gradient"
    yield -lr * p, "the labels are missing: subtract their one-hot rows from the probabilities"
    yield -lr * (Y_hat - one_hot), "the softmax is missing: subtract the one-hot rows from softmax(Y_hat)"
    yield right / len(labels), "this is the mean over the examples; the loss here is their sum"
    yield over_examples, "your softmax runs over the examples (dim 0); it belongs over the classes (dim 1)"


class _Made(TorchDispatchMode):
    """While it is entered, keeps every tensor that torch makes or changes, but for copies and views of `given`."""

    def __init__(self, given: torch.Tensor):
        super().__init__()
        self.copies, self.tensors = [given.untyped_storage()], []  # held, so that no address is used again

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for x in (x for x in tree_leaves(result) if isinstance(x, torch.Tensor)):
            if func.overloadpacket in (torch.ops.aten.clone, torch.ops.aten._to_copy) and self.is_copy(args[0]):
                self.copies.append(x.untyped_storage())
            elif func._schema.is_mutable or not self.is_copy(x):
                self.tensors.append(x)
        return result

    def is_copy(self, x: torch.Tensor) -> bool:
        return x.untyped_storage().data_ptr() in {storage.data_ptr() for storage in self.copies}


def makes_weights(answer) -> str | None:
    """Whether a function of (W0, X, Y, lr) makes a matrix of the size of W0, which no other matrix has here."""
    W0, X, Y = randn(5, 7, seed=2), randn(4, 7, seed=3), randn(4, 5, seed=4)  # (d_out, d_in), (N, d_in), (N, d_out)
    with _Made(W0) as made:
        try:
            answer(W0, X, Y, 0.2)
        except Exception:  # it was right for other sizes, and this is only a second look
            return None
    if any(set(x.shape[-2:]) == {5, 7} for x in made.tensors):
        return "the numbers are right, but a weight matrix, (d_out, d_in), is made; inner products of inputs are enough"
    return None


@exercise(
    "E",
    "(N, d_out)",
    "sequential descent is strictly causal linear attention over the earlier error signals",
    also=makes_weights,
)
def sequential_errors() -> Case:
    """Checks E of one-at-a-time descent on squared loss, given (W0 (d_out, d_in), X (N, d_in), Y (N, d_out), lr)."""
    W0, X, Y, lr = randn(2, 3, seed=2), randn(4, 3, seed=3), randn(4, 2, seed=4), 0.2
    _, right = duality.gradient_descent(W0, X, Y, lr, order="sequential")  # (N, d_out)
    _, batch = duality.gradient_descent(W0, X, Y, lr, order="batch")  # (N, d_out)
    with_itself = batch - lr * linear_attention(X, X, batch)  # (N, d_out) keys j <= i
    earlier = with_itself + lr * X.square().sum(1, keepdim=True) * batch  # (N, d_out) keys j < i
    outward = torch.zeros_like(right)  # (N, d_out)
    for i in range(len(X)):
        outward[i] = -lr * (W0 @ X[i] - (X[i] @ X[:i].T) @ outward[:i] - Y[i])  # (d_out,)
    yield (W0, X, Y, lr), right
    yield batch, "you used W0 for every example: that is the batch order, and the sequential order was asked"
    yield with_itself, "example i attends to itself, and to batch error signals; only the examples before i count"
    yield earlier, "your values are the batch error signals; use the rows of E that you have computed so far"
    yield outward, "you subtracted the attention over earlier examples; error signals already carry the minus sign"
    yield -right / lr, "these are the gradients; an error signal is -lr times its gradient"


@exercise("Y", "(P, D)", "with these targets, one batch step of descent from W_ZSL makes exactly dW_ICL")
def implied_targets() -> Case:
    """Checks the targets for which v_i are error signals, given (W_ZSL (D, D), K (P, D), V (P, D), lr)."""
    W_ZSL, K, V, lr = randn(3, 3, seed=5), randn(4, 3, seed=6), randn(4, 3, seed=7), 0.25
    now = K @ W_ZSL.T  # (P, D) what the layer says already
    yield (W_ZSL, K, V, lr), now + V / lr
    yield V / lr, "what the layer says already, W_ZSL k_i, is missing"
    yield now + lr * V, "you multiplied by lr; solving v_i = -lr (W_ZSL k_i - y_i) for y_i divides by it"
    yield now + V, "lr is missing: the smaller it is, the further away a target must lie"
    yield now - V / lr, "the sign of v_i is wrong: the target lies in the direction of the error signal"
    yield K @ W_ZSL + V / lr, "W_ZSL is transposed: with rows as tokens, all W_ZSL k_i together are K @ W_ZSL.T"


@exercise("lam", "(M,)", "this is the share, and it survives scores that are too large for exp")
def demonstration_share() -> Case:
    """Checks lam, the softmax mass on the demonstrations, given scores (s_demo (M, P), s_query (M, T))."""
    s_demo, s_query = randn(3, 5, seed=8), randn(3, 2, seed=9)
    demo, query = s_demo.exp().sum(1), s_query.exp().sum(1)  # (M,), (M,)
    log_ratio = s_demo.logsumexp(1) - s_query.logsumexp(1)  # (M,)
    of_scores = s_demo.sum(1) / (s_demo.sum(1) + s_query.sum(1))  # (M,)
    yield (s_demo, s_query), demo / (demo + query)
    yield demo / query, "this is the ratio of the two masses; lam is the demonstrations' part of the whole"
    yield query / (demo + query), "this is the query's share; lam is the other part, 1 minus that"
    yield of_scores, "you summed the scores; the softmax mass is the sum of their exponentials"
    yield log_ratio, "this is the difference of the two log-sum-exps; lam is the sigmoid of it"
    yield torch.full_like(demo, 5 / 7), "you counted tokens; lam weighs each by the exponential of its score"
    yield torch.full_like(demo, 0.5), "each softmax by itself sums to 1; take one softmax over all scores together"
    s_demo, s_query = 1000 * s_demo, 1000 * s_query  # scores of which exp is infinite, even in float64
    fails = "right for small scores, but exp overflows for large ones; use logsumexp, or one softmax over all"
    yield (s_demo, s_query), torch.cat([s_demo, s_query], 1).softmax(1)[:, :5].sum(1), fails
