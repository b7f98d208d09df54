"""A prediction is compared with what is measured, and nothing is measured before it is made."""

import pytest

from iclnb.intervals import Estimate
from iclnb.teaching.checks.core import NotYet
from iclnb.teaching.predictions import committed, how_far


@pytest.mark.parametrize("missing", [None, ..., "60", float("nan"), True])
def test_measures_nothing_before_every_number_is_there(missing, capsys):
    how_far({"one": 5, "other": missing}, lambda: pytest.fail("it was measured"))
    assert capsys.readouterr().out == "Not yet: write a number for other. Nothing is measured before.\n"


def test_says_how_far_off_each_prediction_is(capsys):
    found = {name: Estimate(60.0, 55.0, 65.0) for name in "abc"}
    how_far({"a": 50, "b": 64.5, "c": 72.25}, lambda: found)
    assert capsys.readouterr().out.splitlines() == [
        "a: you said 50, measured 60.0 [55.0, 65.0]: 10.0 too low",
        "b: you said 64.5, measured 60.0 [55.0, 65.0]: inside the interval",
        "c: you said 72.25, measured 60.0 [55.0, 65.0]: 12.2 too high",
    ]


def test_a_number_without_an_interval_will_do_in_any_format(capsys):
    how_far({"a": 0.5}, lambda: {"a": 0.375}, spec=".2f")
    assert capsys.readouterr().out == "a: you said 0.5, measured 0.38: 0.12 too high\n"


def test_where_it_is_graded_a_prediction_counts_once_it_is_made():
    for made in ({"a": 0, "b": -3.5}, 0.25):
        committed(made)
    for missing, told in (({"a": 0, "b": None}, "for b"), (None, "for the prediction"), ("60", "for the prediction")):
        with pytest.raises(NotYet, match=f"^Not yet: write a number {told}.$"):
            committed(missing)
