"""Fine-tuning by recorded steps against the loop that defines it; on a CPU, torch's tracer stands in for a graph."""

import weakref

import pytest
import torch
from test_descent import LR, SEQUENCES, agree, small
from torch.fx.experimental.proxy_tensor import make_fx

from iclnb.experiment import descent, finetune, replay
from iclnb.experiment.descent import DivergedError, descend
from iclnb.experiment.replay import WARM_UP, Replay, can_replay, places, replay_of

LONGER = [[0, 9, 1], [0, 3, 3, 8, 2, 7]]
UNFIT = {
    "aten.item",
    "aten._local_scalar_dense",
    "aten.nonzero",
    "aten.lift_fresh",
}  # what waits for a GPU, or sends it something


def traced(work):
    """As replay.CudaGraphs: warm up, record the operations and the tensors that they act on, repeat them blindly."""
    for _ in range(WARM_UP):
        work()
    graph = make_fx(work)()
    called = {str(node.target).rpartition(".")[0] for node in graph.graph.nodes if node.op == "call_function"}
    assert "aten.sub_" in called and not called & UNFIT
    with torch.no_grad():
        results = graph()

    @torch.no_grad()
    def again():
        for place, found in zip(results, graph(), strict=True):
            place.copy_(found)

    return again, results


def same(found, expected, tolerance=1e-10):
    agree(found.model, expected.model, tolerance)
    assert found.losses == pytest.approx(expected.losses, rel=tolerance)
    torch.testing.assert_close(found.token_losses, expected.token_losses, rtol=tolerance, atol=tolerance)
    close = max(tolerance, 1e-6)  # queries are kept in float32
    torch.testing.assert_close(found.queries, expected.queries, rtol=close, atol=close)


def loop(model, sequences, lr, record=False):
    return descend(model, [[ids] for ids in sequences], lr, record=record)


@pytest.fixture(autouse=True)
def padded(monkeypatch):
    """Lengths as on a GPU: one recording for all of these."""
    monkeypatch.setitem(descent.MULTIPLE, "cpu", 8)


def test_recorded_steps_are_the_loop_whatever_the_seed_and_the_rate():
    model, recordings = small(), []
    recorded = Replay(model, lambda work: recordings.append(1) or traced(work))
    for sequences, lr, record in ((SEQUENCES, LR, True), (LONGER, LR / 2, True), (SEQUENCES, 2 * LR, False)):
        same(recorded.train_on(model, sequences, lr, record), loop(model, sequences, lr, record))
    assert len(recordings) == 2  # with queries and without


def test_what_one_training_gave_is_left_alone_by_the_next():
    model = small()
    recorded = Replay(model, traced)
    first = recorded.train_on(model, SEQUENCES, LR, True)
    recorded.train_on(model, LONGER, LR)
    same(first, loop(model, SEQUENCES, LR, True))
    assert all(p.requires_grad for p in first.model.parameters())
    assert sum(p.data_ptr() == q for p, q in zip(first.model.parameters(), places(model), strict=True)) > 10  # shared


def test_a_model_that_was_trained_on_in_between_is_the_one_that_is_trained():
    model = small()
    recorded = Replay(model, traced)
    recorded.train_on(model, SEQUENCES, LR)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1.1)
    same(recorded.train_on(model, SEQUENCES, LR), loop(model, SEQUENCES, LR))


def test_lengths_that_pad_alike_share_a_recording():
    recorded = Replay(small(), lambda work: (work, work()))
    recorded.train_on(small(), [[0] * length for length in (3, 8, 9, 16, 31, 32)], LR)
    assert [F for F, _ in recorded.recordings] == [8, 16, 32]


def test_half_precision_keeps_its_masters():
    model = small(torch.bfloat16)
    same(Replay(model, traced).train_on(model, SEQUENCES * 5, 1e-3), loop(model, SEQUENCES * 5, 1e-3), 1e-2)


def test_divergence_is_said_and_the_next_training_starts_afresh():
    model = small()
    recorded = Replay(model, traced)
    with pytest.raises(DivergedError, match=r"at step \d+ with lr = 1e\+300"):
        recorded.train_on(model, SEQUENCES, 1e300)
    same(recorded.train_on(model, SEQUENCES, LR), loop(model, SEQUENCES, LR))


def test_recordings_are_kept_for_one_model_while_its_weights_stay_where_they_are(monkeypatch):
    monkeypatch.setattr(replay, "KEPT", weakref.WeakKeyDictionary())
    model, other = small(), small()
    kept = replay_of(model)
    assert replay_of(model) is kept
    model.double().float()  # moves them
    assert replay_of(model) is not kept
    replay_of(other)
    assert list(replay.KEPT) == [other]
    del other
    assert not replay.KEPT


def test_a_step_that_cannot_be_recorded_is_said_and_taken_by_the_loop(monkeypatch):
    def refused(work):
        raise RuntimeError("operation not permitted when stream is capturing")

    model = small()
    monkeypatch.setattr(replay, "can_replay", lambda *_: True)
    monkeypatch.setattr(replay, "replay_of", lambda model: Replay(model, refused))
    with pytest.warns(UserWarning, match="goes on without CUDA graphs: operation not permitted"):
        same(finetune.train_on(model, SEQUENCES, LR), loop(model, SEQUENCES, LR))


def test_graphs_are_for_gpus_and_an_empty_demonstration_for_the_loop(monkeypatch):
    assert not can_replay(small(), 10)
    monkeypatch.setattr(replay, "can_replay", lambda *_: True)
    monkeypatch.setattr(replay, "replay_of", lambda model: pytest.fail("recorded"))
    assert finetune.train_on(small(), [], LR).losses == []
    assert finetune.train_on(small(), SEQUENCES, LR, graphs=False).losses


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
def test_cuda_graphs_are_the_loop(dtype, tolerance):
    model = small(dtype).cuda()
    for sequences, lr in ((SEQUENCES, LR), (LONGER, LR / 2), (SEQUENCES, LR / 2)):
        found = finetune.train_on(model, sequences, lr, record=True)
        assert model in replay.KEPT
        expected = loop(model, sequences, lr, record=True)
        agree(found.model, expected.model, tolerance)
        assert found.losses == pytest.approx(expected.losses, rel=tolerance)
        torch.testing.assert_close(found.queries, expected.queries, rtol=10 * tolerance, atol=10 * tolerance)
