"""Checks of the exercises in 05_icl_versus_finetuning."""

from collections.abc import Callable

import torch
from torch import Tensor

from iclnb.checks.core import find_fault, randn, say


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


def mean_logits(answer: Callable) -> None:
    """Checks the mean logit of each demonstration's tokens, given (logits (n, L, P), spans)."""
    logits, spans = randn(2, 3, 9, seed=16), [(1, 3), (4, 8)]  # (n, L, P), with <s> and separators around the spans

    def over(step: Callable[[Tensor], Tensor], spans=spans) -> Tensor:
        return torch.stack([step(logits[..., start:stop]) for start, stop in spans], dim=-1)  # (n, L, k)

    mistakes = [
        (over(lambda x: x.sum(-1)), "these are sums over tokens, and a sum grows with the length; take the mean"),
        (over(lambda x: x.mean(-1), [(a, b + 1) for a, b in spans]), "each span ends before its second number"),
        (over(lambda x: x.exp().mean(-1)), "there is an exponential in it; the mean of the logits was asked for"),
        (over(lambda x: x.logsumexp(-1)), "this is the log-sum-exp, which grows with the length; take the mean"),
        (
            torch.stack([logits.softmax(-1)[..., a:b].mean(-1) for a, b in spans], dim=-1),
            "there is a softmax in it; the mean of the logits was asked for",
        ),
    ]
    fault = find_fault(answer, (logits, spans), over(lambda x: x.mean(-1)), "the score", "(n, L, k)", mistakes)
    say(fault, "a demonstration of twice the tokens has no longer twice the chances")
