"""Puts the questions of notebooks/quiz/ into the notebooks, as they are saved, without executing anything else.

    python tools/quizzes.py             the quiz cell before "Further reading", and what it shows; --check only looks

Takes notebooks to work on; with none named, all of them. A quiz cell is the last code cell; its saved output depends on
the questions alone, and is the one that executing it would save.
"""

import re
import sys

import nbformat

import notebooks as tool
from iclnb.teaching import quiz

BEFORE = "## Further reading"
HEADING = """\
## Check yourself

In a running notebook a click on an answer says why it is right or wrong; elsewhere the answers unfold."""
CELL = 'from iclnb.teaching.quiz import quiz\n\nquiz("{name}")'


def stamp(notebook, name):
    """Puts the quiz cell and its output into a notebook; raises NotebookFailed where there is no place for it."""
    source = CELL.format(name=name)
    if not any(cell.source == source for cell in notebook.cells):
        insert(notebook, name, source)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    questions = quiz.read(name)
    data = {"text/html": quiz.to_html(name, questions), "text/plain": quiz.to_text(questions)}
    code[-1].update(execution_count=len(code), outputs=[nbformat.v4.new_output("display_data", data)])
    return notebook


def insert(notebook, name, source):
    found = [i for i, c in enumerate(notebook.cells) if re.search(f"^{BEFORE}", c.source, re.MULTILINE)]
    if len(found) != 1:
        raise tool.NotebookFailed(f"{name} has {len(found)} cells with a heading {BEFORE}; its quiz stands before it.")
    before, heading, after = notebook.cells[found[0]].source.partition(BEFORE)
    new = [
        nbformat.v4.new_markdown_cell(HEADING, id="check-yourself"),
        nbformat.v4.new_code_cell(source, id="quiz"),
    ]
    if before.strip():  # the heading stands inside of a cell, which is parted there
        notebook.cells[found[0]].source = before.rstrip()
        new.append(nbformat.v4.new_markdown_cell(heading + after, id="further-reading"))
        found[0] += 1
    notebook.cells[found[0] : found[0]] = new


def main(arguments=None):
    return tool.stamp_files(lambda _, path: tool.to_text(stamp(tool.read(path), path.stem)), "quizzes", arguments)


if __name__ == "__main__":
    sys.exit(main())
