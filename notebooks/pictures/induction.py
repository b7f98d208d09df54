"""The induction circuit: a previous-token head writes what an induction head looks for."""

from pen import Picture

ALT = (
    "Two heads, on the tokens A B ... A. In layer 0 the previous-token head attends from B to the A before it, and "
    "writes it at B. In layer 1 the induction head, at the later A, looks for a place with A before it, finds B, and "
    "copies it as the prediction."
)


def draw() -> Picture:
    picture = Picture(720, 334, ALT)
    for words, x in (("…", 130), ("A", 230), ("B", 410), ("…", 520), ("A", 630)):
        picture.box(x - 28, 282, 56, 36, words, "ink", filled=words != "…", size=16)
    picture.text(20, 240, "layer 0", size=13, anchor="start", bold=True)
    picture.text(20, 130, "layer 1", size=13, anchor="start", bold=True)
    for x, top in ((230, 252), (410, 198), (630, 198)):  # the residual streams
        picture.arrow(x, 282, x, top, "grey", width=1.4, head=False)
    picture.arrow(230, 252, 404, 228, width=2.6)
    picture.text(205, 228, "previous-token head", size=13)
    picture.box(332, 164, 156, 34, "before me: A", filled=True)
    picture.box(552, 164, 156, 34, "I look for: A", "ICL", filled=True)
    picture.arrow(552, 181, 492, 181, "ICL", dashed=True)
    picture.text(521, 170, "match", "ICL", 12)
    picture.arrow(410, 164, 410, 142, "grey", width=1.4, head=False)
    picture.arrow(630, 164, 630, 76, "grey", width=1.4)
    picture.arrow(410, 142, 624, 114, "ICL", bend=18, width=2.6)
    picture.text(390, 100, "induction head copies B", "ICL", 13)
    picture.box(602, 36, 56, 36, "B", "ICL", filled=True, size=16)
    picture.text(590, 58, "prediction", size=13, anchor="end")
    return picture
