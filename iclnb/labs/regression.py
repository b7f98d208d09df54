"""Regression in context: prompts of (x, f(x)) pairs, a GPT that reads them, and its training.

Letters: B prompts of N points in d dimensions, as T = 2 N tokens x_1, y_1, ..., x_N, y_N; C width.
Prediction n is for x_n, after n pairs (n counts from 0), as in Garg et al. 2022, section 2.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save as serialise
from torch import Tensor, nn

from iclnb.labs import at_least
from iclnb.model.gpt import Block, GPTConfig
from iclnb.model.positions import rotary_angles
from iclnb.paths import write_whole
from iclnb.training import loop


@dataclass
class Prompts:
    """A batch of prompts.

    Args:
        x: (B, N, d) inputs.
        y: (B, N) labels, f(x) plus noise.
        f: (B, N) the function's values w . x, without noise.
        w: (B, d) weights of the functions.
    """

    x: Tensor
    y: Tensor
    f: Tensor
    w: Tensor


def sample(
    B: int,
    N: int,
    d: int,
    generator: torch.Generator,
    *,
    noise: float = 0.0,
    scale: float = 1.0,
    subspace: int | None = None,
    active: int | None = None,
) -> Prompts:
    """Draws linear functions w ~ N(0, I) and inputs x ~ N(0, I), with y = w . x.

    Args:
        B, N, d: prompts, points in each, dimensions.
        generator: source of randomness.
        noise: standard deviation of what is added to each label.
        scale: what the inputs are multiplied by.
        subspace: draw each prompt's inputs from a random subspace of so many dimensions.
        active: only the first so many coordinates of x are not zero (the curriculum's small beginning).

    Returns:
        The prompts, in torch's default dtype.

    Raises:
        ValueError: B, N, d, subspace or active out of range, or a negative noise.
    """
    at_least(1, B=B, N=N, d=d)
    for name, value in {"subspace": subspace, "active": active}.items():
        if value is not None and not 1 <= value <= d:
            raise ValueError(f"{name} is {value}; it counts dimensions, from 1 to d = {d}")
    if noise < 0:
        raise ValueError(f"noise is {noise}; it is a standard deviation, 0 or more")
    x = scale * torch.randn(B, N, d, generator=generator)  # (B, N, d)
    w = torch.randn(B, d, generator=generator)  # (B, d)
    if subspace is not None:
        basis = torch.linalg.qr(torch.randn(B, d, subspace, generator=generator)).Q  # (B, d, subspace), orthonormal
        x = x @ basis @ basis.mT  # (B, N, d)
    if active is not None:
        x[..., active:] = 0
    f = torch.einsum("bnd,bd->bn", x, w)  # (B, N)
    return Prompts(x, f + noise * torch.randn(B, N, generator=generator), f, w)


class InContextRegressor(nn.Module):
    """GPT's blocks between two linear maps: one that reads numbers in, one that reads a number out.

    Args:
        config: shape of the blocks; positions are rotary, the vocabulary is not used.
        d: dimensions of x.
    """

    def __init__(self, config: GPTConfig, d: int):
        super().__init__()
        self.config, self.d = config, d
        self.read_x = nn.Linear(d, config.n_embd)
        self.read_y = nn.Linear(1, config.n_embd)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.final_norm = nn.LayerNorm(config.n_embd)
        self.read_out = nn.Linear(config.n_embd, 1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Predictions (B, N) for x (B, N, d), number n after the pairs before it; the last of y (B, N) is not used."""
        return self.predict(self.hidden(x, y)[-1])  # (B, N)

    def hidden(self, x: Tensor, y: Tensor) -> list[Tensor]:
        """The residual stream (B, T, C) before the first block and after each."""
        tokens = torch.stack([self.read_x(x), self.read_y(y[..., None])], dim=2)  # (B, N, 2, C)
        states = [tokens.flatten(1, 2)]  # (B, T, C)
        positions = torch.arange(states[0].shape[1], device=x.device)  # (T,)
        rotary = rotary_angles(positions, self.config.head_dim, self.config.rotary_base)  # (T, D) each
        for block in self.blocks:
            states.append(block(states[-1], rotary))  # (B, T, C)
        return states

    def predict(self, state: Tensor) -> Tensor:
        """Predictions (B, N), read out of a residual stream (B, T, C) at the tokens of x."""
        return self.read_out(self.final_norm(state[:, ::2])).squeeze(-1)  # (B, N)


# ----------------------------------------------------------------------------------------------------------- training


@dataclass(frozen=True)
class Recipe:
    """What a regressor is made of and trained on.

    Args:
        d, N: dimensions, and points in a prompt.
        noise: standard deviation of the labels' noise.
        n_layer, n_head, n_embd: shape of the blocks.
        steps, B: length of the training, and prompts in a batch.
        grow: share of the steps over which dimensions and points grow to d and N; 0 has no curriculum.
        matrix_lr, other_lr: learning rates of Muon and of AdamW.
        decay: share of the steps, at the end, over which both fall linearly to 0.
    """

    d: int
    N: int
    noise: float = 0.0
    n_layer: int = 4
    n_head: int = 2
    n_embd: int = 64
    steps: int = 2000
    B: int = 64
    grow: float = 0.1
    matrix_lr: float = 0.01
    other_lr: float = 0.003
    decay: float = 0.4

    def build(self, seed: int) -> InContextRegressor:
        """An untrained regressor; its weights are drawn from the seed alone."""
        config = GPTConfig(1, self.n_layer, self.n_head, self.n_embd, positions="rotary")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return InContextRegressor(config, self.d)

    def size(self, step: int) -> tuple[int, int]:
        """Active dimensions and points of the prompts at a step; both grow together (Garg et al., appendix A)."""
        grown = step / (self.grow * self.steps) if self.grow else 1.0
        active = min(self.d, 1 + int(grown * self.d))
        return active, min(self.N, max(2, round(self.N * active / self.d)))

    def prompts(self, step: int, seed: int) -> Prompts:
        """The batch of a step, a function of step and seed, so that a killed training continues bit for bit."""
        active, N = self.size(step)
        generator = torch.Generator().manual_seed(1_000_003 * (seed + 1) + step)
        return sample(self.B, N, self.d, generator, noise=self.noise, active=active)


RECIPES = {
    "a": {"d5": Recipe(d=5, N=16, steps=2000, grow=0.2, decay=0.25), "d2": Recipe(d=2, N=8, steps=500)},
    "c": {
        "depth1": Recipe(d=3, N=9, n_layer=1, n_embd=48, steps=2000),
        "depth2": Recipe(d=3, N=9, n_layer=2, n_embd=48, steps=2000),
        "depth4_short": Recipe(d=3, N=9, n_layer=4, n_embd=48, steps=400),
        "depth4": Recipe(d=3, N=9, n_layer=4, n_embd=48, steps=2000),
        "depth4_noise0.5": Recipe(d=3, N=9, noise=0.5, n_layer=4, n_embd=48, steps=800),
        "depth4_noise1": Recipe(d=3, N=9, noise=1.0, n_layer=4, n_embd=48, steps=800),
    },
}
SEEDS = {"a": 1, "c": 3}  # trainings of each recipe


def train(
    recipe: Recipe, seed: int, folder: Path | None = None, progress: bool = True
) -> tuple[InContextRegressor, list[dict[str, float]]]:
    """Trains a regressor on the squared error of all its predictions, averaged.

    Args:
        recipe: shape, prompts and length.
        seed: of weights and prompts.
        folder: of the checkpoint from which a stopped training goes on; None keeps none.
        progress: show a progress bar.

    Returns:
        The model, and its record: one row every 50 steps with step, active dimensions, points, and loss / d since the
        last row.

    Raises:
        TrainingError: the checkpoint is corrupt or another recipe's.
        FloatingPointError: the loss is no longer a number.
    """
    model = recipe.build(seed)

    def batches(step: int) -> loop.Batch:
        prompts = recipe.prompts(step, seed)
        return prompts.x, prompts.y  # (B, N, d), (B, N)

    rows = loop.train(
        model,
        batches,
        loop.Schedule(recipe.steps, recipe.matrix_lr, recipe.other_lr, decay=recipe.decay),
        loss=squared_error,
        folder=folder,
        resume=folder is not None,
        identity={"recipe": asdict(recipe), "seed": seed},
        checkpoint_every=50,
        measure_every=50,
        progress=progress,
    )
    record = []
    for row in rows:
        active, N = recipe.size(row["step"] - 1)
        record.append({"step": row["step"], "active": active, "points": N, "loss": row["loss"] / recipe.d})
    return model, record


def squared_error(model: nn.Module, batch: loop.Batch) -> tuple[Tensor, Tensor]:
    """The sum of the squared errors of all predictions, and their number, () each."""
    x, y = batch  # (B, N, d), (B, N)
    return (model(x, y) - y).square().sum(), torch.tensor(y.numel(), device=y.device)


def save(model: InContextRegressor, recipe: Recipe, file: Path) -> None:
    """Writes the weights, rounded to float16, with the recipe beside them in the file's metadata."""
    weights = {name: tensor.half().contiguous() for name, tensor in model.state_dict().items()}
    write_whole(file, serialise(weights, {"recipe": json.dumps(asdict(recipe))}))


def load(file: Path) -> tuple[InContextRegressor, Recipe]:
    """The regressor of a file that `save` wrote, and its recipe."""
    with safe_open(file, "pt") as stored:
        recipe = Recipe(**json.loads(stored.metadata()["recipe"]))
        weights = {name: stored.get_tensor(name).float() for name in stored.keys()}
    model = recipe.build(seed=0)
    model.load_state_dict(weights)
    return model.eval(), recipe


@torch.no_grad()
def answer(models: Sequence[InContextRegressor], p: Prompts) -> Tensor:
    """Predictions (S, B, N) of S models for the same prompts."""
    return torch.stack([model(p.x, p.y) for model in models])


def load_trainings(folder: Path, name: str) -> list[InContextRegressor]:
    """The regressors of one recipe that lie in a folder, one for each seed."""
    return [load(file)[0] for file in sorted(folder.glob(f"{name}_seed*.safetensors"))]
