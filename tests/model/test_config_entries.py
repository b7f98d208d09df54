"""What config.json may say: special tokens, options and values, honoured or refused by name."""

import json

import pytest
import torch
from toys import hf_model

from iclnb.model.checkpoints import CheckpointError, load_model

CPU = torch.device("cpu")


def edited(folder, absent=(), **entries):
    """The folder, whose config.json says other things, or nothing of some."""
    file = folder / "config.json"
    said = json.loads(file.read_text()) | entries
    file.write_text(json.dumps({entry: value for entry, value in said.items() if entry not in absent}))
    return folder


def special_tokens(folder):
    config = load_model(folder, CPU, torch.float32).config
    return config.bos_token_id, config.eos_token_id


@pytest.fixture
def llama(tmp_path):
    hf_model("llama").save_pretrained(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "said, expected",
    [
        ({"bos_token_id": None, "eos_token_id": None}, (None, None)),
        ({"bos_token_id": None, "eos_token_id": 7}, (None, 7)),
        ({"eos_token_id": [9, 8, 7]}, (0, 9)),
        ({"absent": ["bos_token_id", "eos_token_id"]}, (1, 2)),  # LlamaConfig's own
    ],
)
def test_special_tokens_are_what_the_file_or_the_architecture_says(said, expected, llama):
    assert special_tokens(edited(llama, **said)) == expected


def test_an_architectures_own_special_tokens_are_not_those_of_a_smaller_vocabulary(tmp_path):
    hf_model("gpt2").save_pretrained(tmp_path)
    assert special_tokens(edited(tmp_path, absent=["bos_token_id", "eos_token_id"])) == (None, None)  # not 50256


@pytest.mark.parametrize("entry", ["bos_token_id", "eos_token_id"])
@pytest.mark.parametrize("value", [400, -1, "</s>", True, 1.0, [], [[1]], [400], {}])
def test_special_tokens_outside_the_vocabulary_are_refused(entry, value, llama):
    with pytest.raises(CheckpointError, match=f"config.json: {entry} is .*; it must be an id below 400, or None"):
        load_model(edited(llama, **{entry: value}), CPU, torch.float32)
