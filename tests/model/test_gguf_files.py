"""GGUF files against transformers' own reading of them, and every way in which such a file can be bad."""

import random
import shutil

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type
from toys import QUANTISED, save_checkpoint, save_gguf
from transformers import AutoModelForCausalLM, AutoTokenizer

from iclnb.model.checkpoints import CheckpointError, load, load_model, load_tokenizer, save

CPU = torch.device("cpu")
SHAPES = {
    "llama": {"tie_word_embeddings": True},
    "llama, one key head, own output": {"heads_a_key": 4, "rope_parameters": {"rope_theta": 500.0}},
    "qwen2": {"heads_a_key": 2},
    "gpt2": {},
}


def transformers_reading(file):
    return AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32).eval()


@torch.no_grad()
def assert_same_logits(ours, theirs):
    ids = torch.randint(0, ours.config.vocab_size, (2, 40))
    torch.testing.assert_close(ours(ids), theirs(ids).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_file_gives_the_model_that_it_was_written_from(shape, tmp_path):
    written = save_gguf(tmp_path / "model.gguf", shape.partition(",")[0], **SHAPES[shape])
    model, _ = load(tmp_path / "model.gguf", device="cpu", dtype="float32")
    assert not model.training
    assert_same_logits(model, written)
    assert_same_logits(model, transformers_reading(tmp_path / "model.gguf"))


@pytest.mark.parametrize("stored", QUANTISED, ids=lambda stored: stored.name)
def test_every_type_is_read_as_transformers_reads_it(stored, tmp_path):
    save_gguf(tmp_path / "model.gguf", stored=stored, heads_a_key=2)
    assert_same_logits(load_model(tmp_path, CPU, torch.float32), transformers_reading(tmp_path / "model.gguf"))


@pytest.mark.parametrize("kind", ["qwen2", "gpt2"])
def test_quantised_files_of_other_architectures_are_read_too(kind, tmp_path):
    save_gguf(tmp_path / "model.gguf", kind, stored=Type.Q8_0)
    assert_same_logits(load_model(tmp_path, CPU, torch.float32), transformers_reading(tmp_path / "model.gguf"))


def test_what_was_read_can_be_saved_in_the_hubs_layout(tmp_path):
    save_gguf(tmp_path / "model.gguf", stored=Type.Q8_0)
    model, tokenizer = load(tmp_path / "model.gguf", device="cpu", dtype="float32")
    save(model, tokenizer, tmp_path / "saved")
    again, reads = load(tmp_path / "saved", device="cpu", dtype="float32")
    assert all(map(torch.equal, model.parameters(), again.parameters()))
    text = "Sentence: a warm film — déjà vu, 2008\n\n22 Label:<|399|>"
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert reads.encode(text, add_special_tokens=False) == ids
    assert reads.decode(ids) == text


def test_a_folder_with_one_file_is_that_file(tmp_path):
    save_gguf(tmp_path / "model.gguf")
    model, tokenizer = load(tmp_path, dtype="float32")
    assert (model.config.bos_token_id, model.config.eos_token_id) == (399, 398)
    assert tokenizer.decode([model.config.eos_token_id]) == "<|398|>"
    shutil.copy(tmp_path / "model.gguf", tmp_path / "other.gguf")
    with pytest.raises(CheckpointError, match="holds 2 GGUF files, model.gguf and others; pass one of them"):
        load(tmp_path)


def said(**entries):
    """An edit of the metadata; __ stands for a point, and None takes an entry away."""

    def edit(metadata, tensors):
        for key, value in entries.items():
            metadata.pop(key.replace("__", "."), None)
            metadata |= {} if value is None else {key.replace("__", "."): value}

    return edit


def test_a_file_may_name_no_special_tokens(tmp_path):
    save_gguf(
        tmp_path / "model.gguf", edit=said(tokenizer__ggml__bos_token_id=None, tokenizer__ggml__eos_token_id=None)
    )
    config = load_model(tmp_path, CPU, torch.float32).config
    assert (config.bos_token_id, config.eos_token_id) == (None, None)


def test_a_folder_in_the_hubs_layout_stays_one_beside_a_gguf_file(tmp_path):
    save_gguf(tmp_path / "model.gguf")
    save_checkpoint(tmp_path)
    assert load_model(tmp_path, CPU, torch.float32).config.positions == "sinusoidal"


def test_digits_stand_alone_where_the_file_says_so(tmp_path):
    save_gguf(tmp_path / "model.gguf")
    theirs = AutoTokenizer.from_pretrained(tmp_path, gguf_file="model.gguf")
    ours = load_tokenizer(tmp_path)
    text = "Sentence: a warm and funny film Label: Positive"
    assert ours.encode(text) == theirs.encode(text)
    split = [piece for piece, _ in ours.backend_tokenizer.pre_tokenizer.pre_tokenize_str("in 2008\n\n22")]
    assert split == ["in", "Ġ", "2", "0", "0", "8", "ĊĊ", "2", "2"]


def stored_as(type_, convert):
    def edit(metadata, tensors):
        tensors["blk.1.ffn_up.weight"] = (type_, convert(tensors["blk.1.ffn_up.weight"][1]))

    return edit


def without(metadata, tensors):
    del tensors["blk.1.ffn_up.weight"]


def with_more(metadata, tensors):
    tensors["blk.0.attn_q.bias"] = (Type.F32, np.zeros(256, np.float32))


def with_frequencies(metadata, tensors):
    tensors["rope_freqs.weight"] = (Type.F32, np.ones(32, np.float32))


def with_nan(metadata, tensors):
    tensors["blk.1.ffn_up.weight"][1][3, 3] = np.nan


@pytest.mark.parametrize(
    "edit, message",
    [
        (said(general__architecture="gemma"), "general.architecture is 'gemma'; supported are llama, qwen2, gpt2"),
        (said(llama__rope__scaling__type="yarn"), "rope_type is 'yarn'; supported are 'default'"),
        (with_frequencies, "scales its rotary positions by rope_freqs.weight; supported is none"),
        (said(llama__rope__dimension_count=32), "rope.dimension_count is 32; supported is .*, 64"),
        (said(llama__block_count=3), "block_count is 3, but it holds tensors of 2 blocks"),
        (said(llama__block_count=0), "llama.block_count is 0; it must be a whole number above 0"),
        (said(llama__attention__head_count=[4, 4]), "attention.head_count is a list"),
        (
            said(llama__attention__head_count="four"),
            "attention.head_count is 'four'; it must be a whole number above 0",
        ),
        (said(llama__attention__head_count=4.0), "attention.head_count is 4.0; it must be a whole number above 0"),
        (said(llama__rope__freq_base=-1.0), "llama.rope.freq_base is -1.0; it must be a number above 0"),
        (
            said(llama__attention__head_count_kv=3),
            "num_attention_heads is 4, which num_key_value_heads = 3 does not divide",
        ),
        (said(llama__embedding_length=None), "lacks the metadata llama.embedding_length"),
        (said(llama__feed_forward_length=64), "gives .* where model.gguf says"),
        (said(tokenizer__ggml__bos_token_id=400), "model.gguf: bos_token_id is 400; it must be an id below 400"),
        (said(tokenizer__ggml__eos_token_id="</s>"), "model.gguf: eos_token_id is '</s>'; it must be an id below 400"),
        (said(tokenizer__ggml__tokens=None), "holds no tokenizer that transformers can read"),
        (said(tokenizer__ggml__merges=["a b", "c"]), "holds no tokenizer that transformers can read"),
        (said(split__count=3), "is one of 3 parts of a model"),
        (stored_as(Type.F64, np.float64), "blk.1.ffn_up.weight is stored as F64; supported are"),
        (stored_as(Type.I32, np.int32), "blk.1.ffn_up.weight is stored as I32; supported are"),
        (without, "lacks the tensor model.layers.1.mlp.up_proj.weight"),
        (with_more, "holds the tensor model.layers.0.self_attn.q_proj.bias, which this architecture has no place for"),
        (with_nan, "is damaged: blk.1.ffn_up.weight holds numbers that are not finite"),
    ],
)
def test_what_is_not_supported_is_said_in_one_sentence(edit, message, tmp_path):
    save_gguf(tmp_path / "model.gguf", edit=edit)
    with pytest.raises(CheckpointError, match=message) as error:
        load(tmp_path / "model.gguf")
    assert "\n" not in str(error.value)


def test_files_of_another_kind_are_refused(tmp_path):
    save_checkpoint(tmp_path / "hub")
    with pytest.raises(CheckpointError, match="model.safetensors is not a GGUF file: it does not begin with"):
        load(tmp_path / "hub" / "model.safetensors")
    (tmp_path / "empty.gguf").touch()
    with pytest.raises(CheckpointError, match="empty.gguf is not a GGUF file"):
        load(tmp_path / "empty.gguf")
    for name in (tmp_path / "none.gguf", "models/none.gguf"):
        with pytest.raises(CheckpointError, match="none.gguf': neither a folder nor a file here"):
            load(name)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    file = tmp_path_factory.mktemp("small") / "model.gguf"
    save_gguf(file, width=32, layers=1, positions=64)
    return file.read_bytes()


@pytest.mark.parametrize("kept", [4, 20, 300, 3000, 0.5, 0.999])
def test_a_file_that_is_cut_short_is_refused(kept, small, tmp_path):
    (tmp_path / "model.gguf").write_bytes(small[: kept if kept > 1 else int(kept * len(small))])
    with pytest.raises(CheckpointError, match=r"model.gguf is damaged or cut short \(.*\); fetch it again"):
        load_model(tmp_path, CPU, torch.float32)


def test_no_damage_leads_to_another_error(small, tmp_path):
    """Bytes of the header are changed at random: the file is refused in one sentence, or it was a harmless place."""
    header, refused, numbers = small.index(b"output_norm.weight"), 0, random.Random(0)
    for _ in range(300):
        damaged = bytearray(small)
        for _ in range(numbers.choice([1, 1, 8])):
            damaged[numbers.randrange(4, header)] = numbers.randrange(256)
        (tmp_path / "model.gguf").write_bytes(damaged)
        try:
            load_model(tmp_path, CPU, torch.float32)
        except CheckpointError as error:
            assert "\n" not in str(error)
            refused += 1
    assert refused > 30


def test_the_other_byte_order_is_refused(small, tmp_path):
    (tmp_path / "model.gguf").write_bytes(small[:4] + small[4:8][::-1] + small[8:])
    with pytest.raises(CheckpointError, match="damaged or cut short|other byte order"):
        load_model(tmp_path, CPU, torch.float32)
