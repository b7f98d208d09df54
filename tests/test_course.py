"""The course: what it names is there, minutes and points add up, and the exam has the numbers that iclnb computes."""

import functools
import re

import nbformat
import pytest
import torch
from scipy.stats import binomtest

import notebooks as tool
from iclnb.attention import duality, ema
from iclnb.intervals import flips

COURSE = tool.ROOT / "docs" / "course"
SESSIONS = sorted(COURSE.glob("session-*.md"))
PLACE = re.compile(r"\]\(((?:\.\./)+notebooks/[\w/.]+\.ipynb)\),\s+\*(.+?)\*")


@pytest.fixture(params=SESSIONS, ids=lambda path: path.stem)
def session(request):
    return request.param.read_text(encoding="utf-8")


@functools.cache
def headings(path):
    cells = nbformat.read(path, as_version=4).cells
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    return set(re.findall(r"^#+ (.+?)\s*$", text, re.MULTILINE))


def section(text, title):
    return re.search(rf"^## {title}.*?\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)[1]


def test_every_section_that_a_page_names_is_in_its_notebook():
    found = [
        (page, *place) for page in sorted(COURSE.rglob("*.md")) for place in PLACE.findall(page.read_text("utf-8"))
    ]
    assert len(found) > 40
    for page, link, heading in found:
        assert heading in headings((page.parent / link).resolve()), f"{page.name}: no {heading!r} in {link}"


def test_a_session_has_its_parts_and_fills_90_minutes(session):
    parts = ["Before the session", "Plan", "Discussion", "Misconceptions", "Homework"]
    assert [title.split(" (")[0] for title in re.findall(r"^## (.+)$", session, re.MULTILINE)] == parts
    times = [
        tuple(map(int, row)) for row in re.findall(r"^\| (\d+) to (\d+) \|", section(session, "Plan"), re.MULTILINE)
    ]
    starts, ends = zip(*times, strict=True)
    assert starts == (0, *ends[:-1]) and ends[-1] == 90


def test_homework_is_worth_20_points_and_every_question_is_answered(session):
    points = map(int, re.findall(r"^\| (\d+) \|", section(session, "Homework"), re.MULTILINE))
    assert sum(points) == 20
    questions = re.findall(r"^\*\*\d+\. .+?\*\*\n\S", section(session, "Discussion"), re.MULTILINE | re.DOTALL)
    assert len(questions) >= 5


def test_every_notebook_has_its_page():
    names = {path.stem for path in tool.find_notebooks()}
    assert {path.stem for path in (COURSE / "summaries").glob("*.md")} == names
    linked = re.findall(r"\(summaries/(\w+)\.md\)", (COURSE / "README.md").read_text(encoding="utf-8"))
    assert set(linked) == names


# ---------------------------------------------------------------------------------------------------------------------
# The exam


def exam(page):
    text = (COURSE / f"{page}.md").read_text(encoding="utf-8")
    parts = re.split(r"^\*\*(\d+)\.", text, flags=re.MULTILINE)
    return {int(number): part for number, part in zip(parts[1::2], parts[2::2], strict=True)}


def test_the_exam_has_12_questions_worth_100_points_and_their_solutions():
    questions, solutions = exam("exam"), exam("solutions")
    assert list(questions) == list(solutions) == list(range(1, 13))
    points = {number: int(re.search(r"\((\d+) points\)", text)[1]) for number, text in questions.items()}
    assert sum(points.values()) == 100
    for number, text in solutions.items():
        assert sum(map(int, re.findall(r"\[(\d+)\]", text))) == points[number], f"question {number}"
        assert re.findall(r"\(([a-d])\) \[", text) == re.findall(r"\(([a-d])\)", questions[number]), (
            f"question {number}"
        )


def test_its_descent_is_the_suites():
    W0, X, Y = torch.eye(2), torch.tensor([[1.0, 2.0], [0.0, 1.0]]), torch.tensor([[2.0, 1.0], [1.0, 0.0]])
    x = torch.tensor([[1.0, -1.0]])
    W, E = duality.gradient_descent(W0, X, Y, 0.5)
    assert E.tolist() == [[0.5, -0.5], [0.5, -0.5]] and (W - W0).tolist() == [[0.5, 1.5], [-0.5, -1.5]]
    assert (x @ W.T).tolist() == duality.dual_form(W0, X, E, x).tolist() == [[0.0, 0.0]]
    forwards, E = duality.gradient_descent(W0, X, Y, 0.5, order="sequential")
    assert E.tolist() == [[0.5, -0.5], [0.0, 0.0]] and (x @ forwards.T).tolist() == [[0.5, -0.5]]
    backwards, E = duality.gradient_descent(W0, X.flip(0), Y.flip(0), 0.5, order="sequential")
    assert E.tolist() == [[0.5, -0.5], [0.0, 0.0]] and (x @ backwards.T).tolist() == [[0.5, -0.5]]
    assert not torch.equal(forwards, backwards)


@pytest.mark.parametrize("times, share", [(1, 4 / 5), (2, 8 / 9)])
def test_its_split_is_the_suites(times, share):
    K, V = torch.tensor([1.0, 3.0]).double().log()[:, None], torch.eye(2).double()  # (P, 1) scores as keys, (P, 2)
    q, k, v = (torch.tensor([row]).double() for row in ([1.0], [0.0], [2.0, 0.0]))  # (1, 1), (1, 1), (1, 2)
    lam, demo, query = duality.exact_split(q, K.repeat(times, 1), V.repeat(times, 1), k, v)
    assert lam.item() == pytest.approx(share) and demo.tolist() == [pytest.approx([0.25, 0.75])]
    assert (lam * (demo - query)).tolist() == [pytest.approx([-1.75 * share, 0.75 * share])]
    assert share == 8 / 9 or (lam * demo + (1 - lam) * query).tolist() == [pytest.approx([0.6, 0.6])]


def test_its_floor_its_recall_its_test_and_its_momentum():
    solutions = exam("solutions")
    assert f"{0.5 * (1 - 0.68) ** 0.5:.2f}" == "0.28" and "(b) [2] 0.28." in solutions[6]
    g, C, c = torch.Generator().manual_seed(0), 4096, 0.68
    z, i, r = torch.linalg.qr(torch.randn(C, 3, generator=g))[0].T  # (C,) each
    i = c * z + (1 - c**2) ** 0.5 * i
    assert torch.cosine_similarity(i - z, r - z, dim=0).item() == pytest.approx(0.283, abs=1e-3)
    assert 100 * 15 / 16 == 93.75 and f"{100 * 15 / 36:.1f}" == "41.7" and 100 * 21 / 24 == 87.5
    before = torch.tensor([True] * 60 + [False] * 40)
    after = torch.tensor([False] * 5 + [True] * 70 + [False] * 25)
    p = binomtest(5, 20).pvalue
    assert flips(before, after).p == pytest.approx(p) and f"{p:.3f}" == "0.041"
    assert f"{(0.8 * 0.2 / 56) ** 0.5:.3f}" == "0.053" and "0.053" in solutions[9]
    added = ema(torch.tensor([1.0, 2.0, 4.0, 0.0])[:, None], 0.5)[:, 0]
    assert added.tolist() == [0, 0.5, 1.25, 2.625] and "0, 0.5, 1.25, 2.625" in solutions[12]
