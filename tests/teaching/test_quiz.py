"""The questions at the end of the notebooks: whole, explained, true to the notebook's own numbers, and shown alike."""

import json
import re

import nbformat
import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

import notebooks as tool
import quizzes
from iclnb.paths import quiz_folder
from iclnb.teaching import quiz

PATHS = {path.stem: path for path in tool.find_notebooks()}
NAMES = sorted(path.stem for path in quiz_folder().glob("*.json"))
NUMBER = re.compile(r"\d*\.\d|\d ?%|\d\d")  # what has to be shown: decimals, shares, and whatever has two digits


def outputs(path):
    """All that the notebook has printed, and the descriptions of its figures."""
    cells = nbformat.read(path, as_version=4).cells
    found = [output for cell in cells for output in cell.get("outputs", [])]
    return "\n" + "\n".join(output.get("text") or output.get("data", {}).get("text/plain", "") for output in found)


def test_every_notebook_has_its_questions():
    assert NAMES == sorted(PATHS)


@pytest.mark.parametrize("name", NAMES)
def test_questions_are_whole_and_every_answer_is_explained(name):
    questions = quiz.read(name)
    assert 4 <= len(questions) <= 6
    for one in questions:
        right = sum(answer["correct"] for answer in one["answers"])
        assert one["type"] == ("many_choice" if right > 1 else "multiple_choice") and 1 <= right < len(one["answers"])
        assert 3 <= len(one["answers"]) <= 6
        texts = [one["question"], *(text for a in one["answers"] for text in (a["answer"], a["feedback"]))]
        assert len({a["answer"] for a in one["answers"]}) == len(one["answers"]) and all(map(str.strip, texts))
        for text in texts:
            tags = re.findall(r"<[^>]*>", text)
            assert set(tags) <= {f"<{end}{t}>" for t in ("b", "i", "code", "sub", "sup") for end in ("", "/")}, text
            assert not re.search(r"\$|\]\(|<(?![/a-z])", text), f"jupyterquiz would read a formula or a link in: {text}"


def test_the_right_answer_is_not_given_away_by_its_length_or_place():
    """Writers explain what is right, and so make it the longest; the explanation belongs into the feedback."""
    asked = [one["answers"] for name in NAMES for one in quiz.read(name)]
    right = [next(a for a in answers if a["correct"]) for answers in asked]
    lengths = [[len(re.sub("<[^>]*>", "", a["answer"])) for a in answers] for answers in asked]
    places = [answers.index(a) for answers, a in zip(asked, right, strict=True)]
    longest = [x[place] == max(x) for x, place in zip(lengths, places, strict=True)]
    assert sum(longest) < 0.4 * len(asked), "by chance it would be a quarter"
    assert max(map(places.count, places)) < 0.4 * len(asked)


@pytest.mark.parametrize("name", NAMES)
def test_stated_numbers_are_the_notebooks_own(name):
    printed = outputs(PATHS[name])
    for one in quiz.read(name):
        told = " ".join([one["question"], *(a[key] for a in one["answers"] for key in ("answer", "feedback"))])
        for pattern in one.get("output", []):
            found = re.search(pattern, printed)
            assert found, f"nothing printed matches {pattern}"
            for number in found.groups():
                assert re.search(rf"(?<![\d.]){re.escape(number)}(?![\d]|\.\d)", told), f"{number} is not in: {told}"
        for expression, result in one.get("arithmetic", {}).items():
            decimals = len(result.partition(".")[2])
            assert f"{eval(expression):.{decimals}f}" == result and result in told
        right = " ".join(re.sub("<su[bp]>.*?</su[bp]>", "", a["answer"]) for a in one["answers"] if a["correct"])
        assert not NUMBER.search(right) or one.get("output") or one.get("arithmetic"), f"nothing stands behind: {right}"


def saved(name):
    """The saved output of the notebook's quiz cell."""
    cells = nbformat.read(PATHS[name], as_version=4).cells
    return next(cell.outputs for cell in cells if cell.source == quizzes.CELL.format(name=name))


@pytest.mark.parametrize("name", NAMES)
def test_a_reader_without_a_kernel_sees_the_questions_and_what_is_saved_is_small(name):
    [output] = saved(name)
    page = output.data["text/html"]
    assert page == quiz.to_html(name, quiz.read(name)), "`python tools/quizzes.py` puts them in"
    assert "<script" not in page and "<style" not in page and len(json.dumps(output)) < 10_000
    assert page.count("<details>") == page.count("</details>") == len(quiz.read(name))
    assert quizzes.main(["--check", str(PATHS[name])]) == 0


def test_executing_the_cell_shows_jupyterquiz_and_saves_the_list(tmp_path, monkeypatch):
    name = "07_momentum_attention"
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    InteractiveShell.instance()
    try:
        with capture_output() as shown:
            exec(quizzes.CELL.format(name=name), {})
    finally:
        InteractiveShell.clear_instance()
    [output] = [nbformat.v4.new_output("display_data", output.data) for output in shown.outputs]
    page = output.data["text/html"]
    assert page.startswith(quiz.to_html(name, quiz.read(name))), "without scripts the list is all there is"
    assert "show_questions(" in page and page.endswith("})();</script>")
    assert "(function (MathJax) {" in page, "jupyterquiz sees no MathJax, for which it might go to the network"
    assert re.findall("src *= *.https?://", page) == ["src = 'https://"] * 2, (
        "its two ways to fetch MathJax, and no other"
    )
    assert tool.normalise_output(output).data["text/html"] == quiz.to_html(name, quiz.read(name))


def test_a_quiz_is_put_before_further_reading_and_a_second_time_changes_nothing():
    last = nbformat.v4.new_markdown_cell("## On your own\n\n- More.\n\n## Further reading\n\n- A book.", id="last")
    first = nbformat.v4.new_code_cell("1 + 1", id="first", execution_count=1)
    notebook = quizzes.stamp(nbformat.v4.new_notebook(cells=[first, last]), "07_momentum_attention")
    assert [cell.id for cell in notebook.cells] == ["first", "last", "check-yourself", "quiz", "further-reading"]
    assert [cell.source.split("\n")[0] for cell in notebook.cells[1:3]] == ["## On your own", "## Check yourself"]
    assert notebook.cells[3].execution_count == 2 and notebook.cells[4].source == "## Further reading\n\n- A book."
    text = tool.to_text(notebook)
    assert tool.to_text(quizzes.stamp(notebook, "07_momentum_attention")) == text
