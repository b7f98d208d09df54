"""Who picks seed and rate, and on which examples: the paper's way, and the held-out one."""

from pen import Picture

ALT = (
    "Who picks what. The paper: on the evaluation split ICL picks the seed, FT picks the rate at this seed, and the "
    "accuracy is reported. Held out: training examples that no seed demonstrates pick both, and the evaluation split "
    "only reports."
)
STEPS = ((130, 160, "ICL picks the seed,\n1 to 7", "ICL"), (340, 160, "FT picks the rate\nat this seed", "FT"))
REPORT = (550, 150, "accuracy of FT\nis reported", "ink")


def draw() -> Picture:
    picture = Picture(720, 320, ALT)
    for top, name in ((20, "the paper"), (180, "held out")):
        picture.text(20, top + 22, name, bold=True, anchor="start")
        for x, width, words, colour in (*STEPS, REPORT):
            picture.box(x, top + 70, width, 50, words, colour, filled=colour != "ink")
            picture.arrow(x + width / 2, top + 38, x + width / 2, top + 66, "grey")
        for x in (290, 500):
            picture.arrow(x + 4, top + 95, x + 46, top + 95)
    picture.box(130, 22, 570, 34, "evaluation split")
    picture.box(130, 182, 370, 34, "training examples that no seed demonstrates", "control", filled=True)
    picture.box(550, 182, 150, 34, "evaluation split")
    return picture
