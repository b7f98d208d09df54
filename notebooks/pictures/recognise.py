"""Recognising a task against learning it: answer words kept or replaced, labels right or random."""

from pen import Picture

ALT = (
    "Four versions of two demonstrations. Words kept, labels right: the task can be recognised and learnt. Words kept, "
    "labels random: only recognised. Words replaced, labels right: only learnt. Words replaced, labels random: neither."
)
LEFT, WIDTH, HEIGHT = (130, 422), 280, 118  # of the cells: left edges, and the size of each
CELLS = (  # row and column, the two answers shown, what can be done
    (0, 0, "Positive", "Negative", (("recognise", "ZSL"), ("+", "ink"), ("learn", "ICL"))),
    (0, 1, "wug", "dax", (("learn", "ICL"),)),
    (1, 0, "Negative", "Negative", (("recognise", "ZSL"),)),
    (1, 1, "dax", "dax", (("neither: chance", "control"),)),
)


def draw() -> Picture:
    picture = Picture(720, 310, ALT)
    for x, words in zip(LEFT, ("answer words kept", "answer words replaced"), strict=True):
        picture.text(x + WIDTH / 2, 32, words, size=16, bold=True)
    for y, word in ((107, "right"), (237, "random")):
        picture.text(114, y - 10, "labels", size=16, anchor="end", bold=True)
        picture.text(114, y + 12, word, size=16, anchor="end", bold=True)
    for row, column, first, second, can in CELLS:
        x, y = LEFT[column], 48 + row * (HEIGHT + 12)
        picture.box(x, y, WIDTH, HEIGHT, colour=can[-1][1] if len(can) == 1 else "ICL", filled=True)
        for i, (text, answer) in enumerate((("a superb film", first), ("a dull film", second))):
            picture.text(x + 128, y + 32 + 24 * i, text, anchor="end")
            picture.arrow(x + 138, y + 27 + 24 * i, x + 168, y + 27 + 24 * i, width=1.4)
            picture.text(x + 178, y + 32 + 24 * i, answer, anchor="start")
        for (word, colour), shift in zip(can, (-60, 10, 60) if len(can) == 3 else (0,), strict=True):
            picture.text(x + WIDTH / 2 + shift, y + 98, word, colour, size=17, bold=True)
    return picture
