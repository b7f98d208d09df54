"""Algorithms written into a GPT's blocks: move, multiply, divide, affine map, and what they compose to.

Each primitive is one or a few blocks of a GPT whose weights are set, not trained, in float64. The LayerNorms are left
out, except where one of them does the dividing.

Letters: B prompts, T tokens, C width; N pairs in d dimensions. The width is cut into named registers. Token 0 is empty,
x_1, y_1, ..., x_N, y_N follow, and the query comes last, so T = 2 N + 2.
Source: Akyurek et al. 2023, section 3 (Lemma 1, Theorems 1 and 2) and their appendix on the layers' weights.
"""

import math
from collections.abc import Callable, Sequence
from itertools import count

import torch
from torch import Tensor, nn

from iclnb.labs import at_least
from iclnb.model.gpt import Block, GPTConfig

SHARP = 1e3  # a logit that all others lose against: exp(-SHARP) is 0 in float64
SMALL = 1e-5  # what mul scales its inputs to, where GELU is a parabola: the error is about SMALL^2 + 1e-16 / SMALL
LARGE = 1e8  # what div scales the divisor to, so that it alone makes the standard deviation


class Registers:
    """Names for parts of the residual stream.

    Args:
        width: C, of the blocks; even, as they have two heads.
        tokens: T.
        sizes: entries of each register. Four more are always there: "at" (T), one-hot, says which token this is;
            "one" (1) is 1 at every token but the empty one; "zero" (1) is always 0; "large" (2) is used by div.

    Raises:
        ValueError: a size or T below 1, or the width is odd or less than the registers need.
    """

    def __init__(self, width: int, tokens: int, **sizes: int):
        sizes = {"at": tokens, "one": 1, "zero": 1, "large": 2} | sizes
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"register {name} has {size} entries; it needs at least 1")
        if (needed := sum(sizes.values())) > width or width % 2:
            raise ValueError(f"width is {width}; the registers need {needed}, and two heads an even number")
        self.width, self.tokens, self.slices, start = width, tokens, {}, 0
        for name, size in sizes.items():
            self.slices[name] = slice(start, start + size)
            start += size

    def __getitem__(self, name: str) -> slice:
        return self.slices[name]

    def size(self, name: str) -> int:
        """Entries of a register."""
        return self[name].stop - self[name].start

    def reader(self, name: str) -> Tensor:
        """(size, C): the matrix that reads a register out of the stream; its transpose writes one."""
        return torch.eye(self.width, dtype=torch.float64)[self[name]]  # (size, C)


def blank(registers: Registers, d_ff: int = 1) -> Block:
    """A block of GPT without LayerNorm and with all weights 0, so that it passes the stream on as it is."""
    config = GPTConfig(1, n_layer=1, n_head=2, n_embd=registers.width, d_ff=d_ff)
    block = Block(config).double().requires_grad_(False)
    block.attn_norm, block.mlp_norm = nn.Identity(), nn.Identity()
    for parameter in block.parameters():
        parameter.zero_()
    return block


def with_mlp(registers: Registers, units: Sequence[tuple[Tensor, Tensor]]) -> Block:
    """A block whose MLP adds GELU(a . h) v to the stream h, summed over pairs a, v of (C,) each."""
    block = blank(registers, d_ff=len(units))
    block.mlp.up_proj.weight.copy_(torch.stack([a for a, _ in units]))  # (d_ff, C)
    block.mlp.down_proj.weight.copy_(torch.stack([v for _, v in units], dim=1))  # (C, d_ff)
    return block


def linear_units(a: Tensor, v: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Two units that add (a . h) v exactly, as GELU(z) - GELU(-z) = z."""
    return [(a, v), (-a, -v)]


def square_units(a: Tensor, v: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Two units that add (a . h)^2 v, as GELU(z) + GELU(-z) = sqrt(2 / pi) z^2 + O(z^4)."""
    v = v * math.sqrt(math.pi / 2) / SMALL**2  # (C,)
    return [(SMALL * a, v), (-SMALL * a, v)]


def mov(registers: Registers, reads: dict[int, int | Sequence[int]], **copies: str) -> Block:
    """Copies registers between tokens, by attention: head 0 fetches, head 1 erases what was there.

    Args:
        registers: of the stream.
        reads: target token -> source token, or several of them, whose mean is taken; other tokens stay as they are.
        copies: target register = source register, of one size.

    Returns:
        One block.

    Raises:
        ValueError: a token outside 1 .. T - 1 or a source after its target (attention is causal), registers of
            different sizes, or heads too narrow for the positions or the copies.
    """
    D, T = registers.width // 2, registers.tokens
    size = sum(registers.size(name) for name in copies)
    if max(T, size) > D:
        raise ValueError(f"width is {registers.width}; mov needs {2 * max(T, size)}: {T} positions, {size} entries")
    if unequal := [f"{t} = {s}" for t, s in copies.items() if registers.size(t) != registers.size(s)]:
        raise ValueError(f"mov copies {unequal[0]}; they differ in size")
    block = blank(registers)
    fetch, erase, position = torch.zeros(D, T), torch.zeros(D, T), torch.zeros(D, T)  # (D, T) each
    position[:T] = torch.eye(T)
    for token in range(T):
        sources = reads.get(token, 0)  # a token that reads nothing looks at the empty one
        sources = [sources] if isinstance(sources, int) else list(sources)
        if token in reads and not all(1 <= source <= token for source in sources):
            raise ValueError(f"token {token} reads {sources}; attention lets it read tokens 1 to {token}")
        fetch[sources, token] = SHARP * math.sqrt(D)  # attention divides by sqrt(D)
        erase[token if token in reads else 0, token] = SHARP * math.sqrt(D)
    at = registers.reader("at")  # (T, C)
    old = torch.zeros(D, registers.width, dtype=torch.float64)  # (D, C)
    new = old.clone()
    old[:size] = torch.cat([registers.reader(target) for target in copies])
    new[:size] = torch.cat([registers.reader(source) for source in copies.values()])
    block.attn.q_proj.weight.copy_(torch.cat([fetch, erase]).double() @ at)  # (C, C)
    block.attn.k_proj.weight.copy_(torch.cat([position, position]).double() @ at)
    block.attn.v_proj.weight.copy_(torch.cat([new, old]))
    block.attn.out_proj.weight.copy_(torch.cat([old, -old]).T)
    return block


def aff(registers: Registers, **writes: dict[str, float | Tensor]) -> Block:
    """Sets registers to sums of linear maps of registers, by an MLP.

    Args:
        registers: of the stream.
        writes: target = {source: W}; W is (size of target, size of source), or a number times the identity. An empty
            sum sets the target to 0, and a constant b is {"one": b} with b of (size of target, 1).

    Returns:
        One block.
    """
    units = []
    for target, maps in writes.items():
        write = registers.reader(target)  # (size, C)
        change = -write  # (size, C): what the target held is taken away
        for source, W in maps.items():
            read = registers.reader(source)  # (size of source, C)
            change = change + (W.double() @ read if isinstance(W, Tensor) else W * read)
        for a, v in zip(change, write, strict=True):
            units += linear_units(a, v)
    return with_mlp(registers, units)


def mul(registers: Registers, a: str, b: str, out: str, shape: tuple[int, int, int]) -> Block:
    """Sets register `out` to the matrix product of registers a and b, by an MLP: x y = ((x + y)^2 - (x - y)^2) / 4.

    Args:
        registers: of the stream.
        a, b, out: registers that hold matrices of m k, k n and m n entries, row by row.
        shape: m, k, n.

    Returns:
        One block, exact up to SMALL^2 times the inputs' squares.

    Raises:
        ValueError: a register of another size.
    """
    m, k, n = shape
    for name, size in ((a, m * k), (b, k * n), (out, m * n)):
        if registers.size(name) != size:
            raise ValueError(f"register {name} has {registers.size(name)} entries; shape {shape} asks for {size}")
    A, B, write = registers.reader(a), registers.reader(b), registers.reader(out)  # (entries, C) each
    units = [unit for v in write for unit in linear_units(-v, v)]  # what was there is taken away
    for i in range(m):
        for j in range(n):
            for x, y in ((A[i * k + r], B[r * n + j]) for r in range(k)):
                v = write[i * n + j] / 4  # (C,)
                units += square_units(x + y, v) + square_units(x - y, -v)
    return with_mlp(registers, units)


def div(registers: Registers, a: str, by: str, out: str) -> nn.Sequential:
    """Sets register `out` to `a / |by|`, by LayerNorm.

    With LARGE by and -LARGE by in the stream, its standard deviation is `LARGE |by| sqrt(2 / C)`; LayerNorm divides by
    that, and the difference to an entry that is 0 removes the mean.

    Args:
        registers: of the stream.
        a, out: registers of one size.
        by: a register of one entry, which is nowhere 0 where a is not.

    Returns:
        Three blocks: write the large numbers, normalise, erase them.
    """
    both = LARGE * torch.tensor([[1.0], [-1.0]])  # (2, 1)
    zero, scale = registers.reader("zero")[0], LARGE * math.sqrt(2 / registers.width)
    pairs = zip(registers.reader(a), registers.reader(out), strict=True)
    normalise = with_mlp(registers, [unit for x, v in pairs for unit in linear_units(x - zero, scale * v)])
    normalise.mlp_norm = nn.LayerNorm(registers.width, eps=0.0, elementwise_affine=False)
    return nn.Sequential(aff(registers, large={by: both}, **{out: {}}), normalise, aff(registers, large={}))


# ------------------------------------------------------------------------------------------------------- compositions


def write_prompt(registers: Registers, **values: Tensor) -> Tensor:
    """The stream (B, T, C) before the first block.

    Args:
        registers: of the stream.
        values: x = (B, N + 1, d), the pairs' and then the query's; y = (B, N); and any other register, (size,), the
            same at every token but the empty one.

    Raises:
        ValueError: shapes that do not fit each other or the registers.
    """
    x, y = values.pop("x"), values.pop("y")
    (B, N), d = y.shape, x.shape[-1]
    if x.shape != (B, N + 1, d) or d != registers.size("x") or registers.tokens != 2 * N + 2:
        room = f"{registers.tokens} tokens and {registers.size('x')} dimensions"
        raise ValueError(f"x is {tuple(x.shape)}, y is {tuple(y.shape)}; (B, N + 1, d) and (B, N) must fit {room}")
    h = torch.zeros(B, registers.tokens, registers.width, dtype=torch.float64)  # (B, T, C)
    h[:, :, registers["at"]] = torch.eye(registers.tokens, dtype=torch.float64)
    h[:, 1:, registers["one"]] = 1
    h[:, 1::2, registers["x"]] = x.double()
    h[:, 2::2, registers["y"]] = y.double()[..., None]
    for name, value in values.items():
        h[:, 1:, registers[name]] = value.double()
    return h


def gradient_step(N: int, d: int, lr: float, width: int) -> tuple[Registers, nn.Sequential]:
    """One step of gradient descent on the mean of 1/2 (w . x_i - y_i)^2, and the prediction for the query.

    Args:
        N, d: pairs, dimensions.
        lr: learning rate.
        width: C; what the registers need grows with d and, for the positions, with N.

    Returns:
        The registers ("w" holds the weights, before and at the query after; "p" the prediction) and seven blocks.

    Raises:
        ValueError: N or d below 1, or a width that is too small.
    """
    at_least(1, N=N, d=d)
    registers = Registers(width, 2 * N + 2, x=d, y=1, w=d, p=1, e=1, g=d)
    labels, query = range(2, 2 * N + 1, 2), 2 * N + 1
    blocks = [
        mov(registers, {t: t - 1 for t in labels}, x="x"),  # each y is joined by its x
        mul(registers, "w", "x", "p", (1, d, 1)),  # p = w . x
        aff(registers, e={"p": 1.0, "y": -1.0}),  # e = p - y
        mul(registers, "x", "e", "g", (d, 1, 1)),  # g = e x
        mov(registers, {query: labels}, g="g"),  # the query gets the mean of g
        aff(registers, w={"w": 1.0, "g": -lr}),  # w = w - lr g
        mul(registers, "w", "x", "p", (1, d, 1)),  # p = w . x
    ]
    return registers, nn.Sequential(*blocks)


def least_width(make: Callable[[int], object]) -> int:
    """The least width that a construction accepts, `make` of a width."""
    for width in count(2, 2):
        try:
            make(width)
            return width
        except ValueError:  # "width is ...; the registers need ..."
            continue


def ridge_by_updates(N: int, d: int, lam: float, width: int) -> tuple[Registers, nn.Sequential]:
    """Ridge regression, one Sherman-Morrison update of A = (X^T X + lam I)^-1 a pair, and the prediction.

        u = A x,  A <- A - u u^T / (1 + x . u),  c <- c + y x;  at the query w = A c,  p = w . x

    Args:
        N, d: pairs, dimensions.
        lam: strength of the ridge, above 0.
        width: C; what the registers need grows with d^2.

    Returns:
        The registers ("w" and "p" at the query hold the result) and 9 N + 5 blocks.

    Raises:
        ValueError: N or d below 1, lam not above 0, or a width that is too small.
    """
    at_least(1, N=N, d=d)
    if not lam > 0:
        raise ValueError(f"lam is {lam}; A starts at I / lam, which needs lam above 0")
    sizes = {"x": d, "y": 1, "A": d * d, "c": d, "u": d, "s": 1, "v": d, "uv": d * d, "yx": d, "w": d, "p": 1}
    registers = Registers(width, 2 * N + 2, **sizes)
    labels, query, start = range(2, 2 * N + 1, 2), 2 * N + 1, torch.eye(d, dtype=torch.float64).view(-1, 1) / lam
    blocks = [
        mov(registers, {t: t - 1 for t in labels}, x="x"),
        mul(registers, "x", "y", "yx", (d, 1, 1)),
        aff(registers, A={"one": start}),
    ]
    for token in labels:
        if token > 2:
            blocks.append(mov(registers, {token: token - 2}, A="A", c="c"))  # from the pair before
        blocks += [
            mul(registers, "A", "x", "u", (d, d, 1)),
            mul(registers, "x", "u", "s", (1, d, 1)),
            aff(registers, s={"s": 1.0, "one": 1.0}),
            *div(registers, "u", "s", "v"),
            mul(registers, "u", "v", "uv", (d, 1, d)),
            aff(registers, A={"A": 1.0, "uv": -1.0}, c={"c": 1.0, "yx": 1.0}),
        ]
    blocks += [
        mov(registers, {query: labels[-1]}, A="A", c="c"),
        mul(registers, "A", "c", "w", (d, d, 1)),
        mul(registers, "w", "x", "p", (1, d, 1)),
    ]
    return registers, nn.Sequential(*blocks)
