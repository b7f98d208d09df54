"""The kinds of documents that pocket-gpt reads.

A document is a list of pieces (text, is_label). Labels that the document so far determines are marked, and weigh more
in the loss: they are few, and they are what context is needed for.
"""

import random
import string
from collections.abc import Iterator
from functools import cache

from iclnb.language.lexicon import AFTER, ATTRIBUTES, BEFORE, BETWEEN, NONSENSE
from iclnb.language.miniatures import TASK_FORMATS
from iclnb.language.sentences import (
    ALIASES,
    LATENT,
    NEVER_LABELS,
    PATTERNS,
    REVIEWS,
    any_word,
    fresh,
    fresh_claim,
    sentence,
)
from iclnb.language.tokenizer import CONTENT, EOS, world_words

Piece = tuple[str, bool]
LABELS = tuple(word for word in CONTENT if word not in NEVER_LABELS)


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
