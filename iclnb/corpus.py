"""What pocket-gpt reads: the kinds of documents, and the order in which they come.

A document is a list of pieces (text, is_label). Labels that the document so far determines are marked, and weigh more
in the loss: they are few, and they are what context is needed for.
"""

import random
import string
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from iclnb.lexicon import AFTER, ATTRIBUTES, BEFORE, BETWEEN, NONSENSE
from iclnb.vocabulary import BOS, CONTENT, EOS, world_words
from iclnb.world import (
    ALIASES,
    LATENT,
    NEVER_LABELS,
    PATTERNS,
    REVIEWS,
    TASK_FORMATS,
    any_word,
    fresh,
    fresh_claim,
    sentence,
)

Piece = tuple[str, bool]
LABEL_WEIGHT = 5.0
LABELS = tuple(word for word in CONTENT if word not in NEVER_LABELS)


# ---------------------------------------------------------------------------------------------------------- documents


def repeats(rng: random.Random) -> Iterator[Piece]:
    """A random block of words, again and again: teaches to copy what followed the last time."""
    block = [rng.choice(_all_words()) if rng.random() < 0.9 else spelled(rng) for _ in range(rng.randint(4, 24))]
    text = "".join(f" {word}" for word in block)
    while True:
        yield text, False


def pairs(rng: random.Random, apart: int = 0) -> Iterator[Piece]:
    """Keys with their values, in random order: teaches to look a key up.

    With `apart` fixed words between key and value, the key must be carried along to where it is needed: the step from
    copying to recall, which is learnt in a hundred steps one word at a time, and not at all in one leap.
    """
    keys, seen = rng.sample(_all_words(), rng.randint(2, 6)), set()
    values = {key: rng.choice(_all_words()) for key in keys}
    between = "".join(f" {rng.choice(_all_words())}" for _ in range(apart))
    separator = rng.choice((EOS, f" {rng.choice(_all_words())}")) if apart else ""
    while True:
        key = rng.choice(keys)
        yield f" {key}{between}", False
        yield f" {values[key]}", key in seen
        yield separator, False
        seen.add(key)


def pairs_1(rng: random.Random) -> Iterator[Piece]:
    """Pairs with one word between key and value."""
    return pairs(rng, apart=1)


def pairs_2(rng: random.Random) -> Iterator[Piece]:
    """Pairs with two words between key and value."""
    return pairs(rng, apart=2)


def pairs_3(rng: random.Random) -> Iterator[Piece]:
    """Pairs with three words between key and value."""
    return pairs(rng, apart=3)


def recall(rng: random.Random) -> Iterator[Piece]:
    """Keys and values in the format of a labelled list: teaches to look up across a format."""
    labels = draw_labels(rng, rng.randint(2, 5))
    key_to_label = {word: rng.choice(labels) for word in rng.sample(CONTENT, rng.randint(2, 7))}
    form, separator, seen = draw_format(rng, 1), draw_separator(rng), set()
    while True:
        key = rng.choice(tuple(key_to_label))
        yield form.format(key), False
        yield f" {key_to_label[key]}", key in seen
        yield separator, False
        seen.add(key)


def labelled_words(rng: random.Random, others: int = 0) -> Iterator[Piece]:
    """Words with the label of their class: teaches that a label can belong to more words than it was shown with.

    With `others`, up to so many words of other attributes stand around the one that counts, in any order.
    """
    attribute = rng.choice([name for name in ATTRIBUTES if name != "tense"])
    rest = [name for name in ATTRIBUTES if ALIASES.get(name, name) != ALIASES.get(attribute, attribute)]
    groups = rng.sample(tuple(ATTRIBUTES[attribute]), rng.randint(2, min(4, len(ATTRIBUTES[attribute]))))
    labels, seen = draw_labels(rng, len(groups)), set()
    form, separator = draw_format(rng, 1), draw_separator(rng)
    while True:
        number = rng.randrange(len(groups))
        words = [any_word(rng, name, rng.choice(tuple(ATTRIBUTES[name]))) for name in rng.sample(rest, others)]
        words.insert(rng.randint(0, others), any_word(rng, attribute, groups[number]))
        yield form.format(" ".join(words)), False
        yield f" {labels[number]}", number in seen
        yield separator, False
        seen.add(number)


def labelled_phrases(rng: random.Random) -> Iterator[Piece]:
    """The same among one to four other words: teaches to look for what counts."""
    return labelled_words(rng, others=rng.randint(1, 4))


def labelled_list(
    rng: random.Random, attribute: str | None = None, groups: list[tuple[str, ...]] | None = None
) -> Iterator[Piece]:
    """Sentences with the label of one attribute's class: teaches to infer what the labels mean.

    Most labels are arbitrary, and only the list itself defines them. In one list of five they are words of the class.
    """
    attribute = attribute or rng.choice((*LATENT, "verdict", *["sentiment"] * 2))
    groups = groups or draw_groups(rng, attribute)
    labels = draw_labels(rng, len(groups))
    if rng.random() < 0.2:
        labels = [rng.choice([w for w in ATTRIBUTES[attribute][rng.choice(g)] if w in LABELS]) for g in groups]
    fields = rng.randint(1, 2) if attribute == "verdict" else 1  # a claim comes with the clause in question, or without
    form, separator, seen = draw_format(rng, fields), draw_separator(rng), set()
    patterns = REVIEWS if attribute == "sentiment" and rng.random() < 0.3 else PATTERNS
    while True:
        number = rng.randrange(len(groups))
        key = rng.choice(groups[number])
        if attribute == "verdict":
            texts = fresh_claim(rng, key)
        else:
            texts = (fresh(lambda key=key: sentence(rng, {attribute: key}, patterns)),)
        yield form.format(*texts[:fields]), False
        yield f" {labels[number]}", number in seen
        yield separator, False
        seen.add(number)


def labelled_claims(rng: random.Random) -> Iterator[Piece]:
    """Claims with the label of what they say about their clause."""
    return labelled_list(rng, "verdict")


def labelled_topics(rng: random.Random) -> Iterator[Piece]:
    """Sentences with the label of their topic, of which there are most."""
    return labelled_list(rng, "topic")


def labelled_strengths(rng: random.Random) -> Iterator[Piece]:
    """Sentences with the label of their sentiment's strength, one of five."""
    return labelled_list(rng, "sentiment", [(key,) for key in ATTRIBUTES["sentiment"]])


def paragraph(rng: random.Random) -> Iterator[Piece]:
    """Sentences that share some classes: teaches which words belong together."""
    classes = {name: rng.choice(tuple(ATTRIBUTES[name])) for name in rng.sample(LATENT, rng.randint(1, 3))}
    for i in range(rng.randint(3, 8)):
        yield " " * (i > 0) + fresh(lambda: sentence(rng, classes)) + ".", False


def enumeration(rng: random.Random) -> Iterator[Piece]:
    """Words of one class: the shortest text that says that they belong together."""
    attribute = rng.choice(tuple(ATTRIBUTES))
    key = rng.choice(tuple(ATTRIBUTES[attribute]))
    yield "like" + ",".join(f" {any_word(rng, attribute, key)}" for _ in range(rng.randint(3, 8))) + ".", False


def dispute(rng: random.Random) -> Iterator[Piece]:
    """Claims, each with a word for what it says about its clause: teaches words of verdict as words of the text."""
    for i in range(rng.randint(2, 5)):
        verdict = rng.choice(tuple(ATTRIBUTES["verdict"]))
        premise, hypothesis = fresh_claim(rng, verdict)
        yield " " * (i > 0) + f"{premise}. {hypothesis},", False
        yield f" {any_word(rng, 'verdict', verdict)}", False
        yield ".", False


@cache
def _all_words() -> tuple[str, ...]:
    return world_words()[0]


def spelled(rng: random.Random) -> str:
    """A word that the vocabulary does not hold, so that it is spelled in bytes."""
    return "".join(rng.choice(string.ascii_lowercase) for _ in range(rng.randint(2, 4)))


def draw_labels(rng: random.Random, n: int) -> list[str]:
    """n different label words, of one kind: nonsense, words of the text, or spelled ones."""
    kind = rng.random()
    if kind < 0.1:
        return [spelled(rng) + str(i) for i in rng.sample(range(10), n)]
    return rng.sample(NONSENSE if kind < 0.5 else LABELS, n)


def draw_groups(rng: random.Random, attribute: str) -> list[tuple[str, ...]]:
    """What a list tells apart: some classes of the attribute, or the two poles of sentiment."""
    if attribute == "sentiment" and rng.random() < 0.5:
        return rng.sample([("1", "2"), ("4", "5")], 2)
    classes = [(key,) for key in ATTRIBUTES[attribute]]
    return rng.sample(classes, rng.randint(2, len(classes)) if rng.random() < 0.5 else len(classes))


def draw_format(rng: random.Random, fields: int) -> str:
    """A format for items of one or two texts; never that of a task."""
    while True:
        before, between, after = rng.choice(BEFORE), rng.choice(BETWEEN), rng.choice(AFTER)
        if fields == 1:
            words, form = (before, after), rng.choice(("{0}: {{}} {2}:", "{0}: {{}} {2} =", "{0} - {{}} - {2}:"))
        else:
            words, form = (between, after), rng.choice(("{0}: {{}} {1}: {{}} {2}:", "{{}}. {1}: {{}}? {2}:"))
        if words not in TASK_FORMATS:
            return form.format(before, between, after)


def draw_separator(rng: random.Random) -> str:
    """What stands between the items of a list."""
    return EOS if rng.random() < 0.75 else "\n"


# --------------------------------------------------------------------------------------------------------- curriculum


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
        self._encode = cache(lambda text: tuple(tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids))

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
