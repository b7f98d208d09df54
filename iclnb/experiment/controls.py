"""Controls: what is put in the place of a trained model, of fine-tuning's update, or of the demonstrations' text.

A similarity of in-context learning and fine-tuning means something if it falls when one of these takes their place.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from iclnb.attention.precision import widen
from iclnb.experiment.descent import sharing_copy, trained_parameters
from iclnb.model.gpt import GPT


def untrained(model: GPT, seed: int, keep_embeddings: bool = False) -> GPT:
    """A model of the same shape that has learnt nothing.

    Args:
        model: gives the shape; left untouched.
        seed: of the random weights.
        keep_embeddings: keep embeddings, norms and the output projection, so that attention and MLP alone are
            random; otherwise everything is.

    Returns:
        A new model, on the device and in the dtype of the given one.

    Source: Deutch et al. 2024, the untrained models; there attention and MLP alone are random. The random weights are
        drawn as GPT-2's are before training (GPT.initialise).
    """
    blank = GPT(model.config).initialise(seed).to(model.embed_tokens.weight)
    if keep_embeddings:
        with torch.no_grad():
            for name, p in blank.named_parameters():
                if ".attn." not in name and ".mlp." not in name:
                    p.copy_(model.get_parameter(name))
    return blank.eval()


def random_update(model: GPT, tuned: GPT, seed: int, scale: float = 1.0) -> GPT:
    """The model, its keys and values moved in a random direction, each matrix as far as fine-tuning moved it.

    Args:
        model: before fine-tuning; left untouched.
        tuned: after it.
        seed: of the directions, which are drawn from a normal distribution.
        scale: factor on the distance.

    Returns:
        A new model, which shares all but keys and values with the given one.
    """
    moved = sharing_copy(model, trained_parameters(model))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in trained_parameters(moved).items():
            update = widen(tuned.get_parameter(name)) - widen(p)
            noise = torch.randn(p.shape, generator=generator).to(update)  # drawn alike for every dtype and device
            p.copy_(widen(p) + scale * update.norm() / noise.norm() * noise)
    return moved.requires_grad_(True)


def scaled(model: GPT, other: GPT, scale: float) -> GPT:
    """The model, its keys and values moved along the way to another one's: none of it at 0, all at 1.

    Args:
        model: left untouched.
        other: a model of the same shape, such as the fine-tuned one.
        scale: how much of the way.

    Returns:
        A new model, which shares all but keys and values with the given one.
    """
    moved = sharing_copy(model, trained_parameters(model))
    with torch.no_grad():
        for name, p in trained_parameters(moved).items():
            p.copy_(widen(p) + scale * (widen(other.get_parameter(name)) - widen(p)))
    return moved.requires_grad_(True)


def matched(model: GPT, other: GPT, reach: Callable[[GPT], float], target: float) -> GPT:
    """The model, moved along the way to another one just so far that what it does has changed as much as wanted.

    Two updates of the same length in weights can move what a model computes by lengths that differ tenfold, and a
    measure of likeness may answer to the length alone.

    Args:
        model, other: as in scaled.
        reach: how far a model's behaviour lies from the given one's; it grows with the scale.
        target: the reach wanted.

    Returns:
        The model at the scale, between 1/32 and 32, that reaches the target, to 3 %.
    """
    low, high = -5.0, 5.0  # log2 of the scale
    for _ in range(8):
        middle = (low + high) / 2
        low, high = (middle, high) if reach(scaled(model, other, 2**middle)) < target else (low, middle)
    return scaled(model, other, 2 ** ((low + high) / 2))


def scrambled(sequences: Sequence[list[int]], seed: int) -> list[list[int]]:
    """Training sequences of the same lengths and, taken together, the same tokens, in random order after `<s>`."""
    tokens = [token for ids in sequences for token in ids[1:]]
    mixed = iter(np.random.default_rng(seed).permutation(tokens).tolist())
    return [[ids[0], *(next(mixed) for _ in ids[1:])] for ids in sequences]
