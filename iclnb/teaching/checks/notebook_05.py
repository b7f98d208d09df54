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


@exercise("the similarity", "()", "one cosine for each head's update, then their mean")
def attention_update_similarity() -> Case:
    """Checks the mean over heads of cos(a_ICL - a_ZSL, a_FT - a_ZSL), given (a_zsl, a_ft, a_icl), each (H, T)."""
    a_zsl, a_ft, a_icl = (randn(3, 5, seed=seed) for seed in (13, 14, 15))  # (H, T) each

    def cosine(a: Tensor, b: Tensor, dim: int = -1) -> Tensor:
        return torch.cosine_similarity(a, b, dim=dim).mean()  # ()

    icl, ft = a_icl - a_zsl, a_ft - a_zsl  # (H, T) each
    yield (a_zsl, a_ft, a_icl), cosine(icl, ft)
    yield cosine(a_icl, a_ft), "this is the paper's SimAM; compare the updates: subtract a_zsl from both"
    yield cosine(icl.flatten(), ft.flatten()), "all heads together give one cosine here; take the mean of one for each"
    yield cosine(icl, ft, dim=0), "your cosine runs over the heads (dim 0); it belongs over the tokens (dim -1)"
    yield cosine(icl, a_ft), "a_zsl must be subtracted from a_ft too"
    yield cosine(a_icl, ft), "a_zsl must be subtracted from a_icl too"
    yield cosine(icl.softmax(-1), ft.softmax(-1)), "there is a softmax in it; the raw logits are compared"
    yield cosine(icl, a_zsl - a_ft), "one update has the wrong sign: it is after minus before"


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
