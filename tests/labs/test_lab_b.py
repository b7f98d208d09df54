"""Lab b: layers that are gradient steps, against autograd, brute force and an expectation taken by hand."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from iclnb.labs import constructed_descent as lab
from iclnb.paths import data_folder

N, D_IN = 7, 4


@pytest.fixture(autouse=True)
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def tasks():
    return lab.sample_tasks(5, N, D_IN, torch.Generator().manual_seed(3))


def autograd_steps(tasks, rates):
    """Plain gradient descent on each task's own loss by torch.autograd, from w = 0; answers (B,)."""
    answers = []
    for X, Y, x in zip(tasks.X, tasks.Y, tasks.x, strict=True):
        w = torch.zeros(D_IN)
        for rate in rates:
            w = w.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(0.5 * (X @ w - Y).square().sum(), w)
            w = w - rate * gradient
        answers.append(w.detach() @ x)
    return torch.stack(answers)


@pytest.mark.parametrize("rates", [[0.3], [0.3, 0.7, 0.2, 0.5]])
def test_constructed_layers_are_steps_of_descent(tasks, rates):
    with torch.no_grad():
        built = lab.predict(lab.stack(D_IN, rates), tasks)
    torch.testing.assert_close(built, autograd_steps(tasks, rates), rtol=0, atol=1e-10)
    torch.testing.assert_close(built, lab.descend(tasks, rates, [0.0] * len(rates)), rtol=0, atol=1e-10)


def test_a_wider_token_keeps_what_lies_between(tasks):
    E = lab.to_tokens(tasks)  # (B, N + 1, d + 1)
    extra = torch.randn(*E.shape[:2], 3)
    with torch.no_grad():
        wide = lab.construct_layer(D_IN, 0.4, 0.1, width=D_IN + 4)(torch.cat([E[..., :-1], extra, E[..., -1:]], -1))
        plain = lab.construct_layer(D_IN, 0.4, 0.1)(E)
    assert torch.equal(wide[..., D_IN:-1], extra)
    torch.testing.assert_close(torch.cat([wide[..., :D_IN], wide[..., -1:]], -1), plain, rtol=0, atol=1e-12)


def test_curvature_correction_is_descent_on_transformed_inputs(tasks):
    rates, gammas = [0.3, 0.8, 0.5], [0.1, 0.2, 0.0]
    with torch.no_grad():
        built = lab.predict(lab.stack(D_IN, rates, gammas), tasks)
    torch.testing.assert_close(built, lab.descend(tasks, rates, gammas), rtol=0, atol=1e-10)
    for b, answer in enumerate(built):  # and once more by numpy: w acts through a polynomial in the curvature
        X, Y, x = tasks.X[b].numpy(), tasks.Y[b].numpy(), tasks.x[b].numpy()
        H = X.T @ X
        left, scale = np.eye(D_IN), np.eye(D_IN)
        for rate, gamma in zip(rates, gammas, strict=True):
            now = scale @ H @ scale
            left, scale = left @ (np.eye(D_IN) - rate * now), scale @ (np.eye(D_IN) - gamma * now)
        w = np.linalg.lstsq(X, Y, rcond=None)[0]
        assert answer.item() == pytest.approx((w - left @ w) @ x, abs=1e-10)


def test_the_expected_loss_is_the_mean_loss():
    rates, gammas = [0.9, 0.6], [0.1, 0.0]
    tasks = lab.sample_tasks(50_000, N, D_IN, torch.Generator().manual_seed(0))
    errors = (lab.descend(tasks, rates, gammas) - tasks.y).square() / 2
    eigenvalues = lab.sample_eigenvalues(50_000, N, D_IN, torch.Generator().manual_seed(1))
    expected = lab.expected_loss(eigenvalues, rates, gammas).item()
    assert errors.mean().item() == pytest.approx(expected, abs=5 * errors.std().item() / 50_000**0.5)


def test_tuning_finds_the_best_step_and_a_better_second_one():
    eigenvalues = lab.sample_eigenvalues(4000, 10, 10, torch.Generator().manual_seed(0))
    (rate,), _ = lab.tune(eigenvalues, 1, curvature=False)
    grid = torch.arange(0.4, 0.8, 0.001)
    losses = torch.stack([lab.expected_loss(eigenvalues, [lr], [0.0]) for lr in grid])
    assert rate.item() == pytest.approx(grid[losses.argmin()].item(), abs=0.002)
    plain, corrected = (lab.expected_loss(eigenvalues, *lab.tune(eigenvalues, 2, c)) for c in (False, True))
    pairs = itertools.product(torch.arange(0.1, 2, 0.1), repeat=2)
    brute = min(lab.expected_loss(eigenvalues, pair, [0.0, 0.0]) for pair in pairs)
    assert brute - 5e-3 < plain <= brute and corrected < plain < losses.min()


def test_no_random_start_finds_a_better_gdpp():
    eigenvalues = lab.sample_eigenvalues(4000, 10, 10, torch.Generator().manual_seed(0))
    best = lab.expected_loss(eigenvalues, *lab.tune(eigenvalues, 2, curvature=True))
    generator = torch.Generator().manual_seed(1)
    rates, gammas = 4 * torch.rand(2, 300, 2, generator=generator)
    losses = torch.stack([lab.expected_loss(eigenvalues[:200], r, g) for r, g in zip(rates, gammas, strict=True)])
    for place in losses.argsort()[:5]:
        found = lab._minimise(lab._pool(eigenvalues), rates[place], gammas[place] * torch.tensor([1.0, 0.0]), True)
        assert lab.expected_loss(eigenvalues, *found[1:]) > best - 1e-5
    assert best == pytest.approx(0.092, abs=0.001)  # a poor local minimum has 0.104


def test_training_repeats_itself_and_learns():
    first, losses = lab.train(1, N, D_IN, steps=150, seed=1, batch=128, lr=0.03)
    second, again = lab.train(1, N, D_IN, steps=150, seed=1, batch=128, lr=0.03)
    assert losses == again and all(
        torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True)
    )
    assert np.mean(losses[-10:]) < 0.85 * np.mean(losses[:10])


def test_sensitivity_is_the_slope_of_the_answer(tasks):
    layers = lab.stack(D_IN, [0.3, 0.5], [0.1, 0.0])
    slope = lab.sensitivity(layers, tasks)
    moved = lab.Tasks(tasks.X, tasks.Y, tasks.x + torch.eye(D_IN)[1], tasks.y)
    with torch.no_grad():
        change = lab.predict(layers, moved) - lab.predict(layers, tasks)
    torch.testing.assert_close(slope[:, 1], change, rtol=0, atol=1e-10)  # the answer is linear in the question


def test_stored_layers_are_read_back(tmp_path):
    recipe = {"K": 2, "N": 3, "d": 2, "steps": 2, "seed": 5}
    layers, _ = lab.train(**recipe, batch=4)
    lab.save_layers(layers, recipe, tmp_path / "layers.safetensors")
    loaded, said = lab.load_layers(tmp_path / "layers.safetensors")
    assert said == recipe and all(
        torch.equal(a, b) for a, b in zip(layers.parameters(), loaded.parameters(), strict=True)
    )


def calm_tasks(count):
    """Tasks without the hundredth of largest curvature, where a polynomial of degree 13 is enormous."""
    tasks = lab.sample_tasks(count, 10, 10, torch.Generator().manual_seed(8))
    largest = torch.linalg.eigvalsh(tasks.X.mT @ tasks.X)[:, -1]
    calm = largest <= largest.quantile(0.99)
    return lab.Tasks(tasks.X[calm], tasks.Y[calm], tasks.x[calm], tasks.y[calm])


@pytest.mark.parametrize("name", lab.RECIPES)
def test_the_shipped_layers_are_the_gdpp_of_their_own_diagonals(name):
    layers, said = lab.load_layers(data_folder() / "labs" / "b" / f"layers-{name}.safetensors")
    assert said == lab.RECIPES[name] and isinstance(layers, nn.Sequential)
    layers, tasks = layers.double(), calm_tasks(2000)
    own = lab.stack(10, *(numbers.tolist() for numbers in lab.read_steps(layers)))
    slopes = lab.sensitivity(layers, tasks), lab.sensitivity(own, tasks)
    assert torch.cosine_similarity(*slopes, dim=-1).mean() > 0.99
    eigenvalues = lab.sample_eigenvalues(4000, 10, 10, torch.Generator().manual_seed(0))
    with torch.no_grad():
        loss = lab.loss_of(lab.predict(layers, tasks), tasks)
    if said["K"] > 1:  # below what as many steps of plain descent reach
        assert loss < lab.expected_loss(eigenvalues, *lab.tune(eigenvalues, said["K"], curvature=False))


def test_the_steps_of_a_constructed_stack_are_read_from_its_weights():
    rates, gammas = lab.read_steps(lab.stack(D_IN, [0.3, 0.8], [0.2, 0.1]))
    torch.testing.assert_close(rates, torch.tensor([0.3, 0.8]))
    torch.testing.assert_close(gammas, torch.tensor([0.2, 0.1]))


def test_a_constructed_layer_applied_again_is_one_more_step(tasks):
    layer = lab.construct_layer(D_IN, 0.4)
    torch.testing.assert_close(lab.apply_again(layer, tasks, 3, damping=1.0)[2], autograd_steps(tasks, [0.4] * 3))
    damped = lab.apply_again(layer, tasks, 2)
    torch.testing.assert_close(damped[1], autograd_steps(tasks, [0.3, 0.3]))  # 0.75 of each rate


def test_half_way_between_two_rates_is_their_mean(tasks):
    layer = lab.between(lab.construct_layer(D_IN, 0.2), lab.construct_layer(D_IN, 0.6))
    torch.testing.assert_close(lab.predict(layer, tasks).detach(), autograd_steps(tasks, [0.4]))


def test_a_small_start_leaves_what_is_not_trained_small():
    layers, _ = lab.train(1, N, D_IN, steps=300, seed=1, batch=128, lr=0.03, std=0.002)
    score, added = lab.products(layers[0])
    assert score[:, -1].abs().max() < 0.05 and added[:-1].abs().max() < 0.05 < -added[-1, -1]


@pytest.mark.parametrize(
    "call, told",
    [
        (lambda g: lab.sample_tasks(5, 0, 4, g), "N is 0; it must be at least 1"),
        (lambda g: lab.sample_tasks(5, 3, 0, g), "d is 0; it must be at least 1"),
        (lambda g: lab.sample_eigenvalues(0, 3, 2, g), "B is 0; it must be at least 1"),
        (lambda g: lab.sample_tasks(5, 3, 4, g, spread=0.0), "spread is 0.0; it must be a positive number"),
        (lambda g: lab.sample_tasks(5, 3, 2, g, spread=torch.tensor([0.5, -1.0])), "must be a positive number"),
        (lambda g: lab.apply_again(lab.construct_layer(4, 0.1), None, 0), "times is 0"),
        (lambda g: lab.construct_layer(4, 0.1, width=4), "d is 4 and width is 4; .* width of d \\+ 1"),
        (lambda g: lab.construct_layer(0, 0.1), "d is 0"),
        (lambda g: lab.stack(4, [0.1, 0.2], [0.0]), "2 rates and 1 gammas"),
        (lambda g: lab.LinearSelfAttention(1), "width is 1; .* at least 2"),
        (lambda g: lab.train(0, 3, 2, 10, 0), "K is 0"),
        (lambda g: lab.tune(torch.ones(2, 3), 0, False), "K is 0"),
    ],
)
def test_impossible_shapes_are_refused(call, told):
    with pytest.raises(ValueError, match=told):
        call(torch.Generator().manual_seed(0))
