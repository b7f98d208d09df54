"""Ways of descent against torch.optim.SGD, against literal loops, and against what their names promise."""

import pytest
import torch
import torch.nn.functional as F

from iclnb.experiment import descent
from iclnb.experiment.descent import DivergedError, descend, language_model_loss, layer_losses, trained_parameters
from iclnb.experiment.finetune import train_on
from iclnb.model.gpt import GPT, GPTConfig

SEQUENCES = [[0, 5, 7, 11, 3], [0, 2, 9, 4, 4, 8, 1], [0, 13, 6], [0, 12, 12, 10, 5, 2]]
LR = 0.2


def small(dtype=torch.float64, **variant):
    model = GPT(GPTConfig(20, 3, 2, 16, 32, positions="rotary", **variant)).initialise(1).to(dtype)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return model


def agree(one, other, tolerance=1e-10):
    for (name, p), q in zip(one.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=tolerance, atol=tolerance, msg=name)


def test_one_sequence_a_batch_is_the_papers_fine_tuning():
    model = small()
    before = {name: p.clone() for name, p in model.named_parameters()}
    agree(descend(model, [[ids] for ids in SEQUENCES], LR).model, train_on(model, SEQUENCES, LR).model)
    assert all(torch.equal(p, before[name]) and p.requires_grad for name, p in model.named_parameters())


def test_the_losses_of_tokens_are_those_before_each_step():
    model = small()
    tuned = train_on(model, SEQUENCES, LR)
    assert [len(losses) for losses in tuned.token_losses] == [len(ids) - 1 for ids in SEQUENCES]
    assert tuned.losses == [losses.mean().item() for losses in tuned.token_losses]
    log_p = train_on(model, SEQUENCES[:2], LR).model(torch.tensor([SEQUENCES[2]]))[0].log_softmax(-1)  # (T + 1, V)
    expected = torch.stack([-log_p[t, token] for t, token in enumerate(SEQUENCES[2][1:])])  # (T,)
    torch.testing.assert_close(tuned.token_losses[2], expected.detach(), rtol=1e-10, atol=1e-10)
    by_layer = descend(model, [SEQUENCES], LR, layer_causal=True)
    assert [len(losses) for losses in by_layer.token_losses] == [3] * 4
    assert by_layer.losses == [pytest.approx(sum(losses.sum().item() for losses in by_layer.token_losses), rel=1e-12)]


@pytest.mark.parametrize("everything", [False, True])
def test_batches_are_steps_of_torchs_sgd_on_summed_losses(everything):
    model, theirs = small(), small()
    theirs.load_state_dict(model.state_dict())
    batches = [SEQUENCES[:3], SEQUENCES[3:], SEQUENCES[1:3]]
    names = [n for n, _ in theirs.named_parameters() if everything or ".k_proj." in n or ".v_proj." in n]
    optimiser = torch.optim.SGD([theirs.get_parameter(n) for n in names], lr=LR)
    for batch in batches:
        optimiser.zero_grad()
        loss = 0
        for ids in batch:
            logits = theirs(torch.tensor([ids]))[0]  # (T, V)
            loss = loss + F.cross_entropy(logits[:-1], torch.tensor(ids[1:]))
        loss.backward()
        optimiser.step()
    agree(descend(model, batches, LR, everything=everything).model, theirs)


@pytest.mark.parametrize("everything", [False, True])
def test_what_is_not_trained_is_shared_and_the_given_model_keeps_its_weights(everything):
    model = small()
    before = {name: p.clone() for name, p in model.named_parameters()}
    student = descend(model, [SEQUENCES], LR, everything=everything).model
    own = dict(student.named_parameters()) if everything else trained_parameters(student)
    for name, p in student.named_parameters():
        assert (p.data_ptr() == model.get_parameter(name).data_ptr()) == (name not in own)
        assert torch.equal(model.get_parameter(name), before[name]) and p.requires_grad


def test_every_way_of_descent_keeps_its_losses_and_the_queries_it_learned_with():
    model, batches = small(), [SEQUENCES[:3], SEQUENCES[3:]]
    found = descend(model, batches, LR, layer_causal=True, record=True)
    expected = sum(layer_losses(model, torch.tensor([ids])).sum().item() for ids in batches[0])
    assert found.losses[0] == pytest.approx(expected) and len(found.losses) == 2
    assert [tuple(q.shape) for q in found.queries] == [(len(ids) - 1, 3, 16) for ids in SEQUENCES]
    torch.testing.assert_close(
        found.queries[:3],
        train_on(model, SEQUENCES[:1], LR, record=True).queries
        + [train_on(model, [ids], LR, record=True).queries[0] for ids in SEQUENCES[1:3]],
    )


def test_one_batch_does_not_see_the_order_and_one_at_a_time_does():
    model, backwards = small(), SEQUENCES[::-1]
    agree(descend(model, [SEQUENCES], LR).model, descend(model, [backwards], LR).model)
    one, other = (descend(model, [[ids] for ids in order], LR).model for order in (SEQUENCES, backwards))
    gap = max((p - q).abs().max() for p, q in zip(one.parameters(), other.parameters(), strict=True))
    assert gap > 1e-4


# ---------------------------------------------------------------------------------------------------------------------
# Layer-causal descent


def literal_layer_causal_step(model, ids, lr):
    """One step, layer by layer: run the layers below without gradient, then one block, read its loss, differentiate."""
    ids = torch.tensor([ids])
    moves = {}
    for layer, block in enumerate(model.blocks):
        with torch.no_grad():
            x, rotary = model._embed(ids, torch.arange(ids.shape[1]))
            for below in model.blocks[:layer]:
                x = below(x, rotary)
        x = block(x.detach(), rotary)  # (1, T, C)
        mean, variance = x.mean(-1, keepdim=True), x.var(-1, keepdim=True, unbiased=False)
        normed = (x - mean) / (variance + model.config.layer_norm_eps).sqrt()
        logits = (normed * model.final_norm.weight + model.final_norm.bias) @ model.embed_tokens.weight.T  # (1, T, V)
        loss = sum(-logits[0, t].log_softmax(-1)[ids[0, t + 1]] for t in range(ids.shape[1] - 1)) / (ids.shape[1] - 1)
        own = [p for proj in (block.attn.k_proj, block.attn.v_proj) for p in (proj.weight, proj.bias)]
        for p, gradient in zip(own, torch.autograd.grad(loss, own), strict=True):
            moves[p] = -lr * gradient
    with torch.no_grad():
        for p, move in moves.items():
            p.add_(move)


VARIANTS = {
    "plain": {},
    "parallel": {"parallel_residual": True},
    "norms behind the sublayers": {"norm_after": True, "qk_norm": "all"},
    "wide heads with norms": {"d_head": 12, "n_kv_head": 1, "qk_norm": "head"},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_layer_causal_descent_equals_the_literal_loop(variant):
    model, literal = small(**VARIANTS[variant]), small(**VARIANTS[variant])
    literal.load_state_dict(model.state_dict())
    for ids in SEQUENCES:
        literal_layer_causal_step(literal, ids, LR)
    found = descend(model, [[ids] for ids in SEQUENCES], LR, layer_causal=True).model
    agree(found, literal)
    plain = descend(model, [[ids] for ids in SEQUENCES], LR).model
    name = "blocks.0.attn.v_proj.weight"
    assert (found.get_parameter(name) - plain.get_parameter(name)).abs().max() > 1e-4


def test_a_layer_learns_nothing_from_the_layers_above_it():
    model, other = small(), small()
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        for p in other.blocks[2].parameters():
            p.add_(torch.randn_like(p))

    def moves(layer, **options):
        name = f"blocks.{layer}.attn.v_proj.weight"
        pairs = ((m, descend(m, [SEQUENCES], LR, **options).model) for m in (model, other))
        return [after.get_parameter(name) - before.get_parameter(name) for before, after in pairs]

    for layer in (0, 1):
        torch.testing.assert_close(*moves(layer, layer_causal=True), rtol=1e-12, atol=1e-14)
        one, two = moves(layer)
        assert (one - two).norm() > 0.1 * one.norm()


def test_the_last_layers_loss_is_the_models_and_its_last_layer_learns_the_same():
    model, ids = small(), torch.tensor([SEQUENCES[1]])
    losses = layer_losses(model, ids)
    assert losses.shape == (3,)
    torch.testing.assert_close(losses[-1], language_model_loss(model, ids))
    last = [p for name, p in trained_parameters(model).items() if name.startswith("blocks.2.")]
    for loss in (losses.sum(), losses[-1]):
        for ours, plain in zip(
            torch.autograd.grad(loss, last, retain_graph=True),
            torch.autograd.grad(language_model_loss(model, ids), last),
            strict=True,
        ):
            torch.testing.assert_close(ours, plain)


def test_the_model_is_as_before_once_its_losses_are_read():
    model, ids = small(), torch.tensor([SEQUENCES[1]])
    layer_losses(model, ids)
    gradient = torch.autograd.grad(language_model_loss(model, ids), model.embed_tokens.weight)[0]  # flows down again
    assert gradient.norm() > 0 and not any(block._forward_hooks or block._forward_pre_hooks for block in model.blocks)


def test_bad_rates_are_refused_and_divergence_is_said():
    for lr in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="lr is .*positive"):
            descend(small(), [SEQUENCES], lr)
    with pytest.raises(DivergedError, match=r"at step \d+ with lr = 1e\+300"):
        descend(small(), [[ids] for ids in SEQUENCES], 1e300)


def test_half_precision_weights_collect_updates_below_their_last_digit():
    model = small(torch.bfloat16)
    many = descend(model, [[ids] for ids in SEQUENCES * 20], 1e-4).model
    name = "blocks.0.attn.v_proj.weight"
    wide = descend(model.float(), [[ids] for ids in SEQUENCES * 20], 1e-4).model
    moved, expected = many.get_parameter(name).float(), wide.get_parameter(name)
    start = model.get_parameter(name)
    assert torch.cosine_similarity((moved - start).flatten(), (expected - start).flatten(), dim=0) > 0.3


@pytest.mark.parametrize("options", [{}, {"layer_causal": True}, {"everything": True}])
def test_padding_for_a_gpu_changes_no_step(options, monkeypatch):
    model, batches = small(), [SEQUENCES[:2], SEQUENCES[2:3], SEQUENCES[3:]]
    plain = descend(model, batches, LR, record=True, **options)
    monkeypatch.setitem(descent.MULTIPLE, "cpu", 8)
    padded = descend(model, batches, LR, record=True, **options)
    agree(padded.model, plain.model)
    close = {"rtol": 1e-6, "atol": 1e-6}  # queries are kept in float32
    torch.testing.assert_close(padded.queries, plain.queries, **close)
    torch.testing.assert_close(padded.token_losses, plain.token_losses, rtol=1e-10, atol=1e-10)


def test_losses_that_are_read_at_the_end_are_those_that_are_read_at_each_step(monkeypatch):
    model, batches = small(), [SEQUENCES[:2], SEQUENCES[2:]]
    at_once = descend(model, batches, LR, record=True)
    monkeypatch.setattr(descent, "AT_ONCE", ())
    later = descend(model, batches, LR, record=True)
    assert later.losses == at_once.losses
    assert all(torch.equal(p, q) for p, q in zip(later.model.parameters(), at_once.model.parameters(), strict=True))
    with pytest.raises(DivergedError, match=r"the loss is (nan|inf) at step 1 with lr = 1e\+300"):
        descend(small(), [[ids] for ids in SEQUENCES], 1e300)


def test_all_steps_are_sent_before_a_loss_is_waited_for(monkeypatch):
    """On torch's meta device, where no number can be read."""
    sent, losses = [], descent._losses
    monkeypatch.setattr(descent, "_losses", lambda *rest: sent.append(rest[2]) or losses(*rest))
    with pytest.raises((RuntimeError, NotImplementedError), match="meta"):
        descend(small().to("meta"), [SEQUENCES[:2], SEQUENCES[2:]], LR, record=True)
    assert sent == [len(ids) for ids in SEQUENCES]


def test_without_a_demonstration_nothing_moves():
    model = small()
    agree(descend(model, [], LR).model, model, 0)
