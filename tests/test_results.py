"""Stored results: found by their configuration alone, and never half written."""

import json

import pytest
import torch
from toys import toy_task

from iclnb.gpt import GPT, GPTConfig
from iclnb.results import Results, fingerprint

CONFIG = {"task": "sst2", "seed": 1, "lr": 0.1, "limit": None}


def test_a_record_is_found_by_its_configuration_and_no_other(tmp_path):
    results = Results(tmp_path / "new")
    results.save(CONFIG, {"accuracy": 0.5})
    assert Results(tmp_path / "new").find(dict(reversed(CONFIG.items()))) == {"accuracy": 0.5}
    for change in ({"seed": 2}, {"lr": 0.2}, {"limit": 5}, {"version": "2"}):
        assert results.find(CONFIG | change) is None


@pytest.mark.parametrize("damage", ["", '{"config": ', "[]", '{"config": {}}'])
def test_a_damaged_file_is_said_and_counts_as_none(damage, tmp_path):
    results = Results(tmp_path)
    file = results.save(CONFIG, {"accuracy": 0.5})
    file.write_text(damage)
    with pytest.warns(UserWarning, match="is damaged; its result is computed again"):
        assert results.find(CONFIG) is None
    results.save(CONFIG, {"accuracy": 0.6})
    assert results.find(CONFIG) == {"accuracy": 0.6}


def test_a_failed_write_leaves_the_earlier_record_and_nothing_else(tmp_path):
    results = Results(tmp_path)
    results.save(CONFIG, {"accuracy": 0.5})
    with pytest.raises(TypeError):
        results.save(CONFIG, {"accuracy": torch.tensor(1.0)})  # no JSON
    assert results.find(CONFIG) == {"accuracy": 0.5}
    assert len(list(tmp_path.iterdir())) == 1


def test_stored_files_are_json(tmp_path):
    assert json.loads(Results(tmp_path).save(CONFIG, {"a": 1}).read_text()) == {"config": CONFIG, "record": {"a": 1}}


def test_fingerprints_follow_weights_and_examples():
    config = GPTConfig(vocab_size=20, n_layer=1, n_head=1, n_embd=8)
    one, two = GPT(config).initialise(0), GPT(config).initialise(0)
    assert fingerprint(one) == fingerprint(two)
    with torch.no_grad():
        two.blocks[0].attn.v_proj.bias[0] += 1e-6
    assert fingerprint(one) != fingerprint(two)
    assert fingerprint(toy_task()) == fingerprint(toy_task()) != fingerprint(toy_task(train=11))
