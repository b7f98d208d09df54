"""The page of troubles quotes messages that exist, so that it cannot fall behind the code."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "when_something_goes_wrong.md").read_text(encoding="utf-8")
QUOTED = re.findall(r"^\| `([^`]+)` \|", PAGE, re.MULTILINE)


def spoken(tree):
    """All texts of a file, with a blank where a value is filled in."""
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(part.value if isinstance(part, ast.Constant) else " " for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


@pytest.fixture(scope="module")
def texts():
    files = [*(ROOT / "iclnb").rglob("*.py"), *(ROOT / "tools").glob("*.py")]
    found = [text for file in files for text in spoken(ast.parse(file.read_text(encoding="utf-8")))]
    return [(ROOT / "Makefile").read_text(encoding="utf-8"), *found]


@pytest.mark.parametrize("message", QUOTED)
def test_a_quoted_message_is_one_that_is_given(message, texts):
    pattern = re.compile(".*".join(map(re.escape, filter(str.strip, message.split("…")))))
    assert any(pattern.search(text) for text in texts), "no such message in iclnb/, tools/ or the Makefile"


def test_every_kind_of_trouble_has_quotes():
    parts = re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]
    assert len(parts) == 6 and all(re.search(r"^\| `", part, re.MULTILINE) for part in parts)
