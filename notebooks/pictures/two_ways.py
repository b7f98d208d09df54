"""One function, two ways: the weight that changes, and the attention that reads."""

from pen import Picture

ALT = (
    "Two drawings with an equals sign between them. Left, the weight that changes: training adds the outer products of "
    "e_i and x_i to W_0, which then maps x. Right, the attention that reads: W_0 stays, and the query x also adds each "
    "value e_i, weighted by the inner product of its key x_i with x."
)


def draw() -> Picture:
    picture = Picture(720, 336, ALT)
    picture.text(350, 184, "=", size=30)

    picture.text(165, 28, "the weight that changes", "FT", 16, bold=True)
    for y, name in [(112, "1"), (206, "N")]:  # training examples, folded into the weights
        picture.box(16, y, 80, 30, f"x_{name}, e_{name}", "FT", dashed=True, size=15)
        picture.arrow(98, y + 15, 138, 165 if name == "1" else 183, "FT")
    picture.text(56, 178, "…", "FT", 20)
    picture.box(140, 150, 170, 48, "W_0 + Σ e_i ⊗ x_i", "FT", filled=True, size=16)
    ends(picture, 225)
    picture.arrow(225, 258, 225, 200)
    picture.arrow(225, 150, 225, 84)
    picture.text(165, 322, "F(x) = (W_0 + ΔW) x", size=16)

    picture.text(548, 28, "the attention that reads", "ICL", 16, bold=True)
    picture.box(396, 150, 60, 48, "W_0", "FT", size=16)
    ends(picture, 548)
    picture.arrow(520, 262, 428, 200)
    picture.arrow(428, 150, 520, 80)
    for x, name in [(494, "1"), (562, "2"), (656, "N")]:  # the same examples, kept
        picture.box(x, 124, 48, 30, f"e_{name}", "ICL", filled=True, size=15)
        picture.box(x, 194, 48, 30, f"x_{name}", "ICL", size=15)
        picture.arrow(548 + (x - 550) / 6, 258, x + 24, 226, "ICL")
        picture.arrow(x + 24, 194, x + 24, 156, "ICL")
        picture.arrow(x + 24, 124, 548 + (x - 550) / 6, 84, "ICL")
    picture.text(633, 144, "…", "ICL", 20)
    picture.text(633, 214, "…", "ICL", 20)
    picture.text(692, 104, "values", "ICL", 13, italic=True)
    picture.text(692, 248, "keys", "ICL", 13, italic=True)
    picture.text(548, 322, "F(x) = W_0 x + Σ e_i (x_i · x)", size=16)
    return picture


def ends(picture, x):
    """The test input below, and the output above."""
    picture.box(x - 26, 260, 52, 32, "x", "ZSL", filled=True, size=16)
    picture.box(x - 26, 50, 52, 32, "F(x)", "ZSL", filled=True, size=16)
