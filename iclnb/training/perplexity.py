"""Perplexity of a language model at a given length of context, and its loss by position in the context.

Letters: n windows of T tokens and the one that follows, S tokens of each that are scored, M tokens of the text.
"""

import math
from dataclasses import dataclass

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from iclnb.intervals import mean
from iclnb.model.gpt import GPT

LOGITS = 2**24  # numbers in one batch of logits, 64 MiB in float32


@dataclass(frozen=True)
class Perplexity:
    """exp(mean loss), with its 95 % interval.

    Args:
        context: length T of the windows.
        windows, tokens: how many windows, and how many tokens in them were scored.
        value: the perplexity.
        low, high: 95 % interval over windows, Student's of the mean loss; nan for a single window. It takes windows for
            independent, which windows of one text are only roughly.
    """

    context: int
    windows: int
    tokens: int
    value: float
    low: float
    high: float


def cut(ids: Tensor, context: int, stride: int | None = None) -> Tensor:
    """Windows of a text.

    Args:
        ids: the text's tokens, (M,) int.
        context: T, tokens of input in each window.
        stride: tokens from one window's start to the next's; None is T, so that no token is predicted twice.

    Returns:
        (n, T + 1) int: inputs and, one further, targets. What does not fill a window at the end is left out.

    Raises:
        ValueError: the text is shorter than one window, or the stride is not in 1..T.
    """
    stride = context if stride is None else stride
    if not 1 <= stride <= context:
        raise ValueError(f"stride is {stride}; accepted are 1 to the context, {context}")
    if len(ids) <= context:
        raise ValueError(f"ids holds {len(ids)} tokens; a window of context {context} needs {context + 1}")
    return ids.unfold(0, context + 1, stride)  # (n, T + 1)


@torch.no_grad()
def token_losses(model: GPT, windows: Tensor) -> Tensor:
    """Loss of every token, -log p(token | the tokens before it in its window), in nats.

    Args:
        model: put into eval mode.
        windows: (n, T + 1) int, as `cut` gives them.

    Returns:
        (n, T) float32 on the CPU; column t is predicted from t + 1 tokens.

    Raises:
        ValueError: windows are longer than the model has positions.
    """
    model.eval()
    device, T = model.embed_tokens.weight.device, windows.shape[1] - 1
    parts = []
    for batch in windows.split(max(1, LOGITS // (T * model.config.vocab_size))):
        batch = batch.to(device)  # (B, T + 1)
        logits = model(batch[:, :-1])  # (B, T, V)
        losses = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten(), reduction="none")  # (B * T,)
        parts.append(losses.view(len(batch), T).float().cpu())  # (B, T)
    return torch.cat(parts)  # (n, T)


def perplexity(model: GPT, ids: Tensor, context: int, stride: int | None = None) -> Perplexity:
    """Perplexity of a text that is read in windows of a given length.

    By default windows do not overlap, and every token in them is scored, the first of each on one token of context:
    the usual meaning of perplexity at length T. With a stride S < T windows overlap and only the last S tokens of each
    are scored, so that each has at least T - S + 1 tokens of context; that takes T / S times as long.

    Args:
        model: put into eval mode.
        ids: the text's tokens, (M,) int.
        context: T.
        stride: S; None is T.

    Raises:
        ValueError: the text is shorter than one window, the stride is not in 1..T, or T is beyond the positions.

    Source: Press et al. 2021, Shortformer, for the two ways.
    """
    scored = token_losses(model, cut(ids, context, stride))[:, -(stride or context) :]  # (n, S)
    loss = mean(scored.double().mean(1))
    return Perplexity(context, len(scored), scored.numel(), *map(math.exp, (loss.mean, loss.low, loss.high)))


def perplexities(model: GPT, ids: Tensor, context: int) -> list[Perplexity]:
    """Perplexity of the same tokens of a text, ids (M,), read in windows of T / 8, T / 4, T / 2 and T tokens."""
    contexts = sorted({max(1, context // n) for n in (8, 4, 2, 1)})
    ids = ids[: (len(ids) - 1) // context * context + 1]  # whole windows at every context that divides T
    return [perplexity(model, ids, T) for T in contexts]


def loss_by_position(model: GPT, ids: Tensor, context: int) -> pd.DataFrame:
    """Mean loss by how many tokens a prediction rests on, in bins that double: 1, 2, 3-4, 5-8, ... tokens.

    Args:
        model: put into eval mode.
        ids: the text's tokens, (M,) int, cut into windows that do not overlap.
        context: T.

    Returns:
        One row a bin: `first` and `last` number of tokens; `loss`, nats a token, with its 95 % interval over windows,
        `low` and `high`; `tokens`, how many were scored.

    Raises:
        ValueError: the text is shorter than one window, or T is beyond the positions.
    """
    losses, rows, first = token_losses(model, cut(ids, context)), [], 1  # (n, T)
    while first <= context:
        last = min(1 << (first - 1).bit_length(), context)  # the next power of two
        inside = losses[:, first - 1 : last]  # (n, last - first + 1)
        loss = mean(inside.double().mean(1))
        ends = {"loss": loss.mean, "low": loss.low, "high": loss.high}
        rows.append({"first": first, "last": last, **ends, "tokens": inside.numel()})
        first = last + 1
    return pd.DataFrame(rows)
