"""Which algorithm: a prompt in the residual stream of a trained model, and the estimators beside its answer."""

from pen import Picture

ALT = (
    "A prompt runs through the layers of a trained model. Four estimators answer from the same pairs: nothing, one "
    "step, ridge, least squares. Which is nearest to the model's answer?"
)


def draw() -> Picture:
    picture = Picture(720, 330, ALT)
    places = [60, 120, 180, 240, 345]
    for x, token in zip(places, ["x_1", "y_1", "x_2", "y_2", "x_{?}"], strict=True):
        picture.arrow(x, 258, x, 226, "grey", width=1.4)
        picture.arrow(x, 190, x, 158, "grey", width=1.4)
        picture.box(x - 24, 260, 48, 34, token, "ICL" if token != "x_{?}" else "ZSL", filled=True, size=16)
    picture.text(292, 282, "…", size=18)
    picture.box(32, 190, 342, 36, "layer 1", "ink")
    picture.box(32, 122, 342, 36, "layer 2 …", "ink")
    picture.arrow(345, 122, 345, 88, "ICL")
    picture.circle(345, 66, 21, "ŷ", "ICL", filled=True, size=18)
    picture.text(190, 70, "the model's answer", "ICL", 15)
    picture.text(203, 316, "pairs, then the query: a column is its residual stream", "grey", 13)
    picture.text(590, 30, "estimators, from the same pairs", size=14)
    rows = [
        ("nothing:  0", "ZSL", 48),
        ("one step:  lr Σ y_i x_i · x_{?}", "FT", 112),
        ("ridge:  (XᵀX + λ I)⁻¹ Xᵀy · x_{?}", "ink", 176),
        ("least squares:  X⁺y · x_{?}", "ink", 240),
    ]
    for words, colour, y in rows:
        picture.box(478, y, 226, 40, words, colour, filled=colour != "ink", size=14)
        picture.arrow(370, 66 + (y - 48) * 0.06, 474, y + 20, "grey", dashed=True, width=1.4)
    picture.text(425, 46, "SPD?", "grey", 14)
    return picture
