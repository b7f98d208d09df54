"""Lab a: prompts of linear functions, the regressor that reads them, its training, and the predictors beside it."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from iclnb.labs import predictors, regression
from iclnb.labs.regression import Recipe, sample
from iclnb.paths import data_folder
from iclnb.training.loop import TrainingError


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# ---------------------------------------------------------------------------------------------------------------------
# Prompts


def test_prompts_are_linear_functions_with_noise():
    p = sample(400, 50, 3, generator(), noise=0.5, scale=2.0)
    assert (p.x.shape, p.y.shape, p.f.shape, p.w.shape) == ((400, 50, 3), (400, 50), (400, 50), (400, 3))
    assert torch.allclose(p.f, (p.x @ p.w[..., None]).squeeze(-1), atol=1e-5)
    assert (p.y - p.f).std().item() == pytest.approx(0.5, rel=0.02)
    assert p.x.std().item() == pytest.approx(2.0, rel=0.02) and p.w.std().item() == pytest.approx(1.0, rel=0.1)


def test_subspace_and_active_dimensions():
    ranks = torch.linalg.matrix_rank(sample(20, 12, 5, generator(), subspace=2).x, atol=1e-4)
    assert (ranks == 2).all()
    x = sample(20, 12, 5, generator(), active=3).x
    assert (x[..., 3:] == 0).all() and (x[..., :3] != 0).all()


@pytest.mark.parametrize(
    "wrong, told",
    [
        ({"B": 0}, "B is 0"),
        ({"N": 0}, "N is 0"),
        ({"d": 0}, "d is 0"),
        ({"noise": -1.0}, "noise is -1.0"),
        ({"subspace": 4}, "subspace is 4"),
        ({"active": 0}, "active is 0"),
    ],
)
def test_impossible_prompts_are_refused(wrong, told):
    with pytest.raises(ValueError, match=told):
        sample(**{"B": 2, "N": 4, "d": 3, "generator": generator()} | wrong)


# ---------------------------------------------------------------------------------------------------------------------
# Predictors, against numpy and brute force


@pytest.fixture
def prompts():
    p = sample(6, 7, 3, generator(1), noise=0.3)
    return p.x.double(), p.y.double()


def one_by_one(x, y, predict):
    """Predictions (B, N) by a function of X (n, d), Y (n,), query (d,) in numpy; 0 before the first pair."""
    out = np.zeros(y.shape)
    for b, n in np.ndindex(*y.shape):
        if n:
            out[b, n] = predict(x[b, :n].numpy(), y[b, :n].numpy(), x[b, n].numpy())
    return torch.from_numpy(out)


def nearest_mean(X, Y, query):
    return Y[np.argsort(((X - query) ** 2).sum(1))[:3]].mean()


def ridge_as_least_squares(X, Y, query, lam=0.7):
    rows, zeros = np.vstack([X, np.sqrt(lam) * np.eye(len(query))]), np.append(Y, np.zeros(len(query)))
    return np.linalg.lstsq(rows, zeros, rcond=None)[0] @ query


@pytest.mark.parametrize(
    "ours, numpys",
    [
        (predictors.least_squares, lambda X, Y, query: np.linalg.lstsq(X, Y, rcond=None)[0] @ query),
        (predictors.ridge(0.7), ridge_as_least_squares),
        (predictors.averaging, lambda X, Y, query: (Y[:, None] * X).mean(0) @ query),
        (predictors.one_step(0.2), lambda X, Y, query: 0.2 * (X.T @ Y) @ query),
    ],
)
def test_linear_predictors_equal_numpy(prompts, ours, numpys):
    got, right = predictors.over_prefixes(ours, *prompts), one_by_one(*prompts, numpys)  # (B, N) each
    assert torch.allclose(got, right, atol=1e-10)


def test_nearest_neighbours_equals_sorting(prompts):
    assert torch.allclose(predictors.nearest_neighbours(*prompts), one_by_one(*prompts, nearest_mean), atol=1e-12)


def test_the_best_rate_is_a_minimum():
    p = sample(200, 6, 3, generator(2))
    rates = predictors.best_rates(p.x, p.y, p.f)  # (N,)
    g = predictors.over_prefixes(predictors.one_step(1.0), p.x, p.y)  # (B, N)

    def error(rates):
        return (rates * g - p.f).square().mean(0)[1:]  # (N - 1,)

    assert rates[0] == 0 and (error(rates) < error(1.01 * rates)).all() and (error(rates) < error(0.99 * rates)).all()


def test_predictors_refuse_what_has_no_meaning():
    with pytest.raises(ValueError, match="lam is 0.0"):
        predictors.ridge(0.0)
    with pytest.raises(ValueError, match="k is 0"):
        predictors.nearest_neighbours(torch.zeros(1, 2, 1), torch.zeros(1, 2), k=0)


# ---------------------------------------------------------------------------------------------------------------------
# The regressor and its training

TINY = Recipe(d=1, N=4, n_layer=2, n_embd=16, steps=60, B=16, grow=0.0)


def test_a_prediction_sees_the_pairs_before_it_and_nothing_else():
    model, p = Recipe(d=2, N=5, n_embd=16).build(seed=1), sample(3, 5, 2, generator())
    y = p.y.clone().requires_grad_()
    for n in range(5):
        (gradient,) = torch.autograd.grad(model(p.x, y)[:, n].sum(), y)  # (B, N)
        assert (gradient[:, :n] != 0).all() and (gradient[:, n:] == 0).all()
        later = p.x.clone()
        later[:, n + 1 :] += 1
        assert torch.allclose(model(later, y)[:, n], model(p.x, y)[:, n], atol=1e-6)


def test_dimensions_and_points_grow_together():
    recipe = Recipe(d=5, N=16, steps=1000, grow=0.5)
    sizes = [recipe.size(step) for step in range(1000)]
    assert sizes == sorted(sizes) and sizes[0] == (1, 3) and sizes[499] == sizes[-1] == (5, 16)
    assert (recipe.prompts(0, seed=3).x[..., 1:] == 0).all() and recipe.prompts(0, seed=3).x.shape == (64, 3, 5)
    assert not torch.equal(recipe.prompts(600, seed=3).x, recipe.prompts(601, seed=3).x)


def test_training_learns():
    _, record = regression.train(replace(TINY, steps=300), seed=0, progress=False)
    assert [row["step"] for row in record] == [50, 100, 150, 200, 250, 300]
    assert record[-1]["loss"] < 0.5 * record[0]["loss"]


def test_a_killed_training_continues_bit_for_bit(tmp_path, monkeypatch):
    whole, record = regression.train(TINY, seed=0, progress=False)

    def killed(recipe, step, seed, draw=Recipe.prompts):
        if step == 55:
            raise KeyboardInterrupt
        return draw(recipe, step, seed)

    monkeypatch.setattr(Recipe, "prompts", killed)
    with pytest.raises(KeyboardInterrupt):
        regression.train(TINY, 0, tmp_path / "checkpoint", progress=False)
    monkeypatch.undo()
    resumed, again = regression.train(TINY, 0, tmp_path / "checkpoint", progress=False)
    assert again == record
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    with pytest.raises(TrainingError, match="another run"):
        regression.train(TINY, 1, tmp_path / "checkpoint", progress=False)


def test_saved_models_come_back_rounded_to_float16(tmp_path):
    model, p = TINY.build(seed=2), sample(8, 4, 1, generator())
    regression.save(model, TINY, tmp_path / "tiny.safetensors")
    loaded, recipe = regression.load(tmp_path / "tiny.safetensors")
    assert recipe == TINY
    for ours, theirs in zip(model.parameters(), loaded.parameters(), strict=True):
        assert torch.equal(ours.half().float(), theirs)
    assert torch.allclose(model(p.x, p.y), loaded(p.x, p.y), atol=1e-2)


def test_the_stored_model_stays_within_its_promise():
    """From n = 2 d on: 2 % of the variance without noise; on noisy labels 1.5 times the error of least squares."""
    model, recipe = regression.load(data_folder() / "labs/a/d5.safetensors")
    for noise in (0.0, 0.5):
        p = sample(1000, recipe.N, recipe.d, generator(5), noise=noise)
        fitted = predictors.over_prefixes(predictors.least_squares, p.x, p.y)  # (B, N)
        with torch.no_grad():
            ours, theirs = ((guess - p.y).square().mean(0)[2 * recipe.d :] for guess in (model(p.x, p.y), fitted))
        assert (ours < (1.5 * theirs if noise else 0.02 * recipe.d)).all()
