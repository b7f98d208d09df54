"""Two ways to learn from the same demonstrations, and what each measure compares."""

from pen import Picture

ALT = (
    "The same demonstrations go two ways. In-context learning reads them forward, with fixed weights, in front of the "
    "query. Fine-tuning runs backward through them and changes keys and values; the query is then asked alone. Kendall "
    "compares what either leans on, SimAM the attention maps, SimAOU the attention outputs, Rec2FTP the answers."
)


def draw() -> Picture:
    picture = Picture(720, 330, ALT)
    picture.box(20, 135, 120, 60, "k demon-\nstrations")
    picture.text(160, 70, "forward", "ICL", 15, bold=True)
    picture.text(160, 272, "backward", "FT", 15, bold=True)
    picture.arrow(140, 150, 225, 85, "ICL")
    picture.arrow(140, 180, 225, 245, "FT")
    picture.box(230, 45, 150, 60, "weights stay,\nthe prompt grows", "ICL", filled=True)
    picture.box(230, 225, 150, 60, "W_K, W_V change, the\nquery stands alone", "FT", filled=True)
    for x, words in (
        (434, "ranks of\ntokens"),
        (511, "attention\nmaps"),
        (588, "attention\noutputs"),
        (665, "answers"),
    ):
        for y, colour in ((48, "ICL"), (228, "FT")):
            picture.box(x - 35, y, 70, 54, words, colour, size=12)
        picture.arrow(x, 149, x, 105, "grey", width=1.4)
        picture.arrow(x, 181, x, 225, "grey", width=1.4)
    for x, words in ((434, "Kendall"), (511, "SimAM"), (588, "SimAOU"), (665, "Rec2FTP")):
        picture.box(x - 36, 150, 72, 30, words, "control", filled=True, size=13)
    return picture
