"""The four measures against a literal recomputation, number by number, with numpy and scipy in float64."""

import math

import numpy as np
import pytest
import scipy.stats
import torch

from iclnb import few_shot, load, load_task
from iclnb.experiment import compare
from iclnb.experiment.predict import Internals, Predictions
from iclnb.tasks.prompts import Prompt

N, L, H, C, P = 5, 3, 2, 8, 17
SPANS = [(1, 5), (6, 9), (10, 16)]


def internals(seed):
    g = torch.Generator().manual_seed(seed)
    lengths = [3, 1, 4, 6, 2]
    return Internals(
        output=torch.randn(N, L, C, generator=g),
        scores=[torch.randn(L, H, t, generator=g) for t in lengths],
        prefix_scores=torch.randn(N, L, P, generator=g),
        query=torch.randn(N, L, C, generator=g),
    )


ZSL, ICL, FT = internals(0), internals(1), internals(2)


def cosine(a, b):
    return float(np.dot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b)))


def predictions(right):
    """Predictions whose correctness is given, for labels 0 0 0 ..."""
    log_probs = torch.tensor([[0.0, -1.0] if ok else [-1.0, 0.0] for ok in right])
    return Predictions(log_probs, torch.zeros(len(right), dtype=torch.long), Prompt([0], [], []))


def test_rec2ftp_counts_what_fine_tuning_corrects():
    zsl, ft, icl = (predictions(r) for r in ([0, 0, 0, 1, 1, 0], [1, 1, 0, 1, 0, 1], [1, 0, 1, 1, 1, 1]))
    recall = compare.rec2ftp(zsl, ft, icl)
    assert (recall.both, recall.total) == (2, 3)
    assert recall.percent == pytest.approx(100 * 2 / 3)


def test_rec2ftp_is_undefined_where_fine_tuning_corrects_nothing():
    recall = compare.rec2ftp(predictions([1, 0]), predictions([1, 0]), predictions([1, 1]))
    assert recall.total == 0 and math.isnan(recall.percent)


def test_rec2ftp_refuses_predictions_for_different_examples():
    with pytest.raises(ValueError, match="not for the same examples"):
        compare.rec2ftp(predictions([1, 0]), predictions([1]), predictions([1, 1]))


@pytest.mark.parametrize("form", compare.FORMS)
def test_sim_aou_in_each_form(form):
    expected = np.empty((N, L))
    for n in range(N):
        for layer in range(L):
            z, i, f = (x.output[n, layer].double().numpy() for x in (ZSL, ICL, FT))
            if form == "normalised":
                z, i, f = (h / math.sqrt(sum(h * h)) for h in (z, i, f))
            if form == "projected":  # what is left of a regression on z
                i, f = (h - np.linalg.lstsq(z[:, None], h, rcond=None)[0] * z for h in (i, f))
                z = 0 * z
            expected[n, layer] = cosine(i - z, f - z)
    np.testing.assert_allclose(compare.sim_aou(ZSL, FT, ICL, form).numpy(), expected, rtol=1e-9)


def test_a_form_of_the_update_that_is_none_is_refused():
    with pytest.raises(ValueError, match="form is 'centred'; accepted are 'normalised', 'unnormalised', 'projected'"):
        compare.sim_aou(ZSL, FT, ICL, "centred")


@pytest.mark.parametrize("zero_mean", [False, True])
def test_the_random_control_replaces_the_update_of_fine_tuning(zero_mean):
    noise = compare.noise_of(range(N), (L, C), seed=5).numpy()
    assert 0 <= noise.min() < 0.1 and 0.9 < noise.max() < 1 and abs(noise.mean() - 0.5) < 0.1
    noise = 2 * noise - 1 if zero_mean else noise
    expected = np.empty((N, L))
    for n in range(N):
        for layer in range(L):
            z, i = (x.output[n, layer].double().numpy() for x in (ZSL, ICL))
            expected[n, layer] = cosine(i / np.linalg.norm(i) - z / np.linalg.norm(z), noise[n, layer])
    found = compare.sim_aou_random(ZSL, ICL, seed=5, zero_mean=zero_mean)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)


def test_sim_am_compares_raw_logits_head_by_head():
    expected = np.zeros((N, L))
    update = np.zeros((N, L))
    for n in range(N):
        for layer in range(L):
            for h in range(H):
                z, i, f = (x.scores[n][layer, h].double().numpy() for x in (ZSL, ICL, FT))
                expected[n, layer] += cosine(i, f) / H
                update[n, layer] += cosine(i - z, f - z) / H
    np.testing.assert_allclose(compare.sim_am(ICL, FT).numpy(), expected, rtol=1e-12)
    np.testing.assert_allclose(compare.sim_am_update(ZSL, FT, ICL).numpy(), update, rtol=1e-12)


def test_measures_of_a_run_with_itself_are_one():
    forms = [compare.sim_aou(ZSL, ICL, ICL, form) for form in compare.FORMS]
    for values in (*forms, compare.sim_am(ICL, ICL), compare.sim_am_update(ZSL, ICL, ICL)):
        torch.testing.assert_close(values, torch.ones(N, L, dtype=torch.float64))


def test_a_similarity_with_no_update_is_zero():
    assert max(compare.sim_aou(ZSL, ZSL, ICL, form).abs().max() for form in compare.FORMS) < 1e-12


def test_maps_of_two_queries_are_compared_at_their_last_tokens():
    swapped = ICL[[2, 0, 1, 4, 3]]
    for n, (a, b) in enumerate(zip(FT.scores, swapped.scores, strict=True)):
        m = min(a.shape[-1], b.shape[-1])
        expected = [cosine(a[1, h, -m:].double().numpy(), b[1, h, -m:].double().numpy()) for h in range(H)]
        assert compare.sim_am(FT, swapped)[n, 1].item() == pytest.approx(np.mean(expected))


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_an_update_that_is_only_rounding_is_none(dtype):
    """With rotary positions the demonstrations leave the first layer's logits as they are, but for rounding."""
    model, tokenizer = load("pocket-gpt", device="cpu", dtype=dtype)
    task = load_task("sst2", "sample")
    zsl, icl, other = (few_shot(model, tokenizer, task, k, 1, limit=5, record=True).internals for k in (0, 8, 3))
    assert any(not torch.equal(z[0], i[0]) for z, i in zip(zsl.scores, icl.scores, strict=True))
    assert icl[[3, 1]].dtype == Internals.join([icl, icl]).dtype == getattr(torch, dtype)
    found = compare.sim_am_update(zsl, other, icl)  # (n, L)
    assert found[:, 0].abs().max() == 0 and found[:, 1:].abs().min() > 0.1


@pytest.mark.parametrize("long", [compare.LONG, 4])
def test_kendalls_tau_is_scipys(long, monkeypatch):
    monkeypatch.setattr(compare, "LONG", long)  # all pairs, and by sorting
    g = torch.Generator().manual_seed(4)
    one, other = torch.randn(40, 3, 9, generator=g).double(), torch.randint(0, 4, (40, 3, 9), generator=g).double()
    one[:10] = one[:10].round()  # ties in both
    one[10, 0], other[10, 1], other[11, 0] = 0.5, 2, one[11, 0]  # no order at all, and the same order
    one[12, 0, 3], other[12, 1, 8] = math.nan, math.nan
    expected = [
        [scipy.stats.kendalltau(a, b).statistic for a, b in zip(*rows, strict=True)]
        for rows in zip(one, other, strict=True)
    ]
    found = compare.kendall_tau(one, other)
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-12)
    assert found.isnan().sum() == 4 and found[11, 0] == 1


@pytest.mark.parametrize("level", compare.LEVELS)
def test_kendall_ranks_tokens_and_demonstrations_by_their_shares(level):
    g = torch.Generator().manual_seed(3)
    queries = [torch.randn(stop - start, L, C, generator=g) for start, stop in SPANS]
    expected = np.empty((N, L))
    for n in range(N):
        for layer in range(L):
            icl = [ICL.prefix_scores[n, layer, a:b].double().numpy() for a, b in SPANS]
            q = FT.query[n, layer].double().numpy()
            ft = [rows[:, layer].double().numpy() @ q for rows in queries]
            if level == "demonstrations":
                icl, ft = ([np.exp(run).sum() for run in logits] for logits in (icl, ft))  # their sum changes no order
            else:
                icl, ft = np.concatenate(icl), np.concatenate(ft)
            expected[n, layer] = scipy.stats.kendalltau(icl, ft).statistic
    found = compare.kendall(ICL, FT, SPANS, queries, level)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)
    chance = compare.kendall_random(ICL, SPANS, level, seed=1)
    assert chance.shape == (N, L) and not torch.equal(found, chance)


def test_shares_of_a_demonstrations_tokens_sum_to_its_own():
    tokens, whole = (compare.icl_shares(ICL, SPANS, level) for level in compare.LEVELS)
    assert tokens.shape == (N, L, 13) and whole.shape == (N, L, 3)
    torch.testing.assert_close(tokens[..., :4].sum(-1), whole[..., 0])
    with pytest.raises(ValueError, match="level is 'heads'; accepted are 'tokens', 'demonstrations'"):
        compare.icl_shares(ICL, SPANS, "heads")


def test_kendall_looks_at_the_first_hundred_examples():
    many = Internals(torch.zeros(130, 1, 2), [], torch.randn(130, 1, P), torch.randn(130, 1, 2))
    assert compare.kendall(many, many, SPANS, [torch.randn(b - a, 1, 2) for a, b in SPANS]).shape == (100, 1)
    assert compare.kendall_random(many, SPANS).shape == (100, 1)


@pytest.mark.parametrize(
    "spans, queries, message", [(SPANS, 2, "3 demonstrations and queries 2"), (SPANS[:1], 1, "at least 2")]
)
def test_kendall_refuses_what_has_no_order(spans, queries, message):
    with pytest.raises(ValueError, match=message):
        compare.kendall(ICL, FT, spans, [torch.zeros(4, L, C)] * queries)
