"""Build the book, a static site, into build/book/.

    python tools/book.py    gather the pages, then have Sphinx make the site; a warning is an error

Pages are the Markdown files of docs/, the notebooks as they were saved, the guide of the package and one page a room of
it. They are gathered in build/book-source/, each link rewritten for where its target went: to the page, or, where the
target is no page of the book, to the file on the repository's web address. Whatever else lies in docs/ (but for conf.py
and _static/) goes into the site as it is, beside the page of the same folder. The page on which pocket-gpt runs is of
the book where `make live` has built what it needs.
"""

import argparse
import ast
import importlib.resources
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import explorers
import notebooks as tool

ROOT = tool.ROOT
DOCS, SOURCE, SITE = ROOT / "docs", tool.BUILD / "book-source", tool.BUILD / "book"
GUIDE = ROOT / "iclnb" / "README.md"
LIVE = tool.BUILD / "live"  # what the page docs/teach_pocket_gpt.md needs
ROOMS = ("attention", "language", "model", "tasks", "experiment", "teaching", "training", "labs")
# The table of contents: what there is of each part, in this order.
PARTS = {
    "The notebooks": ["notebooks/*"],
    "The labs": ["notebooks/labs/*"],
    "In the browser": ["teach_pocket_gpt"],
    "The course": ["course/README", "course/session-*", "course/*", "course/summaries/*"],
    "To look up": ["glossary", "notation", "reading_list", "*"],
    "The package": ["package/index", "package/*"],
    "中文": ["zh/README", "zh/*", "zh/summaries/*"],
}
# What formulas need of MathJax: the program, what it loads when a formula asks for it, fonts, and spoken English.
MATHJAX = (
    *("tex-chtml.js", "input/tex/extensions/*", "output/chtml/fonts/woff-v2/*"),
    *("a11y/*", "sre/mathmaps/base.json", "sre/mathmaps/en.json"),
)
LINK = re.compile(r"""(\]\(|\b(?:src|href)=["'])([^)\s"']+)""")


def places():
    """Returns where each page goes: {file in the repository: path below build/book-source/}."""
    pages = {path: path.relative_to(DOCS) for path in sorted(DOCS.rglob("*.md"))}
    if not LIVE.exists():
        del pages[DOCS / "teach_pocket_gpt.md"]
    pages |= {path: path.relative_to(ROOT) for path in tool.find_notebooks()}
    return pages | {GUIDE: Path("package", "index.md")}


def relink(text, path, pages):
    """Returns the Markdown of the page that comes from `path`, with its links to files of the repository rewritten."""
    here = pages[path].parent

    def follow(match):
        opening, link = match.groups()
        name, hash_mark, anchor = link.partition("#")
        target = (path.parent / name).resolve()
        live = target.is_relative_to(DOCS / "live")  # which goes into the site as it is
        if not name or re.match(r"[a-z]+:", link) or not target.exists() or live:
            return match[0]
        if target in pages:
            link = Path(os.path.relpath(pages[target], here)).as_posix() + hash_mark + anchor
        elif target.suffix == ".svg":
            link = Path(os.path.relpath(tool.relative(target), here)).as_posix()
        else:
            link = f"{tool.REPOSITORY}/{tool.relative(target)}{hash_mark}{anchor}"
        return opening + link

    return LINK.sub(follow, text)


def notebook_page(path, pages):
    """Returns the text of a notebook's page: as it was saved, less what is there for a run and for tests alone."""
    notebook, up = tool.read(path), "../" * len(pages[path].parent.parts)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = relink(tool.BADGES.sub("", cell.source), path, pages)
            continue
        cell.source = cell.source.removeprefix(f"{tool.CHECKED}\n")
        texts = [output.data["text/plain"] for output in cell.outputs if "image/png" in output.get("data", {})]
        if texts:  # the alternative text, which plots.show puts beside each figure
            cell.metadata["mystnb"] = {"image": {"alt": texts[0].removeprefix("Figure: ")}}
        for output in cell.outputs:
            is_explorer = output.get("data", {}).get("text/plain") == tool.WIDGET_TEXT
            if is_explorer and (explorers.folder_of(path) / explorers.DRAWN).exists():
                output.data = {"text/html": explorers.to_html(path, f"{up}_static/explorers/{path.stem}")}
    notebook.cells = [cell for cell in notebook.cells if tool.INSTALL_TAG not in cell.metadata.get("tags", [])]
    return tool.to_text(notebook)


def notebook_list():
    """Returns the notebooks with their titles, and what the README's table says of each."""
    table = tool.TABLE.search((ROOT / "README.md").read_text(encoding="utf-8"))[2]
    said = {row["linked"]: row["what"] for line in table.splitlines() if (row := tool.ROW.match(line))}
    lines = []
    for path in tool.find_notebooks():
        title = re.search(r"^# (.+)$", "\n".join(cell.source for cell in tool.read(path).cells), re.MULTILINE)[1]
        name = path.relative_to(ROOT / "notebooks").with_suffix("").as_posix()
        lines.append(f"[{title}]({tool.relative(path)})\n: {said[name]}\n")
    return "\n".join(lines)


def room_page(room):
    """Returns the page of one room of the package: what its docstring says, then each module's public functions."""
    folder = ROOT / "iclnb" / room
    modules = [path.stem for path in sorted(folder.glob("*.py")) if path.stem != "__init__"]
    lines = [f"# iclnb.{room}", "", ast.get_docstring(ast.parse((folder / "__init__.py").read_text("utf-8"))), ""]
    for name in modules:
        full = f"iclnb.{room}.{name}"
        lines += [f"## {name}", "", "```{eval-rst}", f".. automodule:: {full}", "   :members:", "```", ""]
    return "\n".join(lines)


def contents(places):
    """Returns the table of contents, which takes each place once, where a pattern of PARTS first meets it."""
    left, trees = [place.with_suffix("") for place in places if place != Path("index.md")], []
    for caption, patterns in PARTS.items():
        entries = []
        for pattern in patterns:
            depth = pattern.count("/") + 1
            entries += (met := [name for name in left if name.match(pattern) and len(name.parts) == depth])
            left = [name for name in left if name not in met]
        if entries:
            lines = ["```{toctree}", ":hidden:", f":caption: {caption}", "", *map(Path.as_posix, entries), "```"]
            trees.append("\n".join(lines))
    return "\n\n".join(trees)


def gather():
    """Puts all that Sphinx reads into build/book-source/, and takes out what is no longer of the book."""
    pages, texts, files = places(), {}, {}
    for path, place in pages.items():
        if path.suffix == ".ipynb":
            texts[place] = notebook_page(path, pages)
        else:
            texts[place] = relink(path.read_text(encoding="utf-8"), path, pages)
    texts |= {pages[GUIDE].with_name(f"{room}.md"): room_page(room) for room in ROOMS}
    index = Path("index.md")
    texts[index] = texts[index].replace("<!-- notebooks -->", notebook_list()) + "\n" + contents(texts)
    files |= {Path("conf.py"): DOCS / "conf.py"}
    files |= {path.relative_to(DOCS): path for path in (DOCS / "_static").rglob("*") if path.is_file()}
    files |= {path.relative_to(ROOT): path for path in (ROOT / "notebooks").rglob("*.svg")}
    mathjax = Path(str(importlib.resources.files("sphinx-mathjax-offline"))) / "static" / "mathjax"
    found = [path for pattern in MATHJAX for path in mathjax.glob(pattern)]
    files |= {Path("_static", "mathjax", path.relative_to(mathjax)): path for path in found}
    drawn = tool.BUILD / "explorers"
    files |= {Path("_static", "explorers", path.relative_to(drawn)): path for path in drawn.glob("*/*.webp")}
    files |= {Path("extra", place): path for place, path in extra_files().items()}
    for place, text in texts.items():
        tool.write(text, SOURCE / place)
    for place, path in files.items():
        copy(path, SOURCE / place)
    for path in [path for path in SOURCE.rglob("*") if path.is_file()]:
        if path.relative_to(SOURCE) not in texts.keys() | files.keys():
            path.unlink()


def extra_files():
    """Returns what goes into the site as it is: {path in the site: file}."""
    kept = [path for path in DOCS.rglob("*") if path.is_file() and path.suffix not in (".md", ".py")]
    found = {path.relative_to(DOCS): path for path in kept if not {"_static", "live"} & set(path.parts)}
    return found | {Path("live", path.relative_to(LIVE)): path for path in LIVE.rglob("*") if path.is_file()}


def copy(path, to):
    """Copies a file where the copy is another or an older one."""
    if not to.exists() or to.stat().st_mtime_ns != path.stat().st_mtime_ns or to.stat().st_size != path.stat().st_size:
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, to)


def build():
    """Has Sphinx make the site, all of it, from what it has read before and what is new; returns its exit status."""
    shutil.rmtree(SITE, ignore_errors=True)
    (SOURCE / "extra").mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-j", "auto"]
    command += ["-d", str(tool.BUILD / "book-doctrees"), str(SOURCE), str(SITE)]
    status = subprocess.run(command, env=os.environ | {"ICLNB_ROOT": str(ROOT)}).returncode
    for path in [*SITE.rglob("*.map"), *SITE.rglob("locales/*/*/*")]:  # for who debugs the theme, or translates it
        path.unlink()
    return status


def main():
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    gather()
    if status := build():
        return status
    size = sum(path.stat().st_size for path in SITE.rglob("*") if path.is_file())
    print(f"The book is in build/book/, {size / 1e6:.1f} MB; open build/book/index.html.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
