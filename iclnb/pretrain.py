"""The language-model training loop, resumable bit for bit; `python -m iclnb.pretrain` trains pocket-gpt with it.

Letters: B sequences of T tokens. Batches are a function of the step, so a run that was killed continues as if it had
never stopped.
"""

import argparse
import csv
import hashlib
import io
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from iclnb.checkpoints import save
from iclnb.corpus import CURRICULUM, Corpus, Phase, recall, repeats, size
from iclnb.evaluate import few_shot
from iclnb.files import write_whole
from iclnb.gpt import GPT, GPTConfig
from iclnb.tasks import TASKS, Task, load_task
from iclnb.vocabulary import build_tokenizer
from iclnb.world import ARBITRARY_ANSWERS

Batches = Callable[[int], tuple[Tensor, Tensor, Tensor]]  # step -> inputs, targets and loss weights, each (B, T)
CHECKPOINT_EVERY = 100  # steps
MEASURE_EVERY = 117
POCKET = {"n_layer": 4, "n_head": 4, "n_embd": 128, "n_positions": 2048, "positions": "rotary"}


class TrainingError(ValueError):
    """A training that cannot start or continue as asked."""


@dataclass(frozen=True)
class Schedule:
    """Optimisers and learning rates.

    Args:
        steps: length of the whole training.
        matrix_lr: of Muon, for the matrices inside the blocks.
        other_lr: of AdamW, for embeddings, biases and norms.
        warmup: steps of linear rise; the rate then stays, and falls linearly over the last `decay` share of the steps.
        weight_decay: of the matrices.

    Source: Jordan et al. 2024, Muon (as torch.optim.Muon); Loshchilov and Hutter 2019, AdamW.
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
    named = dict(model.named_parameters())
    inside = {name for name, p in named.items() if p.ndim == 2 and "blocks." in name}
    matrices = [p for name, p in named.items() if name in inside]
    others = [p for name, p in named.items() if name not in inside]
    return [
        torch.optim.Muon(matrices, lr=schedule.matrix_lr, weight_decay=schedule.weight_decay),
        torch.optim.AdamW(others, lr=schedule.other_lr, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def set_rates(optimizers: Sequence[torch.optim.Optimizer], schedule: Schedule, step: int) -> None:
    """Give the optimisers of make_optimizers their learning rates for a step."""
    for optimizer, lr in zip(optimizers, (schedule.matrix_lr, schedule.other_lr), strict=True):
        optimizer.param_groups[0]["lr"] = lr * schedule.factor(step)


def take_step(loss: Tensor, optimizers: Sequence[torch.optim.Optimizer]) -> None:
    """One step of all optimisers down a loss, ()."""
    loss.backward()
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def train(
    model: nn.Module,
    batches: Batches,
    schedule: Schedule,
    *,
    folder: str | Path | None = None,
    resume: bool = False,
    identity: dict | None = None,
    checkpoint_every: int = 100,
    measure: Callable[[nn.Module], dict[str, float]] | None = None,
    measure_at: Callable[[int], bool] = lambda step: False,
    progress: bool = True,
) -> list[dict[str, float]]:
    """Train a language model on deterministic batches.

    Args:
        model: anything that maps ids (B, T) to logits (B, T, V); changed in place.
        batches: step -> inputs (B, T), targets (B, T), weights (B, T) of the loss.
        schedule: number of steps, optimisers, learning rates.
        folder: where `checkpoint.pt` and `training.csv` are kept while it runs; None keeps nothing.
        resume: continue from the folder's checkpoint if there is one.
        identity: what must be equal for a checkpoint to be continued (model, data, seed), as JSON values.
        checkpoint_every: steps between checkpoints.
        measure: model -> named numbers for the record, called where `measure_at` says so and at the end.
        measure_at: number of steps done -> whether to measure.
        progress: show a progress bar.

    Returns:
        The record, one row a measurement: step, tokens, loss (weighted mean since the last row), and what `measure`
        gives.

    Raises:
        TrainingError: the checkpoint is corrupt or of another run, or the loss is no longer a number.
    """
    identity = json.loads(json.dumps({"schedule": asdict(schedule)} | (identity or {})))
    optimizers, device = make_optimizers(model, schedule), next(model.parameters()).device
    checkpoint = Path(folder) / "checkpoint.pt" if folder is not None else None
    state = {"step": 0, "tokens": 0, "loss": 0.0, "losses": 0, "record": []}
    if checkpoint is not None and resume and checkpoint.exists():
        state = restore(checkpoint, identity, model, optimizers)
    bar = tqdm(total=schedule.steps, initial=state["step"], unit="step", disable=not progress)
    started, tokens_before = time.perf_counter(), state["tokens"]
    model.train()
    while state["step"] < schedule.steps:
        step = state["step"]
        set_rates(optimizers, schedule, step)
        inputs, targets, weights = (tensor.to(device) for tensor in batches(step))  # (B, T) each
        loss = training_step(model, optimizers, inputs, targets, weights)
        if loss != loss:
            raise TrainingError(f"the loss is not a number at step {step}; lower matrix_lr {schedule.matrix_lr}")
        state["step"] += 1
        state["tokens"] += inputs.numel()
        state["loss"], state["losses"] = state["loss"] + loss, state["losses"] + 1
        bar.update()
        if step % 10 == 0:
            rate = (state["tokens"] - tokens_before) / (time.perf_counter() - started)
            bar.set_postfix_str(f"loss {loss:.3f}, {rate:,.0f} tokens/s")
        if measure_at(state["step"]) or state["step"] == schedule.steps:
            row = {"step": state["step"], "tokens": state["tokens"], "loss": state["loss"] / state["losses"]}
            state["record"].append(row | (measure(model) if measure else {}))
            state["loss"], state["losses"] = 0.0, 0
            model.train()
            if folder is not None:
                write_record(state["record"], Path(folder) / "training.csv")
        if checkpoint is not None and (state["step"] % checkpoint_every == 0 or state["step"] == schedule.steps):
            keep(checkpoint, state, identity, model, optimizers)
    bar.close()
    model.eval()
    return state["record"]


def training_step(
    model: nn.Module, optimizers: Sequence[torch.optim.Optimizer], inputs: Tensor, targets: Tensor, weights: Tensor
) -> float:
    """One step of all optimisers down the weighted mean of the tokens' losses, which it returns; arguments (B, T)."""
    with torch.autocast(inputs.device.type, torch.bfloat16, enabled=has_bf16(inputs.device)):
        logits = model(inputs)  # (B, T, V)
    losses = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="none")  # (B * T,)
    loss = (losses * weights.flatten()).sum() / weights.sum()
    take_step(loss, optimizers)
    return loss.item()


def has_bf16(device: torch.device) -> bool:
    """Whether matrix products in bfloat16 are fast on this device, so that autocast pays."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported()


# -------------------------------------------------------------------------------------------------------- checkpoints


def keep(file: Path, state: dict, identity: dict, model: nn.Module, optimizers: Sequence) -> None:
    """Write a checkpoint beside its place and then move it there, so that a failure leaves the earlier one whole.

    The file is a SHA-256 digest (32 bytes), then what torch.save writes.

    Raises:
        TrainingError: it cannot be written (a full disk, for example).
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
    for name in sorted(identity.keys() | kept["identity"].keys()):
        ours, theirs = identity.get(name), kept["identity"].get(name)
        if ours != theirs:
            raise TrainingError(f"{file} is of another run: its {name} is {theirs}, asked for is {ours}")
    model.load_state_dict(kept["model"])
    for optimizer, moments in zip(optimizers, kept["optimizers"], strict=True):
        optimizer.load_state_dict(moments)
    return kept["state"]


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
        TrainingError: it cannot be written; the earlier file is untouched.
    """
    try:
        write_whole(file, content)
    except OSError as error:
        raise TrainingError(f"{file} could not be written ({error}); what was there before is untouched") from error


# --------------------------------------------------------------------------------------------------------- pocket-gpt


class Measurement:
    """What the record says about pocket-gpt: copying, recall, and few-shot accuracy of the six miniature tasks.

    The tasks are measured with arbitrary answers, so that only the demonstrations can tell what an answer means.
    """

    def __init__(self, tokenizer: Any, queries: int = 100, k: int = 16):
        self.tokenizer, self.queries, self.k = tokenizer, queries, k
        self.tasks = [with_arbitrary_answers(load_task(name, "sample")) for name in TASKS]
        self.probes = {kind: Probe(tokenizer, kind) for kind in (repeats, recall)}

    def __call__(self, model: GPT) -> dict[str, float]:
        """Accuracies in [0, 1]."""
        model.eval()
        found = {"copying": self.probes[repeats].accuracy(model), "recall": self.probes[recall].accuracy(model)}
        for task in self.tasks:
            found[task.name] = few_shot(model, self.tokenizer, task, self.k, limit=self.queries).accuracy
        return found


def with_arbitrary_answers(task: Task) -> Task:
    """The task with label words that mean nothing."""
    return replace(task, spec=replace(task.spec, answers=ARBITRARY_ANSWERS[: len(task.spec.answers)]))


class Probe:
    """One batch of one kind of document that training never shows, and where in it the context tells the next token."""

    def __init__(self, tokenizer: Any, kind: Callable):
        corpus, phase = Corpus(tokenizer, steps=1, seed=-1), Phase(1, 30, 128, {kind: 1.0})
        rows = corpus.rows(step=0, phase=phase)
        self.inputs, self.targets, weights = rows  # (B, T) each
        told = torch.arange(phase.length) >= phase.length // 2 if kind is repeats else weights > 1
        self.told = told.expand_as(weights)  # (B, T) bool

    @torch.no_grad()
    def accuracy(self, model: GPT) -> float:
        """Share of such tokens that the model puts first."""
        right = model(self.inputs.to(model.embed_tokens.weight.device)).argmax(-1).cpu() == self.targets  # (B, T)
        return right[self.told].double().mean().item()


def pretrain(
    out: str | Path,
    tokens: int | None = None,
    seed: int = 0,
    resume: bool = False,
    progress: bool = True,
    curriculum: Sequence[Phase] = CURRICULUM,
    **shape: Any,
) -> list[dict[str, float]]:
    """Train pocket-gpt and write it to a folder.

    Args:
        out: folder of the finished model; the checkpoint of the running training lies beside it, in `<out>.training`.
        tokens: how many to train on, to which the curriculum shrinks or grows; None is its own length.
        seed: of weights and documents.
        resume: continue where an earlier call with the same arguments was stopped.
        progress: show a progress bar.
        curriculum: the phases.
        shape: entries of GPTConfig that differ from POCKET.

    Returns:
        The record of the training, which is also written to `<out>/training.csv`.

    Raises:
        TrainingError: as `train` does, or there is an unfinished training that is not to be resumed.
    """
    out = Path(out)
    folder = out.with_name(out.name + ".training")
    if (folder / "checkpoint.pt").exists() and not resume:
        raise TrainingError(f"{folder} holds an unfinished training; continue it with --resume, or delete the folder")
    tokenizer = build_tokenizer()
    config = pocket_config(tokenizer, **shape)
    steps, whole = size(curriculum)
    steps = steps if tokens is None else max(1, round(tokens * steps / whole))
    phases = [
        [p.steps, p.sequences, p.length, {kind.__name__: share for kind, share in p.mixture.items()}]
        for p in curriculum
    ]
    model = GPT(config).initialise(seed)
    record = train(
        model,
        Corpus(tokenizer, steps, seed, curriculum),
        Schedule(steps),
        folder=folder,
        resume=resume,
        identity={"model": asdict(config), "seed": seed, "curriculum": phases},
        checkpoint_every=CHECKPOINT_EVERY,
        measure=Measurement(tokenizer),
        measure_at=lambda step: step % MEASURE_EVERY == 0,
        progress=progress,
    )
    save(model, tokenizer, out)
    write_record(record, out / "training.csv")
    for file in (folder / "checkpoint.pt", folder / "training.csv", *folder.glob("*.part")):  # a kill may leave a part
        file.unlink(missing_ok=True)
    folder.rmdir()
    return record


def pocket_config(tokenizer: Any, **shape: Any) -> GPTConfig:
    """The configuration of pocket-gpt, with the entries in `shape` changed."""
    special = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    return GPTConfig(**{"vocab_size": len(tokenizer)} | POCKET | special | shape)


def tokens_in(minutes: float, seed: int = 0) -> int:
    """How many tokens this machine trains on in so many minutes, from a few steps of each phase on a spare model."""
    tokenizer = build_tokenizer()
    model = GPT(pocket_config(tokenizer)).initialise(seed)
    optimizers, seconds, corpus = make_optimizers(model, Schedule(1)), 0.0, Corpus(tokenizer, 1, seed)
    for i, phase in enumerate(CURRICULUM):
        batch = corpus.rows(i, phase)
        training_step(model, optimizers, *batch)
        started = time.perf_counter()
        for _ in range(4):
            training_step(model, optimizers, *batch)
        seconds += phase.steps * (time.perf_counter() - started) / 4  # of the whole training
    return int(0.9 * 60 * minutes / seconds * size()[1])  # a tenth is left for measurements


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m iclnb.pretrain", description="Train pocket-gpt from scratch.")
    parser.add_argument("--out", required=True, type=Path, help="folder of the finished model")
    bound = parser.add_mutually_exclusive_group(required=True)
    bound.add_argument("--tokens", type=int, help="how many tokens to train on; the same number, the same weights")
    bound.add_argument("--minutes", type=float, help="about how long to train; becomes a number of tokens")
    parser.add_argument("--seed", type=int, default=0, help="of weights and documents (default 0)")
    parser.add_argument("--resume", action="store_true", help="continue a training that was stopped")
    parser.add_argument(
        "--threads", type=int, default=1, help="of the CPU; another number rounds otherwise (default 1)"
    )
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    tokens = options.tokens if options.tokens is not None else tokens_in(options.minutes, options.seed)
    if tokens < 1:
        parser.error(f"argument {'--tokens' if options.tokens is not None else '--minutes'}: must be above 0")
    try:
        pretrain(options.out, tokens, options.seed, options.resume)
    except (TrainingError, KeyboardInterrupt) as error:
        parser.exit(1, f"{str(error) or 'Stopped; --resume continues from the last checkpoint.'}\n")


if __name__ == "__main__":
    main()
