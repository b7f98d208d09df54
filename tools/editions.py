"""Makes editions of the notebooks for a course, all from the committed ones.

    python tools/editions.py student      build/student: without hints and solutions
    python tools/editions.py instructor   build/instructor: with the solutions filled in, executed, every check green
    python tools/editions.py nbgrader     build/nbgrader: an nbgrader course, its exercises graded by their checks

All take notebooks to work on; with none named, all of them. An edition runs where it is written, with iclnb installed:
pictures lie beside it, and a link to what it does not hold leads to the repository.

The instructor's edition is executed again only where its cells, iclnb, the data or the questions have changed.
"""

import argparse
import asyncio
import hashlib
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

import nbformat

import exercises
import notebooks as tool
from exercises import CHECK, DETAILS, Exercise
from notebooks import BUILD, ROOT, NotebookFailed

NOTEBOOKS = ROOT / "notebooks"
LINK = re.compile(r"""(\]\(|\b(?:src|href)=["'])([^)\s"'#]+)""")
MADE_FROM = "iclnb_made_from"  # metadata of an executed notebook: the hash of all that decides its outputs
INSTRUCTOR = """\
*The instructor's edition: every exercise holds its solution and has been executed. Predictions are 0, so that the cells
after them measure, and say what is found.*"""
CONFIG = """\
c = get_config()
c.CourseDirectory.course_id = "iclnb"
c.ClearSolutions.code_stub = {"python": "..."}  # an unanswered exercise does not stop the notebook
c.Execute.timeout = 600  # seconds a cell
"""
MARKS = {"schema_version": 3, "grade": False, "locked": False, "solution": False, "task": False}
TEST = """\
from iclnb.teaching import checks

checks.{check}({function}, strict=True)
### BEGIN HIDDEN TESTS
for variant in (1, 2, 3):  # other inputs than those that the reader sees
    checks.{check}({function}, strict=True, variant=variant)
### END HIDDEN TESTS"""
PREDICTED = """\
from iclnb.teaching.predictions import committed

committed({name})"""


# ---------------------------------------------------------------------------------------------------------------------
# What the editions have in common


def read(path):
    """The notebook without badges, which open the committed one, and its exercises."""
    notebook = tool.read(path)
    notebook.cells[0].source = tool.BADGES.sub("", notebook.cells[0].source)
    try:
        return notebook, exercises.find_exercises(notebook)
    except ValueError as error:
        raise NotebookFailed(f"{tool.relative(path)}: {error}.") from error


def clear(notebook, indices):
    for index in indices:
        notebook.cells[index].update(outputs=[], execution_count=None)


def without_hints(notebook, found: list[Exercise]):
    """Takes <details> away, which hold hints and solutions, and the outputs of cells that readers write or predict.

    Those of the first cell stay, which hold its summary in Chinese. A cell that is tagged "solution" goes too: it shows
    one at work.

    Returns:
        The notebook with cells that nothing is left of; their numbers stay as `found` has them.
    """
    for cell in notebook.cells[1:]:
        if "solution" in cell.metadata.get("tags", []):
            cell.source = ""
        if cell.cell_type == "markdown":
            cell.source = DETAILS.sub("\n\n", cell.source).strip()
    for one in found:
        clear(notebook, {one.stub, one.guess, *one.readers} - {None})
    return notebook


def drop_empty(notebook):
    notebook.cells = [cell for cell in notebook.cells if cell.source.strip()]
    return notebook


def relink(notebook, path, here: Path, places: dict[Path, Path]):
    """Points the relative links of the notebook at `path` to where things are once it lies in the folder `here`.

    Args:
        places: for each file that the edition holds, where it lies; other links lead to the repository.
    """

    def moved(link):
        if re.match(r"[a-z]+:", link[2]):
            return link[0]
        target = (path.parent / link[2]).resolve()
        if target in places:
            return link[1] + Path(os.path.relpath(places[target], here)).as_posix()
        return f"{link[1]}{tool.REPOSITORY}/{tool.relative(target)}"

    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = LINK.sub(moved, cell.source)
    return notebook


def pictures():
    return sorted((NOTEBOOKS / "pictures").glob("*.svg"))


def mirrored(folder: Path) -> dict[Path, Path]:
    """Where notebooks and pictures lie in an edition that has the layout of notebooks/; copies the pictures there."""
    places = {path: folder / path.relative_to(NOTEBOOKS) for path in [*tool.find_notebooks(), *pictures()]}
    for path in pictures():
        places[path].parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, places[path])
    return places


# ---------------------------------------------------------------------------------------------------------------------
# The editions


def student(paths):
    """Writes the student's edition: no hints, no solutions, exercises not yet run."""
    places = mirrored(BUILD / "student")
    for path in paths:
        notebook = drop_empty(without_hints(*read(path)))
        tool.write(tool.to_text(relink(notebook, path, places[path].parent, places)), places[path])
    print(f"{len(paths)} notebooks without hints and solutions are in build/student/")


def instructor(paths, at_once):
    """Writes the instructor's edition, executed; raises NotebookFailed where a cell fails or a check is not green."""
    places = mirrored(BUILD / "instructor")

    async def work(path):
        notebook, stubs = solved(path)
        text = tool.to_text(relink(notebook, path, places[path].parent, places))
        key, place = decided_by(text), places[path]
        if place.exists() and tool.read(place).metadata.get(MADE_FROM) == key:
            return "as it was"
        tool.write(text, place)
        notebook, _ = await tool.execute(place)
        for stub in stubs:
            said = "".join(output.get("text", "") for output in notebook.cells[stub].outputs)
            if not said.startswith("Right: ") or "Not yet: " in said:
                raise NotebookFailed(f"{tool.relative(path)}: a solution is not right: {said}", notebook)
        notebook = tool.normalise(notebook, tool.relative(path))
        notebook.metadata[MADE_FROM] = key
        tool.write(tool.to_text(notebook), place)
        return f"executed, {len(stubs)} checks green"

    asyncio.run(tool.each(work, paths, at_once, lambda path, word: print(tool.place(path, paths), word, flush=True)))
    print("The notebooks with their solutions are in build/instructor/")


def solved(path):
    """The notebook with its solutions and predictions filled in, and the numbers of the cells that call a check."""
    notebook, found = read(path)
    notebook.cells[0].source += f"\n\n{INSTRUCTOR}"
    for one in found:
        if one.stub is not None:
            cell = notebook.cells[one.stub]
            cell.source = exercises.filled(cell.source, one.solution)
        if one.guess is not None:
            cell = notebook.cells[one.guess]
            cell.source = exercises.predicted(cell.source)
    stubs = [notebook.cells[one.stub] for one in found if one.stub is not None]
    for one in reversed(found):
        if one.stub is None and one.solution:  # nothing to fill in: it runs in a cell of its own
            cell = nbformat.v4.new_code_cell(one.solution.rstrip("\n"), id=f"solution-{one.solution_at}")
            notebook.cells.insert(one.solution_at + 1, cell)
    clear(notebook, [i for i, cell in enumerate(notebook.cells) if cell.cell_type == "code"])
    return notebook, [notebook.cells.index(cell) for cell in stubs]


def decided_by(text: str) -> str:
    """The hash of a notebook that is not executed yet, and of all that it reads."""
    return hashlib.sha256((text + tool.digest("iclnb", "data", "notebooks/quiz")).encode()).hexdigest()


def nbgrader(paths):
    """Writes the source of an nbgrader course: one assignment a notebook; what lies beside the sources stays."""
    course = BUILD / "nbgrader"
    tool.write(CONFIG, course / "nbgrader_config.py")
    for path in paths:
        folder = course / "source" / path.stem
        shutil.rmtree(folder, ignore_errors=True)
        places = {p: course / "source" / p.stem / p.name for p in tool.find_notebooks()}
        places |= {p: folder / "pictures" / p.name for p in pictures()}
        notebook, found = read(path)
        points = grade(without_hints(notebook, found), found)
        text = tool.to_text(relink(drop_empty(notebook), path, folder, places))
        tool.write(text, folder / path.name)
        for picture in pictures():
            if f"(pictures/{picture.name})" in text:
                (folder / "pictures").mkdir(exist_ok=True)
                shutil.copy(picture, places[picture])
        print(f"{path.stem}: {points} points")
    print("The course is in build/nbgrader/. There, `nbgrader generate_assignment NAME` makes what students are given.")


def grade(notebook, found: list[Exercise]) -> int:
    """Marks the cells of the exercises for nbgrader, and puts a test after each; returns the sum of the points.

    A check that is not green fails its test, on the inputs that the reader sees or on hidden ones. A prediction earns
    one point by being made.
    """
    total = 0
    for one in reversed(found):  # from the end, so that the numbers of the cells before stay right
        by_check = max(1, one.points - (one.guess is not None))
        if one.guess is not None:
            name = exercises.predictions(notebook.cells[one.guess].source).targets[0].id
            add_test(notebook, one.guess, name, 1, PREDICTED.format(name=name))
            total += 1
        if one.stub is not None:
            cell = notebook.cells[one.stub]
            check, function = CHECK.search(cell.source.splitlines()[-1]).groups()
            cell.source = exercises.marked(cell.source, one.solution, "### BEGIN SOLUTION", "### END SOLUTION")
            cell.metadata["nbgrader"] = {**MARKS, "grade_id": function, "solution": True}
            add_test(notebook, one.stub, function, by_check, TEST.format(check=check, function=function))
            total += by_check
    return total


def add_test(notebook, after: int, name: str, points: int, source: str):
    """Puts a test of nbgrader's after a cell. Its tag lets JupyterLab's "Run all" go on where it fails."""
    marks = {**MARKS, "grade_id": f"test_{name}", "grade": True, "locked": True, "points": points}
    metadata = {"nbgrader": marks, "tags": ["raises-exception"]}
    notebook.cells.insert(after + 1, nbformat.v4.new_code_cell(source, id=f"test_{name}", metadata=metadata))


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("edition", choices=["student", "instructor", "nbgrader"])
    parser.add_argument("notebooks", nargs="*", type=Path, help="notebooks to work on; all of them when none is named")
    parser.add_argument("--at-once", type=int, default=os.cpu_count(), help="executed at a time (default: as cores)")
    options = parser.parse_args(arguments)
    paths = [path.resolve() for path in options.notebooks] or tool.find_notebooks()
    if unknown := [path.name for path in paths if path not in tool.find_notebooks()]:
        parser.error(f"not one of the notebooks: {', '.join(unknown)}")
    try:
        if options.edition != "instructor":
            {"student": student, "nbgrader": nbgrader}[options.edition](paths)
            return 0
        with tempfile.TemporaryDirectory() as place:
            tool.use_embedded_tier(place, threads=1)
            instructor(paths, options.at_once)
        return 0
    except NotebookFailed as failure:
        print(f"\n{failure}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
