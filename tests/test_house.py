"""What holds the project together: its lists agree, its links resolve, its imports run one way."""

import ast
import csv
import itertools
import pkgutil
import re
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import nbformat
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import notebooks as tool

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
README = (ROOT / "README.md").read_text()


def project_files():
    """Everything that belongs to the project: what git tracks, and what it would."""
    if (ROOT / ".git").exists():
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
        return [path for name in sorted(set(names) - {""}) if (path := ROOT / name).is_file()]
    passing = re.compile(r"\.venv|build|dist|__pycache__|\..*_cache|\.hypothesis|\.ipynb_checkpoints|.*\.egg-info")
    files = [path for path in sorted(ROOT.rglob("*")) if path.is_file()]
    return [path for path in files if not any(passing.fullmatch(part) for part in path.relative_to(ROOT).parts)]


def texts():
    for path in project_files():
        if path.suffix in {".py", ".md", ".toml", ".txt", ".yml", ".cff", ".ipynb", ".csv", ".json", ""}:
            yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")


# ---------------------------------------------------------------------------------------------------------------------
# Versions


def constraints():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    assert all(len(pin.specifier) == 1 and str(pin.specifier).startswith("==") for pin in pins), "exact versions only"
    assert not any("+" in str(pin.specifier) for pin in pins), (
        "a local version such as +cpu is found on one machine only"
    )
    return {canonicalize_name(pin.name): str(pin.specifier)[2:] for pin in pins}


def dependencies():
    extras = itertools.chain(*PROJECT["optional-dependencies"].values())
    wanted = [Requirement(line) for line in [*PROJECT["dependencies"], *extras]]
    return {canonicalize_name(one.name): one for one in wanted if canonicalize_name(one.name) != "iclnb"}


def test_constraints_lie_within_the_ranges():
    pins = constraints()
    for name, wanted in dependencies().items():
        assert name in pins, f"constraints.txt does not pin {name}"
        assert wanted.specifier.contains(pins[name]), f"{name}=={pins[name]} lies outside {wanted.specifier}"


def test_environment_yml_agrees_with_pyproject_and_constraints():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert environment["name"] == PROJECT["name"] and environment["channels"] == ["conda-forge"]
    *conda, pip = environment["dependencies"]
    versions = dict(re.split("=+", line, maxsplit=1) if "=" in line else (line, None) for line in conda)
    assert set(versions) == {"python", "pytorch", "pip"}
    assert Requirement(f"python{PROJECT['requires-python']}").specifier.contains(versions["python"])
    assert versions["pytorch"] == constraints()["torch"], "pip would replace conda's torch"
    assert pip == {"pip": ["-c constraints.txt", "-e .[notebooks]"]}
    assert "notebooks" in PROJECT["optional-dependencies"]


def test_citation_names_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert str(citation["version"]) == PROJECT["version"]
    assert citation["repository-code"] == PROJECT["urls"]["Repository"]


# ---------------------------------------------------------------------------------------------------------------------
# The README


@pytest.mark.parametrize("target", sorted(set(re.findall(r"`make ([a-z-]+)|^ +make ([a-z-]+)", README, re.MULTILINE))))
def test_readme_commands_are_make_targets(target):
    name = "".join(target)
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split()
    assert name in phony, f"`make {name}` is in the README and not in the Makefile"


def test_make_help_lists_every_target():
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split()
    shown = subprocess.run(["make", "-s", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert re.findall(r"^  make ([a-z-]+)", shown, re.MULTILINE) == phony


def shown_by_make(*arguments):
    """What `make` would do, as one line a command."""
    command = ["make", "-n", *arguments]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return shown.replace("\\\n", " ")


def test_make_passes_on_how_long_to_train():
    for given, passed_on in (("TOKENS=5", "--tokens 5"), ("MINUTES=2", "--minutes 2")):
        line = shown_by_make("pocket-gpt", given)
        assert passed_on in line and line.count("--tokens") + line.count("--minutes") == 1


def test_make_trains_as_long_as_the_shipped_model_was():
    with (ROOT / "data/pocket-gpt/training.csv").open() as lines:
        tokens = list(csv.DictReader(lines))[-1]["tokens"]
    assert f"--tokens {tokens} " in shown_by_make("pocket-gpt") + " "


@pytest.mark.parametrize("command", ["table", "pretrain"])
def test_readme_options_exist(command):
    shown = subprocess.run(
        [sys.executable, "-m", "iclnb", command, "--help"], capture_output=True, text=True, check=True
    ).stdout
    lines = re.findall(rf"^ +.*-m iclnb {command} (.*)$", README, re.MULTILINE)
    assert lines, "the README shows the command line"
    for option in re.findall(r"--[a-z-]+", " ".join(lines)):
        assert option in shown, f"{option} is in the README and not in the command line"


def test_readme_names_exist():
    names = set(re.findall(r"\biclnb\.([a-z_0-9.]*[a-z_0-9])", README)) - {"git"}
    assert names, "the README shows the public names"
    for name in names:
        try:
            pkgutil.resolve_name(f"iclnb.{name}")  # imports modules on the way
        except (ImportError, AttributeError) as error:
            raise AssertionError(f"iclnb.{name} is in the README and not in the package") from error


def links(text):
    return re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r"""\b(?:src|href)=["']([^"']+)["']""", text)


def test_relative_links_resolve():
    pages = [(path, path.read_text(encoding="utf-8")) for path in project_files() if path.suffix == ".md"]
    for path in tool.find_notebooks():
        cells = nbformat.read(path, as_version=4).cells
        pages.append((path, "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")))
    for path, text in pages:
        for link in links(text):
            if not re.match(r"[a-z]+:|#", link):
                target = path.parent / link.split("#")[0]
                assert target.exists(), f"{tool.relative(path)} links to {link}, which is not there"


def test_files_that_are_named_are_there():
    for name, text in texts():
        for path in re.findall(r"\b(?:iclnb|tests|tools|benchmarks|data)/[\w./-]*\.py\b", text):
            assert (ROOT / path).is_file(), f"{name} names {path}, which is not there"


# ---------------------------------------------------------------------------------------------------------------------
# The package

# From the ground up: a room imports from itself and from rooms before it, never from one after it.
ROOMS = ["attention", "language", "model", "tasks", "experiment", "teaching", "training", "labs"]
HEIGHT = {name: height for height, name in enumerate(["interrupts", "paths", "intervals", *ROOMS, "iclnb", "__main__"])}


def modules():
    return {path: path.relative_to(ROOT / "iclnb").with_suffix("").parts for path in (ROOT / "iclnb").rglob("*.py")}


def room(parts):
    """The room that a dotted name below iclnb belongs to, or the file beside the rooms; "iclnb" for the top."""
    return parts[0] if parts and parts[0] != "__init__" else "iclnb"


def imported(path, parts):
    """Returns what the file imports from the package, as tuples of names below iclnb: {("labs", "hmm"), ...}."""
    known = {parts for parts in modules().values()} | {parts[:-1] for parts in modules().values()}
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {tuple(alias.name.split(".")[1:]) for alias in node.names if alias.name.split(".")[0] == "iclnb"}
        elif isinstance(node, ast.ImportFrom):
            source = tuple(node.module.split(".")) if node.module else ()
            if node.level:
                base = ("iclnb", *parts[:-1])
                source = base[: len(base) - node.level + 1] + source
            if source[:1] == ("iclnb",):
                for alias in node.names:
                    inner = (*source[1:], alias.name)
                    found.add(inner if inner in known else source[1:])
    return found


def test_imports_run_one_way():
    for path, parts in modules().items():
        here = room(parts)
        assert here in HEIGHT, f"iclnb/{here} is no room, nor one of the files beside them"
        for name in imported(path, parts):
            there = room(name)
            assert there in HEIGHT, f"{tool.relative(path)} imports iclnb.{'.'.join(name)}, which is in no room"
            assert HEIGHT[there] <= HEIGHT[here], f"{tool.relative(path)} imports {there}, which stands above it"


def test_every_room_is_installed_and_says_what_it_is():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    rooms = {".".join(("iclnb", *parts[:-1])) for parts in modules().values() if parts[-1] == "__init__"}
    assert set(settings["packages"]) == rooms | {"iclnb.data", "iclnb.quiz"}, (
        "an unlisted package is missing after an installation"
    )
    folders = {path.parent for path in (ROOT / "iclnb").rglob("*.py")}
    assert all(ast.get_docstring(ast.parse((folder / "__init__.py").read_text())) for folder in folders)


def test_imports_have_no_circle():
    graph = {parts: imported(path, parts) - {parts} for path, parts in modules().items() if parts[-1] != "__init__"}
    TopologicalSorter(graph).prepare()


def test_files_hold_one_idea():
    for path in modules():
        lines = len(path.read_text(encoding="utf-8").splitlines())
        assert lines <= 400, f"{tool.relative(path)} has {lines} lines; past 400 a file is asking to be two ideas"


# ---------------------------------------------------------------------------------------------------------------------
# The whole

HOSTS = ["py" + "pi.org", "python" + "hosted.org", "download." + "pytorch.org", "conda" + ".anaconda.org"]
LEFT_OVER = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X|lorem " + r"ipsum)\b")


def test_files_speak_of_no_one_machine_and_leave_nothing_open():
    own = ("tools/notebooks.py", "tests/test_notebooks.py")  # they hold the patterns themselves
    for name, text in texts():
        if name.endswith(".ipynb"):
            text = re.sub(r'"image/png": "[^"]*"', "", text)
        for what, pattern in tool.UNSTABLE.items():
            assert name in own or not (hit := pattern.search(text)), f"{name} holds {what}: {hit[0]}"
        assert not (hit := next((host for host in HOSTS if host in text), None)), f"{name} names {hit}"
        assert not (hit := LEFT_OVER.search(text)), f"{name} still says {hit[0]}"


def test_repository_is_small():
    sizes = {path: path.stat().st_size for path in project_files()}
    largest = sorted(sizes, key=sizes.get, reverse=True)[:3]
    total = sum(sizes.values())
    assert total < 40_000_000, f"{total / 1e6:.1f} MB; the largest: {[tool.relative(path) for path in largest]}"
