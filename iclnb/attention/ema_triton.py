"""The momentum term as a Triton kernel: ema.loop, which defines it, with T cut into segments that are walked at once.

One program walks along the positions of one segment of one sequence, head and part of the head width. What it knows of
the past is one number a column, held where no memory has to be asked for it; programs never wait for each other. So a
number is read once and written once, but for the few that tell a segment what lies before it: where T is cut, a first
pass finds what each segment adds at its end, by itself; the second begins with the sum of these, decayed. What has
decayed below the last digit of the sums is not read: with a small eta the first pass sees only the ends of segments.

With g the gradient of the output, that of v_i is dv_i = sum_{t>i} eta^(t-i) g_t: the same walk from the other end. That
of eta is sum_i v_i d(dv_i)/d(eta), because sum_t g_t out_t = sum_i v_i dv_i; so it comes from the same walk, with the
derivative of the sum beside it, and the sums are not needed again.

Letters: B sequences, H heads, T positions, D head width, N segments of S positions.
"""

import os

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:  # Triton comes with torch where it is built for a GPU
    triton = None

WIDTH = 64  # numbers of the head width in a program, two for each of its 32 threads
ROWS = 16  # positions that a program asks for at once, so that it does not wait for the memory at each
PROGRAMS = 2048  # so many keep a large GPU's memory busy; where B and H give fewer, T is cut
SEGMENTS = 64  # at most, since each one looks at all earlier ones
DIGITS = 30  # a sum holds 24 binary digits; the derivative of eta^n fades a little later than eta^n


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


def forward(v: Tensor, eta: Tensor, state: Tensor | None, onto: Tensor | None, out: Tensor) -> None:
    """Write onto + sums (B, H, T, D) into out, from v and onto (B, H, T, D), eta (H,) and state (B, H, D)."""
    launch(v, eta, out, state=state, onto=onto)


def backward(
    g: Tensor, v: Tensor, eta: Tensor, state: Tensor | None, dv: Tensor, deta: Tensor | None, dstate: Tensor
) -> None:
    """Write the gradients of v, of eta if it has a place, and of a state, for that of the output, g (B, H, T, D)."""
    T, found = v.shape[-2], launch(g, eta, dv, v=None if deta is None else v, back=True)  # (H,)
    if deta is not None:
        deta.copy_(found)
    if state is None:
        return
    t, rate = torch.arange(T, device=v.device), eta[:, None, None]  # (T,), (H, 1, 1); the state weighs eta^t at t
    dstate.copy_(((rate**t).float() @ g.float()).squeeze(-2))  # (B, H, D)
    if deta is not None:
        slope = ((t * rate ** (t - 1).clamp(min=0)).float() @ g.float()).squeeze(-2)  # (B, H, D)
        deta += (slope.double() * state).sum((0, 2))


def launch(x: Tensor, eta: Tensor, out: Tensor, state=None, onto=None, v=None, back: bool = False) -> Tensor | None:
    """Run both passes over x (B, H, T, D), or the second alone where T is one segment; arguments as in `walk`.

    Returns:
        With v, the gradient of eta but for what a state has to do with it, (H,).
    """
    B, H, T, D = x.shape
    width = min(WIDTH, triton.next_power_of_2(D))
    columns = B * H, triton.cdiv(D, width)
    N = min(SEGMENTS, triton.cdiv(PROGRAMS, columns[0] * columns[1]))
    S = ROWS * triton.cdiv(T, ROWS * N)
    N = triton.cdiv(T, S)
    ends = x.new_empty(B, H, N - 1, 1 if v is None else 2, D, dtype=torch.float32) if N > 1 else None
    deta = x.new_empty(*columns, N, dtype=torch.float32) if v is not None else None
    how = {"BACK": back, "LEARNED": v is not None}
    how |= {"ROWS": ROWS, "WIDTH": width, "FADED": DIGITS}

    def run(segments: int, *tensors: Tensor | None) -> None:
        each = [part for one in tensors for part in (one, () if one is None else tuple(one.stride()))]
        walk[*columns, segments](T, S, D, H, *each, **how, num_warps=1)

    with torch.cuda.device_of(x):
        if ends is not None:
            run(N - 1, x, eta, None, None, None, ends, None, None)
        run(N, x, eta, state, onto, v, ends, out, deta)
    return None if deta is None else deta.double().sum((1, 2)).view(B, H).sum(0)  # (H,)


if triton is not None:
    # Numbers that multiply long strides are int64. A tensor's strides are a tuple, empty where there is no tensor.

    @triton.jit
    def power(eta, n):
        """eta^n, with 0^0 = 1, in float64: in float32 the rounding of eta grows to 3e-4 in its 10,000th power."""
        return tl.where(n > 0, tl.exp2(n * tl.log2(eta)), 1.0)

    @triton.jit
    def pair(x):
        """x, float64, as a float32 and what it leaves out."""
        high = x.to(tl.float32)
        return high, (x - high).to(tl.float32)

    @triton.jit
    def times(pair, x):
        """The product of x with the number that a pair stands for."""
        return pair[0] * x + pair[1] * x

    @triton.jit
    def column(x, strides, b, h, d):
        """Addresses of x[b, h, 0, d], (WIDTH,)."""
        return x + b * strides[0] + h * strides[1] + d * strides[3]

    @triton.jit
    def walk(T, S, D, H, x, x_at, eta, eta_at, state, state_at, onto, onto_at, v, v_at, ends, ends_at, out, out_at,
             deta, deta_at, BACK: tl.constexpr, LEARNED: tl.constexpr, ROWS: tl.constexpr,
             WIDTH: tl.constexpr, FADED: tl.constexpr):  # fmt: skip
        """out_t = onto_t + c_t along one segment, with c_0 = state, c_{t+1} = eta (c_t + x_t); with BACK from T's end.

        c' is the derivative of c by eta, wanted where LEARNED, and deta = sum_t v_t c'_t of the segment. Without `out`
        this is the first pass: the segment begins with c = 0, no sooner than needed, and writes c and c' into `ends`.
        """
        b, h = tl.program_id(0).to(tl.int64) // H, tl.program_id(0).to(tl.int64) % H
        d, n = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH), tl.program_id(2).to(tl.int64)  # (WIDTH,), ()
        wide = d < D
        rate = tl.load(eta + h * eta_at[0])  # float64
        near = pair(rate)
        reach = tl.ceil(FADED / -tl.log2(rate)).to(tl.int64) + 1  # positions, after which nothing is left
        first, last = n * S, tl.minimum((n + 1) * S, T)
        c, slope = tl.zeros([WIDTH], tl.float32), tl.zeros([WIDTH], tl.float32)  # c and c'
        if out is None:
            first = tl.maximum(first, last - (reach + ROWS - 1) // ROWS * ROWS)
        else:
            if ends is not None:  # c_{m+1} = eta^S c_m + what segment m adds, from the first that has not faded
                over, over_ = pair(power(rate, S)), pair(S * power(rate, S - 1))  # eta^S, and its derivative
                groups = (tl.minimum(n, reach // S + 1) + ROWS - 1) // ROWS
                e_row = ends + b * ends_at[0] + h * ends_at[1] + (n - groups * ROWS) * ends_at[2] + d * ends_at[4]
                for m in tl.range(n - groups * ROWS, n, ROWS):
                    es, es_ = (), ()
                    for r in tl.static_range(ROWS):
                        real = d < tl.where(m + r >= 0, D, 0)  # (WIDTH,)
                        es = es + (tl.load(e_row, real, 0.0),)
                        if LEARNED:
                            es_ = es_ + (tl.load(e_row + ends_at[3], real, 0.0),)
                        e_row += ends_at[2]
                    for r in tl.static_range(ROWS):
                        if LEARNED:
                            slope = times(over, slope) + times(over_, c) + es_[r]
                        c = times(over, c) + es[r]
            if state is not None:
                start = tl.load(state + b * state_at[0] + h * state_at[1] + d * state_at[2], wide, 0.0)  # (WIDTH,)
                c += power(rate, first).to(tl.float32) * start
        total = tl.zeros([WIDTH], tl.float32)
        row, side = (T - 1 - first, -1) if BACK else (first, 1)
        x_row, x_step = column(x, x_at, b, h, d) + row * x_at[2], side * x_at[2]
        if onto is not None:
            onto_row, onto_step = column(onto, onto_at, b, h, d) + row * onto_at[2], side * onto_at[2]
        if v is not None:
            v_row, v_step = column(v, v_at, b, h, d) + row * v_at[2], side * v_at[2]
        if out is not None:
            out_row, out_step = column(out, out_at, b, h, d) + row * out_at[2], side * out_at[2]
        for t in tl.range(first, last, ROWS):
            here, xs, ys, vs = (), (), (), ()
            for r in tl.static_range(ROWS):  # all are asked for before the first is waited for
                here = here + (d < tl.where(last > t + r, D, 0),)
                xs = xs + (tl.load(x_row, here[r], 0.0).to(tl.float32),)
                x_row += x_step
                if onto is not None:
                    ys = ys + (tl.load(onto_row, here[r], 0.0).to(tl.float32),)
                    onto_row += onto_step
                if v is not None:
                    vs = vs + (tl.load(v_row, here[r], 0.0).to(tl.float32),)
                    v_row += v_step
            for r in tl.static_range(ROWS):
                if out is not None:
                    tl.store(out_row, c + ys[r] if onto is not None else c, here[r])
                    out_row += out_step
                if v is not None:
                    total += vs[r] * slope
                c += xs[r]
                if LEARNED:
                    slope = c + times(near, slope)
                c = times(near, c)
        if out is None:
            at = ends + b * ends_at[0] + h * ends_at[1] + n * ends_at[2] + d * ends_at[4]  # (WIDTH,)
            tl.store(at, c, wide)
            if LEARNED:
                tl.store(at + ends_at[3], slope, wide)
        if deta is not None:
            at = deta + tl.program_id(0) * deta_at[0] + tl.program_id(1) * deta_at[1] + n * deta_at[2]
            tl.store(at, tl.sum(total, 0))
