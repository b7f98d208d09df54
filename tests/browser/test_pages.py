"""The book as its readers have it: every page at two widths, its links, its search, its explorers, its size."""

import functools
import os
import posixpath
import re
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import pytest

import book
import notebooks as tool

ALL = sorted(
    path.relative_to(book.SITE).as_posix()
    for path in book.SITE.rglob("*.html")
    if not path.parts[-2].startswith("_") and path.parent != book.SITE / "live"  # which is looked at in its own tests
)
# One of each kind; the others, which take minutes, with ICLNB_EVERY_PAGE=1.
KINDS = ("index", "glossary", "teach_pocket_gpt", "course/exam", "package/attention", "zh/README")
KINDS += ("notebooks/05_icl_versus_finetuning",)
SOME = [name for name in ALL if name.removesuffix(".html") in KINDS]
PAGES = ALL if os.environ.get("ICLNB_EVERY_PAGE") else SOME
EVERY_PAGE = pytest.mark.parametrize(
    "name", PAGES or [pytest.param("", marks=pytest.mark.skip("needs the book: make book"))]
)
# What is the same on every page is looked at on two: the contrast of colours, the inside of formulas and of code.
AXE = {"preload": False, "resultTypes": ["violations"], "runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}
# Some time after a change of width the theme lets the keyboard reach what scrolls.
SCROLL = "pre, .pst-scrollable-table-container"
SCROLLED = f"[...document.querySelectorAll('{SCROLL}')].every(x => x.scrollWidth <= x.clientWidth || x.tabIndex >= 0)"
OFTEN = AXE | {"rules": {"color-contrast": {"enabled": False}}}
ONCE = {"exclude": [["mjx-container"], [".highlight span"]]}


def show(page, name):
    page.goto(f"/{name}")
    page.evaluate("async () => window.MathJax?.startup && await MathJax.startup.promise")
    if page.locator("#live").count():
        page.wait_for_selector("#live-curve svg")  # the model has answered


def serious(page, options, **context):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    found = axe.run(page, options=options, **context).response["violations"]
    return [
        (one["id"], node["target"], node["html"][:200])
        for one in found
        for node in one["nodes"]
        if one["impact"] in ("serious", "critical")
    ]


@EVERY_PAGE
def test_a_page_fits_and_can_be_used_by_all(page, name):
    show(page, name)
    for width in (1300, 390):
        page.set_viewport_size({"width": width, "height": 844})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.wait_for_function(SCROLLED)
    assert not serious(page, OFTEN, context=ONCE)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_are_legible(page, scheme):
    page.emulate_media(color_scheme=scheme)
    for name in ("index.html", "notebooks/00_start_here.html"):
        show(page, name)
        assert not serious(page, AXE)


def test_the_search_finds_the_meta_gradient(page):
    page.goto("/search.html?q=meta-gradient")
    page.wait_for_selector("#search-results li a")
    found = page.eval_on_selector_all("#search-results li a", "links => links.map(link => link.href)")
    assert any("01_attention_is_gradient_descent" in link for link in found)


def test_an_explorer_moves_without_a_kernel(page):
    show(page, "notebooks/01_attention_is_gradient_descent.html")
    if not page.locator(".explorer").count():
        pytest.skip("needs the explorers drawn: make book")
    figure, text = page.locator(".explorer img"), page.locator(".explorer p").first
    seen = {figure.get_attribute("src")}
    for control, key in ((".explorer [type=range] >> nth=0", "ArrowRight"), (".explorer :checked", "ArrowLeft")):
        page.locator(control).press(key)
        seen.add(figure.get_attribute("src"))
        assert figure.evaluate("async image => { await image.decode(); return image.naturalWidth }") > 1000
        assert figure.get_attribute("alt") == text.inner_text() != ""
    assert len(seen) == 3 and page.locator(".explorer output").first.inner_text() == "0.2"


# ---------------------------------------------------------------------------------------------------------------------
# Files alone


class Reader(HTMLParser):
    def __init__(self):
        super().__init__()
        self.ids, self.links, self.images = set(), set(), []

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.ids.add(given.get("id") or given.get("name"))
        self.links |= {given[key] for key in ("href", "src") if given.get(key)}
        self.images += [given] if tag == "img" else []


@functools.cache
def read(name):
    reader = Reader()
    reader.feed((book.SITE / name).read_text(encoding="utf-8"))
    return reader


@EVERY_PAGE
def test_every_link_leads_somewhere(name):
    for link in read(name).links:
        parts = urlsplit(link)
        if parts.scheme or link == "#":
            continue
        target = (
            posixpath.normpath(posixpath.join(posixpath.dirname(name), unquote(parts.path))) if parts.path else name
        )
        assert (book.SITE / target).is_file(), f"{name} links to {link}"
        if parts.fragment and target.endswith(".html"):
            assert unquote(parts.fragment) in read(target).ids, f"{name} links to {link}"


@EVERY_PAGE
def test_every_picture_has_a_text(name):
    assert all(image.get("alt") for image in read(name).images if "/logo_" not in image["src"])


def test_notebooks_open_where_their_badges_do():
    if not PAGES:
        pytest.skip("needs the book: make book")
    for path in tool.find_notebooks():
        links = read(tool.relative(path.with_suffix(".html"))).links
        assert set(re.findall(r"\]\(([^)]+)\)(?=\s|$)", tool.badge_links(path))) <= links


def test_pages_and_the_whole_are_small():
    if not PAGES:
        pytest.skip("needs the book: make book")
    sizes = {
        path.relative_to(book.SITE).as_posix(): path.stat().st_size for path in book.SITE.rglob("*") if path.is_file()
    }
    assert sum(sizes.values()) < 30e6
    for path in tool.find_notebooks():
        name = tool.relative(path.with_suffix(".html"))
        of_it = [
            posixpath.normpath(posixpath.join(posixpath.dirname(name), image["src"])) for image in read(name).images
        ]
        drawn = [size for file, size in sizes.items() if f"/explorers/{path.stem}/" in file]
        assert sizes[name] + sum(sizes[image] for image in set(of_it) if "/explorers/" not in image) + sum(drawn) < 3e6
