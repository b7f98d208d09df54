"""Two harder in-context tasks as documents: translation and question answering.

Translation: each document invents a dictionary, and shows sentences with their translation, word by word. Question
answering: each text says who did what where, and asks. Documents are pieces (text, is_label) as in iclnb.documents; a
label is a word that the document so far determines.
"""

import random
from collections.abc import Iterator, Sequence
from functools import cache

from iclnb.language.documents import Piece
from iclnb.language.lexicon import ATTRIBUTES, NONSENSE

SENTENCE = ("person", "action", "topic")  # whose words a sentence to be translated is made of
KNOWN = 3  # different words that a document uses at each place of a sentence


def translation(rng: random.Random, words: int = 3) -> Iterator[Piece]:
    """Sentences of `words` words, each followed by its translation into a language that the document invents."""
    lexicons = [rng.sample(_words(attribute), KNOWN) for attribute in SENTENCE[:words]]
    known, seen = [word for lexicon in lexicons for word in lexicon], set()
    dictionary = dict(zip(known, rng.sample(NONSENSE, len(known)), strict=True))
    while True:
        sentence = [rng.choice(lexicon) for lexicon in lexicons]
        yield "".join(f" {word}" for word in sentence) + ":", False
        for word in sentence:
            yield f" {dictionary[word]}", word in seen
        yield ".", False
        seen.update(sentence)


def translation_1(rng: random.Random) -> Iterator[Piece]:
    """Translation of single words."""
    return translation(rng, words=1)


def translation_2(rng: random.Random) -> Iterator[Piece]:
    """Translation of two words at a time."""
    return translation(rng, words=2)


def answering(rng: random.Random, kinds: Sequence[str] = ("who", "what", "where")) -> Iterator[Piece]:
    """Texts of two to four sentences on who did what where, and as many questions after each."""
    while True:
        n = rng.randint(2, 4)
        drawn = (rng.sample(_words(attribute), n) for attribute in ("person", "action", "topic", "place"))
        facts = list(zip(*drawn, strict=True))
        for person, action, thing, place in facts:
            yield f" the {person} {action} the {thing} in the {place}.", False
        for _ in range(n):
            person, action, thing, place = rng.choice(facts)
            question, answer = {
                "who": (f" who {action} the {thing}?", person),
                "what": (f" what was {action} by the {person}?", thing),
                "where": (f" in what is the {thing}?", place),
            }[rng.choice(kinds)]
            yield question, False
            yield f" {answer}", True
            yield ".", False
        yield "\n", False


def who(rng: random.Random) -> Iterator[Piece]:
    """Texts with questions for the person."""
    return answering(rng, ("who",))


def what(rng: random.Random) -> Iterator[Piece]:
    """Texts with questions for the thing."""
    return answering(rng, ("what",))


def where(rng: random.Random) -> Iterator[Piece]:
    """Texts with questions for the place."""
    return answering(rng, ("where",))


@cache
def _words(attribute: str) -> tuple[str, ...]:
    return tuple(word for words in ATTRIBUTES[attribute].values() for word in words)
