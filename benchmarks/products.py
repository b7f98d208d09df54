"""The machine's own limit: the matrix products of a piece of work, and nothing else.

Products notes every matrix product that PyTorch is asked for; Replay runs products of the same shapes again, with the
same weights, in the model's dtype, into memory that is already there: no norms, activations, softmax or copies between.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
CACHE = 2**20  # bytes: products of the attention run in pieces whose result is no larger, so that it stays in cache


class Product(NamedTuple):
    """`batch` products of (m, k) with (k, n); `weight` is the second operand where it belongs to the model."""

    batch: int
    m: int
    k: int
    n: int
    weight: Tensor | None = None


class Products(TorchDispatchMode):
    """Inside `with Products(model) as products:`, `products.done` gains every product that is run."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.own = {p.untyped_storage().data_ptr() for p in model.parameters()}
        self.done: list[Product] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket
        if name in (aten.mm, aten.addmm):
            a, b = args[-2:]  # (m, k), (k, n)
            weight = b.detach() if b.untyped_storage().data_ptr() in self.own else None
            self.done.append(Product(1, *a.shape, b.shape[1], weight))
        elif name in (aten.bmm, aten.baddbmm):
            a, b = args[-2:]  # (batch, m, k), (batch, k, n)
            self.done.append(Product(*a.shape, b.shape[2]))
        elif "scaled_dot_product" in str(name) and "backward" not in str(name):
            (B, H, T, D), S = args[0].shape, args[1].shape[2]  # of q, of k
            self.done += [Product(B * H, T, D, S), Product(B * H, T, S, D)]  # q k^T, then weights times v
        return func(*args, **kwargs or {})


def operations(products: list[Product]) -> int:
    """Floating-point operations of products, a multiplication and an addition counted as two."""
    return sum(2 * p.batch * p.m * p.k * p.n for p in products)


class Replay:
    """Runs products alone. What is no weight comes from three stretches of memory, used over and over.

    Args:
        products: all that will be run; the largest decides how much memory is held.
        like: a tensor with the dtype and device to use.
    """

    def __init__(self, products: list[Product], like: Tensor):
        needed = [(p.batch * p.m * p.k, p.batch * p.k * p.n, p.batch * p.m * p.n) for p in products]
        self.memory = [
            torch.randn(max(sizes), dtype=torch.float32).to(like.data) for sizes in zip(*needed, strict=True)
        ]

    def __call__(self, products: list[Product]) -> None:
        """Run them."""
        for p in products:
            if p.weight is not None:
                torch.mm(self._take(0, p.m, p.k), p.weight, out=self._take(2, p.m, p.n))
                continue
            a, b = self._take(0, p.batch, p.m, p.k), self._take(1, p.batch, p.n, p.k).transpose(1, 2)
            step = max(1, CACHE // (p.m * p.n * a.element_size()))
            for i in range(0, p.batch, step):
                torch.bmm(a[i : i + step], b[i : i + step], out=self._take(2, len(a[i : i + step]), p.m, p.n))

    def _take(self, which: int, *shape: int) -> Tensor:
        return self.memory[which][: math.prod(shape)].view(shape)
