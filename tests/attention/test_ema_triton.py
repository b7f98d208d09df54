"""The Triton kernel against its plain twin: on a GPU where there is one, else in Triton's interpreter."""

import os
import subprocess
import sys

import pytest
import torch

from iclnb.attention.ema import chunked, ema, exponential_sum, loop

pytest.importorskip("triton", reason="Triton is not installed, so that its kernel cannot be tried")

from iclnb.attention import ema_triton  # noqa: E402

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


@pytest.fixture(autouse=True)
def short_walks(monkeypatch):
    """Segments of a few positions, so that few numbers, which the slow interpreter takes, are cut into many."""
    if DEVICE == "cpu":
        monkeypatch.setattr(ema_triton, "ROWS", 2)


def scan(v, eta, state=None, onto=None):
    return exponential_sum(v, eta, state, onto, kernel=True)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(
    "T, D, eta", [(1, 1, [0.7]), (8, 5, [0.0]), (9, ema_triton.WIDTH + 1, [0.9999, 0.01])], ids=str
)
def test_the_kernel_equals_its_twin(T, D, eta, dtype):
    v, onto, state = (randn(*shape, dtype=dtype) for shape in ((1, T, 2, D), (1, 2, T, D), (1, 2, D)))
    v, eta = v.transpose(1, 2), momentum(*eta)  # (1, 2, T, D) as a model has it: positions before heads in memory
    found, added = scan(v, eta), scan(v, eta, state.float(), onto)
    assert found.dtype == added.dtype == dtype and found.transpose(1, 2).is_contiguous()
    expected = chunked(v.double(), eta, None), chunked(v.double(), eta, state, onto.double())
    compare([found, added], expected, dtype)


@pytest.mark.parametrize("programs", [1, 3, 10**6], ids="{} programs".format)
@pytest.mark.parametrize("eta", [0.0, 0.01, 0.99999])
def test_the_cut_of_positions_does_not_matter(programs, eta, monkeypatch):
    """One segment, a few long ones, as many as there can be; with state that fades in one, in some, in none."""
    monkeypatch.setattr(ema_triton, "PROGRAMS", programs)
    v = randn(1, 1, 21, 2, dtype=torch.float32)
    v[..., :5, :] *= 1e4  # so that what comes late shows what is forgotten too soon
    found, expected = scan(v, momentum(eta)), ema(v.double(), eta, "loop")
    for part in (slice(0, 14), slice(14, 21)):
        compare([found[..., part, :]], [expected[..., part, :]], torch.float32)


def test_the_kernel_leaves_what_is_empty_to_its_twin():
    v = randn(2, 2, 0, 3, dtype=torch.float32)
    assert ema(v, 0.5).shape == v.shape
    with pytest.raises(ValueError, match=r"method is 'kernel', but v has shape \(2, 2, 0, 3\), which holds no number"):
        ema(v, 0.5, "kernel")


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_gradients_are_those_of_the_loop(dtype):
    v, onto, g = (randn(1, 2, 9, 3, dtype=dtype, seed=seed).requires_grad_() for seed in range(3))
    inputs = (v, momentum(0.0, 0.99).requires_grad_(), randn(1, 2, 3, seed=3).float().requires_grad_(), onto)
    wide = [x.detach().double().requires_grad_() for x in inputs]
    expected = torch.autograd.grad(wide[3] + loop(*wide[:3]), wide, g.double())
    found = torch.autograd.grad(scan(*inputs), inputs, g)
    assert [x.dtype for x in found] == [x.dtype for x in inputs]
    compare(found, expected, dtype)
    found = torch.autograd.grad(scan(v, inputs[1].detach()), v, g)
    compare([found[0]], [expected[0]], dtype)


def test_long_sums_keep_their_digits():
    v = randn(1, 1, 32_768 if DEVICE == "cuda" else 100, 2, dtype=torch.float32)  # the interpreter is slow
    compare([ema(v, 0.9999, "kernel")], [ema(v.double(), 0.9999, "chunked")], torch.float32)


@pytest.mark.parametrize("shape, eta", [((7, 2), [0.8]), ((2, 1, 2, 5, 2), [0.1, 0.9])])
def test_any_leading_dimensions(shape, eta):
    v, eta = randn(*shape, dtype=torch.float32), momentum(*eta)
    compare([ema(v, eta, "kernel")], [ema(v.double(), eta, "loop")], torch.float32)


def test_what_has_faded_is_not_read(monkeypatch):
    """The first pass of a head with a small eta looks at the last positions of a segment alone."""
    monkeypatch.setattr(ema_triton, "PROGRAMS", 2)
    v = randn(1, 1, 40, 2, dtype=torch.float32)  # two segments of 20; 30 binary digits are 5 positions
    v[..., :10, :] = torch.nan
    out = torch.empty_like(v)
    ema_triton.forward(v, momentum(0.01).expand(1), None, None, out)
    assert out[..., 1:20, :].isnan().all() and out[..., 20:, :].isfinite().all()


def test_values_that_the_kernel_cannot_take_are_refused(monkeypatch):
    with pytest.raises(ValueError, match="method is 'kernel', but v is torch.float64; the kernel takes float32"):
        ema(randn(3, 2), 0.5, "kernel")
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with pytest.raises(ValueError, match="method is 'kernel', but v is on cpu; the kernel needs a GPU; 'auto' takes"):
        ema(torch.zeros(3, 2), 0.5, "kernel")


def test_the_kernel_is_taken_on_a_gpu_alone(monkeypatch):
    taken = []
    monkeypatch.setattr(ema_triton, "forward", lambda v, *_: taken.append(v.device.type))
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
        return lambda *arguments, **how: print(self.kernel.warmup(*arguments, grid=grid, **how).metadata.shared)

triton.runtime.driver.set_active(Driver())
from iclnb.attention import ema_triton
ema_triton.ROWS = 4
ema_triton.walk = Compiled(ema_triton.walk)
v, onto, g, out = (torch.zeros(2, 64, 4, 64, dtype=torch.bfloat16).transpose(1, 2) for _ in range(4))
eta, state = torch.zeros(4, dtype=torch.float64), torch.zeros(2, 4, 64)
ema_triton.forward(v, eta, state, onto, out)
ema_triton.backward(g, v, eta, state, out, torch.zeros(4, dtype=torch.float64), torch.zeros(2, 4, 64))
"""


def test_the_kernels_compile_for_a_gpu_and_share_no_memory():
    """What the interpreter accepts, the compiler may not; it needs no GPU. Without shared memory no thread waits."""
    environment = os.environ | {"TRITON_INTERPRET": "0"}
    done = subprocess.run([sys.executable, "-c", COMPILE], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["0"] * 4  # two passes forwards, two backwards
