"""The pictures are what their scripts draw, stand alone, and are shown where their idea comes up."""

import importlib.util
import re
from pathlib import Path
from xml.etree import ElementTree

import nbformat
import pytest

import notebooks as tool

FOLDER = Path(__file__).parents[2] / "notebooks" / "pictures"
SCRIPT = importlib.util.spec_from_file_location("draw_pictures", FOLDER / "make.py")
pictures = importlib.util.module_from_spec(SCRIPT)
SCRIPT.loader.exec_module(pictures)


@pytest.fixture(params=pictures.NAMES)
def name(request):
    return request.param


def shown():
    """Each picture that a notebook shows: (notebook, name, alternative text)."""
    for path in tool.find_notebooks():
        for cell in nbformat.read(path, as_version=4).cells:
            for alt, target in re.findall(r"!\[(.*?)\]\(([^)]*\.svg)\)", cell.source):
                if "pictures/" in target:
                    yield path, (path.parent / target).resolve(), alt


def test_is_what_its_script_draws(name, tmp_path):
    pictures.draw(name).save(tmp_path / "drawn.svg")
    drawn, saved = (path.read_text(encoding="utf-8") for path in (tmp_path / "drawn.svg", FOLDER / f"{name}.svg"))
    assert drawn == saved, "draw it with `make pictures`"


def test_fetches_nothing_and_stays_on_its_page(name):
    text = (FOLDER / f"{name}.svg").read_text(encoding="utf-8")
    assert "href" not in text and "url(" not in text and text.count("http") == 1  # the name of the format
    root = ElementTree.fromstring(text)
    width, height = (float(root.get(side)) for side in ("width", "height"))
    for part in root.iter():
        x, y = float(part.get("x", 0)), float(part.get("y", 0))
        assert 0 <= x <= width and 0 <= y <= height
        assert x + float(part.get("width", 0)) <= width and y + float(part.get("height", 0)) <= height


def test_is_shown_with_its_own_words(name):
    found = [alt for _, target, alt in shown() if target == FOLDER / f"{name}.svg"]
    title = ElementTree.parse(FOLDER / f"{name}.svg").getroot()[0].text
    assert found and set(found) == {title}


def test_every_picture_that_is_shown_is_there():
    assert all(target.is_file() for _, target, _ in shown())
