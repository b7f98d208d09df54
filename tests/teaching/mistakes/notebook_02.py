"""Mistakes that readers make in 02_icl_is_implicit_finetuning, and a part of what they are told."""

from iclnb.teaching import checks

MISTAKES = [
    (checks.forget_demonstrations, lambda h, lam, A: h - lam * A, "so divide"),
    (checks.forget_demonstrations, lambda h, lam, A: h - A, "only its share lam"),
    (checks.forget_demonstrations, lambda h, lam, A: (h - lam * A) / lam, "you divided by lam"),
    (checks.forget_demonstrations, lambda h, lam, A: (h - (1 - lam) * A) / lam, "you swapped the two shares"),
    (checks.forget_demonstrations, lambda h, lam, A: h - lam * (A - h), "in the place of A_query"),
    (checks.first_order_attention, lambda s, V: s.softmax(1) @ V, "softmax attention itself"),
    (checks.first_order_attention, lambda s, V: (s - s.mean(1, keepdim=True)) @ V / len(V), "mean of the values is"),
    (checks.first_order_attention, lambda s, V: V.mean(0) + s @ V / len(V), "the scores are not centred"),
    (
        checks.first_order_attention,
        lambda s, V: V.mean(0) + (s - s.mean(1, keepdim=True)) @ V,
        "the number of tokens P",
    ),
    (checks.first_order_attention, lambda s, V: V.sum(0) + (s - s.mean(1, keepdim=True)) @ V, "sums over the tokens"),
    (checks.first_order_attention, lambda s, V: V.mean(0) + (s - s.mean()) @ V / len(V), "each query has its own"),
    (checks.first_order_attention, lambda s, V: V.mean(0) + (s - s.mean(0)) @ V / len(V), "over the queries (dim 0)"),
]
