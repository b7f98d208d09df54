"""Checks of the exercises in 05_icl_versus_finetuning."""

from collections.abc import Callable

import torch
from torch import Tensor

from iclnb.teaching.checks.core import Case, exercise, randn


@exercise("the percentage", "()", "what ICL corrects is the denominator, what FT corrects of it the numerator")
def recall_to_icl() -> Case:
    """Checks the percentage of what ICL corrects that FT corrects too, given (zsl, ft, icl), each (n,) bool."""
    zsl, ft, icl = (randn(42, seed=seed) > 0.2 for seed in (10, 11, 12))  # (n,) each

    def percent(of: Tensor, among: Tensor) -> Tensor:
        return 100 * of[among].double().mean()  # ()

    yield (zsl, ft, icl), percent(ft, ~zsl & icl)
    yield percent(icl, ~zsl & ft), "this is Rec2FTP itself: start from what ICL corrects, not from what FT does"
    yield percent(ft, icl), "the examples that ZSL gets right are in it; only those that it gets wrong count"
    yield percent(ft, ~zsl), "this is over all that ZSL gets wrong; only those that ICL gets right count"
    yield percent(ft, zsl & icl), "you start from what ZSL gets right; what ICL *corrects* was wrong before"
    yield percent(~zsl & ft & icl, zsl | ~zsl), "this is a share of all examples; divide by what ICL corrects"
    yield percent(ft, ~zsl & icl) / 100, "this is a share between 0 and 1; a percentage was asked for"


@exercise("the score", "(n, L, k)", "a demonstration of twice the tokens has no longer twice the chances")
def mean_logits() -> Case:
    """Checks the mean logit of each demonstration's tokens, given (logits (n, L, P), spans)."""
    logits, spans = randn(2, 3, 9, seed=16), [(1, 3), (4, 8)]  # (n, L, P), with <s> and separators around the spans

    def over(step: Callable[[Tensor], Tensor], spans=spans) -> Tensor:
        return torch.stack([step(logits[..., start:stop]) for start, stop in spans], dim=-1)  # (n, L, k)

    yield (logits, spans), over(lambda x: x.mean(-1))
    yield over(lambda x: x.sum(-1)), "these are sums over tokens, and a sum grows with the length; take the mean"
    yield over(lambda x: x.mean(-1), [(a, b + 1) for a, b in spans]), "each span ends before its second number"
    yield over(lambda x: x.exp().mean(-1)), "there is an exponential in it; the mean of the logits was asked for"
    yield over(lambda x: x.logsumexp(-1)), "this is the log-sum-exp, which grows with the length; take the mean"
    weights = torch.stack([logits.softmax(-1)[..., a:b].mean(-1) for a, b in spans], dim=-1)  # (n, L, k)
    yield weights, "there is a softmax in it; the mean of the logits was asked for"
