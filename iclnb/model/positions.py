"""How a token's place enters a GPT: as a vector added to its embedding, or as a turn of its queries and keys.

Letters: B sequences, H heads, T tokens, C width, D head width.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def sinusoidal_positions(positions: Tensor, width: int) -> Tensor:
    """fairseq's sinusoidal position vectors: sines in the first half of the width, cosines in the second.

    Args:
        positions: (..., T) int, 0 for the first token; fairseq's offset of 2 is added here.
        width: C; where it is odd, the last entry is zero.

    Returns:
        (..., T, C) float32.
    """
    half = width // 2
    slope = math.log(10000) / max(half - 1, 1)  # a single rate is 1
    rates = torch.exp(torch.arange(half, device=positions.device) * -slope)  # (C / 2,)
    angles = (positions + 2).float()[..., None] * rates  # (..., T, C / 2)
    return F.pad(torch.cat([angles.sin(), angles.cos()], dim=-1), (0, width % 2))  # (..., T, C)


def rotary_angles(positions: Tensor, width: int, base: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines by which rotary positions turn the first `width` entries of each head.

    Returns:
        Two (..., T, width) float32 tensors, for positions (..., T).

    Raises:
        ValueError: the width is odd.

    Source: Su et al. 2021, in the half-split layout of GPT-NeoX.
    """
    if width % 2:
        raise ValueError(f"width is {width}; rotary positions turn pairs of numbers, so it must be even")
    rates = base ** (-torch.arange(0, width, 2, device=positions.device).float() / width)  # (width / 2,)
    angles = positions.float()[..., None] * rates  # (..., T, width / 2)
    angles = torch.cat([angles, angles], dim=-1)  # (..., T, width)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the first entries of each head of x (B, H, T, D) by the angles whose cos and sin are (..., T, width)."""
    width = cos.shape[-1]
    turned, kept = x[..., :width], x[..., width:]
    first, second = turned.chunk(2, dim=-1)  # (B, H, T, width / 2) each
    quarter = torch.cat([-second, first], dim=-1)  # (B, H, T, width): turned by a right angle
    return torch.cat([(turned * cos + quarter * sin).to(x.dtype), kept], dim=-1)  # (B, H, T, D)
