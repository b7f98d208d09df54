"""What the tests of prompts share."""

import pytest
from toys import save_fairseq_tokenizer

from iclnb.model.checkpoints import load_tokenizer


@pytest.fixture(scope="module")
def fairseq(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    save_fairseq_tokenizer(folder)
    (folder / "config.json").write_text('{"model_type": "xglm"}')
    return load_tokenizer(folder)
