"""Checks of the exercises in 08_beyond_momentum."""

import torch
from torch import Tensor

from iclnb.attention import ema, linear_attention
from iclnb.teaching.checks.core import Case, exercise, randn


@exercise("the sum", "(T, D)", "the newest value weighs eta + eta^2, one that is n steps old eta^(n+1)")
def nesterov_sum() -> Case:
    """Checks Nesterov's sum eta (v_{t-1} + m_t), (T, D), given (v (T, D), eta), m_t the momentum sum."""
    v, eta = randn(6, 4, seed=20), 0.7
    m = ema(v, eta, method="loop")  # (T, D)
    newest = torch.cat([torch.zeros(1, 4), v[:-1]])  # (T, D) v_{t-1}
    yield (v, eta), eta * (newest + m)  # (T, D)
    yield eta * (v.roll(1, 0) + m), "position 0 gets the last value: roll wraps around; put a row of zeros in its place"
    yield m, "this is the momentum sum itself; Nesterov's step looks one step ahead"
    yield newest + eta * m, "the scale is PyTorch's: the newest value must weigh eta (1 + eta), not 1 + eta"
    yield eta * (v + m), "position t uses its own value v_t; the newest value that it may use is v_{t-1}"
    yield newest + m, "a factor eta is missing in front of the whole"
    yield eta * newest + m, "m_t is not discounted: it stands behind a factor eta as well"
    yield eta * m, "the newest value is missing: add v_{t-1} to m_t before the factor eta"


@exercise("the output", "(T, D)", "weight decay multiplies each weight by keep once a step")
def decayed_attention() -> Case:
    """Checks decaying linear attention, sum_{i<=t} keep^(t-i) (q_t . k_i) v_i, (T, D), given (q, k, v, keep)."""
    q, k, v, keep, T = randn(6, 4, seed=21), randn(6, 4, seed=22), randn(6, 4, seed=23), 0.8, 6
    lag = (torch.arange(T)[:, None] - torch.arange(T)).double()  # (T, T)
    scores, weights = q @ k.T, (keep**lag).tril()  # (T, T), (T, T)
    yield (q, k, v, keep), (scores * weights) @ v  # (T, D)
    yield linear_attention(q, k, v), "nothing is forgotten; old positions must count keep^(t-i)"
    yield (scores * keep**lag) @ v, "position t sees later positions too; the sum runs over i <= t"
    yield (scores * weights.tril(-1)) @ v, "position t itself is missing; the sum runs over i <= t"
    yield (keep * scores * weights) @ v, "the powers are one too high: position t itself has weight keep^0 = 1"
    yield weights @ v, "the scores q_t . k_i are missing; this is a sum of values, as momentum is"
    yield scores.tril() @ v + weights.tril(-1) @ v, "you added a decayed sum; forgetting multiplies the scores"
    yield ((scores * 4**-0.5) * weights) @ v, "linear attention has no scale 1 / sqrt(D)"


@exercise("the output", "(T, D)", "forgetting at a constant rate is a penalty on the scores, as large as the distance")
def forgetful_softmax() -> Case:
    """Checks softmax attention with every exponential weighed by keep^(t-i), (T, D), given (q, k, v, keep)."""
    q, k, v, keep, T = randn(6, 4, seed=24), randn(6, 4, seed=25), randn(6, 4, seed=26), 0.8, 6
    lag = (torch.arange(T)[:, None] - torch.arange(T)).double()  # (T, T)
    scores = q @ k.T / 2  # (T, T) scaled by 1 / sqrt(D)
    future = torch.ones(T, T).triu(1).bool()  # (T, T)
    bias = lag * torch.tensor(keep).double().log()  # (T, T) at most 0 where it counts

    def attend(logits: Tensor) -> Tensor:
        return logits.masked_fill(future, -torch.inf).softmax(1)  # (T, T)

    yield (q, k, v, keep), attend(scores + bias) @ v  # (T, D)
    yield attend(scores) @ v, "nothing is forgotten; add (t - i) log keep to the scores"
    yield attend(scores - bias) @ v, "old positions gain: the logarithm of keep is negative already"
    yield attend(scores * (keep**lag).tril()) @ v, "you multiplied the scores; keep^(t-i) multiplies their exponentials"
    yield (attend(scores) * (keep**lag).tril()) @ v, "the rows do not sum to 1: forget before you normalise"
    yield attend(2 * scores + bias) @ v, "the scores are not scaled; divide them by the square root of D"
    yield (scores + bias).softmax(1) @ v, "position t sees later positions too; mask them before the softmax"
