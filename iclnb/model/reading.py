"""Which part of a momentum term hurts: its part in the directions that later layers read, or any other part.

Letters: C width, H heads, D head width, T tokens, r directions.
"""

import torch
from torch import Tensor

from iclnb.attention.ema import ema
from iclnb.model.gpt import GPT
from iclnb.model.momentum import Momentum
from iclnb.model.recorder import Recorder


def read_directions(model: GPT, layer: int) -> Tensor:
    """Directions of the residual stream, from what attention after a layer reads most to what it reads least.

    These are the right singular vectors of all later query, key and value projections, one below the other, each with
    the scale of the norm before it.

    Args:
        model: with as many numbers in its heads as C.
        layer: counted from 0; not the last.

    Returns:
        (C, C), a direction a row.
    """
    later = [block for block in model.blocks][layer + 1 :]
    read = [p.weight * b.attn_norm.weight for b in later for p in (b.attn.q_proj, b.attn.k_proj, b.attn.v_proj)]
    return torch.linalg.svd(torch.cat(read).detach(), full_matrices=True)[2]  # (C, C)


class ProjectedMomentum(Momentum):
    """Momentum whose contribution to the residual stream, behind the output projection, keeps to a subspace.

    Args:
        momentum: as in Momentum.
        H: heads.
        keep: projection of the residual stream, (C, C), symmetric.
        out_proj: weight of the layer's output projection W_O, (C, C), invertible.
    """

    def __init__(self, momentum: float, H: int, keep: Tensor, out_proj: Tensor):
        super().__init__(momentum, False, H)
        # What W_O turns into keep @ W_O @ m: heads come before W_O, so the projection is pulled back through it.
        self.pulled = torch.linalg.solve(out_proj.double(), keep.double() @ out_proj.double())  # (C, C)

    def forward(self, v, y, carried, mask, positions, at=None, query=None) -> Tensor:
        """As in Momentum."""
        added = super().forward(v, torch.zeros_like(y), carried, mask, positions, at)  # (B, H, T, D)
        flat = added.transpose(1, 2).flatten(2)  # (B, T, C)
        kept = flat.double() @ self.pulled.T  # (B, T, C)
        return y + kept.to(y.dtype).unflatten(-1, (y.shape[1], -1)).transpose(1, 2)  # (B, H, T, D)


def subspaces(model: GPT, layer: int, r: int, seed: int) -> dict[str, Tensor]:
    """What to keep of a term, as projections (C, C): all of it, or all but r directions.

    The r directions are those that later attention reads most, those it reads least, and r drawn at random, all of
    them orthonormal.
    """
    directions = read_directions(model, layer)  # (C, C)
    C, identity = len(directions), torch.eye(len(directions))
    drawn = torch.linalg.qr(torch.randn(C, r, generator=torch.Generator().manual_seed(seed)))[0].T  # (r, C)
    chosen = {"most read": directions[:r], "least read": directions[-r:], "drawn": drawn}  # (r, C) each
    return {"whole": identity} | {f"without {name}": identity - basis.T @ basis for name, basis in chosen.items()}


@torch.no_grad()
def share_kept(model: GPT, layer: int, eta: float, keep: Tensor, ids: Tensor) -> float:
    """How much of a momentum term's square norm lies in a subspace, over all tokens.

    Args:
        model: plain.
        layer: counted from 0.
        eta: momentum of every head.
        keep: the projection, (C, C).
        ids: what the model reads, (B, T).
    """
    recorder = Recorder("value")
    model.hidden(ids, recorder=recorder)
    added = ema(recorder.layers["value"][layer], eta).transpose(1, 2).flatten(2)  # (B, T, C)
    whole = added @ model.blocks[layer].attn.out_proj.weight.T  # (B, T, C)
    return ((whole @ keep).square().sum() / whole.square().sum()).item()
