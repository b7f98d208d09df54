"""Plain gradient descent on a GPT's key and value projections: one step a batch, or layer-causal, or on all parameters.

Only what is trained is copied; a fine-tuned model shares everything else with the model that it came from.
"""

import copy
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm.auto import tqdm

from iclnb.attention.precision import widen
from iclnb.experiment.batching import AT_ONCE, MULTIPLE, pad
from iclnb.model.gpt import GPT
from iclnb.model.memory import needs_recomputing
from iclnb.model.recorder import Recorder

TRAINED = ("attn.k_proj", "attn.v_proj")


class DivergedError(ArithmeticError):
    """Fine-tuning met a loss that is not finite."""


@dataclass
class FineTuned:
    """A fine-tuned model and what was seen on the way.

    Args:
        model: the new model; it shares every parameter that was not trained with the model it came from.
        losses: what each step descended on, before its update.
        token_losses: the loss of each token of each sequence, before its step, (T,); with layer_causal that of each
            layer, (L,).
        queries: for each demonstration, its query vectors during training, scaled by 1 / sqrt(D), all heads side by
            side, (tokens, L, C) float32 without `<s>`; empty unless recorded.
    """

    model: GPT
    losses: list[float]
    token_losses: list[Tensor] = field(default_factory=list, repr=False)
    queries: list[Tensor] = field(default_factory=list, repr=False)


def descend(
    model: GPT,
    batches: Sequence[Sequence[list[int]]],
    lr: float,
    *,
    layer_causal: bool = False,
    everything: bool = False,
    record: bool = False,
    progress: bool = False,
) -> FineTuned:
    """Plain gradient descent, one step a batch, on the sum of the losses of the batch's sequences.

    With all sequences in one batch it is one step, whose error signals are all taken at the model's own weights, and
    the order of the sequences does not matter.

    Trained parameters are kept in float32 at least, whatever the model's dtype: a 16-bit weight would swallow most
    updates, which are far smaller than its last digit. memory.finetuning_bytes says what all of it takes.

    Args:
        model: left untouched.
        batches: token ids of the sequences of each batch, `<s>` first.
        lr: learning rate.
        layer_causal: descend on the sum of layer_losses instead of language_model_loss.
        everything: train all parameters, not key and value projections alone.
        record, progress: as in finetune.

    Raises:
        ValueError: lr is not a positive number.
        DivergedError: a loss was not finite.
    """
    check_rate(lr)
    student = sharing_copy(model, dict(model.named_parameters()) if everything else trained_parameters(model))
    trained = [p for p in student.parameters() if p.requires_grad]
    masters = [widen(p.detach()) for p in trained]  # p's own if wide
    steps = [(step, len(ids)) for step, batch in enumerate(batches) for ids in batch]  # n, of every sequence
    if not steps:
        return FineTuned(student.eval().requires_grad_(True), [])
    device = masters[0].device
    rows, _ = pad([ids for batch in batches for ids in batch], device)  # (n, S); a GPU is sent them together
    waiting, found_losses, of_tokens, queries = iter(rows), [], [], []
    for step, batch in enumerate(tqdm(batches, desc="fine-tuning", unit="step", disable=not progress, leave=False)):
        gradients = None
        for ids in batch:  # all at the weights before the step
            recorder = Recorder("query") if record else None
            terms = _losses(student, next(waiting), len(ids), layer_causal, recorder)  # (T,) or (L,)
            of_tokens.append(terms.detach())
            loss = terms.sum() if layer_causal else terms.mean()
            found_losses.append(loss.detach())
            if recorder is not None:  # before the way back, which may run blocks again
                queries.append(training_queries(recorder, len(ids)))
            if device.type in AT_ONCE:
                check_finite(loss.item(), step, lr)
            found = torch.autograd.grad(loss, trained)
            gradients = (
                found if gradients is None else [widen(g) + widen(f) for g, f in zip(gradients, found, strict=True)]
            )
        with torch.no_grad():
            for p, master, gradient in zip(trained, masters, gradients, strict=True):
                p.copy_(master.add_(gradient.to(master.dtype), alpha=-lr))
        del found, gradients, gradient  # before the next step makes its own
    losses = [0.0] * len(batches)
    for (step, _), loss in zip(steps, torch.stack(found_losses).tolist(), strict=True):  # a GPU is waited for here
        check_finite(loss, step, lr)
        losses[step] += loss
    of_tokens = list(torch.cat(of_tokens).cpu().split([len(terms) for terms in of_tokens]))
    queries = list(torch.cat(queries).cpu().split([length - 1 for _, length in steps])) if record else []
    return FineTuned(student.eval().requires_grad_(True), losses, of_tokens, queries)


def check_rate(lr: float) -> None:
    """Check a learning rate.

    Raises:
        ValueError: it is not a positive number.
    """
    if not 0 < lr < math.inf:
        raise ValueError(f"lr is {lr}; it must be a positive number")


def check_finite(loss: float, step: int, lr: float) -> None:
    """Check the loss of a step.

    Raises:
        DivergedError: it is not finite.
    """
    if not math.isfinite(loss):
        raise DivergedError(f"fine-tuning diverged: the loss is {loss} at step {step} with lr = {lr}")


def _losses(model: GPT, row: Tensor, length: int, layer_causal: bool, recorder: Recorder | None) -> Tensor:
    """What one sequence is descended on: the sum of its layers' losses, (L,), or else the mean of its tokens', (T,).

    The row (S,) begins with the sequence; what follows is padding, which no token before it sees. Some of it is fed
    where a device wants lengths that are multiples, and left out of the loss.
    """
    if layer_causal:
        return layer_losses(model, row[None, :length], recorder)
    fed = padded_length(model, length)
    ids = F.pad(row[:fed], (0, max(0, fed - len(row))))[None]  # (1, T + 1)
    recompute = needs_recomputing(model.config, model.embed_tokens.weight.dtype, fed)
    return token_losses(model, ids, recorder, recompute)[: length - 1]


def padded_length(model: GPT, length: int) -> int:
    """Tokens that are fed for a sequence: a multiple that the device is fast with, while the model has positions."""
    multiple = MULTIPLE.get(model.embed_tokens.weight.device.type, 1)
    return min(-(-length // multiple) * multiple, model.config.n_positions)


def training_queries(recorder: Recorder, length: int) -> Tensor:
    """The query vectors of FineTuned that a recorder kept of one sequence, (T - 1, L, C) float32."""
    q = torch.stack(recorder.layers["query"], dim=3)[0]  # (H, T, L, D)
    q = q[:, 1:length].float().permute(1, 2, 0, 3)  # (T - 1, L, H, D), without <s>
    return (q / q.shape[-1] ** 0.5).flatten(2)  # (T - 1, L, C)


def language_model_loss(model: GPT, ids: Tensor, recorder: Recorder | None = None, recompute: bool = False) -> Tensor:
    """The mean of token_losses, a scalar."""
    return token_losses(model, ids, recorder, recompute).mean()


def token_losses(model: GPT, ids: Tensor, recorder: Recorder | None = None, recompute: bool = False) -> Tensor:
    """Negative log-probability, (T,) float32 or wider, of every token of ids (1, T + 1) after the first.

    `recorder` and `recompute` as in GPT.hidden.
    """
    logits = model(ids, recorder=recorder, recompute=recompute)  # (1, T + 1, V)
    return F.cross_entropy(logits[0, :-1], ids[0, 1:], reduction="none")


def layer_losses(model: GPT, ids: Tensor, recorder: Recorder | None = None) -> Tensor:
    """Loss of the next token read from every layer, with no gradient from one layer into another.

    The output of each block goes through the last norm and the output projection, and its input is detached, so
    that a layer learns from its own loss and from nothing above it.

    Args:
        model: the model.
        ids: token ids, (1, T).
        recorder: as in GPT.hidden.

    Returns:
        Mean over tokens, (L,) float32 or wider; the last entry is language_model_loss.

    Source: layer-causal gradient descent, Deutch et al. 2024; as in their code, all layers read one forward pass, take
        the same learning rate, and are updated together.
    """
    outputs = []
    hooks = [block.register_forward_pre_hook(_detach_input) for block in model.blocks]
    hooks += [block.register_forward_hook(lambda block, inputs, x: outputs.append(x)) for block in model.blocks]
    try:
        model.hidden(ids, recorder=recorder)
    finally:
        for hook in hooks:
            hook.remove()
    logits = model.logits(model.final_norm(torch.cat(outputs)))  # (L, T, V)
    targets = ids[0, 1:].expand(len(outputs), -1)  # (L, T - 1)
    return F.cross_entropy(logits[:, :-1].transpose(1, 2), targets, reduction="none").mean(1)  # (L,)


def _detach_input(block: nn.Module, inputs: tuple) -> tuple:
    x, *rest = inputs
    return (x.detach(), *rest)


def trained_parameters(model: GPT) -> dict[str, nn.Parameter]:
    """Weights and biases of the key and value projections of every layer, by name."""
    return {name: p for name, p in model.named_parameters() if name.rpartition(".")[0].endswith(TRAINED)}


def sharing_copy(model: GPT, own: Iterable[str]) -> GPT:
    """A model with parameters of its own under the names in `own`; it shares the storage of all others.

    Its own parameters ask for a gradient, the shared ones do not.
    """
    own = set(own)
    shared = {id(p): nn.Parameter(p.detach(), requires_grad=False) for n, p in model.named_parameters() if n not in own}
    copied = copy.deepcopy(model, memo=shared)  # deepcopy takes what memo holds instead of copying it
    for name in own:
        copied.get_parameter(name).requires_grad_(True)
    return copied
