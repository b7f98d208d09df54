"""Run, test, refresh and stamp the notebooks.

    python tools/notebooks.py run       execute every notebook at the pocket-gpt tier; the results go into build/
    python tools/notebooks.py test      execute every notebook, and compare the marked cells with their saved outputs
    python tools/notebooks.py refresh   execute the committed notebooks in place, and save them in one normal form
    python tools/notebooks.py badges    stamp links, reading times and the install cell; --check only looks

All take notebooks to work on; with none named, all of them, in reading order. As many are executed at once as there
are cores, one thread each. `test --lowest` and `test --threads 2` do what other machines do, which round otherwise:
they keep to the oldest instructions that torch knows, and take another number of threads.

Notebooks run with the Python that runs this, whatever kernels are installed, and with no setting of the user's for
Jupyter, IPython and matplotlib.
"""

import argparse
import asyncio
import functools
import hashlib
import importlib.util
import json
import math
import os
import re
import sys
import tempfile
import time
import tomllib
from pathlib import Path

import nbformat
from ipykernel.kernelspec import RESOURCES, get_kernel_dict
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build"
URLS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]
REPOSITORY = f"{URLS['Repository']}/blob/{URLS['Colab'].rpartition('/')[2]}"  # where readers see its files

CELL_SECONDS = 600  # the longest that one cell may take; a whole notebook is meant to take 90
KERNELSPEC = {"display_name": "Python 3", "language": "python", "name": "python3"}
LANGUAGE = {
    "codemirror_mode": {"name": "ipython", "version": 3},
    "file_extension": ".py",
    "mimetype": "text/x-python",
    "name": "python",
    "nbconvert_exporter": "python",
    "pygments_lexer": "ipython3",
}
KEPT_CELL_METADATA = {"tags", "jupyter"}  # "jupyter" can hide a solution's source; the rest is an editor's own
# For torch, oneDNN and MKL a processor of 2008, on which each of them rounds its sums in another order.
LOWEST = {"ATEN_CPU_CAPABILITY": "default", "DNNL_MAX_CPU_ISA": "SSE41", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"}
# What the user's environment says of the model, of Jupyter, IPython and matplotlib, and of what Python runs first.
FORGOTTEN = (
    *("ICLNB_MODEL", "ICLNB_MODELS", "ICLNB_DATA", "ICLNB_CACHE"),
    *("JUPYTER_PATH", "JUPYTER_CONFIG_PATH", "PYTHONSTARTUP"),
)
FOLDERS = ("ICLNB_RESULTS", "IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR")
DEFAULTS = Path(importlib.util.find_spec("matplotlib").origin).with_name("mpl-data") / "matplotlibrc"
INLINE = "module://matplotlib_inline.backend_inline"
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
WIDGET_TEXT = "(interactive: run the notebook to use it)"
CHECKED = "# NBVAL_CHECK_OUTPUT"  # begins a cell whose output the tests compare
LIVE = "<!-- live -->"  # what iclnb.teaching.quiz shows behind this is for a running notebook alone
PROGRESS_BAR = re.compile(r"\d+%\||\?it/s|\d+it \[")  # what tqdm writes, before and after it knows the total
ANSI = re.compile(r"\x1b\[[0-9;]*m")
# What must not be saved, because it differs from one machine or run to the next.
UNSTABLE = {
    "an absolute path": re.compile(r"(?<![\w./:])/(home|Users|root|work|tmp|usr/lib)\b|\b[A-Z]:\\{1,2}Users"),
    "a memory address": re.compile(r"\bat 0x[0-9a-fA-F]{6,}"),
}


# ---------------------------------------------------------------------------------------------------------------------
# Finding, reading, writing


def find_notebooks():
    """Returns the notebooks in reading order: the spine by name, then the labs by name."""
    return sorted((ROOT / "notebooks").glob("*.ipynb")) + sorted((ROOT / "notebooks" / "labs").glob("*.ipynb"))


def relative(path):
    """Returns `path` as it is read from the repository's root, or its bare name where it lies elsewhere."""
    path = Path(path).resolve()
    return path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name


def read(path):
    """Returns the notebook at `path`; raises NotebookFailed where the file holds none."""
    try:
        return nbformat.read(path, as_version=4)
    except OSError as error:
        raise NotebookFailed(f"{relative(path)} cannot be read ({error.strerror}).") from error
    except Exception as error:  # nbformat has many kinds for what is no notebook
        text, reason = Path(path).read_bytes(), f"it is not of the form ({str(error).partition(chr(10))[0]})"
        if b"<<<<<<< " in text or not text.strip():
            reason = "it holds conflict marks of git" if text.strip() else "it is empty"
        raise NotebookFailed(f"{relative(path)} is no notebook: {reason}; restore it with git.") from error


def write(text, path):
    """Replaces the file whole or not at all; returns whether it changed."""
    path = Path(path)
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)
    return True


def to_text(notebook):
    return nbformat.writes(notebook, version=4) + "\n"


# ---------------------------------------------------------------------------------------------------------------------
# Executing


class NotebookFailed(Exception):
    """A notebook stopped, or gave something that must not be saved; `notebook` is what there is of it."""

    def __init__(self, message, notebook=None):
        super().__init__(message)
        self.notebook = notebook


class ThisPython(AsyncKernelManager):
    """Starts a kernel of the Python that runs this, whatever is installed under a kernel's name."""

    @property
    def kernel_spec(self):
        return KernelSpec(resource_dir=RESOURCES, **get_kernel_dict())


def use_embedded_tier(place, threads):
    """Makes the kernels started from here see the embedded model and data alone, with no network and no progress bars.

    `place` is an empty folder: for stored results, so that every number is computed anew, and for Jupyter and IPython,
    so that nothing of the user's decides. `threads` is 1 but for a test: pocket-gpt is too small to gain from a second
    one, and the cores are better used for a second notebook.
    """
    for name in FORGOTTEN:
        os.environ.pop(name, None)
    os.environ.update({name: str(Path(place, name.lower())) for name in FOLDERS})
    os.environ.update(MPLBACKEND=INLINE, MATPLOTLIBRC=str(DEFAULTS))
    home = os.path.expanduser("~")
    if home == "~":  # a user without one
        os.environ["HOME"] = place
    if not (os.path.isdir(home) and os.access(home, os.W_OK)):  # else matplotlib's list of fonts stays where it is
        os.environ["MPLCONFIGDIR"] = place
    os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_PROGRESS_BARS="1", TQDM_DISABLE="1")
    os.environ.update(OMP_NUM_THREADS=str(threads), OMP_WAIT_POLICY="passive")  # a thread that waits takes no core


async def each(work, paths, at_once, report):
    """Awaits `work(path)` for each path, `at_once` at a time, and calls `report(path, result)` in reading order.

    Where one raises NotebookFailed, the others are stopped, kernels included, and the exception goes on.
    """
    free = asyncio.Semaphore(at_once)

    async def in_turn(path):
        async with free:
            return await work(path)

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [(path, group.create_task(in_turn(path))) for path in paths]
            for path, task in tasks:
                report(path, await task)
    except* NotebookFailed as failed:
        raise failed.exceptions[0] from None


async def execute(path, notebook=None, seconds=CELL_SECONDS):
    """Executes the notebook at `path`, or another one in its place, in the folder of `path`; a cell has `seconds`.

    Returns (notebook, peak): the executed copy, and the kernel's peak memory in MB (None where the system hides it).
    Raises NotebookFailed, which carries the copy as far as it came.
    """
    notebook, index, peak = notebook or read(path), 0, None
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None

    def note_cell(cell_index, **_):
        nonlocal index
        index = cell_index

    def note_peak(**_):  # the kernel's high-water mark so far
        nonlocal peak
        status = Path(f"/proc/{client.km.provisioner.pid}/status")
        if status.exists():
            peak = int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) / 1024

    client = NotebookClient(
        notebook,
        kernel_name=KERNELSPEC["name"],
        kernel_manager_class=ThisPython,
        timeout=seconds,
        record_timing=False,
        coalesce_streams=True,
        extra_arguments=["--log-level=ERROR"],  # the kernel's own remarks about how it was started
        on_cell_start=note_cell,
        on_cell_executed=note_peak,
        resources={"metadata": {"path": str(Path(path).resolve().parent)}},
    )
    try:
        await client.async_execute()
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        if asyncio.current_task().cancelling():  # another notebook failed, and this one's kernel was stopped
            raise asyncio.CancelledError from None
        cell = notebook.cells[index]
        message = f"{relative(path)}, cell {index + 1}:\n\n{indent(cell.source)}\n\n{describe(error, cell, seconds)}"
        raise NotebookFailed(message, notebook) from None
    return notebook, peak


def describe(error, cell, seconds=CELL_SECONDS):
    if isinstance(error, DeadKernelError):
        return "The kernel died here; the usual cause is that memory ran out."
    if isinstance(error, CellTimeoutError):
        return f"The cell had not finished after {seconds} s."
    tracebacks = [output.traceback for output in cell.outputs if output.output_type == "error"]
    return ANSI.sub("", "\n".join(tracebacks[0])) if tracebacks else str(error)


def indent(text):
    return "\n".join("    " + line for line in text.splitlines())


# ---------------------------------------------------------------------------------------------------------------------
# The normal form of a saved notebook


def normalise(notebook, name):
    """Puts `notebook` into the one form in which it is saved: running it again gives the same bytes."""
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNELSPEC, "language_info": LANGUAGE})
    seen = set()
    for index, cell in enumerate(notebook.cells):
        cell.metadata = nbformat.from_dict({k: v for k, v in cell.metadata.items() if k in KEPT_CELL_METADATA})
        cell.source = "\n".join(line.rstrip() for line in cell.source.strip("\n").splitlines())
        if cell.get("id") is None or cell.id in seen:
            cell.id = hashlib.sha256(f"{name} {index} {cell.source}".encode()).hexdigest()[:8]
        seen.add(cell.id)
        if cell.cell_type == "code":
            cell.outputs = [kept for output in cell.outputs if (kept := normalise_output(output)) is not None]
    return notebook


def normalise_output(output):
    """Returns the output as it is saved, or None where it is not: progress bars, and widgets' random identities."""
    if output.output_type == "stream":
        is_bar = output.name == "stderr" and PROGRESS_BAR.search(output.text)
        return None if is_bar or not output.text.strip() else output
    data = output.get("data", {})
    if WIDGET_VIEW in data:
        if PROGRESS_BAR.search(data.get("text/plain", "")):
            return None
        del data[WIDGET_VIEW]
        data["text/plain"] = WIDGET_TEXT
    if LIVE in data.get("text/html", ""):
        data["text/html"] = data["text/html"].partition(LIVE)[0]
    if "metadata" in output:
        output.metadata = nbformat.from_dict({})
    return output


def find_faults(notebook):
    """Returns what stops `notebook` from being saved, one line each: noise, or what no other machine would repeat."""
    faults = []
    for index, cell in enumerate(notebook.cells, start=1):
        for output in cell.get("outputs", []):
            if output.output_type == "stream" and output.name == "stderr":
                faults.append(f"cell {index} writes to stderr: {output.text.strip()[:500]}")
            text = json.dumps({k: v for k, v in output.get("data", output).items() if not k.startswith("image/")})
            faults += [
                f"cell {index} shows {what}: {hit[0]}" for what, p in UNSTABLE.items() if (hit := p.search(text))
            ]
    return faults


# ---------------------------------------------------------------------------------------------------------------------
# Stamps

COLAB_BADGE = "https://colab.research.google.com/assets/colab-badge.svg"
BINDER_BADGE = "https://mybinder.org/badge_logo.svg"
BADGES = re.compile(r"<!-- badges -->.*?<!-- /badges -->\s*", re.DOTALL)
TABLE = re.compile(r"(<!-- notebooks -->\n)(.*?)(<!-- /notebooks -->)", re.DOTALL)
ROW = re.compile(r"^\| (?:\[(?P<linked>[^]]+)\]\([^)]*\)|(?P<plain>[^|\[]+?)) \| (?P<what>.*?) \|.*\|$")
INSTALL_TAG = "install"
INSTALL = f"""\
# On Colab this installs iclnb; anywhere else it does nothing.
import sys

if "google.colab" in sys.modules:
    %pip install -q "git+{URLS["Repository"]}\""""


def badge_links(path):
    """Returns the Markdown of the two badges that open the notebook at `path` in Colab and in Binder."""
    colab, binder = f"{URLS['Colab']}/{relative(path)}", f"{URLS['Binder']}/{relative(path)}"
    return f"[![Open in Colab]({COLAB_BADGE})]({colab}) [![Open in Binder]({BINDER_BADGE})]({binder})"


# How long a reader takes. Exercises say themselves how long they take, their words and stubs included.
WORDS_A_MINUTE, MINUTES_A_LINE, MINUTES_A_FIGURE = 180, 5 / 60, 1
EXERCISE = re.compile(r"^(#+) .*\bExercise\b", re.MULTILINE)
HEADING = re.compile(r"^(#+) ", re.MULTILINE)
OWN_TIME = re.compile(r"\*(\d+) minutes")
FORMULA = re.compile(r"\$\$.+?\$\$", re.DOTALL)
TO_GLOSSARY = re.compile(r"(?<=\])\([./]+docs/glossary\.md#[^)]*\)")  # what tools/terms.py adds; nobody reads it
TIME = re.compile(r"^\| [^|\n]*?(?=; the code runs)", re.MULTILINE)


def minutes(notebook):
    """Returns how many minutes reading takes, and how many the exercises take, both up to the next 5."""
    read, exercises, inside = 0, 0, None
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            if begun := EXERCISE.search(cell.source):
                inside = len(begun[1])
            elif inside and any(len(hashes) <= inside for hashes in HEADING.findall(cell.source)):
                inside = None
            exercises += sum(int(found) for found in OWN_TIME.findall(cell.source)) if inside else 0
        if inside or INSTALL_TAG in cell.metadata.get("tags", []):
            continue
        if cell.cell_type == "markdown":
            text = TO_GLOSSARY.sub("", BADGES.sub("", cell.source).partition("<details>")[0])
            text, formulas = FORMULA.subn(" ", text)  # a formula is read as slowly as a line of code
            read += formulas * MINUTES_A_LINE
            read += len(re.findall(r"[^\W\d_]\w*", text)) / WORDS_A_MINUTE
        else:
            read += sum(bool(line.strip()) for line in cell.source.splitlines()) * MINUTES_A_LINE
            figures = [output for output in cell.outputs if "image/png" in output.get("data", {})]
            read += len(figures) * MINUTES_A_FIGURE
    return tuple(5 * math.ceil(found / 5) for found in (read, exercises))


def stamp_notebook(notebook, path):
    """Puts badges and times into the first Markdown cell, and the install cell before all other code."""
    title = next((cell for cell in notebook.cells if cell.cell_type == "markdown"), None)
    if title is None:
        raise NotebookFailed(f"{relative(path)} has no Markdown cell to put its badges in; begin it with a title cell.")
    rest = BADGES.sub("", title.source).lstrip("\n")
    title.source = f"<!-- badges -->\n{badge_links(path)}\n<!-- /badges -->\n\n{rest}"
    reading, exercises = minutes(notebook)
    time = f"| {reading} minutes, and {exercises} for the exercises"
    for cell in notebook.cells[: notebook.cells.index(title) + 3]:  # the box stands at the top
        if cell.cell_type == "markdown":
            cell.source = TIME.sub(time, cell.source, count=1)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    if code and INSTALL_TAG in code[0].metadata.get("tags", []):
        code[0].source = INSTALL
    else:
        cell = nbformat.v4.new_code_cell(INSTALL, metadata={"tags": [INSTALL_TAG]}, id="install")
        notebook.cells.insert(notebook.cells.index(title) + 1, cell)
    return notebook


def stamp_readme(text):
    """Fills the README's table: a notebook that exists is linked, and opened by links that stand below the table."""
    table = TABLE.search(text)
    if table is None:
        raise NotebookFailed("README.md has no table between <!-- notebooks --> and <!-- /notebooks -->.")
    lines, links, missing = [], [], {relative(path) for path in find_notebooks()}
    for number, line in enumerate(table[2].splitlines()):
        row = ROW.match(line)
        if row and number > 1:  # all but the two lines of the heading
            name = row["linked"] or row["plain"]
            path, short = ROOT / "notebooks" / f"{name}.ipynb", name.rpartition("/")[2].partition("_")[0]
            missing.discard(relative(path))
            if path.exists():
                line = f"| [{name}]({relative(path)}) | {row['what']} | [Colab][c{short}], [Binder][b{short}] |"
                places = (("c", "Colab"), ("b", "Binder"))
                links += [f"[{key}{short}]: {URLS[place]}/{relative(path)}" for key, place in places]
            else:
                line = f"| {name} | {row['what']} | planned |"
        if line.startswith("|"):
            lines.append(line)
    if missing:
        raise NotebookFailed(f"README.md's table has no row for: {', '.join(sorted(missing))}.")
    return text[: table.start(2)] + "\n".join([*lines, "", *links]) + "\n" + text[table.end(2) :]


@functools.cache
def digest(*folders):
    """Returns the SHA-256 of all files in these folders of the repository, read once in a process."""
    found = hashlib.sha256()
    for folder in folders:
        for path in sorted(p for p in (ROOT / folder).rglob("*") if p.is_file() and p.suffix != ".pyc"):
            found.update(path.read_bytes())
    return found.hexdigest()


def stamp_files(stamp, what, arguments=None):
    """The command line of a tool that stamps notebooks: `stamp` gives the new text of a file from (text, path).

    `what` is what is stamped, and the target of the Makefile that does it. Returns the exit status.
    """
    parser = argparse.ArgumentParser(description=f"Stamp the notebooks with their {what}.")
    parser.add_argument("--check", action="store_true", help="change nothing, and fail if something is stale")
    parser.add_argument("notebooks", nargs="*", type=Path, help="all of them where none is named")
    given, stale = parser.parse_args(arguments), []
    try:
        for path in (path.resolve() for path in given.notebooks or find_notebooks()):
            text = path.read_text(encoding="utf-8")
            if (stamped := stamp(text, path)) != text:
                stale.append(relative(path))
                if not given.check:
                    write(stamped, path)
                    print(f"stamped {relative(path)}")
        if given.check and stale:
            raise NotebookFailed("\n  ".join([f"Stale {what}; `make {what}` stamps them:", *stale]))
    except NotebookFailed as failure:
        print(failure, file=sys.stderr)
        return 1
    return 0


# ---------------------------------------------------------------------------------------------------------------------
# Commands


def run(paths, at_once):
    """Executes each notebook into build/, and stops at the first failing cell; returns the exit status."""
    start = time.perf_counter()

    async def work(path):
        begin = time.perf_counter()
        try:
            notebook, peak = await execute(path)
        except NotebookFailed as failure:
            write(to_text(failure.notebook), BUILD / relative(path))
            print(f"{place(path, paths)} failed", flush=True)
            raise
        write(to_text(notebook), BUILD / relative(path))
        return time.perf_counter() - begin, peak

    def report(path, found):
        seconds, peak = found
        print(f"{place(path, paths)} {seconds:.1f} s" + (f", {peak:.0f} MB at most" if peak else ""), flush=True)

    asyncio.run(each(work, paths, at_once, report))
    count = "1 notebook" if len(paths) == 1 else f"{len(paths)} notebooks"
    print(f"{count} in {time.perf_counter() - start:.1f} s; the executed copies are in build/notebooks/")
    return 0


def place(path, paths):
    return f"[{paths.index(path) + 1}/{len(paths)}] {relative(path)} ..."


def test(paths, at_once):
    """Has nbval execute each notebook and compare the outputs of the cells marked NBVAL_CHECK_OUTPUT."""
    if not paths:
        raise NotebookFailed("There are no notebooks to test.")
    pytest = [sys.executable, "-m", "pytest", "--nbval-lax", "--nbval-current-env", "-q", "-p", "no:cacheprovider"]
    total = dict.fromkeys(("passed", "failed", "error"), 0)

    async def work(path):
        command = [*pytest, str(path)]
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *command, cwd=ROOT, stdout=pipe, stderr=asyncio.subprocess.STDOUT
        )
        try:
            output, _ = await process.communicate()
        finally:
            if process.returncode is None:
                process.terminate()
                await process.wait()
        return output.decode(errors="replace")

    def report(path, output):
        summary = output.strip().rpartition("\n")[2]
        for number, word in re.findall(r"(\d+) (passed|failed|error)", summary):
            total[word] += int(number)
        if not re.match(r"\d+ passed", summary):
            print(output)
        print(f"{place(path, paths)} {summary}", flush=True)

    asyncio.run(each(work, paths, at_once, report))
    bad = total["failed"] + total["error"]
    print(f"{total['passed']} passed, {bad} failed")
    return int(bad > 0 or total["passed"] == 0)


def refresh(paths, at_once):
    """Executes each notebook in place and saves its normal form; leaves a notebook alone that fails or is noisy."""

    async def work(path):
        notebook, _ = await execute(path)
        notebook = normalise(notebook, relative(path))
        if faults := find_faults(notebook):
            raise NotebookFailed(f"{relative(path)} was not saved:\n" + "\n".join(faults))
        return "changed" if write(to_text(notebook), path) else "unchanged"

    asyncio.run(each(work, paths, at_once, lambda path, word: print(place(path, paths), word, flush=True)))
    return 0


def badges(paths, check):
    """Stamps the notebooks and the README; with `check`, changes nothing and fails if a stamp is stale."""
    stale = []
    for path in paths:
        text = to_text(stamp_notebook(read(path), path))
        if text != to_text(read(path)):
            stale.append((path, text))
    readme = ROOT / "README.md"
    text = stamp_readme(readme.read_text(encoding="utf-8"))
    if text != readme.read_text(encoding="utf-8"):
        stale.append((readme, text))
    if check and stale:
        names = "\n".join(f"  {relative(path)}" for path, _ in stale)
        raise NotebookFailed(f"Stale badges, times or install cells; `make badges` stamps them:\n{names}")
    for path, text in stale:
        write(text, path)
        print(f"stamped {relative(path)}")


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["run", "test", "refresh", "badges"])
    parser.add_argument("notebooks", nargs="*", type=Path, help="notebooks to work on; all of them when none is named")
    parser.add_argument("--check", action="store_true", help="badges: change nothing, fail if something is stale")
    parser.add_argument("--at-once", type=int, help="notebooks executed at a time (default: as many as cores)")
    parser.add_argument("--lowest", action="store_true", help="test: on the lowest instruction set of this processor")
    parser.add_argument("--threads", type=int, default=1, help="test: of each notebook (default: 1)")
    options = parser.parse_intermixed_args(arguments)  # notebooks may stand before options or after them
    if absent := [str(path) for path in options.notebooks if not path.is_file()]:
        parser.error(f"no such notebook: {', '.join(absent)}")
    if (options.lowest or options.threads != 1) and options.command != "test":
        parser.error(f"--lowest and --threads go with test alone, not with {options.command}")
    if min(options.threads, options.at_once or 1) < 1:
        parser.error("--threads and --at-once must be at least 1")
    paths = [path.resolve() for path in options.notebooks] or find_notebooks()
    at_once = options.at_once or max(1, (os.cpu_count() or 1) // options.threads)
    try:
        if options.command == "badges":
            badges(paths, options.check)
            return 0
        for path in paths:
            read(path)  # so that one that cannot be read is said before any is run
        with tempfile.TemporaryDirectory() as place:
            use_embedded_tier(place, options.threads)
            os.environ.update(LOWEST if options.lowest else {})
            return {"run": run, "test": test, "refresh": refresh}[options.command](paths, at_once)
    except NotebookFailed as failure:
        print(f"\n{failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
