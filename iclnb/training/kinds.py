"""Kinds of tokens: which the context has shown before, and which the last two tokens alone would tell.

Letters: n windows of T tokens and the one that follows, M tokens of a text, V vocabulary.
"""

import torch
from torch import Tensor

SHOWN = ("new", "word seen", "pair seen")  # what the window has shown before: neither, the token, it behind this one


def shown(windows: Tensor) -> Tensor:
    """What each window has shown of a target before it comes.

    Args:
        windows: (n, T + 1) int.

    Returns:
        (n, T) int, places in SHOWN: 2 where the target has followed the same token before, 1 where it has occurred
        elsewhere, 0 where it is new.
    """
    inputs, targets = windows[:, :-1], windows[:, 1:]  # (n, T) each
    T = inputs.shape[1]
    earlier = torch.ones(T, T, dtype=torch.bool).tril(-1)  # (T, T): column s lies before row t
    found = []
    for x, y in zip(inputs, targets, strict=True):  # (T,) each
        pair = ((x[:, None] == x) & (y[:, None] == y) & earlier).any(1)  # (T,)
        token = ((y[:, None] == x) & (earlier | torch.eye(T, dtype=torch.bool))).any(1)  # (T,)
        found.append(torch.where(pair, 2, token.long()))
    return torch.stack(found)


class Trigrams:
    """The token that a text most often has behind two tokens, or behind the last one where it never has the two.

    Args:
        ids: the text's tokens, (M,) int.
        vocab_size: V.
    """

    def __init__(self, ids: Tensor, vocab_size: int):
        self.V = vocab_size
        self.after_one = most_often(ids[:-1], ids[1:], vocab_size)
        self.after_two = most_often(ids[:-2] * vocab_size + ids[1:-1], ids[2:], vocab_size)

    def best(self, windows: Tensor) -> Tensor:
        """Its guess at each target of the windows (n, T + 1), (n, T) int, or -1 where it has none."""
        x = windows[:, :-1]  # (n, T)
        guess = look_up(self.after_one, x)  # (n, T)
        two = look_up(self.after_two, x[:, :-1] * self.V + x[:, 1:])  # (n, T - 1)
        guess[:, 1:] = torch.where(two >= 0, two, guess[:, 1:])
        return guess


def most_often(context: Tensor, following: Tensor, vocab_size: int) -> tuple[Tensor, Tensor]:
    """The contexts that occur, sorted, and the token that follows each most often (of equals the last id)."""
    both, count = (context * vocab_size + following).unique(return_counts=True)
    order = count.argsort(stable=True)
    order = order[(both[order] // vocab_size).argsort(stable=True)]  # by context, then by count, then by id
    contexts, tokens = both[order] // vocab_size, both[order] % vocab_size
    last = torch.cat([contexts[1:] != contexts[:-1], torch.ones(1, dtype=torch.bool)])
    return contexts[last], tokens[last]


def look_up(table: tuple[Tensor, Tensor], context: Tensor) -> Tensor:
    """The token for each context, or -1."""
    contexts, tokens = table
    place = torch.searchsorted(contexts, context.contiguous()).clamp(max=len(contexts) - 1)
    return torch.where(contexts[place] == context, tokens[place], -1)
