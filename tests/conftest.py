"""What all tests share: no network, no GPU unless asked, seeded numbers, real data and models where there are any."""

import functools
import http.server
import os
import shutil
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from hypothesis import settings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # for what the tests start; their models are too small to gain from more
GPU = torch.cuda.is_available()
if not GPU:
    os.environ.setdefault("TRITON_INTERPRET", "1")  # Triton reads it when it is first imported
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
settings.register_profile("iclnb", deadline=None, derandomize=True)  # the same examples each time, however slow
settings.load_profile("iclnb")


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def without_a_gpu(request, monkeypatch):
    """A test sees a GPU only where it is marked gpu, so that all others do the same on every machine."""
    if request.node.get_closest_marker("gpu") is None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # for what the test starts


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not GPU, reason="needs a GPU"))])
def device(request):
    """The devices that a test marked gpu runs on, in turn."""
    return request.param


@pytest.fixture(scope="module")  # while one is open no other test of the process can run an event loop
def chromium():
    """The machine's Chromium, without a window; without it, or what steers it, the test is skipped."""
    api = pytest.importorskip("playwright.sync_api", reason="the extra browser is not installed")
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("no Chromium is installed")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])  # which root cannot have
        yield browser
        browser.close()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="session")
def served():
    """Serves a folder as any web server would: `with served(folder) as address`."""

    @contextmanager
    def served(folder):
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield f"http://127.0.0.1:{server.server_port}"
            server.shutdown()

    return served


def folder_from(variable):
    if not os.environ.get(variable):
        pytest.skip(f"{variable} is not set")
    folder = Path(os.environ[variable])
    assert folder.is_dir(), f"{variable} is {folder}, which is not a folder"
    return folder


@pytest.fixture
def iclnb_data():
    """The folder of real task data, <task>/<split>.jsonl, that ICLNB_DATA names; without it the test is skipped."""
    return folder_from("ICLNB_DATA")


@pytest.fixture
def iclnb_models():
    """The folder of local checkpoints that ICLNB_MODELS names; without it the test is skipped."""
    return folder_from("ICLNB_MODELS")


@pytest.fixture
def smollm2():
    """The folder of smollm2 in the cache folder; where it has not been fetched, the test is skipped."""
    from iclnb.paths import cache_folder

    if not (folder := cache_folder() / "smollm2").is_dir():
        pytest.skip("smollm2 is not there; `make english` fetches it")
    return folder


@pytest.fixture
def smollm2_wheel():
    """The wheel that smollm2 comes in, where it lies in the cache folder; else the test is skipped."""
    from iclnb.model.fetch import WHEELS
    from iclnb.paths import cache_folder

    if not (file := cache_folder() / WHEELS["smollm2"].file).is_file():
        pytest.skip(f"{file.name} is not in the cache folder")
    return file
