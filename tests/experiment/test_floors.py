"""What measures give by chance: by formula as by simulation, in every batch alike, and nothing where it must be."""

import dataclasses
import math

import pytest
import torch

from iclnb.experiment import compare
from iclnb.experiment.floors import STAND_INS, measures_with_floors, random_state_floor, stand_ins
from iclnb.experiment.internals import Internals, Maps

N, L, H, C, P = 6, 2, 2, 400, 12
SPANS = [(1, 5), (6, 11)]


def internals(seed, like=None):
    """Random internals; with half of the output of others, if there are `like` ones."""
    g = torch.Generator().manual_seed(seed)
    found = Internals(
        output=torch.randn(N, L, C, generator=g),
        scores=[torch.randn(L, H, t, generator=g) for t in (3, 5, 4, 6, 3, 4)],
        prefix_scores=torch.randn(N, L, P, generator=g),
        query=torch.randn(N, L, C, generator=g),
    )
    return found if like is None else dataclasses.replace(found, output=found.output + 0.5 * like.output)


ZSL = internals(0)
ICL, FT = internals(1, like=ZSL), internals(2, like=ZSL)
QUERIES = [torch.randn(stop - start, L, C, generator=torch.Generator().manual_seed(9)) / C for start, stop in SPANS]


def everything(rows, of=lambda internals: internals):
    rows = list(rows)
    trio = (of(run[rows]) for run in (ZSL, FT, ICL))
    return measures_with_floors(*trio, SPANS, [q.to(of(FT).query) for q in QUERIES], of(FT[range(4)]), rows)


def together(internals, device="cpu"):
    """The same internals as a batch has them, on a device: all maps in one tensor."""
    alone = [Maps(one[None], [one.shape[-1]]) for one in internals.scores]
    found = dataclasses.replace(internals, scores=Maps.join(alone))
    found.scores.padded = found.scores.padded.to(device)
    moved = {name: getattr(found, name).to(device) for name in ("output", "prefix_scores", "query")}
    return dataclasses.replace(found, **moved)


def test_a_batch_at_once_gives_what_queries_give_one_by_one():
    expected, found = everything(range(N)), everything(range(N), together)
    assert found.keys() == expected.keys() and len(found) > 30
    for name, values in found.items():
        assert values.dtype == torch.float64
        torch.testing.assert_close(values, expected[name], rtol=1e-12, atol=1e-12, msg=name)


@pytest.mark.gpu
def test_measures_on_a_device_in_float32_are_those_of_the_cpu_in_float64(device, monkeypatch):
    expected = everything(range(N))
    monkeypatch.setitem(compare.WIDE, "cpu", torch.float32)
    found = everything(range(N), lambda internals: together(internals, device))
    for name, values in found.items():
        assert values.device.type == device
        if device == "cpu" or not any(word in name for word in ("random", "state")):  # a GPU draws other noise
            torch.testing.assert_close(values.double().cpu(), expected[name], rtol=0, atol=2e-6, msg=name)
    assert found["sim_am"].dtype == found["sim_aou: formula"].dtype == torch.float32


def test_maps_come_back_from_a_batch_as_they_were():
    batch = together(FT)
    for found in (batch.cpu(), batch[range(N)], Internals.join([batch[[0, 1]], batch[[2, 3, 4, 5]]])):
        assert all(torch.equal(a, b) for a, b in zip(found.scores, FT.scores, strict=True))
        assert torch.equal(found.output, FT.output)
    assert isinstance(batch.cpu().scores, list) and isinstance(batch[[1]].scores, Maps)


def test_the_formula_is_what_random_states_give():
    cosine = torch.nn.functional.cosine_similarity(ICL.output.double(), ZSL.output.double(), dim=-1)
    floor = random_state_floor(ZSL, ICL)
    torch.testing.assert_close(floor, ((1 - cosine) / 4) ** 0.5)
    draws = [
        compare.sim_aou(ZSL, stand_ins(ZSL, FT, None, range(N), seed)["random state"], ICL) for seed in range(0, 400, 4)
    ]
    torch.testing.assert_close(torch.stack(draws).mean(0), floor, atol=0.02, rtol=0)
    assert floor.mean() > 0.25, "this floor is not 0"


def test_random_state_and_update_are_as_long_as_fine_tunings():
    found = stand_ins(ZSL, FT, None, range(N), seed=0)
    state, moved = found["random state"], found["random update"]
    torch.testing.assert_close(state.output.norm(dim=-1), FT.output.double().norm(dim=-1))
    distance = (FT.output.double() - ZSL.output.double()).norm(dim=-1)
    torch.testing.assert_close((moved.output - ZSL.output).norm(dim=-1), distance)
    for z, f, m in zip(ZSL.scores, FT.scores, moved.scores, strict=True):
        torch.testing.assert_close((m - z).norm(dim=-1), (f - z).double().norm(dim=-1))
    assert found.keys() | {"another query"} == STAND_INS.keys()


def test_projected_and_updates_have_no_floor_where_nothing_is_shared():
    found = everything(range(N))
    for name in ("sim_aou_projected: random state", "sim_aou_unnormalised: random update"):
        assert found[name].abs().mean() < 3 / math.sqrt(C)
    assert found["sim_aou_unnormalised: random state"].mean() > 0.2


def test_another_query_is_never_the_query_itself():
    found = stand_ins(ZSL, FT, FT[range(4)], range(N), seed=0)["another query"]
    for row in range(N):
        assert not torch.equal(found.output[row], FT.output[row])
        assert torch.equal(found.output[row], FT.output[(row + 1) % 4])


@pytest.mark.parametrize("rows", [[4, 1], [5], [0, 1, 2, 3, 4, 5]])
def test_an_example_meets_the_same_chances_in_every_batch(rows):
    whole, part = everything(range(N)), everything(rows)
    assert part.keys() == whole.keys()
    for name, values in part.items():
        torch.testing.assert_close(values, whole[name][rows], msg=name)


def test_of_one_demonstration_there_is_no_order_and_of_one_example_no_other():
    found = measures_with_floors(ZSL[[0]], FT[[0]], ICL[[0]], SPANS[:1], QUERIES[:1], None, [0])
    assert not [name for name in found if "kendall" in name or "another" in name]
