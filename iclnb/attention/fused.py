"""torch's own attention kernels that also return the log-sum-exp: flash on a CPU, flash and memory-efficient on a GPU.

Each computes what the plain form of attention.attention_with_mass computes, but never holds the (T, S) scores.
Letters as there: B sequences, H heads, T queries, S keys, D head width.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.backends.cuda import SDPAParams, can_use_efficient_attention, can_use_flash_attention

Kernel = Callable[[Tensor, Tensor, Tensor, bool, Tensor | None, float | None], tuple[Tensor, Tensor]]


def find_kernel(q: Tensor, k: Tensor, v: Tensor, causal: bool, mask: Tensor | None) -> Kernel | None:
    """The kernel for these tensors, if there is one.

    On a CPU it is the flash kernel, with or without a mask. On a GPU, without a mask and for D a multiple of 8, it is
    flash where torch's own check allows it (16-bit dtypes, Ampere and newer), else memory-efficient where torch allows
    that (float32 and older GPUs too). None of them gives gradients through the log-sum-exp.

    Args:
        q, k, v: (B, H, T, D), keys and values of any length S.
        causal, mask: as in attention_with_mass.

    Returns:
        A function of (q, k, v, causal, mask, scale) that gives attention (B, H, T, D) in the dtype of q and the
        log-sum-exp (B, H, T); or None.
    """
    if torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v)):
        return None
    if q.device.type == "cpu":
        return cpu_flash
    if q.device.type != "cuda" or mask is not None or q.shape[-1] % 8:
        return None
    asked = SDPAParams(q, k, v, None, 0.0, causal, False)  # no mask, no dropout, as many key heads as query heads
    if can_use_flash_attention(asked):
        return gpu_flash
    return gpu_memory_efficient if can_use_efficient_attention(asked) else None


def cpu_flash(
    q: Tensor, k: Tensor, v: Tensor, causal: bool, mask: Tensor | None, scale: float | None
) -> tuple[Tensor, Tensor]:
    """Flash attention on a CPU; a mask (B, 1, T, S) takes the place of `causal`."""
    added = None if mask is None else torch.zeros_like(mask, dtype=q.dtype).masked_fill(~mask, float("-inf"))
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return kernel(q, k, v, 0.0, causal and mask is None, attn_mask=added, scale=scale)  # (B, H, T, D), (B, H, T)


def gpu_flash(q: Tensor, k: Tensor, v: Tensor, causal: bool, mask: None, scale: float | None) -> tuple[Tensor, Tensor]:
    """Flash attention on a GPU."""
    out, mass, *_ = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, 0.0, causal, scale=scale)
    return out, mass  # (B, H, T, D), (B, H, T)


def gpu_memory_efficient(
    q: Tensor, k: Tensor, v: Tensor, causal: bool, mask: None, scale: float | None
) -> tuple[Tensor, Tensor]:
    """Memory-efficient attention on a GPU, whose log-sum-exp is padded to a multiple of 32 queries."""
    kernel = torch.ops.aten._scaled_dot_product_efficient_attention
    out, mass, *_ = kernel(q, k, v, None, True, 0.0, causal, scale=scale)  # (B, H, T, D), (B, H, T or more)
    return out, mass.narrow(-1, 0, q.shape[-2])  # (B, H, T, D), (B, H, T)
