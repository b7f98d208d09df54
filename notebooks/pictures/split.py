"""One prompt, two accounts: the relaxed one adds the demonstrations' weights, the exact one shares attention out."""

from pen import Picture

ALT = (
    "A prompt as a strip: start token, demonstrations, query. Relaxed: the demonstrations' outer products dW_ICL are "
    "added to W_ZSL, those of the query's own tokens. Exact: without demonstrations, attention to the query's own "
    "tokens is the whole bar; with them, they take the share lam of it."
)


def draw() -> Picture:
    picture = Picture(720, 350, ALT)
    picture.box(24, 66, 38, 34, "<s>", "ZSL", filled=True, size=12)
    for i, words in enumerate(["demo 1", "demo 2", "…", "demo k"]):
        picture.box(72 + 106 * i, 66, 100, 34, words, "ICL", filled=True)
    picture.box(500, 66, 150, 34, "query", "ZSL", filled=True)
    picture.circle(634, 24, 14, "q")
    picture.text(656, 29, "last token", size=12, anchor="start")
    picture.arrow(619, 26, 285, 62, "ICL")
    picture.arrow(626, 37, 585, 62, "ZSL")
    picture.text(400, 36, "share λ", "ICL")
    picture.text(630, 60, "share 1 − λ", "ZSL", anchor="start")
    for left, right, colour in [(24, 62, "ZSL"), (72, 490, "ICL"), (500, 650, "ZSL")]:
        picture.curve([(left, 106), (left, 112), (right, 112), (right, 106)], colour)

    picture.text(24, 142, "relaxed", bold=True, anchor="start")
    picture.text(281, 142, "ΔW_{ICL} = Σ v_i ⊗ k_i", "ICL", 17)
    picture.text(575, 142, "W_{ZSL} = Σ v_j ⊗ k_j", "ZSL", 17)
    picture.text(360, 174, "(W_{ZSL} + ΔW_{ICL}) q:  the demonstrations add, and take nothing away", size=15)
    picture.curve([(24, 192), (696, 192)], "grey", width=0.8)

    picture.text(24, 222, "exact", bold=True, anchor="start")
    picture.text(150, 236, "h_{ZSL}", size=16, anchor="end")
    picture.box(164, 214, 486, 32, "A_{query}", "ZSL", filled=True, size=15)
    picture.text(150, 278, "h_{ICL}", size=16, anchor="end")
    picture.box(164, 256, 340, 32, "λ A_{demo}", "ICL", filled=True, size=15)
    picture.box(504, 256, 146, 32, "(1 − λ) A_{query}", "ZSL", filled=True, size=15)
    picture.text(360, 326, "h_{ICL} − h_{ZSL} = λ (A_{demo} − A_{query}):  what they gain, the query loses", size=15)
    return picture
