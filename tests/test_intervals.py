"""Intervals hold what they promise, for few draws too, and a word is not said too often."""

import math

import numpy as np
import pytest
import scipy.stats
import torch

from iclnb.intervals import (
    ABOVE,
    BELOW,
    OPEN,
    UNDEFINED,
    Estimate,
    difference,
    flips,
    holm,
    mean,
    nested,
    over_tasks,
    phrases,
    share,
    unpaired,
    words,
)

ONE, OTHER = [3.0, 3.4, 2.9], [2.5, 2.8, 2.6]


def covered(estimates, truth):
    return np.mean([e.low <= truth <= e.high for e in estimates])


@pytest.mark.parametrize("n", [3, 5])
def test_of_few_draws_the_interval_holds_the_mean_95_times_in_100(n):
    rng = np.random.default_rng(0)
    assert covered(map(mean, rng.normal(2, 3, (4000, n))), 2) == pytest.approx(0.95, abs=0.012)
    shared = rng.normal(0, 9, (4000, n))  # what the draws of a pair have in common
    pairs = zip(shared + rng.normal(2, 1, shared.shape), shared + rng.normal(0, 2, shared.shape), strict=True)
    assert covered((difference(*pair) for pair in pairs), 2) == pytest.approx(0.95, abs=0.012)


@pytest.mark.parametrize("n", [3, 5])
def test_of_few_draws_in_each_of_few_tasks_the_interval_holds_the_mean_of_these_tasks(n):
    rng = np.random.default_rng(0)
    tables = rng.normal([[0], [5], [-5]], [[1], [2], [3]], (2000, 3, n))
    found = [over_tasks({str(i): draws for i, draws in enumerate(table)}) for table in tables]
    assert covered(found, 0) == pytest.approx(0.95, abs=0.02)


def test_of_examples_and_shares_the_interval_holds_the_mean_about_95_times_in_100():
    rng = np.random.default_rng(0)
    assert 0.92 <= covered((mean(x, "examples") for x in rng.exponential(1, (400, 100))), 1) <= 0.97
    hits = scipy.stats.binom.rvs(50, 0.9, size=4000, random_state=0)
    assert covered((share(k, 50) for k in hits), 0.9) == pytest.approx(0.95, abs=0.03)


def test_intervals_and_p_values_are_those_of_scipy():
    for found, test in (
        (mean(ONE), scipy.stats.ttest_1samp(ONE, 0)),
        (difference(ONE, OTHER), scipy.stats.ttest_rel(ONE, OTHER)),
        (
            unpaired(mean(ONE), mean([1.0, 4.0, 2.0, 7.0])),
            scipy.stats.ttest_ind(ONE, [1.0, 4.0, 2.0, 7.0], equal_var=False),
        ),
    ):
        expected = test.confidence_interval()
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
        assert found.p() == pytest.approx(test.pvalue)
    for hits in (0, 3, 50):
        expected = scipy.stats.binomtest(hits, 50).proportion_ci(method="wilson")
        assert (share(hits, 50).low, share(hits, 50).high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    values = np.random.default_rng(1).exponential(1, 200)
    expected = scipy.stats.bootstrap((values,), np.mean, method="percentile", rng=0).confidence_interval
    found = mean(values, "examples")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=0.02)


def test_the_difference_of_two_shares_is_newcombes():
    found = unpaired(share(56, 70), share(48, 80))  # his example (1998, table II, method 10)
    assert (found.mean, found.low, found.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=1e-4)
    assert unpaired(share(0, 0), share(48, 80)).word() == UNDEFINED


def test_a_p_value_and_an_interval_give_the_same_word():
    for estimate in (mean(ONE), share(47, 50), mean(np.arange(40.0), "examples")):
        for level in np.linspace(estimate.low - 1, estimate.high + 1, 41):
            outside = ABOVE if level < estimate.low else BELOW if level > estimate.high else OPEN
            assert estimate.word(level) == outside
    assert Estimate(1, 1, 1).word() == ABOVE and Estimate(0, 0, 0).word() == OPEN  # every pair alike


def test_one_run_never_gives_a_word():
    for alone in (mean([0.9]), difference([0.9], [0.1]), over_tasks({"sst2": [0.9], "mr": [0.8]})):
        assert alone.word(0.5) == UNDEFINED and math.isnan(alone.low)
        assert words({"a": alone}, 0.5) == {"a": UNDEFINED}
    assert f"{mean([2.0]):.1f}" == "2.0"
    assert mean([1.0, math.nan, 2.0]).word() == UNDEFINED  # a run that diverged


def test_draws_of_several_tasks_are_not_one_sample():
    values = {"a": [1.0, 1.1, 0.9], "b": [5.0, 5.1, 4.9]}
    found = over_tasks(values)
    assert found.mean == pytest.approx(3) and found.high - found.low < 0.4  # within tasks, not between them
    same = {"a": [1.0, 3.0], "b": [1.0, 3.0]}
    welch = scipy.stats.ttest_ind([1.0, 3.0], [-1.0, -3.0], equal_var=False).confidence_interval()
    assert (over_tasks(same).low, over_tasks(same).high) == pytest.approx((welch.low / 2, welch.high / 2))
    assert over_tasks({"a": [1.0], "b": [1.1], "c": [0.9]}).word() == UNDEFINED  # three tasks, each once


def test_tasks_that_disagree_get_no_word():
    agree, disagree = [0.5, 0.6, 0.5], [-0.01, -0.011, -0.01]
    assert over_tasks({"a": agree, "b": agree}).word() == ABOVE
    assert over_tasks({"a": agree, "b": disagree, "c": agree}).word() == OPEN
    assert over_tasks({"a": agree, "b": disagree}).word(-1) == ABOVE
    assert over_tasks({"a": agree, "b": disagree}).phrase("+.2f").endswith("not told apart (tasks disagree)")
    with pytest.raises(ValueError, match="needs a task"):
        over_tasks({})


def test_holm_corrects_as_rejecting_step_by_step_does():
    rng = np.random.default_rng(0)
    for p in rng.beta(0.3, 2, (200, 6)):
        rejected, order = set(), sorted(range(6), key=p.__getitem__)
        for i, index in enumerate(order):  # the procedure as published: stop at the first that is not rejected
            if p[index] > 0.05 / (6 - i):
                break
            rejected.add(index)
        corrected = holm(p)
        assert {i for i in range(6) if corrected[i] <= 0.05} == rejected
    assert holm([0.01, math.nan, 0.04]) == pytest.approx([0.02, math.nan, 0.04], nan_ok=True)


def test_among_many_comparisons_of_nothing_words_are_rare():
    rng = np.random.default_rng(0)
    alone = corrected = 0
    for table in rng.normal(0, 1, (500, 12, 3)):
        found = {str(i): mean(draws) for i, draws in enumerate(table)}
        alone += any(estimate.word() != OPEN for estimate in found.values())
        corrected += any(word != OPEN for word in words(found).values())
    assert corrected / 500 < 0.08 < 0.35 < alone / 500


def test_words_of_each_level():
    found = {"a": mean([1.0, 1.1, 1.2]), "b": mean([1.0, 1.1, 1.2]), "c": mean([1.0])}
    assert words(found, {"a": 0, "b": 2, "c": 0}) == {"a": ABOVE, "b": BELOW, "c": UNDEFINED}


def test_a_phrase_says_what_would_have_been_told_apart():
    assert Estimate(0.1, -0.2, 0.4).phrase("+.1f") == "+0.1 [-0.2, +0.4]: not told apart (0.3 would have been)"
    assert Estimate(2, 1, 3).phrase(".0f", above="worse") == "2 [1, 3]: worse"
    assert Estimate(0, 0, 0).phrase(".0f") == "0 [0, 0]: not told apart"
    assert (100 * Estimate(0.02, 0.01, 0.03)).entry() == pytest.approx({"mean": 2, "low": 1, "high": 3})


def test_what_would_have_been_told_apart_among_others_is_corrected():
    found = {"a": mean([1.0, 1.1, 1.2]), "b": mean([-0.9, 1.0, 0.1]), "c": mean([0.3, -0.2, 0.4])}
    assert phrases(found, ".1f")["b"] == f"{found['b']:.1f}: not told apart ({found['b'].half(2):.1f} would have been)"
    moved = {name: Estimate(0, e.low - e.mean, e.high - e.mean, e.df) for name, e in found.items()}
    for factor, word in ((0.99, OPEN), (1.01, ABOVE)):
        shift, b = factor * found["b"].half(2), moved["b"]
        assert words(found | {"b": Estimate(shift, b.low + shift, b.high + shift, b.df)})["b"] == word


def test_tensors_and_curves_are_taken():
    samples = torch.tensor([ONE, OTHER])
    curve = mean(samples)
    assert curve.low.shape == (2,) and curve.low[0] == pytest.approx(mean(ONE).low)


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="one has 3 values and other 2; they are compared in pairs"):
        difference(ONE, OTHER[:2])
    with pytest.raises(ValueError, match="over is 'draws', of 0 values"):
        mean([])
    with pytest.raises(ValueError, match="over is 'queries'"):
        mean(ONE, "queries")


@pytest.mark.parametrize(("draws", "examples"), [(3, 60), (5, 40), (8, 10)])
def test_of_draws_and_examples_the_interval_holds_the_mean_of_both(draws, examples):
    rng = np.random.default_rng(1)
    runs, shape = 400, (draws, examples)
    found = [
        nested(rng.normal(0, 1, (draws, 1)) + rng.normal(0, 1, examples) + rng.normal(0, 3, shape)) for _ in range(runs)
    ]
    assert covered(found, 0) == pytest.approx(0.95, abs=0.03)


def test_examples_that_all_draws_share_widen_the_interval_and_a_single_draw_leaves_none():
    rng = np.random.default_rng(0)
    alike = np.tile(rng.normal(0, 1, 50), (4, 1))  # draws make no difference, so that the examples' spread is all
    assert mean(alike.mean(1)).half() == 0
    assert nested(alike).half() == pytest.approx(mean(alike[0]).half())
    assert math.isnan(nested(alike[:1]).low) and nested(alike[:1]).word() == UNDEFINED


def test_undefined_examples_are_left_out_of_their_draw():
    values = np.array([[1.0, math.nan, 3.0], [2.0, 2.0, 5.0]])
    assert nested(values).mean == 2.5
    with pytest.raises(ValueError, match="each draw with a value"):
        nested(np.full((2, 3), math.nan))
    with pytest.raises(ValueError, match=r"\(3,\)"):
        nested([1.0, 2.0, 3.0])


def test_flips_are_judged_by_mcnemars_exact_test():
    before, after = [0] * 22 + [1] * 5 + [0] * 3, [1] * 22 + [1] * 4 + [0] * 4
    found = flips(before, after)
    assert (found.gained, found.lost, found.n, str(found)) == (22, 1, 30, "22 gained, 1 lost of 30")
    assert found.p == pytest.approx(scipy.stats.binomtest(1, 23).pvalue) and found.word() == ABOVE
    assert found.estimate.mean == pytest.approx(21 / 30) and flips(after, before).word() == BELOW
    assert flips([1, 0, 1], [1, 1, 1]).word() == OPEN  # one alone decides nothing
    assert flips([1, 0], [1, 0]).word() == OPEN and flips([1, 0], [1, 0]).p == 1
    with pytest.raises(ValueError, match="in pairs"):
        flips([1], [1, 0])
