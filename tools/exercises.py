"""Finds the exercises of a notebook: what is asked, where the reader writes, what the printed solution is.

An exercise begins at a heading "### Exercise n: ..." and ends before the next heading of its level or above. Inside
stand, in any order: a cell tagged "exercise" that holds a stub and calls its check in the last line, with its solution
in the Markdown cell after it; a cell that sets predictions to None; text with a hint and a solution in <details>.
"""

import ast
import math
import re
from dataclasses import dataclass, field

HEADING = re.compile(r"^(#+) +(.*?)\s*$", re.MULTILINE)
EXERCISE = re.compile(r"^Exercise \d+: ")
EFFORT = re.compile(r"\*(\d+) minutes, (easy|medium|harder)\b")
DETAILS = re.compile(r"\s*<details>.*?</details>\s*", re.DOTALL)
SOLUTION = re.compile(r"<summary>Solution</summary>.*?```python\n(.*?)```", re.DOTALL)
CHECK = re.compile(r"checks\.(\w+)\((\w+)\)")
POINTS = {"easy": 1, "medium": 2, "harder": 3}  # for ten minutes


@dataclass
class Exercise:
    """One exercise; cells are given by their number in the notebook."""

    title: str
    cells: range  # from the cell with its heading
    minutes: int
    difficulty: str
    stub: int | None = None  # the cell with the function to write
    guess: int | None = None  # the cell with the numbers to predict; may be the stub's
    solution: str | None = None  # the Python of its solution
    solution_at: int | None = None  # the cell that the solution stands in
    readers: list[int] = field(default_factory=list)  # code cells after `guess` that use the predictions

    @property
    def points(self) -> int:
        """Ten minutes are one point where they are easy, two where they are medium, three where they are harder."""
        return math.ceil(self.minutes / 10 * POINTS[self.difficulty])


def find_exercises(notebook) -> list[Exercise]:
    """The exercises of a notebook, in order; raises ValueError where one is not of the form above."""
    begun = []  # (cell, level, title) of every exercise; then where each of them ends
    ends = []
    for index, cell in enumerate(notebook.cells):
        for hashes, title in HEADING.findall(cell.source) if cell.cell_type == "markdown" else []:
            if len(ends) < len(begun) and len(hashes) <= begun[-1][1]:
                ends.append(index)
            if EXERCISE.match(title):
                begun.append((index, len(hashes), title))
    ends += [len(notebook.cells)] * (len(begun) - len(ends))
    return [read_exercise(notebook, title, range(a, b)) for (a, _, title), b in zip(begun, ends, strict=True)]


def read_exercise(notebook, title: str, cells: range) -> Exercise:
    """The exercise in these cells; arguments as Exercise has them, errors as `find_exercises`."""
    text = notebook.cells[cells[0]].source.partition(title)[2]
    if not (effort := EFFORT.search(text)):
        raise ValueError(f"{title!r} does not say its minutes and how hard it is, as in *10 minutes, easy.*")
    found = Exercise(title, cells, int(effort[1]), effort[2])
    for index in cells:
        cell = notebook.cells[index]
        if cell.cell_type == "markdown":
            if solution := SOLUTION.search(cell.source if index > cells[0] else text):
                found.solution, found.solution_at = solution[1], index
            continue
        if "exercise" in cell.metadata.get("tags", []):
            found.stub = index
        if found.guess is None and predictions(cell.source):
            found.guess = index
    if found.stub is not None and found.solution_at != found.stub + 1:
        raise ValueError(f"{title!r}: the cell after a stub holds its solution, in a <details> with a python block")
    if found.guess is not None:
        name = predictions(notebook.cells[found.guess].source).targets[0].id
        later = range(found.guess, len(notebook.cells))
        found.readers = [i for i in later if name in names_read(notebook.cells[i])]
    return found


def parse(source: str) -> ast.Module:
    """The cell as Python; an empty module where it holds commands of IPython."""
    try:
        return ast.parse(source)
    except SyntaxError:
        return ast.Module([], [])


def predictions(source: str) -> ast.Assign | None:
    """The statement that sets predictions to None, as in `guess = {"first": None, "last": None}`."""
    for node in parse(source).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            values = node.value.values if isinstance(node.value, ast.Dict) else [node.value]
            if values and all(isinstance(value, ast.Constant) and value.value is None for value in values):
                return node
    return None


def names_read(cell) -> set[str]:
    nodes = ast.walk(parse(cell.source)) if cell.cell_type == "code" else []
    return {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}


# ---------------------------------------------------------------------------------------------------------------------
# What the editions put into the cells


def replace_lines(source: str, first: int, last: int, text: str) -> str:
    """The source with its lines `first` to `last`, counted from 1, replaced."""
    lines = source.splitlines()
    return "\n".join([*lines[: first - 1], *text.rstrip("\n").splitlines(), *lines[last:]])


def filled(stub: str, solution: str) -> str:
    """The cell of a stub with the solution in the place of the function to write."""
    function = next(node for node in parse(stub).body if isinstance(node, ast.FunctionDef))
    return replace_lines(stub, function.lineno, function.end_lineno, solution)


def marked(stub: str, solution: str, begin: str, end: str) -> str:
    """The cell of a stub with the solution's body between two marks in the place of `...`."""
    function = next(node for node in parse(stub).body if isinstance(node, ast.FunctionDef))
    given = parse(solution).body
    if len(given) != 1 or ast.unparse(given[0].args) != ast.unparse(function.args) or given[0].decorator_list:
        raise ValueError(f"the solution of {function.name} is not this one function alone, with the stub's arguments")
    body = solution.splitlines()[given[0].body[0].lineno - 1 :]
    body = ["    " + begin, *body, "    " + end]
    return replace_lines(stub, function.body[0].lineno, function.end_lineno, "\n".join(body))


def predicted(source: str, value: str = "0") -> str:
    """The cell of a prediction with a number in the place of every None."""
    node = predictions(source)
    lines = source.splitlines()[node.lineno - 1 : node.end_lineno]
    return replace_lines(source, node.lineno, node.end_lineno, re.sub(r"\bNone\b", value, "\n".join(lines)))
