"""What a notebook shows beside figures: explorers, a prompt coloured by attention, and the source of a function."""

import ast
import html
import inspect
import textwrap
from collections.abc import Callable, Sequence

import ipywidgets
from IPython import get_ipython
from IPython.display import display
from matplotlib.figure import Figure
from torch import Tensor

from iclnb.teaching import plots

VIEW = "application/vnd.jupyter.widget-view+json"
PLAIN = "Explorer (interactive: run the notebook to move its sliders)"
INK, BLUE = "#111111", "1,115,178"  # the first colour of plots.PALETTE
DENSITY = 2  # pixels of an explorer's figure for one of the page; many screens show two
DARKEST = 0.6  # share of blue at the largest weight; INK on it keeps a contrast of more than 7 : 1


def has_kernel() -> bool:
    """Whether this code runs in a Jupyter kernel, where widgets have somebody to talk to."""
    return hasattr(get_ipython(), "kernel")


def control(name: str, values: Sequence, start) -> ipywidgets.Widget:
    """A slider for numbers, buttons for words.

    Args:
        name: the argument that the control sets.
        values: what it can be set to, in order.
        start: which of them it begins with.

    Returns:
        The widget; its `value` is one of `values`.

    Raises:
        ValueError: `start` is not one of `values`.
    """
    if start not in values:
        raise ValueError(f"{name} starts at {start!r}, which is not one of {list(values)}")
    if isinstance(start, str):
        one_line = {"style": {"button_width": "auto"}, "layout": {"width": "auto"}}
        buttons = ipywidgets.ToggleButtons(options=values, value=start, description=name, **one_line)
        return buttons.add_class("widget-inline-hbox")  # the name before the buttons, as it is before a slider
    options = [(f"{value:g}", value) for value in values]
    redraw_when_let_go = {"continuous_update": False}
    return ipywidgets.SelectionSlider(options=options, value=start, description=name, **redraw_when_let_go)


def controls(draw: Callable, values: dict[str, Sequence]) -> dict[str, ipywidgets.Widget]:
    """The controls for some arguments of a function, each starting at the argument's default.

    Args:
        draw: the function.
        values: for each argument, the values that its control offers.

    Returns:
        The controls by the name of their argument.

    Raises:
        ValueError: an argument that `draw` does not have, or whose default is not among its values.
    """
    parameters = inspect.signature(draw).parameters
    if unknown := values.keys() - parameters.keys():
        raise ValueError(f"explorer got {', '.join(sorted(unknown))}; {draw.__name__} takes {', '.join(parameters)}")
    return {name: control(name, options, parameters[name].default) for name, options in values.items()}


def explorer(draw: Callable[..., tuple[Figure, str]], **values: Sequence) -> None:
    """Shows a figure under one control for each argument named here, and draws it anew when one is moved.

    Outside a kernel, and in a saved notebook, one line of text stands in its place; so the same figure belongs in the
    cell above, drawn once by `plots.show(*draw())`.

    Args:
        draw: returns a figure and its alternative text; every argument has a default, at which its control starts.
        values: for each argument, the values that its control offers.

    Raises:
        ValueError: as `controls`.
    """
    made = controls(draw, values)
    if not has_kernel():  # a plain script, or a test
        print(PLAIN)
        return
    box = ipywidgets.VBox([*made.values(), *figure_of(draw, made)])
    display({VIEW: {"version_major": 2, "version_minor": 0, "model_id": box.model_id}, "text/plain": PLAIN}, raw=True)


def figure_of(draw: Callable, made: dict[str, ipywidgets.Widget]) -> tuple[ipywidgets.Image, ipywidgets.HTML]:
    """The figure that belongs to some controls, as an image and a caption that follow them.

    An Output widget would be shorter, but it makes nbclient talk back to the kernel in the middle of a cell, which now
    and then ends in waiting for ever (jupyter/nbclient, issue 312).

    Args:
        draw: returns a figure and its alternative text.
        made: controls by the argument that they set.

    Returns:
        The image, and the alternative text under it.
    """
    own_size = {"max_width": "100%", "align_self": "flex-start"}  # a box would stretch it
    image, caption = ipywidgets.Image(format="png", layout=own_size), ipywidgets.HTML()

    def redraw(*_) -> None:
        try:
            fig, alt = draw(**{name: widget.value for name, widget in made.items()})
            image.width = str(round(fig.get_figwidth() * fig.dpi))
            image.value, caption.value = plots.to_png(fig, dpi=DENSITY * fig.dpi), html.escape(alt)
        except Exception as error:  # nobody reads the log of a callback; the page shows it
            caption.value = html.escape(f"{type(error).__name__}: {error}")

    for widget in made.values():
        widget.observe(redraw, names="value")
    redraw()
    return image, caption


def show_source(function: Callable) -> None:
    """Prints the source of a function without its docstring.

    Args:
        function: a function or class of iclnb.
    """
    source = textwrap.dedent(inspect.getsource(function))
    lines, first = source.splitlines(), ast.parse(source).body[0].body[0]
    if ast.get_docstring(ast.parse(source).body[0]) is not None:
        del lines[first.lineno - 1 : first.end_lineno]
    print("\n".join(lines))


def show_attention(rows: Sequence[Sequence[str]], weights: Sequence[Tensor], caption: str) -> None:
    """Displays pieces of a prompt, one a row, with the share of attention in per cent before each.

    The HTML page colours each token by its own weight; the plain text beside it holds the same shares.

    Args:
        rows: the tokens of each piece.
        weights: for each piece, the attention on its tokens, (tokens,) in [0, 1].
        caption: what is shown, in one sentence.
    """
    rows = [[" ".join(token.split("\n")) for token in tokens] for tokens in rows]  # a line break would tear a row apart
    display({"text/html": to_html(rows, weights, caption), "text/plain": to_text(rows, weights, caption)}, raw=True)


def to_text(rows: Sequence[Sequence[str]], weights: Sequence[Tensor], caption: str) -> str:
    """The caption, then a line for each piece: its share of attention, and its text."""
    pieces = zip(rows, weights, strict=True)
    return "\n".join([caption, *(f"{100 * w.sum().item():5.1f} %  {''.join(tokens).strip()}" for tokens, w in pieces)])


def to_html(rows: Sequence[Sequence[str]], weights: Sequence[Tensor], caption: str) -> str:
    """A table with a row for each piece: its share of attention, and its text, bluer under tokens of more weight."""
    largest = max(w.max().item() for w in weights)
    cells = ""
    for tokens, w in zip(rows, weights, strict=True):
        coloured = "".join(
            f'<span style="background:rgba({BLUE},{DARKEST * strength:.2f})">{html.escape(token)}</span>'
            for token, strength in zip(tokens, (w / largest).tolist(), strict=True)
        )
        cells += f'<tr style="background:white"><td style="text-align:right;color:{INK};white-space:nowrap">'
        cells += f'{100 * w.sum().item():.1f} %</td><td style="text-align:left;color:{INK}">{coloured}</td></tr>'
    head = '<tr><th scope="col">attention</th><th scope="col" style="text-align:left">text</th></tr>'
    return f"<table><caption>{html.escape(caption)}</caption><thead>{head}</thead><tbody>{cells}</tbody></table>"
