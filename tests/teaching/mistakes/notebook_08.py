"""Mistakes that readers make in 08_beyond_momentum, and a part of what they are told."""

import math

import torch

from iclnb.teaching import checks


def lags(T):
    return torch.arange(T)[:, None] - torch.arange(T)


def momentum(v, eta):
    return (eta ** lags(len(v)).double()).tril(-1) @ v


def newest(v):
    return v.roll(1, 0) * (torch.arange(len(v)) > 0)[:, None]


def decayed(q, k, v, keep, diagonal=0):
    return (q @ k.T * (keep ** lags(len(q)).double()).tril(diagonal)) @ v


def attend(scores, diagonal=1):
    return scores.masked_fill(torch.ones_like(scores).triu(diagonal).bool(), -torch.inf).softmax(1)


def forget(q, k, v, keep, scale=0.5, sign=1, diagonal=1):
    return attend(scale * q @ k.T + sign * math.log(keep) * lags(len(q)), diagonal) @ v


MISTAKES = [
    (checks.nesterov_sum, lambda v, eta: eta * (v.roll(1, 0) + momentum(v, eta)), "roll wraps around"),
    (checks.nesterov_sum, momentum, "this is the momentum sum itself"),
    (checks.nesterov_sum, lambda v, eta: newest(v) + eta * momentum(v, eta), "the scale is PyTorch's"),
    (checks.nesterov_sum, lambda v, eta: eta * (v + momentum(v, eta)), "position t uses its own value"),
    (checks.nesterov_sum, lambda v, eta: newest(v) + momentum(v, eta), "a factor eta is missing"),
    (checks.nesterov_sum, lambda v, eta: eta * newest(v) + momentum(v, eta), "m_t is not discounted"),
    (checks.nesterov_sum, lambda v, eta: eta * momentum(v, eta), "the newest value is missing"),
    (checks.decayed_attention, lambda q, k, v, keep: (q @ k.T).tril() @ v, "nothing is forgotten"),
    (checks.decayed_attention, lambda *a: decayed(*a, diagonal=9), "position t sees later positions too"),
    (checks.decayed_attention, lambda *a: decayed(*a, diagonal=-1), "position t itself is missing"),
    (checks.decayed_attention, lambda q, k, v, keep: keep * decayed(q, k, v, keep), "the powers are one too high"),
    (checks.decayed_attention, lambda q, k, v, keep: momentum(v, keep) + v, "the scores q_t . k_i are missing"),
    (
        checks.decayed_attention,
        lambda q, k, v, keep: (q @ k.T).tril() @ v + momentum(v, keep),
        "you added a decayed sum",
    ),
    (checks.decayed_attention, lambda q, k, v, keep: decayed(q, k, v, keep) / 2, "no scale"),
    (checks.forgetful_softmax, lambda q, k, v, keep: forget(q, k, v, 1.0), "nothing is forgotten"),
    (checks.forgetful_softmax, lambda *a: forget(*a, sign=-1), "old positions gain"),
    (
        checks.forgetful_softmax,
        lambda q, k, v, keep: attend(q @ k.T / 2 * (keep ** lags(len(q)).double()).tril()) @ v,
        "you multiplied the scores",
    ),
    (
        checks.forgetful_softmax,
        lambda q, k, v, keep: (attend(q @ k.T / 2) * (keep ** lags(len(q)).double()).tril()) @ v,
        "the rows do not sum to 1",
    ),
    (checks.forgetful_softmax, lambda *a: forget(*a, scale=1), "the scores are not scaled"),
    (checks.forgetful_softmax, lambda *a: forget(*a, diagonal=9), "position t sees later positions too"),
]
