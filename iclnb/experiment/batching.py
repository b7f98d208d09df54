"""How queries become forward passes: what they all open with, which go together, how they fork, and the way back.

Letters: n sequences, B of them in a pass, S tokens of the longest, T with what follows it.
"""

from collections.abc import Callable, Sequence
from itertools import chain
from os.path import commonprefix  # of any sequences, not of paths alone
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from iclnb.attention.softmax import causal_mask

NO_ROOM = ("can't allocate memory", "could not create a primitive", "bad_alloc")  # on a CPU: torch, oneDNN, C++
AT_ONCE = ("cpu",)  # devices that finish one pass before they take the next: what is not finite is found there at once
MULTIPLE = {"cuda": 8}  # of the tokens of a pass: a GPU is slow with odd lengths, and with those that it has not seen


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


def pad(sequences: Sequence[list[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids (n, S) int64, zeros behind, and lengths (n,) of sequences, which are sent to the device together."""
    lengths = torch.tensor([len(ids) for ids in sequences])  # (n,)
    padded = torch.zeros(len(sequences), int(lengths.max()), dtype=torch.long)  # (n, S)
    padded[torch.arange(padded.shape[1]) < lengths[:, None]] = torch.tensor(list(chain(*sequences)), dtype=torch.long)
    return padded.to(device), lengths.to(device)


class Branches:
    """Token ids that follow every sequence of a run in branches, of which none sees another.

    Args:
        branches: ids of each; they may be empty.
        device: where the sequences are, and the branches are kept.
    """

    def __init__(self, branches: Sequence[list[int]], device: torch.device):
        flat = [(token, place, i) for i, ids in enumerate(branches, start=1) for place, token in enumerate(ids)]
        self.length = len(flat)
        columns = torch.tensor([*flat, (0, 0, 0)], device=device)  # padding behind the last
        self.tokens, self.places, self.numbers = columns.unbind(1)  # (length + 1,) each
        self.fork = len({i for _, _, i in flat}) > 1  # else at most one has tokens: it simply continues the stem

    def follow(self, stems: Tensor, lengths: Tensor, multiple: int = 1) -> tuple[Tensor, Tensor, Tensor | None]:
        """The stems, each followed by every branch; made where they are, without a loop over them.

        Args:
            stems: token ids, (B, S) int64, zeros behind.
            lengths: of the stems, (B,).
            multiple: T is one of it.

        Returns:
            Token ids, (B, T) int64, padded on the right; the place of each token after its stem's start, (B, T) int64;
            and which tokens each token sees, (B, 1, T, T) bool, None where nothing forks and the causal order says it.
        """
        T = -(-(stems.shape[1] + self.length) // multiple) * multiple
        t = torch.arange(T, device=stems.device)  # (T,)
        after = t - lengths[:, None]  # (B, T), how far behind the stem
        which = after.clamp(0, self.length)  # (B, T)
        of_stem = after < 0  # (B, T)
        ids = torch.where(of_stem, F.pad(stems, (0, T - stems.shape[1])), self.tokens[which])  # (B, T)
        behind = torch.where(after < self.length, lengths[:, None] + self.places[which], 0)  # (B, T)
        positions = torch.where(of_stem, t, behind)  # (B, T)
        if not self.fork:
            return ids, positions, None
        segment = self.numbers[which].masked_fill(of_stem, 0)  # (B, T), 0: stem
        same = segment[:, :, None] == segment[:, None, :]  # (B, T, T)
        stem = segment[:, None, :] == 0  # (B, 1, T)
        return ids, positions, (causal_mask(T, stems.device) & (same | stem)).unsqueeze(1)  # (B, 1, T, T)
