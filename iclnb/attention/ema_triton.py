"""The momentum term as a Triton kernel: the chunks of ema.chunked, which defines it, in one pass over a GPU's memory.

One program walks along the positions of one sequence, head and part of the head width, C positions at a time. It keeps
the matrix of one chunk and the state between two chunks where no memory has to be asked for them, so that each number
is read once and written once. Letters: B sequences, H heads, T positions, D head width, C positions of a chunk.

With g the gradient of the output, that of v_i is dv_i = sum_{t>i} eta^(t-i) g_t: the same walk from the other end. That
of eta is sum_i v_i d(dv_i)/d(eta), because sum_t g_t out_t = sum_i v_i dv_i; so it comes from the same walk, with the
derivatives of its weights beside them, and the sums are not needed again.
"""

import os
from typing import Any

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:  # Triton comes with torch where it is built for a GPU
    triton = None

WIDTH = 32  # numbers of the head width in a program; fewer would make more programs, but cut reads short


def obstacle(v: Tensor) -> str | None:
    """Why the kernel cannot take these values, as the end of a sentence; None where it can."""
    if triton is None or tuple(map(int, triton.__version__.split(".")[:2])) < (3, 3):  # older ones take no tuples
        return "Triton 3.3 or newer is not installed"
    if v.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"v is {v.dtype}; the kernel takes float32, bfloat16 and float16"
    if not v.numel():
        return f"v has shape {tuple(v.shape)}, which holds no number"
    if not v.is_cuda:
        return None if os.environ.get("TRITON_INTERPRET") == "1" else f"v is on {v.device}; the kernel needs a GPU"
    if torch.version.hip or torch.cuda.get_device_capability(v.device) < (8, 0):
        return f"v is on {v.device}; the kernel needs an NVIDIA GPU of the Ampere generation or newer"
    return None


def scan(v: Tensor, eta: Tensor, state: Tensor | None = None, onto: Tensor | None = None) -> Tensor:
    """ema.exponential_sum by the kernel; arguments and result as there, and no `obstacle` for v."""
    return Scan.apply(v, eta, state, onto)


class Scan(torch.autograd.Function):
    """The kernels with their gradients for v, eta, state and onto; it keeps v alone."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, eta: Tensor, state: Tensor | None, onto: Tensor | None) -> Tensor:
        """onto + sums (..., T, D) from v (..., T, D), eta () or (H,), state (..., D), onto (..., T, D)."""
        ctx.save_for_backward(v, eta, state)
        x, rate, start = four(v), each_head(eta, v), each_row(state, v)
        out = torch.empty_like(x)  # (B, H, T, D)
        launch(sums, x, rate, start, None if onto is None else four(onto), out)
        return out.view(v.shape)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of v, eta, state and onto."""
        v, eta, state = ctx.saved_tensors
        x, rate, start = four(v), each_head(eta, v), each_row(state, v)
        B, H, _, D = x.shape
        learned = ctx.needs_input_grad[1]
        dv = torch.empty_like(x)  # (B, H, T, D)
        dstate = None if state is None else torch.empty(B, H, D, device=v.device)
        deta = torch.empty(B, H, triton.cdiv(D, WIDTH), device=v.device) if learned else None  # a number a program
        launch(gradients, four(g), x if learned else None, rate, start if learned else None, dv, dstate, deta)
        return (
            dv.view(v.shape),
            deta.double().sum((0, 2)).sum_to_size(eta.shape).to(eta.dtype) if learned else None,
            None if state is None else dstate.view(*v.shape[:-2], D).sum_to_size(state.shape).to(state.dtype),
            g if ctx.needs_input_grad[3] else None,
        )


def four(x: Tensor) -> Tensor:
    """(..., T, D) as (B, H, T, D), in place where its strides allow it."""
    return x.reshape(-1, x.shape[-3] if x.ndim > 2 else 1, *x.shape[-2:])


def each_head(eta: Tensor, v: Tensor) -> Tensor:
    """eta, () or (H,), as (H,)."""
    return eta.expand(v.shape[-3] if v.ndim > 2 else 1)


def each_row(state: Tensor | None, v: Tensor) -> Tensor | None:
    """The state, (..., D), as (B, H, D)."""
    return None if state is None else four(state.unsqueeze(-2).expand_as(v[..., :1, :])).squeeze(-2)


def launch(kernel: Any, x: Tensor, *others: Tensor | None) -> None:
    """Run a kernel, one program for each sequence, head and part of the width of x (B, H, T, D).

    A kernel's arguments are T, D, H, then each tensor and its strides (None and () where there is none), C and WIDTH.
    """
    B, H, T, D = x.shape
    tensors = [part for one in (x, *others) for part in (one, () if one is None else tuple(one.stride()))]
    C = 32 if x.dtype == torch.float32 else 64  # 16-bit numbers take half the memory, and their product is fast
    with torch.cuda.device_of(x):
        kernel[B * H, triton.cdiv(D, WIDTH)](T, D, H, *tensors, C=C, WIDTH=WIDTH)


if triton is not None:
    # A program's numbers b, h, d (WIDTH,) and j (C,), a chunk's positions, are int64 where they multiply long strides.

    @triton.jit
    def power(eta, n):
        """eta^n, with 0^0 = 1, in float64: in float32 the rounding of eta grows to 3e-4 in its 10,000th power."""
        return tl.where(n > 0, tl.exp2(n * tl.log2(eta)), 1.0)

    @triton.jit
    def slope(eta, n):
        """The derivative of eta^n by eta, n eta^(n-1), in float64."""
        return tl.where(n > 0, n * power(eta, n - 1), 0.0)

    @triton.jit
    def weights(of: tl.constexpr, eta, lag, C: tl.constexpr):
        """`of` eta and the lags of one chunk, in float32.

        `inside` (C, C) is between values and sums, `out_of` (C,) between the state and the sums, `into` (C,) between
        the values and the next state, `over` between the two states.
        """
        j = tl.arange(0, C)  # (C,)
        inside = tl.where(lag > 0, of(eta, lag), 0.0)  # (C, C)
        return (
            inside.to(tl.float32),
            of(eta, j).to(tl.float32),
            of(eta, C - j).to(tl.float32),
            of(eta, C).to(tl.float32),
        )

    @triton.jit
    def product(weights, x):
        """weights (C, C) @ x (C, WIDTH), summed in float32. TF32 holds 16-bit numbers exactly, and is much faster."""
        precision: tl.constexpr = "ieee" if x.dtype == tl.float32 else "tf32"
        return tl.dot(weights, x.to(tl.float32), input_precision=precision)

    @triton.jit
    def tile(x, strides, b, h, t, d):
        """Addresses of x[b, h, t, d], (C, WIDTH)."""
        return x + b * strides[0] + h * strides[1] + t[:, None] * strides[2] + d * strides[3]

    @triton.jit
    def row(x, strides, b, h, d):
        """Addresses of x[b, h, d], (WIDTH,)."""
        return x + b * strides[0] + h * strides[1] + d * strides[2]

    @triton.jit
    def sums(T, D, H, v, v_at, eta, eta_at, state, state_at, onto, onto_at, out, out_at,
             C: tl.constexpr, WIDTH: tl.constexpr):  # fmt: skip
        """out_t = onto_t + sum_{i<t} eta^(t-i) v_i, from the first chunk to the last."""
        b, h = tl.program_id(0).to(tl.int64) // H, tl.program_id(0).to(tl.int64) % H
        d, j = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH), tl.arange(0, C).to(tl.int64)
        inside, out_of, into, over = weights(power, tl.load(eta + h * eta_at[0]), j[:, None] - j, C)
        carry = tl.zeros([WIDTH], tl.float32)  # the state before the chunk
        if state is not None:
            carry += tl.load(row(state, state_at, b, h, d), d < D, 0.0)
        for start in tl.range(0, T, C, num_stages=4):
            t = start + j  # (C,)
            here = (t < T)[:, None] & (d < D)  # (C, WIDTH)
            x = tl.load(tile(v, v_at, b, h, t, d), here, 0.0)  # (C, WIDTH)
            sum = product(inside, x) + out_of[:, None] * carry  # (C, WIDTH)
            carry = tl.sum(into[:, None] * x, 0) + over * carry  # (WIDTH,)
            if onto is not None:
                sum += tl.load(tile(onto, onto_at, b, h, t, d), here, 0.0)
            tl.store(tile(out, out_at, b, h, t, d), sum, here)

    @triton.jit
    def gradients(T, D, H, g, g_at, v, v_at, eta, eta_at, state, state_at, dv, dv_at, dstate, dstate_at, deta, deta_at,
                  C: tl.constexpr, WIDTH: tl.constexpr):  # fmt: skip
        """dv_i = sum_{t>i} eta^(t-i) g_t, from the last chunk to the first; dstate and, with v, deta."""
        b, h = tl.program_id(0).to(tl.int64) // H, tl.program_id(0).to(tl.int64) % H
        d, j = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH), tl.arange(0, C).to(tl.int64)
        rate = tl.load(eta + h * eta_at[0])
        inside, out_of, into, over = weights(power, rate, j - j[:, None], C)
        inside_, out_of_, into_, over_ = weights(slope, rate, j - j[:, None], C)  # x_ is the derivative of x by eta
        carry = tl.zeros([WIDTH], tl.float32)  # the gradient of the state behind the chunk
        carry_, total = tl.zeros([WIDTH], tl.float32), tl.zeros([WIDTH], tl.float32)  # total: of the gradient of eta
        for k in tl.range(0, T, C, num_stages=4):
            t = (T - 1) // C * C - k + j  # (C,)
            here = (t < T)[:, None] & (d < D)  # (C, WIDTH)
            y = tl.load(tile(g, g_at, b, h, t, d), here, 0.0)  # (C, WIDTH)
            back = product(inside, y) + into[:, None] * carry  # (C, WIDTH)
            tl.store(tile(dv, dv_at, b, h, t, d), back, here)
            if v is not None:
                x = tl.load(tile(v, v_at, b, h, t, d), here, 0.0)  # (C, WIDTH)
                back_ = product(inside_, y) + into_[:, None] * carry + into[:, None] * carry_  # (C, WIDTH)
                total += tl.sum(x * back_, 0)  # (WIDTH,)
                carry_ = tl.sum(out_of_[:, None] * y, 0) + over_ * carry + over * carry_  # (WIDTH,)
            carry = tl.sum(out_of[:, None] * y, 0) + over * carry  # (WIDTH,)
        if dstate is not None:
            tl.store(row(dstate, dstate_at, b, h, d), carry, d < D)
        if deta is not None:
            if state is not None:
                total += carry_ * tl.load(row(state, state_at, b, h, d), d < D, 0.0)
            tl.store(row(deta, deta_at, b, h, tl.program_id(1)), tl.sum(total, 0))
