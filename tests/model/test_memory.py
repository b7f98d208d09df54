"""Memory: the formulas against what autograd keeps and what torch's profiler counts."""

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from iclnb.experiment.descent import language_model_loss, trained_parameters
from iclnb.experiment.finetune import train_on
from iclnb.experiment.predict import Answers, Queries, _score
from iclnb.model import memory
from iclnb.model.gpt import GPT, GPTConfig
from iclnb.model.memory import activation_bytes, finetuning_bytes, free_bytes, needs_recomputing, query_bytes

SHAPE = {"vocab_size": 3000, "n_layer": 6, "n_head": 4, "n_embd": 256}
LLAMA = {"positions": "rotary", "norm": "rms", "activation": "swiglu", "bias": False, "n_kv_head": 2, "d_ff": 700}
QWEN3 = LLAMA | {"qk_norm": "head", "d_head": 100}
OLMO2 = LLAMA | {"qk_norm": "all", "norm_after": True, "n_kv_head": None}
T = 100


def student(dtype, **variant):
    """A model of which only keys and values are trained, and a sequence."""
    model = GPT(GPTConfig(**SHAPE, **variant)).initialise(0).to(dtype).requires_grad_(False)
    for p in trained_parameters(model).values():
        p.requires_grad_(True)
    return model, torch.randint(0, 3000, (1, T))


def counted_peak(work):
    """The most bytes that torch's allocator held at once for what `work` allocated."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        work()
    events = [e for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = torch.tensor([e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())]).cumsum(0)
    return int(held.max())


@pytest.mark.parametrize("variant", [{}, LLAMA, QWEN3, OLMO2], ids=["gpt", "llama", "qwen3", "olmo2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_autograd_keeps_is_what_the_formula_says(dtype, variant):
    model, ids = student(dtype, **variant)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model.hidden(ids)
    found = sum(storage.nbytes() for address, storage in kept.items() if address not in weights)
    assert found == pytest.approx(activation_bytes(model.config, dtype, T), rel=0.02)


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_step_stays_below_what_the_formula_says(dtype, recompute, monkeypatch):
    monkeypatch.setattr(memory, "needs_recomputing", lambda *shape: recompute)
    model, ids = student(dtype)
    parameters = list(trained_parameters(model).values())
    peak = counted_peak(lambda: torch.autograd.grad(language_model_loss(model, ids, recompute=recompute), parameters))
    parts = finetuning_bytes(model.config, dtype, T)
    bound = sum(parts[name] for name in ("gradients", "activations", "head", "logits"))
    assert 0.5 * bound < peak < bound


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_whole_training_stays_below_what_the_formula_says(dtype):
    """Two steps and more: nothing of one step is left when the next one begins."""
    model = GPT(GPTConfig(vocab_size=100, n_layer=6, n_head=4, n_embd=256)).initialise(0).to(dtype)
    peak = counted_peak(lambda: train_on(model, 3 * [list(range(10))], lr=0.01))
    parts = finetuning_bytes(model.config, dtype, 10)
    bound = sum(parts.values()) - parts["weights"]  # the given model was there before
    assert 0.5 * bound < peak < 1.05 * bound


def test_the_parameters_are_counted_one_by_one():
    model, _ = student(torch.float16, **LLAMA)
    parts = finetuning_bytes(model.config, torch.float16, T)
    trained = sum(p.numel() for p in trained_parameters(model).values())
    assert parts["weights"] == 2 * sum(p.numel() for p in model.parameters())
    assert (parts["trained"], parts["masters"], parts["gradients"]) == (2 * trained, 4 * trained, 2 * trained)
    assert finetuning_bytes(model.config, torch.float32, T)["masters"] == 0


def test_the_2_7B_model_fits_a_free_gpu_in_16_bits():
    """The paper's larger model on a T4's 15 GB, for a sequence of any length it takes."""
    config = GPTConfig(vocab_size=50261, n_layer=32, n_head=32, n_embd=2560)
    for tokens in (64, 512, 2048):
        assert sum(finetuning_bytes(config, torch.float16, tokens).values()) < 12e9
    assert needs_recomputing(config, torch.float16, 2048) and not needs_recomputing(config, torch.float16, 64)


@pytest.mark.parametrize("variant", [{}, QWEN3, OLMO2], ids=["gpt", "qwen3", "olmo2"])
@pytest.mark.parametrize("record", [False, True])
def test_a_batch_stays_below_what_the_formula_says(record, variant):
    model = GPT(GPTConfig(**SHAPE, **variant)).initialise(0)
    prefix = model.encode_prefix(torch.randint(0, 3000, (1, 200)))
    cpu = torch.device("cpu")
    queries, answers = Queries([[5] * 30 for _ in range(20)], 0, cpu), Answers([[7], [8, 9]], False, cpu)
    with torch.no_grad():
        peak = counted_peak(lambda: _score(model, prefix, range(20), queries, answers, record))
    each = query_bytes(model.config, torch.float32, P=200, T=31, answer_tokens=2, record=record)
    assert 0.3 * each < peak / 20 < each


def test_training_that_computes_blocks_again_gives_the_same_weights_and_records(monkeypatch):
    model = GPT(GPTConfig(vocab_size=50, n_layer=2, n_head=2, n_embd=16)).initialise(0)
    sequences = [[1, 2, 3, 4], [1, 5, 6]]
    kept = train_on(model, sequences, lr=0.1, record=True)
    monkeypatch.setattr(memory, "RECOMPUTE_ABOVE", 0)
    again = train_on(model, sequences, lr=0.1, record=True)
    for p, q in zip(kept.model.parameters(), again.model.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-7)
    for one, other in zip(kept.queries, again.queries, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


def test_free_memory_is_below_what_is_installed():
    assert 0 < free_bytes(torch.device("cpu")) <= memory._installed_bytes()


def test_a_container_has_what_its_limit_leaves(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    assert free_bytes(torch.device("cpu")) == memory._installed_bytes() // 2  # neither file: half of all
    (tmp_path / "meminfo").write_text("MemTotal:  9000 kB\nMemAvailable:  8000 kB\n")
    assert free_bytes(torch.device("cpu")) == 8000 * 1024
    (tmp_path / "memory.max").write_text("2000000\n")
    (tmp_path / "memory.current").write_text("1500000\n")
    (tmp_path / "memory.stat").write_text("anon 1200000\ninactive_file 300000\n")  # cached files give way
    assert free_bytes(torch.device("cpu")) == 2000000 - 1200000
    (tmp_path / "memory.max").write_text("max\n")
    assert free_bytes(torch.device("cpu")) == 8000 * 1024
    (tmp_path / "memory").mkdir()  # control groups, version 1
    (tmp_path / "memory/memory.limit_in_bytes").write_text("3000000\n")
    (tmp_path / "memory/memory.usage_in_bytes").write_text("2500000\n")
    assert free_bytes(torch.device("cpu")) == 500000
    (tmp_path / "memory/memory.stat").write_text("inactive_file 1\ntotal_inactive_file 200000\n")
    assert free_bytes(torch.device("cpu")) == 700000


def test_a_system_that_does_not_say_what_is_available_counts_half_of_its_memory(tmp_path, monkeypatch):
    (tmp_path / "meminfo").write_text("MemTotal:  9000 kB\nMemFree:  8000 kB\n")  # as Linux before 3.14
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    assert free_bytes(torch.device("cpu")) == memory._installed_bytes() // 2
