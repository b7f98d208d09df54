"""The glossary's words: each is linked where a notebook first uses it, nowhere else, and the link leads somewhere."""

import functools
import json
import re

import pytest

import notebooks as tool
import terms

PATHS = tool.find_notebooks()
ENTRIES = {"key": ["keys"], "share": ["share of attention"], "attention": ["attention"], "draw": ["*draws*"]}


@functools.cache
def stamped(path):
    """A notebook's file as it is, and as `make terms` leaves it."""
    text = path.read_text(encoding="utf-8")
    return text, terms.stamp(text, path, terms.read_glossary())


def link(*texts):
    return terms.link_first_uses(texts, ENTRIES, "g.md")


@pytest.mark.parametrize("path", PATHS, ids=tool.relative)
def test_every_first_use_is_linked(path):
    text, with_links = stamped(path)
    assert with_links == text, "link them with `make terms`"


@pytest.mark.parametrize("path", PATHS, ids=tool.relative)
def test_linking_changes_the_words_of_no_notebook(path):
    before, after = (json.loads(text) for text in stamped(path))
    for notebook in (before, after):
        for cell in notebook["cells"]:
            cell["source"] = terms.LINK.sub(r"\1", "".join(cell["source"]))
    assert before == after


def test_each_word_has_one_place_in_the_order_of_the_alphabet():
    text = terms.GLOSSARY.read_text(encoding="utf-8")
    headings = re.findall(r"^### (.+)$", text, re.MULTILINE)
    assert len(terms.read_glossary()) == len(headings), "a word without its forms, or two with one anchor"
    parts = re.split(r"^## (\w)$", text, flags=re.MULTILINE)[1:]
    letters, words = parts[::2], [re.findall(r"^### (.+)$", part, re.MULTILINE) for part in parts[1::2]]
    assert letters == sorted(set(letters)) and all(words)
    for letter, of_letter in zip(letters, words, strict=True):
        assert all(word[0].upper() == letter for word in of_letter)
        assert of_letter == sorted(of_letter, key=lambda word: terms.slug(word).replace("-", " "))


def test_jupyterlab_which_keeps_capitals_finds_every_word():
    text = terms.GLOSSARY.read_text(encoding="utf-8")
    for word in re.findall(r"^### (.+)$", text, re.MULTILINE):
        anchor = f'<a id="{terms.slug(word)}"></a>\n\n### {word}\n'
        assert (anchor in text) == (word.replace(" ", "-") != terms.slug(word)), f"the anchor of {word}"


def test_every_anchor_that_is_linked_is_a_heading():
    for path in [*tool.ROOT.glob("*.md"), *tool.ROOT.glob("docs/**/*.md"), *PATHS]:
        for page, anchor in re.findall(r"\]\(((?:[\w./-]*\.md)?)#([^)\s]+)\)", path.read_text(encoding="utf-8")):
            target = path.parent / page if page else path
            if target.suffix == ".md":
                headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
                assert anchor in {terms.slug(heading) for heading in headings}, f"{path.name}: {page}#{anchor}"


def test_the_first_use_alone_is_linked_and_the_longest_form_wins():
    found = link("A share of attention. Attention!", "More attention, and Keys.")
    assert found == [
        "A [share of attention](g.md#share). [Attention](g.md#attention)!",
        "More attention, and [Keys](g.md#key).",
    ]


def test_headings_tables_code_formulas_links_and_details_are_passed_over():
    closed = "# Keys\n| keys |\n`keys` $keys$ $$keys\n$$ [keys](x) ![keys](y) [![keys](y)](z) <b id='k'> <!-- keys -->"
    assert link(closed + "\n<details>keys</details>\nhot-keys, keys") == [
        closed + "\n<details>keys</details>\nhot-keys, [keys](g.md#key)"
    ]


def test_a_form_in_asterisks_counts_where_it_is_emphasised():
    assert link("She draws two **draws**.") == ["She draws two **[draws](g.md#draw)**."]


def test_linking_twice_is_linking_once_and_a_link_that_is_wrong_goes():
    path = tool.ROOT / "notebooks" / "00_start_here.ipynb"
    text, stray = path.read_text(encoding="utf-8"), "the [cat](../docs/glossary.md#cat)"
    notebook = json.loads(text)
    notebook["cells"][0]["source"].append(stray)
    once = terms.stamp(json.dumps(notebook), path, terms.read_glossary())
    assert "the cat" in once and stray not in once
    assert terms.stamp(once, path, terms.read_glossary()) == once


def test_a_stamping_tool_writes_what_is_stale_and_with_check_only_names_it(tmp_path, capsys):
    path = tmp_path / "a.ipynb"
    path.write_text("old", encoding="utf-8")
    assert tool.stamp_files(lambda text, path: "new", "terms", ["--check", str(path)]) == 1
    assert (
        path.read_text(encoding="utf-8") == "old" and "`make terms` stamps them:\n  a.ipynb" in capsys.readouterr().err
    )
    assert tool.stamp_files(lambda text, path: "new", "terms", [str(path)]) == 0
    assert path.read_text(encoding="utf-8") == "new"
    assert tool.stamp_files(lambda text, path: "new", "terms", ["--check", str(path)]) == 0
