"""The book: each link of a page goes where its target went, and each paper that a notebook cites is in the list."""

import json
import re
from pathlib import Path

import pytest
from matplotlib import pyplot as plt
from PIL import Image

import book
import explorers
import notebooks as tool
from iclnb.teaching import widgets

PAGES = book.places()
NOTEBOOK = tool.ROOT / "notebooks" / "01_attention_is_gradient_descent.ipynb"
LAB = tool.ROOT / "notebooks" / "labs" / "b_gradient_descent_by_construction.ipynb"
DOC = tool.ROOT / "docs" / "when_something_goes_wrong.md"
GIVEN = [
    (NOTEBOOK, "[x](02_icl_is_implicit_finetuning.ipynb#a)", "[x](02_icl_is_implicit_finetuning.ipynb#a)"),
    (NOTEBOOK, "[x](../docs/when_something_goes_wrong.md)", "[x](../when_something_goes_wrong.md)"),
    (NOTEBOOK, "![x](pictures/split.svg)", "![x](pictures/split.svg)"),
    (LAB, '<img src="../pictures/split.svg">', '<img src="../pictures/split.svg">'),
    (LAB, "[x](../../data/momentum/make.py)", f"[x]({tool.REPOSITORY}/data/momentum/make.py)"),
    (DOC, "[x](../iclnb/README.md#where-to-read)", "[x](package/index.md#where-to-read)"),
    (DOC, "[x](../notebooks/labs/b_gradient_descent_by_construction.ipynb)", f"[x]({tool.relative(LAB)})"),
    (DOC, "![x](../notebooks/pictures/split.svg)", "![x](notebooks/pictures/split.svg)"),
    (book.GUIDE, "[x](model/gpt.py)", f"[x]({tool.REPOSITORY}/iclnb/model/gpt.py)"),
    (DOC, "[x](#here) [y](https://example.org/a.md) f(x)[i](j)", "[x](#here) [y](https://example.org/a.md) f(x)[i](j)"),
]


@pytest.mark.parametrize("path, given, expected", GIVEN)
def test_a_link_goes_where_its_target_went(path, given, expected):
    assert book.relink(given, path, PAGES) == expected


def test_contents_take_each_page_once_and_the_parts_that_there_are():
    names = ["index", "notebooks/00_a", "notebooks/labs/a_b", "zh/index", "zh/a", "glossary", "new", "package/index"]
    text = book.contents([Path(f"{name}.md") for name in names])
    assert sorted(set(names) - {"index"}) == sorted(re.findall(r"^[a-z/_0]+$", text, re.MULTILINE))
    assert text.index("glossary") < text.index("new") < text.index("package/index") < text.index("zh/index")
    assert "The course" not in text and "In the browser" not in text


def test_a_page_has_no_badges_no_marks_of_tests_and_a_text_for_each_figure():
    text = book.notebook_page(NOTEBOOK, PAGES)
    assert tool.COLAB_BADGE not in text and tool.CHECKED not in text and "%pip" not in text
    assert text.count('"image/png"') == text.count('"alt": "')


def test_the_list_of_notebooks_says_what_the_readme_says():
    lines = book.notebook_list().split("\n\n")
    assert len(lines) == len(tool.find_notebooks())
    assert lines[0].startswith("[0. Start here](notebooks/00_start_here.ipynb)\n: ")


def test_every_paper_that_a_notebook_cites_is_in_the_reading_list():
    listed = (tool.ROOT / "docs" / "reading_list.md").read_text(encoding="utf-8")
    for path in tool.find_notebooks():
        cited = re.findall(r"arxiv\.org/abs/([\d.]+\d)", path.read_text(encoding="utf-8"))
        assert not (missing := sorted({one for one in cited if one not in listed})), f"{path.name} cites {missing}"


def test_an_explorer_stands_in_its_page_at_the_setting_where_it_starts(tmp_path, monkeypatch):
    monkeypatch.setattr(explorers, "folder_of", lambda path: tmp_path)
    controls = {"lr": {"values": [0.1, 0.5], "start": 1}, "order": {"values": ["a", "<b>"], "start": 0}}
    found = {"controls": controls, "texts": ["one", "two", "three <", "four"], "size": [750, 300], "of": 40}
    (tmp_path / "explorer.json").write_text(json.dumps(found))
    text = explorers.to_html(NOTEBOOK, "figures")
    assert 'src="figures/2.webp" alt="three &lt;" width="750"' in text and "4 of 40 settings" in text
    assert 'value="1" aria-valuetext="0.5"' in text and "&lt;b&gt;" in text and "three \\u003c" in text


def test_an_explorer_is_drawn_once_for_each_setting(tmp_path, monkeypatch):
    monkeypatch.setattr(widgets, "explorer", None)
    monkeypatch.setitem(explorers.CHOSEN, "it", {"height": [1.0, 2.0]})
    explorers.record(tmp_path, "it")

    def draw(height=2.0, word="up"):
        fig, ax = plt.subplots(figsize=(3, 2))
        ax.plot([0, height])
        return fig, f"{height:g} {word}"

    widgets.explorer(draw, height=[0.5, 1.0, 2.0], word=["down", "up"])
    found = json.loads((tmp_path / "explorer.json").read_text())
    assert found["texts"] == ["1 down", "1 up", "2 down", "2 up"] and found["of"] == 6
    assert found["controls"] == {
        "height": {"values": [1.0, 2.0], "start": 1},
        "word": {"values": ["down", "up"], "start": 1},
    }
    sizes = {Image.open(tmp_path / f"{i}.webp").size for i in range(4)}
    assert sizes == {(3 * explorers.DPI, 2 * explorers.DPI)} and found["size"] == [300, 200]


def test_a_notebook_runs_up_to_its_explorer():
    notebook = explorers.shortened(NOTEBOOK)
    assert "explorers.record(" in notebook.cells[0].source and explorers.CALL in notebook.cells[-1].source
    assert explorers.shortened(tool.ROOT / "notebooks" / "00_start_here.ipynb") is None
