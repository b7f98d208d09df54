"""What the attention layers did at the recorded position of each query: the material of every comparison.

Letters: n examples, L layers, H heads, C width, P prompt tokens, T own tokens of the longest query.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


class Maps(Sequence):
    """Attention maps of queries of unlike length in one tensor, so that a batch of them is compared at once.

    Args:
        padded: (n, L, H, T), zeros and then each query's own tokens.
        lengths: how many own tokens each query has.
    """

    def __init__(self, padded: Tensor, lengths: Sequence[int]):
        self.padded, self.lengths = padded, list(lengths)

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, i: int) -> Tensor:
        """The map of query i, (L, H, own tokens)."""
        return self.padded[i, ..., self.padded.shape[-1] - self.lengths[i] :]

    def of(self, rows: Sequence[int]) -> "Maps":
        """The maps of some of the queries."""
        return Maps(self.padded[list(rows)], [self.lengths[i] for i in rows])

    @staticmethod
    def join(parts: Sequence["Maps"]) -> "Maps":
        """The maps of several passes, one behind the other."""
        T = max(part.padded.shape[-1] for part in parts)
        padded = torch.cat([F.pad(part.padded, (T - part.padded.shape[-1], 0)) for part in parts])  # (n, L, H, T)
        return Maps(padded, [length for part in parts for length in part.lengths])


@dataclass
class Internals:
    """What the attention layers did at the recorded position of each query, float32.

    They lie on the CPU, those of a batch of predict.stream where the model is.

    Args:
        output: attention-block output after its projection, before the residual, (n, L, C).
        scores: for each query, logits of the position to the query's own tokens, (L, H, own tokens), without `<s>`; a
            list of tensors, or the Maps of a batch.
        prefix_scores: logits of the position to each token of the prompt, summed over heads, (n, L, P).
        query: query vectors, scaled by 1 / sqrt(D), all heads side by side, (n, L, C).
        dtype: in which the model computed them, and to whose last digits they are therefore exact.
    """

    output: Tensor
    scores: Sequence[Tensor]
    prefix_scores: Tensor
    query: Tensor
    dtype: torch.dtype = torch.float32

    def __getitem__(self, rows: Sequence[int]) -> "Internals":
        """The internals of some of the examples."""
        index = torch.tensor(rows, dtype=torch.long)
        scores = self.scores.of(rows) if isinstance(self.scores, Maps) else [self.scores[i] for i in rows]
        return Internals(self.output[index], scores, self.prefix_scores[index], self.query[index], self.dtype)

    def cpu(self) -> "Internals":
        """These internals on the CPU, a map a query: one copy a tensor, not one a query."""
        scores = Maps(self.scores.padded.cpu(), self.scores.lengths)
        return Internals(self.output.cpu(), list(scores), self.prefix_scores.cpu(), self.query.cpu(), self.dtype)

    @staticmethod
    def join(parts: Sequence["Internals"]) -> "Internals":
        """The internals of several batches, or of a batch's passes, one behind the other."""
        if all(isinstance(part.scores, Maps) for part in parts):
            scores = Maps.join([part.scores for part in parts])
        else:
            scores = [row for part in parts for row in part.scores]
        output, prefix_scores, query = (
            torch.cat([getattr(part, name) for part in parts]) for name in ("output", "prefix_scores", "query")
        )
        return Internals(output, scores, prefix_scores, query, parts[0].dtype)


def aligned(*runs: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """The maps of the same queries in several runs, (n, L, H, tokens) each, cut to the last tokens that all runs have.

    Maps come all at once, with zeros before the shorter ones; lists query by query, which defines the result.
    """
    if not all(isinstance(run, Maps) for run in runs):
        for maps in zip(*runs, strict=True):
            common = min(one.shape[-1] for one in maps)
            yield [one[None, ..., -common:] for one in maps]  # (1, L, H, common) each
        return
    T = min(run.padded.shape[-1] for run in runs)
    maps = [run.padded[..., -T:] for run in runs]  # (n, L, H, T) each
    if any(run.lengths != runs[0].lengths for run in runs):
        common = torch.tensor([min(lengths) for lengths in zip(*(run.lengths for run in runs), strict=True)])  # (n,)
        shared = torch.arange(T) >= T - common[:, None]  # (n, T)
        maps = [one * shared[:, None, None].to(one.device) for one in maps]
    yield maps
