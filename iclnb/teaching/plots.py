"""Figures in one style: colour-blind-safe, labelled, each shown with a sentence for those who do not see it."""

import base64
import io
from collections.abc import Sequence

import matplotlib.pyplot as plt
import seaborn as sns
from IPython import get_ipython
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from iclnb.intervals import Estimate, mean

PALETTE = sns.color_palette("colorblind")  # "C0", "C1", ... in every figure
COLOURS = {"ICL": PALETTE[0], "FT": PALETTE[1], "ZSL": PALETTE[7], "control": PALETTE[2]}  # the same in every notebook
DIVERGING = "RdBu_r"  # for numbers with a sign: red is positive, blue is negative, white is zero
SEQUENTIAL = "Blues"  # for numbers without one, such as shares: white is zero
WIDTH = 7.5  # inches; a figure as wide as the page is (WIDTH, its height)


def use_style() -> None:
    """Sets the style of every figure made after this call, whatever the user's matplotlibrc and backend are."""
    shell = get_ipython()
    if hasattr(shell, "kernel"):
        shell.run_line_magic("matplotlib", "inline")
    plt.rcdefaults()
    rc = {
        "figure.figsize": (WIDTH, 3.0),
        "figure.dpi": 110,
        "figure.constrained_layout.use": True,
        "axes.titlesize": 10,
        "axes.labelsize": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlelocation": "left",
        "xtick.labelsize": 9,
        "ytick.labelsize": 9,
        "legend.fontsize": 9,
        "legend.frameon": False,
        "lines.linewidth": 1.8,
        "savefig.facecolor": "white",  # readable on a dark page as well
        "font.sans-serif": ["DejaVu Sans"],  # which matplotlib brings; seaborn would take Arial where there is one
    }
    sns.set_theme(context="notebook", style="ticks", palette=PALETTE, rc=rc)


def to_png(fig: Figure, dpi: float | str = "figure") -> bytes:
    """Draws a figure into a PNG file and closes it.

    The same figure gives the same bytes: nothing in the file says when or by what it was made.

    Args:
        fig: the figure.
        dpi: pixels an inch; the figure's own by default.
    """
    png = io.BytesIO()
    fig.savefig(png, format="png", dpi=dpi, metadata={"Software": None})
    plt.close(fig)
    return png.getvalue()


def show(fig: Figure, alt: str) -> None:
    """Displays a figure with its alternative text, and closes it.

    The output holds the PNG and, as its plain text, "Figure: " and the alternative text.

    Args:
        fig: the figure.
        alt: what is to be seen in it, in a sentence or two; the finding, not only the kind of figure.

    Raises:
        ValueError: no alternative text.
    """
    if not alt.strip():
        raise ValueError("alt is empty; it must say what the figure shows")
    data = {"image/png": base64.b64encode(to_png(fig)).decode(), "text/plain": f"Figure: {alt}"}
    display(data, raw=True)


def heatmap(
    ax: Axes,
    values: Tensor,
    xlabel: str,
    ylabel: str,
    title: str = "",
    limit: float | None = None,
    signed: bool = True,
) -> None:
    """Draws a small matrix as coloured cells with its numbers written in, white at zero.

    Args:
        ax: where to draw.
        values: (rows, columns).
        xlabel, ylabel: what a column and a row is.
        title: what the matrix is.
        limit: the value of the darkest colour; None is the largest absolute value.
        signed: False where no number can be negative, which then has no colour.
    """
    limit = limit or float(values.abs().max())
    sns.heatmap(
        values.numpy(force=True),
        ax=ax,
        annot=True,
        fmt=".2f",
        annot_kws={"fontsize": 8 if values.shape[1] <= 10 else 6},  # two of them must not touch
        cmap=DIVERGING if signed else SEQUENTIAL,
        vmin=-limit if signed else 0,
        vmax=limit,
        cbar=False,
        square=True,
        linewidths=1,
    )
    ax.set(xlabel=xlabel, ylabel=ylabel, title=title)
    ax.tick_params(length=0, labelrotation=0)


def mean_line(ax: Axes, x: Tensor, samples: Tensor, label: str, **style) -> None:
    """Draws the mean of samples over x, in a band that is its 95 % interval over draws.

    Args:
        ax: where to draw.
        x: positions, (n,).
        samples: S independent samples at each position, (n, S).
        label: name of the line in the legend.
        style: colour, marker and the like, for matplotlib's `plot`.
    """
    found = mean(samples)  # (n,) each of mean, low, high
    (line,) = ax.plot(x, found.mean, label=label, **style)
    ax.fill_between(x, found.low, found.high, color=line.get_color(), alpha=0.25, linewidth=0)


def runs(ax: Axes, x: Sequence[float] | Tensor, values: Tensor, label: str, **style) -> None:
    """Draws the mean of a few runs as a line over x, and each run as a dot.

    Args:
        ax: where to draw.
        x: positions, (n,).
        values: a row for each run, (S, n).
        label: name of the line in the legend.
        style: colour and dashes, for matplotlib's `plot`.
    """
    (line,) = ax.plot(x, values.mean(0), label=label, **style)
    ax.plot(x, values.T, "o", markersize=2.5, color=line.get_color())


def estimates(
    groups: Sequence[str],
    series: dict[str, Sequence[Estimate]],
    ylabel: str,
    dashed: Sequence[float] = (),
    draws: dict[str, Sequence[Sequence[float]]] | None = None,
) -> Figure:
    """A figure with the groups along its width, and in each the estimate of every series with its interval.

    Args:
        groups: their names.
        series: for each series, by its name, the estimate of every group; a name in COLOURS has that colour.
        ylabel: what is measured, with its unit.
        dashed: for each group a level to compare with, such as chance; none by default.
        draws: for a series, by its name, the values of single draws in every group, shown as dots.
    """
    fig, ax = plt.subplots(figsize=(WIDTH, 3.2))
    places = range(len(groups))
    for i, (name, found) in enumerate(series.items()):
        x = [place + 0.16 * (i - (len(series) - 1) / 2) for place in places]
        style = {"color": COLOURS.get(name, f"C{i}")}
        for place, values in zip(x, (draws or {}).get(name, ()), strict=False):
            ax.plot([place + 0.05] * len(values), values, ".", markersize=4, alpha=0.6, **style)
        ax.vlines(x, [e.low for e in found], [e.high for e in found], **style)
        ax.plot(x, [e.mean for e in found], "osD^vP"[i % 6], markersize=6, label=name, **style)
    for place, level in zip(places, dashed, strict=False):
        ax.plot([place - 0.38, place + 0.38], [level, level], "--", color="0.4", linewidth=1)
    ax.set(xticks=places, xticklabels=groups, ylabel=ylabel)
    fig.legend(loc="outside upper right", ncols=len(series))
    return fig
