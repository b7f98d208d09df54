"""Checks of the exercises in 02_icl_is_implicit_finetuning."""

from iclnb.attention import duality
from iclnb.teaching.checks.core import Case, exercise, randn


@exercise("h_ZSL", "(M, D)", "what is left after taking lam * A_demo away is (1 - lam) * A_query")
def forget_demonstrations() -> Case:
    """Checks h_ZSL for given layer inputs, given (h_ICL (M, D), lam (M, 1), A_demo (M, D))."""
    q, k_demo, v_demo = randn(3, 4, seed=20), randn(5, 4, seed=21), randn(5, 4, seed=22)  # (M, D), (P, D), (P, D)
    lam, A_demo, A_query = duality.exact_split(q, k_demo, v_demo, randn(2, 4, seed=23), randn(2, 4, seed=24))
    h_ICL = lam * A_demo + (1 - lam) * A_query  # (M, D)
    yield (h_ICL, lam, A_demo), A_query
    yield h_ICL - lam * A_demo, "this is (1 - lam) * A_query; the query's weights must sum to 1 again, so divide"
    yield h_ICL - A_demo, "you took all of A_demo away; only its share lam is in h_ICL"
    yield (h_ICL - lam * A_demo) / lam, "you divided by lam; what is left carries the share 1 - lam"
    yield (h_ICL - (1 - lam) * A_demo) / lam, "you swapped the two shares: A_demo has the share lam"
    yield h_ICL - lam * (A_demo - h_ICL), "you put h_ICL in the place of A_query; solve the split for A_query"


@exercise("the result", "(M, D)", "the mean of the values, and a linear attention with centred scores")
def first_order_attention() -> Case:
    """Checks mean(v) + sum_i (s_i - mean(s)) v_i / P, given (s (M, P), V (P, D))."""
    s, V = randn(3, 5, seed=25), randn(5, 4, seed=26)  # (M, P), (P, D)
    mean, centred = V.mean(0), s - s.mean(1, keepdim=True)  # (D,), (M, P)
    yield (s, V), mean + centred @ V / 5
    yield s.softmax(1) @ V, "this is softmax attention itself; its first-order form in the scores was asked"
    yield centred @ V / 5, "the mean of the values is missing: attention with equal scores is not zero"
    yield mean + s @ V / 5, "the scores are not centred: a constant added to all of them must change nothing"
    yield mean + centred @ V, "the second part is a mean too: divide by the number of tokens P"
    yield V.sum(0) + centred @ V, "these are sums over the tokens; both parts are means, so divide by P"
    yield mean + (s - s.mean()) @ V / 5, "you subtracted one mean of all scores; each query has its own"
    yield mean + (s - s.mean(0)) @ V / 5, "your mean runs over the queries (dim 0); it belongs over the tokens (dim 1)"
