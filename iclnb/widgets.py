"""What a notebook shows beside figures: explorers, a figure under sliders; and the source of a function."""

import ast
import html
import inspect
import textwrap
from collections.abc import Callable, Sequence

import ipywidgets
from IPython import get_ipython
from IPython.display import display
from matplotlib.figure import Figure

from iclnb import plots

VIEW = "application/vnd.jupyter.widget-view+json"
PLAIN = "Explorer (interactive: run the notebook to move its sliders)"


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
        return ipywidgets.ToggleButtons(options=values, value=start, description=name, **one_line)
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
    image, caption = ipywidgets.Image(format="png", layout={"max_width": "100%"}), ipywidgets.HTML()

    def redraw(*_) -> None:
        try:
            fig, alt = draw(**{name: widget.value for name, widget in made.items()})
            image.value, caption.value = plots.to_png(fig), html.escape(alt)
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
