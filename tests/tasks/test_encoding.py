"""Texts -> ids: special tokens written in a text stay text, and a piece gets the ids that it has in its text."""

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from toys import toy_task
from transformers import PreTrainedTokenizerFast

import iclnb
from iclnb.tasks.encoding import encode, encode_piece
from iclnb.tasks.prompts import encode_answers
from iclnb.tasks.task import SPECS


@pytest.fixture(scope="module")
def pocket():
    return iclnb.load("pocket-gpt", device="cpu")[1]


@pytest.fixture(scope="module")
def sentencepiece():
    """A tokenizer of the SentencePiece kind: a space before every text, and spaces that belong to words."""
    pieces = [
        "<unk>",
        "<s>",
        "</s>",
        *"▁ Label: Positive Negative Sentence: a warm\n".replace(" ", ""),
        "▁Label:",
        "▁Positive",
    ]
    pieces = list(dict.fromkeys([*pieces, "Sentence:", "▁Sentence:", "▁Negative"]))
    tokenizer = Tokenizer(models.Unigram([(piece, -float(1 + (len(piece) == 1))) for piece in pieces], unk_id=0))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@pytest.mark.parametrize("name", ["pocket", "fairseq"])
@pytest.mark.parametrize("text", ["a </s> film", "<s>", "</s></s>", "x<|endoftext|>", "<pad> y"])
def test_special_tokens_in_a_text_are_its_characters(name, text, request):
    tokenizer = request.getfixturevalue(name)
    ids = encode(tokenizer, [text])[0]
    assert set(ids).isdisjoint(tokenizer.all_special_ids) and tokenizer.decode(ids) == text


def test_a_tokenizer_that_cannot_leave_them_alone_is_refused():
    tokenizer = Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1, "film": 2, "[UNK]": 3}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="[UNK]")
    assert encode(words, ["film other"]) == [[2, 3]]  # a word that is not known is no special token
    with pytest.raises(ValueError, match="'film </s>' holds '</s>', which this tokenizer takes for a special token"):
        encode(words, ["film </s>"])


def test_an_answer_is_scored_as_it_stands_in_a_demonstration(sentencepiece):
    """By itself " Positive" would get a space of its own before it."""
    spec = SPECS["sst2"]
    names = [sentencepiece.convert_ids_to_tokens(ids) for ids in encode_answers(sentencepiece, spec)]
    assert names == [["▁Negative"], ["▁Positive"]]
    assert sentencepiece.tokenize(" Positive") == ["▁", "▁Positive"]


@pytest.mark.parametrize("name", ["pocket", "fairseq", "sentencepiece"])
def test_query_and_answer_together_are_the_demonstration(name, request):
    tokenizer = request.getfixturevalue(name)
    for task in (toy_task(name="sst2"), toy_task(name="cb")):
        for example in task.evaluation:
            for answer, ids in zip(task.answers, encode_answers(tokenizer, task.spec), strict=True):
                query, whole = encode(tokenizer, [example.text, f"{example.text} {answer}"])
                assert whole == query + ids


def test_a_piece_has_the_ids_that_it_has_between_its_neighbours(sentencepiece):
    assert sentencepiece.convert_ids_to_tokens(encode_piece(sentencepiece, "a", "\n", "Sentence:")) == ["\n"]
    assert encode(sentencepiece, ["\n"])[0] != encode_piece(sentencepiece, "a", "\n", "Sentence:")


def test_a_piece_that_cannot_be_cut_out_is_said_and_tokenised_by_itself(fairseq):
    with pytest.warns(UserWarning, match="' ' cannot be cut out of 'Label: Positive', .* 'ĠPositive' reaches beyond"):
        assert encode_piece(fairseq, "Label:", " ", "Positive") == encode(fairseq, [" "])[0]
