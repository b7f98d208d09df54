"""Attention as mathematics: softmax, linear and momentum attention, and attention over a shared prefix.

Letters: B sequences, H heads, T tokens, P prefix tokens, D head width. q, k, v are query, key and value.
Every function here is the plain form that defines what it computes; softmax statistics are taken in float32 or wider.
"""

import math

import torch
from torch import Tensor


def widen(x: Tensor) -> Tensor:
    """Half-precision tensors as float32, anything wider as it is: sums of exponentials need the digits."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


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
        fused: use torch's kernel, which never holds the (T, S) scores; None does so where it can, that is on a CPU
            and without gradients. The plain form beside it defines the result.

    Returns:
        Attention output, (B, H, T, D), and log sum_j exp(score_tj), (B, H, T), both float32 or wider.
    """
    needs_gradient = torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v))
    if fused is None:
        fused = q.device.type == "cpu" and not needs_gradient
    if fused:
        flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # the one that returns the log-sum-exp
        added = None if mask is None else torch.zeros_like(mask, dtype=q.dtype).masked_fill(~mask, float("-inf"))
        out, mass = flash(
            q, k, v, 0.0, causal and mask is None, attn_mask=added, scale=scale
        )  # (B, H, T, D), (B, H, T)
        return widen(out), widen(mass)
    scores = attention_scores(q, k, scale)  # (B, H, T, S)
    if causal and mask is None:
        mask = causal_mask(q.shape[-2], q.device)  # (T, T)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))  # (B, H, T, S)
    return scores.softmax(-1) @ widen(v), scores.logsumexp(-1)  # (B, H, T, D), (B, H, T)


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
        q, k, v: the sequences' own queries, keys and values, (B, H, T, D).
        prefix_k, prefix_v: keys and values of the shared prefix, (1, H, P, D).
        mask: which of the sequence's own tokens each position may see, (B, 1, T, T) bool; None is the causal ones.
        scale: factor on the inner products; None is 1 / sqrt(D).
        fused: as in attention_with_mass.

    Returns:
        Attention output, (B, H, T, D) in the dtype of v, and lam, (B, H, T), float32 or wider.
    """
    B, H, T, D = q.shape
    together = q.transpose(0, 1).reshape(1, H, B * T, D)  # (1, H, B * T, D)
    over_prefix, mass_prefix = attention_with_mass(together, prefix_k, prefix_v, causal=False, scale=scale, fused=fused)
    over_prefix = over_prefix.view(H, B, T, D).transpose(0, 1)  # (B, H, T, D)
    mass_prefix = mass_prefix.view(H, B, T).transpose(0, 1)  # (B, H, T)
    over_own, mass_own = attention_with_mass(q, k, v, causal=True, mask=mask, scale=scale, fused=fused)  # likewise
    lam = (mass_prefix - mass_own).sigmoid()  # (B, H, T) = mass on prefix / whole mass
    share = lam.unsqueeze(-1)  # (B, H, T, 1)
    return (share * over_prefix + (1 - share) * over_own).to(v.dtype), lam


def ema(v: Tensor, eta: float, method: str = "toeplitz") -> Tensor:
    """Strictly causal exponential sum of values, out_t = sum_{i<t} eta^(t-i) v_i.

    Args:
        v: values, (..., T, D).
        eta: momentum, in [0, 1).
        method: "loop", the recurrence out_t = eta * (out_{t-1} + v_{t-1}) that defines it, or "toeplitz", one product
            with the (T, T) matrix of powers of eta.

    Returns:
        (..., T, D) in the dtype of v.

    Raises:
        ValueError: eta outside [0, 1), or an unknown method.

    Source: Dai et al. 2023, section 5.
    """
    if not 0 <= eta < 1:
        raise ValueError(f"eta is {eta}; momentum needs a number in [0, 1)")
    if method == "loop":
        out = [torch.zeros_like(v[..., 0, :])]  # (..., D)
        for t in range(1, v.shape[-2]):
            out.append(eta * (out[-1] + v[..., t - 1, :]))
        return torch.stack(out, dim=-2)  # (..., T, D)
    if method == "toeplitz":
        t = torch.arange(v.shape[-2], device=v.device)
        lag = (t[:, None] - t[None, :]).clamp(min=0)  # (T, T)
        powers = torch.tensor(eta, dtype=widen(v).dtype, device=v.device) ** lag  # (T, T)
        weights = powers * causal_mask(len(t), v.device).tril(-1)  # (T, T), zero on and above the diagonal
        return (weights @ widen(v)).to(v.dtype)  # (..., T, D)
    raise ValueError(f"method is {method!r}; ema knows 'loop' and 'toeplitz'")


def momentum_attention(q: Tensor, k: Tensor, v: Tensor, eta: float, scale: float | None = None) -> Tensor:
    """Momentum attention, softmax attention plus an exponential sum of the earlier values.

    Args:
        q, k, v: (..., T, D).
        eta: momentum, in [0, 1).
        scale: factor on the inner products; None is 1 / sqrt(D).

    Returns:
        (..., T, D) in the dtype of v.

    Source: Dai et al. 2023, section 5: MoAttn(V, K, q_t) = Attn(V, K, q_t) + sum_{i<t} eta^(t-i) v_i.
    """
    return softmax_attention(q, k, v, causal=True, scale=scale) + ema(v, eta)  # (..., T, D)
