"""Regression in context: the pairs of a prompt are points of one function, and the next prompt has another."""

from pen import Picture

ALT = (
    "Two prompts as points in a plane, with pairs on a line and a query at a new x. Each prompt has its own line, so "
    "the answer has to be found in its pairs."
)
XS = (0.2, 0.38, 0.86)  # of the pairs, from the left to the right end of the axis
QUERY = 0.63


def plane(picture: Picture, left: float, title: str, heights: tuple[float, float]) -> None:
    """Axes of 260 by 160 with a line between two heights, three points on it, and a query."""

    def at(share: float) -> tuple[float, float]:
        return left + 260 * share, 210 - 160 * (heights[0] + (heights[1] - heights[0]) * share)

    picture.arrow(left, 210, left + 282, 210, "grey", width=1.4)
    picture.arrow(left, 210, left, 40, "grey", width=1.4)
    picture.text(left + 292, 215, "x", "grey", italic=True)
    picture.text(left - 14, 46, "y", "grey", italic=True)
    side = "end" if heights[1] > heights[0] else "start"  # of a point, away from the line
    for start, end in ((0.02, QUERY - 0.05), (QUERY + 0.05, 1)):
        picture.curve([at(start), at(end)], "ink", dashed=True)
    for i, share in enumerate(XS, 1):
        x, y = at(share)
        picture.circle(x, y, 6, colour="ICL", filled=True)
        picture.text(x + (8 if side == "start" else -4), y - 12, f"(x_{i}, y_{i})", "ICL", 13, side)
    x, y = at(QUERY)
    picture.arrow(x, 208, x, y + 15, "ZSL", dashed=True, head=False)
    picture.circle(x, y, 12, "?", "ZSL", filled=True, size=15)
    picture.text(x, 230, "x_{query}", "ZSL", 13)
    picture.text(left + 130, 258, title, size=14)


def draw() -> Picture:
    picture = Picture(720, 275, ALT)
    plane(picture, 50, "prompt 1: its own w", (0.12, 0.86))
    plane(picture, 400, "prompt 2: another w", (0.84, 0.2))
    return picture
