"""A text dataset read as a stream, here from a folder through the same call of `datasets` as from the Hub."""

import json
import random
import warnings

import pandas as pd
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import Unigram
from transformers import PreTrainedTokenizerFast

from iclnb.model.gpt import GPT, GPTConfig
from iclnb.training.loop import Schedule, train
from iclnb.training.text import DOCUMENTS, TextError, TextStream, hub_tokenizer, train_tokenizer

WORDS = ["warm", "cold", "river", "Moscow", "prince", "carriage", "said", "the", "of", "candle", "winter"]


def document(number):
    rng = random.Random(number)
    return f"document {number}: " + " ".join(rng.choice(WORDS) for _ in range(rng.randint(5, 40)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two parquet files of 30 documents each."""
    folder = tmp_path_factory.mktemp("documents")
    for part in range(2):
        texts = [document(30 * part + i) for i in range(30)]
        pd.DataFrame({"title": "no", "text": texts}).to_parquet(folder / f"train-{part}.parquet", row_group_size=7)
    return folder


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer("\n".join(map(document, range(60))), 340)


@pytest.fixture
def stream(folder, tokenizer):
    def make(**options):
        return TextStream(str(folder), tokenizer, **{"context": 16, "batch": 4, "held_out": 6} | options)

    return make


def rows_of(batch):
    inputs, targets, _ = batch
    return torch.cat([inputs, targets[:, -1:]], 1).tolist()  # rows of T + 1 tokens


def read(stream, steps):
    """All tokens of the next steps, as one list."""
    return [token for _ in range(steps) for row in rows_of(stream(stream.step)) for token in row]


def expected(tokenizer, numbers):
    texts = [document(number) for number in numbers]
    return [t for text in texts for t in (0, *tokenizer(text, add_special_tokens=False)["input_ids"])]


def test_documents_follow_each_other_without_loss_behind_those_held_out(stream, tokenizer):
    data = stream()
    assert data.held_out.tolist() == expected(tokenizer, range(6))
    found = read(data, 8)
    assert found == expected(tokenizer, range(6, 60))[: len(found)] and len(found) == 8 * 4 * 17


def names(tokenizer, tokens):
    """The numbers of the documents in a run of tokens, without the last, which may be cut off."""
    return [int(text.removeprefix("document ").split(":")[0]) for text in tokenizer.decode(tokens).split("<s>")[1:-1]]


def test_it_starts_again_at_the_end_and_never_shows_what_is_held_out(stream, tokenizer):
    data = stream()
    found = names(tokenizer, read(data, 3 * len(expected(tokenizer, range(60))) // 68))
    rounds = [found[i : i + 54] for i in range(0, len(found) - 53, 54)]
    assert len(rounds) >= 3 and data.epoch >= 3
    assert all(sorted(one) == list(range(6, 60)) for one in rounds)


@pytest.mark.parametrize("processes", [2, 3])  # as many as divide the files, and not
def test_processes_share_the_documents(stream, tokenizer, processes):
    held, seen = [], []
    for rank in range(processes):
        data = stream(rank=rank, processes=processes, batch=6, held_out=3)
        assert data(0)[0].shape == (6 // processes, 16)
        data = stream(rank=rank, processes=processes, batch=6, held_out=3)
        tokens = []
        while data.epoch == 0:
            tokens += read(data, 1)
        held += names(tokenizer, [*data.held_out.tolist(), 0])
        seen += names(tokenizer, tokens + data.left)[: 60 // processes - 3]
    assert sorted(held + seen) == list(range(60)) and len(held) == 3 * processes


def test_a_place_is_restored_exactly_even_in_a_later_round(stream):
    data = stream()
    for steps in (3, 40):  # within the first round, and after it
        read(data, steps)
        place = data.state_dict()
        after = read(data, 30)
        other = stream()
        other.load_state_dict(place)
        assert read(other, 30) == after


class Interrupt(Exception):
    """Stands for whatever ends a process."""


def test_a_stopped_training_goes_on_at_its_place_in_the_stream(stream, tmp_path, monkeypatch):
    config = GPTConfig(vocab_size=340, n_layer=1, n_head=2, n_embd=16, n_positions=32, positions="rotary")

    def run(data, folder, **options):
        model = GPT(config).initialise(0)
        options = {"folder": folder, "checkpoint_every": 4, "progress": False} | options
        return model, train(model, data, Schedule(14), **options)

    whole, record = run(stream(), tmp_path / "whole")
    data, call = stream(), TextStream.__call__

    def stop(self, step):
        if step == 10:
            raise Interrupt
        return call(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(TextStream, "__call__", stop)
        with pytest.raises(Interrupt):
            run(data, tmp_path)
    again = stream()
    continued, record_again = run(again, tmp_path, resume=True)
    assert record == record_again and again.step == 14
    assert all(a.equal(b) for a, b in zip(whole.parameters(), continued.parameters(), strict=True))


def with_rows_without_text(folder, numbers, value=None):
    """A dataset of 60 documents, JSON, in which some rows have another value than text."""
    rows = [{"title": "no", "text": value if i in numbers else document(i)} for i in range(60)]
    folder.mkdir(exist_ok=True)
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder)


def test_rows_without_text_are_skipped_counted_and_said_once(tmp_path, tokenizer):
    folder = with_rows_without_text(tmp_path / "rows", {0, 3, 20, 21, 59})
    options = {"context": 16, "batch": 4, "held_out": 6}
    with pytest.warns(UserWarning, match="rows whose 'text' is no text, as None; they are skipped, and count") as said:
        data = TextStream(folder, tokenizer, **options)
        assert data.held_out.tolist() == expected(tokenizer, (1, 2, 4, 5, 6, 7))
        kept = [i for i in range(8, 60) if i not in (20, 21, 59)]
        assert read(data, 6) == expected(tokenizer, kept)[: 6 * 4 * 17]
        place = data.state_dict()
        after = read(data, 30)
        assert data.epoch >= 1 and data.skipped > place["skipped"] >= 4 and len(said) == 1
        other = TextStream(folder, tokenizer, **options)
        other.load_state_dict(place)
        assert read(other, 30) == after and other.skipped == data.skipped

    config = GPTConfig(vocab_size=340, n_layer=1, n_head=2, n_embd=16, n_positions=32, positions="rotary")
    assert data.measure(GPT(config).initialise(0))["skipped"] == data.skipped


@pytest.mark.parametrize("numbers, value", [(range(1, 60), None), (range(60), 7), (range(60), None)])
def test_a_field_that_is_mostly_no_text_is_refused(numbers, value, tmp_path, tokenizer, monkeypatch):
    monkeypatch.setattr("iclnb.training.text.NOT_TEXT", 10)
    folder = with_rows_without_text(tmp_path / "rows", numbers, value)
    rows = "11 of 12" if 0 not in numbers else "10 of 10"
    with pytest.raises(TextError, match=f"whose field 'text' is no text in {rows} rows; it has title, text"):
        with warnings.catch_warnings(action="ignore"):
            TextStream(folder, tokenizer, context=16, batch=4, held_out=6)


def test_a_place_at_the_end_of_a_round_is_restored(tmp_path, tokenizer):
    folder = with_rows_without_text(tmp_path / "rows", ())
    options = {"context": 16, "batch": 1, "held_out": 60 - DOCUMENTS}  # what is left is read at once
    data = TextStream(folder, tokenizer, **options)
    read(data, 1)
    place = data.state_dict()
    other = TextStream(folder, tokenizer, **options)
    other.load_state_dict(place)
    assert read(other, 60) == read(data, 60) and place["epoch"] == 0


@pytest.mark.parametrize("name, content", [("train.txt", b"caf\xe9 \n" * 999), ("train.jsonl", b'{"text": "a"}\n{"te')])
def test_a_dataset_that_breaks_off_is_one_sentence(name, content, tmp_path, tokenizer):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TextError, match="which cannot be read on") as error:
        TextStream(str(tmp_path), tokenizer, context=16, batch=4, held_out=6)
    assert "\n" not in str(error.value)


def test_special_tokens_in_documents_are_their_characters(tmp_path, tokenizer):
    texts = [f"<s>{i} and</s> of the </s> river <s>" for i in range(60)]
    (tmp_path / "train.txt").write_text("\n".join(texts))
    data = TextStream(str(tmp_path), tokenizer, context=16, batch=4, held_out=6)
    tokens = read(data, 8)
    assert data.held_out.eq(0).sum() == 6 and data.held_out.eq(1).sum() == 0 and 1 not in tokens
    found = tokenizer.decode(tokens)
    assert found.startswith("<s>" + "<s>".join(texts[6:12]))


def test_a_tokenizer_that_cannot_tell_its_separator_from_text_is_refused(tmp_path):
    pieces = [("<s>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)] + [(c, -3.0) for c in "\u2581ab<>/s"]
    unigram = Tokenizer(Unigram(pieces, unk_id=2))
    PreTrainedTokenizerFast(tokenizer_object=unigram, bos_token="<s>", eos_token="</s>").save_pretrained(tmp_path)
    with pytest.raises(TextError, match="which takes '<s>' in a text for the end of a document"):
        hub_tokenizer(str(tmp_path))


def test_text_files_can_be_streamed_too(tmp_path, tokenizer):
    for part in range(2):
        (tmp_path / f"{part}.txt").write_text("\n".join(document(30 * part + i) for i in range(30)))
    data = TextStream(str(tmp_path), tokenizer, context=16, batch=4, held_out=6)
    found = read(data, 5)
    assert found == expected(tokenizer, range(6, 60))[: len(found)]


def test_steps_can_only_be_asked_for_in_order(stream):
    data = stream()
    data(0)
    with pytest.raises(TextError, match="step is 0; a stream is read in order, and the next step is 1"):
        data(0)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"split": "validation"}, "with split 'validation', which cannot be read"),
        ({"field": "content"}, "whose field 'content' is no text in 60 of 60 rows; it has title, text"),
        ({"held_out": 1000}, "which is too small: 1000 documents are held out"),
        ({"held_out": 60}, "which holds nothing beside its held-out documents"),
        ({"context": 400}, "which is too small: 6 documents are held out, with .* a row of context 400 needs 401"),
        ({"batch": 3, "processes": 2}, "batch is 3; 2 processes need a multiple"),
        ({"context": 0}, "context is 0; it must be at least 1"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(stream, options, message):
    with pytest.raises(TextError, match=message) as error:
        stream(**options)
    assert "\n" not in str(error.value)


def test_a_dataset_or_tokenizer_that_is_not_there_is_one_sentence(tokenizer):
    with pytest.raises(TextError, match="dataset is 'nobody/nothing' with split 'train', which cannot be read"):
        TextStream("nobody/nothing", tokenizer)
    with pytest.raises(TextError, match="tokenizer is 'nobody/nothing', which cannot be had"):
        hub_tokenizer("nobody/nothing")


def test_a_tokenizer_comes_from_a_folder(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    assert hub_tokenizer(str(tmp_path)).get_vocab() == tokenizer.get_vocab()
