"""A prompt on the page, each token as dark as the attention that it receives, with the same numbers as text."""

import html
from collections.abc import Sequence

from IPython.display import display
from torch import Tensor

INK, BLUE = "#111111", "1,115,178"  # the first colour of seaborn's colour-blind palette
DARKEST = 0.6  # share of blue at the largest weight; INK on it keeps a contrast of more than 7 : 1


def show_attention(rows: Sequence[Sequence[str]], weights: Sequence[Tensor], caption: str) -> None:
    """Displays pieces of a prompt, one a row, with the share of attention in per cent before each.

    The HTML page colours each token by its own weight; the plain text beside it holds the same shares.

    Args:
        rows: the tokens of each piece.
        weights: for each piece, the attention on its tokens, (tokens,) in [0, 1].
        caption: what is shown, in one sentence.
    """
    display({"text/html": to_html(rows, weights, caption), "text/plain": to_text(rows, weights, caption)}, raw=True)


def to_text(rows: Sequence[Sequence[str]], weights: Sequence[Tensor], caption: str) -> str:
    """The caption, then a line for each piece: its share of attention, and its text."""
    lines = [f"{100 * w.sum().item():5.1f} %  {_joined(tokens)}" for tokens, w in zip(rows, weights, strict=True)]
    return "\n".join([caption, *lines])


def to_html(rows: Sequence[Sequence[str]], weights: Sequence[Tensor], caption: str) -> str:
    """A table with a row for each piece: its share of attention, and its text with a blue ground under each token."""
    largest = max(w.max().item() for w in weights)
    cells = "".join(
        f'<tr style="background:white"><td style="text-align:right;color:{INK};white-space:nowrap">'
        f"{100 * w.sum().item():.1f} %</td>"
        f'<td style="text-align:left;color:{INK}">{_coloured(tokens, w / largest)}</td></tr>'
        for tokens, w in zip(rows, weights, strict=True)
    )
    head = '<tr><th scope="col">attention</th><th scope="col" style="text-align:left">text</th></tr>'
    return f"<table><caption>{html.escape(caption)}</caption><thead>{head}</thead><tbody>{cells}</tbody></table>"


def _coloured(tokens: Sequence[str], strengths: Tensor) -> str:
    """Each token in a span whose ground is bluer the larger its strength, (tokens,) in [0, 1]."""
    return "".join(
        f'<span style="background:rgba({BLUE},{DARKEST * strength:.2f})">{html.escape(_visible(token))}</span>'
        for token, strength in zip(tokens, strengths.tolist(), strict=True)
    )


def _joined(tokens: Sequence[str]) -> str:
    return "".join(map(_visible, tokens)).strip()


def _visible(token: str) -> str:
    """A token without line breaks, which would tear a row apart."""
    return " ".join(token.split("\n"))
