"""What the tests of the page share: that it is built, and served."""

import os
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest
from filelock import FileLock


@pytest.fixture(scope="session")
def live(tmp_path_factory):
    """The folder that `make live` has built or, where something has changed since, one that is built now."""
    for module in ("onnx", "onnxscript"):
        pytest.importorskip(module, reason="the extra live is not installed")
    import live as tool
    import npm

    if tool.is_fresh():
        return tool.OUT
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "live"  # one for all processes of a run
    with FileLock(f"{folder}.lock"):
        if not (folder / tool.DATA).exists():
            try:
                tool.build(folder)
            except npm.NotFetched as error:
                pytest.skip(str(error))
    return folder


@pytest.fixture(scope="session")
def site(served, live):
    """The address at which the page is served, as any static folder would be."""
    with served(live) as address:
        yield f"{address}/"


@pytest.fixture(scope="module")
def visit(chromium):
    """Opens an address: `with visit(address, width=360) as page`; nothing may go wrong while it is open."""

    @contextmanager
    def visit(address, width=1280, height=900, **options):
        context = chromium.new_context(viewport={"width": width, "height": height}, **options)
        page, wrong = context.new_page(), []
        host = urlsplit(address).netloc
        page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("response", lambda response: wrong.append(response.url) if response.status >= 400 else None)
        page.on(
            "request", lambda r: wrong.append(r.url) if urlsplit(r.url).netloc not in ("", host) else None
        )  # "" has what lies in the page itself
        page.goto(address)
        yield page
        context.close()
        assert not wrong, "errors on the page, or requests to another host"

    return visit
