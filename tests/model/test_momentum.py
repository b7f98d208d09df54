"""Momentum attention in the model: against a literal sum, with a prefix, token by token, in forks, and on disk."""

import json

import pytest
import torch
import torch.nn.functional as F
from test_checkpoints import SAVED
from toys import save_checkpoint, toy_task
from transformers import AutoModelForCausalLM

from iclnb import few_shot, finetune_attention
from iclnb.experiment.batching import Branches, pad
from iclnb.model.checkpoints import CheckpointError, load, load_model, save
from iclnb.model.gpt import GPT, GPTConfig

CPU = torch.device("cpu")
MOMENTA = {
    "one": {"momentum": 0.8},
    "a-head": {"momentum": (0.0, 0.5, 0.9, 0.99)},
    "learned": {"momentum": 0.6, "learn_momentum": True},
}


def make(seed=0, **shape):
    config = {"vocab_size": 50, "n_layer": 2, "n_head": 4, "n_embd": 16, "positions": "rotary"}
    model = GPT(GPTConfig(**config | shape)).initialise(seed).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():  # far from zero, so that attention is far from uniform
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed)) / 4)
    return model


def tokens(*shape, seed=0):
    return torch.randint(0, 50, shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("key_heads", [4, 2])
@pytest.mark.parametrize("momentum", MOMENTA)
def test_a_layer_adds_the_double_sum_to_attention(momentum, key_heads):
    attn = make(**MOMENTA[momentum], n_kv_head=key_heads).blocks[0].attn
    x = torch.randn(2, 7, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    q, k, v = (p(x).unflatten(-1, (-1, 4)).transpose(1, 2) for p in (attn.q_proj, attn.k_proj, attn.v_proj))
    y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)  # (B, H, T, D)
    eta = attn.momentum.eta()
    for h in range(4):
        for t in range(7):
            for i in range(t):
                y[:, h, t] += eta[h] ** (t - i) * v[:, h * key_heads // 4, i]
    torch.testing.assert_close(attn(x), attn.out_proj(y.transpose(1, 2).flatten(2)), rtol=0, atol=1e-10)


def test_no_momentum_is_the_plain_model_and_draws_the_same_weights():
    plain, still = make(), make(momentum=0.0)
    assert all(torch.equal(p, q) for p, q in zip(plain.parameters(), still.parameters(), strict=True))
    ids = tokens(2, 9)
    torch.testing.assert_close(still(ids), plain(ids), rtol=0, atol=1e-12)
    drawn = GPT(GPTConfig(50, 2, 4, 16)).initialise(3).state_dict()
    learned = GPT(GPTConfig(50, 2, 4, 16, momentum=0.9, learn_momentum=True)).initialise(3)
    assert all(torch.equal(learned.state_dict()[name], weight) for name, weight in drawn.items())
    torch.testing.assert_close(learned.blocks[1].attn.momentum.eta(), torch.full((4,), 0.9).double(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("key_heads", [4, 2])
@pytest.mark.parametrize("momentum", MOMENTA)
def test_a_prefix_and_single_tokens_give_what_the_whole_sequence_gives(momentum, key_heads):
    model = make(**MOMENTA[momentum], n_kv_head=key_heads)
    ids = tokens(3, 45)
    ids[:, :40] = ids[0, :40]
    whole = model(ids)
    prefix = model.encode_prefix(ids[:1, :40])
    torch.testing.assert_close(model(ids[:, 40:], prefix), whole[:, 40:], rtol=0, atol=1e-10)
    for t in range(40, 45):  # one token at a time
        torch.testing.assert_close(model(ids[:1, t : t + 1], prefix)[0, 0], whole[0, t], rtol=0, atol=1e-10)
        prefix = model.encode_prefix(ids[:1, t : t + 1], prefix)
    assert prefix.length == 45 and prefix.sums[0].shape == (1, 4, 4)


@pytest.mark.parametrize("with_prefix", [False, True])
@pytest.mark.parametrize("momentum", MOMENTA)
def test_each_branch_of_a_fork_gives_what_it_gives_alone(momentum, with_prefix):
    model, stems, branches = make(**MOMENTA[momentum]), [[1, 2, 3, 4], [5, 6]], [[7, 8], [9], [10, 11, 12]]
    start = tokens(1, 13).tolist()[0] if with_prefix else []
    prefix = model.encode_prefix(torch.tensor([start])) if with_prefix else None
    ids, positions, mask = Branches(branches, CPU).follow(*pad(stems, CPU))
    forked = model(ids, prefix, positions=positions, mask=mask)  # (2, T, V)
    for row, stem in zip(forked, stems, strict=True):
        first = len(stem)
        for tokens_of in branches:
            alone = model(torch.tensor([start + stem + tokens_of]))[0, len(start) + len(stem) :]
            torch.testing.assert_close(row[first : first + len(tokens_of)], alone, rtol=0, atol=1e-10)
            first += len(tokens_of)


def test_gradients_are_the_same_when_blocks_are_computed_again():
    model, ids = make(**MOMENTA["learned"]), tokens(2, 9)
    found = []
    for recompute in (False, True):
        loss = model.logits(model.hidden(ids, recompute=recompute)).logsumexp(-1).sum()
        found.append(torch.autograd.grad(loss, [p for p in model.parameters()]))
    assert model.blocks[0].attn.momentum.logit in set(model.parameters()) and found[0][0].abs().sum() > 0
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-12)


@pytest.mark.parametrize("learn", [False, True])
def test_a_trained_model_can_be_given_momentum_and_is_left_untouched(learn):
    model, ids = make(), tokens(2, 9)
    before = model(ids)
    given = model.with_momentum((0.1, 0.2, 0.3, 0.4), learn)
    assert given.embed_tokens.weight is given.lm_head.weight
    assert given.blocks[0].attn.v_proj.weight.data_ptr() == model.blocks[0].attn.v_proj.weight.data_ptr()
    assert (given(ids) - before).abs().max() > 1e-3
    torch.testing.assert_close(given.blocks[0].attn.momentum.eta(), torch.tensor([0.1, 0.2, 0.3, 0.4]).double())
    assert torch.equal(model(ids), before) and torch.equal(given.with_momentum(None)(ids), before)


@pytest.mark.parametrize("momentum", MOMENTA)
@pytest.mark.parametrize("model_type", SAVED)
def test_a_checkpoint_carries_momentum_and_nobody_takes_it_for_a_plain_one(model_type, momentum, tmp_path):
    config = GPTConfig(60, 2, 4, 32, **SAVED[model_type], **MOMENTA[momentum])
    model = GPT(config).initialise(3)
    save(model, None, tmp_path)
    again = load_model(tmp_path, CPU, torch.float32)
    assert (again.config.momentum, again.config.learn_momentum) == (config.momentum, config.learn_momentum)
    ids = tokens(2, 9)
    assert torch.equal(again(ids), model(ids))
    with pytest.raises(ValueError, match=f"{model_type}_momentum"):
        AutoModelForCausalLM.from_pretrained(tmp_path)
    said = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(said | {"model_type": model_type}))
    with pytest.raises(CheckpointError, match="says momentum .*, but its model_type is"):
        load_model(tmp_path, CPU, torch.float32)
    del said["momentum"]
    (tmp_path / "config.json").write_text(json.dumps(said))
    with pytest.raises(CheckpointError, match="lacks the entry 'momentum'"):
        load_model(tmp_path, CPU, torch.float32)


def test_the_weights_of_a_learned_momentum_do_not_go_into_a_plain_model():
    with pytest.raises(RuntimeError, match="momentum.logit"):
        make().load_state_dict(make(**MOMENTA["learned"]).state_dict())


def test_learning_in_context_and_fine_tuning_take_a_momentum_model(tmp_path):
    save_checkpoint(tmp_path)
    plain, tokenizer = load(tmp_path, device="cpu")
    save(plain.with_momentum(0.7), tokenizer, tmp_path / "given")
    model, tokenizer = load(tmp_path / "given", device="cpu")
    tuned = finetune_attention(model, tokenizer, toy_task(), k=4, seed=0, lr=0.1)
    assert tuned.config.momentum == 0.7
    found = few_shot(tuned, tokenizer, toy_task(), k=4, limit=6, record=True).log_probs
    without = few_shot(tuned.with_momentum(None), tokenizer, toy_task(), k=4, limit=6).log_probs
    assert found.isfinite().all() and (found - without).abs().max() > 1e-4


@pytest.mark.parametrize(
    "choice, message",
    [
        ({"momentum": 1.0}, r"eta is 1.0; momentum needs numbers in \[0, 1\)"),
        ({"momentum": float("nan")}, "eta is nan"),
        ({"momentum": (0.5, 0.5)}, r"eta has shape \(2,\); accepted are one number, or one for each of the 4 heads"),
        ({"learn_momentum": True}, "learn_momentum is True, but momentum is None"),
        ({"momentum": 0.0, "learn_momentum": True}, r"momentum is 0.0; one that is learned starts in \(0, 1\)"),
    ],
)
def test_a_momentum_that_cannot_be_is_refused(choice, message):
    with pytest.raises(ValueError, match=message):
        GPTConfig(50, 2, 4, 16, **choice)
    if "learn_momentum" not in choice:
        with pytest.raises(ValueError, match=message):
            make().with_momentum(**choice)


def test_a_sequence_beyond_the_positions_is_refused():
    model = make(n_positions=8, momentum=0.5)
    with pytest.raises(ValueError, match="a sequence of 9 tokens does not fit the model's 8 positions"):
        model(tokens(1, 9))
