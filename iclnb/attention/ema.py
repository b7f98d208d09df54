"""Momentum attention, and its momentum term: out_t = sum_{i<t} eta^(t-i) v_i, in four forms that agree.

The loop defines it. The Toeplitz matrix shows it as attention whose weights depend on the distance alone, at O(T^2).
Chunks of C positions cost O(T C): the matrix of one chunk, and one vector carried from each chunk to the next. The
kernel (ema_triton.py) is the loop on a GPU, many segments of T at once. Letters: H heads, T positions, D head width.

Source: Dai et al. 2023, section 5.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from iclnb.attention.precision import widen

CHUNK = 32  # C; on a CPU faster than 64 and 128
METHODS = ("auto", "loop", "toeplitz", "chunked", "kernel")


def ema(v: Tensor, eta: float | Tensor, method: str = "auto", state: Tensor | None = None) -> Tensor:
    """Strictly causal exponential sum of values, out_t = sum_{i<t} eta^(t-i) v_i.

    Args:
        v: values, (..., T, D), or (..., H, T, D) where eta has one entry a head.
        eta: momentum in [0, 1): a number, or a tensor () or (H,), which may be learned.
        method: "loop", the recurrence out_t = eta * (out_{t-1} + v_{t-1}) that defines it; "toeplitz", one product with
            the matrix of powers of eta; "chunked"; "kernel"; or "auto", the kernel where there is one, else chunked.
        state: what earlier values, before these, add at the first position, (..., D) as `ema_state` gives it.

    Returns:
        (..., T, D) in the dtype of v; sums are taken in float32 or wider.

    Raises:
        ValueError: eta outside [0, 1) or of another shape, an unknown method, or no kernel for these values.
    """
    eta = check_momentum(eta, v)  # () or (H,)
    if method not in METHODS:
        raise ValueError(f"method is {method!r}; accepted are {', '.join(map(repr, METHODS))}")
    if method == "auto":
        return exponential_sum(v, eta, state)
    if method == "kernel":
        from iclnb.attention import ema_triton

        if reason := ema_triton.obstacle(v):
            raise ValueError(f"method is 'kernel', but {reason}; 'auto' takes another form")
        return exponential_sum(v, eta, state, kernel=True)
    form = {"loop": loop, "toeplitz": toeplitz, "chunked": chunked}[method]
    return form(widen(v), eta, state).to(v.dtype)


def momentum_attention(
    q: Tensor, k: Tensor, v: Tensor, eta: float | Tensor, causal: bool = True, scale: float | None = None
) -> Tensor:
    """Momentum attention, softmax attention plus an exponential sum of the earlier values.

    It equals `softmax_attention(q, k, v) + ema(v, eta)`, but for (B, H, T, D) never holds the (T, T) scores.

    Args:
        q, k, v: (..., T, D).
        eta: momentum, in [0, 1): a number, or one for each head, as in ema.
        causal: position t sees positions j <= t only; momentum is defined for this alone.
        scale: factor on the inner products; None is 1 / sqrt(D).

    Returns:
        (..., T, D) in the dtype of v.

    Raises:
        ValueError: eta as in ema, or causal is False.

    Source: Dai et al. 2023, section 5: MoAttn(V, K, q_t) = Attn(V, K, q_t) + sum_{i<t} eta^(t-i) v_i.
    """
    if not causal:
        raise ValueError("causal is False; momentum sums over earlier values, so momentum attention is causal only")
    eta = check_momentum(eta, v)  # () or (H,)
    return exponential_sum(v, eta, onto=F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale))


def ema_state(v: Tensor, eta: float | Tensor, state: Tensor | None = None) -> Tensor:
    """What these values, and a state before them, add at the position that follows: the next state.

    Args:
        v, eta, state: as in ema.

    Returns:
        sum_i eta^(T-i) v_i + eta^T state, (..., D), float32 or wider.
    """
    T, wide = v.shape[-2], widen(v)
    eta = check_momentum(eta, v).unsqueeze(-1)  # (1,) or (H, 1)
    weights = (eta ** torch.arange(T, 0, -1, device=v.device)).to(wide.dtype)  # (T,) or (H, T)
    out = (weights.unsqueeze(-2) @ wide).squeeze(-2)  # (..., D)
    return out if state is None else out + (eta**T).to(wide.dtype) * state


def exponential_sum(
    v: Tensor, eta: Tensor, state: Tensor | None = None, onto: Tensor | None = None, kernel: bool = False
) -> Tensor:
    """`ema` for use inside a model: it can add to another tensor, and does not check eta, for which a GPU would wait.

    Args:
        v, state: as in ema.
        eta: momentum, a float64 tensor () or (H,) in [0, 1) on the device of v.
        onto: what the sum is added to, (..., T, D); it is left as it was. None is zero.
        kernel: take the kernel off a GPU too, in Triton's interpreter.

    Returns:
        onto + the sum, (..., T, D) in the dtype of v.
    """
    B, H = v.shape[:-3].numel(), v.shape[-3] if v.ndim > 2 else 1
    start = None if state is None else state.expand(*v.shape[:-2], v.shape[-1]).reshape(B, H, v.shape[-1])  # (B, H, D)
    x, y = (None if x is None else x.reshape(B, H, *v.shape[-2:]) for x in (v, onto))  # (B, H, T, D)
    return momentum_sum(x, eta.expand(H), start, y, kernel)[0].reshape(v.shape)


def check_momentum(eta: float | Tensor, v: Tensor) -> Tensor:
    """eta as a float64 tensor, () or (H,), on the device of v; its high powers need the digits.

    It is checked where it lies: for a number, or a tensor on the CPU, no GPU is waited for.

    Raises:
        ValueError: it is outside [0, 1), not a number, or not one number and not one for each head of v (..., H, T, D).
    """
    rate = eta.double() if isinstance(eta, Tensor) else torch.tensor(eta, dtype=torch.float64, device="cpu")
    heads = v.shape[-3] if v.ndim > 2 else 1
    if rate.ndim > 1 or (rate.ndim == 1 and len(rate) != heads):
        raise ValueError(
            f"eta has shape {tuple(rate.shape)}; accepted are one number, or one for each of the {heads} heads"
        )
    if not ((rate >= 0) & (rate < 1)).all():
        raise ValueError(f"eta is {rate.tolist()}; momentum needs numbers in [0, 1)")
    return rate.to(v.device, non_blocking=True)


def loop(v: Tensor, eta: Tensor, state: Tensor | None) -> Tensor:
    """The definition as a recurrence: out_0 = state, out_t = eta * (out_{t-1} + v_{t-1}); arguments as in ema."""
    rate, out = eta.to(v.dtype)[..., None, None], [first(v, state)]  # () or (H, 1, 1), (..., 1, D)
    for x in v.split(1, dim=-2)[:-1]:  # (..., 1, D): v_{t-1}
        out.append(rate * (out[-1] + x))
    return torch.cat(out, dim=-2)[..., : v.shape[-2], :]  # (..., T, D), of which there may be none


def toeplitz(v: Tensor, eta: Tensor, state: Tensor | None) -> Tensor:
    """One product with the matrix of powers of eta, which has T^2 entries; arguments as in ema."""
    T = v.shape[-2]
    weights = powers(eta, T)[..., :T, :].to(v.dtype)  # (T, T + 1) or (H, T, T + 1)
    return weights @ torch.cat([first(v, state), v], dim=-2)  # (..., T, D)


def chunked(v: Tensor, eta: Tensor, state: Tensor | None, onto: Tensor | None = None) -> Tensor:
    """In chunks of C positions, each one product: its rows are the chunk's sums and, last, the state of the next chunk.

    Args:
        v, state: as in ema.
        eta: () or (H,).
        onto: what the sum is added to, (..., T, D), or None.

    Returns:
        (..., T, D), float32 or wider.
    """
    with torch.autocast(v.device.type, enabled=False):  # a mixed-precision context would round the sums to 16 bits
        state, out = first(v, state), []  # (..., 1, D)
        weights = powers(eta, min(CHUNK, v.shape[-2])).to(state.dtype)  # (C + 1, C + 1) or (H, C + 1, C + 1)
        for x in v.split(CHUNK, dim=-2):  # (..., C, D); the last may be shorter
            C = x.shape[-2]
            sums = weights[..., : C + 1, : C + 1] @ torch.cat([state, x], dim=-2)  # (..., C + 1, D)
            inside, state = sums.split([C, 1], dim=-2)  # (..., C, D), (..., 1, D)
            out.append(inside)
        total = torch.cat(out, dim=-2)  # (..., T, D)
        return total if onto is None else total.add_(onto)


def first(v: Tensor, state: Tensor | None) -> Tensor:
    """The sum at the first position, (..., 1, D), float32 or wider: the state, or zero where there is none."""
    zero = widen(v.new_zeros(*v.shape[:-2], 1, v.shape[-1]))  # (..., 1, D)
    return zero if state is None else state.to(zero.dtype).unsqueeze(-2).expand_as(zero)


def powers(eta: Tensor, T: int) -> Tensor:
    """The sums as a matrix: row t holds what the state and v_0, ..., v_{T-1}, in this order, weigh in the sum at t.

    They weigh eta^t and, for i < t, eta^(t-i). Row T is the state after these values.

    Returns:
        (T + 1, T + 1), lower triangular, or (H, T + 1, T + 1) where eta is (H,).
    """
    return (eta[..., None, None] ** lags(T, eta.device).clamp(min=0)).tril()


def lags(T: int, device: torch.device) -> Tensor:
    """The exponents of `powers`, (T + 1, T + 1), below zero above the diagonal."""
    t = torch.arange(T + 1, device=device)
    i = (t - 1).clamp(min=0)  # (T + 1,) = 0, 0, 1, ..., T - 1: the state enters where v_0 is
    return t[:, None] - i


# ---------------------------------------------------------------------------------------------- one operator for models
# `chunked` or the kernel with a gradient of its own, so that little more than v is kept, and torch.compile can take it.


def operator(function: Callable) -> Callable:
    """A function as one operator of torch; torch.library.custom_op would import the compiler at the first call."""
    name = f"iclnb::{function.__name__}"
    torch.library.define(name, torch.library.infer_schema(function, mutates_args=()))
    torch.library.impl(name, "default", function)
    return getattr(torch.ops.iclnb, function.__name__)


@operator
def momentum_sum(
    v: Tensor, eta: Tensor, state: Tensor | None, onto: Tensor | None, kernel: bool
) -> tuple[Tensor, Tensor]:
    """onto + sums, (B, H, T, D) as v; and the state before each of N chunks (0 by the kernel), (B, H, N, D).

    Args:
        v, onto: (B, H, T, D).
        eta: (H,) float64.
        state: (B, H, D).
        kernel: as in exponential_sum.
    """
    out, states = momentum_sum_empty(v, eta, state, onto, kernel)
    if kernels := takes_kernel(v, kernel):
        kernels.forward(v, eta, state, onto, out)
        return out, states
    with torch.autocast(v.device.type, enabled=False):  # a mixed-precision context would round the sums to 16 bits
        weights, carry = chunk_weights(eta, v), first(v, state)  # (B, H, C + 1, C + 1), (B, H, 1, D)
        chunks = zip(*(x.split(CHUNK, dim=-2) for x in (v, out, out if onto is None else onto)), strict=True)
        for n, (x, place, y) in enumerate(chunks):  # (B, H, C, D) each; the last may be shorter
            C, states[..., n : n + 1, :] = x.shape[-2], carry
            sums = weights[..., : C + 1, : C + 1] @ torch.cat([carry, x], dim=-2)  # (B, H, C + 1, D)
            inside, carry = sums.split([C, 1], dim=-2)  # (B, H, C, D), (B, H, 1, D)
            place.copy_(inside) if onto is None else torch.add(inside, y, out=place)
    return out, states


@torch.library.register_fake("iclnb::momentum_sum")
def momentum_sum_empty(v, eta, state, onto, kernel):
    """Memory for the results."""
    N = 0 if takes_kernel(v, kernel) else max(1, -(-v.shape[-2] // CHUNK))
    return torch.empty_like(v), widen(v.new_empty(*v.shape[:2], N, v.shape[-1]))


@operator
def momentum_sum_backward(
    g: Tensor, v: Tensor, eta: Tensor, state: Tensor | None, states: Tensor, learned: bool, kernel: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of v, of eta where `learned`, and of the state, for that of the sums, g (B, H, T, D)."""
    dv, deta, dstate = momentum_sum_backward_empty(g, v, eta, state, states, learned, kernel)
    if kernels := takes_kernel(v, kernel):
        kernels.backward(g, v, eta, state, dv, deta if learned else None, dstate)
        return dv, deta, dstate
    with torch.autocast(v.device.type, enabled=False):
        weights, carry = chunk_weights(eta, v), first(v, None)  # (B, H, C + 1, C + 1), (B, H, 1, D): of the next state
        dweights = torch.zeros_like(weights[0])  # (H, C + 1, C + 1)
        chunks = zip(*(x.split(CHUNK, dim=-2) for x in (g, v, dv)), states.split(1, dim=-2), strict=True)
        for y, x, place, start in reversed(list(chunks)):  # (B, H, C, D) three times, (B, H, 1, D)
            C, y = x.shape[-2], torch.cat([y, carry], dim=-2)  # (B, H, C + 1, D)
            back = weights[..., : C + 1, : C + 1].mT @ y  # (B, H, C + 1, D)
            carry, inside = back.split([1, C], dim=-2)  # (B, H, 1, D), (B, H, C, D)
            place.copy_(inside)
            if learned:
                dweights[:, : C + 1, : C + 1] += (y @ torch.cat([start, x], dim=-2).mT).sum(0)
        if learned:
            lag = lags(weights.shape[-1] - 1, v.device)  # (C + 1, C + 1)
            slope = (lag * eta[:, None, None] ** (lag - 1).clamp(min=0)).tril()  # (H, C + 1, C + 1): of powers
            deta.copy_((dweights.double() * slope).sum((1, 2)))
        dstate.copy_(carry.squeeze(-2))
    return dv, deta, dstate


@torch.library.register_fake("iclnb::momentum_sum_backward")
def momentum_sum_backward_empty(g, v, eta, state, states, learned, kernel):
    """Memory for the results."""
    return torch.empty_like(v), torch.empty_like(eta), widen(v.new_empty(*v.shape[:2], v.shape[-1]))


def setup_context(ctx, inputs, output):
    """Keep what the gradients need."""
    v, eta, state, _, ctx.kernel = inputs
    ctx.save_for_backward(v, eta, state, output[1])


def gradients(ctx, g, _):
    """Gradients of all arguments of momentum_sum."""
    v, eta, state, states = ctx.saved_tensors
    _, learned, stateful, added, _ = ctx.needs_input_grad
    dv, deta, dstate = momentum_sum_backward(g, v, eta, state, states, learned, ctx.kernel)
    return dv, deta if learned else None, dstate.to(state.dtype) if stateful else None, g if added else None, None


torch.library.register_autograd("iclnb::momentum_sum", gradients, setup_context=setup_context)


def takes_kernel(v: Tensor, kernel: bool) -> Any:
    """The module of the kernel, where it is to be taken; it imports Triton, a second that a CPU can spare."""
    if not (kernel or v.is_cuda):
        return None
    from iclnb.attention import ema_triton

    return None if ema_triton.obstacle(v) else ema_triton


def chunk_weights(eta: Tensor, v: Tensor) -> Tensor:
    """`powers` for a chunk of v (B, H, T, D), as (B, H, C + 1, C + 1) in the dtype of its sums."""
    weights = powers(eta, min(CHUNK, v.shape[-2])).to(widen(v[:0]).dtype)  # (H, C + 1, C + 1)
    return weights.expand(len(v), *weights.shape).contiguous()
