"""What else may be added to a head's softmax attention: rivals of momentum, to find out what momentum does.

Each adds a sum of values whose weights depend on how old a value is, and in some on the query. Letters: B sequences,
H heads, T tokens, A of them that look, P prefix tokens, D head width.
"""

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from iclnb.attention.precision import widen
from iclnb.attention.softmax import causal_mask, repeat_heads
from iclnb.model.gpt import GPT
from iclnb.model.momentum import Momentum


class GatedMomentum(Momentum):
    """Momentum that the query can switch off: sigmoid(g . q_t + b) times the sum, with g and b learned in each head.

    Args:
        momentum: as in Momentum; it is learned too.
        H, D: heads, and their width.
    """

    def __init__(self, momentum: float, H: int, D: int):
        super().__init__(momentum, True, H)
        self.gate, self.gate_bias = nn.Parameter(torch.zeros(H, D)), nn.Parameter(torch.zeros(H))

    def forward(self, v, y, carried, mask, positions, at=None, query=None) -> Tensor:
        """As in Momentum."""
        added = super().forward(v, torch.zeros_like(y), carried, mask, positions, at)  # (B, H, A, D)
        return y + self.opened(asked(query, at)).unsqueeze(-1).to(y.dtype) * added

    def opened(self, query: Tensor) -> Tensor:
        """How far the queries (B, H, A, D) open the gate, in (0, 1), (B, H, A)."""
        return ((query * self.gate[:, None]).sum(-1) + self.gate_bias[:, None]).sigmoid()


class ValueTerm(nn.Module):
    """A sum of values with any weights, as one product with their matrix. A subclass says the weights.

    What a shared prefix hands on is its values, (1, H, P, D).
    """

    def weights(self, lag: Tensor, query: Tensor) -> Tensor:
        """The weight of values that are so many tokens old, (B, H, A, T); lag (B, 1, A, T) >= 0, query (B, H, A, D)."""
        raise NotImplementedError

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
        """Attention's output y (B, H, A, D) with the term added; arguments as in Momentum, query (B, H, T, D)."""
        T, query = v.shape[-2], asked(query, at)  # (B, H, A, D)
        if mask is None:
            mask, positions = causal_mask(T, v.device), torch.arange(T, device=v.device)  # (T, T), (T,)
        positions = positions.view(-1, T)  # (1 or B, T)
        places = positions if at is None else positions.expand(len(at), -1).gather(1, at)  # (B, A)
        lag = (places[:, :, None] - positions[:, None, :]).unsqueeze(1)  # (B, 1, A, T)
        weights = torch.where(mask & (lag >= 0), self.weights(lag.clamp(min=0), query), 0)  # (B, H, A, T)
        out = y + weights.to(v.dtype) @ v  # (B, H, A, D)
        if carried is not None:
            P = carried.shape[-2]
            older = (places[:, :, None] + P - torch.arange(P, device=v.device)).unsqueeze(1)  # (B, 1, A, P)
            out = out + self.weights(older, query).to(v.dtype) @ carried
        return out

    def carry(self, v: Tensor, carried: Tensor | None = None) -> Tensor:
        """The values (B, G, T, D), behind those before them: (B, H, P + T, D)."""
        v = repeat_heads(v, self.heads)  # (B, H, T, D)
        return v if carried is None else torch.cat([carried, v], dim=2)


class ValueConvolution(ValueTerm):
    """A short causal convolution of the values, sum_{n<W} w_n v_{t-n}, with W weights in each head.

    They start where momentum 0.5 has its own, 0 for the newest value, then 0.5, 0.25 ..., and each is learned.

    Source: Fu et al. 2023, Hungry Hungry Hippos (the shift); here one kernel a head, as momentum has one eta.
    """

    def __init__(self, W: int, H: int):
        super().__init__()
        start = 0.5 ** torch.arange(W)  # (W,)
        start[0] = 0.0
        self.heads, self.kernel = H, nn.Parameter(start.repeat(H, 1))  # (H, W)

    def weights(self, lag: Tensor, query: Tensor) -> Tensor:
        """(B, H, A, T): an entry of the kernel, or 0 beyond it."""
        W = self.kernel.shape[1]
        table = F.pad(self.kernel, (0, 1))  # (H, W + 1)
        return table[:, lag.squeeze(1).clamp(max=W)].transpose(0, 1)

    def forward(self, v, y, carried, mask, positions, at=None, query=None) -> Tensor:
        """As in ValueTerm, but where nothing is carried or masked as W shifted copies, which is faster."""
        if mask is not None or carried is not None:
            return super().forward(v, y, carried, mask, positions, at, query)
        T = v.shape[-2]
        for n, w in enumerate(self.kernel.T):  # (H,)
            y = y + w[:, None, None] * F.pad(v, (0, 0, n, 0))[..., :T, :]  # (B, H, T, D)
        return y


class AdaptiveMomentum(ValueTerm):
    """Momentum whose eta is a function of the query, eta_t = sigmoid(g . q_t + b), with g and b learned in each head.

    Source: Dai et al. 2023, section 5, name adaptive momentum as an open question; this form is ours.
    """

    def __init__(self, momentum: float, H: int, D: int):
        super().__init__()
        self.heads = H
        self.gate = nn.Parameter(torch.zeros(H, D))
        self.gate_bias = nn.Parameter(torch.full((H,), momentum).logit())

    def weights(self, lag: Tensor, query: Tensor) -> Tensor:
        """(B, H, A, T): eta_t to the power of the lag, and 0 for the newest value."""
        log_eta = F.logsigmoid((query * self.gate[:, None]).sum(-1) + self.gate_bias[:, None])  # (B, H, A)
        return torch.where(lag > 0, (lag * log_eta.unsqueeze(-1)).exp(), 0)


def asked(query: Tensor, at: Tensor | None) -> Tensor:
    """The queries (B, H, T, D) of the A tokens that look, float32 or wider, (B, H, A, D)."""
    return widen(query if at is None else query.take_along_dim(at[:, None, :, None], dim=2))


def give(model: GPT, make: Callable[[int, int], nn.Module], layers: Iterable[int] | None = None) -> GPT:
    """Put a term into attention layers of a plain model, in place.

    Args:
        model: without momentum.
        make: heads H and their width D -> the term.
        layers: which, counted from 0; None is all.
    """
    config = model.config
    for i in range(config.n_layer) if layers is None else layers:
        term = make(config.n_head, config.head_dim).to(model.embed_tokens.weight.device)
        model.blocks[i].attn.momentum = term
    return model


@torch.no_grad()
def openings(model: GPT, ids: Tensor) -> list[Tensor]:
    """How far the gates of GatedMomentum are open, mean over tokens ids (B, T): (H,) of each layer that has them."""
    found = []

    def note(term: GatedMomentum, inputs: tuple) -> None:
        found.append(term.opened(inputs[-1]).mean((0, 2)))  # (H,)

    hooks = [term.register_forward_pre_hook(note) for term in model.modules() if isinstance(term, GatedMomentum)]
    try:
        model.hidden(ids)
    finally:
        for hook in hooks:
            hook.remove()
    return found
