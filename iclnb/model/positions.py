"""How a token's place enters a GPT: as a vector added to its embedding, or as a turn of its queries and keys.

Letters: B sequences, H heads, T tokens, C width, D head width.
"""

import math
from dataclasses import dataclass

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


@dataclass(frozen=True)
class RotaryScaling:
    """How Llama 3.1 slows rotary positions down for sequences that are longer than those it was first trained on.

    Pairs that turn less than `low_freq_factor` times within the first context are slowed down by `factor`, those that
    turn more than `high_freq_factor` times are left as they are, and in between the two rates are mixed.

    Args:
        factor, low_freq_factor, high_freq_factor: as above.
        original_max_position_embeddings: length of the first context in tokens.

    Raises:
        ValueError: the two bounds are not in order.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int

    def __post_init__(self):
        if not self.low_freq_factor < self.high_freq_factor:
            low, high = self.low_freq_factor, self.high_freq_factor
            raise ValueError(f"high_freq_factor is {high}; it must be above low_freq_factor = {low}")

    def slow_down(self, rates: Tensor) -> Tensor:
        """Angles a token, (width / 2,), after scaling."""
        turns = self.original_max_position_embeddings * rates / (2 * math.pi)  # (width / 2,), within the first context
        kept = (turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)  # (width / 2,)
        kept = kept.clamp(0, 1)
        return kept * rates + (1 - kept) * rates / self.factor  # (width / 2,)


def rotary_angles(
    positions: Tensor, width: int, base: float, scaling: RotaryScaling | None = None
) -> tuple[Tensor, Tensor]:
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
    rates = rates if scaling is None else scaling.slow_down(rates)
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
