"""Contextual calibration, against what it must do to a known bias."""

import pytest
import torch
from toys import toy_task

from iclnb.calibrate import CONTENT_FREE, content_free, contextual
from iclnb.evaluate import few_shot
from iclnb.prompts import build_prompt


def test_an_input_without_content_comes_out_even():
    bias = torch.randn(1, 5, dtype=torch.float64) * 3
    torch.testing.assert_close(contextual(bias, bias), torch.full((1, 5), 0.2, dtype=torch.float64))


def test_it_removes_a_bias_that_multiplies_probabilities():
    clean, factor = torch.randn(50, 4, dtype=torch.float64), 3 * torch.randn(4, dtype=torch.float64)
    even = torch.zeros(1, 4, dtype=torch.float64)
    torch.testing.assert_close(contextual(clean + factor, even + factor), clean.softmax(-1))
    torch.testing.assert_close(contextual(clean - 7, even + 2), clean.softmax(-1))  # only ratios of answers count


def test_several_inputs_without_content_count_by_their_mean_probability():
    p, free = torch.tensor([[0.5, 0.5]]), torch.tensor([[0.9, 0.1], [0.3, 0.7]])  # mean: 0.6, 0.4
    torch.testing.assert_close(contextual(p.log(), free.log()), torch.tensor([[0.4, 0.6]]))


@pytest.mark.parametrize("name", ["sst2", "cb"])
def test_content_free_queries_come_first_and_leave_the_prompt_as_it_is(name):
    task = toy_task(name=name)
    asked = content_free(task)
    texts = [example.text for example in asked.evaluation[: len(CONTENT_FREE)]]
    for word, text in zip(CONTENT_FREE, texts, strict=True):
        assert text == task.spec.template.format(**dict.fromkeys(task.spec.fields, word))
    assert asked.evaluation[len(CONTENT_FREE) :] == task.evaluation and asked.train == task.train


def test_a_model_can_be_asked(pocket):
    model, tokenizer = pocket
    task = toy_task()
    run = few_shot(model, tokenizer, content_free(task), k=4, limit=len(CONTENT_FREE))
    assert run.log_probs.shape == (3, 2) and run.prompt == build_prompt(model.config, tokenizer, task, 4, 1)


@pytest.fixture(scope="module")
def pocket():
    import iclnb

    return iclnb.load("pocket-gpt", device="cpu")
