"""The momentum term of momentum attention: out_t = sum_{i<t} eta^(t-i) v_i, in three forms that agree.

The loop defines it. The Toeplitz matrix shows it as attention whose weights depend on the distance alone, at O(T^2).
Chunks of C positions cost O(T C): inside a chunk a small Toeplitz matrix, between chunks one carried vector.
Letters: B sequences, H heads, T positions, D head width, N chunks.

Source: Dai et al. 2023, section 5.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from iclnb.precision import widen

CHUNK = 32
METHODS = ("loop", "toeplitz", "chunked")


def ema(v: Tensor, eta: float | Tensor, method: str = "chunked", state: Tensor | None = None) -> Tensor:
    """Strictly causal exponential sum of values, out_t = sum_{i<t} eta^(t-i) v_i.

    Args:
        v: values, (..., T, D), or (..., H, T, D) where eta has one entry a head.
        eta: momentum in [0, 1): a number, or a tensor () or (H,), which may be learned.
        method: "loop", the recurrence out_t = eta * (out_{t-1} + v_{t-1}) that defines it; "toeplitz", one product with
            the (T, T) matrix of powers of eta; or "chunked".
        state: what earlier values, before these, add at the first position, (..., D) as `ema_state` gives it.

    Returns:
        (..., T, D) in the dtype of v; sums are taken in float32 or wider.

    Raises:
        ValueError: eta outside [0, 1) or of another shape, or an unknown method.
    """
    rate = check_momentum(eta, v)  # () or (H,)
    if method not in METHODS:
        raise ValueError(f"method is {method!r}; accepted are {', '.join(map(repr, METHODS))}")
    if method == "loop":
        return loop(widen(v), rate, state).to(v.dtype)
    if method == "toeplitz":
        return toeplitz(widen(v), rate, state).to(v.dtype)
    return exponential_sum(v, rate, state)


def exponential_sum(v: Tensor, eta: Tensor, state: Tensor | None = None, onto: Tensor | None = None) -> Tensor:
    """`ema` without the check of eta, which makes a GPU wait, and with an addition: what a model calls in each layer.

    Args:
        v, state: as in ema.
        eta: momentum, a float64 tensor () or (H,) in [0, 1) on the device of v.
        onto: a tensor (..., T, D) to which the sum is added; None adds it to nothing.

    Returns:
        (..., T, D) in the dtype of v.
    """
    out = ExponentialSum.apply(v, eta, state)  # (..., T, D)
    return out if onto is None else onto + out


def ema_state(v: Tensor, eta: float | Tensor, state: Tensor | None = None) -> Tensor:
    """What these values, and a state before them, add at the position that follows: the next state.

    Args:
        v, eta, state: as in ema.

    Returns:
        sum_i eta^(T-i) v_i + eta^T state, (..., D), float32 or wider.
    """
    T, wide = v.shape[-2], widen(v)
    rate = check_momentum(eta, v).unsqueeze(-1)  # (1,) or (H, 1)
    weights = (rate ** torch.arange(T, 0, -1, device=v.device)).to(wide.dtype)  # (T,) or (H, T)
    out = (weights.unsqueeze(-2) @ wide).squeeze(-2)  # (..., D)
    return out if state is None else out + (rate**T).to(wide.dtype) * state


def check_momentum(eta: float | Tensor, v: Tensor) -> Tensor:
    """eta as a float64 tensor, () or (H,), on the device of v; its high powers need the digits.

    Raises:
        ValueError: it is outside [0, 1), not a number, or not one number and not one for each head of v (..., H, T, D).
    """
    rate = torch.as_tensor(eta, dtype=torch.float64, device=v.device)
    heads = v.shape[-3] if v.ndim > 2 else 1
    if rate.ndim > 1 or (rate.ndim == 1 and len(rate) != heads):
        raise ValueError(
            f"eta has shape {tuple(rate.shape)}; accepted are one number, or one for each of the {heads} heads"
        )
    if not ((rate >= 0) & (rate < 1)).all():
        raise ValueError(f"eta is {rate.tolist()}; momentum needs numbers in [0, 1)")
    return rate


def loop(v: Tensor, eta: Tensor, state: Tensor | None) -> Tensor:
    """The definition as a recurrence: out_0 = state, out_t = eta * (out_{t-1} + v_{t-1}); arguments as in ema."""
    out = [torch.zeros_like(v[..., 0, :]) if state is None else state.expand_as(v[..., 0, :])]  # (..., D)
    for t in range(1, v.shape[-2]):
        out.append(eta.to(v.dtype).unsqueeze(-1) * (out[-1] + v[..., t - 1, :]))
    return torch.stack(out, dim=-2)  # (..., T, D)


def toeplitz(v: Tensor, eta: Tensor, state: Tensor | None) -> Tensor:
    """One product with the (T, T) matrix of powers of eta; arguments as in ema."""
    T = v.shape[-2]
    out = powers(eta, T).to(v.dtype) @ v  # (..., T, D)
    if state is None:
        return out
    decay = eta.unsqueeze(-1) ** torch.arange(T, device=v.device)  # (T,) or (H, T)
    return out + decay.to(v.dtype).unsqueeze(-1) * state.unsqueeze(-2)


def powers(eta: Tensor, n: int, step: int = 1, first: int = 1) -> Tensor:
    """Strictly lower triangular matrices of powers of eta: entry [t, i] is eta^(first + step * (t - i - 1)) for i < t.

    Returns:
        (n, n), or (H, n, n) where eta is (H,).
    """
    t = torch.arange(n, device=eta.device)
    lag = (t[:, None] - t - 1).clamp(min=0)  # (n, n)
    below = torch.ones(n, n, dtype=torch.bool, device=eta.device).tril(-1)  # (n, n)
    return torch.where(below, eta[..., None, None] ** (first + step * lag), 0)


def chunked(x: Tensor, eta: Tensor, state: Tensor | None, reverse: bool = False) -> Tensor:
    """The sum in chunks of C positions; with `reverse`, over later positions instead of earlier ones.

    Args:
        x: (B, H, T, D).
        eta: (1,) or (H,).
        state: (B, H, D), or None.
        reverse: out_t = sum_{i>t} eta^(i-t) x_i, which is the gradient with respect to the values.

    Returns:
        (B, H, T, D) in the dtype of x.
    """
    *_, T, D = x.shape
    N = math.ceil(T / CHUNK)
    wide = F.pad(widen(x), (0, 0, 0, N * CHUNK - T)).unflatten(2, (N, CHUNK))  # (B, H, N, C, D)
    j = torch.arange(CHUNK, device=x.device)
    inside = powers(eta, CHUNK)  # (H, C, C)
    between = powers(eta, N, step=CHUNK, first=0)  # (H, N, N) from one chunk's sum to a later chunk's carry
    into, out_of = eta[:, None] ** (CHUNK - j), eta[:, None] ** j  # (H, C) each: a position's part in, and of, a carry
    decay = eta[:, None] ** (CHUNK * torch.arange(N, device=x.device))  # (H, N) of the state
    inside, between, into, out_of, decay = (w.to(wide.dtype) for w in (inside, between, into, out_of, decay))
    if reverse:
        inside, between, into, out_of = inside.mT, between.mT, into.flip(-1), out_of.flip(-1)
    sums = (into[:, None, None] @ wide).squeeze(-2)  # (B, H, N, D)
    carry = between @ sums  # (B, H, N, D)
    if state is not None:
        carry = carry + decay[..., None] * state.unsqueeze(-2)
    out = inside[:, None] @ wide + out_of[:, None, :, None] * carry.unsqueeze(-2)  # (B, H, N, C, D)
    return out.flatten(2, 3)[..., :T, :].to(x.dtype)  # (B, H, T, D)


class ExponentialSum(torch.autograd.Function):
    """The chunked sum with its own gradients for values, eta and state, which keep nothing but the values.

    With g the gradient of the output, that of v_i is sum_{t>i} eta^(t-i) g_t: the same sum backwards. Since
    out_t = eta (out_{t-1} + v_{t-1}), that of eta is sum_t (out_{t-1} + v_{t-1}) (g_t + dv_t).
    """

    @staticmethod
    def forward(ctx: Any, v: Tensor, eta: Tensor, state: Tensor | None) -> Tensor:
        """out (..., T, D) from v (..., T, D), eta () or (H,), state (..., D)."""
        ctx.save_for_backward(v, eta, state)
        return run(v, eta, state)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Gradients of v, eta and state."""
        v, eta, state = ctx.saved_tensors
        dv = run(g, eta, None, reverse=True)  # (..., T, D)
        wide = widen(g) + widen(dv)  # (..., T, D): sum_{t>=s} eta^(t-s) g_t
        deta = dstate = None
        if ctx.needs_input_grad[1]:
            before = widen(run(v, eta, state)) + widen(v)  # (..., T, D)
            each = (before[..., :-1, :] * wide[..., 1:, :]).sum((-2, -1))  # (..., H) or (...)
            deta = each.sum_to_size(eta.shape).to(eta.dtype)  # () or (H,)
        if state is not None and ctx.needs_input_grad[2]:
            dstate = wide[..., 0, :].sum_to_size(state.shape).to(state.dtype)  # (..., D)
        return dv, deta, dstate


def run(x: Tensor, eta: Tensor, state: Tensor | None, reverse: bool = False) -> Tensor:
    """`chunked` for arguments of the shapes that ema takes."""
    *_, T, D = x.shape
    H = len(eta) if eta.ndim else 1
    flat = x.reshape(-1, H, T, D)  # (B, H, T, D)
    if state is not None:
        state = state.expand(*x.shape[:-2], D).reshape(-1, H, D)  # (B, H, D)
    return chunked(flat, eta.reshape(-1), state, reverse).view(x.shape)  # (..., T, D)
