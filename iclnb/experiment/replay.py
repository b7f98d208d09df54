"""The paper's fine-tuning on a GPU, as recorded CUDA graphs: one recording a padded length, replayed at every step.

A step on a demonstration of twenty tokens is hundreds of small operations, which take a GPU less time than it takes a
CPU to send them. A CUDA graph is sent at once. It repeats what was recorded, at the same places in memory: what changes
from step to step, seed to seed and rate to rate (tokens, learning rate, weights) is copied to these places first.

Letters: n sequences, S tokens of the longest, F of a recording, L layers, C width.
"""

import warnings
import weakref
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from iclnb.attention.precision import widen
from iclnb.experiment.batching import pad
from iclnb.experiment.descent import (
    FineTuned,
    check_finite,
    padded_length,
    sharing_copy,
    token_losses,
    trained_parameters,
    training_queries,
)
from iclnb.model.gpt import GPT
from iclnb.model.memory import finetuning_bytes, free_bytes, needs_recomputing
from iclnb.model.recorder import Recorder

WARM_UP = 3  # runs before a recording, in which libraries choose their kernels and take their memory

Work = Callable[[], tuple[Tensor, ...]]
Record = Callable[[Work], tuple[Callable[[], None], tuple[Tensor, ...]]]


class CudaGraphs:
    """Records work on a GPU; all recordings share the memory of what they compute, since none runs beside another.

    The results of one recording hold until another one is repeated.
    """

    def __init__(self):
        self.pool = None

    def __call__(self, work: Work) -> tuple[Callable[[], None], tuple[Tensor, ...]]:
        """Record work.

        Args:
            work: launches operations on the GPU, and neither reads their results nor sends anything; it is called
                WARM_UP times before.

        Returns:
            What repeats it, and the tensors that hold its results after each repetition.
        """
        here, aside = torch.cuda.current_stream(), torch.cuda.Stream()
        aside.wait_stream(here)
        with torch.cuda.stream(aside):
            for _ in range(WARM_UP):
                work()
        here.wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"):
            results = work()
        self.pool = graph.pool()
        return graph.replay, results


class Recorded(NamedTuple):
    """A step that was recorded: places for its tokens (1, F) and their shares of the loss (F - 1,), and its results."""

    ids: Tensor
    shares: Tensor
    replay: Callable[[], None]
    results: tuple[Tensor, ...]


class Replay:
    """Fine-tuning of one model by recorded steps; keys and values of its own, all other parameters the model's.

    Args:
        model: what every training starts from; not kept.
        record: how a step is recorded; None is by CudaGraphs.
    """

    def __init__(self, model: GPT, record: Record | None = None):
        self.student = sharing_copy(model, trained_parameters(model))
        self.trained = list(trained_parameters(self.student).values())
        self.masters = [widen(p.detach()) for p in self.trained]  # p's own if wide
        self.places, self.record = places(model), CudaGraphs() if record is None else record
        self.rate = self.masters[0].new_zeros(())  # learning rate, (), float32 or wider
        self.recordings: dict[tuple[int, bool], Recorded] = {}

    def train_on(self, model: GPT, sequences: Sequence[list[int]], lr: float, record: bool = False) -> FineTuned:
        """finetune.train_on, which defines the result, of the model that this was made for."""
        rows, _ = pad(sequences, self.rate.device)  # (n, S)
        lengths = [len(ids) for ids in sequences]
        self.rate.zero_()  # a recording moves nothing
        steps = [self.recorded(padded_length(self.student, length), record) for length in lengths]
        self.start(model, lr)
        found = []
        for row, length, step in zip(rows, lengths, steps, strict=True):
            step.ids.zero_()[0, :length].copy_(row[:length])
            step.shares.zero_()[: length - 1].fill_(1 / (length - 1))
            step.replay()
            loss, terms, *queries = step.results  # (), (F - 1,), (F - 1, L, C)
            found.append((loss.clone(), terms[: length - 1].clone(), *(q[: length - 1].clone() for q in queries)))
        losses, of_tokens, *queries = (list(kept) for kept in zip(*found, strict=True))
        losses = torch.stack(losses).tolist()  # a GPU is waited for here
        for step, loss in enumerate(losses):
            check_finite(loss, step, lr)
        counts = [length - 1 for length in lengths]
        of_tokens, *queries = (list(torch.cat(kept).cpu().split(counts)) for kept in (of_tokens, *queries))
        return FineTuned(self.trained_copy(model), losses, of_tokens, *queries)

    def recorded(self, F: int, record: bool) -> Recorded:
        """The recording for F tokens, with queries or without, made at its first use."""
        if (F, record) not in self.recordings:
            ids, shares = self.rate.new_zeros(1, F, dtype=torch.long), self.rate.new_zeros(F - 1)
            self.recordings[F, record] = Recorded(ids, shares, *self.record(lambda: self.step(ids, shares, record)))
        return self.recordings[F, record]

    def step(self, ids: Tensor, shares: Tensor, record: bool) -> tuple[Tensor, ...]:
        """One step of descent: the loss (), those of the tokens (F - 1,), and the queries (F - 1, L, C) if wanted."""
        recorder = Recorder("query") if record else None
        terms = token_losses(self.student, ids, recorder)  # (F - 1,)
        loss = (terms * shares).sum()  # padding has no share
        gradients = torch.autograd.grad(loss, self.trained)
        queries = (training_queries(recorder, ids.shape[1]),) if record else ()
        with torch.no_grad():
            for p, master, gradient in zip(self.trained, self.masters, gradients, strict=True):
                p.copy_(master.sub_(gradient.to(master.dtype) * self.rate))
        return loss.detach(), terms.detach(), *queries

    @torch.no_grad()
    def start(self, model: GPT, lr: float) -> None:
        """Go back to the model's weights."""
        self.rate.fill_(lr)
        for p, master, given in zip(self.trained, self.masters, trained_parameters(model).values(), strict=True):
            p.copy_(master.copy_(given))

    @torch.no_grad()
    def trained_copy(self, model: GPT) -> GPT:
        """A model with the trained keys and values, which the next training leaves alone."""
        tuned = sharing_copy(model, trained_parameters(model))
        for p, found in zip(trained_parameters(tuned).values(), self.trained, strict=True):
            p.copy_(found)
        return tuned.eval().requires_grad_(True)


def places(model: GPT) -> list[int]:
    """Where the parameters lie: a recording holds for these places alone."""
    return [p.data_ptr() for p in model.parameters()]


KEPT: weakref.WeakKeyDictionary[GPT, Replay] = weakref.WeakKeyDictionary()  # of one model: recordings hold memory


def replay_of(model: GPT) -> Replay:
    """The recordings of a model, those of any other thrown away."""
    kept = KEPT.get(model)
    if kept is None or kept.places != places(model):
        KEPT.clear()
        kept = KEPT[model] = Replay(model)
    return kept


def can_replay(model: GPT, longest: int) -> bool:
    """Whether steps on this model can be recorded: on a GPU with room, where nothing has to be sent or computed again.

    Args:
        model: the model; a momentum that is not learned lies on the CPU.
        longest: tokens of the longest sequence.
    """
    weight = model.embed_tokens.weight
    if weight.device.type != "cuda" or any(block.attn.momentum is not None for block in model.blocks):
        return False
    if needs_recomputing(model.config, weight.dtype, padded_length(model, longest)):
        return False
    parts = finetuning_bytes(model.config, weight.dtype, padded_length(model, longest))
    return model in KEPT or free_bytes(weight.device) > 2 * (sum(parts.values()) - parts["weights"])


def try_replay(model: GPT, sequences: Sequence[list[int]], lr: float, record: bool) -> FineTuned | None:
    """Train by recorded steps where that can be done; None where it cannot.

    Raises:
        DivergedError: a loss was not finite.
    """
    if not can_replay(model, max(map(len, sequences), default=0)) or min(map(len, sequences), default=0) < 2:
        return None
    try:
        return replay_of(model).train_on(model, sequences, lr, record)
    except RuntimeError as error:  # DivergedError is none
        KEPT.clear()
        warnings.warn(f"fine-tuning goes on without CUDA graphs: {error}", stacklevel=2)
        return None
