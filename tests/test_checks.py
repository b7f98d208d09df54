"""The checks of the exercises: printed solutions pass, known mistakes are named, nothing a reader writes stops them."""

import re
import runpy
from pathlib import Path

import nbformat
import pytest
import torch
from matplotlib import pyplot as plt

from iclnb import checks
from iclnb.checks import core

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
SOLUTION = re.compile(r"<summary>Solution</summary>.*?```python\n(.*?)```", re.DOTALL)


@pytest.fixture(autouse=True)
def float64():
    """What the notebooks' setup cells set for all of torch and matplotlib, for the time of one test."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    with plt.rc_context():
        yield
    torch.set_default_dtype(before)
    torch.set_printoptions(profile="default")


# ---------------------------------------------------------------------------------------------------------------------
# Exercises as they stand in the notebooks


def find_exercises():
    """One (setup, stub, solution) for each cell tagged "exercise": source of the setup cell, of it, of its solution."""
    for path in sorted(NOTEBOOKS.rglob("*.ipynb")):
        cells = nbformat.read(path, as_version=4).cells
        setup = "\n".join(cell.source for cell in cells if "setup" in cell.metadata.get("tags", []))
        for index, cell in enumerate(cells):
            if "exercise" in cell.metadata.get("tags", []):
                solution = SOLUTION.search(cells[index + 1].source)
                name = re.search(r"def (\w+)", cell.source)[1]
                yield pytest.param(setup, cell.source, solution and solution[1], id=f"{path.stem}-{name}")


@pytest.mark.parametrize("setup, stub, solution", list(find_exercises()))
def test_the_stub_is_not_yet_right_and_the_printed_solution_is(setup, stub, solution, capsys):
    assert solution, "the cell after an exercise holds its solution, in a <details> with a python block"
    call = stub.splitlines()[-1]
    assert call.startswith("checks."), "the last line of an exercise calls its check"
    namespace = {}
    exec(setup, namespace)
    exec(stub, namespace)
    assert capsys.readouterr().out.startswith("Not yet: the function returns nothing so far; it should return ")
    exec(f"{solution}\n{call}", namespace)
    assert capsys.readouterr().out.startswith("Right: ")


# ---------------------------------------------------------------------------------------------------------------------
# Mistakes that readers make, and a part of what they are told


FILES = sorted(Path(__file__).parent.glob("mistakes/*.py"))  # one for each notebook with exercises
MISTAKES = [mistake for path in FILES for mistake in runpy.run_path(str(path))["MISTAKES"]]


@pytest.mark.parametrize("check, answer, told", MISTAKES, ids=lambda x: getattr(x, "__name__", x))
def test_a_mistake_is_named(check, answer, told, capsys):
    check(answer)
    said = capsys.readouterr().out
    assert said.startswith("Not yet: ") and told in said and said.endswith(".\n") and said.count("\n") == 1


EXERCISE_CHECKS = sorted({check for check, _, _ in MISTAKES}, key=lambda check: check.__name__)


@pytest.mark.parametrize("check", EXERCISE_CHECKS)
@pytest.mark.parametrize(
    "answer, told",
    [
        (lambda *a: ..., "the function returns nothing so far"),
        (lambda *a: 0.5, "is a float; it should be a tensor"),
        (lambda *a: torch.zeros(7, 8, 9), "has shape (7, 8, 9)"),
        (lambda: None, "your function stops with TypeError"),
        (lambda *a: 1 / 0, "your function stops with ZeroDivisionError: division by zero."),
        (lambda *a: [][0], "your function stops with IndexError"),
    ],
)
def test_whatever_a_reader_writes_the_check_answers_in_one_line(check, answer, told, capsys):
    check(answer)
    said = capsys.readouterr().out
    assert said.startswith("Not yet: ") and told in said and said.count("\n") == 1


def test_numbers_that_are_wrong_in_no_known_way_are_described():
    right = torch.arange(12.0).view(3, 4)
    assert core.describe_difference(right / 0, right, "A") == "A is not finite: it holds inf or NaN"
    assert core.describe_difference(-right, right, "A") == "A is -1 times what it should be"
    assert core.describe_difference(right[:, :3].T, right[:, :3], "A") == "A is transposed"
    assert "A[1] is the first part" in core.describe_difference(right + torch.tensor([[0], [1], [0]]), right, "A")
    assert "by up to 3" in core.describe_difference(right + torch.tensor([3.0, -2, 1, 2]), right, "A")


def test_float32_answers_count():
    right = torch.rand(3, 4)
    assert core.find_fault(lambda: right.float(), (), right, "A", "(3, 4)", []) is None


# ---------------------------------------------------------------------------------------------------------------------
# assert_agree


def test_agreeing_ways_are_printed(capsys):
    a = torch.rand(2, 3)
    checks.assert_agree(loop=a, matrix=a + 1e-12, module=a.clone())
    assert capsys.readouterr().out == "loop = matrix = module, shape (2, 3), to 1e-10\n"


@pytest.mark.parametrize(
    "b, complaint",
    [
        (torch.ones(2, 3, dtype=torch.float64) + 1e-6, r"loop and matrix differ by up to 1e-06; 1e-10 is allowed"),
        (torch.ones(3), r"loop has shape \(2, 3\), matrix has shape \(3,\)"),  # no broadcasting
        (torch.full((2, 3), torch.nan), "differ by up to nan"),
    ],
)
def test_ways_that_differ_stop_the_notebook(b, complaint):
    with pytest.raises(AssertionError, match=complaint):
        checks.assert_agree(loop=torch.ones(2, 3), matrix=b)


def test_one_way_alone_is_no_comparison():
    with pytest.raises(ValueError, match="loop alone"):
        checks.assert_agree(loop=torch.ones(2))
