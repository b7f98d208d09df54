"""Figures: what is saved of them, and that they show the numbers they were given. Explorers: that controls redraw.

The coloured prompt: its numbers are in the text as well, and its HTML is safe and legible.
"""

import base64
import io
import re
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest
import scipy.stats
import torch
from matplotlib import pyplot as plt
from PIL import Image

from iclnb.intervals import Estimate
from iclnb.teaching import plots, widgets


@pytest.fixture(autouse=True)
def style():
    with plt.rc_context():
        plots.use_style()
        yield
    assert not plt.get_fignums(), "a figure was left open"


def a_figure(height=1.0):
    fig, ax = plt.subplots()
    ax.plot([0, height])
    return fig


def test_show_displays_a_png_with_its_text_and_closes_the_figure(monkeypatch):
    shown = []
    monkeypatch.setattr(plots, "display", lambda data, raw: shown.append((data, raw)))
    plots.show(a_figure(), "A line that rises.")
    [(data, raw)] = shown
    assert raw and data["text/plain"] == "Figure: A line that rises."
    image = Image.open(io.BytesIO(base64.b64decode(data["image/png"])))
    assert image.width == pytest.approx(plots.WIDTH * 110, abs=2)


def test_show_wants_a_text():
    fig = a_figure()
    with pytest.raises(ValueError, match="alt is empty"):
        plots.show(fig, " ")
    plt.close(fig)


def test_the_same_figure_gives_the_same_bytes_and_no_trace_of_its_maker():
    first, second = plots.to_png(a_figure()), plots.to_png(a_figure())
    assert first == second != plots.to_png(a_figure(2.0))
    assert b"atplotlib" not in first and b"tEXt" not in first


def test_the_users_own_settings_decide_nothing():
    plain = plots.to_png(a_figure())
    plt.rcParams.update({"font.size": 30, "lines.linewidth": 9, "savefig.dpi": 30, "font.sans-serif": ["Arial"]})
    plt.rcParams.update({"lines.marker": "o", "figure.facecolor": "red", "axes.grid": True})
    assert plots.to_png(a_figure()) != plain
    plots.use_style()
    assert plots.to_png(a_figure()) == plain


def test_figures_are_drawn_in_the_page_whatever_the_users_backend_is(monkeypatch):
    asked = []
    kernel = SimpleNamespace(kernel=None, run_line_magic=lambda *magic: asked.append(magic))
    monkeypatch.setattr(plots, "get_ipython", lambda: kernel)
    plots.use_style()
    assert asked == [("matplotlib", "inline")]


def test_colours_of_the_roles_differ():
    assert len(set(plots.COLOURS.values())) == len(plots.COLOURS)


def test_heatmap_writes_every_number_and_is_white_at_zero():
    fig, ax = plt.subplots()
    plots.heatmap(ax, torch.tensor([[0.0, -2.0, 1.0]]), "column", "row", "a matrix")
    assert [text.get_text() for text in ax.texts] == ["0.00", "-2.00", "1.00"]
    colours = ax.collections[0].to_rgba(torch.tensor([-2.0, 0.0, 2.0]).numpy())
    assert (colours[1, :3] > 0.95).all() and colours[2, 0] > colours[2, 2] and colours[0, 2] > colours[0, 0]
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_title(loc="left")) == ("column", "row", "a matrix")
    plt.close(fig)


def test_heatmap_of_shares_has_one_colour():
    fig, ax = plt.subplots()
    plots.heatmap(ax, torch.tensor([[0.0, 0.5, 1.0]]), "column", "row", limit=1, signed=False)
    red, _, blue = ax.collections[0].to_rgba(torch.tensor([0.0, 0.5, 1.0]).numpy())[:, :3].T
    assert red[0] > 0.95 and (red[:-1] > red[1:]).all() and (blue >= red).all()
    plt.close(fig)


def test_estimates_stand_at_their_numbers_beside_each_other():
    series = {"ICL": [Estimate(2, 1, 4), Estimate(6, 5, 7)], "other": [Estimate(3, 0, 3.5), Estimate(1, 1, 1)]}
    fig = plots.estimates(["a", "b"], series, "accuracy, %", dashed=[2.5, 0.5])
    (ax,) = fig.axes
    for entries, bars, line in zip(series.values(), ax.collections, ax.lines[:2], strict=True):
        ends = [tuple(segment[:, 1]) for segment in bars.get_segments()]
        assert ends == [(entry.low, entry.high) for entry in entries]
        assert list(line.get_ydata()) == [entry.mean for entry in entries]
        assert [segment[0, 0] for segment in bars.get_segments()] == list(line.get_xdata())
    assert set(ax.lines[0].get_xdata()).isdisjoint(ax.lines[1].get_xdata())
    assert ax.lines[0].get_color() == plots.COLOURS["ICL"]
    assert [list(line.get_ydata()) for line in ax.lines[2:]] == [[2.5, 2.5], [0.5, 0.5]]
    assert [text.get_text() for text in fig.legends[0].get_texts()] == ["ICL", "other"]
    plt.close(fig)


@pytest.mark.parametrize("draws", [3, 400])
def test_mean_line_draws_the_mean_in_students_interval(draws):
    samples = torch.randn(3, draws, dtype=torch.float64) + torch.tensor([[0.0], [1.0], [2.0]], dtype=torch.float64)
    fig, ax = plt.subplots()
    plots.mean_line(ax, torch.arange(3), samples, "mean")
    torch.testing.assert_close(torch.as_tensor(ax.lines[0].get_ydata()), samples.mean(1))
    edges = torch.as_tensor(ax.collections[0].get_paths()[0].vertices)
    at_one = edges[edges[:, 0] == 1, 1]
    expected = scipy.stats.ttest_1samp(samples[1], 0).confidence_interval()
    assert (at_one.min().item(), at_one.max().item()) == pytest.approx((expected.low, expected.high))
    plt.close(fig)


def draw(height=1.0, order="up"):
    if height > 2:
        raise RuntimeError("too <high>")
    return a_figure(height if order == "up" else -height), f"height {height}, {order}"


def drawn(height):
    """The figure as an explorer draws it: sharp where a screen shows two pixels for one of the page."""
    return plots.to_png(a_figure(height), dpi=220)


def test_an_explorers_figure_is_as_wide_as_the_one_above_it_and_twice_as_fine():
    image, _ = widgets.figure_of(draw, {})
    assert int(image.width) == plots.WIDTH * 110 == Image.open(io.BytesIO(image.value)).width / 2


def test_controls_start_at_the_defaults():
    made = widgets.controls(draw, {"height": [0.5, 1.0, 2.0], "order": ["down", "up"]})
    assert {name: widget.value for name, widget in made.items()} == {"height": 1.0, "order": "up"}


def test_a_moved_control_redraws_and_an_error_is_shown():
    made = widgets.controls(draw, {"height": range(1, 4), "order": ["down", "up"]})
    image, caption = widgets.figure_of(draw, made)
    assert image.value == drawn(1.0) and caption.value == "height 1, up"
    made["order"].value = "down"
    assert image.value == drawn(-1.0) and caption.value == "height 1, down"
    made["height"].value = 3
    assert caption.value == "RuntimeError: too &lt;high&gt;"


@pytest.mark.parametrize(
    "values, complaint",
    [
        ({"depth": [1, 2]}, "explorer got depth; draw takes height, order"),
        ({"height": [2.0, 3.0]}, "height starts at 1.0, which is not one of"),
    ],
)
def test_controls_that_do_not_fit_are_named(values, complaint):
    with pytest.raises(ValueError, match=complaint):
        widgets.explorer(draw, **values)


def test_without_a_kernel_an_explorer_is_one_line(capsys):
    widgets.explorer(draw, height=[1.0, 2.0])
    assert capsys.readouterr().out == widgets.PLAIN + "\n"


def test_show_source_leaves_the_docstring_out(capsys):
    widgets.show_source(widgets.has_kernel)
    assert capsys.readouterr().out == 'def has_kernel() -> bool:\n    return hasattr(get_ipython(), "kernel")\n'


ROWS = [["Sentence", ":", " <b>bold</b>\n&", " good"], ["Sentence", ":", " bad"]]
WEIGHTS = [torch.tensor([0.0, 0.1, 0.2, 0.4]), torch.tensor([0.05, 0.0, 0.0])]


class Reader(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.text = [], ""

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)

    def handle_data(self, data):
        self.text += data


def test_page_and_text_hold_the_same_words_and_shares(monkeypatch):
    shown = []
    monkeypatch.setattr(widgets, "display", lambda data, raw: shown.append(data))
    widgets.show_attention(ROWS, WEIGHTS, "Who looks < where")
    reader, text = Reader(), shown[0]["text/plain"]
    reader.feed(shown[0]["text/html"])
    assert "b" not in reader.tags and "Who looks < where" in reader.text and "caption" in reader.tags
    for part in ("70.0 %", "5.0 %", "Sentence: <b>bold</b> & good", "Sentence: bad"):
        assert part in reader.text and part in text
    assert len(text.splitlines()) == 3


def test_more_attention_is_darker_and_the_largest_has_the_darkest_ground():
    strengths = [float(x) for x in re.findall(r"rgba\([\d,]+,([\d.]+)\)", widgets.to_html(ROWS, WEIGHTS, "x"))]
    assert strengths == [0.0, 0.15, 0.3, widgets.DARKEST, 0.07, 0.0, 0.0] or strengths[4] == 0.08


def test_the_darkest_ground_keeps_its_text_legible():
    def luminance(rgb):
        linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in rgb]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    blue = [int(x) / 255 for x in widgets.BLUE.split(",")]
    ground = luminance([widgets.DARKEST * x + 1 - widgets.DARKEST for x in blue])
    ink = luminance([int(widgets.INK[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    assert (ground + 0.05) / (ink + 0.05) > 7  # WCAG AAA
