"""The editions for a course: what students get holds no answer, what lecturers get is all right, and both still run."""

import os
import re
from unittest.mock import patch

import nbformat
import pytest

import editions
import exercises
import notebooks as tool

PATHS = tool.find_notebooks()
SHORT = next(path for path in PATHS if path.stem.startswith("01_"))


@pytest.fixture
def build(tmp_path, monkeypatch):
    monkeypatch.setattr(editions, "BUILD", tmp_path)
    return tmp_path


def call(*arguments):
    with patch.dict(os.environ):  # what the tool sets is taken back
        return editions.main([*map(str, arguments)])


def notebooks_in(folder):
    return {path: nbformat.read(path, as_version=4) for path in sorted(folder.rglob("*.ipynb"))}


def assert_links_resolve(folder):
    for path, notebook in notebooks_in(folder).items():
        text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
        for _, link in editions.LINK.findall(text):
            assert re.match("https?:", link) or (path.parent / link).exists(), f"{path.name} links to {link}"
        assert tool.COLAB_BADGE not in text, "it opens the committed notebook"


# ---------------------------------------------------------------------------------------------------------------------
# The student's edition


def test_students_get_everything_but_hints_solutions_and_what_they_have_to_find(build):
    assert call("student") == 0
    assert_links_resolve(build)
    for path in PATHS:
        master, found = editions.read(path)
        copy = tool.read(build / "student" / path.relative_to(editions.NOTEBOOKS))
        nbformat.validate(copy)
        sources = "\n".join(cell.source for cell in copy.cells[1:])  # the first one has its summary in Chinese
        assert not re.search("<details>|<summary>|BEGIN SOLUTION", sources)
        kept = {cell.id: cell for cell in copy.cells}
        hidden = {index for one in found for index in (one.stub, one.guess, *one.readers)}
        for index, cell in enumerate(master.cells):
            if "solution" in cell.metadata.get("tags", []):
                assert cell.id not in kept, "it shows a solution at work"
            elif cell.cell_type == "code":
                assert kept[cell.id].source == cell.source, "stubs and checks are kept"
                assert kept[cell.id].outputs == ([] if index in hidden else cell.outputs)
        for one in found:
            assert one.title in sources
            body = exercises.parse(one.solution or "").body
            assert not body or str(one.solution) not in sources


# ---------------------------------------------------------------------------------------------------------------------
# The instructor's edition


def test_every_solution_and_prediction_is_filled_in():
    for path in PATHS:
        notebook, stubs = editions.solved(path)
        code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
        assert not any(exercises.predictions(source) for source in code), "a prediction is None"
        assert not any(re.search(r"^ +\.\.\.$", source, re.MULTILINE) for source in code), "a stub is left"
        assert all(exercises.CHECK.match(notebook.cells[stub].source.splitlines()[-1]) for stub in stubs)
        for one in editions.read(path)[1]:
            assert not one.solution or any(one.solution.strip() in source for source in code)


def test_lecturers_get_it_executed_with_every_check_green_and_once_only(build, capsys):
    assert call("instructor", SHORT) == 0
    assert "01_attention_is_gradient_descent.ipynb ... executed, 4 checks green" in capsys.readouterr().out
    path = build / "instructor" / SHORT.name
    notebook = tool.read(path)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    said = "".join(output.get("text", "") for cell in code for output in cell.outputs)
    assert said.count("Right: ") == 4 and "Not yet" not in said and "you said 0, measured 0.99" in said
    assert tool.find_faults(notebook) == []
    assert call("instructor", SHORT) == 0
    assert "as it was" in capsys.readouterr().out


HEADING = "# A title\n\n### Exercise 1: one\n\n*10 minutes, easy.*"
STUB = 'def one(x):\n    ...\n\n\nprint("{}")  # checks.one(one)'
SOLUTION = "<details><summary>Solution</summary>\n\n```python\ndef one(x):\n    return 1\n```\n\n</details>"


@pytest.fixture
def house(tmp_path, monkeypatch):
    """A folder of notebooks in which one is written by `put`."""
    monkeypatch.setattr(editions, "NOTEBOOKS", tmp_path / "notebooks")
    path = tmp_path / "notebooks" / "00_start_here.ipynb"
    monkeypatch.setattr(tool, "find_notebooks", lambda: [path])

    def put(*cells):
        kinds = {"markdown": nbformat.v4.new_markdown_cell, "code": nbformat.v4.new_code_cell}
        made = [kinds["code" if "def " in text[:9] else "markdown"](text) for text in cells]
        for cell in made:
            if cell.cell_type == "code":
                cell.metadata["tags"] = ["exercise"]
        tool.write(tool.to_text(nbformat.v4.new_notebook(cells=made)), path)
        return path

    return put


def test_a_solution_that_is_not_right_is_not_handed_out(build, house, capsys):
    house(HEADING, STUB.format("Not yet: no."), SOLUTION)
    assert call("instructor") == 1
    assert "a solution is not right: Not yet: no." in capsys.readouterr().err
    [notebook] = notebooks_in(build / "instructor").values()
    assert editions.MADE_FROM not in notebook.metadata, "it is not taken for a finished one"


@pytest.mark.parametrize(
    "cells, complaint",
    [
        ([HEADING.replace("10 minutes, easy", "a while")], "does not say its minutes"),
        ([HEADING, STUB, "Some text.", SOLUTION], "the cell after a stub holds its solution"),
        ([HEADING, STUB, SOLUTION.replace("```python", "```")], "the cell after a stub holds its solution"),
    ],
)
def test_an_exercise_of_another_form_is_refused(build, house, cells, complaint, capsys):
    house(*cells)
    assert call("student") == 1
    said = capsys.readouterr().err
    assert "00_start_here.ipynb: 'Exercise 1: one'" in said and complaint in said


def test_what_is_none_of_the_notebooks_is_refused(build, tmp_path, capsys):
    with pytest.raises(SystemExit):
        call("student", tmp_path / "mine.ipynb")
    assert "not one of the notebooks: mine.ipynb" in capsys.readouterr().err
