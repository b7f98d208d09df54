"""The checks of the exercises: printed solutions pass, known mistakes are named, nothing a reader writes stops them."""

import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt

import exercises
import notebooks as tool
from iclnb.teaching import checks
from iclnb.teaching.checks import core


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
    for path in tool.find_notebooks():
        notebook = tool.read(path)
        setup = "\n".join(cell.source for cell in notebook.cells if "setup" in cell.metadata.get("tags", []))
        for one in exercises.find_exercises(notebook):
            if one.stub is not None:
                stub = notebook.cells[one.stub].source
                name = re.search(r"def (\w+)", stub)[1]
                yield pytest.param(setup, stub, one.solution, id=f"{path.stem}-{name}")


EXERCISES = list(find_exercises())


@pytest.mark.parametrize("setup, stub, solution", EXERCISES)
def test_the_stub_is_not_yet_right_and_the_printed_solution_is(setup, stub, solution, capsys):
    call = stub.splitlines()[-1]
    assert call.startswith("checks."), "the last line of an exercise calls its check"
    namespace = {}
    exec(setup, namespace)
    exec(stub, namespace)
    assert capsys.readouterr().out.startswith("Not yet: the function returns nothing so far; it should return ")
    exec(f"{solution}\n{call}", namespace)
    assert capsys.readouterr().out.startswith("Right: ")


@pytest.mark.parametrize("setup, stub, solution", EXERCISES)
def test_where_it_is_graded_a_solution_is_right_for_other_inputs_and_a_copied_result_is_not(setup, stub, solution):
    check, function = exercises.CHECK.search(stub.splitlines()[-1]).groups()
    check, namespace, results = getattr(checks, check), {}, []
    exec(f"{setup}\n{stub}", namespace)
    with pytest.raises(core.NotYet, match="^Not yet: the function returns nothing so far"):
        check(namespace[function], strict=True)
    exec(solution, namespace)
    check(lambda *given: results.append(namespace[function](*given)) or results[-1], strict=True)
    for variant in (1, 2, 3):
        check(namespace[function], strict=True, variant=variant)
        with pytest.raises(core.NotYet):
            check(lambda *given: results[0].clone(), strict=True, variant=variant)


# ---------------------------------------------------------------------------------------------------------------------
# Mistakes that readers make, and a part of what they are told


FILES = sorted(Path(__file__).parent.glob("mistakes/*.py"))  # one for each notebook with exercises
MISTAKES = [mistake for path in FILES for mistake in runpy.run_path(str(path))["MISTAKES"]]


@pytest.mark.parametrize("check, answer, told", MISTAKES, ids=lambda x: getattr(x, "__name__", x))
def test_a_mistake_is_named(check, answer, told, capsys):
    check(answer)
    said = capsys.readouterr().out
    assert said.startswith("Not yet: ") and told in said and said.endswith(".\n") and said.count("\n") == 1


EXERCISE_CHECKS = [check for name, check in vars(checks).items() if callable(check) and name != "assert_agree"]


def test_every_exercise_has_mistakes_and_stands_in_a_notebook():
    called = {re.match(r"checks\.(\w+)", stub.values[1].splitlines()[-1])[1] for stub in find_exercises()}
    assert called == {check.__name__ for check in EXERCISE_CHECKS} == {check.__name__ for check, _, _ in MISTAKES}


@pytest.mark.parametrize("check", EXERCISE_CHECKS)
@pytest.mark.parametrize(
    "answer, told",
    [
        (lambda *a: ..., "the function returns nothing so far"),
        (lambda *a: "0.5", "is a str; it should be a tensor"),
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


def test_a_plain_number_will_do_where_a_number_is_asked_for(capsys):
    checks.recall_to_icl(lambda zsl, ft, icl: 100 * ft[~zsl & icl].double().mean().item())
    assert capsys.readouterr().out.startswith("Right: ")
    checks.recall_to_icl(lambda zsl, ft, icl: 100 * icl[~zsl & ft].double().mean().item())
    assert "this is Rec2FTP itself" in capsys.readouterr().out


def shaped(make):
    """What `make` gives for the shape of the first array that a function is given, and for ()."""
    return lambda *given: make(next((x.shape for x in given if isinstance(x, torch.Tensor)), ()))


def spoil(*given):
    """Fill every tensor that a function is given with zeros, in place, and return the last."""
    return [x.zero_() for x in given if isinstance(x, torch.Tensor)][-1]


ODD = [
    None,  # no function at all
    *(lambda *a, value=value: value for value in (None, "0.5", True, 3, 2j, [], [[1.0]], {}, float("nan"), object())),
    *(lambda *a, value=value: value for value in (np.float64(0.5), np.zeros(3), np.array("x"), torch.nn.Linear(2, 2))),
    *(lambda *a, value=value: torch.tensor(value) for value in (0.25, 2, True, 1j, float("nan"), float("inf"), [])),
    *(shaped(lambda shape, dtype=dtype: torch.ones(shape, dtype=dtype)) for dtype in (torch.bool, torch.int8)),
    *(shaped(lambda shape, dtype=dtype: torch.ones(shape, dtype=dtype)) for dtype in (torch.half, torch.cfloat)),
    shaped(lambda shape: torch.zeros(shape)),
    shaped(lambda shape: torch.full(shape, -torch.inf)),
    shaped(lambda shape: torch.ones(shape, device="meta")),
    shaped(lambda shape: torch.ones(shape).to_sparse()),
    shaped(lambda shape: torch.nn.Parameter(torch.ones(shape))),
    shaped(lambda shape: torch.ones(*shape, 0)),
    lambda *a: torch.nested.nested_tensor([torch.zeros(1), torch.zeros(2)]),
    lambda *a: (a[0], 0.5),
    lambda *a: a[0],
    lambda *a: spoil,
    lambda *a: (yield 0.5),
    lambda *a, more: 0.5,
    lambda one, two, three, four, five, six, seven: 0.5,
    lambda: 0.5,
    spoil,
    lambda *a: torch.zeros(2) @ torch.zeros(3),
    lambda *a: sys.exit("enough"),
]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("check", EXERCISE_CHECKS)
def test_no_answer_however_odd_stops_a_check(check, capsys):
    for number, answer in enumerate(ODD):
        check(answer)
        said = capsys.readouterr().out
        assert said.startswith("Not yet: ") and said.endswith(".\n") and said.count("\n") == 1, (number, said)


def test_a_wrong_number_is_told_by_how_much():
    said = core.find_fault(lambda: torch.tensor(0.5), (), torch.tensor(0.75), "the share", "()", [])
    assert said == "the share is off by 0.25"


def test_a_harder_trial_has_its_own_sentence():
    trials = [((2,), torch.tensor(4.0)), (torch.tensor(0.0), "this is zero"), ((3,), torch.tensor(9.0), "square it")]
    for answer, told in ((lambda x: x**2, None), (lambda x: 2 * x, "square it"), (lambda x: 0 * x, "this is zero")):
        assert core.grade(lambda x, answer=answer: torch.tensor(answer(x)), "y", "()", *trials) == told


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
