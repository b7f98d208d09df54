"""Other ways down than the paper's fine-tuning: layer-causal, in one step, or with all parameters."""

import copy
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from iclnb.finetune import DivergedError, language_model_loss, trained_parameters
from iclnb.gpt import GPT
from iclnb.precision import widen


def descend(
    model: GPT,
    batches: Sequence[Sequence[list[int]]],
    lr: float,
    *,
    layer_causal: bool = False,
    everything: bool = False,
) -> GPT:
    """Plain gradient descent, one step a batch, on the sum of the losses of the batch's sequences.

    With one sequence a batch this is the paper's fine-tuning. With all sequences in one batch it is one step, whose
    error signals are all taken at the model's own weights, and the order of the sequences does not matter.

    Args:
        model: left untouched.
        batches: token ids of the sequences of each batch, `<s>` first.
        lr: learning rate.
        layer_causal: descend on the sum of layer_losses instead of language_model_loss.
        everything: train all parameters, not key and value projections alone.

    Returns:
        The new model.

    Raises:
        ValueError: lr is not a positive number.
        DivergedError: a loss was not finite.
    """
    if not 0 < lr < math.inf:
        raise ValueError(f"lr is {lr}; it must be a positive number")
    student = copy.deepcopy(model).requires_grad_(False)
    trained = list((dict(student.named_parameters()) if everything else trained_parameters(student)).values())
    masters = [widen(p.detach()).clone() for p in trained]  # 16-bit weights would swallow small updates
    for p in trained:
        p.requires_grad_(True)
    device = student.embed_tokens.weight.device
    for step, batch in enumerate(batches):
        for ids in (torch.tensor([sequence], device=device) for sequence in batch):  # (1, T)
            loss = layer_losses(student, ids).sum() if layer_causal else language_model_loss(student, ids)
            if not torch.isfinite(loss):
                raise DivergedError(f"descent diverged: the loss is {loss.item()} at step {step} with lr = {lr}")
            gradients = torch.autograd.grad(loss, trained)  # of this sequence, at the weights before the step
            for master, gradient in zip(masters, gradients, strict=True):
                master.add_(gradient.to(master.dtype), alpha=-lr)
        with torch.no_grad():
            for p, master in zip(trained, masters, strict=True):
                p.copy_(master)
    return student.requires_grad_(True)


def layer_losses(model: GPT, ids: Tensor) -> Tensor:
    """Loss of the next token read from every layer, with no gradient from one layer into another.

    The output of each block goes through the last norm and the output projection, and its input is detached, so
    that a layer learns from its own loss and from nothing above it.

    Args:
        model: the model.
        ids: token ids, (1, T).

    Returns:
        Mean over tokens, (L,) float32 or wider; the last entry is language_model_loss.

    Source: layer-causal gradient descent, Deutch et al. 2024; as in their code, all layers read one forward pass, take
        the same learning rate, and are updated together.
    """
    outputs = []
    hooks = [block.register_forward_pre_hook(_detach_input) for block in model.blocks]
    hooks += [block.register_forward_hook(lambda block, inputs, x: outputs.append(x)) for block in model.blocks]
    try:
        model.hidden(ids)
    finally:
        for hook in hooks:
            hook.remove()
    logits = model.logits(model.final_norm(torch.cat(outputs)))  # (L, T, V)
    targets = ids[0, 1:].expand(len(outputs), -1)  # (L, T - 1)
    return F.cross_entropy(logits[:, :-1].transpose(1, 2), targets, reduction="none").mean(1)  # (L,)


def _detach_input(block, inputs: tuple) -> tuple:
    x, *rest = inputs
    return (x.detach(), *rest)
