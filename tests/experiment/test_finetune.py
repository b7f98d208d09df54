"""Fine-tuning: parameter by parameter what torch.optim.SGD makes of transformers' model."""

from copy import deepcopy

import pytest
import torch
from toys import save_checkpoint, toy_task

from iclnb import load
from iclnb.experiment.descent import DivergedError, trained_parameters
from iclnb.experiment.finetune import finetune, finetune_attention, train_on

LR, K, SEED = 0.05, 6, 4


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    hf = save_checkpoint(folder)
    return hf, *load(folder, device="cpu", dtype="float32")


def sequences(tokenizer, config, task):
    texts = [f"{example.text} {task.answers[example.label]}" for example in task.demonstrations(K, SEED)]
    return [[config.bos_token_id, *tokenizer.encode(text)] for text in texts]


@pytest.mark.gpu
@pytest.mark.parametrize(
    "kind, extra",
    [
        ("xglm", {}),
        ("llama", {"heads_a_key": 2}),
        ("qwen2", {}),
        ("qwen3", {"heads_a_key": 2, "head_dim": 12}),
        ("smollm3", {"no_rope_layer_interval": 2}),
        ("olmo2", {}),
    ],
)
def test_one_epoch_equals_sgd_on_transformers_model(kind, extra, device, tmp_path):
    hf = save_checkpoint(tmp_path, kind, **extra)  # eval mode: dropout off
    model, tokenizer = load(tmp_path, device="cpu", dtype="float32")
    task = toy_task()
    names = [n for n, _ in hf.named_parameters() if ".k_proj." in n or ".v_proj." in n]
    hf.requires_grad_(False)
    parameters = [hf.get_parameter(name).requires_grad_() for name in names]
    optimiser = torch.optim.SGD(parameters, lr=LR)
    losses = []
    for ids in sequences(tokenizer, model.config, task):
        ids = torch.tensor([ids])
        loss = hf(ids, labels=ids).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    tuned = finetune(deepcopy(model).to(device), tokenizer, task, K, SEED, LR)
    assert tuned.losses == pytest.approx(losses, rel=1e-5)
    for name, p in tuned.model.cpu().named_parameters():
        theirs = name.replace("blocks", "model.layers").replace(".attn.", ".self_attn.")
        if theirs in names:
            before = model.get_parameter(name)
            if not name.endswith(
                "k_proj.bias"
            ):  # it adds the same to all scores of a query, which softmax does not see
                assert not torch.equal(p, before)
            torch.testing.assert_close(p, hf.get_parameter(theirs), rtol=1e-5, atol=1e-6)
        else:
            assert torch.equal(p, model.get_parameter(name))
    assert {n.rsplit(".", 2)[1] for n in trained_parameters(model)} == {"k_proj", "v_proj"}


def test_the_given_model_is_left_untouched_and_the_rest_is_shared(setting):
    _, model, tokenizer = setting
    before = {name: p.clone() for name, p in model.named_parameters()}
    tuned = finetune_attention(model, tokenizer, toy_task(), K, SEED, LR)
    assert all(torch.equal(p, before[name]) and p.requires_grad for name, p in model.named_parameters())
    own = trained_parameters(tuned)
    for name, p in tuned.named_parameters():
        assert (p.data_ptr() == model.get_parameter(name).data_ptr()) == (name not in own)
    assert tuned.lm_head.weight is tuned.embed_tokens.weight


def test_the_same_call_gives_the_same_weights(setting):
    _, model, tokenizer = setting
    one, two = (finetune_attention(model, tokenizer, toy_task(), K, SEED, LR) for _ in range(2))
    assert all(torch.equal(p, q) for p, q in zip(one.parameters(), two.parameters(), strict=True))


@pytest.mark.parametrize("dtype, lr", [("bfloat16", 2e-4), ("float16", 2e-5)])
def test_half_precision_weights_still_move_with_updates_below_their_last_digit(dtype, lr, tmp_path):
    save_checkpoint(tmp_path)
    model, tokenizer = load(tmp_path, device="cpu", dtype=dtype)
    ids = sequences(tokenizer, model.config, toy_task())
    name = "blocks.0.attn.v_proj.weight"
    many, few = (train_on(model, ids * repeats, lr).model.get_parameter(name) for repeats in (30, 1))
    start = model.get_parameter(name)
    assert many.dtype == getattr(torch, dtype)
    wide = load(tmp_path, device="cpu", dtype="float32")[0]
    expected = train_on(wide, ids * 30, lr).model.get_parameter(name) - wide.get_parameter(name)
    moved = many.float() - start.float()
    assert torch.nn.functional.cosine_similarity(moved.flatten(), expected.flatten(), dim=0) > 0.7
    assert moved.norm() > 3 * (few.float() - start.float()).norm()


def test_recorded_queries_are_those_of_each_step(setting):
    """The query vectors of step t are those of the model after t steps, scaled, without `<s>`."""
    _, model, tokenizer = setting
    task = toy_task()
    tuned = finetune(model, tokenizer, task, K, SEED, LR, record=True)
    ids = sequences(tokenizer, model.config, task)
    assert [len(q) for q in tuned.queries] == [len(s) - 1 for s in ids]
    after_two = train_on(model, ids[:2], LR).model
    seen = []
    for block in after_two.blocks:
        block.attn.q_proj.register_forward_hook(lambda m, i, o: seen.append(o[0]))
    with torch.no_grad():
        after_two(torch.tensor([ids[2]]))
    expected = torch.stack(seen, dim=1)[1:] / 8**0.5  # (T - 1, L, C)
    torch.testing.assert_close(tuned.queries[2], expected, rtol=1e-5, atol=1e-6)


def test_a_diverging_run_stops_with_its_step_and_rate(setting):
    _, model, tokenizer = setting
    with pytest.raises(DivergedError, match=r"loss is .* at step \d+ with lr = 1e\+30"):
        finetune_attention(model, tokenizer, toy_task(), K, SEED, lr=1e30)


@pytest.mark.parametrize("lr", [0, -1.0, float("nan"), float("inf")])
def test_a_rate_that_is_no_positive_number_is_refused(lr, setting):
    _, model, tokenizer = setting
    with pytest.raises(ValueError, match="lr is .*positive"):
        finetune_attention(model, tokenizer, toy_task(), K, SEED, lr=lr)
