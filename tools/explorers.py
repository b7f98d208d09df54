"""Draw the notebooks' explorers at their settings, so that they work in the book, where no kernel runs.

    python tools/explorers.py    draw those that are not drawn yet, as many at once as there are cores

A notebook is run up to its explorer, which then draws one file for each setting instead of showing controls:
build/explorers/NAME/0.webp and so on, the last control changing first, and explorer.json, which says what they show. It
is run again only when its code, the package or the data has changed.
"""

import asyncio
import hashlib
import html
import io
import itertools
import json
import math
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import nbformat

import notebooks as tool

CALL, DRAWN = "widgets.explorer(", "drawn"
MOST = 100  # settings of one explorer, so that its page stays under 3 MB
DPI, COLOURS = 165, 64  # sharp on a screen of a phone; a figure has few colours, and blends between them
# Explorers with more settings than MOST, or slow ones: the values of their controls that the book has.
CHOSEN = {
    "01_attention_is_gradient_descent": {"lr": [0.02, 0.1, 0.2], "N": [4, 8], "epochs": [1, 3, 10], "t": [-1, 1]},
    "a_linear_regression": {"noise": [0.0, 0.5, 1.0], "scale": [0.5, 1.0, 2.0], "subspace": [1, 3, 5]},
    "b_gradient_descent_by_construction": {
        "first": [0.6, 1.0, 2.0],
        "gamma": [0.0, 0.15, 0.3],
        "second": [0.6, 1.1, 2.0, 3.6],
    },
}


def folder_of(path):
    return tool.BUILD / "explorers" / path.stem


# ---------------------------------------------------------------------------------------------------------------------
# In the kernel


def record(folder, name):
    """Has `widgets.explorer` draw what it would show into `folder`; called in the notebook's kernel, first of all."""
    from iclnb.teaching import widgets

    def explorer(draw, **values):
        made = widgets.controls(draw, values)
        chosen = {key: CHOSEN.get(name, {}).get(key, list(all)) for key, all in values.items()}
        count = math.prod(map(len, chosen.values()))
        assert count <= MOST, f"the explorer of {name} has {count} settings; choose some of them in tools/explorers.py"
        assert all(v in list(values[key]) for key in chosen for v in chosen[key]), "a value that no control offers"
        texts = []
        for i, setting in enumerate(itertools.product(*chosen.values())):
            fig, alt = draw(**dict(zip(chosen, setting, strict=True)))
            size = save(fig, Path(folder, f"{i}.webp"))
            texts.append(alt)
        controls = {key: {"values": chosen[key], "start": chosen[key].index(made[key].value)} for key in chosen}
        whole = math.prod(len(list(all)) for all in values.values())
        found = {"controls": controls, "texts": texts, "size": size, "of": whole}
        Path(folder, "explorer.json").write_text(json.dumps(found), encoding="utf-8")

    widgets.explorer = explorer


def save(fig, path):
    """Writes a figure as a small file and closes it; returns its width and height on the page, in pixels."""
    from PIL import Image

    from iclnb.teaching import plots

    size = [round(inches * 100) for inches in fig.get_size_inches()]
    image = Image.open(io.BytesIO(plots.to_png(fig, dpi=DPI))).convert("RGB")
    image.quantize(COLOURS, dither=Image.Dither.NONE).convert("RGB").save(path, lossless=True, method=4)
    return size


# ---------------------------------------------------------------------------------------------------------------------
# Outside of it


def shortened(path):
    """Returns the notebook up to its explorer, with `record` before everything; None where it has no explorer."""
    notebook = tool.read(path)
    calls = [i for i, cell in enumerate(notebook.cells) if cell.cell_type == "code" and CALL in cell.source]
    if not calls:
        return None
    notebook.cells = notebook.cells[: calls[0] + 1]
    start = f"import sys\n\nsys.path.insert(0, {str(Path(__file__).parent)!r})\nimport explorers\n\n"
    start += f"explorers.record({str(folder_of(path))!r}, {path.stem!r})"
    notebook.cells.insert(0, nbformat.v4.new_code_cell(start))
    return notebook


def digest(notebook):
    """Returns a name for all that the figures of a notebook depend on."""
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    read = [*code, Path(__file__).read_text(encoding="utf-8"), tool.digest("iclnb", "data")]
    return hashlib.sha256("".join(read).encode()).hexdigest()


def draw(paths, at_once):
    """Draws the explorers of the notebooks at `paths` that are not drawn yet; raises NotebookFailed."""
    notebooks = {path: notebook for path in paths if (notebook := shortened(path)) is not None}
    names = {path: digest(notebook) for path, notebook in notebooks.items()}
    waiting = [path for path in notebooks if not is_drawn(path, names[path])]

    async def work(path):
        begin, folder = time.perf_counter(), folder_of(path)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        await tool.execute(path, notebooks[path], seconds=3600)  # hundreds of figures, on a busy machine
        (folder / DRAWN).write_text(names[path], encoding="utf-8")
        return time.perf_counter() - begin

    def report(path, seconds):
        print(f"{tool.relative(path)}: the explorer drawn in {seconds:.0f} s", flush=True)

    with tempfile.TemporaryDirectory() as place:
        tool.use_embedded_tier(place, 1)
        asyncio.run(tool.each(work, waiting, at_once, report))


def is_drawn(path, name):
    mark = folder_of(path) / DRAWN
    return mark.exists() and mark.read_text(encoding="utf-8") == name


# ---------------------------------------------------------------------------------------------------------------------
# On the page


def to_html(path, figures):
    """Returns the explorer of the notebook at `path` as it stands in its page; `figures` is where its figures lie."""
    found = json.loads((folder_of(path) / "explorer.json").read_text(encoding="utf-8"))
    start, (width, height) = 0, found["size"]
    for control in found["controls"].values():
        start = start * len(control["values"]) + control["start"]
    text = html.escape(found["texts"][start])
    note, count = "", len(found["texts"])
    if count < found["of"]:
        note = f"<p>{count} of {found['of']:,} settings; a running notebook has them all.</p>"
    texts = json.dumps(found["texts"]).replace("<", "\\u003c")
    controls = "".join(control_html(name, **control) for name, control in found["controls"].items())
    return (
        f'<div class="explorer" role="group" aria-label="Explorer" data-figures="{figures}/">{controls}'
        f'<img src="{figures}/{start}.webp" alt="{text}" width="{width}" height="{height}">'
        f'<p aria-live="polite">{text}</p>{note}<script type="application/json">{texts}</script></div>'
    )


def control_html(name, values, start):
    """Returns a slider for numbers, buttons for words, as `widgets.control` has them."""
    if isinstance(values[start], str):
        buttons = ""
        for i, value in enumerate(values):
            checked = " checked" if i == start else ""
            buttons += f'<label><input type="radio" name="{name}" value="{i}"{checked}> {html.escape(value)}</label>'
        return f'<fieldset data-count="{len(values)}"><legend>{name}</legend>{buttons}</fieldset>'
    shown = [f"{value:g}" for value in values]
    slider = f'<input type="range" min="0" max="{len(values) - 1}" value="{start}" aria-valuetext="{shown[start]}">'
    words = html.escape(json.dumps(shown))
    return (
        f'<label data-count="{len(values)}" data-values="{words}"><span>{name}</span>{slider}'
        f"<output>{shown[start]}</output></label>"
    )


def main():
    try:
        draw(tool.find_notebooks(), os.cpu_count() or 1)
    except tool.NotebookFailed as failure:
        print(f"\n{failure}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
