"""Attention as mathematics: what one layer computes, and why it is a step of gradient descent.

Begin with softmax.py: softmax, linear and prefix attention. duality.py is the paper's argument, ema.py the sum that
momentum adds; fused.py and ema_triton.py compute the same faster.
"""

from iclnb.attention.ema import ema, momentum_attention
from iclnb.attention.softmax import linear_attention, prefix_attention, softmax_attention

__all__ = ["ema", "linear_attention", "momentum_attention", "prefix_attention", "softmax_attention"]
