"""Attention-only fine-tuning: one epoch of plain SGD on the demonstrations, keys and values alone.

The paper restricts fine-tuning to W_K and W_V, and gives it the demonstrations of the prompt in the prompt's order, so
that both ways of learning see the same examples in the same order and act on the same part of the model.
"""

from collections.abc import Sequence
from typing import Any

from iclnb.experiment.descent import FineTuned, check_rate, descend
from iclnb.experiment.replay import try_replay
from iclnb.model.gpt import GPT
from iclnb.tasks.formats import PromptFormat
from iclnb.tasks.prompts import build_prompt
from iclnb.tasks.task import Task

# Seed and learning rate of the 1.3B model per task. Rates: Dai et al. 2023, table 9. Seeds, which they do not give: the
# rerun of Deutch et al. 2024 (GiilDe/ft-vs-icl).
PUBLISHED_SEED_AND_RATE = {
    "cb": (3, 0.08),
    "sst2": (2, 5e-4),
    "sst5": (5, 1.6e-4),
    "subj": (4, 3e-3),
    "mr": (5, 3e-3),
    "agnews": (3, 0.2),
}


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
    prompt_format: PromptFormat | None = None,
    record: bool = False,
    progress: bool = False,
) -> FineTuned:
    """finetune_attention with its losses and, with `record`, the query vectors of the training tokens (for Kendall)."""
    sequences = build_prompt(model.config, tokenizer, task, k, seed, prompt_format).sequences
    return train_on(model, sequences, lr, record=record, progress=progress)


def train_on(
    model: GPT,
    sequences: Sequence[list[int]],
    lr: float,
    *,
    record: bool = False,
    progress: bool = False,
    graphs: bool = True,
) -> FineTuned:
    """The paper's fine-tuning on token sequences: descend, one sequence a step, in order.

    Args:
        model, lr, record, progress: as in descend.
        sequences: token ids, `<s>` first.
        graphs: send the steps to a GPU as recorded CUDA graphs, where replay.can_replay says that it can be done; the
            loop of descend beside it defines the result.
    """
    check_rate(lr)
    if graphs and (tuned := try_replay(model, sequences, lr, record)) is not None:
        return tuned
    return descend(model, [[ids] for ids in sequences], lr, record=record, progress=progress)
