"""The sentences of notebook 05: what follows from which numbers."""

import pytest
from toys import toy_task

from iclnb.experiment.claims import CLAIMS, above_control, recall_above_rest, sentence
from iclnb.experiment.run import CONTROLS, run_task
from iclnb.intervals import ABOVE, BELOW, OPEN, UNDEFINED


def test_recall_is_held_against_the_rest_of_what_zero_shot_gets_wrong():
    def word(*counts):
        return recall_above_rest(*counts).word()

    assert word(30, 30, 40, 60) == ABOVE  # 30 of 30 that FT corrects, 10 of the other 30
    assert word(10, 30, 40, 60) == BELOW
    assert word(58, 58, 76, 76) == OPEN  # ICL corrects everything
    assert word(3, 4, 30, 60) == OPEN  # too few
    assert word(0, 0, 30, 60) == UNDEFINED
    assert word(50, 60, 50, 60) == UNDEFINED
    with pytest.raises(ValueError, match="cannot belong together"):
        recall_above_rest(both=5, corrected=4, icl_right=30, zsl_wrong=60)


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
    record = run_task(model, tokenizer, toy_task(), k=4, lr=0.01)
    assert {above_control(record, name).word() for name in CLAIMS} <= {ABOVE, BELOW, OPEN}
    for name, control in CONTROLS.items():
        above, entries = above_control(record, name), record["measures"]
        assert above.mean == pytest.approx(entries[name]["mean"] - entries[control]["mean"]) and above.low <= above.high
    gaps, accuracy = record["gaps"], record["accuracy"]
    assert gaps["icl-ft"]["mean"] == pytest.approx(accuracy["icl"]["mean"] - accuracy["ft"]["mean"])
    one = run_task(model, tokenizer, toy_task(), k=1, lr=0.01)  # no order of a single demonstration
    assert above_control(one, "kendall").word() == UNDEFINED
