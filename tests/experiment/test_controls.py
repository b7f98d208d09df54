"""The controls against what they claim: what is random, what is kept, how far it moves, which tokens it holds."""

import math
from collections import Counter

import numpy as np
import pytest
import torch

from iclnb.experiment import controls
from iclnb.experiment.descent import trained_parameters
from iclnb.experiment.finetune import train_on
from iclnb.model.gpt import GPT, GPTConfig


def small(positions="rotary", tie=True, seed=1):
    """A model whose norms and biases are not what they start as, so that keeping them can be seen."""
    model = GPT(GPTConfig(40, 2, 4, 32, 64, positions=positions, tie_embeddings=tie)).initialise(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return model


# ---------------------------------------------------------------------------------------------------------------------
# Untrained models


@pytest.mark.parametrize("positions, tie", [("rotary", True), ("learned", False)])
def test_all_weights_of_an_untrained_model_are_random_and_come_from_the_seed(positions, tie):
    model = small(positions, tie)
    before = {name: p.clone() for name, p in model.named_parameters()}
    one, same, other = (controls.untrained(model, seed) for seed in (5, 5, 6))
    assert one.config == model.config
    for name, p in one.named_parameters():
        drawn = name.endswith("weight") and "norm" not in name  # norms and biases start as ones and zeros
        assert torch.equal(p, same.get_parameter(name)) and not torch.equal(p, before[name])
        assert torch.equal(p, other.get_parameter(name)) != drawn
        if drawn:  # independent of the trained weights: as far from them in angle as chance has it
            cosine = torch.cosine_similarity(p.flatten(), before[name].flatten(), dim=0)
            assert abs(cosine) < 4 / math.sqrt(p.numel())
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_an_untrained_model_with_its_embeddings_kept_has_random_attention_and_mlp_alone():
    model = small("learned", tie=False).bfloat16()
    blank = controls.untrained(model, 5, keep_embeddings=True)
    kept = {name for name, p in blank.named_parameters() if torch.equal(p, model.get_parameter(name))}
    inside = {f"blocks.{i}.{part}_norm.{w}" for i in (0, 1) for part in ("attn", "mlp") for w in ("weight", "bias")}
    outside = {"embed_tokens.weight", "embed_positions.weight", "final_norm.weight", "final_norm.bias"}
    assert kept == inside | outside | {"lm_head.weight"}
    assert {p.dtype for p in blank.parameters()} == {torch.bfloat16}


def test_tied_embeddings_stay_tied():
    blank = controls.untrained(small(), 5, keep_embeddings=True)
    assert blank.lm_head.weight is blank.embed_tokens.weight


# ---------------------------------------------------------------------------------------------------------------------
# Random updates of weights


def test_a_random_update_is_as_long_as_that_of_fine_tuning_and_points_elsewhere():
    model = small().double()
    tuned = train_on(model, [[0, 3, 9, 27], [0, 2, 4, 8, 16]], lr=0.3).model
    before = {name: p.clone() for name, p in model.named_parameters()}
    once, again, other = (controls.random_update(model, tuned, seed) for seed in (3, 3, 4))
    longer = controls.random_update(model, tuned, 3, scale=2.5)
    for name, p in once.named_parameters():
        start = before[name].numpy(force=True)
        assert torch.equal(model.get_parameter(name), before[name])
        if name not in trained_parameters(model):  # shared, not copied
            assert p.data_ptr() == model.get_parameter(name).data_ptr() and torch.equal(p, before[name])
            continue
        move, right = p.numpy(force=True) - start, tuned.get_parameter(name).numpy(force=True) - start
        assert np.linalg.norm(move) == pytest.approx(np.linalg.norm(right), rel=1e-10)
        if np.linalg.norm(right) > 1e-9:  # the bias of the keys does not move: softmax does not see it
            assert abs((move * right).sum()) < 0.5 * (right * right).sum()
            assert torch.equal(p, again.get_parameter(name)) and not torch.equal(p, other.get_parameter(name))
            np.testing.assert_allclose(longer.get_parameter(name).numpy(force=True) - start, 2.5 * move, rtol=1e-9)


def test_scrambled_text_keeps_lengths_and_tokens_and_loses_the_order():
    sequences = [[0, *range(10 * i, 10 * i + 3 + i)] for i in range(1, 9)]
    mixed = controls.scrambled(sequences, seed=3)
    assert [len(ids) for ids in mixed] == [len(ids) for ids in sequences]
    assert Counter(t for ids in mixed for t in ids) == Counter(t for ids in sequences for t in ids)
    assert all(ids[0] == 0 for ids in mixed)
    pairs = {pair for ids in sequences for pair in zip(ids[1:], ids[2:], strict=False)}
    left = [pair for ids in mixed for pair in zip(ids[1:], ids[2:], strict=False) if pair in pairs]
    assert len(left) < 0.1 * len(pairs)


# ---------------------------------------------------------------------------------------------------------------------
# Updates of another length


def length(model, other):
    """How far two models lie apart, in all weights."""
    pairs = zip(model.parameters(), other.parameters(), strict=True)
    return torch.stack([(a - b).norm() for a, b in pairs]).norm().item()


def test_an_update_can_be_scaled_and_matched_in_what_it_does():
    model = small()
    tuned = train_on(model, [[0, 3, 5, 7, 2], [0, 4, 4, 1]], 0.1).model
    whole = length(tuned, model)
    for scale in (0.0, 0.25, 1.0, 3.0):
        assert length(controls.scaled(model, tuned, scale), model) == pytest.approx(scale * whole, rel=1e-4, abs=1e-6)
    ids = torch.tensor([[0, 3, 5, 7, 2, 9]])

    def reach(candidate):
        return (candidate(ids) - model(ids)).norm().item()

    noise = controls.random_update(model, tuned, seed=1)
    found = controls.matched(model, noise, reach, reach(tuned))
    assert reach(found) == pytest.approx(reach(tuned), rel=0.03) and reach(noise) != pytest.approx(
        reach(tuned), rel=0.1
    )
    assert trained_parameters(found).keys() == trained_parameters(model).keys()
