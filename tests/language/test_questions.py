"""Translation and question answering: documents that tell what they ask for, and measures that count what they say."""

import itertools
import math
import random
import re

import pytest
import torch

from iclnb.language.questions import answering, translation, translation_2
from iclnb.language.tokenizer import build_tokenizer
from iclnb.model import heads
from iclnb.model.gpt import GPT
from iclnb.training.measure import Accuracy, whole_sentences
from iclnb.training.pretrain import make_config

TOKENIZER = build_tokenizer()


def tiny(**momentum):
    return GPT(make_config(TOKENIZER, n_layer=2, n_head=2, n_embd=16, **momentum)).initialise(0)


def pieces(document, n):
    return list(itertools.islice(document, n))


@pytest.mark.parametrize("document", [translation, translation_2])
def test_translations_are_one_dictionary_and_mark_what_it_has_shown(document):
    for seed in range(20):
        text, marks = "", []
        for piece, is_label in pieces(document(random.Random(seed)), 200):
            text += piece
            if re.fullmatch(r" \w+", piece):
                marks.append(is_label)
        sentences = [line.split(":") for line in text.split(".") if line.count(" ") > 3]
        dictionary, told = {}, []
        for source, target in sentences:
            known = dict(dictionary)  # a word counts from the next sentence on
            for word, foreign in zip(source.split(), target.split(), strict=False):
                told.append(word in known)
                assert dictionary.setdefault(word, foreign) == foreign
        assert len(set(dictionary.values())) == len(dictionary)
        assert told == marks[: len(told)] and any(told) and not all(told)


def test_answers_are_those_that_the_text_gives():
    for seed in range(20):
        facts, asked = [], set()
        for (piece, _), (answer, is_label) in itertools.pairwise(pieces(answering(random.Random(seed)), 300)):
            if fact := re.fullmatch(r" the (\w+) (\w+) the (\w+) in the (\w+)\.", piece):
                facts.append(fact.groups())
            elif piece == "\n":
                assert all(len(set(column)) == len(facts) for column in zip(*facts, strict=True))
                facts = []
            elif piece.endswith("?"):
                assert is_label
                question, text = piece.rstrip("?").split(), answer.strip()
                known = {  # column of the facts -> its word
                    "who": lambda q, a: {0: a, 1: q[1], 2: q[3]},
                    "what": lambda q, a: {0: q[-1], 1: q[2], 2: a},
                    "in": lambda q, a: {2: q[-1], 3: a},
                }[question[0]](question, text)
                assert sum(all(fact[i] == word for i, word in known.items()) for fact in facts) == 1
                asked.add(question[0])
        assert asked == {"who", "what", "in"}


def test_every_word_of_the_documents_is_one_token():
    for kind in (translation, answering):
        text = "".join(piece for piece, _ in pieces(kind(random.Random(0)), 400))
        words = re.findall(r"\w+|[^\w\s]|\n", text)
        assert len(TOKENIZER(text, add_special_tokens=False)["input_ids"]) == len(words)


def test_whole_sentences_are_counted_as_by_hand():
    told = torch.rand(30, 40, generator=torch.Generator().manual_seed(0)) < 0.6
    told[:, 3::4] = False  # what stands between translations
    right = told & (torch.rand(30, 40, generator=torch.Generator().manual_seed(1)) < 0.8)
    rows = [(told[b, t : t + 3], right[b, t : t + 3]) for b in range(30) for t in range(38)]
    whole = [r for s, r in rows if s.sum() == 3]
    assert whole_sentences(told, right) == (sum(r.sum() == 3 for r in whole), len(whole))


def test_a_model_that_copies_the_labels_is_right_everywhere(monkeypatch):
    accuracy = Accuracy(TOKENIZER)
    answers = {name: targets for name, (_, targets, _) in accuracy.rows.items()}
    turn = iter(answers.values())

    class Oracle(torch.nn.Module):
        embed_tokens = torch.nn.Embedding(1, 1)

        def forward(self, ids):
            return torch.nn.functional.one_hot(next(turn), len(TOKENIZER)).float()  # (B, T, V)

    found = accuracy.counts(Oracle())
    assert set(found) == {"words", "sentences", "who", "what", "where"}
    assert all(right == n > 100 for right, n in found.values())
    assert 3 * found["sentences"][1] <= found["words"][1]


def test_a_guess_at_translation_is_as_good_as_a_random_guesser():
    accuracy, rng = Accuracy(TOKENIZER), random.Random(0)
    right, asked = 0, 0
    for _ in range(100):
        shown = [set() for _ in range(3)]
        place = 0
        for piece, is_label in pieces(translation(random.Random(rng.random())), 100):
            if piece == ".":
                place = 0
            elif not piece.endswith(":"):
                if is_label:
                    right += rng.choice(sorted(shown[place])) == piece
                    asked += 1
                shown[place].add(piece)
                place += 1
    found = accuracy.guess()
    assert found["words"] == pytest.approx(right / asked, abs=0.03) and found["sentences"] < found["words"] ** 2


def test_a_guess_at_answers_is_right_once_in_three():
    counts = {"asked": 0, "guess": 0.0}
    n = 0
    for piece, is_label in pieces(answering(random.Random(3)), 20000):
        n = 0 if piece == "\n" else n + piece.startswith(" the ")
        counts["asked"] += is_label
        counts["guess"] += is_label / n if n else 0
    assert counts["guess"] / counts["asked"] == pytest.approx(1 / 3, abs=0.01)


@pytest.mark.parametrize("momentum", [{}, {"momentum": 0.5, "learn_momentum": True}])
def test_spread_of_uniform_attention(momentum):
    model, T = tiny(**momentum), 12
    with torch.no_grad():
        for block in model.blocks:
            block.attn.q_proj.weight.zero_()  # every score is then 0
    found = heads.spread(model, torch.arange(2 * T).view(2, T))
    entropy = sum(math.log(t + 1) for t in range(T)) / T
    assert torch.allclose(found["entropy"], torch.full((2, 2), entropy), atol=1e-5)
    assert torch.allclose(found["distance"], torch.full((2, 2), (T - 1) / 4), atol=1e-5)  # mean of t / 2
