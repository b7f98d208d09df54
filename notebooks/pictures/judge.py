"""The judge's rule: a gap, its interval, no gap at all, and what it would be if ICL were FT."""

from pen import Picture

ALT = (
    "Four gaps with their intervals on one axis. It has a line at 0, where the control is as like ICL as fine-tuning, "
    "and a line at the ceiling, where ICL would be fine-tuning exactly. An interval right of 0 is for the prediction, "
    "one left of 0 against it, one across 0 is undecided; where the ceiling itself is near 0, the test has no power."
)


def draw() -> Picture:
    picture = Picture(760, 270, ALT)
    zero, ceiling = 260, 520
    picture.arrow(60, 225, 690, 225, "grey")
    for x, words in ((zero, "0: no gap"), (ceiling, "ceiling: ICL is FT")):
        picture.arrow(x, 225, x, 25, "grey", dashed=True, head=False)
        picture.text(x, 248, words, "ink", 14)
    rows = ((55, 320, 470, "for"), (100, 75, 175, "against"), (145, 190, 350, "undecided"))
    for y, low, high, word in rows:
        picture.arrow(low, y, high, y, "ICL", width=3, head=False)
        picture.circle((low + high) / 2, y, 5, colour="ICL", filled=True)
        picture.text(high + 12, y + 5, word, "ink", 14, "start", bold=True)
    picture.arrow(215, 190, 300, 190, "ICL", width=3, head=False)
    picture.circle(258, 190, 5, colour="ICL", filled=True)
    picture.arrow(282, 178, 282, 202, "control", width=3, head=False)
    picture.text(312, 195, "no power", "ink", 14, "start", bold=True)
    picture.text(532, 195, "(its ceiling, green, is too low)", "ink", 13, "start")
    return picture
