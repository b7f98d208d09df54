"""Pretraining: pocket-gpt on its synthetic language, or a GPT of any shape on a text.

`python -m iclnb pretrain` is the command.
"""

import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from iclnb.interrupts import noted
from iclnb.language.curriculum import CURRICULUM, Corpus, Phase, size
from iclnb.language.tokenizer import build_tokenizer
from iclnb.model.checkpoints import save
from iclnb.model.gpt import GPT, GPTConfig
from iclnb.training.claim import Place, claim
from iclnb.training.loop import (
    Batch,
    Data,
    Objective,
    Schedule,
    TrainingError,
    check_identity,
    make_optimizers,
    token_loss,
    train,
    training_step,
    write,
    write_record,
)
from iclnb.training.measure import Measurement
from iclnb.training.perplexity import Perplexity
from iclnb.training.processes import place, share

if TYPE_CHECKING:
    from accelerate import Accelerator

CHECKPOINT_EVERY = 100  # steps
POCKET = {"n_layer": 4, "n_head": 4, "n_embd": 128, "n_positions": 2048, "positions": "rotary"}
SHAPES = {
    "pocket": POCKET,
    "9M": POCKET | {"n_layer": 5, "n_head": 6, "n_embd": 384},  # ten times as large
    "350M": {"n_layer": 24, "n_head": 16, "n_embd": 1024, "n_positions": 2048, "positions": "rotary"},
}
ROWS = {name: (8, 256) for name in SHAPES} | {"350M": (16, 2048)}  # B and T of a step on a text, unless asked otherwise


class Language(Corpus):
    """The synthetic language of pocket-gpt as a training's data: a curriculum, and what it should lead to.

    Args:
        seed: of all documents.
        curriculum: the phases, which shrink or grow with `steps`, at first their own number.
    """

    every = 117

    def __init__(self, seed: int = 0, curriculum: Sequence[Phase] = CURRICULUM):
        super().__init__(build_tokenizer(), size(curriculum)[0], seed, curriculum)
        self.sizes = [(phase.steps, phase.sequences, phase.length) for phase in curriculum]

    @cached_property
    def measure(self) -> Measurement:
        """Copying, recall, and learning in context."""
        return Measurement(self.tokenizer)

    def report(self, model: GPT) -> list[Perplexity]:
        """Nothing: documents are drawn, so none is held out."""
        return []


def make_config(tokenizer: Any, **shape: Any) -> GPTConfig:
    """The configuration of pocket-gpt for a tokenizer, with the entries in `shape` changed."""
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    special = {"bos_token_id": eos if bos is None else bos, "eos_token_id": eos}
    return GPTConfig(**{"vocab_size": len(tokenizer)} | POCKET | special | shape)


def config_for(data: Data, **shape: Any) -> GPTConfig:
    """The configuration of a GPT for some data: make_config's, with positions for the longest row."""
    config = make_config(data.tokenizer, **shape)
    return replace(config, n_positions=max(config.n_positions, *(T for _, _, T in data.sizes)))


def pretrain(
    out: str | Path,
    data: Data,
    seed: int = 0,
    resume: bool = False,
    progress: bool = True,
    device: str | torch.device = "cpu",
    compile: bool | None = None,
    accelerator: "Accelerator | None" = None,
    force: bool = False,
    **shape: Any,
) -> tuple[list[dict[str, float]], list[Perplexity]]:
    """Train a GPT and write it to a folder, with its tokenizer.

    Args:
        out: folder of the finished model; the checkpoint of the running training lies beside it, in `<out>.training`.
        data: what to train on, and for how many steps.
        seed: of the weights.
        resume: continue where an earlier call with the same arguments was stopped.
        progress: show a progress bar.
        device: where to train.
        compile: run the model through torch.compile; None does so on a GPU.
        accelerator: shares the work among processes, as in `train`.
        force: a finished model in `out` may be overwritten.
        shape: entries of GPTConfig that differ from POCKET.

    Returns:
        The record of the training, and the perplexities of the held-out part, where there is one; they are also written
        to `<out>/training.csv` and `<out>/perplexity.csv`, and what the training was to `<out>/training.json`. With
        several processes only the first has measurements. Both are empty where `resume` finds the model finished.

    Raises:
        TrainingError: as `train` and `claim` do, or no step to take, or too few rows for the processes, or no compiler.
        OSError: as `claim` does, or as `train` does.
        Stopped: SIGINT or SIGTERM came; the step was finished and kept first.
    """
    config, (rank, processes) = config_for(data, **shape), place(accelerator)
    compile = to_compile(compile, device)
    if data.steps < 1:
        raise TrainingError(f"steps is {data.steps}; a training has at least 1")
    if processes > (smallest := min(rows for _, rows, _ in data.sizes)):
        raise TrainingError(f"{processes} processes cannot share a batch of {smallest}; each needs a row")
    schedule = Schedule(data.steps)
    identity = {"model": asdict(config), "seed": seed, "data": data.identity, "schedule": asdict(schedule)}
    with claim(out, resume, force, rank) as where:
        if where.finished and not force:
            check_identity(where.out, read_identity(where.out), json.loads(json.dumps(identity)))
            return [], []
        model = GPT(config).initialise(seed).to(device)
        with noted() as stop:
            record = train(
                model,
                share(data, accelerator),
                schedule,
                folder=where.folder,
                resume=resume,
                identity=identity,
                checkpoint_every=CHECKPOINT_EVERY,
                measure=data.measure,
                measure_every=data.every,
                progress=progress,
                compile=compile,
                accelerator=accelerator,
                stop=stop,
            )
        found = data.report(model) if rank == 0 else []
        if rank == 0:
            finish(where, model, data.tokenizer, record, found, identity)
    return record, found


def to_compile(compile: bool | None, device: str | torch.device) -> bool:
    """Whether to run a model through torch.compile: as asked for or, if None, on a GPU where that can be done.

    Raises:
        TrainingError: it is asked for, but there is no C++ compiler, which torch.compile needs.
    """
    compiler = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")  # as torch.compile looks
    found = shutil.which(compiler) is not None
    if compile and not found:
        raise TrainingError(f"compile is True, but torch.compile needs a C++ compiler, and {compiler} is not installed")
    return found and torch.device(device).type == "cuda" if compile is None else compile


def finish(
    where: Place, model: GPT, tokenizer: Any, record: list[dict], found: list[Perplexity], identity: dict[str, Any]
) -> None:
    """Write the finished model with its tokenizer and record, and remove what only a running training needs."""
    save(model, tokenizer, where.out)
    write_record(record, where.out / "training.csv")
    if found:
        write_record([asdict(entry) for entry in found], where.out / "perplexity.csv")
    else:  # an earlier model's
        (where.out / "perplexity.csv").unlink(missing_ok=True)
    write(where.out / "training.json", json.dumps(identity, indent=1).encode())
    written = ("training.csv", "perplexity.csv", "training.json")
    parts = [part for name in written for part in where.out.glob(f"{name}.*.part")]  # which a kill leaves
    for file in (where.checkpoint, where.folder / "training.csv", *where.folder.glob("*.part"), *parts):
        file.unlink(missing_ok=True)


def read_identity(out: Path) -> dict[str, Any]:
    """What `finish` says of a model's training; of a model that came otherwise, nothing."""
    try:
        found = json.loads((out / "training.json").read_text())
    except (OSError, ValueError):
        found = None
    return found if isinstance(found, dict) else {}


# ------------------------------------------------------------------------------------------------------- how long


def steps_of(tokens: int, data: Data) -> int:
    """How many steps so many tokens are, in whole steps and at least one."""
    steps, whole = sum(n for n, _, _ in data.sizes), sum(n * B * T for n, B, T in data.sizes)
    return max(1, tokens * steps // whole)


def steps_in(
    minutes: float, data: Data, device: str | torch.device = "cpu", compile: bool | None = None, **shape: Any
) -> int:
    """How many steps this machine takes in so many minutes, judged by a few on drawn tokens; others as in pretrain."""
    config, generator, seconds = config_for(data, **shape), torch.Generator().manual_seed(0), 0.0
    for n, B, T in data.sizes:
        ids = torch.randint(config.vocab_size, (B, T), generator=generator)  # (B, T)
        seconds += n * seconds_a_step(config, (ids, ids, torch.ones(B, T)), device, to_compile(compile, device))
    steps = sum(n for n, _, _ in data.sizes)
    return max(1, int(0.9 * 60 * minutes / seconds * steps))  # a tenth is left for measurements


def seconds_a_step(config: GPTConfig, batch: Batch, device: str | torch.device, compile: bool = False) -> float:
    """Seconds a training step takes on this machine: the mean of four, after one that warms up, on a spare model."""
    model, batch = GPT(config).initialise(0).to(device), tuple(tensor.to(device) for tensor in batch)
    optimizers, network = make_optimizers(model, Schedule(1)), Objective(model, token_loss)
    if compile:
        network.compile(fullgraph=True)
    training_step(network, optimizers, batch)
    started = time.perf_counter()
    for _ in range(4):
        training_step(network, optimizers, batch)
    return (time.perf_counter() - started) / 4
