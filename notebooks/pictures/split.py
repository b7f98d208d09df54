"""The exact split: what a query reads of the demonstrations and of itself, in the shares lam and 1 - lam."""

from pen import Picture

ALT = (
    "A prompt as a strip: k demonstrations, then the query. The last position's attention is lam times attention over "
    "the demonstrations plus 1 - lam times attention over the query's own tokens. Without demonstrations, zero-shot, "
    "only the second is there; their difference is lam times (A_demo - A_query)."
)


def draw() -> Picture:
    picture = Picture(720, 300, ALT)
    for i in range(4):
        picture.box(
            30 + 110 * i, 200, 100, 40, f"demonstration {'12…k'[i]}" if i != 2 else "…", "ICL", filled=True, size=12
        )
    picture.box(480, 200, 150, 40, "query", "ZSL", filled=True)
    picture.circle(655, 220, 14, "?", "ink")
    picture.arrow(655, 206, 460, 130, "ICL", bend=-30)
    picture.arrow(655, 206, 555, 196, "ZSL", bend=-34)
    picture.text(245, 265, "share λ of the attention", "ICL")
    picture.text(555, 265, "share 1 − λ", "ZSL")
    picture.text(245, 110, "A_{demo}", "ICL", 18)
    picture.text(590, 110, "A_{query}", "ZSL", 18)
    picture.text(360, 40, "h_{ICL} = λ A_{demo} + (1 − λ) A_{query}        h_{ZSL} = A_{query}", size=18)
    picture.text(360, 72, "h_{ICL} − h_{ZSL} = λ (A_{demo} − A_{query})", size=18, bold=True)
    return picture
