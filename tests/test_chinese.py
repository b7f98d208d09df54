"""The Chinese pages keep step with what they translate, and their summaries stand in the notebooks."""

import json
import re

import pytest

import notebooks as tool
import summaries
import terms

PATHS = tool.find_notebooks()
ZH = tool.ROOT / "docs" / "zh"


def read(path):
    return path.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", PATHS, ids=tool.relative)
def test_every_notebook_carries_its_summary(path):
    text = read(path)
    assert summaries.stamp(text, path) == text, "put it in with `make summaries`"


@pytest.mark.parametrize("path", PATHS, ids=tool.relative)
def test_a_summary_is_stamped_once_and_takes_no_reading_time(path, tmp_path):
    once = summaries.stamp(read(path), path)
    assert summaries.stamp(once, path) == once
    text = "".join(json.loads(once)["cells"][0]["source"])
    assert text.count("中文摘要") == 1 and 150 < len(re.findall(r"[\u4e00-\u9fff]", text)) < 500
    (tmp_path / path.name).write_text(once, encoding="utf-8")
    assert tool.minutes(tool.read(tmp_path / path.name)) == tool.minutes(tool.read(path))


def test_a_notebook_without_a_summary_is_named(tmp_path):
    with pytest.raises(tool.NotebookFailed, match="09_unheard_of.ipynb has no summary docs/zh/summaries/09_"):
        summaries.summary(tmp_path / "09_unheard_of.ipynb")


def test_the_glossary_has_the_same_words_in_the_same_order():
    assert re.findall(r"\]\(\.\./glossary\.md#([^)]+)\)", read(ZH / "glossary.md")) == list(terms.read_glossary())


@pytest.mark.parametrize("page", [tool.ROOT / "README.zh.md", ZH / "README.md"], ids=tool.relative)
def test_the_maps_lead_to_every_notebook_and_its_summary(page):
    linked = re.findall(r"\]\(([^)#]+)\)", read(page))
    for path in [*PATHS, *(summaries.FOLDER / f"{path.stem}.md" for path in PATHS)]:
        assert any((page.parent / link).resolve() == path for link in linked), tool.relative(path)


def test_the_course_has_the_same_minutes():
    sessions = sorted((tool.ROOT / "docs" / "course").glob("session-*.md"))
    english = [times for page in sessions for times in re.findall(r"^\| (\d+) to (\d+) \|", read(page), re.MULTILINE)]
    assert re.findall(r"^\| (\d+) 至 (\d+) \|", read(ZH / "course.md"), re.MULTILINE) == english
