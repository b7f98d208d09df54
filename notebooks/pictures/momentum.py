"""Momentum attention as one matrix of weights: softmax weights plus a Toeplitz matrix of powers of eta."""

from math import exp, sqrt

from pen import Picture

ALT = (
    "Three lower triangular matrices; a circle's area is a weight. Softmax weights: chosen by the query, each row sums "
    "to 1. Momentum weights: alike along every diagonal, whatever the query. Their sum, times the values, is momentum "
    "attention."
)
SIDE, ETA = 6, 0.7
SCORES = (0, 2, 1, 0, 2, 0), (1, 0, 3, 0, 0, 2), (0, 3, 0, 1, 0, 0)  # made up; a row takes every third


def draw() -> Picture:
    picture = Picture(720, 300, ALT)
    _matrix(picture, 40, _softmax, "ZSL", "softmax", ("chosen by the query", "a row sums to 1"))
    picture.text(245, 158, "+", size=26)
    _matrix(
        picture, 270, _momentum, "ICL", "η to the power t − i", ("alike for every query", "a row: up to η / (1 − η)")
    )
    picture.text(475, 158, "=", size=26)
    _matrix(
        picture,
        500,
        lambda t, i: _softmax(t, i) + _momentum(t, i),
        "ink",
        "momentum attention",
        ("times V", "a row: up to 1 / (1 − η)"),
    )
    picture.text(24, 154, "t", "grey", 14, italic=True)
    picture.text(24, 174, "↓", "grey", 14)
    return picture


def _matrix(picture: Picture, x: float, weight, colour: str, title: str, words: tuple[str, str]) -> None:
    picture.text(x + 90, 42, title, colour, 16)
    for t in range(SIDE):
        for i in range(t + 1):
            picture.box(x + 30 * i, 60 + 30 * t, 30, 30, colour="grey")
            if weight(t, i) > 0:
                picture.circle(x + 30 * i + 15, 75 + 30 * t, 11 * sqrt(weight(t, i)), colour=colour, filled=True)
    picture.text(x + 135, 84, "i →", "grey", 14, italic=True)
    for line, text in enumerate(words):
        picture.text(x + 90, 264 + 20 * line, text, colour, 13)


def _softmax(t: int, i: int) -> float:
    row = [exp(score) for score in SCORES[t % 3][: t + 1]]
    return row[i] / sum(row)


def _momentum(t: int, i: int) -> float:
    return ETA ** (t - i) if i < t else 0.0
