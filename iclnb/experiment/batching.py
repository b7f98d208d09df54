"""How queries become forward passes: what they all open with, which go together, how they fork, and the way back.

Letters: B sequences of a pass, T tokens of the longest.
"""

from collections.abc import Callable, Sequence
from os.path import commonprefix  # of any sequences, not of paths alone
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from iclnb.attention.softmax import causal_mask

NO_ROOM = ("can't allocate memory", "could not create a primitive", "bad_alloc")  # on a CPU: torch, oneDNN, C++


def common_opening(queries: list[list[int]]) -> list[int]:
    """The tokens that all queries begin with, the template's words before the text; each query keeps its last token.

    Args:
        queries: token ids of at least one query; none is empty.

    Returns:
        Token ids, fewer than the shortest query has.
    """
    shortest = min(len(query) for query in queries)
    return commonprefix(queries)[: shortest - 1]


def neighbours(lengths: Sequence[int], size: int, padding: int) -> list[slice]:
    """Runs of sequences that go together well, each padded to the length of its first.

    Args:
        lengths: in tokens, of at least one sequence, the longest first.
        size: sequences a run at most.
        padding: tokens of padding a run at most.

    Returns:
        One slice a run, which together cover all sequences in order.
    """
    runs, start, padded = [], 0, 0
    for i, length in enumerate(lengths):
        padded += lengths[start] - length
        if i == start + size or padded > padding:
            runs.append(slice(start, i))
            start, padded = i, 0
    return [*runs, slice(start, len(lengths))]


def back_in_order(rows: Sequence[int]) -> list[int]:
    """Where each row stands in `rows`, smallest row first: the order that undoes the sorting into batches."""
    return sorted(range(len(rows)), key=rows.__getitem__)


def halving(work: Callable[[Sequence], Any], items: Sequence, most: int) -> tuple[list, int]:
    """Work on consecutive runs of items; where memory runs out, runs are halved and the work goes on.

    Args:
        work: a function of some of the items.
        items: all of them.
        most: items a run, at first.

    Returns:
        What `work` gave for each run, in order; and the length of run that was reached.

    Raises:
        RuntimeError: whatever `work` raises, running out of memory on a single item included.
    """
    results, done = [], 0
    while done < len(items):
        some, fits = items[done : done + most], True
        try:
            results.append(work(some))
        except (RuntimeError, MemoryError) as error:  # torch.OutOfMemoryError is a RuntimeError
            no_room = isinstance(error, torch.OutOfMemoryError | MemoryError) or any(x in str(error) for x in NO_ROOM)
            if len(some) == 1 or not no_room:
                raise
            fits = False
        if fits:
            done += len(some)
        else:  # the failed run has let go of its tensors only here, after its error
            most = len(some) // 2
            torch.cuda.empty_cache()  # nothing where there is no GPU
    return results, most


def branch(stems: list[list[int]], branches: list[list[int]]) -> tuple[Tensor, Tensor, Tensor | None]:
    """Sequences that fork: each stem is followed by every branch, and no branch sees another.

    Args:
        stems: token ids of B stems.
        branches: token ids of the branches, the same after every stem; they may be empty.

    Returns:
        Token ids, (B, T) int64, padded on the right; the place of each token after its stem's start, (B, T) int64; and
        which tokens each token sees, (B, 1, T, T) bool, None where nothing forks and the causal order says it all.
    """
    flat = [token for tokens in branches for token in tokens]
    places = torch.tensor([place for tokens in branches for place in range(len(tokens))], dtype=torch.long)
    number = torch.tensor([i for i, tokens in enumerate(branches, start=1) for _ in tokens], dtype=torch.long)

    def pad(rows: list[Tensor]) -> Tensor:
        return pad_sequence(rows, batch_first=True, padding_value=0)  # (B, T)

    ids = pad([torch.tensor(stem + flat) for stem in stems])  # (B, T)
    positions = pad([torch.cat([torch.arange(len(stem)), len(stem) + places]) for stem in stems])  # (B, T)
    if len(set(number.tolist())) <= 1:  # at most one branch with tokens: it simply continues the stem
        return ids, positions, None
    segment = pad([torch.cat([torch.zeros(len(stem), dtype=torch.long), number]) for stem in stems])  # (B, T), 0: stem
    same = segment[:, :, None] == segment[:, None, :]  # (B, T, T)
    of_stem = segment[:, None, :] == 0  # (B, 1, T)
    return ids, positions, (causal_mask(ids.shape[1]) & (same | of_stem)).unsqueeze(1)  # (B, 1, T, T)
