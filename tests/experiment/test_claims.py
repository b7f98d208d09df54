"""The sentences of notebook 05: what follows from which numbers."""

import math

import pytest
from toys import toy_task

import iclnb
from iclnb.experiment.claims import CLAIMS, above, learnt, recall_above_rest, sentence
from iclnb.experiment.run import CONTROLS, chances_of, run_task
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


def test_records_of_the_experiment_can_be_judged():
    model, tokenizer = iclnb.load("pocket-gpt", device="cpu")
    records = [run_task(model, tokenizer, toy_task(), k=4, seed=seed, lr=0.01) for seed in (1, 2)]
    for name in CLAIMS:
        entries = records[0]["measures"]
        for chance in chances_of(name, entries):
            one, both = above({"toy": records[:1]}, name, chance), above({"toy": records}, name, chance)
            assert one.mean == pytest.approx(entries[name]["mean"] - entries[chance]["mean"]) and math.isnan(one.low)
            assert entries[name]["above"][chance]["mean"] == pytest.approx(one.mean)
            gaps = [record["measures"][name]["mean"] - record["measures"][chance]["mean"] for record in records]
            assert both.mean == pytest.approx(sum(gaps) / 2) and both.low <= both.mean <= both.high
        assert CONTROLS[name] in chances_of(name, entries) and len(chances_of(name, entries)) >= 4
    gaps, accuracy = records[0]["gaps"], records[0]["accuracy"]
    assert gaps["icl-ft"]["mean"] == pytest.approx(accuracy["icl"]["mean"] - accuracy["ft"]["mean"])
    one = run_task(model, tokenizer, toy_task(), k=1, lr=0.01)  # no order of a single demonstration
    assert above({"toy": [one]}, "kendall_tokens", "kendall_tokens_random").word() == UNDEFINED


@pytest.mark.parametrize(("gained", "lost", "said"), [(22, 0, True), (12, 2, True), (3, 0, False), (12, 9, False)])
def test_fine_tuning_learnt_where_it_turns_more_answers_to_right_than_to_wrong(gained, lost, said):
    zsl = [0] * gained + [1] * lost + [0, 1] * 10
    ft = [1] * gained + [0] * lost + [0, 1] * 10
    assert learnt({"correct": {"zsl": zsl, "ft": ft}}) is said
