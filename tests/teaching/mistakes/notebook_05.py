"""Mistakes that readers make in 05_icl_versus_finetuning, and a part of what they are told."""

import torch

from iclnb.teaching import checks


def percent(of, among):
    return 100 * of[among].double().mean()


def over(logits, spans, step):
    return torch.stack([step(logits[..., start:stop]) for start, stop in spans], dim=-1)


MISTAKES = [
    (checks.recall_to_icl, lambda z, f, i: percent(i, ~z & f), "this is Rec2FTP itself"),
    (checks.recall_to_icl, lambda z, f, i: percent(f, i), "the examples that ZSL gets right are in it"),
    (checks.recall_to_icl, lambda z, f, i: percent(f, ~z), "this is over all that ZSL gets wrong"),
    (checks.recall_to_icl, lambda z, f, i: percent(f, z & i), "you start from what ZSL gets right"),
    (checks.recall_to_icl, lambda z, f, i: 100 * (~z & f & i).double().mean(), "a share of all examples"),
    (checks.recall_to_icl, lambda z, f, i: percent(f, ~z & i) / 100, "a percentage was asked for"),
    (checks.mean_logits, lambda x, s: over(x, s, lambda y: y.sum(-1)), "sums over tokens"),
    (checks.mean_logits, lambda x, s: over(x, s, lambda y: y.logsumexp(-1)), "the log-sum-exp"),
    (checks.mean_logits, lambda x, s: over(x, s, lambda y: y.exp().mean(-1)), "an exponential"),
    (checks.mean_logits, lambda x, s: over(x.softmax(-1), s, lambda y: y.mean(-1)), "there is a softmax in it"),
    (checks.mean_logits, lambda x, s: over(x, [(a, b + 1) for a, b in s], lambda y: y.mean(-1)), "ends before"),
]
