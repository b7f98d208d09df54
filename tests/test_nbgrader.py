"""The nbgrader course: no answer is handed out, and right, wrong and empty submissions get the marks they should."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import editions
import exercises
import notebooks as tool

api = pytest.importorskip("nbgrader.api", reason="needs nbgrader: pip install -e '.[course]'")

NAME = "01_attention_is_gradient_descent"
MASTER = editions.NOTEBOOKS / f"{NAME}.ipynb"
COPIED = """
def implied_targets(W_ZSL: Tensor, K: Tensor, V: Tensor, lr: float) -> Tensor:
    return torch.tensor({})  # the numbers that are right for what the reader's check draws
"""


def bears_on_marks(cell):
    tags = cell.metadata.get("tags", [])
    return cell.cell_type == "markdown" or "setup" in tags or "nbgrader" in cell.metadata or may_predict(cell)


def may_predict(cell):
    return cell.cell_type == "code" and exercises.predictions(cell.source) is not None


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    """A course of one notebook, its assignment generated; to save time, without cells that do not bear on the marks."""
    folder = tmp_path_factory.mktemp("course")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(editions, "BUILD", folder)
        assert editions.main(["nbgrader", str(MASTER)]) == 0
    source = folder / "nbgrader" / "source" / NAME / MASTER.name
    notebook = tool.read(source)
    notebook.cells = [cell for cell in notebook.cells if bears_on_marks(cell)]
    tool.write(tool.to_text(notebook), source)
    nbgrader(folder / "nbgrader", "generate_assignment", NAME)
    return folder / "nbgrader"


def nbgrader(folder, *arguments):
    command = [sys.executable, "-m", "nbgrader", *arguments]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # nbgrader calls alembic by its name
    done = subprocess.run(command, cwd=folder, env=os.environ | {"PATH": path}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def released(course):
    return tool.read(course / "release" / NAME / f"{NAME}.ipynb")


def test_what_is_handed_out_holds_stubs_and_checks_and_no_answer(course):
    assert (course / "release" / NAME / "pictures" / "two_ways.svg").exists()
    cells = {cell.metadata.nbgrader.grade_id: cell for cell in released(course).cells if "nbgrader" in cell.metadata}
    master, found = editions.read(MASTER)
    for one in found:
        name = function_of(master, one)
        assert cells[name].source == master.cells[one.stub].source
        assert cells[f"test_{name}"].source.rstrip().endswith("strict=True)"), "hidden tests are taken out"
    assert sum(cell.metadata.nbgrader.get("points", 0) for cell in cells.values()) == sum(one.points for one in found)


def function_of(notebook, exercise):
    """The name of the function that the exercise asks for."""
    return exercises.CHECK.search(notebook.cells[exercise.stub].source.splitlines()[-1])[2]


def submit(course, student, answers, guess):
    """Hands in the notebook with these functions in the place of their stubs, and one number for every prediction."""
    notebook = released(course)
    for cell in notebook.cells:
        name = cell.metadata.get("nbgrader", {}).get("grade_id")
        if name in answers:
            cell.source = exercises.filled(cell.source, answers[name])
        if may_predict(cell):
            cell.source = exercises.predicted(cell.source, guess)
    place = course / "submitted" / student / NAME / f"{NAME}.ipynb"
    tool.write(tool.to_text(notebook), place)


def test_right_wrong_and_empty_submissions_get_full_less_and_no_marks(course):
    master, found = editions.read(MASTER)
    right = {function_of(master, one): one.solution for one in found}
    wrong = {**right, "cross_entropy_errors": right["cross_entropy_errors"].replace("-lr", "lr")}
    wrong["implied_targets"] = COPIED.format(result_of(right["implied_targets"]))
    submit(course, "right", right, guess="1")
    submit(course, "wrong", wrong, guess="1")
    submit(course, "empty", {}, guess="None")
    nbgrader(course, "autograde", NAME)
    with api.Gradebook(f"sqlite:///{course / 'gradebook.db'}") as book:
        marks = {student: book.find_submission(NAME, student) for student in ("right", "wrong", "empty")}
        assert {student: found.score for student, found in marks.items()} == {"right": 12, "wrong": 8, "empty": 0}
        [notebook] = marks["wrong"].notebooks
        lost = {grade.name for grade in notebook.grades if grade.score < grade.max_score}
        assert lost == {"test_cross_entropy_errors", "test_implied_targets"}
        assert not any(found.needs_manual_grade for found in marks.values())


def result_of(solution):
    """What the function returns for the inputs that its visible check draws, as numbers."""
    from torch import Tensor

    from iclnb.teaching import checks

    namespace, results = {"Tensor": Tensor}, []
    exec(solution, namespace)
    checks.implied_targets(lambda *given: results.append(namespace["implied_targets"](*given)) or results[-1])
    return results[0].tolist()
