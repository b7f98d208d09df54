"""Where the error signal goes in backpropagation and in layer-causal descent."""

from pen import Picture

ALT = (
    "Two stacks of three layers; activations go up in both. On the left, backpropagation: one loss on top, and its "
    "error flows down through all layers, so that a lower layer learns from those above it. On the right, layer-causal "
    "descent: each layer has a loss of its own, and no error flows from one layer into another."
)


def draw() -> Picture:
    picture = Picture(720, 320, ALT)
    for x, name, colour in ((90, "backpropagation (GD)", "FT"), (420, "layer-causal (LCGD)", "control")):
        picture.text(x + 65, 30, name, colour, 15, bold=True)
        for layer in (1, 2, 3):
            y = 305 - 65 * layer
            picture.box(x, y, 130, 34, f"layer {layer}", "ink")
            picture.arrow(x + 35, y + 63, x + 35, y + 37, "grey")
    picture.box(90, 48, 130, 30, "one loss", "FT", filled=True)
    picture.arrow(125, 109, 125, 82, "grey")
    picture.arrow(190, 80, 190, 107, "FT", dashed=True)
    for layer in (1, 2, 3):
        y = 305 - 65 * layer
        if layer > 1:
            picture.arrow(190, y + 36, 190, y + 62, "FT", dashed=True)
        picture.box(590, y + 3, 70, 28, f"loss {layer}", "control", filled=True, size=13)
        picture.arrow(588, y + 11, 554, y + 11, "control", dashed=True)
        picture.arrow(552, y + 24, 586, y + 24, "grey")
    picture.text(285, 180, "grey: activations", "ink", 13)
    picture.text(285, 200, "dashed: errors", "ink", 13)
    return picture
