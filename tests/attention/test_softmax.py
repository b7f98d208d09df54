"""Attention: every form against torch's own fused, loops or concatenation."""

from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from iclnb.attention import fused
from iclnb.attention.ema import ema, momentum_attention
from iclnb.attention.softmax import linear_attention, prefix_attention, softmax_attention


def qkv(*shape, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype) for _ in range(3)]


@pytest.mark.parametrize("causal", [True, False])
def test_softmax_attention_equals_torch(causal):
    q, k, v = qkv(2, 3, 7, 5)
    expected = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    torch.testing.assert_close(softmax_attention(q, k, v, causal), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("causal", [True, False])
def test_linear_attention_equals_the_sum_over_keys(causal):
    q, k, v = qkv(6, 4)
    expected = torch.zeros(6, 4, dtype=torch.float64)
    for t in range(6):
        for j in range(t + 1 if causal else 6):
            expected[t] += (q[t] @ k[j]) * v[j]
    torch.testing.assert_close(linear_attention(q, k, v, causal), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("B, H, G, T, P, D", [(1, 1, 1, 1, 1, 2), (3, 2, 2, 5, 7, 4), (4, 6, 3, 2, 40, 8)])
@pytest.mark.parametrize("fused", [False, True])
def test_prefix_attention_equals_attention_over_the_concatenation(B, H, G, T, P, D, fused):
    q, (_, k, v) = qkv(B, H, T, D)[0], qkv(B, G, T, D, seed=2)
    _, pk, pv = qkv(1, G, P, D, seed=1)
    out, lam = prefix_attention(q, k, v, pk, pv, fused=fused)
    all_k, all_v = (torch.cat([a.expand(B, -1, -1, -1), b], dim=2) for a, b in ((pk, k), (pv, v)))
    all_k, all_v = (x.repeat_interleave(H // G, dim=1) for x in (all_k, all_v))  # key head g serves heads gH/G, ...
    sees = torch.cat([torch.ones(T, P, dtype=torch.bool), torch.ones(T, T, dtype=torch.bool).tril()], dim=1)
    expected = F.scaled_dot_product_attention(q, all_k, all_v, attn_mask=sees)
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-10)
    weights = (q @ all_k.transpose(-2, -1) / D**0.5).masked_fill(~sees, -torch.inf).softmax(-1)
    torch.testing.assert_close(lam, weights[..., :P].sum(-1), rtol=0, atol=1e-10)


def test_a_mask_takes_the_place_of_the_causal_order():
    q, k, v = qkv(2, 3, 5, 4)
    _, pk, pv = qkv(1, 3, 6, 4, seed=1)
    mask = torch.ones(5, 5, dtype=torch.bool).tril().repeat(2, 1, 1, 1)
    mask[1, 0, 4, 1:4] = False
    plain, fused = (prefix_attention(q, k, v, pk, pv, mask, fused=fused) for fused in (False, True))
    for a, b in zip(plain, fused, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)
    all_k, all_v = (torch.cat([a.expand(2, -1, -1, -1), b], dim=2) for a, b in ((pk, k), (pv, v)))
    sees = torch.cat([torch.ones(2, 1, 5, 6, dtype=torch.bool), mask], dim=-1)
    expected = F.scaled_dot_product_attention(q, all_k, all_v, attn_mask=sees)
    torch.testing.assert_close(plain[0], expected, rtol=0, atol=1e-10)


def test_prefix_attention_has_the_gradients_of_the_concatenation():
    inputs = [x.requires_grad_() for x in (*qkv(2, 2, 3, 4), *qkv(1, 2, 5, 4, seed=1)[1:])]
    assert torch.autograd.gradcheck(lambda *x: prefix_attention(*x)[0], inputs)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_prefix_attention_survives_scores_that_overflow_exp(dtype, fused):
    """Scores of many thousands, beyond exp in any dtype and beyond the numbers of float16, against float64."""
    q, k, v = (x.to(dtype) for x in qkv(2, 2, 3, 4))
    _, pk, pv = (x.to(dtype) for x in qkv(1, 2, 5, 4, seed=1))
    q, k, pk = 400 * q, 400 * k, 400 * pk
    assert (q.double() @ k.double().transpose(-2, -1)).abs().max() > torch.finfo(torch.float16).max
    expected, expected_lam = prefix_attention(*(x.double() for x in (q, k, v, pk, pv)), fused=False)
    out, lam = prefix_attention(q, k, v, pk, pv, fused=fused)
    torch.testing.assert_close(out.double(), expected, rtol=1e-2, atol=1e-3)
    torch.testing.assert_close(lam.double(), expected_lam, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("dtype, flash", [(torch.float16, True), (torch.float16, False), (torch.float32, False)])
def test_on_a_gpu_both_parts_go_through_a_kernel_with_its_log_sum_exp(dtype, flash, monkeypatch):
    """Shapes and dispatch alone: torch's fake tensors stand for a GPU's, and know what each kernel returns."""
    monkeypatch.setattr(fused, "can_use_flash_attention", lambda asked: flash)
    monkeypatch.setattr(fused, "can_use_efficient_attention", lambda asked: True)
    called = []
    for name in ("gpu_flash", "gpu_memory_efficient"):
        kernel = getattr(fused, name)
        spy = lambda *inputs, name=name, kernel=kernel: called.append(name) or kernel(*inputs)  # noqa: E731
        monkeypatch.setattr(fused, name, spy)
    with FakeTensorMode():
        q, k, v = (torch.empty(3, 4, 5, 16, dtype=dtype, device="cuda") for _ in range(3))
        pk, pv = (torch.empty(1, 4, 33, 16, dtype=dtype, device="cuda") for _ in range(2))
        out, lam = prefix_attention(q, k, v, pk, pv)
    assert (out.shape, out.dtype, lam.shape, lam.dtype) == ((3, 4, 5, 16), dtype, (3, 4, 5), torch.float32)
    assert called == 2 * ["gpu_flash" if flash else "gpu_memory_efficient"]


def test_the_plain_form_is_taken_where_no_kernel_fits(monkeypatch):
    for name in ("can_use_flash_attention", "can_use_efficient_attention"):
        monkeypatch.setattr(fused, name, lambda asked: True)
    with FakeTensorMode():
        q = torch.empty(2, 2, 5, 16, device="cuda")
        assert fused.find_kernel(q, q, q, True, None) is not None
        mask = torch.ones(2, 1, 5, 5, dtype=torch.bool, device="cuda")
        assert fused.find_kernel(q, q, q, True, mask) is None
        odd = torch.empty(2, 2, 5, 12, device="cuda")
        assert fused.find_kernel(odd, odd, odd, True, None) is None
        monkeypatch.setattr(fused, "can_use_flash_attention", lambda asked: False)
        monkeypatch.setattr(fused, "can_use_efficient_attention", lambda asked: False)  # float64, say
        assert fused.find_kernel(q, q, q, True, None) is None
    learnt = torch.zeros(1, 1, 2, 8, requires_grad=True)
    assert fused.find_kernel(learnt, learnt, learnt, True, None) is None
    with pytest.raises(ValueError, match="fused is True, but no kernel takes torch.float32 on cpu"):
        prefix_attention(*5 * [learnt], fused=True)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.float16, 1e-2), (torch.bfloat16, 1e-2)])
def test_prefix_attention_on_a_gpu_equals_the_plain_form(dtype, tolerance):
    q, k, v = (x.to("cuda", dtype) for x in qkv(5, 4, 37, 64))
    _, pk, pv = (x.to("cuda", dtype) for x in qkv(1, 4, 300, 64, seed=1))
    expected = prefix_attention(*(x.double() for x in (q, k, v, pk, pv)), fused=False)
    for found, plain in zip(prefix_attention(q, k, v, pk, pv, fused=True), expected, strict=True):
        assert (found.double() - plain).norm() / plain.norm() < tolerance


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
def test_prefix_attention_in_lower_precision(dtype, tolerance, fused):
    q, k, v = qkv(2, 2, 6, 8)
    _, pk, pv = qkv(1, 2, 9, 8, seed=1)
    expected, _ = prefix_attention(*(x.to(dtype).double() for x in (q, k, v, pk, pv)), fused=False)
    out, lam = prefix_attention(*(x.to(dtype) for x in (q, k, v, pk, pv)), fused=fused)
    assert out.dtype == dtype and lam.dtype == torch.float32
    assert (out.double() - expected).norm() / expected.norm() < tolerance


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-10), (torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize(
    "shape, eta", [((70, 4), 0.9), ((3, 33, 4), [0.0, 0.5, 0.99]), ((2, 3, 40, 4), [0.0, 0.5, 0.99])]
)
def test_momentum_attention_is_softmax_attention_and_the_sum_that_defines_it(shape, eta, dtype, tolerance):
    inputs = [x.to(dtype).requires_grad_() for x in (*qkv(*shape), torch.tensor(eta, dtype=torch.float64))]
    wide = [x.detach().double().requires_grad_() for x in inputs]
    for scale in (None, 0.3):
        q, k, v, rate = wide
        expected = softmax_attention(q, k, v, scale=scale) + ema(v, rate, "loop")
        found = momentum_attention(*inputs, scale=scale)
        assert found.dtype == dtype
        found, expected = ([x, *torch.autograd.grad(x.pow(2).sum(), y)] for x, y in ((found, inputs), (expected, wide)))
        for a, b in zip(found, expected, strict=True):
            assert (a.double() - b).norm() < tolerance * b.norm()


def test_momentum_attention_keeps_memory_in_proportion_to_the_length():
    def kept(T):
        sizes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.numel()), lambda x: x):
            momentum_attention(*(x.requires_grad_() for x in qkv(1, 2, T, 8)), torch.tensor(0.9, requires_grad=True))
        return sum(sizes)

    assert kept(2048) < 2.1 * kept(1024) < 2048**2


@pytest.mark.parametrize("eta", [0.9, torch.tensor([0.0, 0.5])])
def test_momentum_attention_checks_its_momentum_without_the_device_of_its_values(eta, monkeypatch):
    """A GPU would be waited for; from the meta device, which stands for it, nothing can be read at all."""
    monkeypatch.setattr(torch, "autocast", lambda *args, **options: nullcontext())  # which meta does not know
    v = torch.empty(1, 2, 40, 8, device="meta")
    assert momentum_attention(v, v, v, eta).shape == v.shape
    with pytest.raises(ValueError, match="momentum needs numbers in"):
        momentum_attention(v, v, v, eta + 1)


def test_momentum_attention_is_refused_where_it_is_not_defined():
    q, k, v = qkv(2, 2, 5, 4)
    torch.testing.assert_close(momentum_attention(q, k, v, 0.0), softmax_attention(q, k, v), rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="causal is False; momentum sums over earlier values"):
        momentum_attention(q, k, v, 0.5, causal=False)
    for eta, message in ((1.0, "eta is 1.0"), (float("nan"), "eta is nan"), (torch.zeros(3), r"eta has shape \(3,\)")):
        with pytest.raises(ValueError, match=message):
            momentum_attention(q, k, v, eta)
