"""Perplexity against a loop over tokens, one forward pass each."""

import math

import pytest
import scipy.stats
import torch

from iclnb.model.gpt import GPT, GPTConfig
from iclnb.training.perplexity import cut, loss_by_position, perplexity, token_losses

CONFIG = GPTConfig(vocab_size=23, n_layer=2, n_head=2, n_embd=16, n_positions=32, positions="rotary")


@pytest.fixture(scope="module")
def model():
    with torch.no_grad():
        model = GPT(CONFIG).initialise(0)
        model.embed_tokens.weight.mul_(30)  # far from uniform
    return model


@pytest.fixture(scope="module")
def ids():
    return torch.randint(23, (203,), generator=torch.Generator().manual_seed(1))


def loss_of(model, ids, start, end):
    """-log p(ids[end] | ids[start:end]), from one pass over exactly those tokens."""
    with torch.no_grad():
        return -model(ids[None, start:end])[0, -1].double().log_softmax(-1)[ids[end]].item()


@pytest.mark.parametrize("context", [1, 7, 16])
def test_perplexity_reads_windows_that_do_not_overlap(model, ids, context):
    found, windows = perplexity(model, ids, context), (len(ids) - 1) // context
    means = [
        sum(loss_of(model, ids, w * context, w * context + t) for t in range(1, context + 1)) / context
        for w in range(windows)
    ]
    mean = sum(means) / windows
    error = math.sqrt(sum((m - mean) ** 2 for m in means) / (windows - 1) / windows)
    assert (found.context, found.windows, found.tokens) == (context, windows, windows * context)
    reach = scipy.stats.t.ppf(0.975, windows - 1)
    expected = [math.exp(mean + z * error) for z in (0, -reach, reach)]
    assert [found.value, found.low, found.high] == pytest.approx(expected, rel=1e-5)


def test_with_a_stride_only_the_end_of_each_window_is_scored(model, ids):
    context, stride = 16, 5
    found = perplexity(model, ids, context, stride)
    losses = [
        loss_of(model, ids, start, start + t)
        for start in range(0, len(ids) - context, stride)
        for t in range(context - stride + 1, context + 1)
    ]
    assert found.tokens == len(losses)
    assert found.value == pytest.approx(math.exp(sum(losses) / len(losses)), rel=1e-5)


def test_loss_by_position_bins_every_position_once(model, ids):
    table, windows = loss_by_position(model, ids, 13), cut(ids, 13)
    assert table[["first", "last"]].values.tolist() == [[1, 1], [2, 2], [3, 4], [5, 8], [9, 13]]
    losses = token_losses(model, windows)
    for row in table.itertuples():
        inside = losses[:, row.first - 1 : row.last].double()
        assert row.tokens == inside.numel() and row.low < row.loss < row.high
        assert row.loss == pytest.approx(inside.mean().item())
    whole = (table["loss"] * table["tokens"]).sum() / table["tokens"].sum()
    assert math.exp(whole) == pytest.approx(perplexity(model, ids, 13).value)


def test_token_losses_do_not_depend_on_the_batches(model, ids, monkeypatch):
    windows = cut(ids, 16)
    whole = token_losses(model, windows)
    monkeypatch.setattr("iclnb.training.perplexity.LOGITS", 3 * 16 * 23)
    torch.testing.assert_close(token_losses(model, windows), whole)
    assert whole.shape == (12, 16)
    assert whole[3, 9].item() == pytest.approx(loss_of(model, ids, 48, 58), rel=1e-5)


def test_a_model_that_guesses_has_the_perplexity_of_its_vocabulary(ids):
    model = GPT(CONFIG).initialise(0)
    with torch.no_grad():
        model.embed_tokens.weight.zero_()
    assert perplexity(model, ids, 16).value == pytest.approx(23)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((203, None), "ids holds 203 tokens; a window of context 203 needs 204"),
        ((16, 0), "stride is 0; accepted are 1 to the context, 16"),
        ((16, 17), "stride is 17; accepted"),
        ((0, None), "stride is 0; accepted"),
        ((40, None), "does not fit the model's 32 positions"),
    ],
)
def test_bad_input_is_refused(model, ids, arguments, message):
    with pytest.raises(ValueError, match=message):
        perplexity(model, ids, *arguments)
