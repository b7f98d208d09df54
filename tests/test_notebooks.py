"""How the committed notebooks are saved and laid out, and whether the tool that runs them does what it says.

That their numbers still come out the same is nbval's part: `python tools/notebooks.py test`.
"""

import importlib.util
import io
import json
import os
import re
import shutil
import statistics
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import nbformat
import pytest

import notebooks as tool

ROOT = Path(__file__).parents[1]
PATHS = tool.find_notebooks()
SKELETON = ["What you will do", "What you will learn", "What you need", "In practice", "On your own", "Further reading"]
CHECKED = "# NBVAL_CHECK_OUTPUT"


@pytest.fixture(params=PATHS, ids=tool.relative)
def path(request):
    return request.param


@pytest.fixture
def notebook(path):
    return nbformat.read(path, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def markdown(notebook):
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def all_outputs(notebook):
    return [(cell, output) for cell in code_cells(notebook) for output in cell.outputs]


# ---------------------------------------------------------------------------------------------------------------------
# The committed notebooks


def test_is_saved_in_the_normal_form(path, notebook):
    normal = tool.to_text(tool.normalise(notebook, tool.relative(path)))
    assert path.read_text(encoding="utf-8") == normal, "save it with `python tools/notebooks.py refresh`"


def test_is_executed_in_order(notebook):
    counts = [cell.execution_count for cell in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1))


def test_saves_no_error_and_no_noise(notebook):
    assert [output for _, output in all_outputs(notebook) if output.output_type == "error"] == []
    assert tool.find_faults(notebook) == []


def test_names_no_path_of_one_machine(notebook):
    for cell in notebook.cells:
        for what, pattern in tool.UNSTABLE.items():
            assert not pattern.search(cell.source), f"{what} in: {cell.source}"


def test_cells_are_short(notebook):
    lines = [sum(bool(line.strip()) for line in cell.source.splitlines()) for cell in code_cells(notebook)]
    assert statistics.median(lines) <= 5 and max(lines) <= 25, f"median {statistics.median(lines)}, max {max(lines)}"


def test_is_small(path):
    assert path.stat().st_size < 1_000_000


def test_has_ids_that_differ_and_the_plain_kernel(notebook):
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)
    assert notebook.metadata.kernelspec == {"display_name": "Python 3", "language": "python", "name": "python3"}


def test_has_the_skeleton(notebook):
    text = markdown(notebook)
    title = tool.BADGES.sub("", notebook.cells[0].source)
    assert title.startswith("# "), "the first cell begins with the title"
    headings = re.findall(r"^#+ +(.*?)\s*$", text, re.MULTILINE)
    found = [part for part in SKELETON if any(part in heading for heading in headings)]
    assert found == SKELETON, f"no heading for: {sorted(set(SKELETON) - set(found))}"
    places = [next(i for i, heading in enumerate(headings) if part in heading) for part in SKELETON]
    assert places == sorted(places), "the parts stand in another order"


def test_says_what_it_costs_before_it_starts(notebook):
    start = markdown(notebook).split(SKELETON[0])[0].lower()
    assert [word for word in ("time", "tier", "memory", "downloads") if word not in start] == []


def test_exercises_have_hints_and_solutions(notebook):
    parts = re.split(r"^#+ .*\bExercise\b.*$", markdown(notebook), flags=re.MULTILINE)[1:]
    assert 2 <= len(parts) <= 4, f"{len(parts)} exercises; a notebook has two to four"
    for part in parts:
        for word in ("hint", "solution"):
            assert re.search(rf"<details>\s*<summary>[^<]*{word}", part, re.IGNORECASE), f"no {word} in: {part[:300]}"
        assert part.count("<details>") == part.count("</details>")


def test_compares_what_it_prints(notebook):
    checked = [cell for cell in code_cells(notebook) if CHECKED in cell.source]
    assert checked, f"no cell is marked {CHECKED}"
    for cell in checked:
        assert cell.source.startswith(CHECKED + "\n"), f"the mark is not the first line of: {cell.source}"
        text = [output.get("text") or output.get("data", {}).get("text/plain") for output in cell.outputs]
        assert any(text), f"nothing to compare in the output of: {cell.source}"


def test_loads_pocket_gpt_where_its_numbers_are_the_same_on_every_machine(notebook):
    """On the CPU, which `load` chooses for it where no device is named; in float64, if any dtype is."""
    for cell in code_cells(notebook):
        for call in re.findall(r"\biclnb\.load\((.*)\)", cell.source):
            assert "device" not in call, f"a device is named in: {call}"
            assert "dtype" not in call or 'dtype="float64" if' in call, f"another dtype is named in: {call}"


def test_figures_say_what_they_show(notebook):
    for cell, output in all_outputs(notebook):
        data = output.get("data", {})
        if any(kind.startswith("image/") for kind in data):
            assert data.get("text/plain", "").startswith("Figure: "), f"no alternative text: {cell.source}"
        for image in re.findall(r"<img\b[^>]*>", data.get("text/html", "")):
            assert re.search(r"""\balt=["'][^"']""", image), f"no alternative text: {cell.source}"
    for image in re.findall(r"!\[(.*?)\]\(", markdown(notebook)):
        assert image.strip()


def test_reading_takes_as_long_as_its_words_lines_and_figures_and_exercises_as_long_as_they_say():
    figure = nbformat.v4.new_output("display_data", data={"image/png": "", "text/plain": "Figure: a line"})
    cells = [
        nbformat.v4.new_markdown_cell("word " * 360 + "$$f = g$$\n\n<details>" + "word " * 900 + "</details>"),  # 2:05
        nbformat.v4.new_code_cell("x = 1\n" * 23, outputs=[figure, figure]),  # 1:55 and 2:00
        nbformat.v4.new_markdown_cell("#### Exercise 1: a word\n\n*20 minutes, easy.* " + "word " * 900),
        nbformat.v4.new_code_cell("y = 2\n" * 60),
        nbformat.v4.new_markdown_cell("## In practice\n\nTake *10 minutes* off."),
    ]
    assert tool.minutes(nbformat.v4.new_notebook(cells=cells)) == (10, 20)  # 6 minutes are up to 10
    assert tool.minutes(nbformat.v4.new_notebook(cells=cells[:1])) == (5, 0)


def test_every_name_has_a_row_in_the_readme_and_every_stamp_is_current():
    tool.badges(PATHS, check=True)  # raises where one is stale


def test_what_the_readme_opens_elsewhere_is_defined_below_its_table():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    used, defined = re.findall(r"\]\[(\w+)\]", readme), re.findall(r"^\[(\w+)\]: http", readme, re.MULTILINE)
    assert set(used) == set(defined) and len(defined) == len(set(defined)) == 2 * len(PATHS)


# ---------------------------------------------------------------------------------------------------------------------
# The tool, in a small copy of the house


@pytest.fixture
def house(tmp_path):
    for name in ("pyproject.toml", "README.md", "tools/notebooks.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "notebooks" / "labs").mkdir(parents=True)
    return tmp_path


def put(house, name, *sources):
    cells = [nbformat.v4.new_markdown_cell("# A title"), *map(nbformat.v4.new_code_cell, sources)]
    path = house / "notebooks" / f"{name}.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    return path


def call(house, *arguments):
    """What the tool of this small house returns and prints, called in this process, which has imported its packages."""
    spec = importlib.util.spec_from_file_location("tool_of_a_small_house", house / "tools/notebooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    out, err = io.StringIO(), io.StringIO()
    with patch.dict(os.environ), redirect_stdout(out), redirect_stderr(err):  # what the tool sets is taken back
        returncode = module.main([*map(str, arguments)])
    return SimpleNamespace(returncode=returncode, stdout=out.getvalue(), stderr=err.getvalue())


def test_run_stops_at_the_failing_cell_and_shows_it(house):
    put(house, "00_start_here", "x = 20 + 1\nx", "raise RuntimeError(f'{x} is odd')", "after = 1")
    put(house, "01_attention_is_gradient_descent", "open('ran', 'w')")
    before = (house / "notebooks/00_start_here.ipynb").read_text()
    result = call(house, "run", "--at-once", "1")
    assert result.returncode == 1
    assert "[1/2] notebooks/00_start_here.ipynb" in result.stdout
    for part in ("cell 3", "raise RuntimeError(f'{x} is odd')", "RuntimeError: 21 is odd"):
        assert part in result.stderr
    assert "after = 1" not in result.stderr
    assert not (house / "notebooks/ran").exists(), "the next notebook ran"
    assert (house / "notebooks/00_start_here.ipynb").read_text() == before
    saved = nbformat.read(house / "build/notebooks/00_start_here.ipynb", as_version=4)
    assert saved.cells[1].outputs[0].data["text/plain"] == "21", "what was computed before the failure is kept"


def test_run_reports_a_kernel_that_dies(house):
    put(house, "00_start_here", "x = 1", "import os\nos.kill(os.getpid(), 9)")
    result = call(house, "run")
    assert result.returncode == 1
    assert "cell 3" in result.stderr and "kernel died" in result.stderr and "Traceback" not in result.stderr


def test_run_uses_the_embedded_tier_in_the_notebooks_own_folder(house, monkeypatch):
    for name in ("ICLNB_MODEL", "ICLNB_MODELS", "ICLNB_DATA"):
        monkeypatch.setenv(name, "elsewhere")
    names = "sorted(name for name in os.environ if name.startswith('ICLNB_'))"
    probe = f"import os, pathlib\nprint({names}, pathlib.Path().resolve().name)"
    put(house, "labs/d_induction_heads", probe)
    result = call(house, "run")
    assert result.returncode == 0, result.stderr
    saved = nbformat.read(house / "build/notebooks/labs/d_induction_heads.ipynb", as_version=4)
    assert saved.cells[1].outputs[0].text == "['ICLNB_RESULTS'] labs\n"


PROBE = """
import matplotlib, sys
drawn = matplotlib.get_backend().rpartition(".")[2], matplotlib.rcParams["font.size"]
print(*drawn, "started" in globals(), sys.executable == {!r})
"""


def test_nothing_of_the_users_decides_how_a_notebook_runs(house, monkeypatch):
    """No home that can be written to, and a backend, a style, startup files and a kernel that all do harm."""
    user = house / "user"
    files = {
        "matplotlibrc": "font.size: 30\nbackend: nonsense\n",
        "startup.py": "started = True\n",
        "profile_default/startup/00.py": "started = True\n",
        "kernels/python3/kernel.json": json.dumps({"argv": ["none", "{connection_file}"], "display_name": "Python 3"}),
    }
    for name, text in files.items():
        (user / name).parent.mkdir(parents=True, exist_ok=True)
        (user / name).write_text(text)
    places = dict.fromkeys(
        ("JUPYTER_PATH", "JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR", "MPLCONFIGDIR"), user
    )
    places |= {"HOME": user / "startup.py", "PYTHONSTARTUP": user / "startup.py", "MATPLOTLIBRC": user / "matplotlibrc"}
    for name, place in places.items():
        monkeypatch.setenv(name, str(place))
    monkeypatch.setenv("MPLBACKEND", "nonsense")
    path = put(house, "00_start_here", PROBE.format(sys.executable))
    result = call(house, "refresh")
    assert result.returncode == 0, result.stderr
    assert nbformat.read(path, as_version=4).cells[1].outputs[0].text == "backend_inline 10.0 False True\n"
    assert sorted(p.relative_to(user).as_posix() for p in user.rglob("*") if p.is_file()) == sorted(files)


def test_a_user_without_a_home_is_given_one(tmp_path, monkeypatch):
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    with patch.dict(os.environ):
        tool.use_embedded_tier(str(tmp_path), 1)
        assert os.environ["HOME"] == os.environ["MPLCONFIGDIR"] == str(tmp_path)


@pytest.mark.parametrize(
    "content, said",
    [
        ("", "it is empty"),
        ("\n", "it is empty"),
        ('{"cells": [\n<<<<<<< HEAD\n', "it holds conflict marks of git"),
        ("[]", "it is not of the form ('list' object has no attribute 'get')"),
        (
            '{"nbformat": 4, "nbformat_minor": 5, "metadata": {}}',
            "it is not of the form (The notebook is invalid and is",
        ),
        ("\udcff", "it is not of the form ('utf-8' codec can't decode byte 0xff"),
    ],
)
def test_what_is_no_notebook_is_said_before_any_is_run(house, content, said):
    put(house, "00_start_here", "1 + 1")
    bad = house / "notebooks/01_attention_is_gradient_descent.ipynb"
    bad.write_bytes(content.encode(errors="surrogateescape"))
    for command in ("run", "test", "refresh", "badges"):
        result = call(house, command)
        assert result.returncode == 1 and result.stdout == ""
        [line] = result.stderr.strip().splitlines()
        assert line.startswith(f"notebooks/{bad.name} is no notebook: {said}") and line.endswith(
            "; restore it with git."
        )


def test_refresh_twice_gives_the_same_bytes(house):
    path = put(
        house,
        "00_start_here",
        "from tqdm.auto import tqdm\nsum(tqdm(range(3)))",
        "from ipywidgets import IntSlider\nIntSlider(max=3)",
        "import matplotlib.pyplot as plt\nplt.plot([1, 2]);",
    )
    broken = json.loads(path.read_text())
    broken["metadata"] = {"kernelspec": {"display_name": "mine", "name": "python3"}, "widgets": {"state": {}}}
    broken["cells"][1]["metadata"] = {"execution": {"iopub.status.busy": "2020-01-01"}, "collapsed": True}
    broken["cells"][2]["id"] = broken["cells"][1]["id"]
    path.write_text(json.dumps(broken))
    assert call(house, "badges").returncode == 0
    assert call(house, "refresh").returncode == 0
    first = path.read_text()
    result = call(house, "refresh")
    assert path.read_text() == first and "unchanged" in result.stdout
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert [cell.execution_count for cell in code_cells(notebook)] == [1, 2, 3, 4]
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)
    outputs = [[sorted(o.data) for o in cell.outputs] for cell in code_cells(notebook)]
    assert outputs == [[], [["text/plain"]], [["text/plain"]], [["image/png", "text/plain"]]]
    for word in ("widget", "iopub", "collapsed", "mine"):
        assert word not in first.replace("import ipywidgets", "").replace("from ipywidgets", ""), word


@pytest.mark.parametrize(
    "source, complaint",
    [
        ("import sys\nprint('careful', file=sys.stderr)", "stderr: careful"),
        ("import pathlib\nprint(pathlib.Path('/home').joinpath('me'))", "an absolute path"),
        ("object()", "a memory address"),
    ],
)
def test_refresh_does_not_save_noise(house, source, complaint):
    path = put(house, "00_start_here", source)
    before = path.read_text()
    result = call(house, "refresh")
    assert result.returncode == 1 and complaint in result.stderr
    assert path.read_text() == before


def test_badges_are_stamped_once_and_found_stale(house):
    path = put(house, "01_attention_is_gradient_descent", "1 + 1")
    assert call(house, "badges", "--check").returncode == 1
    assert call(house, "badges").returncode == 0
    assert call(house, "badges", "--check").returncode == 0
    text = path.read_text()
    assert "stamped" not in call(house, "badges").stdout and path.read_text() == text
    notebook = nbformat.read(path, as_version=4)
    assert notebook.cells[0].source.count("Open in Colab") == 1 and notebook.cells[0].source.endswith("# A title")
    assert notebook.cells[1].metadata.tags == ["install"] and "%pip install" in notebook.cells[1].source
    assert "[01_attention_is_gradient_descent](notebooks/01_" in (house / "README.md").read_text()

    settings = house / "pyproject.toml"
    settings.write_text(settings.read_text().replace("github/iclnb/iclnb", "github/someone/fork"))
    result = call(house, "badges", "--check")
    assert result.returncode == 1
    assert "notebooks/01_attention_is_gradient_descent.ipynb" in result.stderr and "README.md" in result.stderr


def test_badges_want_a_row_for_every_notebook(house):
    put(house, "09_unheard_of", "1 + 1")
    result = call(house, "badges")
    assert result.returncode == 1 and "notebooks/09_unheard_of.ipynb" in result.stderr


def test_nbval_compares_the_marked_cells(house):
    path = put(house, "00_start_here", CHECKED + "\nimport os\nprint(os.environ.get('ICLNB_DATA'), 2 + 2)", "print(3)")
    assert call(house, "refresh").returncode == 0
    assert call(house, "test").returncode == 0
    path.write_text(path.read_text().replace('"None 4\\n"', '"None 5\\n"').replace('"3\\n"', '"8\\n"'))
    result = call(house, "test")
    assert result.returncode == 1 and "1 failed, 1 passed" in result.stdout
