"""The rivals of momentum: against literal sums, with a prefix, in forks, with few-shot prompts, and their start."""

import pytest
import torch
import torch.nn.functional as F
from test_momentum import make, tokens

from iclnb.model.momentum import Momentum
from iclnb.model.terms import AdaptiveMomentum, GatedMomentum, ValueConvolution, ValueTerm, give, openings

W = 3
TERMS = {
    "gated": lambda H, D: GatedMomentum(0.5, H, D),
    "adaptive": lambda H, D: AdaptiveMomentum(0.5, H, D),
    "convolution": lambda H, D: ValueConvolution(W, H),
}


def with_term(term, moved=True, **shape):
    """A model with a term whose parameters are far from their start."""
    model = give(make(**shape), TERMS[term]).double()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if moved and ".momentum." in name:
                p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(len(name))))
    return model


def weight(term, q, h, lag):
    """Of a value `lag` tokens old, for one query (D,), by the definition."""
    if isinstance(term, ValueConvolution):
        return term.kernel[h, lag] if lag < W else 0.0
    score = term.gate[h] @ q + term.gate_bias[h]
    if isinstance(term, AdaptiveMomentum):
        return score.sigmoid() ** lag if lag else 0.0
    return score.sigmoid() * term.eta()[h] ** lag if lag else 0.0


@pytest.mark.parametrize("key_heads", [4, 2])
@pytest.mark.parametrize("term", TERMS)
def test_a_layer_adds_the_double_sum_to_attention(term, key_heads):
    attn = with_term(term, n_kv_head=key_heads).blocks[0].attn
    x = torch.randn(2, 7, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    q, k, v = (p(x).unflatten(-1, (-1, 4)).transpose(1, 2) for p in (attn.q_proj, attn.k_proj, attn.v_proj))
    y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)  # (B, H, T, D)
    for b, h, t in torch.cartesian_prod(torch.arange(2), torch.arange(4), torch.arange(7)).tolist():
        for i in range(t + 1):
            y[b, h, t] += weight(attn.momentum, q[b, h, t], h, t - i) * v[b, h * key_heads // 4, i]
    torch.testing.assert_close(attn(x), attn.out_proj(y.transpose(1, 2).flatten(2)), rtol=0, atol=1e-10)


@pytest.mark.parametrize("term", TERMS)
def test_a_prefix_and_a_fork_give_what_the_whole_sequence_gives(term):
    model, ids = with_term(term, n_kv_head=2), tokens(3, 20)
    ids[:, :12] = ids[0, :12]
    whole = model(ids)
    prefix = model.encode_prefix(ids[:1, 6:12], model.encode_prefix(ids[:1, :6]))
    torch.testing.assert_close(model(ids[:, 12:], prefix), whole[:, 12:], rtol=0, atol=1e-10)
    last = torch.full((3, 1), 7)  # (B, A)
    torch.testing.assert_close(model(ids[:, 12:], prefix, at=last), whole[:, -1:], rtol=0, atol=1e-10)
    # 4 common tokens, then two branches of 2: a mask says who sees whom, positions how far apart they are
    branch = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2])
    mask = ((branch[:, None] == branch) | (branch == 0)).tril()[None, None]
    forked = model(ids[:, 12:], prefix, mask=mask, positions=torch.tensor([[0, 1, 2, 3, 4, 5, 4, 5]]))
    alone = model(torch.cat([ids[:, :16], ids[:, 18:]], 1))
    torch.testing.assert_close(forked[:, 4:6], whole[:, 16:18], rtol=0, atol=1e-10)
    torch.testing.assert_close(forked[:, 6:], alone[:, -2:], rtol=0, atol=1e-10)


def test_the_shifted_copies_are_the_matrix():
    term, v = (
        ValueConvolution(W, 4).double(),
        torch.randn(2, 4, 9, 5, generator=torch.Generator().manual_seed(0)).double(),
    )
    fast = term(v, v, None, None, None)
    torch.testing.assert_close(fast, ValueTerm.forward(term, v, v, None, None, None, query=v), rtol=0, atol=1e-10)


def test_each_rival_starts_near_momentum():
    plain, ids = make(), tokens(2, 9)
    eta = give(make(), lambda H, D: Momentum(0.5, False, H))
    torch.testing.assert_close(with_term("adaptive", moved=False)(ids), eta(ids), rtol=0, atol=1e-6)
    v = torch.randn(1, 4, 6, 4, generator=torch.Generator().manual_seed(0)).double()
    added = {
        name: with_term(name, moved=False).blocks[0].attn.momentum(v, 0 * v, None, None, None, query=v)
        for name in TERMS
    }
    whole = eta.blocks[0].attn.momentum(v, 0 * v, None, None, None)
    torch.testing.assert_close(added["gated"], whole / 2, rtol=0, atol=1e-6)
    torch.testing.assert_close(added["convolution"][:, :, :W], whole[:, :, :W], rtol=0, atol=1e-6)
    assert not torch.allclose(plain(ids), eta(ids), atol=1e-3)


def test_a_term_in_one_layer_leaves_the_others_plain():
    model, ids = give(make(), TERMS["gated"], layers=[1]).double(), tokens(2, 9)
    assert model.blocks[0].attn.momentum is None
    prefix = model.encode_prefix(ids[:1, :5])
    torch.testing.assert_close(model(ids[:1, 5:], prefix), model(ids[:1])[:, 5:], rtol=0, atol=1e-10)


def test_openings_are_what_the_queries_make_of_the_gates():
    model, ids = give(make(), TERMS["gated"]).double(), tokens(3, 9)
    assert all(torch.equal(opened, torch.full((4,), 0.5).double()) for opened in openings(model, ids))  # at its start
    with torch.no_grad():
        model.blocks[1].attn.momentum.gate_bias.copy_(torch.tensor([-30.0, 0.0, 1.0, 30.0]))
        model.blocks[0].attn.momentum.gate.normal_(generator=torch.Generator().manual_seed(0))
    first, last = openings(model, ids)
    torch.testing.assert_close(last, torch.tensor([-30.0, 0.0, 1.0, 30.0]).double().sigmoid())
    attn, x = model.blocks[0].attn, model.blocks[0].attn_norm(model._embed(ids, torch.arange(9))[0])  # (B, T, C)
    q = attn.q_proj(x).unflatten(-1, (4, 4)).transpose(1, 2)  # (B, H, T, D)
    expected = torch.einsum("bhtd,hd->bht", q, attn.momentum.gate).sigmoid().mean((0, 2))  # (H,)
    torch.testing.assert_close(first, expected.detach())
    assert openings(make(), ids) == [] and not any(module._forward_pre_hooks for module in model.modules())
