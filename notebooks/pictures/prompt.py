"""Anatomy of a prompt: template, words, answer, separator, and what is scored."""

from pen import Picture

ALT = (
    "A prompt as a strip: a start token, k demonstrations, each ended by a separator, then the query. A "
    "demonstration is the template around the words of one example, then the answer. The query is the template around "
    "its own words, without an answer: what is scored is the probability of each answer there."
)


def draw() -> Picture:
    picture = Picture(720, 296, ALT)
    demonstration = [
        ("Sentence:", 90, "template"),
        ("the nurse debugged the marvellous chip", 290, "words of an example"),
    ]
    demonstration += [("Label:", 64, "template"), ("kigo", 60, "answer")]
    strip(picture, 62, 34, demonstration, "ICL", above=True)
    picture.box(586, 34, 60, 34, "</s>", size=13)
    picture.text(616, 24, "separator", "ink", 13, italic=True)

    picture.box(16, 122, 40, 34, "<s>", size=13)
    for x, width, words in [(62, 140, "demonstration 1"), (256, 40, "…"), (350, 140, "demonstration k")]:
        picture.box(x, 122, width, 34, words, "ICL", filled=True, size=13)
        picture.box(x + width + 4, 122, 44, 34, "</s>", size=13)
    picture.box(544, 122, 100, 34, "query", "ZSL", filled=True, size=13)
    picture.circle(670, 139, 15, "?")

    query = [("Sentence:", 90, "template"), ("hopefully it is that shabby coach …", 256, "words of the query")]
    strip(picture, 62, 212, [*query, ("Label:", 64, "template")], "ZSL", above=False)
    picture.circle(508, 229, 15, "?")
    for y, word in [(212, "blaxo"), (246, "kigo")]:
        picture.arrow(526, 229 + (y - 229) / 4, 560, y)
        picture.text(568, y + 5, f"p({word} | prompt)", size=14, anchor="start")
    picture.text(568, 276, "scored", size=13, anchor="start", italic=True)

    for corners in [(62, 122, 62, 68), (202, 122, 578, 68), (544, 156, 62, 212), (644, 156, 484, 212)]:
        picture.arrow(*corners, "grey", width=1, dashed=True, head=False)
    return picture


def strip(picture, x, y, parts, colour, above):
    """Boxes side by side from (x, y), each with its words and, above or below it, what they are."""
    for words, width, name in parts:
        filled = name == "answer"
        picture.box(x, y, width, 34, words, colour, filled=filled, size=13)
        picture.text(x + width / 2, y - 10 if above else y + 52, name, size=13, italic=True)
        x += width + 4
