"""The momentum term: all forms equal the sum that defines it, and so do their gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from iclnb.attention.ema import CHUNK, ema, ema_state, exponential_sum, momentum_sum

DOUBLE = {"rtol": 0, "atol": 1e-10}
FORMS = ("auto", "loop", "toeplitz", "chunked")  # the kernel takes no float64; test_ema_kernel.py compares it


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("method", FORMS)
@pytest.mark.parametrize("eta", [0.0, 0.3, 0.9999])
def test_every_form_equals_the_double_sum(method, eta):
    v = randn(2, 9, 3)
    expected = torch.zeros_like(v)
    for t in range(9):
        for i in range(t):
            expected[:, t] += eta ** (t - i) * v[:, i]
    torch.testing.assert_close(ema(v, eta, method), expected, **DOUBLE)


@pytest.mark.parametrize("method", FORMS)
def test_no_values_have_no_sums_and_pass_a_state_on(method):
    v, state, eta = randn(2, 3, 0, 4), randn(1, 3, 4), torch.tensor([0.0, 0.5, 0.9])
    assert ema(v, eta, method).shape == ema(v, eta, method, state).shape == (2, 3, 0, 4)
    torch.testing.assert_close(ema_state(v, eta, state), state.expand(2, 3, 4), **DOUBLE)


@settings(deadline=None, max_examples=40)
@given(
    B=st.integers(1, 2),
    T=st.integers(1, 3 * CHUNK + 1),
    D=st.integers(1, 3),
    eta=st.lists(st.floats(0, 0.9999), min_size=1, max_size=3),
    with_state=st.booleans(),
)
def test_the_forms_agree_for_any_shape_and_one_momentum_a_head(B, T, D, eta, with_state):
    H, eta = len(eta), torch.tensor(eta, dtype=torch.float64)
    v, state = randn(B, H, T, D), randn(1, H, D, seed=1) if with_state else None
    expected = ema(v, eta, "loop", state)
    for method in ("toeplitz", "chunked"):
        torch.testing.assert_close(ema(v, eta, method, state), expected, **DOUBLE)


def test_gradients_are_those_of_the_loop():
    v, state = randn(2, 3, 2 * CHUNK + 5, 2).requires_grad_(), randn(1, 3, 2, seed=1).requires_grad_()
    for eta in (torch.tensor([0.0, 0.9, 0.5], dtype=torch.float64), torch.tensor(0.7, dtype=torch.float64)):
        inputs = (v, eta.requires_grad_(), state)
        expected = torch.autograd.grad(ema(v, eta, "loop", state).pow(3).sum(), inputs)
        for method in ("toeplitz", "chunked"):
            found = torch.autograd.grad(ema(v, eta, method, state).pow(3).sum(), inputs)
            torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    eta = torch.tensor([0.2, 0.9, 0.5], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *inputs: ema(*inputs[:2], "chunked", inputs[2]), (v, eta, state))


@pytest.mark.parametrize("start", [1, 20, CHUNK, CHUNK + 1])
def test_a_state_continues_where_the_values_before_it_ended(start):
    v, eta = randn(2, 3, 70, 4), torch.tensor([0.0, 0.5, 0.99], dtype=torch.float64)
    state = ema_state(v[:, :, :start], eta)
    torch.testing.assert_close(ema(v[:, :, start:], eta, state=state), ema(v, eta)[:, :, start:], **DOUBLE)
    later = ema_state(v[:, :, start:], eta, state)
    torch.testing.assert_close(later, ema_state(v, eta), **DOUBLE)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 1e-2), (torch.float16, 1e-2)])
def test_long_sums_keep_their_digits(dtype, tolerance):
    v = randn(1, 1, 32_768, 2).to(dtype)
    found, expected = ema(v, 0.9999), ema(v.double(), 0.9999)
    assert found.dtype == dtype
    assert (found.double() - expected).norm() < tolerance * expected.norm()


@pytest.mark.parametrize(
    "eta, message",
    [
        (-0.1, r"eta is -0.1; momentum needs numbers in \[0, 1\)"),
        (1.0, r"eta is 1.0"),
        (float("nan"), r"eta is nan"),
        (torch.zeros(2), r"eta has shape \(2,\); accepted are one number, or one for each of the 3 heads"),
        (torch.zeros(3, 1), r"eta has shape \(3, 1\)"),
    ],
)
def test_a_momentum_that_cannot_be_is_refused(eta, message):
    with pytest.raises(ValueError, match=message):
        ema(torch.zeros(2, 3, 4, 5), eta)


def test_an_unknown_method_is_refused():
    with pytest.raises(
        ValueError, match="method is 'chunks'; accepted are 'auto', 'loop', 'toeplitz', 'chunked', 'kernel'"
    ):
        ema(torch.zeros(3, 2), 0.5, method="chunks")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_the_sum_lands_on_another_tensor_which_stays_as_it_was(dtype):
    v, onto, state = (randn(*shape, seed=shape[0]) for shape in ((2, 3, 70, 4), (2, 3, 70, 4), (1, 3, 4)))
    v, onto, eta = v.to(dtype), onto.to(dtype), torch.tensor([0.0, 0.5, 0.99], dtype=torch.float64)
    before = onto.clone()
    with torch.autocast("cpu", torch.bfloat16):  # as in a mixed-precision training step; it must not round the sums
        found = exponential_sum(v, eta, state, onto)
    expected = onto.double() + ema(v.double(), eta, "loop", state)
    assert found.dtype == dtype and torch.equal(onto, before)
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1e-2}[dtype]
    assert (found.double() - expected).norm() < tolerance * expected.norm()


@pytest.mark.parametrize("kernel", [False, True])
def test_the_operator_is_one_that_torch_can_trace(kernel):
    """torch's own checks of an operator: what it says of memory, shapes, strides and gradients is what it does."""
    if kernel:
        pytest.importorskip("triton", reason="Triton is not installed, so that its kernel cannot be tried")
    T, dtype = (3, torch.float32) if kernel else (CHUNK + 3, torch.float64)
    v = randn(1, T, 2, 3).to(dtype).transpose(1, 2).requires_grad_()  # (1, 2, T, 3)
    eta = torch.tensor([0.5, 0.9], dtype=torch.float64)
    state, onto = randn(1, 2, 3).to(dtype).requires_grad_(), randn(1, 2, T, 3).to(dtype).requires_grad_()
    torch.library.opcheck(momentum_sum, (v, eta.clone().requires_grad_(), state, onto, kernel))
    torch.library.opcheck(momentum_sum, (v, eta, None, None, kernel))
