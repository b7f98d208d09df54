"""The precision in which sums are taken."""

import torch
from torch import Tensor


def widen(x: Tensor) -> Tensor:
    """Half-precision tensors as float32, anything wider as it is: sums need the digits."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
