"""Link each word of the glossary where a notebook first uses it.

    python tools/terms.py              link them, in all notebooks or in those that are named
    python tools/terms.py --check      change nothing, and fail where a link is missing, stale or too many

docs/glossary.md has a heading for each word and, in a comment below it, the forms that it takes in a text; a plural in
-s need not be listed, and a form in *asterisks* counts where it is emphasised. A first use is one in running text: not
in a heading, a table, code, a formula, another link, or what a reader has to unfold. Twice does what once does.
"""

import json
import os
import re
import sys
from pathlib import Path

import notebooks as tool

GLOSSARY = tool.ROOT / "docs" / "glossary.md"
ENTRY = re.compile(r"^### (?P<word>.+)\n<!-- forms: (?P<forms>.+) -->$", re.MULTILINE)
LINK = re.compile(r"\[([^\[\]]+)\]\((?:\.\./)+docs/glossary\.md#[^)]*\)")
CLOSED = re.compile(
    r"""<details>.*?</details> | <!--.*?--> | ```.*?``` | `[^`]*` | \$\$.*?\$\$ | \$[^$\n]*\$
    | ^\#+\ .*?$ | ^\|.*?$                                                    # headings, rows of a table
    | !?\[(?:[^\[\]] | \[[^\[\]]*\]\([^)]*\))*\]\([^)]*\) | <[^>\n]*>            # links, also around an image; tags""",
    re.DOTALL | re.MULTILINE | re.VERBOSE,
)


def slug(heading):
    """The anchor that GitHub, JupyterLab and MyST make of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def pattern(form):
    """What finds a form, from the start of a word: with a capital too, and in the plural."""
    bare = form.strip("*")
    first = f"[{bare[0]}{bare[0].upper()}]" if bare[0].islower() else re.escape(bare[0])
    found = rf"{first}{re.escape(bare[1:])}s?(?![\w-])"
    stars = re.escape("*" * ((len(form) - len(bare)) // 2))
    return rf"(?<={stars}){found}(?={stars})" if stars else found


def read_glossary():
    """Returns {anchor: its forms}, in the order of the page."""
    entries = {slug(entry["word"]): entry["forms"].split("; ") for entry in ENTRY.finditer(GLOSSARY.read_text("utf-8"))}
    if not entries:
        raise tool.NotebookFailed("docs/glossary.md has no heading of a word with a comment of its forms below it.")
    return entries


def link_first_uses(texts, entries, target):
    """Returns the Markdown texts of one notebook with each word's first use linked to `target`#anchor, and no other."""
    forms = sorted(((form, anchor) for anchor, all_forms in entries.items() for form in all_forms), key=longest_first)
    any_form = re.compile(rf"(?<![\w-])(?:{'|'.join(f'({pattern(form)})' for form, _ in forms)})")
    anchors, seen, linked = [anchor for _, anchor in forms], set(), []

    def link(match):
        anchor = anchors[match.lastindex - 1]
        if anchor in seen:
            return match[0]
        seen.add(anchor)
        return f"[{match[0]}]({target}#{anchor})"

    for text in texts:
        text, parts, end = LINK.sub(r"\1", text), [], 0
        for closed in CLOSED.finditer(text):
            parts += [any_form.sub(link, text[end : closed.start()]), closed[0]]
            end = closed.end()
        linked.append("".join([*parts, any_form.sub(link, text[end:])]))
    return linked


def longest_first(pair):
    return -len(pair[0].strip("*"))


def stamp(text, path, entries):
    """Returns a notebook's file with its words linked; everything else keeps its bytes."""
    notebook = json.loads(text)
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "markdown"]
    target = Path(os.path.relpath(GLOSSARY, path.parent)).as_posix()
    for cell, source in zip(
        cells, link_first_uses(["".join(cell["source"]) for cell in cells], entries, target), strict=True
    ):
        cell["source"] = source.splitlines(keepends=True)
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    try:
        words = read_glossary()
    except tool.NotebookFailed as failure:
        sys.exit(str(failure))
    sys.exit(tool.stamp_files(lambda text, path: stamp(text, path, words), "terms"))
