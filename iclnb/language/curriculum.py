"""What pocket-gpt learns from: the order in which documents come, and their batches.

Letters: B sequences of T tokens.
"""

import random
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from iclnb.language.documents import (
    Piece,
    dispute,
    enumeration,
    labelled_claims,
    labelled_list,
    labelled_phrases,
    labelled_strengths,
    labelled_topics,
    labelled_words,
    pairs,
    pairs_1,
    pairs_2,
    pairs_3,
    paragraph,
    recall,
    repeats,
)
from iclnb.language.tokenizer import BOS

LABEL_WEIGHT = 5.0  # in the loss, of a label that the document so far determines
REMEMBERED = 2**14  # pieces of text whose tokens are kept: words and formats come again and again, sentences do not


@dataclass(frozen=True)
class Phase:
    """A stretch of the training: how many steps, of how many sequences of how many tokens, and what they hold.

    Small batches come first: copying is learnt after so many steps, however many tokens they have.
    """

    steps: int
    sequences: int
    length: int
    mixture: dict[Callable[[random.Random], Iterator[Piece]], float]


TEXT = {paragraph: 0.12, enumeration: 0.04, dispute: 0.04}
ALL = {
    **{labelled_list: 0.46, labelled_topics: 0.14, labelled_claims: 0.12, labelled_phrases: 0.06},
    **{dispute: 0.06, paragraph: 0.08, enumeration: 0.04, recall: 0.02, repeats: 0.02},
}
LAST = {
    **{labelled_list: 0.42, labelled_strengths: 0.12, labelled_topics: 0.1, labelled_claims: 0.1},
    **{dispute: 0.06, paragraph: 0.1, enumeration: 0.06, recall: 0.02, repeats: 0.02},
}
# The order matters: each kind of document asks for a little more than the one before, from copying over recall to
# learning in context. Labelled lists right after recall stayed at chance; by way of words and phrases they are learnt.
# The later mixtures were found one after the other, each raising what the one before had left weak.
CURRICULUM = (
    # copying, then looking up a key across one, two and three words
    Phase(1350, 15, 64, {repeats: 0.6, pairs: 0.4}),
    Phase(150, 15, 64, {pairs_1: 1.0}),
    Phase(200, 15, 64, {pairs_2: 0.7, pairs_1: 0.3}),
    Phase(300, 15, 64, {pairs_3: 0.6, pairs_2: 0.2, pairs_1: 0.2}),
    # recall: the same in the format of a list
    Phase(500, 15, 128, {recall: 0.6, pairs_3: 0.1, pairs_2: 0.1, repeats: 0.1, paragraph: 0.1}),
    # learning in context: from words over phrases to sentences
    Phase(200, 15, 128, {labelled_words: 0.7, recall: 0.1, repeats: 0.05, enumeration: 0.05, paragraph: 0.1}),
    Phase(700, 15, 128, {labelled_phrases: 0.6, labelled_list: 0.25, recall: 0.05, repeats: 0.03, paragraph: 0.07}),
    Phase(1200, 10, 256, {labelled_list: 0.65, labelled_phrases: 0.1, labelled_claims: 0.05, recall: 0.02, **TEXT}),
    # longer lists; then topics, strengths and verdicts get lists of their own
    Phase(400, 6, 640, {labelled_list: 0.7, labelled_claims: 0.07, recall: 0.02, repeats: 0.01, **TEXT}),
    Phase(1250, 8, 256, ALL),
    # everything, in lists of some 40 items
    Phase(1900, 4, 640, LAST),
)


def size(curriculum: Sequence[Phase] = CURRICULUM) -> tuple[int, int]:
    """Steps and tokens of a curriculum."""
    steps = sum(phase.steps for phase in curriculum)
    return steps, sum(phase.steps * phase.sequences * phase.length for phase in curriculum)


class Corpus:
    """Batches of the curriculum; batch i depends on the seed, the number of steps and i only.

    Args:
        tokenizer: from build_tokenizer.
        steps: length of the whole training; all phases shrink or grow with it.
        seed: of all documents.
        curriculum: the phases.
    """

    def __init__(self, tokenizer: Any, steps: int, seed: int, curriculum: Sequence[Phase] = CURRICULUM):
        self.tokenizer, self.steps, self.seed, self.curriculum = tokenizer, steps, seed, curriculum
        backend = deepcopy(tokenizer.backend_tokenizer)  # the other may be told to take `</s>` as text
        self._encode = lru_cache(REMEMBERED)(lambda text: tuple(backend.encode(text, add_special_tokens=False).ids))

    @property
    def identity(self) -> dict[str, Any]:
        """What the batches depend on, as JSON values."""
        phases = [
            [p.steps, p.sequences, p.length, {kind.__name__: share for kind, share in p.mixture.items()}]
            for p in self.curriculum
        ]
        return {"curriculum": phases, "steps": self.steps, "seed": self.seed}

    def __call__(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Batch `step`: inputs (B, T) int64, targets (B, T) int64 and loss weights (B, T) float32."""
        return self.rows(step, self.phase(step))

    def phase(self, step: int) -> Phase:
        """The phase that a step belongs to."""
        ends = list(accumulate(phase.steps for phase in self.curriculum))
        return next(p for p, end in zip(self.curriculum, ends, strict=True) if step * ends[-1] < end * self.steps)

    def rows(self, step: int, phase: Phase) -> tuple[Tensor, Tensor, Tensor]:
        """The same, out of a given phase."""
        rng = random.Random(f"{self.seed} {step}")
        rows = [self.row(rng, phase) for _ in range(phase.sequences)]
        ids = torch.tensor([ids for ids, _ in rows])  # (B, T + 1)
        weights = torch.tensor([weights for _, weights in rows])  # (B, T + 1)
        return ids[:, :-1], ids[:, 1:], weights[:, 1:]

    def row(self, rng: random.Random, phase: Phase) -> tuple[list[int], list[float]]:
        """One sequence of length + 1 tokens, documents behind each other until it is full, and its loss weights."""
        ids: list[int] = []
        weights: list[float] = []
        kinds, shares = tuple(phase.mixture), tuple(phase.mixture.values())
        while len(ids) <= phase.length:
            ids += self._encode(BOS)
            weights.append(1.0)
            for text, is_label in rng.choices(kinds, shares)[0](rng):
                tokens = self._encode(text)
                ids += tokens
                weights += [LABEL_WEIGHT if is_label else 1.0] * len(tokens)
                if len(ids) > phase.length:
                    break
        return ids[: phase.length + 1], weights[: phase.length + 1]
