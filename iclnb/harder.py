"""Two harder in-context tasks, translation and question answering: plain against momentum attention on them.

Translation: each document invents a dictionary, and shows sentences with their translation, word by word. Question
answering: each text says who did what where, and asks. Documents are pieces (text, is_label) as in iclnb.corpus; a
label is a word that the document so far determines.

`python -m iclnb.harder --models build/momentum --out data/momentum` goes on training the models of iclnb.study on both.
"""

import argparse
import json
import math
import random
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from iclnb.checkpoints import load
from iclnb.corpus import Corpus, Phase, Piece, size
from iclnb.gpt import GPT
from iclnb.labs.induction import attention_patterns
from iclnb.lexicon import ATTRIBUTES, NONSENSE
from iclnb.paths import data_folder, write_whole
from iclnb.pretrain import pretrain
from iclnb.study import ARMS, STEPS, learned_momentum, rounded
from iclnb.study import PHASES as FIRST_PHASES
from iclnb.training import Schedule, train
from iclnb.vocabulary import build_tokenizer

GIVEN, GIVEN_MOMENTUM = "given", 0.1  # the plain models, to which a learned momentum is given before they go on
MAIN = ("plain", "learned", GIVEN)  # the first two are arms of the study
CHOICES = (*(arm for arm in ARMS if arm not in STEPS), GIVEN)  # one length of training for all
SENTENCE = ("person", "action", "topic")  # whose words a sentence to be translated is made of
KNOWN = 3  # different words that a document uses at each place of a sentence
HELD_OUT = {"rows": 20, "length": 160}  # documents that measure, of a seed that no training has
MEASURE_EVERY = 25  # steps


# ---------------------------------------------------------------------------------------------------------- documents


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


PHASES = (
    Phase(50, 6, 96, {translation_1: 0.2, translation_2: 0.2, who: 0.2, what: 0.2, where: 0.2}),
    Phase(250, 6, 96, {translation_2: 0.1, translation: 0.35, answering: 0.55}),
)


# ---------------------------------------------------------------------------------------------------------- measuring


class Accuracy:
    """Right answers on documents that no training sees, and out of how many.

    A word counts when the document has shown its translation before, a sentence when that holds for all its words.
    """

    def __init__(self, tokenizer: Any):
        corpus = Corpus(tokenizer, steps=1, seed=-1)
        self.rows = {
            kind.__name__: corpus.rows(0, Phase(1, HELD_OUT["rows"], HELD_OUT["length"], {kind: 1.0}))
            for kind in (translation, who, what, where)
        }  # name -> inputs, targets, weights, (B, T) each
        self.colon = tokenizer.convert_tokens_to_ids(":")

    @torch.no_grad()
    def counts(self, model: GPT) -> dict[str, tuple[int, int]]:
        """Right and all, of "words", "sentences", "who", "what" and "where"."""
        model.eval()
        found = {}
        for name, (inputs, targets, weights) in self.rows.items():
            device = model.embed_tokens.weight.device
            told = weights > 1  # (B, T)
            right = (model(inputs.to(device)).argmax(-1).cpu() == targets) & told  # (B, T)
            found[name] = (int(right.sum()), int(told.sum()))
            if name == "translation":
                found["words"] = found.pop(name)
                found["sentences"] = whole_sentences(told, right)
        return found

    def __call__(self, model: GPT) -> dict[str, float]:
        """The same as shares; "answers" is over all questions."""
        found = self.counts(model)
        right, all_ = (sum(found[kind][i] for kind in ("who", "what", "where")) for i in (0, 1))
        return {name: r / n for name, (r, n) in found.items()} | {"answers": right / all_}

    def guess(self) -> dict[str, float]:
        """How often a guess among the words that fit is right: those shown at the same place, or asked for in the text.

        Of the n answers to the n questions after each text, n = 2, 3 or 4, that is once in three.
        """
        inputs, targets, weights = self.rows["translation"]
        words, sentences = [], []
        for row, told, starts in zip(targets, weights > 1, inputs == self.colon, strict=True):  # (T,) each
            shown = [set() for _ in SENTENCE]
            for start in starts.nonzero().flatten().tolist():
                places = list(enumerate(range(start, min(start + len(SENTENCE), len(row)))))
                chances = [1 / len(shown[place]) for place, t in places if told[t]]
                words += chances
                sentences += [math.prod(chances)] if len(chances) == len(SENTENCE) else []
                for place, t in places:
                    shown[place].add(int(row[t]))
        found = {"words": sum(words) / len(words), "sentences": sum(sentences) / len(sentences)}
        return found | dict.fromkeys(("who", "what", "where"), 1 / 3)


def whole_sentences(told: Tensor, right: Tensor) -> tuple[int, int]:
    """Of the runs of len(SENTENCE) words that the context tells, how many are right from end to end, and how many are.

    Args:
        told: which targets the context tells, (B, T) bool.
        right: which of them the model puts first, (B, T) bool.
    """
    n = len(SENTENCE)  # a longer run cannot be: translations are apart
    runs = told.unfold(1, n, 1).all(-1)  # (B, T - n + 1)
    return int((runs & right.unfold(1, n, 1).all(-1)).sum()), int(runs.sum())


@torch.no_grad()
def spread(model: GPT, ids: Tensor) -> dict[str, Tensor]:
    """How widely each head's softmax weights spread, and how far back they look; momentum is not part of them.

    Args:
        model: plain or with momentum.
        ids: (B, T).

    Returns:
        "entropy" of the weights in nats and mean "distance" t - i to the attended position in tokens, means over
        sequences and positions, (L, H) float32 each.
    """
    A = attention_patterns(model, ids)  # (L, B, H, T, T)
    t = torch.arange(ids.shape[1], device=A.device)  # (T,)
    entropy = torch.special.entr(A).sum(-1)  # (L, B, H, T)
    distance = (A * (t[:, None] - t)).sum(-1)  # (L, B, H, T)
    return {"entropy": entropy.mean((1, 3)).cpu(), "distance": distance.mean((1, 3)).cpu()}


# ----------------------------------------------------------------------------------------------------------- training


def first_model(arm: str, seed: int, models: Path) -> GPT:
    """A model that iclnb.study trains, taken from `models`/`arm`-`seed` or trained into it; GIVEN is the plain one."""
    if arm == GIVEN:
        return first_model("plain", seed, models).with_momentum(GIVEN_MOMENTUM, learn=True)
    folder = models / f"{arm}-{seed}"
    if not (folder / "model.safetensors").exists():
        pretrain(folder, seed=seed, resume=True, curriculum=FIRST_PHASES, **ARMS[arm])
    return load(folder, device="cpu", dtype="float32")[0]


def run(model: GPT, seed: int, progress: bool = True) -> dict[str, Any]:
    """Train a model further on both tasks, in place.

    Args:
        model: from first_model.
        seed: of the documents.
        progress: show a progress bar.

    Returns:
        "training": named columns, one entry a measurement, the first before any step; "counts": right and all at the
        end; "spread": entropy and distance of each head before the training, on labelled lists; "eta": the learned
        momenta before and after.
    """
    tokenizer, steps = build_tokenizer(), size(PHASES)[0]
    accuracy = Accuracy(tokenizer)
    lists = Corpus(tokenizer, 1, seed=-1).rows(0, Phase(1, 16, 128, FIRST_PHASES[-1].mixture))[0]  # (B, T)
    looks, eta = spread(model, lists), learned_momentum(model)
    start = {"step": 0, "tokens": 0, "loss": None} | accuracy(model)
    model.requires_grad_(True)
    rows = train(
        model,
        Corpus(tokenizer, steps, seed, PHASES),
        Schedule(steps),
        measure=accuracy,
        measure_at=lambda step: step % MEASURE_EVERY == 0,
        progress=progress,
    )
    return rounded(
        {
            "training": {name: [row[name] for row in (start, *rows)] for name in start},
            "counts": accuracy.counts(model),
            "spread": {name: x.tolist() for name, x in looks.items()},
            "eta": {"before": eta, "after": learned_momentum(model)},
        }
    )


def stored(folder: Path | None = None) -> dict[tuple[str, int], dict[str, Any]]:
    """The stored records, by arm and seed.

    Args:
        folder: of the records; None is the one that comes with iclnb.
    """
    files = sorted((folder or data_folder() / "momentum").glob("harder-*.json"))
    records = {tuple(file.stem.split("-", 1)[1].rsplit("-", 1)): json.loads(file.read_text()) for file in files}
    return {(arm, int(seed)): record for (arm, seed), record in records.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m iclnb.harder", description=__doc__.splitlines()[0])
    parser.add_argument("--out", required=True, type=Path, help="folder of the records; those that are there are kept")
    parser.add_argument("--models", required=True, type=Path, help="folder of the study's models, trained if missing")
    parser.add_argument("--seeds", type=int, default=3, help="of each arm (default 3)")
    parser.add_argument(
        "--arms", default=",".join(MAIN), help=f"some of {', '.join(CHOICES)} (default: {','.join(MAIN)})"
    )
    options = parser.parse_args(arguments)
    arms = options.arms.split(",")
    if unknown := set(arms) - set(CHOICES):
        parser.error(f"argument --arms: unknown is {', '.join(sorted(unknown))}; known are {', '.join(CHOICES)}")
    torch.set_num_threads(1)  # the models are too small for more; another number rounds otherwise
    todo = [(arm, seed) for seed in range(options.seeds) for arm in arms]
    for arm, seed in tqdm(todo, unit="model"):
        file = options.out / f"harder-{arm}-{seed}.json"
        if not file.exists():
            record = run(first_model(arm, seed, options.models), seed)
            write_whole(file, json.dumps(record).encode())


if __name__ == "__main__":
    main()
