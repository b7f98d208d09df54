"""Questions at the end of a notebook: to click where it runs, and a list that unfolds wherever it is only read."""

import json
import re

from IPython.display import display
from IPython.utils.capture import capture_output
from jupyterquiz import display_quiz

from iclnb.paths import quiz_folder

# What follows is for a page with scripts, and is not saved; what stands before it is all that GitHub shows.
LIVE = "<!-- live -->"
COLOURS = {
    "--jq-multiple-choice-bg": "#0173b2",  # the first colour of the figures
    "--jq-many-choice-bg": "#0173b2",
    "--jq-correct-color": "#00752b",
    "--jq-incorrect-color": "#b00020",
}


def quiz(name: str) -> None:
    """Shows the questions of a notebook.

    Args:
        name: of the notebook, without its folder, such as "01_attention_is_gradient_descent".

    Raises:
        FileNotFoundError: it has no questions.
    """
    questions = read(name)
    display({"text/html": to_html(name, questions) + live(name, questions), "text/plain": to_text(questions)}, raw=True)


def read(name: str) -> list[dict]:
    """The questions of a notebook in jupyterquiz's form, where every answer has its feedback.

    Two more entries hold the evidence for numbers: "output", patterns that the notebook's saved outputs match, whose
    groups are the numbers in the question and the feedback; "arithmetic", expressions and what they give.
    """
    return json.loads((quiz_folder() / f"{name}.json").read_text(encoding="utf-8"))


def to_html(name: str, questions: list[dict]) -> str:
    """The questions as a list, each with its answers, and below them what is right and why the others are not."""
    items = "\n<br>\n".join(to_item(number, question) for number, question in enumerate(questions, start=1))
    return f'<div id="list-{name}">\n{items}\n</div>'


def to_item(number: int, question: dict) -> str:
    answers = list(zip("abcdef", question["answers"], strict=False))
    offered = "<br>".join(f"({letter}) {answer['answer']}" for letter, answer in answers)
    first_right = sorted(answers, key=lambda pair: not pair[1]["correct"])
    told = "<br>".join(f"<b>({letter})</b> {answer['feedback']}" for letter, answer in first_right)
    return (
        f"<p><b>{number}.</b> {question['question']}</p><p>{offered}</p>"
        f"<details><summary>Answer</summary><p>{told}</p></details>"
    )


def to_text(questions: list[dict]) -> str:
    plain = (re.sub(r"<[^>]*>", "", question["question"]) for question in questions)
    return "\n".join(["Quiz:", *(f"{number}. {text}" for number, text in enumerate(plain, start=1))])


def live(name: str, questions: list[dict]) -> str:
    """What jupyterquiz shows, in the place of the list.

    Its script would fetch MathJax from the network where a page has another version, so it is shown none: the questions
    hold no formulas.
    """
    with capture_output() as shown:
        display_quiz(questions, colors=COLOURS, max_width=760, border_radius=6)
    page, script = (output.data for output in shown.outputs)
    hide = f"<style>#list-{name} {{ display: none; }}</style>"
    run = f"<script>(function (MathJax) {{\n{script['application/javascript']}\n}})();</script>"
    return f"{LIVE}{hide}{page['text/html']}</div>{run}"
