"""Prompts: each task's few-shot prompt as a hand-written string, and token by token."""

import pytest
from toys import toy_task

from iclnb.model.gpt import GPTConfig
from iclnb.tasks.prompts import build_prompt, encode_answers, encode_query, encode_task
from iclnb.tasks.task import SPECS, Example, build_task, make_example

BOS, EOS = 398, 399
ROWS = {
    "sst2": [{"sentence": "a warm film ", "label": 1}, {"sentence": "so cold", "label": 0}],
    "sst5": [{"text": "a warm film .", "label": 4}, {"text": "so cold", "label": 0}],
    "mr": [{"text": "a warm film .", "label": 1}, {"text": "so cold", "label": 0}],
    "subj": [{"text": "he leaves .", "label": 0}, {"text": "i loved it", "label": 1}],
    "agnews": [{"text": "Oil up (AP)", "label": 2}, {"text": "Goal! {late}", "label": 1}],
    "cb": [
        {"premise": "It rains.", "hypothesis": "it is wet", "label": 0},
        {"premise": "So.", "hypothesis": "no", "label": 2},
    ],
}
NEWS = "Classify the news articles into the categories of World, Sports, Business, and Technology. Article: "
EXPECTED = {
    "sst2": ["Sentence: a warm film  Label: Positive", "Sentence: so cold Label: Negative"],
    "sst5": ["Sentence: a warm film . Label: great", "Sentence: so cold Label: terrible"],
    "mr": ["Review: a warm film . Sentiment: Positive", "Review: so cold Sentiment: Negative"],
    "subj": ["Input: he leaves . Type: objective", "Input: i loved it Type: subjective"],
    "agnews": [NEWS + "Oil up (AP) Answer: Business", NEWS + "Goal! {late} Answer: Sports"],
    "cb": [
        "It rains. Question: it is wet. True, False, or Neither? Answer: True",
        "So. Question: no. True, False, or Neither? Answer: Neither",
    ],
}


@pytest.fixture
def tokenizer(fairseq):
    return fairseq


@pytest.fixture
def config():
    return GPTConfig(vocab_size=400, n_layer=1, n_head=1, n_embd=8, bos_token_id=BOS, eos_token_id=EOS)


@pytest.mark.parametrize("name", SPECS)
def test_the_few_shot_prompt_of_each_task(name, tokenizer, config):
    examples = [make_example(SPECS[name], row, "row") for row in ROWS[name]]
    task = build_task(SPECS[name], "toy", examples, [Example("query", 0)])
    prompt = build_prompt(config, tokenizer, task, k=2, seed=0)
    first, second = (EXPECTED[name][examples.index(example)] for example in prompt.demonstrations)
    ids = tokenizer.encode
    assert prompt.prefix == [BOS, *ids(first), EOS, *ids(second), EOS]
    assert [tokenizer.decode(prompt.prefix[a:b]) for a, b in prompt.spans] == [first, second]


@pytest.mark.parametrize("name", SPECS)
def test_answer_and_query_tokens_are_those_of_the_whole_text(name, tokenizer):
    """An answer is scored after the query, so tokenising both at once must cut at the same place."""
    spec = SPECS[name]
    example = make_example(spec, ROWS[name][0], "row")
    for answer, ids in zip(spec.answers, encode_answers(tokenizer, spec), strict=True):
        assert encode_query(tokenizer, example) + ids == tokenizer.encode(f"{example.text} {answer}")


def test_zero_shot_is_bos_alone(tokenizer, config):
    prompt = build_prompt(config, tokenizer, toy_task(), k=0, seed=1)
    assert (prompt.prefix, prompt.spans, prompt.k) == ([BOS], [], 0)


def test_a_training_sequence_has_no_separator(tokenizer, config):
    task = build_task(SPECS["sst2"], "toy", [Example("Sentence: so cold Label:", 0)], [Example("query", 0)])
    sequences = build_prompt(config, tokenizer, task, k=1, seed=0).sequences
    assert sequences == [[BOS, *tokenizer.encode("Sentence: so cold Label: Negative")]]


def texts_of(task):
    return [example.text for example in task.evaluation], [f" {answer}" for answer in task.answers]


@pytest.mark.parametrize("limit", [None, 4])
def test_an_encoded_task_holds_the_ids_of_all_that_is_asked(limit, tokenizer, config):
    task = toy_task(name="sst5")
    encoded = encode_task(config, tokenizer, task, k=3, seed=1, limit=limit)
    queries, answers = ([tokenizer.encode(text) for text in texts] for texts in texts_of(task))
    assert (encoded.queries, encoded.answers) == (queries[:limit], answers)
    assert encoded.labels == [example.label for example in task.evaluation[:limit]]
    assert encoded.prompt == build_prompt(config, tokenizer, task, k=3, seed=1)
    bare = encoded.zero_shot
    assert bare == encode_task(config, tokenizer, task, k=0, seed=1, limit=limit) and encoded.prompt.k == 3


def test_a_limit_of_none_asked_is_refused(tokenizer, config):
    with pytest.raises(ValueError, match="limit is 0; it must be at least 1"):
        encode_task(config, tokenizer, toy_task(), k=3, seed=1, limit=0)


def test_demonstrations_that_do_not_fit_are_dropped_as_in_the_official_code(tokenizer):
    task = toy_task(train=40)
    queries, answers = ([len(tokenizer.encode(text)) for text in texts] for texts in texts_of(task))
    room = 1 + max(queries) + max(answers)
    for positions in (60, 100, 101, 102, 103, 150):
        config = GPTConfig(vocab_size=400, n_layer=1, n_head=1, n_embd=8, n_positions=positions, eos_token_id=EOS)
        length, k = 1, 0
        for example in task.demonstrations(40, seed=2):
            ids = tokenizer.encode(f"{example.text} {task.answers[example.label]}")
            if not length + len(ids) + 1 + room < positions:
                break
            length, k = length + len(ids) + 1, k + 1
        prompt = build_prompt(config, tokenizer, task, k=40, seed=2)
        assert (prompt.k, len(prompt.prefix)) == (k, length)
        assert len(prompt.prefix) + room <= positions


def test_the_longest_query_must_fit_by_itself(tokenizer):
    config = GPTConfig(vocab_size=400, n_layer=1, n_head=1, n_embd=8, n_positions=8)
    with pytest.raises(ValueError, match="longest query of task sst2 has .* tokens, but the model has 8 positions"):
        build_prompt(config, tokenizer, toy_task(), k=1, seed=1)


def test_an_empty_query_is_refused(tokenizer):
    with pytest.raises(ValueError, match="the query '' is empty"):
        encode_query(tokenizer, Example("", 0))
