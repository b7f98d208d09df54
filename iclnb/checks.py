"""Checks: that ways to one result agree, and what is wrong with a reader's answer to an exercise.

`assert_agree` holds the notebooks' own claims. Below it, one function for each exercise; it takes the reader's function
and prints one sentence, "Right: ..." or "Not yet: ...". It never raises because of the answer, so that an unanswered
exercise does not stop a notebook.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from iclnb import attention, duality


def assert_agree(atol: float = 1e-10, **ways: Tensor) -> None:
    """Asserts that several ways to one tensor give the same shape and numbers, and prints that they do.

    Args:
        atol: the largest difference that counts as equal.
        ways: two tensors or more, by the name of the way they were computed.

    Raises:
        AssertionError: two of them differ in shape or numbers; the message says which, and by how much.
    """
    (first, a), *others = ways.items()
    if not others:
        raise ValueError(f"assert_agree got {first} alone; it compares two tensors or more")
    for name, b in others:
        if a.shape != b.shape:
            raise AssertionError(f"{first} has shape {tuple(a.shape)}, {name} has shape {tuple(b.shape)}")
        gap = (a - b).abs().max().item()
        if not gap <= atol:  # true for NaN as well
            raise AssertionError(f"{first} and {name} differ by up to {gap:.2g}; {atol:g} is allowed")
    print(f"{' = '.join(ways)}, shape {tuple(a.shape)}, to {atol:g}")


# ---------------------------------------------------------------------------------------------------------------------
# What every exercise needs


def close(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors have one shape and the same numbers, as far as float32 carries."""
    return a.shape == b.shape and torch.allclose(a.double(), b.double(), rtol=1e-5, atol=1e-6)


def find_fault(
    answer: Callable, inputs: tuple, right: Tensor, name: str, shape: str, mistakes: list[tuple[Tensor, str]]
) -> str | None:
    """Looks for what is wrong with a reader's function, from the coarse to the fine.

    Args:
        answer: the reader's function.
        inputs: what to call it with; tensors among them are copied first.
        right: what it should return.
        name: what the result is called in the exercise.
        shape: its shape in letters, such as "(N, d_out)".
        mistakes: wrong results that can be recognised, each with the sentence that explains it.

    Returns:
        One sentence without a full stop, or None when nothing is wrong.
    """
    copies = tuple(x.clone() if isinstance(x, Tensor) else x for x in inputs)
    try:
        got = answer(*copies)
    except Exception as error:  # whatever the reader's code does, the notebook goes on
        return f"your function stops with {type(error).__name__}: {' '.join(str(error).split()).rstrip('.')}"
    if got is None or got is ...:
        return f"the function returns nothing so far; it should return {name}, {shape}"
    if not isinstance(got, Tensor):
        return f"{name} is a {type(got).__name__}; it should be a tensor, {shape}"
    if any(isinstance(x, Tensor) and not torch.equal(x, y) for x, y in zip(inputs, copies, strict=True)):
        return "the function changes one of its arguments in place; work on a copy (`clone`), or use `W = W + ...`"
    if got.ndim == 2 and got.shape != right.shape and got.shape == right.T.shape:
        return f"{name} has the transposed shape, {tuple(got.shape)}; {shape} is {tuple(right.shape)} here"
    if got.shape != right.shape:
        return f"{name} has shape {tuple(got.shape)}; {shape} is {tuple(right.shape)} here"
    if close(got, right):
        return None
    for wrong, sentence in mistakes:
        if close(got, wrong):
            return sentence
    return describe_difference(got, right, name)


def describe_difference(got: Tensor, right: Tensor, name: str) -> str:
    """One sentence on how a tensor of the right shape differs from the right one."""
    if not got.isfinite().all():
        return f"{name} is not finite: it holds inf or NaN"
    factor = ((got * right).sum() / right.square().sum()).item()
    if close(got, factor * right) and abs(factor) > 1e-6:
        return f"{name} is {factor:.4g} times what it should be"
    if got.ndim == 2 and got.shape == got.T.shape and close(got, right.T):
        return f"{name} is transposed"
    rows = [close(a, b) for a, b in zip(got, right, strict=True)]  # one for each row
    if any(rows):
        return f"{name} has the right shape, but {name}[{rows.index(False)}] is the first part of it that is wrong"
    return f"{name} has the right shape and the wrong numbers, by up to {(got - right).abs().max():.3g}"


def say(fault: str | None, praise: str) -> None:
    """Prints the verdict on an exercise."""
    print(f"Right: {praise}." if fault is None else f"Not yet: {fault}.")


def randn(*shape: int, seed: int) -> Tensor:
    """Seeded normal numbers in float64, whatever the notebook's default dtype is."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---------------------------------------------------------------------------------------------------------------------
# 01_attention_is_gradient_descent


def cross_entropy_errors(answer: Callable) -> None:
    """Checks E = -lr * dL/dY_hat of the summed cross-entropy, given (Y_hat (N, d_out), labels (N,), lr)."""
    Y_hat, labels, lr = randn(5, 3, seed=1), torch.tensor([0, 2, 1, 1, 0]), 0.3
    p, one_hot = Y_hat.softmax(1), torch.nn.functional.one_hot(labels, 3)  # (N, d_out), (N, d_out)
    right = -lr * (p - one_hot)  # (N, d_out)
    over_examples = -lr * (Y_hat.softmax(0) - one_hot)  # (N, d_out)
    mistakes = [
        (p - one_hot, "this is the gradient itself; the error signal is -lr times it"),
        (lr * (p - one_hot), "the sign is wrong: an error signal points downhill, against the gradient"),
        (-lr * p, "the labels are missing: subtract their one-hot rows from the probabilities"),
        (-lr * (Y_hat - one_hot), "the softmax is missing: subtract the one-hot rows from softmax(Y_hat)"),
        (right / len(labels), "this is the mean over the examples; the loss here is their sum"),
        (over_examples, "your softmax runs over the examples (dim 0); it belongs over the classes (dim 1)"),
    ]
    fault = find_fault(answer, (Y_hat, labels, lr), right, "E", "(N, d_out)", mistakes)
    say(fault, "each row is -lr times (probabilities - one-hot label)")


def sequential_errors(answer: Callable) -> None:
    """Checks E of one-at-a-time descent on squared loss, given (W0 (d_out, d_in), X (N, d_in), Y (N, d_out), lr)."""
    W0, X, Y, lr = randn(2, 3, seed=2), randn(4, 3, seed=3), randn(4, 2, seed=4), 0.2
    _, right = duality.gradient_descent(W0, X, Y, lr, order="sequential")  # (N, d_out)
    _, batch = duality.gradient_descent(W0, X, Y, lr, order="batch")  # (N, d_out)
    with_itself = batch - lr * attention.linear_attention(X, X, batch)  # (N, d_out) keys j <= i
    earlier = with_itself + lr * X.square().sum(1, keepdim=True) * batch  # (N, d_out) keys j < i
    outward = torch.zeros_like(right)  # (N, d_out)
    for i in range(len(X)):
        outward[i] = -lr * (W0 @ X[i] - (X[i] @ X[:i].T) @ outward[:i] - Y[i])  # (d_out,)
    mistakes = [
        (batch, "you used W0 for every example: that is the batch order, and the sequential order was asked"),
        (with_itself, "example i attends to itself, and to batch error signals; only the examples before i count"),
        (earlier, "your values are the batch error signals; use the rows of E that you have computed so far"),
        (outward, "you subtracted the attention over earlier examples; error signals already carry the minus sign"),
        (-right / lr, "these are the gradients; an error signal is -lr times its gradient"),
    ]
    fault = find_fault(answer, (W0, X, Y, lr), right, "E", "(N, d_out)", mistakes)
    say(fault, "sequential descent is strictly causal linear attention over the earlier error signals")


def implied_targets(answer: Callable) -> None:
    """Checks the targets for which v_i are error signals, given (W_ZSL (D, D), K (P, D), V (P, D), lr)."""
    W_ZSL, K, V, lr = randn(3, 3, seed=5), randn(4, 3, seed=6), randn(4, 3, seed=7), 0.25
    now = K @ W_ZSL.T  # (P, D) what the layer says already
    mistakes = [
        (V / lr, "what the layer says already, W_ZSL k_i, is missing"),
        (now + lr * V, "you multiplied by lr; solving v_i = -lr (W_ZSL k_i - y_i) for y_i divides by it"),
        (now + V, "lr is missing: the smaller it is, the further away a target must lie"),
        (now - V / lr, "the sign of v_i is wrong: the target lies in the direction of the error signal"),
        (K @ W_ZSL + V / lr, "W_ZSL is transposed: with rows as tokens, all W_ZSL k_i together are K @ W_ZSL.T"),
    ]
    fault = find_fault(answer, (W_ZSL, K, V, lr), now + V / lr, "Y", "(P, D)", mistakes)
    say(fault, "with these targets, one batch step of descent from W_ZSL makes exactly dW_ICL")


def demonstration_share(answer: Callable) -> None:
    """Checks lam, the softmax mass on the demonstrations, given scores (s_demo (M, P), s_query (M, T))."""
    s_demo, s_query = randn(3, 5, seed=8), randn(3, 2, seed=9)
    demo, query = s_demo.exp().sum(1), s_query.exp().sum(1)  # (M,), (M,)
    log_ratio = s_demo.logsumexp(1) - s_query.logsumexp(1)  # (M,)
    of_scores = s_demo.sum(1) / (s_demo.sum(1) + s_query.sum(1))  # (M,)
    mistakes = [
        (demo / query, "this is the ratio of the two masses; lam is the demonstrations' part of the whole"),
        (query / (demo + query), "this is the query's share; lam is the other part, 1 minus that"),
        (of_scores, "you summed the scores; the softmax mass is the sum of their exponentials"),
        (log_ratio, "this is the difference of the two log-sum-exps; lam is the sigmoid of it"),
        (torch.full_like(demo, 5 / 7), "you counted tokens; lam weighs each by the exponential of its score"),
        (torch.full_like(demo, 0.5), "each softmax by itself sums to 1; take one softmax over all scores together"),
    ]
    fault = find_fault(answer, (s_demo, s_query), demo / (demo + query), "lam", "(M,)", mistakes)
    if fault is None:  # now scores of which exp is infinite, even in float64
        s_demo, s_query = 1000 * s_demo, 1000 * s_query
        right = torch.cat([s_demo, s_query], 1).softmax(1)[:, :5].sum(1)  # (M,)
        if find_fault(answer, (s_demo, s_query), right, "lam", "(M,)", []):
            fault = "right for small scores, but exp overflows for large ones; use logsumexp, or one softmax over all"
    say(fault, "this is the share, and it survives scores that are too large for exp")


# ---------------------------------------------------------------------------------------------------------------------
# 07_momentum_attention


def momentum_weights(answer: Callable) -> None:
    """Checks the (T, T) weights eta^(t-i) for i < t, zero elsewhere, given (T, eta)."""
    T, eta = 6, 0.7
    right = attention.ema(torch.eye(T, dtype=torch.float64), eta, method="loop")  # (T, T) one value vector a position
    mistakes = [
        (right.T, "the matrix is transposed: row t holds the weights of position t, so its entries are left of t"),
        (right + torch.eye(T), "the diagonal must be zero: momentum sums over i < t, without position t itself"),
        (right / eta, "the powers are one too low: the position just before t weighs eta, not 1"),
        (right + right.T, "positions after t have weight too; momentum looks back only"),
        (right + right.T + torch.eye(T), "positions from t on have weight too; momentum sums over i < t"),
        ((1 - eta) * right, "you multiplied by 1 - eta; the paper's sum is not normalised"),
    ]
    say(
        find_fault(answer, (T, eta), right, "the matrix", "(T, T)", mistakes),
        "row t weighs position i < t by eta^(t-i)",
    )


def combined_weights(answer: Callable) -> None:
    """Checks the one matrix A with MoAttn = A v, given (q (T, D), k (T, D), eta)."""
    q, k, eta, T = randn(5, 4, seed=10), randn(5, 4, seed=11), 0.6, 5
    eye = torch.eye(T, dtype=torch.float64)  # (T, T) as values: what comes out is the weights themselves
    softmax, momentum = attention.softmax_attention(q, k, eye), attention.ema(eye, eta)  # (T, T), (T, T)
    unmasked = attention.softmax_attention(q, k, eye, causal=False)  # (T, T)
    unscaled = attention.softmax_attention(q, k, eye, scale=1.0)  # (T, T)
    right = softmax + momentum  # (T, T)
    mistakes = [
        (softmax, "these are the softmax weights alone; the weights of momentum are missing"),
        (momentum, "these are the weights of momentum alone; the softmax weights are missing"),
        (unmasked + momentum, "the softmax looks ahead: mask the scores of positions after t before it"),
        (unscaled + momentum, "the scores are not scaled; divide them by the square root of D"),
        (right / right.sum(1, keepdim=True), "you normalised the rows; momentum attention adds its weights on top"),
        ((1 - eta) * softmax + eta * momentum, "this is a weighted mean; momentum attention is a plain sum"),
    ]
    say(find_fault(answer, (q, k, eta), right, "A", "(T, T)", mistakes), "A v is momentum attention, for any values v")


# ---------------------------------------------------------------------------------------------------------------------
# 05_icl_versus_finetuning


def recall_to_icl(answer: Callable) -> None:
    """Checks the percentage of what ICL corrects that FT corrects too, given (zsl, ft, icl), each (n,) bool."""
    zsl, ft, icl = (randn(42, seed=seed) > 0.2 for seed in (10, 11, 12))  # (n,) each

    def percent(of: Tensor, among: Tensor) -> Tensor:
        return 100 * of[among].double().mean()  # ()

    mistakes = [
        (
            percent(icl, ~zsl & ft),
            "this is Rec2FTP itself: it starts from what FT corrects; start from what ICL corrects",
        ),
        (percent(ft, icl), "the examples that ZSL gets right are in it; only those that it gets wrong count"),
        (percent(ft, ~zsl), "this is over all that ZSL gets wrong; only those that ICL gets right count"),
        (percent(ft, zsl & icl), "you start from what ZSL gets right; what ICL *corrects* was wrong before"),
        (
            percent(~zsl & ft & icl, zsl | ~zsl),
            "this is a share of all examples; divide by the number that ICL corrects",
        ),
        (percent(ft, ~zsl & icl) / 100, "this is a share between 0 and 1; a percentage was asked for"),
    ]
    fault = find_fault(answer, (zsl, ft, icl), percent(ft, ~zsl & icl), "the percentage", "()", mistakes)
    say(fault, "what ICL corrects is the denominator, what FT corrects of it the numerator")


def attention_update_similarity(answer: Callable) -> None:
    """Checks the mean over heads of cos(a_ICL - a_ZSL, a_FT - a_ZSL), given (a_zsl, a_ft, a_icl), each (H, T)."""
    a_zsl, a_ft, a_icl = (randn(3, 5, seed=seed) for seed in (13, 14, 15))  # (H, T) each

    def cosine(a: Tensor, b: Tensor, dim: int = -1) -> Tensor:
        return torch.cosine_similarity(a, b, dim=dim).mean()  # ()

    icl, ft = a_icl - a_zsl, a_ft - a_zsl  # (H, T) each
    mistakes = [
        (cosine(a_icl, a_ft), "this is the paper's SimAM; compare the updates: subtract a_zsl from both"),
        (
            cosine(icl.flatten(), ft.flatten()),
            "you took one cosine over all heads together; take one for each, then the mean",
        ),
        (cosine(icl, ft, dim=0), "your cosine runs over the heads (dim 0); it belongs over the tokens (dim -1)"),
        (cosine(icl, a_ft), "a_zsl must be subtracted from a_ft too"),
        (cosine(a_icl, ft), "a_zsl must be subtracted from a_icl too"),
        (cosine(icl.softmax(-1), ft.softmax(-1)), "there is a softmax in it; the raw logits are compared"),
        (cosine(icl, a_zsl - a_ft), "one update has the wrong sign: it is after minus before"),
    ]
    fault = find_fault(answer, (a_zsl, a_ft, a_icl), cosine(icl, ft), "the similarity", "()", mistakes)
    say(fault, "one cosine for each head's update, then their mean")
