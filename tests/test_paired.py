"""Intervals over few runs, against scipy's own tests."""

import pytest
import scipy.stats

from iclnb.paired import Estimate, difference, estimate, word

ONE, OTHER = [3.0, 3.4, 2.9], [2.5, 2.8, 2.6]


def test_intervals_are_those_of_students_tests():
    expected = scipy.stats.ttest_1samp(ONE, 0).confidence_interval()
    found = estimate(ONE)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high)) and found.n == 3
    expected = scipy.stats.ttest_rel(ONE, OTHER).confidence_interval()
    found = difference(ONE, OTHER)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert f"{found:.2f}" == f"{found.mean:.2f} [{found.low:.2f}, {found.high:.2f}]"


def test_a_single_run_has_no_interval():
    assert f"{estimate([2.0]):.1f}" == "2.0"
    assert word(estimate([2.0])) == "one run only"


@pytest.mark.parametrize(
    "low, high, lower_is_better, expected",
    [
        (-1, 1, False, "not told apart"),
        (0.5, 1, False, "better"),
        (0.5, 1, True, "worse"),
        (-1, -0.5, False, "worse"),
        (-1, -0.5, True, "better"),
    ],
)
def test_the_word_follows_the_interval(low, high, lower_is_better, expected):
    assert word(Estimate((low + high) / 2, low, high, 3), lower_is_better) == expected


def test_runs_without_partners_are_refused():
    with pytest.raises(ValueError, match="one has 3 runs and other 2; runs are compared in pairs"):
        difference(ONE, OTHER[:2])
    with pytest.raises(ValueError, match="values is empty"):
        estimate([])
