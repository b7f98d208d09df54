"""Gradient descent by construction: linear self-attention layers whose weights are steps of descent.

Letters: B tasks, N examples of each, d inputs, K layers. A token is a row e = (x, y) of width d + 1; the last token is
the query, (x, 0). The loss of one task is L(w) = 1/2 sum_i (w . x_i - y_i)^2, summed over its examples.

Source: von Oswald et al. 2023, Transformers Learn In-Context by Gradient Descent.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn
from tqdm.auto import tqdm

from iclnb.labs import at_least
from iclnb.paths import write_whole

# What is stored in data/labs/b: a single layer from a large start, and deeper stacks, whose training takes minutes.
SHAPE = {"N": 10, "d": 10}
RECIPES = (
    {"1-large-start": {"K": 1, **SHAPE, "steps": 1000, "seed": 0}}
    | {f"2-seed-{seed}": {"K": 2, **SHAPE, "steps": 3000, "seed": seed} for seed in range(3)}
    | {f"3-seed-{seed}": {"K": 3, **SHAPE, "steps": 4000, "seed": seed, "lr": 0.006} for seed in range(3)}
)


@dataclass(frozen=True)
class Tasks:
    """B linear regression tasks without noise.

    Args:
        X, Y: examples, (B, N, d) and (B, N).
        x, y: the query and its answer, (B, d) and (B,).
    """

    X: Tensor
    Y: Tensor
    x: Tensor
    y: Tensor


def sample_tasks(
    B: int, N: int, d: int, generator: torch.Generator, spread: float | Tensor = 0.5, dtype: torch.dtype | None = None
) -> Tasks:
    """Tasks y = w . x with w normal, mean 0 and covariance I, and all inputs uniform in (-spread, spread).

    Args:
        B, N, d: tasks, examples of each, inputs.
        generator: of the random numbers.
        spread: half the width of the inputs' range, one for all or (d,).
        dtype: None is torch's default.

    Raises:
        ValueError: B, N or d is smaller than 1, or spread is not a positive number.

    Source: von Oswald et al. 2023; their text has inputs in (-1, 1), their code in (-1/2, 1/2), as here.
    """
    at_least(1, B=B, N=N, d=d)
    if not all(0 < width < math.inf for width in torch.as_tensor(spread).flatten().tolist()):
        raise ValueError(f"spread is {spread}; it must be a positive number")
    w = torch.randn(B, d, 1, generator=generator, dtype=dtype)  # (B, d, 1)
    X = spread * (2 * torch.rand(B, N + 1, d, generator=generator, dtype=dtype) - 1)  # (B, N + 1, d)
    Y = (X @ w)[..., 0]  # (B, N + 1)
    return Tasks(X[:, :-1], Y[:, :-1], X[:, -1], Y[:, -1])


def to_tokens(tasks: Tasks) -> Tensor:
    """Examples (x_i, y_i), then the query (x, 0): (B, N + 1, d + 1)."""
    X = torch.cat([tasks.X, tasks.x[:, None]], dim=1)  # (B, N + 1, d)
    Y = torch.cat([tasks.Y, torch.zeros_like(tasks.y)[:, None]], dim=1)  # (B, N + 1)
    return torch.cat([X, Y[..., None]], dim=-1)


class LinearSelfAttention(nn.Module):
    """One head of attention without softmax and scale, added to its input: e_j + P sum_i v_i (k_i . q_j).

    The query attends, and no token attends to it: keys and values come from all tokens except the last.

    Args:
        width: D of a token.
        std: standard deviation of the random weights; the draw is torch's global one.

    Raises:
        ValueError: width is smaller than 2 (a token holds an input and a target).
    """

    def __init__(self, width: int, std: float = 0.1):
        super().__init__()
        if width < 2:
            raise ValueError(f"width is {width}; a token (x, y) needs at least 2")
        self.W_Q, self.W_K, self.W_V, self.P = (nn.Parameter(std * torch.randn(width, width)) for _ in range(4))

    def forward(self, E: Tensor) -> Tensor:
        """Tokens (B, N + 1, D) to tokens (B, N + 1, D)."""
        q, k, v = E @ self.W_Q.T, E[:, :-1] @ self.W_K.T, E[:, :-1] @ self.W_V.T  # (B, N + 1, D), (B, N, D) twice
        dW = v.mT @ k  # (B, D, D) one outer product for each example
        return E + q @ dW.mT @ self.P.T  # (B, N + 1, D)


def construct_layer(d: int, lr: float, gamma: float = 0.0, width: int | None = None) -> LinearSelfAttention:
    """The layer that takes one step of gradient descent on L from w = 0, without any training.

    Keys and queries are the x of a token, values are minus the token. P lets lr of their y through, so that every y_j
    becomes y_j - dw . x_j, what is left to explain; and gamma of their x, which gives GD++.

    Args:
        d: inputs.
        lr: learning rate.
        gamma: strength of the curvature correction x_j - gamma sum_i x_i (x_i . x_j); 0 is plain descent.
        width: of a token; None is d + 1. Entries between x and y stay what they are.

    Returns:
        A layer in torch's default dtype.

    Raises:
        ValueError: d is smaller than 1, or a width in which (x, y) has no room.

    Source: von Oswald et al. 2023, proposition 1 and (GD++) appendix A.10.
    """
    width = d + 1 if width is None else width
    if d < 1 or width < d + 1:
        raise ValueError(f"d is {d} and width is {width}; the construction needs d of at least 1 and a width of d + 1")
    layer = LinearSelfAttention(width)
    see_x = torch.diag((torch.arange(width) < d).to(layer.P.dtype))  # (D, D) keeps x, drops the rest
    see_y = torch.zeros_like(see_x)  # (D, D)
    see_y[-1, -1] = 1.0
    with torch.no_grad():
        layer.W_Q.copy_(see_x)
        layer.W_K.copy_(see_x)
        layer.W_V.copy_(torch.diag(torch.full((width,), -1.0)))
        layer.P.copy_(gamma * see_x + lr * see_y)
    return layer


def stack(d: int, rates: Sequence[float], gammas: Sequence[float] | None = None) -> nn.Sequential:
    """K constructed layers, one for each learning rate; `gammas` as in construct_layer, None is plain descent.

    Raises:
        ValueError: no rates, or another number of gammas than of rates.
    """
    gammas = [0.0] * len(rates) if gammas is None else gammas
    if len(rates) < 1 or len(gammas) != len(rates):
        raise ValueError(f"there are {len(rates)} rates and {len(gammas)} gammas; a stack needs one of each a layer")
    return nn.Sequential(*[construct_layer(d, lr, gamma) for lr, gamma in zip(rates, gammas, strict=True)])


def predict(layers: nn.Module, tasks: Tasks) -> Tensor:
    """Answers (B,): minus the y of the query's token, behind all layers."""
    return -layers(to_tokens(tasks))[:, -1, -1]


def loss_of(prediction: Tensor, tasks: Tasks) -> Tensor:
    """Half the squared error of the answers, mean over tasks, ()."""
    return 0.5 * (prediction - tasks.y).square().mean()


def sensitivity(layers: nn.Module, tasks: Tasks) -> Tensor:
    """Derivative of each answer by the query's input, (B, d): the weights that the layers use in effect."""
    x = tasks.x.detach().clone().requires_grad_()  # (B, d)
    (gradient,) = torch.autograd.grad(predict(layers, Tasks(tasks.X, tasks.Y, x, tasks.y)).sum(), x)
    return gradient


@torch.no_grad()
def apply_again(layer: nn.Module, tasks: Tasks, times: int, damping: float = 0.75) -> Tensor:
    """Answers (times, B) after each of so many applications of one layer, e <- e + damping * (layer(e) - e).

    Raises:
        ValueError: times is smaller than 1.

    Source: von Oswald et al. 2023, figure 1.
    """
    at_least(1, times=times)
    E, answers = to_tokens(tasks), []  # (B, N + 1, D)
    for _ in range(times):
        E = E + damping * (layer(E) - E)
        answers.append(-E[:, -1, -1])
    return torch.stack(answers)


@torch.no_grad()
def products(layer: LinearSelfAttention) -> tuple[Tensor, Tensor]:
    """What counts of the weights, (D, D) each: scores W_K^T W_Q, scaled to a mean diagonal of 1 over x, and P W_V."""
    score, added = layer.W_K.T @ layer.W_Q, layer.P @ layer.W_V
    factor = score.diagonal()[:-1].mean()  # ()
    return score / factor, added * factor


@torch.no_grad()
def between(one: LinearSelfAttention, other: LinearSelfAttention, share: float = 0.5) -> LinearSelfAttention:
    """A layer whose two products lie between those of two layers, `share` of the way to the other."""
    layer = LinearSelfAttention(len(one.P)).to(one.P)
    layer.W_K.copy_(torch.eye(len(one.P)))
    layer.W_V.copy_(torch.eye(len(one.P)))
    pairs = zip((layer.W_Q, layer.P), products(one), products(other), strict=True)
    for weight, a, b in pairs:
        weight.copy_(torch.lerp(a, b, share))
    return layer


def read_steps(layers: nn.Sequential) -> tuple[Tensor, Tensor]:
    """The GD++ that a stack comes nearest to by its own weights: rates and gammas, (K,) each, from the diagonals."""
    added = [-products(layer)[1].diagonal() for layer in layers]  # K of (D,)
    return torch.stack([a[-1] for a in added]), torch.stack([a[:-1].mean() for a in added])


def train(
    K: int,
    N: int,
    d: int,
    steps: int,
    seed: int,
    *,
    batch: int = 512,
    lr: float = 3e-3,
    std: float = 0.1,
    progress: bool = False,
) -> tuple[nn.Sequential, list[float]]:
    """Train K linear self-attention layers, all weights free, to answer fresh tasks.

    Args:
        K, N, d: layers, examples of a task, inputs.
        steps: of AdamW.
        seed: of the initial weights and of the tasks.
        batch: tasks a step.
        lr: highest learning rate; it rises and falls in one cycle.
        std: standard deviation of the initial weights.
        progress: show a progress bar.

    Returns:
        The layers in float32, and the loss of each step.

    Raises:
        ValueError: K or steps is smaller than 1, or as in sample_tasks.
    """
    at_least(1, K=K, steps=steps)
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = nn.Sequential(*[LinearSelfAttention(d + 1, std) for _ in range(K)]).float()
    optimizer = torch.optim.AdamW(layers.parameters(), lr=lr, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
    losses = []
    for _ in tqdm(range(steps), desc=f"training {K} layers", unit="step", disable=not progress, leave=False):
        tasks = sample_tasks(batch, N, d, generator, dtype=torch.float32)
        loss = loss_of(predict(layers, tasks), tasks)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(layers.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return layers, losses


def descend(tasks: Tasks, rates: Tensor, gammas: Tensor) -> Tensor:
    """Answers (B,) of descent itself, without attention and without tokens: the twin that defines the constructions.

    w_k = w_(k-1) + rate_k sum_i r_i x_i with r_i = y_i - f(x_i), f the sum of all steps so far; after each step all
    inputs become x - gamma_k sum_i x_i (x_i . x).
    """
    X, r, x = tasks.X, tasks.Y, tasks.x  # (B, N, d), (B, N), (B, d)
    answer = torch.zeros_like(tasks.y)  # (B,)
    for rate, gamma in zip(rates, gammas, strict=True):
        dw = rate * torch.einsum("bn,bnd->bd", r, X)  # (B, d) minus the gradient, times the rate
        H = torch.einsum("bnd,bne->bde", X, X)  # (B, d, d) the curvature of L
        answer = answer + (dw * x).sum(-1)  # (B,)
        r = r - torch.einsum("bnd,bd->bn", X, dw)  # (B, N)
        X, x = X - gamma * X @ H, x - gamma * (x[:, None] @ H)[:, 0]  # (B, N, d), (B, d)
    return answer


# ---------------------------------------------------------------------------------------------------------------------
# What descent leaves over depends on the eigenvalues of H = X^T X alone


def sample_eigenvalues(B: int, N: int, d: int, generator: torch.Generator, spread: float = 0.5) -> Tensor:
    """Eigenvalues of the curvature H = X^T X of B tasks, (B, d) float64, ascending; arguments as in sample_tasks."""
    X = sample_tasks(B, N, d, generator, spread, torch.float64).X  # (B, N, d)
    return torch.linalg.eigvalsh(X.mT @ X).clamp(min=0)  # (B, d)


def left_over(eigenvalues: Tensor, rates: Sequence[float] | Tensor, gammas: Sequence[float] | Tensor) -> Tensor:
    """Share of w that K steps leave unexplained in each eigendirection of H: a polynomial in the eigenvalue.

    Args:
        eigenvalues: of H, any shape.
        rates, gammas: K of each, as in construct_layer.

    Returns:
        The shares, in the shape of `eigenvalues`; plain descent gives prod_k (1 - rate_k * eigenvalue).
    """
    share, scale = torch.ones_like(eigenvalues), torch.ones_like(eigenvalues)  # scale: what x has become
    for rate, gamma in zip(rates, gammas, strict=True):
        now = scale * scale * eigenvalues  # of the curvature as this step sees it
        share, scale = share * (1 - rate * now), scale * (1 - gamma * now)
    return share


def expected_loss(
    eigenvalues: Tensor, rates: Sequence[float] | Tensor, gammas: Sequence[float] | Tensor, spread: float = 0.5
) -> Tensor:
    """Mean loss, (), of K constructed layers on tasks with these eigenvalues (B, d), in expectation over w and x."""
    return 0.5 * spread**2 / 3 * left_over(eigenvalues, rates, gammas).square().sum(-1).mean()


def tune(eigenvalues: Tensor, K: int, curvature: bool, restarts: int = 8) -> tuple[Tensor, Tensor]:
    """The best learning rates of K constructed layers, and with `curvature` their best gammas.

    They are found layer by layer, each starting from the best of one layer less. With gammas there are several local
    optima; so the search begins again around what it has found, and the best of all is kept.

    Args:
        eigenvalues: of the tasks to be tuned on, (B, d) float64. High powers of the largest count: take many tasks.
        K: layers, at least 1.
        curvature: tune the gammas too; without it they are zero.
        restarts: of the search with gammas, from random places.

    Returns:
        Rates and gammas, (K,) float64 each.

    Raises:
        ValueError: K is smaller than 1.
    """
    at_least(1, K=K)
    pooled, generator = _pool(eigenvalues), torch.Generator().manual_seed(0)
    rates, gammas = eigenvalues.new_tensor([0.5]), eigenvalues.new_zeros(1)  # (1,), (1,)
    for layers in range(1, K + 1):
        if layers > 1:
            before = rates[-1:] * curvature  # (1,) a good gamma is about the rate of its own layer
            rates = torch.cat([rates, rates[-1:] * (6.0 if curvature else 0.5)])  # (layers,)
            gammas = torch.cat([gammas[:-1], before, gammas[-1:]])  # (layers,) the last one has no effect
        found = [_minimise(pooled, rates, gammas, curvature)]
        for _ in range(restarts if curvature and layers > 1 else 0):
            factors = torch.randn(2, layers, generator=generator, dtype=rates.dtype).exp()  # (2, layers)
            found.append(_minimise(pooled, factors[0] * rates, factors[1] * gammas, curvature))
        _, rates, gammas = min(found, key=lambda one: one[0])
    return rates, gammas


def _pool(eigenvalues: Tensor, bins: int = 10_000) -> tuple[Tensor, Tensor]:
    """All eigenvalues in a histogram, which tunes faster: the mean of each bin, and its share."""
    values = eigenvalues.flatten()
    place = (values / values.max() * (bins - 1)).long()
    counts, sums = torch.bincount(place), torch.bincount(place, weights=values)
    return (sums / counts)[counts > 0], counts[counts > 0] / len(values)


def _minimise(
    pooled: tuple[Tensor, Tensor], rates: Tensor, gammas: Tensor, curvature: bool
) -> tuple[float, Tensor, Tensor]:
    values, shares = pooled
    rates, gammas = rates.clone().requires_grad_(), gammas.clone().requires_grad_(curvature)
    free = [rates, gammas] if curvature else [rates]
    optimizer = torch.optim.LBFGS(free, max_iter=200, tolerance_change=1e-10, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (shares * left_over(values, rates, gammas).square()).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    loss = closure().item()
    return loss if math.isfinite(loss) else math.inf, rates.detach(), gammas.detach()


# ---------------------------------------------------------------------------------------------------------------------
# Trained layers on disk


def save_layers(layers: nn.Sequential, recipe: dict[str, float], file: Path) -> None:
    """Store trained layers with the arguments of `train` that made them, in one safetensors file."""
    write_whole(file, save(dict(layers.state_dict()), metadata={"recipe": json.dumps(recipe)}))


def load_layers(file: Path) -> tuple[nn.Sequential, dict[str, float]]:
    """Trained layers from a file of save_layers, float32, and the arguments that made them."""
    with safe_open(file, "pt") as stored:
        recipe = json.loads(stored.metadata()["recipe"])
        weights = {name: stored.get_tensor(name) for name in stored.keys()}
    layers = nn.Sequential(*[LinearSelfAttention(recipe["d"] + 1) for _ in range(recipe["K"])]).float()
    layers.load_state_dict(weights)
    return layers, recipe
