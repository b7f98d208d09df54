"""A guess stands before its measurement."""

import pytest

from iclnb.teaching import guesses


@pytest.mark.parametrize("none", [None, ..., "0.5", True])
def test_nothing_is_measured_before_every_number_is_there(none, capsys):
    guesses.how_far_off({"first": 0.5, "last": none}, lambda: pytest.fail("measured too early"))
    assert capsys.readouterr().out == "Not yet: write down a number for last; then it is measured.\n"


def test_each_guess_stands_beside_its_measurement(capsys):
    calls = []
    guesses.how_far_off(
        {"first": 1, "last": 0.25}, lambda: calls.append(0) or {"last": 0.75, "first": 1.0, "more": 2.0}
    )
    first, last = capsys.readouterr().out.splitlines()
    assert first == "first  you said 1.00, measured 1.00: off by 0.00"
    assert last == "last   you said 0.25, measured 0.75: off by 0.50"
    assert calls == [0]
