"""Three paths from the demonstrations to a head of an upper layer: direct, through its inputs, and by position."""

from pen import Picture

ALT = (
    "Direct: a head of layer 2 attends to the demonstrations of its own layer. Inputs: in layer 1 the query's tokens "
    "have attended to them already. Position: behind the demonstrations the query stands at later places."
)


def draw() -> Picture:
    picture = Picture(720, 322, ALT)
    for y, words in [(24, "layer 2"), (116, "layer 1"), (208, "prompt"), (270, "zero-shot")]:
        picture.text(24, y + 23, words, bold=True, anchor="start")
    for y in (24, 116):
        picture.box(150, y, 270, 36, "demonstrations", "ICL", filled=True)
        picture.box(540, y, 130, 36, "query", "ZSL", filled=True)
        picture.arrow(285, y + 88, 285, y + 42, "grey")
    picture.arrow(605, 204, 605, 158, "grey")
    picture.arrow(420, 42, 534, 42, "ICL")
    picture.text(477, 32, "direct", "ICL", bold=True)
    picture.arrow(420, 134, 534, 134)
    picture.arrow(605, 116, 605, 66)
    picture.text(592, 96, "inputs", bold=True, anchor="end")
    for y in (208, 270):
        picture.box(108, y, 36, 36, "<s>", "ZSL", filled=True, size=12)
    picture.box(150, 208, 384, 36, "demonstrations", "ICL", filled=True)
    picture.box(540, 208, 130, 36, "query", "ZSL", filled=True)
    picture.box(150, 270, 130, 36, "query", "ZSL", filled=True, dashed=True)
    picture.arrow(286, 288, 605, 250, "ink", bend=-12, dashed=True)
    picture.text(540, 302, "position", bold=True)
    return picture
