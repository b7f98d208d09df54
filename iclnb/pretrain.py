"""Pretraining: pocket-gpt on its synthetic language, and a GPT of any shape on a text.

`python -m iclnb pretrain` is the command.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from iclnb.checkpoints import save
from iclnb.corpus import CURRICULUM, Corpus, Phase, recall, repeats, size
from iclnb.evaluate import few_shot
from iclnb.gpt import GPT, GPTConfig
from iclnb.perplexity import Perplexity, cut, perplexity, token_losses
from iclnb.stream import TextStream
from iclnb.tasks import TASKS, Task, load_task
from iclnb.text import TextFile
from iclnb.training import Schedule, TrainingError, make_optimizers, place, share, train, training_step, write_record
from iclnb.vocabulary import build_tokenizer
from iclnb.world import ARBITRARY_ANSWERS

if TYPE_CHECKING:
    from accelerate import Accelerator

CHECKPOINT_EVERY = 100  # steps; on a text also between measurements
MEASURE_EVERY = 117
POCKET = {"n_layer": 4, "n_head": 4, "n_embd": 128, "n_positions": 2048, "positions": "rotary"}
SHAPES = {
    "pocket": POCKET,
    "350M": {"n_layer": 24, "n_head": 16, "n_embd": 1024, "n_positions": 2048, "positions": "rotary"},
}
ROWS = {"pocket": (8, 256), "350M": (16, 2048)}  # B and T of a step on a text, where nothing else is asked for
MEASURED = 64  # held-out windows that the record of a training on text is measured on


def begin(out: Path, resume: bool) -> Path:
    """The folder beside `out` that holds the checkpoint while a training runs, made if missing.

    Raises:
        TrainingError: it holds an unfinished training that is not to be resumed.
        OSError: it cannot be made.
    """
    folder = out.with_name(out.name + ".training")
    if (folder / "checkpoint.pt").exists() and not resume:
        raise TrainingError(f"{folder} holds an unfinished training; continue it with --resume, or delete the folder")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def finish(out: Path, folder: Path, model: GPT, tokenizer: Any, record: Sequence[dict[str, float]]) -> None:
    """Write the finished model with its tokenizer and record, and remove what only a running training needs."""
    save(model, tokenizer, out)
    write_record(record, out / "training.csv")
    for file in (folder / "checkpoint.pt", folder / "training.csv", *folder.glob("*.part")):  # a kill may leave a part
        file.unlink(missing_ok=True)
    folder.rmdir()


def make_config(tokenizer: Any, **shape: Any) -> GPTConfig:
    """The configuration of pocket-gpt for a tokenizer, with the entries in `shape` changed."""
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    special = {"bos_token_id": eos if bos is None else bos, "eos_token_id": eos}
    return GPTConfig(**{"vocab_size": len(tokenizer)} | POCKET | special | shape)


def seconds_a_step(config: GPTConfig, batch: tuple[Tensor, Tensor, Tensor], device: str | torch.device) -> float:
    """Seconds a training step takes on this machine: the mean of four, after one that warms up, on a spare model."""
    model, batch = GPT(config).initialise(0).to(device), [tensor.to(device) for tensor in batch]
    optimizers = make_optimizers(model, Schedule(1))
    training_step(model, optimizers, *batch)
    started = time.perf_counter()
    for _ in range(4):
        training_step(model, optimizers, *batch)
    return (time.perf_counter() - started) / 4


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
    device: str | torch.device = "cpu",
    accelerator: "Accelerator | None" = None,
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
        device: where to train.
        accelerator: shares the work among processes, as in `train`.
        shape: entries of GPTConfig that differ from POCKET.

    Returns:
        The record of the training, which is also written to `<out>/training.csv`.

    Raises:
        TrainingError: as `train` does, or there is an unfinished training that is not to be resumed.
    """
    tokenizer = build_tokenizer()
    config = make_config(tokenizer, **shape)
    rank, processes = place(accelerator)
    if processes > (smallest := min(phase.sequences for phase in curriculum)):
        raise TrainingError(
            f"{processes} processes cannot share the curriculum's smallest batch of {smallest} sequences"
        )
    out, folder = Path(out), begin(Path(out), resume)
    steps, whole = size(curriculum)
    steps = steps if tokens is None else max(1, round(tokens * steps / whole))
    phases = [
        [p.steps, p.sequences, p.length, {kind.__name__: part for kind, part in p.mixture.items()}] for p in curriculum
    ]
    model = GPT(config).initialise(seed).to(device)
    record = train(
        model,
        share(Corpus(tokenizer, steps, seed, curriculum), accelerator),
        Schedule(steps),
        folder=folder,
        resume=resume,
        identity={"model": asdict(config), "seed": seed, "curriculum": phases},
        checkpoint_every=CHECKPOINT_EVERY,
        measure=Measurement(tokenizer),
        measure_at=lambda step: step % MEASURE_EVERY == 0,
        progress=progress,
        accelerator=accelerator,
    )
    if rank == 0:
        finish(out, folder, model, tokenizer, record)
    return record


def tokens_in(minutes: float, device: str | torch.device = "cpu", **shape: Any) -> int:
    """How many tokens of the curriculum this machine trains on in so many minutes, from a few steps of each phase."""
    tokenizer = build_tokenizer()
    config, corpus = make_config(tokenizer, **shape), Corpus(tokenizer, steps=1, seed=0)
    batches = [corpus.rows(i, phase) for i, phase in enumerate(CURRICULUM)]
    whole = sum(p.steps * seconds_a_step(config, b, device) for p, b in zip(CURRICULUM, batches, strict=True))
    return int(0.9 * 60 * minutes / whole * size()[1])  # a tenth is left for measurements


# --------------------------------------------------------------------------------------------------------------- text


def pretrain_text(
    out: str | Path,
    data: TextFile | TextStream,
    tokens: int,
    seed: int = 0,
    resume: bool = False,
    progress: bool = True,
    device: str | torch.device = "cpu",
    accelerator: "Accelerator | None" = None,
    **shape: Any,
) -> tuple[list[dict[str, float]], list[Perplexity]]:
    """Train a GPT on a text and write it to a folder, with its tokenizer.

    Args:
        out: folder of the finished model; the checkpoint of the running training lies beside it, in `<out>.training`.
        data: the text.
        tokens: how many to train on, in whole steps.
        seed: of the weights.
        resume: continue where an earlier call with the same arguments was stopped.
        progress: show a progress bar.
        device: where to train.
        accelerator: shares the work among processes, as in `train`.
        shape: entries of GPTConfig that differ from POCKET.

    Returns:
        The record of the training, with the loss on the first held-out windows every 100 steps, and the perplexity of
        the held-out text, as `perplexities` gives it; also in `<out>/training.csv` and `<out>/perplexity.csv`. With
        several processes only the first has measurements.

    Raises:
        TrainingError: as `train` does, or there is an unfinished training that is not to be resumed.
    """
    rank, processes = place(accelerator)
    if processes > data.batch:
        raise TrainingError(f"batch is {data.batch}; it must be at least {processes}, a row for each process")
    config = text_config(data, **shape)
    out, folder = Path(out), begin(Path(out), resume)
    windows = cut(data.held_out, data.context)[:MEASURED]  # (n, T + 1)
    model = GPT(config).initialise(seed).to(device)
    record = train(
        model,
        data if isinstance(data, TextStream) else share(data, accelerator),
        Schedule(max(1, tokens // (data.batch * data.context))),
        folder=folder,
        resume=resume,
        identity={"model": asdict(config), "seed": seed, "data": data.identity},
        checkpoint_every=CHECKPOINT_EVERY,
        measure=lambda model: {"held_out": token_losses(model, windows).mean().item()},
        measure_at=lambda step: step % CHECKPOINT_EVERY == 0,
        progress=progress,
        accelerator=accelerator,
    )
    if rank > 0:
        return record, []
    found = perplexities(model, data.held_out, data.context)
    write_record([asdict(entry) for entry in found], out / "perplexity.csv")
    finish(out, folder, model, data.tokenizer, record)
    return record, found


def text_config(data: TextFile | TextStream, **shape: Any) -> GPTConfig:
    """The configuration of a GPT for a text: that of pocket-gpt with the entries in `shape` changed."""
    config = make_config(data.tokenizer, **shape)
    return replace(config, n_positions=max(config.n_positions, data.context))


def perplexities(model: GPT, ids: Tensor, context: int) -> list[Perplexity]:
    """Perplexity of the same tokens of a text, ids (M,), read in windows of T / 8, T / 4, T / 2 and T tokens."""
    contexts = sorted({max(1, context // n) for n in (8, 4, 2, 1)})
    ids = ids[: (len(ids) - 1) // context * context + 1]  # whole windows at every context that divides T
    return [perplexity(model, ids, T) for T in contexts]


def text_tokens_in(
    minutes: float, data: TextFile | TextStream, device: str | torch.device = "cpu", **shape: Any
) -> int:
    """How many tokens of a text this machine trains on in so many minutes, from a few steps on drawn ones."""
    config = text_config(data, **shape)
    ids = torch.randint(config.vocab_size, (data.batch, data.context), generator=torch.Generator().manual_seed(0))
    seconds = seconds_a_step(config, (ids, ids, torch.ones(ids.shape)), device)
    return int(0.95 * 60 * minutes / seconds * ids.numel())  # the rest is left for measurements
