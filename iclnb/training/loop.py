"""The one training loop: resumable bit for bit, on one process or several.

Letters: B sequences of T tokens. Batches are a function of the step, so a run that was killed continues as if it had
never stopped.
"""

import csv
import hashlib
import io
import json
import math
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as recomputed
from tqdm.auto import tqdm

from iclnb.attention.precision import has_bf16, widen
from iclnb.interrupts import Stopped
from iclnb.model.gpt import GPT
from iclnb.paths import write_whole
from iclnb.training.muon import Muon
from iclnb.training.processes import gather, place, total

if TYPE_CHECKING:
    from accelerate import Accelerator

Batch = tuple[Tensor, ...]  # of a language model: inputs, targets and loss weights, each (B, T)
Loss = Callable[[nn.Module, Batch], tuple[Tensor, Tensor]]  # the sum of a batch's losses, and of their weights, () each
LOGITS = 2**27  # numbers in one piece of logits, 512 MiB in float32; pocket-gpt's whole batches have fewer


class TrainingError(ValueError):
    """A training that cannot start or continue as asked."""


class Data(Protocol):
    """What a GPT is pretrained on, whether drawn, read from a file or streamed.

    Attributes:
        tokenizer: what made the ids; saved with the model.
        identity: what the batches depend on, as JSON values.
        steps: how long the training is; it may be set before it begins.
        sizes: the sizes that batches come in, as (share of the steps, B, T); shares need not sum to 1.
        every: steps between two measurements.
    """

    tokenizer: Any
    identity: dict[str, Any]
    steps: int
    sizes: list[tuple[int, int, int]]
    every: int

    def __call__(self, step: int) -> Batch:
        """Batch `step`: inputs, targets and loss weights, (B, T) each."""

    def measure(self, model: nn.Module) -> dict[str, float]:
        """What the record says of a model on the way, by what no batch holds."""

    def report(self, model: nn.Module) -> list[Any]:
        """Perplexities of the finished model on the held-out part, where there is one."""


@dataclass(frozen=True)
class Schedule:
    """Optimisers and learning rates.

    Args:
        steps: length of the whole training.
        matrix_lr: of Muon, for the matrices inside the blocks.
        other_lr: of AdamW, for embeddings, biases and norms.
        warmup: steps of linear rise; the rate then stays, and falls linearly over the last `decay` share of the steps.
        weight_decay: of the matrices.

    Source: Jordan et al. 2024, Muon; Loshchilov and Hutter 2019, AdamW.
    """

    steps: int
    matrix_lr: float = 0.003
    other_lr: float = 0.0015
    warmup: int = 50
    decay: float = 0.2
    weight_decay: float = 0.01

    def factor(self, step: int) -> float:
        """What the learning rates are multiplied by at a step."""
        left = (self.steps - step) / max(1.0, self.decay * self.steps)
        return min(1.0, (step + 1) / self.warmup, left)


def make_optimizers(model: nn.Module, schedule: Schedule) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the blocks, AdamW for everything else."""
    device = next(model.parameters()).device
    precision, fused = training_precision(device), device.type == "cuda" or None  # one launch, where launches cost most
    named = dict(model.named_parameters())
    inside = {name for name, p in named.items() if p.ndim == 2 and "blocks." in name and ".momentum." not in name}
    matrices = [p for name, p in named.items() if name in inside]
    others = [p for name, p in named.items() if name not in inside]
    return [
        Muon(matrices, lr=schedule.matrix_lr, weight_decay=schedule.weight_decay, precision=precision),
        torch.optim.AdamW(others, lr=schedule.other_lr, betas=(0.9, 0.95), weight_decay=0.0, fused=fused),
    ]


def set_rates(optimizers: Sequence[torch.optim.Optimizer], schedule: Schedule, step: int) -> None:
    """Give the optimisers of make_optimizers their learning rates for a step."""
    for optimizer, lr in zip(optimizers, (schedule.matrix_lr, schedule.other_lr), strict=True):
        optimizer.param_groups[0]["lr"] = lr * schedule.factor(step)


def token_loss(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """The weighted sum of the tokens' losses, and of the weights, () each, of a model from ids to logits (B, T, V).

    Where a GPT has more than LOGITS of them, they are made some tokens at a time, and again on the way back.
    """
    inputs, targets, weights = batch  # (B, T) each
    most = max(1, LOGITS // model.config.vocab_size) if isinstance(model, GPT) else inputs.numel()  # tokens of a piece
    narrow = training_precision(inputs.device) == torch.bfloat16
    # Without its cache each piece casts the weights by itself, so that their gradients are summed in float32.
    with torch.autocast(inputs.device.type, torch.bfloat16, enabled=narrow, cache_enabled=False):
        if inputs.numel() > most:
            return loss_in_pieces(model, batch, most), weights.sum()
        logits = model(inputs)  # (B, T, V)
    return loss_of(logits.flatten(0, 1), targets.flatten(), weights.flatten()), weights.sum()


def loss_in_pieces(model: GPT, batch: Batch, most: int) -> Tensor:
    """The first result of token_loss, with logits of at most so many tokens at a time."""
    inputs, targets, weights = batch  # (B, T) each
    rows = (model.hidden(inputs).flatten(0, 1), targets.flatten(), weights.flatten())  # (B * T, C), (B * T,), (B * T,)

    def piece(hidden: Tensor, *others: Tensor) -> Tensor:
        return loss_of(model.logits(hidden), *others)  # ()

    how = {"use_reentrant": False, "preserve_rng_state": False}
    return sum(recomputed(piece, *part, **how) for part in zip(*(x.split(most) for x in rows), strict=True))  # ()


def loss_of(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """The weighted sum, (), of the losses of n tokens, from (n, V), (n,) and (n,)."""
    return (F.cross_entropy(widen(logits), targets, reduction="none") * weights).sum()


class Objective(nn.Module):
    """The loss of a model as a module: the whole that is compiled, and that processes share."""

    def __init__(self, model: nn.Module, loss: Loss):
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """What the loss gives."""
        return self.loss(self.model, batch)


def train(
    model: nn.Module,
    batches: Callable[[int], Batch],
    schedule: Schedule,
    *,
    loss: Loss = token_loss,
    folder: str | Path | None = None,
    resume: bool = False,
    identity: dict | None = None,
    checkpoint_every: int = 100,
    measure: Callable[[nn.Module], dict[str, float]] | None = None,
    measure_every: int | None = None,
    progress: bool = True,
    compile: bool = False,
    accelerator: "Accelerator | None" = None,
    stop: Callable[[], int] = lambda: 0,
) -> list[dict[str, float]]:
    """Train a model on deterministic batches.

    Args:
        model: changed in place.
        batches: step -> tensors; for the usual loss inputs (B, T), targets (B, T) and weights (B, T). Where steps have
            to be read one after the other, `batches.state_dict()` and `batches.load_state_dict()` keep and restore the
            place.
        schedule: number of steps, optimisers, learning rates.
        loss: what is brought down, its sum over the batch over the sum of weights; the usual one is a language model's.
        folder: where `checkpoint.pt` and `training.csv` are kept while it runs; None keeps nothing.
        resume: continue from the folder's checkpoint if there is one.
        identity: what must be equal for a checkpoint to be continued (model, data, seed), as JSON values.
        checkpoint_every: steps between checkpoints.
        measure: model -> named numbers for the record.
        measure_every: steps between two rows of the record, besides the one at the end; None has that one alone.
        progress: show a progress bar.
        compile: run the loss and its gradient through torch.compile; this rounds otherwise.
        accelerator: shares the work among processes: `batches` gives each its part of the global batch, and all take
            the step that one process would take on the whole. The first one alone measures, writes and shows progress;
            all read the same folder. None is one process.
        stop: asked after each step; the number of a signal ends the training there, with a checkpoint; 0 does not.

    Returns:
        The record, one row a measurement: step, tokens (targets, if they are something else), loss (weighted mean since
        the last row), and what `measure` gives.

    Raises:
        TrainingError: the checkpoint is corrupt or of another run.
        FloatingPointError: the loss is no longer a finite number.
        Stopped: `stop` asked for it.
        OSError: a checkpoint or the record cannot be written; the earlier one is untouched.
    """
    optimizers, device = make_optimizers(model, schedule), next(model.parameters()).device
    rules = {"schedule": asdict(schedule), "precision": str(training_precision(device)).removeprefix("torch.")}
    rules |= {"compile": True} if compile else {}
    identity = json.loads(json.dumps(rules | (identity or {})))
    rank, _ = place(accelerator)
    checkpoint = Path(folder) / "checkpoint.pt" if folder is not None else None
    state = {"step": 0, "tokens": 0, "loss": 0.0, "losses": 0, "record": []}
    if checkpoint is not None and resume and checkpoint.exists():
        state = restore(checkpoint, identity, model, optimizers)
        if "places" in state:
            batches.load_state_dict(state["places"][rank])
    network = Objective(model, loss)
    if compile:
        network.compile(fullgraph=True)
    network = network if accelerator is None else accelerator.prepare_model(network)
    bar = tqdm(total=schedule.steps, initial=state["step"], unit="step", disable=not progress or rank > 0)
    started, tokens_before = time.perf_counter(), state["tokens"]
    model.train()
    while state["step"] < schedule.steps:
        step = state["step"]
        set_rates(optimizers, schedule, step)
        batch = tuple(tensor.to(device) for tensor in batches(step))
        value = training_step(network, optimizers, batch, accelerator)
        if not math.isfinite(value):
            raise FloatingPointError(f"the loss is {value} at step {step}; lower matrix_lr {schedule.matrix_lr}")
        state["step"] += 1
        state["tokens"] += int(total(torch.tensor(batch[1].numel(), device=device), accelerator))
        state["loss"], state["losses"] = state["loss"] + value, state["losses"] + 1
        bar.update()
        if step % 10 == 0:
            rate = (state["tokens"] - tokens_before) / (time.perf_counter() - started)
            bar.set_postfix_str(f"loss {value:.3f}, {rate:,.0f} tokens/s")
        last = state["step"] == schedule.steps
        if last or (measure_every and state["step"] % measure_every == 0):
            row = {"step": state["step"], "tokens": state["tokens"], "loss": state["loss"] / state["losses"]}
            state["record"].append(row | (measure(model) if measure and rank == 0 else {}))
            state["loss"], state["losses"] = 0.0, 0
            model.train()
            if folder is not None and rank == 0:
                write_record(state["record"], Path(folder) / "training.csv")
        asked = stop()
        if accelerator is not None:  # all processes stop at the same step
            asked = int(total(torch.tensor(asked, device=device), accelerator)) and (asked or signal.SIGTERM)
        if checkpoint is not None and (last or asked or state["step"] % checkpoint_every == 0):
            if hasattr(batches, "state_dict"):
                state["places"] = gather(batches.state_dict(), accelerator)
            if rank == 0:
                keep(checkpoint, state, identity, model, optimizers)
        if asked:
            bar.close()
            kept = f"step {state['step']} of {schedule.steps} is kept; --resume continues there"
            raise Stopped(asked, kept if checkpoint is not None else "nothing of the training is kept")
    bar.close()
    model.eval()
    return state["record"]


def training_step(
    objective: Callable[[Batch], tuple[Tensor, Tensor]],
    optimizers: Sequence[torch.optim.Optimizer],
    batch: Batch,
    accelerator: "Accelerator | None" = None,
) -> float:
    """One step of all optimisers down the mean loss of a batch, which it returns; `objective` is an Objective.

    With several processes the mean is over the batches of all, and so is the gradient.
    """
    summed, weight = objective(batch)  # (), ()
    mean = summed / total(weight, accelerator)  # (), this process's part of it
    (mean * place(accelerator)[1]).backward()  # the gradients are averaged over processes, not summed
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return total(mean.detach(), accelerator).item()


def training_precision(device: torch.device) -> torch.dtype:
    """What a training multiplies matrices in, part of its identity: bfloat16 where that is fast, else float32."""
    return torch.bfloat16 if has_bf16(device) else torch.float32


def find_accelerator(device: str) -> "Accelerator | None":
    """The accelerator of a process that `accelerate launch` or torchrun started beside others; None for one alone.

    Args:
        device: "cpu" keeps off the GPUs.

    Raises:
        TrainingError: there are several processes, but the package accelerate is missing.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return None
    try:
        from accelerate import Accelerator
    except ImportError as error:
        raise TrainingError(
            "several processes need the package accelerate; pip install 'iclnb[train]' has it"
        ) from error
    # Without a GPU it has to be told so, or each process would train alone. The precision is training_step's choice.
    return Accelerator(cpu=device == "cpu" or not torch.cuda.is_available(), mixed_precision="no")


# -------------------------------------------------------------------------------------------------------- checkpoints


def keep(file: Path, state: dict, identity: dict, model: nn.Module, optimizers: Sequence) -> None:
    """Write a checkpoint beside its place and then move it there, so that a failure leaves the earlier one whole.

    The file is a SHA-256 digest (32 bytes), then what torch.save writes.

    Raises:
        OSError: it cannot be written (a full disk, for example).
    """
    buffer = io.BytesIO()
    weights, moments = model.state_dict(), [optimizer.state_dict() for optimizer in optimizers]
    torch.save({"identity": identity, "state": state, "model": weights, "optimizers": moments}, buffer)
    payload = buffer.getvalue()
    write(file, hashlib.sha256(payload).digest() + payload)


def restore(file: Path, identity: dict, model: nn.Module, optimizers: Sequence) -> dict:
    """Put a checkpoint back into model and optimisers.

    Returns:
        The state that `train` goes on with.

    Raises:
        TrainingError: the file is corrupt, or another run's.
    """
    content = file.read_bytes()
    if hashlib.sha256(content[32:]).digest() != content[:32]:
        raise TrainingError(f"{file} is corrupt (its checksum does not match); delete it to start anew")
    kept = torch.load(io.BytesIO(content[32:]), map_location="cpu", weights_only=True)
    check_identity(file, kept["identity"], identity)
    model.load_state_dict(kept["model"])
    for optimizer, moments in zip(optimizers, kept["optimizers"], strict=True):
        optimizer.load_state_dict(moments)
    return kept["state"]


def check_identity(what: Path, kept: dict, asked: dict) -> None:
    """Raises TrainingError where two trainings, one of them kept in a file or folder, are not the same."""
    for name in sorted(asked.keys() | kept.keys()):
        ours, theirs = asked.get(name), kept.get(name)
        if ours != theirs:
            raise TrainingError(f"{what} is of another run: its {name} is {theirs}, asked for is {ours}")


def write_record(record: Sequence[dict[str, float]], file: Path) -> None:
    """Write the record as CSV, four decimals, whole or not at all."""
    text = io.StringIO()
    writer = csv.DictWriter(text, record[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()} for row in record)
    write(file, text.getvalue().encode())


def write(file: Path, content: bytes) -> None:
    """Replace a file's content in one move.

    Raises:
        OSError: it cannot be written; the earlier file is untouched.
    """
    try:
        write_whole(file, content)
    except OSError as error:
        raise OSError(f"{file} could not be written ({error}); what was there before is untouched") from error
