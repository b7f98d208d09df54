"""The rule of the verdicts, on numbers whose verdict is plain to see."""

import math

import pytest

from iclnb.verdict import judge

BAND = {"above": 0.5, "below": 2.0}


@pytest.mark.parametrize(
    "values, bounds, word",
    [
        ({"a": [0.2, 0.3], "b": [0.1, 0.2]}, {"above": 0}, "for"),
        ({"a": [-0.2, -0.3], "b": [-0.1, -0.2]}, {"above": 0}, "against"),
        ({"a": [0.2, 0.3], "b": [-0.1, -0.2]}, {"above": 0}, "undecided"),
        ({"a": [0.5, 0.6, 0.5], "b": [-0.01, -0.01, -0.01], "c": [0.6, 0.5, 0.6]}, {"above": 0}, "undecided"),
        ({"a": [0.9, 1.1], "b": [0.8, 1.3]}, BAND, "for"),
        ({"a": [2.9, 3.1], "b": [2.8, 3.3]}, BAND, "against"),
        ({"a": [0.1, 0.2], "b": [0.1, 0.3]}, BAND, "against"),
        ({"a": [0.9, 1.1], "b": [1.8, 2.9]}, BAND, "undecided"),
        ({"a": [0.1, 0.1], "b": [3.0, 3.0]}, BAND, "undecided"),  # beyond different bounds
        ({"a": [0.0], "b": [0.0]}, {"above": 0}, "against"),  # no more than the bound
    ],
)
def test_a_verdict_follows_from_the_interval_and_from_every_task(values, bounds, word):
    assert judge(values, **bounds).word == word


def test_the_interval_is_that_of_the_mean_over_all_runs():
    values = {"a": [1.0, 2.0, 3.0], "b": [5.0, 6.0, 7.0]}
    found = judge(values, above=0)
    assert found.mean == pytest.approx(4)
    spread = (sum((x - 4) ** 2 for runs in values.values() for x in runs) / 6 / 6) ** 0.5  # of a mean of 6 draws
    assert found.low == pytest.approx(4 - 1.96 * spread, abs=0.3)
    assert found.high == pytest.approx(4 + 1.96 * spread, abs=0.3)


@pytest.mark.parametrize("values", [{}, {"a": []}, {"a": [1], "b": [1, 2]}])
def test_what_cannot_be_judged_is_refused(values):
    with pytest.raises(ValueError, match="every task needs the same number, at least 1"):
        judge(values, above=0)


def test_a_run_that_diverged_leaves_nothing_to_judge():
    found = judge({"a": [1.0, float("nan")], "b": [2.0, 3.0]}, above=0)
    assert found.word == "undefined" and math.isnan(found.mean) and math.isnan(found.low)
