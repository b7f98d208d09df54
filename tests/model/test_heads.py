"""Heads laid open: what is read must be what the model computes with, wherever its positions enter."""

import pytest
import torch

from iclnb.attention import duality
from iclnb.attention.softmax import softmax_attention
from iclnb.model import heads
from iclnb.model.gpt import GPT, GPTConfig
from iclnb.model.positions import RotaryScaling
from iclnb.model.recorder import Recorder

PROMPT, QUERY = [0, 5, 9, 3, 1, 7, 7, 1], [4, 8, 2]  # <s> and demonstrations; a query
ROTARY, RMS = {"positions": "rotary"}, {"positions": "rotary", "norm": "rms"}
KINDS = {
    "sinusoidal": {"positions": "sinusoidal"},
    "learned": {"positions": "learned"},
    "rotary": ROTARY,
    "half": ROTARY | {"rotary_fraction": 0.5},
    "grouped": ROTARY | {"n_kv_head": 1},
    "slow": ROTARY | {"rotary_scaling": RotaryScaling(8.0, 1.0, 4.0, 8)},
    "qwen3": RMS | {"n_kv_head": 1, "d_head": 8, "n_embd": 12, "qk_norm": "head"},
    "smollm3": RMS | {"rotary_layers": (True, False, True)},
    "olmo2": RMS | {"norm_after": True, "qk_norm": "all"},
}


@pytest.fixture(params=KINDS)
def model(request):
    config = GPTConfig(**{"vocab_size": 12, "n_layer": 3, "n_head": 2, "n_embd": 16} | KINDS[request.param])
    model = GPT(config).double().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn_like(p))
    return model


def block_outputs(model, ids):
    """What the attention blocks gave at the last of `ids`, as one plain sequence, (L, C)."""
    recorder = Recorder("output", at=torch.tensor([len(ids) - 1]))
    with torch.no_grad():
        model.hidden(torch.tensor([ids]), recorder=recorder)
    return torch.cat(recorder.layers["output"])


def out_proj(model, h):
    """Heads (L, H, 1, D) side by side through each layer's output projection, (L, C)."""
    with torch.no_grad():
        return torch.stack([b.attn.out_proj(x.flatten()) for b, x in zip(model.blocks, h, strict=True)])


def test_the_exact_split_of_what_is_read_is_what_the_model_does(model):
    prefix = model.encode_prefix(torch.tensor([PROMPT]))
    q, K_demo, V_demo, K_query, V_query = heads.read(model, prefix, QUERY)
    assert q.shape == (3, 2, 1, 8) and K_demo.shape == V_demo.shape == (3, 2, 7, 8)
    assert K_query.shape == V_query.shape == (3, 2, 4, 8)
    lam, A_demo, A_query = duality.exact_split(q, K_demo, V_demo, K_query, V_query)
    torch.testing.assert_close(
        out_proj(model, lam * A_demo + (1 - lam) * A_query), block_outputs(model, PROMPT + QUERY), rtol=0, atol=1e-10
    )


def test_a_query_that_is_moved_keeps_its_layer_1_inputs(model):
    full = heads.read(model, model.encode_prefix(torch.tensor([PROMPT])), QUERY)
    alone = heads.read(model, model.encode_prefix(torch.tensor([PROMPT[:1]])), QUERY, start=len(PROMPT))
    for a, b in zip((full[0], *full[3:]), (alone[0], *alone[3:]), strict=True):  # q, K_query, V_query
        torch.testing.assert_close(a[0], b[0], rtol=0, atol=1e-10)
        assert (a[-1] - b[-1]).abs().max() > 1e-3, "the upper layers have seen the demonstrations"


def test_projected_inputs_are_what_the_model_attends_with(model):
    ids = PROMPT[:1] + QUERY
    q, k, v = (heads.project(model, heads.attention_inputs(model, ids), name) for name in "qkv")
    h = softmax_attention(q, k, v)[:, :, -1:]  # (L, H, 1, D)
    torch.testing.assert_close(out_proj(model, h), block_outputs(model, ids), rtol=0, atol=1e-10)
    assert not any(block.attn._forward_pre_hooks for block in model.blocks)


def test_bad_input_is_named(model):
    prefix = model.encode_prefix(torch.tensor([PROMPT]))
    with pytest.raises(ValueError, match="starts at 3; .* a start of 8 or more"):
        heads.read(model, prefix, QUERY, start=3)
    with pytest.raises(ValueError, match="the query has 0 tokens"):
        heads.read(model, prefix, [])
    with pytest.raises(ValueError, match="name is 'o'"):
        heads.project(model, [], "o")
