"""The sentences of notebook 05: what follows from which numbers."""

import pytest
from toys import toy_task

from iclnb.claims import ABOVE, BELOW, CLAIMS, OPEN, UNDEFINED, against_control, recall_against_rest, sentence
from iclnb.experiment import run_task


def entry(low, high):
    return {"mean": (low + high) / 2, "low": low, "high": high}


@pytest.mark.parametrize(
    "measure, word",
    [(entry(0.2, 0.3), ABOVE), (entry(-0.3, -0.2), BELOW), (entry(0.05, 0.3), OPEN), (None, UNDEFINED)],
)
def test_only_intervals_apart_decide(measure, word):
    measures = {"kendall_random": entry(-0.1, 0.1)} | ({"kendall": measure} if measure else {})
    assert against_control(measures, "kendall") == word


def test_recall_is_held_against_the_rest_of_what_zero_shot_gets_wrong():
    assert recall_against_rest(both=30, corrected=30, icl_right=40, zsl_wrong=60) == ABOVE  # 30 of 30, 10 of 30
    assert recall_against_rest(both=10, corrected=30, icl_right=40, zsl_wrong=60) == BELOW
    assert recall_against_rest(both=58, corrected=58, icl_right=76, zsl_wrong=76) == OPEN  # ICL corrects everything
    assert recall_against_rest(both=3, corrected=4, icl_right=30, zsl_wrong=60) == OPEN  # too few
    assert recall_against_rest(both=0, corrected=0, icl_right=30, zsl_wrong=60) == UNDEFINED
    assert recall_against_rest(both=50, corrected=60, icl_right=50, zsl_wrong=60) == UNDEFINED
    with pytest.raises(ValueError, match="cannot belong together"):
        recall_against_rest(both=5, corrected=4, icl_right=30, zsl_wrong=60)


def test_the_sentence_says_which_tasks():
    assert sentence("A", {"x": ABOVE, "y": ABOVE}) == "A: reproduced (above on all 2 tasks)."
    assert sentence("A", {"x": ABOVE, "y": UNDEFINED}) == "A: reproduced (above on x; undefined on y)."
    mixed = sentence("A", {"x": ABOVE, "y": BELOW, "z": OPEN})
    assert mixed == "A: reproduced in part (above on x; not told apart on z; below on y)."
    assert sentence("A", {"x": BELOW, "y": OPEN}).startswith("A: not reproduced (")
    assert sentence("A", {"x": OPEN, "y": OPEN}) == "A: left open (not told apart on all 2 tasks)."
    assert sentence("A", {}) == "A: cannot be said, there is no such task."
    assert "undefined on every task" in sentence("A", {"x": UNDEFINED, "y": UNDEFINED})


def test_a_record_of_the_experiment_can_be_judged():
    import iclnb

    model, tokenizer = iclnb.load("pocket-gpt", device="cpu")
    measures = run_task(model, tokenizer, toy_task(), k=4, lr=0.01)["measures"]
    assert {against_control(measures, name) for name in CLAIMS} <= {ABOVE, BELOW, OPEN}
    one = run_task(model, tokenizer, toy_task(), k=1, lr=0.01)["measures"]  # no order of a single demonstration
    assert against_control(one, "kendall") == UNDEFINED
