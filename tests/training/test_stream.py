"""A text dataset read as a stream, here from a folder through the same call of `datasets` as from the Hub."""

import random

import pandas as pd
import pytest
import torch

from iclnb.training.loop import Schedule, train
from iclnb.training.text import TextError, TextStream, hub_tokenizer, train_tokenizer

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
    from iclnb.model.gpt import GPT, GPTConfig

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
        ({"field": "content"}, "whose field 'content' is no text; it has title, text"),
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
