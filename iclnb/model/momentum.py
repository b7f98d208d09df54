"""The momentum term of momentum attention as a part of the model: sum_{i<t} eta^(t-i) v_i, one eta a head.

Letters: B sequences, H heads, G key heads, T tokens, D head width.

Source: Dai et al. 2023, section 5.
"""

import torch
from torch import Tensor, nn

from iclnb.attention.ema import check_momentum, ema_state, exponential_sum
from iclnb.attention.precision import widen
from iclnb.attention.softmax import repeat_heads


def check_choice(momentum: float | tuple[float, ...] | None, learn: bool, H: int) -> None:
    """Check what GPTConfig says about momentum.

    Raises:
        ValueError: a number outside [0, 1), another count of numbers than one or H, or one that cannot be learned.
    """
    if momentum is None:
        if learn:
            raise ValueError("learn_momentum is True, but momentum is None; it needs the momentum to start from")
        return
    eta = check_momentum(momentum, torch.empty(H, 0, 0, device="cpu"))  # () or (H,)
    if learn and not (eta > 0).all():
        raise ValueError(f"momentum is {momentum}; one that is learned starts in (0, 1)")


class Momentum(nn.Module):
    """The momentum of one layer: a constant, or learned as the logit of eta, so that eta stays in (0, 1).

    Args:
        momentum, learn: `momentum` and `learn_momentum` of GPTConfig, already checked.
        H: heads.
    """

    def __init__(self, momentum: float | tuple[float, ...], learn: bool, H: int):
        super().__init__()
        self.initial = tuple(momentum) if isinstance(momentum, tuple | list) else (float(momentum),) * H
        self.logit = nn.Parameter(self.start()) if learn else None

    def start(self) -> Tensor:
        """The logits that a learned momentum starts from, (H,) float32."""
        return torch.tensor(self.initial, dtype=torch.float64).logit().float()

    def eta(self) -> Tensor:
        """The momentum of each head, (H,) float64."""
        if self.logit is not None:
            return self.logit.double().sigmoid()
        return torch.tensor(self.initial, dtype=torch.float64)

    def forward(
        self,
        v: Tensor,
        y: Tensor,
        carried: Tensor | None,
        mask: Tensor | None,
        positions: Tensor | None,
        at: Tensor | None = None,
        query: Tensor | None = None,
    ) -> Tensor:
        """Attention's output with the momentum term added.

        Args:
            v: values, (B, H, T, D).
            y: attention's output, (B, H, T, D).
            carried: what the values of a shared prefix add at the first position, (1, H, D), from `carry`.
            mask: (B, 1, T, T) bool, which tokens each token sees, where a sequence forks; None is the earlier ones.
            positions: with a mask, the place of each token after the prefix, (B, T) int.
            at: with a mask (B, 1, A, T), the A tokens of each sequence that y (B, H, A, D) is for, (B, A) int.
            query: queries, (B, H, T, D), which this momentum does not ask; rivals of it do (iclnb.model.terms).

        Returns:
            (B, H, T, D).
        """
        eta = self.eta().to(v.device, non_blocking=True)  # (H,)
        if mask is None:
            return exponential_sum(v, eta, carried, onto=y)  # (B, H, T, D)
        # Where a sequence forks, tokens are as far apart as their positions say, not as their places in the tensor.
        wide, positions = widen(v), positions.expand(len(v), -1)  # (B, H, T, D), (B, T)
        places = positions if at is None else positions.gather(1, at)  # (B, T), or (B, A) and so below
        lag = (places[:, :, None] - positions[:, None, :]).unsqueeze(1)  # (B, 1, T, T)
        weights = torch.where(mask & (lag > 0), eta[:, None, None] ** lag.clamp(min=0), 0)  # (B, H, T, T)
        out = y + weights.to(wide.dtype) @ wide  # (B, H, T, D)
        if carried is not None:
            decay = eta[:, None] ** places[:, None, :]  # (B, H, T)
            out = out + decay.to(wide.dtype).unsqueeze(-1) * carried.unsqueeze(-2)  # (B, H, T, D)
        return out.to(y.dtype)

    def carry(self, v: Tensor, carried: Tensor | None = None) -> Tensor:
        """What the values (B, G, T, D), and those before them, add at the position that follows: (B, H, D)."""
        eta = self.eta()  # (H,)
        return ema_state(repeat_heads(v, len(eta)), eta, carried)  # (B, H, D)
