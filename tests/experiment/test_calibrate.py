"""Contextual calibration as an option: every accuracy with and without it, and never the two mixed."""

import pytest
import torch
from toys import toy_task

import iclnb
from iclnb.experiment.calibrate import bias, calibrated
from iclnb.experiment.grid import Setting, run_setting
from iclnb.experiment.run import run_task
from iclnb.tasks.prompts import CONTENT_FREE, encode_task
from iclnb.tasks.variants import content_free


@pytest.fixture(scope="module")
def pocket():
    return iclnb.load("pocket-gpt", device="cpu")


def test_the_bias_is_what_is_answered_to_queries_without_content(pocket):
    model, tokenizer = pocket
    asked = iclnb.few_shot(model, tokenizer, content_free(toy_task()), 4, limit=len(CONTENT_FREE))
    found = bias(model, encode_task(model.config, tokenizer, toy_task(), 4, 1))
    torch.testing.assert_close(found, asked.log_probs)


def test_calibrated_probabilities_are_divided_by_those_without_content(pocket):
    model, tokenizer = pocket
    run, free = iclnb.few_shot(model, tokenizer, toy_task(), 4), torch.tensor([[-0.5, -3.0], [-1.5, -1.0]])
    p, p_free = run.log_probs.softmax(-1), free.softmax(-1).mean(0)
    after = calibrated(run, free)
    torch.testing.assert_close(after.log_probs.exp(), (p / p_free) / (p / p_free).sum(-1, keepdim=True))
    assert after.calibrated and not run.calibrated


def test_runs_with_and_without_it_are_not_compared(pocket):
    model, tokenizer = pocket
    run = iclnb.zero_shot(model, tokenizer, toy_task())
    after = calibrated(run, torch.tensor([[-0.5, -3.0]]))
    with pytest.raises(ValueError, match="some of the predictions are calibrated and some are not"):
        iclnb.compare.rec2ftp(run, run, after)


def test_a_record_has_both(pocket):
    model, tokenizer = pocket
    options = {"k": 4, "lr": 0.1, "limit": 9}
    plain, both = (run_task(model, tokenizer, toy_task(), calibrate=c, **options) for c in (False, True))
    assert plain == {name: value for name, value in both.items() if name != "calibrated"}
    run, encoded = (
        iclnb.few_shot(model, tokenizer, toy_task(), 4),
        encode_task(model.config, tokenizer, toy_task(), 4, 1),
    )
    expected = calibrated(run, bias(model, encoded))
    found = both["calibrated"]
    assert found["correct"]["icl"] == expected.correct.int().tolist()
    assert found["accuracy"]["icl"]["mean"] == pytest.approx(100 * expected.accuracy)
    assert {"both", "total"} <= found["rec2ftp"].keys() and set(found["gaps"]) == set(both["gaps"])


@pytest.mark.parametrize("method, lr", [("icl", None), ("ft", 0.1)])
def test_a_setting_of_a_grid_has_both(method, lr):
    same = {"model": "pocket-gpt", "task": "sst2", "method": method, "source": "sample", "k": 4, "lr": lr, "limit": 20}
    plain, both = (run_setting(Setting(calibrate=c, **same)) for c in (False, True))
    assert both["calibrated"]["n"] == 20 and "calibrated" not in plain
    assert plain == {name: value for name, value in both.items() if name != "calibrated"}
