"""Lab c: algorithms written into blocks, against autograd and numpy; and the probe."""

import numpy as np
import pytest
import torch

from iclnb.labs import algorithms, regression
from iclnb.labs.algorithms import Registers, aff, div, mov, mul, write_prompt
from iclnb.labs.predictors import explained, least_squares, linear_probe, over_prefixes, read_weights, ridge, ridge_path
from iclnb.model.gpt import Block

ATOL = 1e-7  # what mul's parabola leaves after the longest composition


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def registers():
    return Registers(40, 6, a=6, b=6, c=4, s=1)


def stream(registers, seed=0):
    """A stream (B, T, C) of random numbers, with the reserved registers as write_prompt leaves them."""
    h = randn(3, registers.tokens, registers.width, seed=seed)
    h[:, :, : registers["large"].stop] = 0
    h[:, :, registers["at"]] = torch.eye(registers.tokens, dtype=torch.float64)
    h[:, 1:, registers["one"]] = 1
    h[:, 0, registers["large"].stop :] = 0
    return h


def unchanged(registers, before, after, *names):
    """Whether all but the named registers are as they were."""
    kept = torch.ones(registers.width, dtype=torch.bool)
    for name in names:
        kept[registers[name]] = False
    return torch.allclose(before[..., kept], after[..., kept], atol=1e-6)  # div leaves rounding of LARGE in "large"


# ---------------------------------------------------------------------------------------------------------------------
# Primitives


def test_mov_copies_between_tokens_and_takes_means(registers):
    h = stream(registers)
    out = mov(registers, {4: 2, 5: [1, 2, 5]}, b="a")(h)
    right = h.clone()
    right[:, 4, registers["b"]] = h[:, 2, registers["a"]]
    right[:, 5, registers["b"]] = h[:, [1, 2, 5], registers["a"]].mean(1)
    assert torch.allclose(out, right, atol=1e-12)


def test_aff_sums_linear_maps_and_constants(registers):
    h, W, b = stream(registers), randn(4, 6, seed=1), randn(4, 1, seed=2)
    out = aff(registers, c={"a": W, "one": b, "c": -2.0}, s={})(h)
    right = h[..., registers["a"]] @ W.T + b.T - 2 * h[..., registers["c"]]
    assert torch.allclose(out[:, 1:, registers["c"]], right[:, 1:], atol=1e-12)
    assert out[..., registers["s"]].abs().max() < 1e-15 and unchanged(registers, h, out, "c", "s")


@pytest.mark.parametrize("shape, a, b, out", [((2, 3, 2), "a", "b", "c"), ((1, 6, 1), "a", "b", "s")])
def test_mul_is_the_matrix_product(registers, shape, a, b, out):
    h, (m, k, n) = stream(registers), shape
    got = mul(registers, a, b, out, shape)(h)
    right = h[..., registers[a]].unflatten(-1, (m, k)) @ h[..., registers[b]].unflatten(-1, (k, n))
    assert torch.allclose(got[..., registers[out]], right.flatten(-2), atol=1e-8)
    assert unchanged(registers, h, got, out)


def test_div_divides_by_the_absolute_value(registers):
    h = stream(registers)
    got = div(registers, "a", "s", "b")(h)
    right = h[:, 1:, registers["a"]] / h[:, 1:, registers["s"]].abs()
    assert torch.allclose(got[:, 1:, registers["b"]], right, rtol=1e-6)
    assert unchanged(registers, h, got, "b")


# ---------------------------------------------------------------------------------------------------------------------
# Compositions


@pytest.mark.parametrize("N, d, lr", [(1, 1, 0.5), (6, 3, 0.3), (3, 5, 1.0)])
def test_a_gradient_step_equals_autograd(N, d, lr):
    x, y, w0 = randn(4, N + 1, d, seed=1), randn(4, N, seed=2), randn(d, seed=3)
    registers, blocks = algorithms.gradient_step(N, d, lr, width=60)
    assert len(blocks) == 7 and all(isinstance(block, Block) for block in blocks)
    h = blocks(write_prompt(registers, x=x, y=y, w=w0))[:, -1]  # (B, C)
    w = w0.repeat(4, 1).requires_grad_()  # (B, d)
    loss = 0.5 * (torch.einsum("bnd,bd->bn", x[:, :N], w) - y).square().mean(1).sum()
    (gradient,) = torch.autograd.grad(loss, w)
    assert torch.allclose(h[:, registers["w"]], w - lr * gradient, atol=ATOL)
    assert torch.allclose(h[:, registers["p"]].squeeze(-1), ((w - lr * gradient) * x[:, -1]).sum(-1), atol=ATOL)


@pytest.mark.parametrize("N, d, lam", [(1, 1, 1.0), (6, 3, 0.5), (2, 4, 0.3)])
def test_sherman_morrison_updates_equal_solving(N, d, lam):
    x, y = randn(4, N + 1, d, seed=4), randn(4, N, seed=5)
    registers, blocks = algorithms.ridge_by_updates(N, d, lam, width=80)
    assert len(blocks) == 9 * N + 5
    h = blocks(write_prompt(registers, x=x, y=y))[:, -1]  # (B, C)
    for b in range(4):
        X, Y = x[b, :N].numpy(), y[b].numpy()
        w = np.linalg.solve(X.T @ X + lam * np.eye(d), X.T @ Y)  # (d,)
        assert np.allclose(h[b, registers["w"]], w, atol=ATOL)
        assert np.allclose(h[b, registers["p"]], w @ x[b, -1].numpy(), atol=ATOL)


def test_the_least_width_is_the_first_that_is_accepted():
    least = algorithms.least_width(lambda width: algorithms.gradient_step(2, 3, 0.1, width))
    algorithms.gradient_step(2, 3, 0.1, least)
    with pytest.raises(ValueError, match="width is"):
        algorithms.gradient_step(2, 3, 0.1, least - 2)


# ---------------------------------------------------------------------------------------------------------------------
# Candidates beside a black box


def test_a_path_of_ridges_is_each_ridge():
    x, y = randn(5, 6, 3, seed=20), randn(5, 6, seed=21)
    path = ridge_path([0.01, 0.5, 4.0], x, y)  # (3, B, N)
    for lam, got in zip([0.01, 0.5, 4.0], path, strict=True):
        assert torch.allclose(got, over_prefixes(ridge(lam), x, y), atol=1e-10)


def test_the_weights_of_a_black_box_are_read_from_its_answers():
    x, y, n = randn(4, 6 + 8, 3, seed=22), randn(4, 6 + 8, seed=23), 6
    w, r2 = read_weights(lambda x, y: over_prefixes(ridge(0.5), x, y), x, y, n)
    assert torch.allclose(w, ridge(0.5)(x[:, :n], y[:, :n]), atol=1e-10) and r2 > 1 - 1e-12
    _, r2 = read_weights(lambda x, y: over_prefixes(least_squares, x, y).square(), x, y, n)
    assert r2 < 0.9  # a square is not linear in the query


def test_trainings_of_a_recipe_are_found_and_asked_alike(tmp_path):
    recipe = regression.Recipe(d=2, N=4, n_layer=1, n_embd=16)
    for seed in (1, 0):
        regression.save(recipe.build(seed), recipe, tmp_path / f"tiny_seed{seed}.safetensors")
    regression.save(recipe.build(2), recipe, tmp_path / "tiny_short_seed0.safetensors")
    trained, p = regression.load_trainings(tmp_path, "tiny"), regression.sample(3, 4, 2, torch.Generator())
    answers = regression.answer(trained, p)  # (S, B, N)
    assert answers.shape == (2, 3, 4) and not answers.requires_grad
    assert torch.allclose(answers[1], recipe.build(1)(p.x, p.y), atol=1e-2)  # float16


# ---------------------------------------------------------------------------------------------------------------------
# What does not fit is refused


@pytest.mark.parametrize(
    "make, told",
    [
        (lambda: Registers(20, 6, a=15), "width is 20; the registers need 25"),
        (lambda: Registers(41, 6, a=15), "even number"),
        (lambda: Registers(40, 6, a=0), "register a has 0 entries"),
        (lambda: algorithms.gradient_step(0, 2, 0.1, 40), "N is 0"),
        (lambda: algorithms.gradient_step(3, 0, 0.1, 40), "d is 0"),
        (lambda: algorithms.gradient_step(6, 3, 0.1, 20), "width is 20; the registers need"),
        (lambda: algorithms.ridge_by_updates(6, 3, 0.0, 80), "lam is 0.0"),
        (lambda: mov(Registers(22, 12, a=1), {2: 1}, a="a"), "mov needs 24"),
        (lambda: mov(Registers(40, 6, a=1), {2: 3}, a="a"), "tokens 1 to 2"),
        (lambda: mov(Registers(40, 6, a=1, b=2), {2: 1}, a="b"), "they differ in size"),
        (lambda: mul(Registers(40, 6, a=2, b=2, c=1), "a", "b", "c", (2, 1, 2)), "register c has 1 entries"),
        (lambda: write_prompt(Registers(40, 6, x=2, y=1), x=randn(1, 3, 3), y=randn(1, 2)), "must fit 6 tokens"),
    ],
)
def test_impossible_constructions_are_refused(make, told):
    with pytest.raises(ValueError, match=told):
        make()


# ---------------------------------------------------------------------------------------------------------------------
# The probe


def test_a_probe_finds_what_is_linear_and_nothing_else():
    Z, Z_new = randn(400, 8, seed=6), randn(200, 8, seed=7)
    M, noise = randn(8, 3, seed=8), randn(600, 3, seed=9)
    linear = linear_probe(Z, Z @ M + 1, lam=1e-9)
    assert explained(Z_new, Z_new @ M + 1, linear).mean() > 1 - 1e-9
    assert explained(Z_new, noise[400:], linear_probe(Z, noise[:400])).mean() < 0.05


def test_a_probe_without_a_ridge_is_least_squares():
    Z, V = randn(50, 4, seed=10), randn(50, 2, seed=11)
    M, b = linear_probe(Z, V, lam=1e-12)
    right = np.linalg.lstsq(np.hstack([Z, np.ones((50, 1))]), V, rcond=None)[0]  # (C + 1, m)
    assert np.allclose(M, right[:-1], atol=1e-8) and np.allclose(b, right[-1], atol=1e-8)
    with pytest.raises(ValueError, match="Z has 50 rows and V has 49"):
        linear_probe(Z, V[1:])
