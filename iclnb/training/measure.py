"""What a record says of a model of the synthetic language while it trains, on documents that no training sees."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from iclnb.experiment.predict import few_shot
from iclnb.language.curriculum import Corpus, Phase
from iclnb.language.documents import recall, repeats
from iclnb.language.questions import SENTENCE, translation, what, where, who
from iclnb.model.gpt import GPT
from iclnb.tasks.task import TASKS, load_task
from iclnb.tasks.variants import with_arbitrary_answers

HELD_OUT = {"rows": 20, "length": 160}  # the documents of Accuracy, of a seed that no training has


class Measurement:
    """What the record says about pocket-gpt: copying, recall, and few-shot accuracy of the six miniature tasks.

    The tasks are measured with arbitrary answers, so that only the demonstrations can tell what an answer means.
    """

    def __init__(self, tokenizer: Any, queries: int = 100, k: int = 16):
        self.tokenizer, self.queries, self.k = tokenizer, queries, k
        self.tasks = [with_arbitrary_answers(load_task(name, "sample")) for name in TASKS]
        self.probes = {kind: Probe(tokenizer, kind) for kind in (repeats, recall)}

    def __call__(self, model: GPT) -> dict[str, float]:
        """Accuracies in [0, 1]."""
        model.eval()
        found = {"copying": self.probes[repeats].accuracy(model), "recall": self.probes[recall].accuracy(model)}
        for task in self.tasks:
            found[task.name] = few_shot(model, self.tokenizer, task, self.k, limit=self.queries).accuracy
        return found


class Probe:
    """One batch of one kind of document that training never shows, and where in it the context tells the next token."""

    def __init__(self, tokenizer: Any, kind: Callable):
        corpus, phase = Corpus(tokenizer, steps=1, seed=-1), Phase(1, 30, 128, {kind: 1.0})
        rows = corpus.rows(step=0, phase=phase)
        self.inputs, self.targets, weights = rows  # (B, T) each
        told = torch.arange(phase.length) >= phase.length // 2 if kind is repeats else weights > 1
        self.told = told.expand_as(weights)  # (B, T) bool

    @torch.no_grad()
    def accuracy(self, model: GPT) -> float:
        """Share of such tokens that the model puts first."""
        right = model(self.inputs.to(model.embed_tokens.weight.device)).argmax(-1).cpu() == self.targets  # (B, T)
        return right[self.told].double().mean().item()


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
