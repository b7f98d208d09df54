"""Softmax and linear attention, and attention over a shared prefix.

Letters: B sequences, H heads, G key heads, T tokens, P prefix tokens, D head width. q, k, v: query, key, value.
Every function has a plain form that defines what it computes; softmax statistics are taken in float32 or wider.
"""

import math

import torch
from torch import Tensor

from iclnb.attention.fused import find_kernel
from iclnb.attention.precision import widen


def attention_scores(q: Tensor, k: Tensor, scale: float | None = None) -> Tensor:
    """Scaled inner products of queries with keys, before any mask and softmax.

    Args:
        q: queries, (..., T, D).
        k: keys, (..., S, D).
        scale: factor on the inner products; None is 1 / sqrt(D).

    Returns:
        Scores, (..., T, S), float32 or wider.
    """
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    return widen(q) @ widen(k).transpose(-2, -1) * scale  # (..., T, S)


def causal_mask(T: int, device: torch.device | None = None) -> Tensor:
    """Which positions each position may see: itself and the earlier ones.

    Returns:
        (T, T) bool, True where row t may look at column j, that is where j <= t.
    """
    return torch.ones(T, T, dtype=torch.bool, device=device).tril()  # (T, T)


def softmax_attention(q: Tensor, k: Tensor, v: Tensor, causal: bool = True, scale: float | None = None) -> Tensor:
    """Softmax attention, softmax(q k^T * scale) v.

    Args:
        q, k, v: (..., T, D); without `causal`, keys and values may have another length S.
        causal: let position t see positions j <= t only.
        scale: factor on the inner products; None is 1 / sqrt(D).

    Returns:
        (..., T, D) in the dtype of v.

    Source: Vaswani et al. 2017, eq. 1.
    """
    scores = attention_scores(q, k, scale)  # (..., T, S)
    if causal:
        scores = scores.masked_fill(~causal_mask(q.shape[-2], q.device), float("-inf"))  # (..., T, T)
    return (scores.softmax(-1) @ widen(v)).to(v.dtype)  # (..., T, D)


def linear_attention(q: Tensor, k: Tensor, v: Tensor, causal: bool = True) -> Tensor:
    """Attention without softmax and scale, sum_j (q_t . k_j) v_j: the dual form of a linear layer under descent.

    Args:
        q, k, v: (..., T, D); without `causal`, keys and values may have another length S.
        causal: sum over j <= t only.

    Returns:
        (..., T, D) in the dtype of v.

    Source: Dai et al. 2023, section 3.1; Irie et al. 2022, section 2.
    """
    scores = attention_scores(q, k, scale=1.0)  # (..., T, S)
    if causal:
        scores = scores * causal_mask(q.shape[-2], q.device)  # (..., T, T)
    return (scores @ widen(v)).to(v.dtype)  # (..., T, D)


def attention_with_mass(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    causal: bool,
    mask: Tensor | None = None,
    scale: float | None = None,
    fused: bool | None = None,
) -> tuple[Tensor, Tensor]:
    """Softmax attention, and the logarithm of the softmax's denominator: what it takes to merge two attentions.

    Args:
        q, k, v: (B, H, T, D); without `causal`, keys and values may have another length S.
        causal: let position t see positions j <= t only.
        mask: (B, 1, T, S) bool, what each position may see, in the place of `causal`; None leaves it to `causal`.
        scale: factor on the inner products; None is 1 / sqrt(D).
        fused: use one of torch's kernels, which never hold the (T, S) scores; None does so where kernels.find_kernel
            has one. The plain form beside it defines the result.

    Returns:
        Attention output, (B, H, T, D), and log sum_j exp(score_tj), (B, H, T), both float32 or wider.

    Raises:
        ValueError: fused is True, and no kernel can take these tensors.
    """
    kernel = None if fused is False else find_kernel(q, k, v, causal, mask)
    if fused and kernel is None:
        raise ValueError(f"fused is True, but no kernel takes {q.dtype} on {q.device} with this head width and mask")
    if kernel is not None:
        out, mass = kernel(q, k, v, causal, mask, scale)  # (B, H, T, D), (B, H, T)
        return widen(out), widen(mass)
    scores = attention_scores(q, k, scale)  # (B, H, T, S)
    if causal and mask is None:
        mask = causal_mask(q.shape[-2], q.device)  # (T, T)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))  # (B, H, T, S)
    return scores.softmax(-1) @ widen(v), scores.logsumexp(-1)  # (B, H, T, D), (B, H, T)


def repeat_heads(x: Tensor, H: int) -> Tensor:
    """Keys or values (B, G, T, D) of G heads that serve H / G query heads each, written out as (B, H, T, D)."""
    return x if x.shape[1] == H else x.repeat_interleave(H // x.shape[1], dim=1)


def fold(q: Tensor, G: int) -> Tensor:
    """All queries (B, H, T, D) that meet each of G shared key heads, as rows of one product, (1, G, B * H / G * T, D).

    Keys and values are so held once, whatever the number of sequences and however many query heads share them.
    """
    return q.unflatten(1, (G, -1)).transpose(0, 1).flatten(1, 3).unsqueeze(0)


def unfold(x: Tensor, B: int, H: int) -> Tensor:
    """The reverse of fold, for a result (1, G, B * H / G * T, ...) of folded queries: (B, H, T, ...)."""
    G = x.shape[1]
    return x.squeeze(0).unflatten(1, (B, H // G, -1)).transpose(0, 1).flatten(1, 2)


def prefix_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    prefix_k: Tensor,
    prefix_v: Tensor,
    mask: Tensor | None = None,
    scale: float | None = None,
    fused: bool | None = None,
) -> tuple[Tensor, Tensor]:
    """Causal softmax attention of B queries that share one prefix, as an exact mixture of two attentions.

    Attention over [prefix; own tokens] is lam * Attn(prefix) + (1 - lam) * Attn(own), where lam is the share of the
    softmax mass on the prefix. The prefix is held once, and all B * T queries meet it in one matrix product.

    Args:
        q: the sequences' own queries, (B, H, T, D).
        k, v: their own keys and values, (B, G, T, D); G divides H, and each key head serves H / G query heads.
        prefix_k, prefix_v: keys and values of the shared prefix, (1, G, P, D).
        mask: which of the sequence's own tokens each position may see, (B, 1, T, T) bool; None is the causal ones.
            With a mask (B, 1, A, T), q may hold A of the T tokens: (B, H, A, D), and A takes the place of T below.
        scale: factor on the inner products; None is 1 / sqrt(D).
        fused: as in attention_with_mass.

    Returns:
        Attention output, (B, H, T, D) in the dtype of v, and lam, (B, H, T), float32 or wider.
    """
    B, H, T, D = q.shape
    together = fold(q, k.shape[1])  # (1, G, B * H / G * T, D)
    over_prefix, mass_prefix = attention_with_mass(together, prefix_k, prefix_v, causal=False, scale=scale, fused=fused)
    over_prefix, mass_prefix = unfold(over_prefix, B, H), unfold(mass_prefix, B, H)  # (B, H, T, D), (B, H, T)
    k, v = repeat_heads(k, H), repeat_heads(v, H)  # (B, H, T, D)
    over_own, mass_own = attention_with_mass(q, k, v, causal=True, mask=mask, scale=scale, fused=fused)  # likewise
    lam = (mass_prefix - mass_own).sigmoid()  # (B, H, T) = mass on prefix / whole mass
    mixed = torch.lerp(over_own, over_prefix, lam.unsqueeze(-1))  # (B, H, T, D) = lam * prefix + (1 - lam) * own
    return mixed.to(v.dtype), lam
