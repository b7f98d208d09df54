"""One step of descent in one layer: what each token holds before it and after it."""

from pen import Picture

ALT = (
    "Tokens before and after one layer. The examples' x_i, y_i become x_i and the residual y_i - w_1 x_i; the query's "
    "x, 0 becomes x and - w_1 x, minus the answer. Every token attends to the examples."
)


def draw() -> Picture:
    picture = Picture(720, 340, ALT)
    places = [150, 260, 370, 480, 600]
    for i, x in enumerate(places):
        query = i == 4
        name, colour = ("", "ZSL") if query else ("1", "ICL") if i == 0 else ("2", "ICL") if i == 1 else ("N", "ICL")
        if i == 2:
            for y in (71, 101, 261, 291):
                picture.text(x, y, "…", "ICL", 18)
            continue
        sub = "" if query else f"_{{{name}}}"
        picture.text(x, 36, "query" if query else f"example {name}", colour)
        for y, words in ((50, f"x{sub}"), (80, "0" if query else f"y{sub}")):
            picture.box(x - 48, y, 96, 30, colour=colour, filled=True)
            picture.text(x, y + 20, words, size=15)
        after = "− w_1·x" if query else f"y{sub} − w_1·x{sub}"
        for y, words in ((240, f"x{sub}"), (270, after)):
            picture.box(x - 48, y, 96, 30, colour=colour, filled=True)
            picture.text(x, y + 20, words, size=15)
        picture.text(x, 324, "minus the answer" if query else "residual", colour)
        picture.arrow(x, 210, x, 234, colour)
    picture.text(88, 85, "before", anchor="end", bold=True)
    picture.text(88, 275, "after", anchor="end", bold=True)
    for x in (150, 260, 480):
        picture.arrow(x, 114, x, 140, "ICL")
    picture.arrow(600, 114, 600, 140, "ZSL")
    picture.box(102, 146, 546, 58, "", "ink")
    picture.text(375, 170, "every token attends to the examples: scores x_i·x, values − y_i", size=15)
    picture.text(375, 194, "added to each y:  − lr Σ y_i (x_i·x) = − w_1·x", size=15, bold=True)
    return picture
