"""Attention-only fine-tuning: one epoch of plain SGD over the demonstrations, keys and values alone.

The paper restricts fine-tuning to W_K and W_V, and gives it the demonstrations of the prompt in the prompt's order, so
that both ways of learning see the same examples in the same order and act on the same part of the model.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from iclnb.gpt import GPT
from iclnb.memory import needs_recomputing
from iclnb.prompts import build_prompt, training_sequence
from iclnb.recorder import Recorder
from iclnb.tasks import Task

TRAINED = ("attn.k_proj", "attn.v_proj")

# Seed and learning rate of the 1.3B model per task: Deutch et al. 2024 (the rerun in GiilDe/ft-vs-icl).
PUBLISHED_SEED_AND_RATE = {
    "cb": (3, 0.08),
    "sst2": (2, 5e-4),
    "sst5": (5, 1.6e-4),
    "subj": (4, 3e-3),
    "mr": (5, 3e-3),
    "agnews": (3, 0.2),
}


class DivergedError(ArithmeticError):
    """Fine-tuning met a loss that is not finite."""


@dataclass
class FineTuned:
    """A fine-tuned model and what was seen on the way.

    Args:
        model: the new model; it shares every parameter that was not trained with the model it came from.
        losses: mean loss of each step, before its update.
        queries: for each demonstration, its query vectors during training, scaled by 1 / sqrt(D), all heads side by
            side, (tokens, L, C) float32 without `<s>`; empty unless recorded.
    """

    model: GPT
    losses: list[float]
    queries: list[Tensor] = field(default_factory=list, repr=False)


def finetune_attention(
    model: GPT, tokenizer: Any, task: Task, k: int = 32, seed: int = 1, lr: float = 1e-3, **options: Any
) -> GPT:
    """Fine-tune keys and values on the demonstrations that few_shot puts into the prompt.

    Args:
        model, tokenizer: from iclnb.load; the model is left untouched.
        task, k, seed: as in few_shot, so that both use the same demonstrations in the same order.
        lr: learning rate of SGD.
        options: as in finetune.

    Returns:
        The fine-tuned model.

    Raises:
        ValueError: lr is not a positive number, or k is bad.
        DivergedError: the loss stopped being finite.

    Source: Dai et al. 2023, section 4.1 and the official code.
    """
    return finetune(model, tokenizer, task, k, seed, lr, **options).model


def finetune(
    model: GPT,
    tokenizer: Any,
    task: Task,
    k: int = 32,
    seed: int = 1,
    lr: float = 1e-3,
    *,
    record: bool = False,
    progress: bool = False,
) -> FineTuned:
    """finetune_attention with its losses and, with `record`, the query vectors of the training tokens (for Kendall)."""
    sequences = training_sequences(model, tokenizer, task, k, seed)
    return train_on(model, sequences, lr, record=record, progress=progress)


def training_sequences(model: GPT, tokenizer: Any, task: Task, k: int, seed: int) -> list[list[int]]:
    """What fine-tuning learns from, in order: one sequence for each demonstration of few_shot's prompt."""
    demonstrations = build_prompt(model.config, tokenizer, task, k, seed).demonstrations
    return [training_sequence(model.config, tokenizer, example, task.answers) for example in demonstrations]


def train_on(
    model: GPT, sequences: Sequence[list[int]], lr: float, *, record: bool = False, progress: bool = False
) -> FineTuned:
    """One epoch of SGD over token sequences, one sequence a step, in order.

    Trained parameters are kept in float32 at least, whatever the model's dtype: a 16-bit weight would swallow most
    updates, which are far smaller than its last digit. memory.finetuning_bytes says what all of it takes.

    Args:
        model: left untouched.
        sequences: token ids, `<s>` first.
        lr: learning rate.
        record, progress: as in finetune.

    Raises:
        ValueError: lr is not a positive number.
        DivergedError: the loss stopped being finite.
    """
    if not 0 < lr < float("inf"):
        raise ValueError(f"lr is {lr}; it must be a positive number")
    student = _copy_for_training(model)
    student.train()
    trained = trained_parameters(student)
    masters = [p.detach().to(torch.promote_types(p.dtype, torch.float32)) for p in trained.values()]  # p's own if wide
    losses, queries = [], []
    device = student.embed_tokens.weight.device
    for step, ids in enumerate(tqdm(sequences, desc="fine-tuning", unit="step", disable=not progress, leave=False)):
        recorder = Recorder("query") if record else None
        recompute = needs_recomputing(student.config, student.embed_tokens.weight.dtype, len(ids))
        loss = language_model_loss(student, torch.tensor([ids], device=device), recorder, recompute=recompute)
        if recorder is not None:  # before the way back, which may run blocks again
            q = torch.stack(recorder.layers["query"], dim=3)[0]  # (H, T, L, D)
            q = q[:, 1:].float().permute(1, 2, 0, 3)  # (T - 1, L, H, D), without <s>
            queries.append((q / q.shape[-1] ** 0.5).flatten(2).cpu())  # (T - 1, L, C)
        if not torch.isfinite(loss):
            raise DivergedError(f"fine-tuning diverged: the loss is {loss.item()} at step {step} with lr = {lr}")
        gradients = torch.autograd.grad(loss, list(trained.values()))
        with torch.no_grad():
            for p, master, gradient in zip(trained.values(), masters, gradients, strict=True):
                p.copy_(master.add_(gradient.to(master.dtype), alpha=-lr))
        del gradients, gradient  # before the next step makes its own
        losses.append(loss.item())
    return FineTuned(student.eval().requires_grad_(True), losses, queries)


def language_model_loss(model: GPT, ids: Tensor, recorder: Recorder | None = None, recompute: bool = False) -> Tensor:
    """Mean negative log-probability, a float32 scalar, of every token of ids (1, T) after the first.

    `recorder` and `recompute` as in GPT.hidden.
    """
    logits = model(ids, recorder=recorder, recompute=recompute)  # (1, T, V)
    return F.cross_entropy(logits[0, :-1], ids[0, 1:])


def trained_parameters(model: GPT) -> dict[str, nn.Parameter]:
    """Weights and biases of the key and value projections of every layer, by name."""
    return {name: p for name, p in model.named_parameters() if name.rpartition(".")[0].endswith(TRAINED)}


def _copy_for_training(model: GPT) -> GPT:
    """A model with its own key and value projections; it shares the storage of all else, which asks no gradient."""
    own = {id(p) for p in trained_parameters(model).values()}
    shared = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in model.parameters() if id(p) not in own}
    student = copy.deepcopy(model, memo=shared)  # deepcopy takes what memo holds instead of copying it
    for p in trained_parameters(student).values():
        p.requires_grad_(True)
    return student
