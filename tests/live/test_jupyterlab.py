"""The notebooks in JupyterLab, as a reader meets them: they open, run, and their explorer moves."""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from unittest.mock import patch

import nbformat
import pytest

import notebooks as tool

ROOT = Path(__file__).parents[2]
NAMES = ["01_attention_is_gradient_descent"] + ["00_start_here"] * ("ICLNB_EVERY_PAGE" in os.environ)
NO_NEWS = {"fetchNews": "false", "checkForUpdates": False}


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """A JupyterLab on a copy of the notebooks: (its address for the file of that name, the folder)."""
    place, token, port = tmp_path_factory.mktemp("lab"), secrets.token_hex(8), free_port()
    shutil.copytree(ROOT / "notebooks", place / "notebooks")
    settings = place / "jupyter_config_dir/lab/user-settings/@jupyterlab/apputils-extension"
    settings.mkdir(parents=True)
    (settings / "notification.jupyterlab-settings").write_text(json.dumps(NO_NEWS))
    with patch.dict(os.environ):
        tool.use_embedded_tier(str(place), threads=1)
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
    options = [f"--port={port}", f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={place}"]
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", *options]
    with (place / "log").open("w") as log, subprocess.Popen(command, env=environment, stdout=log, stderr=log) as server:
        try:
            for _ in range(600):
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/api")
                    break
                except urllib.error.URLError:
                    assert server.poll() is None, (place / "log").read_text()
                    time.sleep(0.2)
            yield lambda name: f"http://127.0.0.1:{port}/lab/tree/{name}?token={token}&reset", place
        finally:
            server.terminate()


@pytest.fixture(scope="module")
def context(chromium):
    """What is loaded once for both notebooks."""
    context = chromium.new_context(viewport={"width": 1280, "height": 1000})
    context.set_default_timeout(120_000)
    yield context
    context.close()


@pytest.mark.parametrize("name", NAMES)
def test_jupyterlab_runs_it(lab, context, name):
    address, place = lab
    file = f"notebooks/{name}.ipynb"
    page = context.new_page()
    page.goto(address(file))
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()  # before that, a cell that is run is forgotten
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_text("Run All Cells", exact=True).click()
    waits = "[...document.querySelectorAll('.jp-InputPrompt')].some(e => e.textContent.includes('*'))"
    page.wait_for_function(waits)
    page.wait_for_function(f"!{waits}")
    if "01" in name:
        assert_a_slider_moves_the_figure(page)
    page.keyboard.press("Control+s")
    page.locator(".jp-mod-dirty").wait_for(state="detached")
    page.close()
    cells = [cell for cell in nbformat.read(place / file, as_version=4).cells if cell.cell_type == "code"]
    failed = [output for cell in cells for output in cell.outputs if output.output_type == "error"]
    assert failed == [] and all(cell.execution_count for cell in cells if cell.source.strip())


def assert_a_slider_moves_the_figure(page):
    page.locator("img.widget-image").scroll_into_view_if_needed()
    figure, handle = page.locator("img.widget-image"), page.locator(".noUi-handle").first
    before = figure.get_attribute("src")
    handle.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function("before => document.querySelector('img.widget-image').src !== before", arg=before)
    assert figure.bounding_box()["width"] > 300
