"""The graph of concepts: in pretraining a hidden concept writes one document, in a prompt several short examples."""

from pen import Picture

ALT = (
    "Pretraining: a hidden concept, the transition matrix, rules how hidden states follow each other through one "
    "document; each state shows a token. A prompt: one concept too, but after a delimiter each example starts afresh."
)
STATE, TOKEN = 170, 245  # where states and tokens stand


def draw() -> Picture:
    picture = Picture(720, 330, ALT)
    picture.text(165, 30, "pretraining: one document", bold=True)
    picture.text(525, 30, "a prompt: examples of one concept", bold=True)
    for x in (165, 525):
        picture.box(x - 95, 48, 190, 44, "concept θ\n= transition matrix", filled=True, size=13)
    example(picture, 165, range(55, 300, 73), "ink")
    example(picture, 525, range(380, 481, 50), "ICL")
    example(picture, 525, range(570, 671, 50), "ZSL", asks=True)
    picture.box(509, TOKEN - 16, 32, 32, "/")
    picture.text(525, STATE + 4, "afresh", "grey", 12, italic=True)
    picture.text(430, TOKEN + 38, "demonstration", "ICL", 13)
    picture.text(620, TOKEN + 38, "query", "ZSL", 13)
    picture.text(360, 318, "The reader sees the tokens; states (dashed) and concept are hidden.", size=13)
    return picture


def example(picture: Picture, concept: int, places: range, colour: str, asks: bool = False) -> None:
    """A chain of states under the concept in the middle of `concept`, and the token that each state shows."""
    for i, x in enumerate(places):
        picture.arrow(concept, 95, x, STATE - 20, "grey", width=1.2)
        picture.circle(x, STATE, 16, f"h_{i + 1}", dashed=True, size=13)
        picture.arrow(x, STATE + 18, x, TOKEN - 18)
        last = asks and x == places[-1]
        picture.box(x - 17, TOKEN - 16, 34, 32, "?" if last else f"o_{i + 1}", colour, filled=not last)
        if x != places[-1]:
            picture.arrow(x + 18, STATE, x + places.step - 18, STATE)
