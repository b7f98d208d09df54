"""The exercise on calibration takes either order of mean and normalising, the text's and that of Zhao et al.'s code."""

import pytest

from iclnb.teaching import checks


def whole(q):
    return q / q.sum(-1, keepdim=True)


@pytest.mark.parametrize(
    "free",
    [
        lambda bias: bias.softmax(-1).mean(0),
        lambda bias: whole(bias.exp().mean(0)),
        lambda bias: bias.exp().mean(0),  # a common factor falls out
    ],
)
def test_the_mean_may_come_before_or_after_normalising(free, capsys):
    checks.calibrated(lambda log_probs, bias: whole(log_probs.exp() / free(bias)))
    assert capsys.readouterr().out.startswith("Right: ")
