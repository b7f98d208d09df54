"""A text file as training data: its tokenizer, its split, its batches, and what is refused."""

import gzip
import random
import subprocess
import sys

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import BPE

from iclnb.training.text import TextError, TextFile, encode, train_tokenizer

WORDS = ["warm", "cold", "river", "Moscow", "prince", "carriage", "über", "said", "the", "of", "candle", "winter"]


def some_text(words=4000, seed=0):
    rng = random.Random(seed)
    return "".join(rng.choice(WORDS) + (".\n" if i % 9 == 8 else " ") for i in range(words))


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    file = tmp_path_factory.mktemp("text") / "novel.txt"
    file.write_text(some_text(), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def data(file):
    return TextFile(file, context=16, batch=4, seed=3, vocab_size=340)


def test_the_tokenizer_gives_any_text_back_and_uses_what_it_learnt(data):
    for text in ("the prince said\n\n  cold", "Ünknown wörds, 雪 and \t tabs", "</s>"):
        ids = data.tokenizer(text, add_special_tokens=False)["input_ids"]
        assert data.tokenizer.decode(ids) == text
    assert 258 < len(data.tokenizer) <= 340
    assert len(data.tokenizer(" the prince said", add_special_tokens=False)["input_ids"]) == 3
    assert (data.tokenizer.bos_token_id, data.tokenizer.eos_token_id) == (0, 1)


@pytest.mark.parametrize("token", ["<s>", "</s>", "<|endoftext|>"])
def test_a_special_token_in_a_text_is_its_characters(token, data, tmp_path):
    file = tmp_path / "text.txt"
    file.write_text("".join(f"{token} warm {token}\n" if i % 3 else "a cold river\n" for i in range(400)))
    tokenizer = train_tokenizer(file.read_text(), 340)
    plain = Tokenizer(BPE.from_file(*tokenizer.backend_tokenizer.model.save(str(tmp_path))))  # with no added token
    plain.pre_tokenizer = tokenizer.backend_tokenizer.pre_tokenizer
    texts = [token, f"warm{token}river", f" {token} {token}"]
    assert encode(tokenizer, texts) == [encoding.ids for encoding in plain.encode_batch(texts)]
    assert tokenizer.batch_decode(encode(tokenizer, texts)) == texts
    read = TextFile(file, context=16, vocab_size=340)
    assert min(read.ids.min(), read.held_out.min()) > 1  # 0 and 1 are `<s>` and `</s>`
    assert read.tokenizer.decode(read.ids) + read.tokenizer.decode(read.held_out) == file.read_text()


def test_the_tokenizer_is_the_same_in_every_process(file, data):
    code = (
        "import sys; from iclnb.training.text import TextFile\n"
        "print(TextFile(sys.argv[1], 16, 4, 3, 340).tokenizer.backend_tokenizer.to_str())"
    )
    done = subprocess.run([sys.executable, "-c", code, file], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == data.tokenizer.backend_tokenizer.to_str()


def test_the_last_tenth_is_held_out_and_nothing_is_lost(file, data):
    whole = file.read_text(encoding="utf-8")
    train, held_out = data.tokenizer.decode(data.ids), data.tokenizer.decode(data.held_out)
    assert train + held_out == whole
    assert len(held_out) / len(whole) == pytest.approx(0.1, abs=0.01) and train.endswith("\n")


LONG = "the prince said of winter " * 900


@pytest.mark.parametrize(
    "text",
    [
        "A Title\n" + LONG,
        "---\ntitle: a\n---\n\n" + LONG + "\n",
        "A Title\n" + "".join(random.Random(0).choices("abcdefghijklmnopqrst", k=9000)),
        "A Title\n" + "".join(random.Random(0).choices([chr(0x4E00 + i) for i in range(500)], k=2000)),
        LONG + "\nthe end\n" * 400,
        "\n".join([LONG[:5000]] * 4),
    ],
)
def test_the_last_tenth_is_held_out_whatever_the_lines_are(text, tmp_path):
    file = tmp_path / "text.txt"
    file.write_text(text, encoding="utf-8")
    data = TextFile(file, context=16, vocab_size=300)
    train, held_out = data.tokenizer.decode(data.ids), data.tokenizer.decode(data.held_out)
    assert train + held_out == text and 0.1 <= len(held_out) / len(text) < 0.111
    if " " in text[-2000:]:
        assert train[-1] in " \n"


def test_the_tokenizer_knows_the_training_part_only(tmp_path):
    file = tmp_path / "text.txt"
    file.write_text(some_text() + "zyxwv " * 400, encoding="utf-8")  # all in the last tenth
    data = TextFile(file, context=16, vocab_size=400)
    assert not any("zy" in token or "wv" in token for token in data.tokenizer.get_vocab())


def test_batches_are_rows_of_the_training_part_and_depend_on_seed_and_step_only(file, data):
    inputs, targets, weights = data(7)
    assert inputs.shape == targets.shape == weights.shape == (4, 16) and weights.eq(1).all()
    windows = {tuple(row) for row in data.ids.unfold(0, 17, 1).tolist()}
    assert all((*row, last) in windows for row, last in zip(inputs.tolist(), targets[:, -1].tolist(), strict=True))
    assert inputs[:, 1:].equal(targets[:, :-1])
    again = TextFile(file, context=16, batch=4, seed=3, vocab_size=340)
    assert again(7)[0].equal(inputs) and again.identity == data.identity
    assert not data(8)[0].equal(inputs)
    other = TextFile(file, context=16, batch=4, seed=4, vocab_size=340)
    assert not other(7)[0].equal(inputs) and other.identity != data.identity


def test_every_place_of_the_training_part_is_drawn(tmp_path):
    file = tmp_path / "text.txt"
    file.write_text(some_text(60), encoding="utf-8")
    data = TextFile(file, context=8, batch=64, vocab_size=258)
    places = len(data.ids) - 8
    seen = {tuple(row) for step in range(40) for row in torch.cat([data(step)[0], data(step)[1][:, -1:]], 1).tolist()}
    assert seen == {tuple(row) for row in data.ids.unfold(0, 9, 1).tolist()} and places > 200


@pytest.mark.parametrize(
    "content, message",
    [
        (None, "which cannot be read"),
        (b"", "which is empty"),
        (b" \n\n", "which is empty"),
        ("café".encode("latin-1") * 2000, r"which is not UTF-8 \(at byte 3\)"),
        ("a film\n".encode("utf-16") * 9, r"which is not UTF-8 \(at byte 0\)"),
        ("a film\n".encode("utf-16-le") * 9, "which is no UTF-8 text: it holds the character 0"),
        (gzip.compress(b"a film", mtime=0), r"which is not UTF-8 \(at byte 1\)"),
        (b"a short text", r"part has \d tokens; a row of context 256 needs 257"),
    ],
)
def test_a_text_that_cannot_be_used_is_one_sentence(tmp_path, content, message):
    file = tmp_path / "text.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(TextError, match=message) as error:
        TextFile(file)
    assert "\n" not in str(error.value) and "text.txt" in str(error.value)


@pytest.mark.parametrize("sizes", [{"context": 0}, {"batch": -1}])
def test_sizes_below_one_are_refused(file, sizes):
    with pytest.raises(TextError, match="must be at least 1"):
        TextFile(file, **sizes)


def test_war_and_peace(iclnb_data):
    data = TextFile(iclnb_data / "text" / "war_and_peace.txt")
    assert len(data.tokenizer) == 1024 and len(data.ids) > 900_000 and len(data.held_out) > 100_000
    assert "Prince" in data.tokenizer.decode(data.ids[:20])
