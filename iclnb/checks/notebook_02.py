"""Checks of the exercises in 02_icl_is_implicit_finetuning."""

from collections.abc import Callable

from iclnb import duality
from iclnb.checks.core import find_fault, randn, say


def forget_demonstrations(answer: Callable) -> None:
    """Checks h_ZSL for given layer inputs, given (h_ICL (M, D), lam (M, 1), A_demo (M, D))."""
    q, k_demo, v_demo = randn(3, 4, seed=20), randn(5, 4, seed=21), randn(5, 4, seed=22)  # (M, D), (P, D), (P, D)
    lam, A_demo, A_query = duality.exact_split(q, k_demo, v_demo, randn(2, 4, seed=23), randn(2, 4, seed=24))
    h_ICL = lam * A_demo + (1 - lam) * A_query  # (M, D)
    mistakes = [
        (h_ICL - lam * A_demo, "this is (1 - lam) * A_query; the query's weights must sum to 1 again, so divide"),
        (h_ICL - A_demo, "you took all of A_demo away; only its share lam is in h_ICL"),
        ((h_ICL - lam * A_demo) / lam, "you divided by lam; what is left carries the share 1 - lam"),
        ((h_ICL - (1 - lam) * A_demo) / lam, "you swapped the two shares: A_demo has the share lam"),
        (h_ICL - lam * (A_demo - h_ICL), "you put h_ICL in the place of A_query; solve the split for A_query"),
    ]
    fault = find_fault(answer, (h_ICL, lam, A_demo), A_query, "h_ZSL", "(M, D)", mistakes)
    say(fault, "what is left after taking lam * A_demo away is (1 - lam) * A_query")


def first_order_attention(answer: Callable) -> None:
    """Checks mean(v) + sum_i (s_i - mean(s)) v_i / P, given (s (M, P), V (P, D))."""
    s, V = randn(3, 5, seed=25), randn(5, 4, seed=26)  # (M, P), (P, D)
    mean, centred = V.mean(0), s - s.mean(1, keepdim=True)  # (D,), (M, P)
    mistakes = [
        (s.softmax(1) @ V, "this is softmax attention itself; its first-order form in the scores was asked"),
        (centred @ V / 5, "the mean of the values is missing: attention with equal scores is not zero"),
        (mean + s @ V / 5, "the scores are not centred: a constant added to all of them must change nothing"),
        (mean + centred @ V, "the second part is a mean too: divide by the number of tokens P"),
        (V.sum(0) + centred @ V, "these are sums over the tokens; both parts are means, so divide by P"),
        (mean + (s - s.mean()) @ V / 5, "you subtracted one mean of all scores; each query has its own"),
        (mean + (s - s.mean(0)) @ V / 5, "your mean runs over the queries (dim 0); it belongs over the tokens (dim 1)"),
    ]
    fault = find_fault(answer, (s, V), mean + centred @ V / 5, "the result", "(M, D)", mistakes)
    say(fault, "the mean of the values, and a linear attention with centred scores")


def finetuning_update(answer: Callable) -> None:
    """Checks dW_FT = (V + dV)^T (K + dK) - V^T K, given (K, V, dK, dV), each (T, D)."""
    K, V, dK, dV = (randn(5, 3, seed=seed) for seed in (27, 28, 29, 30))  # (T, D) each
    right = (V + dV).T @ (K + dK) - V.T @ K  # (D, D)
    mistakes = [
        (dV.T @ K + V.T @ dK, "the part in which both changes meet, dV^T dK, is missing"),
        (dV.T @ dK, "this is only the part in which both changes meet; each also meets the old keys or values"),
        (dV.T @ K, "this is only the part through the values"),
        (V.T @ dK, "this is only the part through the keys"),
        (right + V.T @ K, "this is the matrix after fine-tuning, W_ZSL + dW_FT; subtract W_ZSL = V^T K"),
        (right.T, "the matrix is transposed: values give its rows, keys its columns"),
    ]
    fault = find_fault(answer, (K, V, dK, dV), right, "dW_FT", "(D, D)", mistakes)
    say(fault, "three parts: through the values, through the keys, and through both")
