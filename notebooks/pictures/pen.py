"""A pen for the pictures of an idea: boxes, arrows and words, in the figures' colours, on a light or a dark page.

A picture is a fixed drawing of an idea, without numbers that would have to be computed. x grows to the right, y down;
lengths are in pixels, and a picture is about 720 wide, as the page is.
"""

import math
import re
from pathlib import Path
from xml.etree import ElementTree

from matplotlib.colors import to_hex

from iclnb.teaching.plots import COLOURS

FONT = "system-ui, 'Segoe UI', Helvetica, Arial, sans-serif"
# One meaning a colour, as in the figures: ICL, FT, ZSL, control; "ink" and "grey" mean nothing.
LIGHT = {name: to_hex(colour) for name, colour in COLOURS.items()} | {"ink": "#222222", "grey": "#888888"}
DARK = LIGHT | {"ink": "#eeeeee", "grey": "#999999", "ICL": "#4aa8e0", "ZSL": "#b5b5b5"}  # lighter, on a dark page
PAGE = {"light": "#ffffff", "dark": "#1c1c1c"}
SUBSCRIPT = re.compile(r"_\{([^}]*)\}|_(\w)")


class Picture:
    """An SVG file in the making.

    Args:
        width, height: in pixels.
        title: what is to be seen, for those who do not see it; the same words as the alternative text.
    """

    def __init__(self, width: int, height: int, title: str):
        self.root = ElementTree.Element("svg", xmlns="http://www.w3.org/2000/svg", role="img")
        self.root.attrib |= {"viewBox": f"0 0 {width} {height}", "width": str(width), "height": str(height)}
        ElementTree.SubElement(self.root, "title").text = title
        ElementTree.SubElement(self.root, "style").text = _style()
        self._add("rect", width=width, height=height, rx=6, **{"class": "page"})

    def box(self, x, y, width, height, words="", colour="ink", filled=False, size=14, dashed=False):
        """A rounded box with its top left corner at (x, y), and words in its middle, one line each; filled or not."""
        kind = f"{'wash' if filled else 'line'} {colour}" + (" dashed" if dashed else "")
        self._add("rect", x=x, y=y, width=width, height=height, rx=4, **{"class": kind})
        lines = words.split("\n") if words else []
        for i, line in enumerate(lines):
            middle = y + height / 2 + (i - (len(lines) - 1) / 2) * 1.25 * size
            self.text(x + width / 2, middle + 0.35 * size, line, size=size)

    def text(self, x, y, words, colour="ink", size=14, anchor="middle", bold=False, italic=False):
        """A line of words, which stands on y; `h_{ICL}` and `W_0` have subscripts. anchor: "start", "middle", "end"."""
        style = {"font-size": size, "text-anchor": anchor, "class": f"word {colour}"}
        style |= {"font-weight": "bold"} if bold else {}
        style |= {"font-style": "italic"} if italic else {}
        element, last = self._add("text", x=x, y=y, **style), None
        element.text, done = "", 0
        for hit in SUBSCRIPT.finditer(words):
            self._append(element, last, words[done : hit.start()])
            last = ElementTree.SubElement(
                element, "tspan", {"dy": _number(0.25 * size), "font-size": f"{0.72 * size:g}"}
            )
            last.text, done = hit[1] or hit[2], hit.end()
            last.tail = ""
            last = ElementTree.SubElement(element, "tspan", {"dy": _number(-0.25 * size)})
            last.text, last.tail = "\u200b", ""  # back on the line
        self._append(element, last, words[done:])

    def arrow(self, x1, y1, x2, y2, colour="ink", bend=0.0, width=1.8, dashed=False, head=True):
        """An arrow from (x1, y1) to (x2, y2); `bend` moves its middle so far to its left, in pixels."""
        length = math.hypot(x2 - x1, y2 - y1)
        across = ((y2 - y1) / length, -(x2 - x1) / length)
        cx, cy = (x1 + x2) / 2 + 2 * bend * across[0], (y1 + y2) / 2 + 2 * bend * across[1]
        path = f"M{_number(x1)},{_number(y1)} Q{_number(cx)},{_number(cy)} {_number(x2)},{_number(y2)}"
        kind = f"line {colour}" + (" dashed" if dashed else "")
        self._add("path", d=path, style=f"stroke-width:{width:g}", **{"class": kind})
        if head:
            turn = math.degrees(math.atan2(y2 - cy, x2 - cx))
            place = f"translate({_number(x2)} {_number(y2)}) rotate({_number(turn)})"
            self._add("path", d="M0,0 L-9,-4 L-9,4 Z", transform=place, **{"class": f"word {colour}"})

    def curve(self, points, colour="ink", width=1.8, dashed=False, closed=False):
        """A line through points (x, y)."""
        kind = f"line {colour}" + (" dashed" if dashed else "")
        places = " ".join(f"{_number(x)},{_number(y)}" for x, y in points)
        self._add(
            "polygon" if closed else "polyline", points=places, style=f"stroke-width:{width:g}", **{"class": kind}
        )

    def circle(self, x, y, radius, words="", colour="ink", filled=False, size=14, dashed=False):
        """A circle around (x, y), with words in its middle."""
        kind = f"{'wash' if filled else 'line'} {colour}" + (" dashed" if dashed else "")
        self._add("circle", cx=x, cy=y, r=radius, **{"class": kind})
        if words:
            self.text(x, y + 0.35 * size, words, size=size)

    def save(self, path: Path) -> None:
        """Write the picture; the same drawing gives the same bytes."""
        self.root.text = "\n"
        for part in self.root:  # a line each, and no space within a line of words
            part.tail = "\n"
        Path(path).write_text(ElementTree.tostring(self.root, encoding="unicode") + "\n", encoding="utf-8")

    def _add(self, tag, **attributes):
        named = {k: v if isinstance(v, str) else _number(v) for k, v in attributes.items()}
        return ElementTree.SubElement(self.root, tag, named)

    @staticmethod
    def _append(element, last, words):
        if last is None:
            element.text += words
        else:
            last.tail += words


def _style() -> str:
    def rules(colours, page):
        yield f".page{{fill:{page}}}"
        for name, colour in colours.items():
            yield f".word.{name},.wash.{name}{{fill:{colour}}}.line.{name},.wash.{name}{{stroke:{colour}}}"

    plain = f"text{{font-family:{FONT}}}.line{{fill:none;stroke-width:1.8}}.wash{{fill-opacity:.18;stroke-width:1.4}}"
    dark = "".join(rules(DARK, PAGE["dark"]))
    return (
        f"{plain}.dashed{{stroke-dasharray:5 4}}{''.join(rules(LIGHT, PAGE['light']))}"
        f"@media (prefers-color-scheme:dark){{{dark}}}"
    )


def _number(value) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if value % 1 else f"{int(value)}"
