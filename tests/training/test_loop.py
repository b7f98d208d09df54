"""The training loop: it learns, it can be killed at any moment, it never loses a checkpoint, and it can be shared."""

import errno
import os
import signal
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from iclnb.interrupts import Stopped
from iclnb.model.gpt import GPT, GPTConfig
from iclnb.training import loop
from iclnb.training.loop import Schedule, TrainingError, train

TINY = GPTConfig(vocab_size=32, n_layer=1, n_head=2, n_embd=16, n_positions=32, positions="rotary")


def batches(step):
    """Counting sequences: the next token is the last one plus one."""
    generator = torch.Generator().manual_seed(step)
    ids = (torch.randint(0, 32, (8, 1), generator=generator) + torch.arange(17)) % 32  # (8, 17)
    return ids[:, :-1], ids[:, 1:], torch.ones(8, 16)


def run(folder=None, steps=40, model=None, **options):
    model = model or GPT(TINY).initialise(0)
    record = train(model, batches, Schedule(steps), folder=folder, progress=False, **options)
    return model, record


def same_weights(a, b):
    return all(x.equal(y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


class Interrupt(Exception):
    """Stands for whatever ends a process."""


def interrupted_at(step):
    def feed(i):
        if i == step:
            raise Interrupt
        return batches(i)

    return feed


def test_it_learns():
    _, record = run(steps=300, measure_every=100)
    assert [row["step"] for row in record] == [100, 200, 300]
    assert [row["tokens"] for row in record] == [100 * 128, 200 * 128, 300 * 128]
    assert record[-1]["loss"] < 0.5 * record[0]["loss"] and record[0]["loss"] < 3.47  # log 32, by chance


def test_the_loss_is_the_weighted_mean_over_tokens():
    model = GPT(TINY).initialise(0)
    inputs, targets, _ = batches(0)
    weights = torch.rand(8, 16)
    log_probs = model(inputs).double().log_softmax(-1).gather(-1, targets[..., None]).squeeze(-1)  # (8, 16)
    expected = -(log_probs * weights).sum() / weights.sum()
    found = loop.training_step(loop.Objective(model, loop.token_loss), [], (inputs, targets, weights))
    assert found == pytest.approx(expected.item(), rel=1e-2)  # bfloat16 where the machine has it


class Sizes(TorchDispatchMode):
    """Notes how many numbers of 32 bits and more each result of an operation holds."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        tensors = [x for x in tree_leaves(found) if isinstance(x, torch.Tensor)]
        self.seen += [x.numel() for x in tensors if x.is_floating_point() and x.element_size() >= 4]
        return found


WORDY = replace(TINY, vocab_size=512, momentum=0.5, learn_momentum=True)  # logits are most of what it computes
PIECE = 512 * 20  # of the 128 tokens of a batch 20 at a time, and 8


@pytest.fixture
def in_float64(monkeypatch):
    monkeypatch.setattr(loop, "has_bf16", lambda device: False)
    return lambda **shape: GPT(replace(WORDY, **shape)).initialise(0).double()


def gradients(objective, model, T=16):
    inputs, targets, _ = batches(0)
    weights = torch.rand(8, 16, generator=torch.Generator().manual_seed(0)).double()
    summed, weight = objective(model, tuple(x[:, :T] for x in (inputs, targets, weights)))
    return [summed, weight, *torch.autograd.grad(summed, list(model.parameters()))]


@pytest.mark.parametrize("tied", [True, False])
def test_the_loss_in_pieces_is_the_plain_one_and_never_holds_all_logits(tied, in_float64, monkeypatch):
    model = in_float64(tie_embeddings=tied)
    with Sizes() as plain:
        expected = gradients(loop.token_loss, model)
    monkeypatch.setattr(loop, "LOGITS", PIECE)
    with Sizes() as pieces:
        found = gradients(loop.token_loss, model)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    assert max(plain.seen) == 128 * 512 and max(pieces.seen) <= PIECE


@pytest.mark.parametrize("limit, lengths", [(512 * 100, [16]), (loop.LOGITS, [16, 14])], ids=["pieces", "lengths"])
def test_the_whole_loss_compiles(limit, lengths, in_float64, monkeypatch):
    """Without a break: momentum, pieces of 100 tokens, the check of lengths, which a new length comes to as well."""
    monkeypatch.setattr(loop, "LOGITS", limit)
    model = in_float64()
    whole = loop.Objective(model, loop.token_loss)
    whole.compile(fullgraph=True, backend="aot_eager")
    for T in lengths:
        found = gradients(lambda model, batch: whole(batch), model, T=T)
        torch.testing.assert_close(found, gradients(loop.token_loss, model, T=T), rtol=1e-10, atol=1e-10)


def test_learning_rate_rises_stays_and_falls():
    schedule = Schedule(1000, warmup=50, decay=0.4)
    assert [schedule.factor(step) for step in (0, 24, 49, 300, 600)] == pytest.approx([0.02, 0.5, 1, 1, 1])
    assert [schedule.factor(step) for step in (800, 999)] == pytest.approx([0.5, 0.0025])


@pytest.mark.parametrize("stop", [1, 10, 11, 29, 39])
def test_resume_ends_in_the_same_weights_and_record(tmp_path, stop):
    options = {"checkpoint_every": 10, "measure_every": 7}
    whole, record = run(tmp_path / "whole", **options)
    with pytest.raises(Interrupt):
        train(GPT(TINY).initialise(0), interrupted_at(stop), Schedule(40), folder=tmp_path, progress=False, **options)
    continued, record_again = run(tmp_path, resume=True, **options)
    assert same_weights(whole, continued)
    assert record == record_again
    assert (tmp_path / "training.csv").read_text() == (tmp_path / "whole" / "training.csv").read_text()


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    run(tmp_path, identity={"seed": 1})
    with pytest.raises(TrainingError, match="is of another run: its seed is 1, asked for is 2"):
        run(tmp_path, identity={"seed": 2}, resume=True)
    with pytest.raises(TrainingError, match="is of another run: its schedule is"):
        run(tmp_path, identity={"seed": 1}, steps=41, resume=True)


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-1], lambda b: b[:2000] + bytes([b[2000] ^ 1]) + b[2001:], lambda b: b""]
)
def test_a_corrupt_checkpoint_is_said_and_not_loaded(tmp_path, damage):
    run(tmp_path)
    file = tmp_path / "checkpoint.pt"
    file.write_bytes(damage(file.read_bytes()))
    model = GPT(TINY).initialise(7)
    with pytest.raises(TrainingError, match="checkpoint.pt is corrupt"):
        run(tmp_path, model=model, resume=True)
    assert same_weights(model, GPT(TINY).initialise(7))


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_a_failing_save_leaves_the_earlier_checkpoint(tmp_path, monkeypatch, failure, where):
    whole, _ = run()
    with pytest.raises(Interrupt):
        train(
            GPT(TINY).initialise(0),
            interrupted_at(15),
            Schedule(40),
            folder=tmp_path,
            checkpoint_every=10,
            progress=False,
        )
    before = (tmp_path / "checkpoint.pt").read_bytes()

    def fail(*_):
        raise failure

    with monkeypatch.context() as patch:
        patch.setattr(os, where, fail)
        with pytest.raises((OSError, KeyboardInterrupt), match="could not be written|^$"):
            run(tmp_path, resume=True, checkpoint_every=10)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
    assert os.listdir(tmp_path) == ["checkpoint.pt"]
    assert same_weights(whole, run(tmp_path, resume=True, checkpoint_every=10)[0])


@pytest.mark.parametrize("number", ["nan", "inf"])
def test_a_loss_that_is_no_finite_number_stops_the_training(number):
    with pytest.raises(FloatingPointError, match=f"the loss is {number} at step 0; lower matrix_lr"):
        run(loss=lambda model, batch: (model(batch[0]).sum() * float(number), batch[2].sum()))


def test_a_learned_momentum_is_adamws_without_decay_and_moves():
    model = GPT(replace(TINY, momentum=0.5, learn_momentum=True)).initialise(0)
    logit = model.blocks[0].attn.momentum.logit
    muon, adamw = loop.make_optimizers(model, Schedule(40))
    assert any(p is logit for p in adamw.param_groups[0]["params"]) and adamw.param_groups[0]["weight_decay"] == 0
    assert len(muon.param_groups[0]["params"]) == 6 and all(p.ndim == 2 for p in muon.param_groups[0]["params"])
    run(model=model)
    assert not logit.equal(torch.zeros(2))


def test_a_stop_in_one_process_stops_all_at_the_same_step(tmp_path):
    class Other:
        """Another process, which got a signal in step 3."""

        process_index, num_processes, calls = 0, 2, 0

        def prepare_model(self, model):
            return model

        def reduce(self, x, how):
            if x.dtype == torch.int64 and x.item() < 128:  # the signals; tokens are 128
                self.calls += 1
                return x + (signal.SIGTERM if self.calls == 3 else 0)
            return x

    with pytest.raises(Stopped, match="step 3 of 40 is kept") as stopped:
        run(tmp_path, accelerator=Other())
    assert stopped.value.number == signal.SIGTERM
