"""Three questions about one sentence: what each knows, what it asks for, and on which side of it the answer stands."""

from pen import Picture

ALT = (
    "The plumber encrypted the dividend in the harbour, with an arrow for each question from the words it knows to its "
    "answer. Where is the dividend, and what was encrypted by the plumber: the answer stands after what is known. Who "
    "encrypted the dividend: it stands before."
)
WORDS = {"the": 42, "plumber": 120, "encrypted": 232, "the ": 318, "dividend": 396, "in the": 486, "harbour": 576}


def draw() -> Picture:
    picture = Picture(720, 280, ALT)
    for word, x in WORDS.items():
        if len(word) > 6:
            picture.box(x - 50, 130, 100, 36, word, size=15)
        else:
            picture.text(x, 153, word, "grey", 15)
    picture.text(640, 153, ".", "grey", 15)
    picture.arrow(120, 124, 404, 124, bend=30)
    picture.arrow(232, 124, 372, 124, bend=16)
    picture.text(252, 74, "what was encrypted by the plumber?")
    picture.arrow(424, 124, 576, 124, bend=20)
    picture.text(520, 88, "in what is the dividend?")
    picture.text(380, 36, "read on: the answer comes after", "grey", 13)
    picture.arrow(232, 172, 146, 172, bend=12, dashed=True)
    picture.arrow(396, 172, 108, 172, bend=36, dashed=True)
    picture.text(258, 236, "who encrypted the dividend?")
    picture.text(258, 262, "look back: the answer came before", "grey", 13)
    return picture
