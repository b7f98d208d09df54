"""The book as a web server gives it; tests are skipped, saying so, where it is missing."""

import pytest

import book


@pytest.fixture(scope="session")
def site(served):
    """The address of the book."""
    if not (book.SITE / "index.html").exists():
        pytest.skip("needs the book: make book")
    with served(book.SITE) as address:
        yield address


@pytest.fixture
def page(chromium, site):
    """A new page at the width of a desk; the test fails if it complains, misses a file, or asks another host."""
    made, trouble = chromium.new_page(base_url=site, viewport={"width": 1300, "height": 900}), []
    made.set_default_timeout(120_000)  # milliseconds: a busy machine is no failure
    made.on("console", lambda message: trouble.append(message.text) if message.type == "error" else None)
    made.on("pageerror", lambda error: trouble.append(str(error)))
    made.on("response", lambda got: trouble.append(f"{got.status} {got.url}") if got.status >= 400 else None)
    made.on("request", lambda sent: trouble.append(sent.url) if is_elsewhere(sent.url, site) else None)
    yield made
    made.close()
    assert not trouble


def is_elsewhere(url, site):
    return not url.startswith((f"{site}/", "data:", "blob:"))
