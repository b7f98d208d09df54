"""The precision in which sums are taken, and which precision a device is fast in."""

import torch
from torch import Tensor


def widen(x: Tensor) -> Tensor:
    """Half-precision tensors as float32, anything wider as it is: sums need the digits."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def has_bf16(device: torch.device) -> bool:
    """Whether matrix products in bfloat16 are fast on this device, not emulated."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def emulated(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether a CPU only emulates matrix products in a 16-bit dtype, at about a fiftieth of float32's speed."""
    fast = {torch.bfloat16: has_bf16, torch.float16: lambda _: torch.ops.mkldnn._is_mkldnn_fp16_supported()}
    return device.type == "cpu" and dtype in fast and not fast[dtype](device)
