"""The sentences of pocket-gpt's synthetic language.

A sentence draws a class for each of several latent attributes (topic, sentiment, ...) and shows it through words of
that class's lexicon. Sentences are split by a checksum: one part is kept for the evaluation splits of the tasks, and no
document or train split ever holds one of it.
"""

import random
import re
from bisect import bisect
from collections.abc import Callable, Mapping
from functools import cache
from itertools import accumulate
from zlib import crc32

from iclnb.language.lexicon import ATTRIBUTES, STATES

# Three words a class are never a label in any document: the tasks' own answers are chosen among them. To the model
# they are words of the text, as "Positive" is to GPT.
RESERVED = {
    (attribute, key): words[1:4]
    for attribute in ("topic", "sentiment", "stance", "verdict")
    for key, words in ATTRIBUTES[attribute].items()
}
NEVER_LABELS = frozenset(word for words in RESERVED.values() for word in words)
# One word in four never occurs in the train split of a task.
HELD_OUT = frozenset(word for classes in ATTRIBUTES.values() for words in classes.values() for word in words[4::3])
EVALUATION_SHARE = 8  # one sentence in eight is kept for evaluation


PATTERNS = (
    "the {person} {action} the {adjective} {noun}",
    "the {noun} {be} {adjective}",
    "the {noun} {be} {adjective} for the {person}",
    "the {person} {reaction} the {noun}",
    "one {adjective} {noun} {be} {action} by the {person}",
    "what the {person} {action} {be} this {adjective} {noun}",
    "the {person} {reaction} how they {action} the {noun}",
    "it {be} that {adjective} {noun} which the {person} {action}",
    "the {person} {action} the {noun}",
    "the {noun} {be} here with the {person}",
    "one {person} {be} near the {noun}",
    "there {be} this {noun} for the {person}",
    "the {noun} {be} what they {action}",
    "it {be} the {person} who {action} that {noun}",
)
REVIEWS = (  # two words of sentiment
    "the {noun} {be} {adjective} and the {noun} {be} {adjective}",
    "the {person} {reaction} the {adjective} {noun}",
    "this {adjective} {noun} that the {person} {reaction}",
    "it {be} {adjective} and the {person} {reaction} it",
)
CLAIMS = (  # premises of entailment: somebody is committed to a clause, or not, by the verb
    "the {person} {commitment} that {clause}",
    "one {person} in the {place} {commitment} that {clause}",
    "at {time} the {person} {commitment} that {clause}",
    "they {commitment} that {clause}",
    "it {be} the {person} who {commitment} that {clause}",
    "that {clause} {be} what the {person} {commitment}",
)
SLOTS = {  # slot of a pattern -> attribute
    "noun": "topic",
    "action": "action",
    "adjective": "sentiment",
    "reaction": "reaction",
    "be": "tense",
    "person": "person",
    "place": "place",
    "time": "time",
}
# These show the class of another attribute.
ALIASES = {"action": "topic", "reaction": "sentiment", "commitment": "verdict"}
CARRIERS = {"sentiment": ("{adjective}", "{reaction}"), "tense": ("{be}",), "person": ("{person}",)}
LATENT = tuple(name for name in ATTRIBUTES if name not in (*ALIASES, "verdict"))  # what a list can be about

Words = Callable[[random.Random, str, str], str]  # (generator, attribute, class) -> a word


@cache
def _weights(n: int) -> tuple[float, ...]:
    """Cumulated frequencies of n words by rank: the falling curve of natural lexicons, flattened."""
    return tuple(accumulate(1 / (rank + 3) for rank in range(n)))


def any_word(rng: random.Random, attribute: str, key: str) -> str:
    """A word of the class's whole lexicon, by frequency."""
    words = ATTRIBUTES[attribute][key]
    weights = _weights(len(words))
    return words[bisect(weights, rng.random() * weights[-1])]


def sentence(
    rng: random.Random, classes: Mapping[str, str], patterns: tuple[str, ...] = PATTERNS, word: Words = any_word
) -> str:
    """A sentence without its full stop, in which the given attributes have the given classes.

    Args:
        rng: source of every choice.
        classes: attribute -> class; the other attributes are drawn, or left out.
        patterns: what the core of the sentence may look like.
        word: draws a word of a class.
    """
    drawn = {name: classes.get(name) or rng.choice(tuple(ATTRIBUTES[name])) for name in LATENT}
    drawn |= {alias: drawn[name] for alias, name in ALIASES.items() if name in drawn}
    core = rng.choice(_fitting(patterns, tuple(name for name in CARRIERS if name in classes)))
    core = re.sub(r"{(\w+)}", lambda slot: word(rng, SLOTS[slot[1]], drawn[SLOTS[slot[1]]]), core)

    def shown(attribute: str, chance: float) -> bool:
        return attribute in classes or rng.random() < chance

    if shown("colour", 0.15):
        before, article, after = core.rpartition("the ")
        if article or "colour" in classes:
            core = f"{before}{article or 'the '}{word(rng, 'colour', drawn['colour'])} {after}"
    if shown("place", 0.2):
        core += f" {rng.choice(('in', 'near'))} the {word(rng, 'place', drawn['place'])}"
    if shown("time", 0.2):
        time = f"at {word(rng, 'time', drawn['time'])}"
        core = f"{core} {time}" if rng.random() < 0.7 else f"{time} {core}"
    if shown("stance", 0.25):
        stance = word(rng, "stance", drawn["stance"])
        core = f"{core} {stance}" if rng.random() < 0.3 else f"{stance} {core}"
    return core


@cache
def _fitting(patterns: tuple[str, ...], attributes: tuple[str, ...]) -> tuple[str, ...]:
    """The patterns that can show all these attributes."""
    return tuple(
        pattern for pattern in patterns if all(any(slot in pattern for slot in CARRIERS[name]) for name in attributes)
    )


def claim(rng: random.Random, verdict: str, word: Words = any_word, states=STATES) -> tuple[str, str]:
    """A premise that holds a clause under a verb, and that clause as the hypothesis.

    The verb tells whether the premise entails the clause, contradicts it, or leaves it open, as in CommitmentBank.
    """
    noun = word(rng, "topic", rng.choice(tuple(ATTRIBUTES["topic"])))
    fill = {"be": word(rng, "tense", rng.choice(("past", "present"))), "commitment": word(rng, "commitment", verdict)}
    fill["clause"] = f"the {noun} {fill['be']} {rng.choice(states)}"
    for name in ("person", "place", "time"):
        fill[name] = word(rng, name, rng.choice(tuple(ATTRIBUTES[name])))
    return rng.choice(CLAIMS).format(**fill), fill["clause"]


def kept_for_evaluation(text: str) -> bool:
    """Whether this sentence belongs to the part of the language that only evaluation splits may use."""
    return crc32(text.encode()) % EVALUATION_SHARE == 0


def fresh(draw: Callable[[], str]) -> str:
    """The first sentence from `draw` that is not kept for evaluation."""
    while kept_for_evaluation(text := draw()):
        pass
    return text


def fresh_claim(rng: random.Random, verdict: str) -> tuple[str, str]:
    """A premise and a hypothesis that are, together, not kept for evaluation."""
    while kept_for_evaluation(" ".join(pair := claim(rng, verdict))):
        pass
    return pair
