"""How a prompt is written: the token before everything, the separator, and a model's own choice."""

import pytest
from toys import save_checkpoint, toy_task
from transformers import AutoTokenizer, PreTrainedTokenizerFast

import iclnb
from iclnb.experiment.finetune import finetune
from iclnb.model import checkpoints
from iclnb.model.gpt import GPTConfig
from iclnb.tasks.formats import PromptFormat, own_format
from iclnb.tasks.prompts import build_prompt

LINES = PromptFormat("</s>", "\n\n")


@pytest.fixture(scope="module")
def pocket():
    return iclnb.load("pocket-gpt", device="cpu")


def test_the_papers_format_is_the_default(pocket):
    model, tokenizer = pocket
    assert own_format(tokenizer) == PromptFormat() == PromptFormat("<s>", "</s>")
    prompt = build_prompt(model.config, tokenizer, toy_task(), k=2, seed=1)
    ends = [prompt.prefix[stop] for _, stop in prompt.spans]
    assert prompt.prefix[0] == model.config.bos_token_id and ends == [model.config.eos_token_id] * 2


def test_another_format_changes_what_stands_between_demonstrations_and_nothing_else(pocket):
    model, tokenizer = pocket
    theirs, ours = (build_prompt(model.config, tokenizer, toy_task(), 3, 1, f) for f in (PromptFormat(), LINES))
    texts = [tokenizer.decode(theirs.prefix[a:b]) for a, b in theirs.spans]
    assert tokenizer.decode(ours.prefix) == "</s>" + "\n\n".join(texts) + "\n\n"
    assert [ours.prefix[a:b] for a, b in ours.spans] == [theirs.prefix[a:b] for a, b in theirs.spans]
    assert ours.prefix[0] == tokenizer.convert_tokens_to_ids("</s>")


def test_fine_tuning_reads_what_the_prompt_holds(pocket):
    model, tokenizer = pocket
    prompt = build_prompt(model.config, tokenizer, toy_task(), 2, 1, LINES)
    assert prompt.sequences == [[prompt.prefix[0], *prompt.prefix[a:b]] for a, b in prompt.spans]
    ours = finetune(model, tokenizer, toy_task(), 2, 1, 0.1, prompt_format=LINES)
    assert ours.losses != finetune(model, tokenizer, toy_task(), 2, 1, 0.1).losses


def test_it_decides_what_a_model_answers(pocket):
    model, tokenizer = pocket
    theirs, ours = (iclnb.few_shot(model, tokenizer, toy_task(), 4, prompt_format=f) for f in (None, LINES))
    assert not theirs.log_probs.equal(ours.log_probs)


def test_a_long_separator_takes_its_room(pocket):
    model, tokenizer = pocket
    long = PromptFormat("<s>", "\n" * 300)
    ks = [build_prompt(model.config, tokenizer, toy_task(40), 40, 1, f).k for f in (None, long)]
    assert 0 < ks[1] < ks[0]


def test_a_model_brings_a_format_of_its_own(pocket, tmp_path):
    model, tokenizer = iclnb.load("pocket-gpt", device="cpu")
    tokenizer.init_kwargs["prompt_format"] = {"start": "</s>", "separator": "\n\n"}
    checkpoints.save(model, tokenizer, tmp_path / "own")
    own, again = iclnb.load(str(tmp_path / "own"), device="cpu")
    assert own_format(again) == LINES
    task = toy_task()
    assert build_prompt(own.config, again, task, 2, 1) == build_prompt(own.config, again, task, 2, 1, LINES)
    assert build_prompt(own.config, again, task, 2, 1, PromptFormat()).prefix[0] == own.config.bos_token_id


def test_a_model_without_a_start_begins_as_its_makers_begin_a_document(tmp_path):
    """Qwen2 and Qwen3: no <s> in the tokenizer; <|endoftext|> between documents."""
    save_checkpoint(tmp_path, "qwen2")
    bare = AutoTokenizer.from_pretrained(tmp_path)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bare.backend_tokenizer, eos_token="<|im_end|>")
    tokenizer.add_special_tokens({"pad_token": "<|endoftext|>"})
    none = GPTConfig(vocab_size=400, n_layer=1, n_head=1, n_embd=8, bos_token_id=None, eos_token_id=None)
    start, separator = PromptFormat().ids(none, tokenizer)
    assert (start, separator) == (tokenizer.pad_token_id, [tokenizer.eos_token_id])
    named = GPTConfig(vocab_size=400, n_layer=1, n_head=1, n_embd=8, bos_token_id=7, eos_token_id=8)
    assert PromptFormat().ids(named, tokenizer) == (7, [8])


def test_what_a_model_does_not_have_is_refused(pocket):
    model, _ = pocket
    bare = PreTrainedTokenizerFast(tokenizer_object=pocket[1].backend_tokenizer)
    none = GPTConfig(vocab_size=400, n_layer=1, n_head=1, n_embd=8, bos_token_id=None, eos_token_id=None)
    with pytest.raises(ValueError, match="start of a prompt is '<s>', which is no token of this model"):
        PromptFormat().ids(none, bare)
    with pytest.raises(ValueError, match="start of a prompt is 'two words', which is no token"):
        PromptFormat("two words").ids(model.config, pocket[1])
    with pytest.raises(
        ValueError, match="separator of a prompt is '</s>', which this model does not have; name another"
    ):
        PromptFormat("\n").ids(none, bare)


@pytest.mark.parametrize("bad", [{"start": ""}, {"separator": ""}, {"separator": 2}, {"start": None}])
def test_a_format_is_two_texts(bad):
    with pytest.raises(ValueError, match=f"{next(iter(bad))} of a prompt is .*; accepted is a text that is not empty"):
        PromptFormat(**bad)


@pytest.mark.parametrize("bad", [3, {"begin": "<s>"}])
def test_a_brought_format_that_is_none_is_refused(bad, pocket):
    bare = PreTrainedTokenizerFast(tokenizer_object=pocket[1].backend_tokenizer, prompt_format=bad)
    with pytest.raises(ValueError, match="prompt_format of the tokenizer is .*; accepted are start and separator"):
        own_format(bare)
