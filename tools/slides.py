"""Build the slides of the course into build/slides, from cells of the notebooks and the pages of the sessions.

    python tools/slides.py FOLDER        FOLDER is npm's, with reveal.js and mathjax, which are copied beside the slides

docs/course/slides.toml says which cells a slide shows and which speak in its notes. Aim, plan, discussion and homework
come from docs/course/session-N.md. The pages need no network: press S for the speaker's notes.
"""

import functools
import re
import shutil
import sys
import tomllib
from pathlib import Path

import nbformat
from nbconvert import SlidesExporter

import notebooks as tool

COURSE, BUILD = tool.ROOT / "docs" / "course", tool.BUILD / "slides"
TABLE = COURSE / "slides.toml"
COPIED = {
    "reveal.js/dist": "reveal/dist",
    "reveal.js/plugin/notes": "reveal/plugin/notes",
    "mathjax/es5/tex-svg.js": "mathjax/tex-svg.js",
}
LINK = re.compile(r"(?<!!)\[([^\[\]]+)\]\([^)]*\)")
PICTURE = re.compile(r"(!\[[^\]]*\]\()[./]*pictures/")
PARTS = {
    "picture": re.compile(r"^!\[.*?\]\(.*?\)", re.MULTILINE | re.DOTALL),
    "formula": re.compile(r"^\$\$.*?\$\$", re.MULTILINE | re.DOTALL),
    "table": re.compile(r"(?:^\|.*\n?)+", re.MULTILINE),
    "list": re.compile(r"(?:^- .*\n?(?:^  .*\n?)*)+", re.MULTILINE),
    "first": re.compile(r"(?:^(?![#\n]).+\n?)+", re.MULTILINE),
}
HEADING = re.compile(r"^#+ (?:\d+\. )?(.+)$", re.MULTILINE)
TEMPLATE = """\
{%- extends 'index.html.j2' -%}
{%- block html_head_js -%}{%- endblock html_head_js -%}
{%- block html_head_js_mathjax -%}
<script>MathJax = {tex: {inlineMath: [["$", "$"]]}, options: {enableMenu: false}}</script>
<script src="mathjax/tex-svg.js" async></script>
{%- endblock html_head_js_mathjax -%}
{%- block html_head_css -%}
<style>
:root {--jp-content-font-size1: 21px; --jp-ui-font-size1: 21px; --jp-code-font-size: 16px}
.reveal .slides section {text-align: left; padding: 0 12px; box-sizing: border-box}
.reveal .slides h2 {font-size: 34px; text-transform: none; margin: 0 0 .5em; border-bottom: 1px solid #ccc}
.reveal .slides h2 small {display: block; font-size: 16px; color: #595959; font-weight: normal}
.reveal .slides img {max-width: 100%; max-height: 520px; margin: 0 auto; display: block}
.reveal .slides .jp-RenderedImage img {max-height: 620px}
.reveal .slides .jp-RenderedMarkdown img {width: 92%}
.reveal table {font-size: 19px; margin: .4em 0}
.reveal pre {width: 100%; box-shadow: none; margin: 0; white-space: pre-wrap; word-break: normal; line-height: 1.35}
.reveal .slides blockquote {font-size: 30px; border: 0; width: 100%; box-shadow: none; font-style: normal}
.reveal .jp-Cell {padding: 2px 0}
</style>
{%- endblock html_head_css -%}
{%- block data_png scoped -%}
<div class="jp-RenderedImage jp-OutputArea-output">
<img src="data:image/png;base64,{{ output.data["image/png"] }}" alt="{{ output.data["text/plain"] | escape_html }}">
</div>
{%- endblock data_png -%}
{%- block footer_js -%}
<script src="reveal/dist/reveal.js"></script>
<script src="reveal/plugin/notes/notes.js"></script>
<script>
Reveal.initialize({hash: true, slideNumber: true, width: 1100, height: 760, margin: 0.03, center: false,
                   transition: "none", plugins: [RevealNotes]});
</script>
{%- endblock footer_js -%}
"""


read = functools.cache(tool.read)


def markdown(text, kind):
    return nbformat.v4.new_markdown_cell(text, metadata={"slideshow": {"slide_type": kind}})


def find(notebook, wanted, name):
    """Returns the number of the cell with this id, or of the first that holds this text."""
    for number, cell in enumerate(notebook.cells):
        if cell.id == wanted or (not wanted.isalnum() and wanted in cell.source and cell.cell_type == "markdown"):
            return number
    raise tool.NotebookFailed(f"docs/course/slides.toml: {name} has no cell with the id or the text {wanted!r}.")


def shown(notebook, selector, name):
    """Returns the cell that a selector shows, or the part of it that the selector names."""
    wanted, _, part = selector.rpartition("|") if "|" in selector else (selector, "", "")
    cell = notebook.cells[find(notebook, wanted, name)]
    if cell.cell_type == "code" and part in ("", "code"):
        source = cell.source.removeprefix(f"{tool.CHECKED}\n")
        metadata = {"slideshow": {"slide_type": "-"}, "transient": {"remove_source": part != "code"}}
        return nbformat.v4.new_code_cell(source, outputs=cell.outputs, metadata=metadata)
    found = PARTS[part].findall(cell.source) if part else [HEADING.sub("", cell.source)]
    if not found or cell.cell_type == "code":
        raise tool.NotebookFailed(f"docs/course/slides.toml: there is no {part} in cell {wanted!r} of {name}.")
    text = "\n\n".join(found[:1] if part == "first" else found)
    return markdown(PICTURE.sub(r"\1pictures/", LINK.sub(r"\1", text)), "-")


def from_notebook(slide):
    """Yields the cells of one slide: heading, what is shown, and notes."""
    name = slide["notebook"]
    notebook = read(tool.ROOT / "notebooks" / f"{name}.ipynb")
    last = find(notebook, slide["show"][0].rpartition("|")[0] or slide["show"][0], name)
    headings = [
        title
        for cell in notebook.cells[: last + 1]
        for title in HEADING.findall(cell.source * (cell.cell_type == "markdown"))
    ]
    yield markdown(f"## {headings[-1]} <small>{headings[0]}, notebook {name}</small>", "slide")
    yield from (shown(notebook, selector, name) for selector in slide["show"])
    said = [notebook.cells[find(notebook, wanted, name)].source.partition("<details>")[0] for wanted in slide["notes"]]
    yield markdown("\n\n".join(LINK.sub(r"\1", PARTS["picture"].sub("", text)) for text in said), "notes")


def section(page, title):
    return re.search(rf"^## {title}[^\n]*\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)[1].strip()


def deck(name, slides):
    """Returns one notebook with all slides of a session: aim, cells of the notebooks, discussion, homework."""
    page = LINK.sub(r"\1", (COURSE / f"{name}.md").read_text(encoding="utf-8"))
    title, aim = re.match(r"# ([^\n]+)\n\n(.+?)\n\n", page, re.DOTALL).groups()
    cells = [markdown(f"## {title}\n\n{aim}", "slide"), markdown(section(page, "Plan"), "notes")]
    cells += [cell for slide in slides for cell in from_notebook(slide)]
    for question, answer in re.findall(
        r"^\*\*\d+\. (.+?)\*\*\n(.+?)(?=\n\n|\Z)", section(page, "Discussion"), re.MULTILINE | re.DOTALL
    ):
        cells += [markdown(f"## Discuss\n\n> {question}", "slide"), markdown(answer, "notes")]
    cells += [markdown(f"## Homework\n\n{section(page, 'Homework')}", "slide")]
    return nbformat.v4.new_notebook(cells=cells, metadata={"title": title, "kernelspec": tool.KERNELSPEC})


def build(name, slides):
    """Returns the page of a session."""
    exporter = SlidesExporter(raw_template=TEMPLATE, exclude_input_prompt=True, exclude_output_prompt=True)
    exporter.reveal_url_prefix, exporter.reveal_theme = "reveal", "white"
    return exporter.from_notebook_node(deck(name, slides))[0]


def copy(source, target):
    """Copies a file or a folder over what may be there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    else:
        shutil.copy(source, target)


def main(node_modules):
    BUILD.mkdir(parents=True, exist_ok=True)
    for source, target in COPIED.items():
        source, target = Path(node_modules) / source, BUILD / target
        if not source.exists():
            raise tool.NotebookFailed(f"{source} is not there; `make slides` fetches it.")
        copy(source, target)
    copy(tool.ROOT / "notebooks" / "pictures", BUILD / "pictures")
    for name, slides in tomllib.loads(TABLE.read_text(encoding="utf-8")).items():
        tool.write(build(name, slides), BUILD / f"{name}.html")
        print(f"build/slides/{name}.html", flush=True)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main(*sys.argv[1:]))
    except tool.NotebookFailed as failure:
        sys.exit(str(failure))
