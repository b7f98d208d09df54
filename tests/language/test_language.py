"""The synthetic language, its documents and its tokenizer."""

import random
import re
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iclnb.language import curriculum, miniatures, sentences
from iclnb.language import documents as kinds
from iclnb.language.curriculum import Corpus
from iclnb.language.lexicon import ATTRIBUTES, STATES
from iclnb.language.tokenizer import build_tokenizer
from iclnb.tasks.task import TASKS as REAL_TASKS
from iclnb.tasks.task import load_task

CLASSES = {"sst2": 2, "sst5": 5, "mr": 2, "subj": 2, "agnews": 4, "cb": 3}


TOKENIZER = build_tokenizer()


@pytest.fixture
def tokenizer():
    return TOKENIZER


@pytest.fixture(scope="module")
def documents():
    """A few thousand sequences of every phase, as text."""
    read = Corpus(TOKENIZER, steps=400, seed=11)
    return [TOKENIZER.decode(row) for step in range(0, 400, 4) for row in read(step)[0]]


def texts(name, split):
    task = miniatures.TASKS[name]
    return [" ".join(row[field] for field in task.fields) for row in miniatures.examples(name, split)]


def words_of(rows):
    return {word for text in rows for word in text.split()}


def test_every_word_stands_for_one_class_only():
    words = [w for classes in ATTRIBUTES.values() for group in classes.values() for w in group]
    words += STATES
    assert len(words) == len(set(words))


def test_tasks_mirror_the_real_ones():
    assert tuple(miniatures.TASKS) == REAL_TASKS
    assert {name: len(task.answers) for name, task in miniatures.TASKS.items()} == CLASSES


@pytest.mark.parametrize("name", miniatures.TASKS)
def test_examples_are_the_same_at_every_call(name):
    assert miniatures.examples(name, "train", 50) == miniatures.examples(name, "train")[:50]
    assert len(miniatures.examples(name, "train")) == 2000
    assert len(miniatures.examples(name, "evaluation")) >= 400


def test_examples_are_drawn_once_and_cannot_be_spoilt(monkeypatch):
    first = miniatures.examples("mr", "evaluation")
    kept = [dict(row) for row in first]
    first[0]["label"] = "spoilt"
    first.clear()
    monkeypatch.setattr(miniatures, "_draw_row", None)  # nothing is left to draw
    assert miniatures.examples("mr", "evaluation") == kept


@pytest.mark.parametrize("name", miniatures.TASKS)
def test_splits_share_no_sentence(name):
    train, evaluation = texts(name, "train"), texts(name, "evaluation")
    assert len(set(train)) == len(train) and len(set(evaluation)) == len(evaluation)
    assert not set(train) & set(evaluation)


@pytest.mark.parametrize("name", miniatures.TASKS)
def test_most_evaluation_rows_hold_words_that_train_never_shows(name):
    unseen = words_of(texts(name, "evaluation")) - words_of(texts(name, "train"))
    rows = texts(name, "evaluation")
    assert sum(bool(unseen & set(text.split())) for text in rows) > 0.6 * len(rows)


@pytest.mark.parametrize("name", miniatures.TASKS)
def test_labels_are_balanced_and_answers_stay_out_of_the_sentences(name):
    labels = [row["label"] for row in miniatures.examples(name, "train")]
    share = [labels.count(label) / len(labels) for label in range(CLASSES[name])]
    assert min(share) > 0.8 / CLASSES[name]
    answers = set(miniatures.TASKS[name].answers)
    assert not answers & words_of(texts(name, "train") + texts(name, "evaluation"))


@pytest.mark.parametrize("name", miniatures.TASKS)
@pytest.mark.parametrize("split", ["train", "evaluation"])
def test_labels_follow_from_the_words(name, split):
    task = miniatures.TASKS[name]
    lexicon = {
        word: label
        for label, keys in enumerate(task.classes)
        for attribute in (task.attribute, *(a for a, of in sentences.ALIASES.items() if of == task.attribute))
        for key in keys
        for word in ATTRIBUTES[attribute][key]
    }
    for row in miniatures.examples(name, split):
        shown = {lexicon[word] for word in row[task.fields[0]].split() if word in lexicon}
        assert shown == {row["label"]}


def test_the_hypothesis_of_a_claim_is_a_clause_of_its_premise():
    for row in miniatures.examples("cb", "evaluation"):
        assert f"that {row['hypothesis']}" in row["premise"]


def test_no_document_shows_an_evaluation_sentence(documents):
    kept = {text for name in miniatures.TASKS if name != "cb" for text in texts(name, "evaluation")}
    found = {text for document in documents for text in re.findall(r"(?:[a-z]+ )+[a-z]+(?=[ .?]+[^a-z ])", document)}
    assert len(found) > 3000
    assert not kept & found


def test_no_document_pairs_a_task_format_with_anything(documents):
    for name, task in miniatures.TASKS.items():
        first, *_, last = re.findall(r"[A-Z]\w+", task.template)
        format_of_task = re.compile(rf"\b{first}\b ?[-:?][^A-Z]*\b{last}\b")
        assert not [d for d in documents if format_of_task.search(d)], name


def test_answers_are_words_of_the_text_but_never_labels(documents):
    answers = {answer for task in miniatures.TASKS.values() for answer in task.answers}
    assert len(answers) == sum(CLASSES.values())
    assert answers <= {word for document in documents for word in re.findall(r"\w+", document)}
    rng, labels = random.Random(3), set()
    for _ in range(2000):
        labels |= {text.strip() for text, _ in islice(kinds.labelled_list(rng), 1, 12, 3)}
    assert len(labels) > 200
    assert not answers & labels
    assert not answers & set(miniatures.ARBITRARY_ANSWERS)


def test_a_list_marks_a_label_once_it_has_been_shown():
    rng = random.Random(5)
    for _ in range(50):
        seen = set()
        for label, marked in list(islice(kinds.labelled_list(rng), 60))[1::3]:
            assert marked == (label in seen)
            seen.add(label)


@given(st.text())
def test_tokenizer_round_trips_any_text(text):
    assert TOKENIZER.decode(TOKENIZER.encode(text, add_special_tokens=False)) == text


@pytest.mark.parametrize("name", miniatures.TASKS)
def test_a_prompt_of_the_world_has_one_token_a_word(tokenizer, name):
    task = load_task(name, "sample")
    for example in task.evaluation[:100]:
        pieces = re.findall(r"\w+|[^\w\s]", example.text)
        assert len(tokenizer.encode(example.text, add_special_tokens=False)) == len(pieces)
    for answer in (*task.spec.answers, *miniatures.ARBITRARY_ANSWERS):
        assert len(tokenizer.encode(f" {answer}", add_special_tokens=False)) == 1


def test_a_batch_depends_on_seed_and_step_only(tokenizer):
    first, second = (Corpus(tokenizer, steps=100, seed=4) for _ in range(2))
    for step in (99, 0, 50, 20):
        assert all(a.equal(b) for a, b in zip(first(step), second(step), strict=True))
    assert not Corpus(tokenizer, steps=100, seed=5)(50)[0].equal(first(50)[0])
    assert first(99)[0].shape == (4, 640)


def test_what_a_corpus_remembers_is_bounded(tokenizer, monkeypatch):
    whole = Corpus(tokenizer, steps=40, seed=4)
    monkeypatch.setattr(curriculum, "REMEMBERED", 50)
    bounded = Corpus(tokenizer, steps=40, seed=4)
    for step in range(0, 40, 8):
        assert all(a.equal(b) for a, b in zip(whole(step), bounded(step), strict=True))
    assert bounded._encode.cache_info().currsize == 50 < whole._encode.cache_info().currsize
    assert whole._encode.cache_info().maxsize < 20_000


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("sst3", "train"), "task is 'sst3'; known are sst2, sst5, mr, subj, agnews, cb"),
        (("sst2", "test"), "split is 'test'; accepted are 'train', 'evaluation'"),
        (("sst2", "train", -1), "n is -1; it must be at least 0"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        miniatures.examples(*arguments)
