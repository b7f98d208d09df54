"""Tokenizer files: the tokens that they say, whatever class they name, or one sentence."""

import json
import warnings

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, normalizers, pre_tokenizers
from toys import hf_model, save_checkpoint, save_fairseq_tokenizer, save_gguf
from transformers import GPT2Tokenizer

from iclnb.model.checkpoints import CheckpointError, load, load_tokenizer

TEXT = "Sentence: a Warm film of 2008, déjà vu's  123 Label: It's"
CLASSES = [
    "GPT2Tokenizer",
    "GPT2TokenizerFast",
    "Qwen2Tokenizer",
    "GPTNeoXTokenizer",
    "LlamaTokenizer",
    "Unknown",
    None,
]


@pytest.fixture
def whole(tmp_path):
    """A tokenizer.json that no class of transformers would make: lower case, and numbers digit by digit."""
    save_fairseq_tokenizer(tmp_path)
    backend = GPT2Tokenizer.from_pretrained(tmp_path).backend_tokenizer
    digits = pre_tokenizers.Digits(individual_digits=True)
    backend.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    backend.normalizer = normalizers.Lowercase()
    backend.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


@pytest.mark.parametrize("kind", ["gpt2", "qwen2", "xglm", "olmo2"])
@pytest.mark.parametrize("named", CLASSES)
def test_a_tokenizer_json_is_taken_as_it_stands_whatever_class_is_named(named, kind, whole, recwarn):
    hf_model(kind, layers=1).config.save_pretrained(whole)
    (whole / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": named} if named else {}))
    ids = Tokenizer.from_file(str(whole / "tokenizer.json")).encode(TEXT, add_special_tokens=False).ids
    tokenizer = load_tokenizer(whole)
    assert tokenizer.encode(TEXT, add_special_tokens=False) == ids
    assert "Warm" not in tokenizer.decode(ids)
    tokenizer.save_pretrained(whole / "saved")
    assert load_tokenizer(whole / "saved").encode(TEXT, add_special_tokens=False) == ids
    assert not recwarn.list


@pytest.mark.parametrize("kind, guess", [("xglm", "GPT2"), ("olmo2", "GPT2"), ("gpt2", "GPT2"), ("qwen2", "Qwen2")])
def test_a_class_that_nobody_names_is_guessed_aloud(kind, guess, tmp_path):
    hf_model(kind, layers=1).config.save_pretrained(tmp_path)
    save_fairseq_tokenizer(tmp_path)
    ids = load_tokenizer(tmp_path).encode(TEXT, add_special_tokens=False)
    (tmp_path / "tokenizer_config.json").write_text("{}")
    with pytest.warns(UserWarning, match=f"names no tokenizer_class; .* are read by {guess}Tokenizer"):
        tokenizer = load_tokenizer(tmp_path)
    if guess == "GPT2":
        assert tokenizer.encode(TEXT, add_special_tokens=False) == ids
    config = json.loads((tmp_path / "config.json").read_text()) | {"tokenizer_class": "GPT2Tokenizer"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with warnings.catch_warnings(action="error"):
        assert load_tokenizer(tmp_path).encode(TEXT, add_special_tokens=False) == ids


@pytest.mark.parametrize("named", ["AutoModel", "pipeline", "NoSuchTokenizer", "", 5, ["GPT2Tokenizer"]])
def test_a_class_that_is_no_tokenizers_is_refused(named, tmp_path):
    save_fairseq_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": named}))
    with pytest.raises(CheckpointError, match="holds no tokenizer that transformers can read"):
        load_tokenizer(tmp_path)


def test_ids_beyond_the_embedding_table_are_refused(tmp_path):
    save_checkpoint(tmp_path)
    vocabulary = json.loads((tmp_path / "vocab.json").read_text())
    load(tmp_path, dtype="float32")  # fewer ids than rows
    last = max(vocabulary, key=vocabulary.get)
    for highest in (400, 5000):  # as many as rows, or fewer, but with a hole
        (tmp_path / "vocab.json").write_text(json.dumps(vocabulary | {last: highest}))
        with pytest.raises(CheckpointError, match=f"ids up to {highest}.*, but its embedding table has 400 rows"):
            load(tmp_path, dtype="float32")


def test_a_token_that_was_added_needs_a_row_too(tmp_path):
    _, tokenizer = save_checkpoint(tmp_path), load_tokenizer(tmp_path)
    tokenizer.add_tokens([f"word{i}" for i in range(200)])
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="ids up to ..., but its embedding table has 400 rows"):
        load(tmp_path, dtype="float32")


def test_a_gguf_files_tokenizer_needs_its_rows_too(tmp_path):
    def edit(metadata, tensors):
        metadata["tokenizer.ggml.tokens"] += ["one", "more"]
        metadata["tokenizer.ggml.token_type"] += [1, 1]

    save_gguf(tmp_path / "model.gguf", width=32, layers=1, edit=edit)
    with pytest.raises(CheckpointError, match="ids up to 40., but its embedding table has 400 rows"):
        load(tmp_path / "model.gguf")


ENTRIES = """
add_bos_token add_eos_token add_prefix_space added_tokens_decoder additional_special_tokens auto_map backend
bos_token chat_template clean_up_tokenization_spaces eos_token extra_special_tokens model_input_names model_max_length
pad_token padding_side split_special_tokens tokenizer_class truncation_side unk_token errors legacy""".split()
ATOMS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4) | st.just(10**400)
JSON = st.recursive(ATOMS, lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=4), x, max_size=2))


@pytest.fixture(scope="module", params=["tokenizer.json", "vocab.json"])
def folder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    save_fairseq_tokenizer(folder)
    if request.param == "tokenizer.json":
        load_tokenizer(folder).save_pretrained(folder)
        (folder / "vocab.json").unlink()
    return folder


@settings(max_examples=60)
@given(said=st.dictionaries(st.sampled_from(ENTRIES), JSON, min_size=1, max_size=2) | JSON)
@pytest.mark.filterwarnings("ignore")
def test_any_value_is_read_into_a_tokenizer_that_works_or_refused_in_one_sentence(said, folder):
    if isinstance(said, dict) and not (folder / "tokenizer.json").exists():
        said = {"tokenizer_class": "GPT2Tokenizer"} | said
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
    try:
        tokenizer = load_tokenizer(folder)
    except CheckpointError as error:
        assert "\n" not in str(error)
        return
    ids = [tokenizer.encode(text, add_special_tokens=False) for text in (TEXT, " Positive", "")]
    assert all(0 <= i < 1000 for text in ids for i in text)
    assert tokenizer(["one", "two"], add_special_tokens=False)["input_ids"]
