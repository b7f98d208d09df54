"""Why SimAOU's chance is not 0: both updates subtract the same state."""

import math

from pen import Picture

ALT = (
    "Unit vectors from one centre: h_ZSL, h_ICL, and a random state in the place of h_FT. The two updates, dashed, "
    "both begin at the tip of h_ZSL and lead away from it: the angle between them is less than a right one, and the "
    "cosine of a random state is not 0 on average."
)


def draw() -> Picture:
    picture = Picture(720, 300, ALT)
    x, y, radius = 300, 160, 120

    def tip(degrees: float) -> tuple[float, float]:
        return x + radius * math.cos(math.radians(degrees)), y - radius * math.sin(math.radians(degrees))

    zsl, icl, chance = tip(180), tip(75), tip(-70)
    picture.circle(x, y, radius, colour="grey")
    for end, colour in ((zsl, "ZSL"), (icl, "ICL"), (chance, "control")):
        picture.arrow(x, y, *end, colour)
    picture.arrow(*zsl, *icl, "ICL", dashed=True)
    picture.arrow(*zsl, *chance, "control", dashed=True)
    picture.text(zsl[0] - 12, zsl[1] + 5, "h_{ZSL}", "ZSL", 16, "end")
    picture.text(icl[0] + 10, icl[1] - 8, "h_{ICL}", "ICL", 16, "start")
    picture.text(chance[0] + 10, chance[1] + 18, "a random state", "control", 15, "start")
    picture.text(175, 62, "h_{ICL} − h_{ZSL}", "ICL", 14, "end")
    picture.text(175, 266, "random − h_{ZSL}", "control", 14, "end")
    arc = [
        (zsl[0] + 42 * math.cos(math.radians(a)), zsl[1] - 42 * math.sin(math.radians(a))) for a in range(-55, 54, 4)
    ]
    picture.curve(arc, "ink")
    picture.text(590, 130, "the angle at the tip of h_{ZSL}", "ink", 14)
    picture.text(590, 154, "is what SimAOU measures;", "ink", 14)
    picture.text(590, 178, "its cosine is above 0", "ink", 14, bold=True)
    picture.text(590, 202, "for a random state, on average", "ink", 14)
    return picture
