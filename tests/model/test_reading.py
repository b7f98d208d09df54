"""Momentum in a subspace of the residual stream: against the projection done behind the output projection."""

import torch
from test_momentum import make, tokens

from iclnb.model.momentum import Momentum
from iclnb.model.reading import ProjectedMomentum, read_directions, share_kept, subspaces
from iclnb.model.terms import give


def attended(model, x, momentum):
    """What the first layer's attention gives, with this in the place of its momentum."""
    attn = model.blocks[0].attn
    attn.momentum = momentum
    return attn(x)


def test_what_is_added_behind_the_output_projection_keeps_to_the_subspace():
    model, x = make(), torch.randn(2, 7, 16, generator=torch.Generator().manual_seed(1)).double()
    W_O = model.blocks[0].attn.out_proj.weight.detach()
    plain, whole = (attended(model, x, m) for m in (None, Momentum(0.5, False, 4)))
    spaces = subspaces(model.float(), 0, r=5, seed=0)
    model.double()
    assert list(spaces) == ["whole", "without most read", "without least read", "without drawn"]
    for name, keep in spaces.items():
        kept = attended(model, x, ProjectedMomentum(0.5, 4, keep, W_O)) - plain
        torch.testing.assert_close(kept, (whole - plain) @ keep.double(), rtol=0, atol=1e-5)
        assert keep.trace().round().item() == (16 if name == "whole" else 11)
        torch.testing.assert_close(keep @ keep, keep, rtol=0, atol=1e-5)


def test_directions_are_in_the_order_in_which_later_attention_reads_them():
    model = make(n_layer=3).float()
    for layer in (0, 1):
        directions = read_directions(model, layer)
        torch.testing.assert_close(directions @ directions.T, torch.eye(16), rtol=0, atol=1e-5)
        power = torch.zeros(16)
        for block in model.blocks[layer + 1 :]:
            for p in (block.attn.q_proj, block.attn.k_proj, block.attn.v_proj):
                power += (directions * block.attn_norm.weight @ p.weight.T).square().sum(1)
        assert (power.diff() <= 1e-4).all() and power[0] > 1.5 * power[-1]


def test_the_shares_of_a_subspace_and_of_the_rest_are_one():
    model, ids = make().float(), tokens(2, 9)
    spaces = subspaces(model, 0, r=5, seed=0)
    keep = spaces["without most read"]
    parts = [share_kept(model, 0, 0.5, part, ids) for part in (keep, torch.eye(16) - keep, spaces["whole"])]
    assert 0.05 < parts[0] < 0.95 and abs(parts[0] + parts[1] - 1) < 1e-5 and abs(parts[2] - 1) < 1e-5


def test_a_whole_projection_is_momentum():
    plain, ids = make(), tokens(2, 9)
    momentum = give(make(), lambda H, D: Momentum(0.5, False, H))(ids)
    for block in plain.blocks:
        W_O = block.attn.out_proj.weight.detach()
        block.attn.momentum = ProjectedMomentum(0.5, 4, torch.eye(16), W_O)
    torch.testing.assert_close(plain(ids), momentum, rtol=0, atol=1e-9)
