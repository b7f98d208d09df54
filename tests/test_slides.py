"""The slides: each cell that the table names is there, each slide speaks in its notes, no page asks the network."""

import re
import tomllib

import pytest

import notebooks as tool
import slides

DECKS = tomllib.loads(slides.TABLE.read_text(encoding="utf-8"))


def kinds(deck):
    return [cell.metadata["slideshow"]["slide_type"] for cell in deck.cells]


@pytest.mark.parametrize("name", DECKS)
def test_a_deck_has_its_aim_its_cells_its_questions_and_its_homework(name):
    deck = slides.deck(name, DECKS[name])
    titles = [cell.source.splitlines()[0] for cell in deck.cells if cell.metadata["slideshow"]["slide_type"] == "slide"]
    page = (slides.COURSE / f"{name}.md").read_text(encoding="utf-8")
    assert titles[0] == f"## {page.splitlines()[0].removeprefix('# ')}" and titles[-1] == "## Homework"
    assert titles.count("## Discuss") == len(re.findall(r"^\*\*\d+\. ", page, re.MULTILINE)) >= 5
    assert len(titles) == len(DECKS[name]) + titles.count("## Discuss") + 2
    assert kinds(deck).count("notes") == len(titles) - 1, "all but the homework have notes"
    assert all(cell.source.strip() or cell.get("outputs") for cell in deck.cells)
    assert not re.search(r"\]\((?!pictures/)", "".join(cell.source for cell in deck.cells)), "a link that leads nowhere"
    for picture in re.findall(r"\]\(pictures/([^)]+)\)", "".join(cell.source for cell in deck.cells)):
        assert (tool.ROOT / "notebooks" / "pictures" / picture).is_file()


def test_a_code_cell_shows_its_output_and_its_source_on_request():
    notebook = slides.read(tool.ROOT / "notebooks" / "01_attention_is_gradient_descent.ipynb")
    plain, with_code = (slides.shown(notebook, selector, "01") for selector in ("40722bfe", "40722bfe|code"))
    assert plain.outputs == with_code.outputs and "to 1e-10" in plain.outputs[0].text
    assert plain.metadata.transient.remove_source and not with_code.metadata.transient.remove_source
    assert with_code.source.startswith("W_ZSL = ")


@pytest.mark.parametrize(
    "selector, complaint",
    [
        ("nowhere", "no cell with the id or the text 'nowhere'"),
        ("d7c353c6|list", "no list in cell 'd7c353c6'"),
        ("40722bfe|list", "no list in cell '40722bfe'"),
    ],
)
def test_what_is_not_there_is_named(selector, complaint):
    notebook = slides.read(tool.ROOT / "notebooks" / "01_attention_is_gradient_descent.ipynb")
    with pytest.raises(tool.NotebookFailed, match=complaint):
        slides.shown(notebook, selector, "01")


def test_a_page_fetches_from_its_own_folder_alone():
    page = slides.build("session-2", DECKS["session-2"])
    fetched = re.findall(r"""<(?:script|link|img|iframe)\b[^>]*?\b(?:src|href)=["']([^"']+)""", page)
    local = [address for address in fetched if not address.startswith("data:")]
    assert {"reveal/dist/reveal.js", "mathjax/tex-svg.js", "pictures/two_ways.svg"} <= set(local)
    assert not [address for address in local if re.match(r"[a-z]+:|//", address)]
    assert not re.search(r"url\(['\"]?(?:https?:)?//", page) and "import mermaid" not in page
    assert 'alt="Figure: ' in page and "No description has been provided" not in page
