"""The six tasks in miniature: the words of pocket-gpt's world under templates like those of the real tasks."""

import random
import re
from dataclasses import dataclass
from functools import cache
from string import Formatter

from iclnb.language.lexicon import ATTRIBUTES, NONSENSE, STATES
from iclnb.language.sentences import HELD_OUT, NEVER_LABELS, PATTERNS, REVIEWS, claim, kept_for_evaluation, sentence


@dataclass(frozen=True)
class Miniature:
    """One of the six tasks, in the words of this world.

    Args:
        template: text with named fields, as the real task's.
        answers: one per class, in label order; never a label in any document.
        classes: for each label, the classes of `attribute` that it stands for.
        attribute: what the task asks about.
        patterns: cores of its sentences.
    """

    template: str
    answers: tuple[str, ...]
    attribute: str
    classes: tuple[tuple[str, ...], ...]
    patterns: tuple[str, ...] = PATTERNS

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the template's fields."""
        return tuple(name for _, name, _, _ in Formatter().parse(self.template) if name)


# The answers are reserved words with which the finished model, without demonstrations, is above chance and biased, as
# GPT is with the real tasks' answers. They were chosen on the train splits.
TASKS = {
    "sst2": Miniature("Sentence: {sentence} Label:", ("vile", "splendid"), "sentiment", (("1", "2"), ("4", "5"))),
    "sst5": Miniature(
        "Sentence: {text} Grade:",
        ("dreadful", "weak", "average", "good", "perfect"),
        "sentiment",
        (("1",), ("2",), ("3",), ("4",), ("5",)),
    ),
    "mr": Miniature("Review: {text} Mood:", ("bland", "brilliant"), "sentiment", (("1", "2"), ("4", "5")), REVIEWS),
    "subj": Miniature("Input: {text} Type:", ("reportedly", "frankly"), "stance", (("objective",), ("subjective",))),
    "agnews": Miniature(
        "Article: {text} Topic:",
        ("minister", "trophy", "market", "robot"),
        "topic",
        (("politics",), ("sport",), ("business",), ("technology",)),
    ),
    "cb": Miniature(
        "{premise}. Question: {hypothesis}? Answer:",
        ("yes", "never", "unknown"),
        "verdict",
        (("entails",), ("contradicts",), ("neither",)),
    ),
}
ROWS = {"train": 2000, "evaluation": 500}
TASK_FORMATS = frozenset(tuple(re.findall(r"[A-Z]\w+", task.template)) for task in TASKS.values())
ARBITRARY_ANSWERS = NONSENSE[::9]  # label words for the variant of a task that only its demonstrations can define


def examples(name: str, split: str, n: int | None = None) -> list[dict]:
    """Rows of a task.

    Args:
        name: one of TASKS.
        split: "train", without held-out words, or "evaluation", where about half of the words are held out.
        n: number of rows; None is ROWS[split].

    Returns:
        Rows {field: text, ..., "label": int}, the same ones at every call; labels take turns at random.

    Raises:
        ValueError: an unknown task or split, or n below 0.
    """
    if name not in TASKS:
        raise ValueError(f"task is {name!r}; known are {', '.join(TASKS)}")
    if split not in ROWS:
        raise ValueError(f"split is {split!r}; accepted are {', '.join(map(repr, ROWS))}")
    n = ROWS[split] if n is None else n
    if n < 0:
        raise ValueError(f"n is {n}; it must be at least 0")
    return [dict(row) for row in _draw_rows(name, split, n)]


@cache  # drawn once in a process; nobody else holds these rows
def _draw_rows(name: str, split: str, n: int) -> tuple[dict, ...]:
    rng, rows = random.Random(f"{name} {split}"), {}
    while len(rows) < n:
        row = _draw_row(TASKS[name], split, rng)
        rows.setdefault(tuple(row[field] for field in TASKS[name].fields), row)
    return tuple(rows.values())


def _draw_row(task: Miniature, split: str, rng: random.Random) -> dict:
    label = rng.randrange(len(task.answers))
    key = rng.choice(task.classes[label])
    word, states = (train_word, STATES[:24]) if split == "train" else (evaluation_word, STATES[16:])
    while True:
        if task.attribute == "verdict":
            texts = claim(rng, key, word, states)
        else:
            texts = (sentence(rng, {task.attribute: key}, task.patterns, word),)
        if kept_for_evaluation(" ".join(texts)) == (split == "evaluation"):
            return dict(zip(task.fields, texts, strict=True)) | {"label": label}


def train_word(rng: random.Random, attribute: str, key: str) -> str:
    """A word that train splits may use: not held out, and no task's answer."""
    return rng.choice(_task_words(attribute, key, "train"))


def evaluation_word(rng: random.Random, attribute: str, key: str) -> str:
    """A word for evaluation splits: held out half of the time."""
    return rng.choice(_task_words(attribute, key, rng.choice(("train", "held out"))))


@cache
def _task_words(attribute: str, key: str, part: str) -> tuple[str, ...]:
    words = ATTRIBUTES[attribute][key]
    free = tuple(word for word in words if word not in NEVER_LABELS)
    return tuple(word for word in free if (word in HELD_OUT) == (part == "held out")) or free
