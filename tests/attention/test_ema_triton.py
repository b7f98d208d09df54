"""The Triton kernel against its plain twin: on a GPU where there is one, else in Triton's interpreter."""

import os
import subprocess
import sys

import pytest
import torch

from iclnb.attention.ema import chunked, ema, exponential_sum, loop

pytest.importorskip("triton", reason="Triton is not installed, so that its kernel cannot be tried")

from iclnb.attention.ema_triton import WIDTH, scan  # noqa: E402

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 1e-2}
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # numpy's, where the interpreter takes log2(0)
]


def randn(*shape, dtype=torch.float64, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(DEVICE, dtype)


def compare(found, expected, dtype):
    """Relative to the size of the tensor."""
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        assert (a.double() - b).norm() <= TOLERANCE[dtype] * b.norm()


def momentum(*eta):
    """One number, or one for each of the two heads."""
    return torch.tensor(eta if len(eta) > 1 else eta[0], dtype=torch.float64, device=DEVICE)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("T, D, eta", [(1, 1, [0.7]), (64, 5, [0.0]), (65, WIDTH + 1, [0.9999, 0.6])], ids=str)
def test_the_kernel_equals_its_twin(T, D, eta, dtype):
    v, onto, state = (randn(*shape, dtype=dtype) for shape in ((2, T, 2, D), (2, 2, T, D), (1, 2, D)))
    v, eta = v.transpose(1, 2), momentum(*eta)  # (2, 2, T, D) as a model has it: positions before heads in memory
    found, added = scan(v, eta), scan(v, eta, state.float(), onto)
    assert found.dtype == added.dtype == dtype
    expected = chunked(v.double(), eta, None), chunked(v.double(), eta, state, onto.double())
    compare([found, added], expected, dtype)


def test_the_kernel_leaves_what_is_empty_to_its_twin():
    v = randn(2, 2, 0, 3, dtype=torch.float32)
    assert ema(v, 0.5).shape == v.shape
    with pytest.raises(ValueError, match=r"method is 'kernel', but v has shape \(2, 2, 0, 3\), which holds no number"):
        ema(v, 0.5, "kernel")


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("eta", [[0.3], [0.0, 0.99]], ids=str)
def test_gradients_are_those_of_the_loop(eta, dtype):
    v, onto, g = (randn(2, 2, 70, 3, dtype=dtype, seed=seed).requires_grad_() for seed in range(3))
    inputs = (v, momentum(*eta).requires_grad_(), randn(1, 2, 3, seed=3).float().requires_grad_(), onto)
    wide = [x.detach().double().requires_grad_() for x in inputs]
    expected = torch.autograd.grad(wide[3] + loop(*wide[:3]), wide, g.double())
    found = torch.autograd.grad(scan(*inputs), inputs, g)
    assert [x.dtype for x in found] == [x.dtype for x in inputs]
    compare(found, expected, dtype)
    found = torch.autograd.grad(scan(v, inputs[1].detach()), v, g)
    compare([found[0]], [expected[0]], dtype)


def test_long_sums_keep_their_digits():
    v = randn(1, 1, 32_768 if DEVICE == "cuda" else 4_096, 2, dtype=torch.float32)  # the interpreter is slow
    compare([ema(v, 0.9999, "kernel")], [ema(v.double(), 0.9999, "chunked")], torch.float32)


@pytest.mark.parametrize("shape, eta", [((7, 2), [0.8]), ((2, 2, 2, 7, 2), [0.1, 0.9])])
def test_any_leading_dimensions(shape, eta):
    v, eta = randn(*shape, dtype=torch.float32), momentum(*eta)
    compare([ema(v, eta, "kernel")], [ema(v.double(), eta, "loop")], torch.float32)


def test_values_that_the_kernel_cannot_take_are_refused(monkeypatch):
    with pytest.raises(ValueError, match="method is 'kernel', but v is torch.float64; the kernel takes float32"):
        ema(randn(3, 2), 0.5, "kernel")
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with pytest.raises(ValueError, match="method is 'kernel', but v is on cpu; the kernel needs a GPU; 'auto' takes"):
        ema(torch.zeros(3, 2), 0.5, "kernel")


def test_the_kernel_is_taken_on_a_gpu_alone(monkeypatch):
    taken = []
    monkeypatch.setattr("iclnb.attention.ema_triton.scan", lambda v, *_: taken.append(v.device.type) or v)
    for device in {"cpu", DEVICE}:
        v = torch.zeros(3, 2, device=device)
        exponential_sum(v, torch.tensor(0.5, dtype=torch.float64, device=device))
        exponential_sum(v.double(), torch.tensor(0.5, dtype=torch.float64, device=device))
    assert taken == (["cuda"] if DEVICE == "cuda" else [])


COMPILE = """
import torch, triton
from triton.backends.compiler import GPUTarget

class Driver:
    get_current_target = lambda self: GPUTarget("cuda", 80, 32)
    get_current_device = lambda self: 0
    get_current_stream = lambda self, device: 0

class Compiled:
    def __init__(self, kernel):
        self.kernel = kernel
    def __getitem__(self, grid):
        return lambda *arguments, **constants: print(
            self.kernel.warmup(*arguments, grid=grid, **constants).asm["ptx"].count("cp.async.cg"))

triton.runtime.driver.set_active(Driver())
from iclnb.attention import ema_triton
ema_triton.sums, ema_triton.gradients = Compiled(ema_triton.sums), Compiled(ema_triton.gradients)
v, onto = (torch.zeros(2, 64, 4, 64, dtype=torch.bfloat16).transpose(1, 2).requires_grad_() for _ in range(2))
eta, state = torch.zeros(4, dtype=torch.float64, requires_grad=True), torch.zeros(1, 4, 64, requires_grad=True)
out = ema_triton.scan(v, eta, state, onto)
out.backward(torch.zeros(2, 64, 4, 64, dtype=torch.bfloat16).transpose(1, 2))
"""


def test_the_kernels_compile_for_a_gpu_and_read_ahead():
    """What the interpreter accepts, the compiler may not; it needs no GPU. Reads ahead are asynchronous copies."""
    environment = os.environ | {"TRITON_INTERPRET": "0"}
    done = subprocess.run([sys.executable, "-c", COMPILE], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) == 2 and all(int(count) > 0 for count in done.stdout.split())
