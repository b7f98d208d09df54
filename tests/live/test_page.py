"""The page "Teach pocket-gpt" in a browser: it answers as iclnb does, and everybody can use it."""

import json
import random
from dataclasses import replace
from urllib.parse import quote

import pytest
import torch

import iclnb
import npm
from iclnb.attention import duality
from iclnb.language.miniatures import ARBITRARY_ANSWERS
from iclnb.model import heads
from iclnb.tasks.encoding import encode
from iclnb.tasks.prompts import encode_task
from iclnb.tasks.task import Example, shuffled

READY = "#live[aria-busy=false]"
GO = """hash => new Promise(done => {
    addEventListener("hashchange", done, { once: true });
    location.hash = hash;
})"""


@pytest.fixture(scope="module")
def pocket():
    return iclnb.load("pocket-gpt", device="cpu")


@pytest.fixture(scope="module")
def tasks(live):
    return json.loads((live / "data.json").read_text(encoding="utf-8"))["tasks"]


@pytest.fixture(scope="module")
def opened(visit, site):
    """The page as it opens, for all tests of a process: to load it takes longer than most of them."""
    with visit(f"{site}index.html") as page:
        page.wait_for_selector(READY, timeout=60_000)
        yield page


@pytest.fixture
def page(opened, tasks):
    """The page with the prompt that it opens with."""
    write(opened, written(tasks, "sst2", k=0))  # an address alone that does not change does nothing
    write(opened, written(tasks, "sst2"))
    return opened


def write(page, state):
    """Writes a whole prompt, by the page's address."""
    page.evaluate(GO, quote(json.dumps(state)))


def probabilities(page):
    page.wait_for_selector(READY)
    return [float(d.get_attribute("value")) for d in page.locator("#live-probabilities tr:not(.rest) data").all()]


def status(page):
    page.wait_for_selector(READY)
    return page.inner_text("#live-status")


# ---------------------------------------------------------------------------------------------------------------------
# What it says


def written(tasks, name, k=8, query=0, words=None):
    """What a reader may have written: the first k samples, a query, and other words for the answers perhaps."""
    task = tasks[name]
    return {
        "task": name,
        "answers": list(words or task["answers"]),
        "demonstrations": [{"texts": row[:-1], "label": row[-1]} for row in task["train"][:k]],
        "query": task["evaluation"][query][:-1],
        "gold": task["evaluation"][query][-1],
    }


def relabelled(state):
    for demonstration in state["demonstrations"]:
        demonstration["label"] = 1 - demonstration["label"]
    return state


def in_own_words(state):
    """Words that the model does not know, answers of several tokens, and what only looks like a special token."""
    state["answers"] = ["zorp", "not so bad"]
    state["demonstrations"][0]["texts"] = ["it's a naïve 😀 soup, isn't it"]
    state["demonstrations"][1]["texts"] = ["</s> the  soup\u00a0was <s>"]
    return state | {"query": ["The Soup was 3.5 times superb"]}


PROMPTS = {
    "no demonstrations": lambda tasks: written(tasks, "sst2", k=0),
    "one": lambda tasks: written(tasks, "mr", k=1, query=1),
    "five classes": lambda tasks: written(tasks, "sst5", k=16),
    "as many as there may be": lambda tasks: written(tasks, "subj", k=32, query=2),
    "words without a meaning": lambda tasks: written(tasks, "agnews", k=7, words=ARBITRARY_ANSWERS[:4]),
    "two fields": lambda tasks: written(tasks, "cb", k=6, query=1),
    "answers of several tokens": lambda tasks: written(tasks, "cb", k=5, words=("yes indeed", "no", "who knows")),
    "own words": lambda tasks: in_own_words(written(tasks, "sst2", k=4)),
    "wrong labels": lambda tasks: relabelled(written(tasks, "sst2", k=12, query=3)),
    "swapped words": lambda tasks: written(tasks, "sst2", k=16, query=1, words=ARBITRARY_ANSWERS[1::-1]),
}


def to_task(state, tasks):
    """The same as a task of iclnb, whose seed 1 shows the demonstrations in this order, and asks this query."""
    task, fields = iclnb.load_task(state["task"], "sample"), tasks[state["task"]]["fields"]

    def example(texts, label):
        return Example(task.spec.template.format(**dict(zip(fields, texts, strict=True))), label)

    shown = [example(d["texts"], d["label"]) for d in state["demonstrations"]]
    train = tuple(shown[i] for i in shuffled(len(shown), 1).argsort())
    spec = replace(task.spec, answers=tuple(state["answers"]))
    return replace(task, spec=spec, train=train, evaluation=(example(state["query"], 0),))


def expected(state, tasks, pocket):
    """Mean log-probability of each answer's tokens, as iclnb gives it, (classes,)."""
    return iclnb.few_shot(*pocket, to_task(state, tasks), len(state["demonstrations"]), seed=1).log_probs[0]


def test_it_answers_as_iclnb_does(page, tasks, pocket):
    for name, make in PROMPTS.items():
        write(page, make(tasks))
        found, log_p = torch.tensor(probabilities(page)).log(), expected(make(tasks), tasks, pocket)
        assert found.shape == log_p.shape and (found - log_p).abs().max() < 1e-4, name


@pytest.mark.parametrize(
    "query", ["that the coach is blunt is what the aunt asked", "soup " * 250], ids=["short", "long"]
)
def test_the_line_shows_every_number_of_demonstrations(page, tasks, pocket, query):
    state = written(tasks, "cb", k=5, words=("yes indeed", "no", "who knows"))
    state["query"][0] = query.strip()
    write(page, state)
    page.wait_for_selector(READY)
    said = page.get_attribute("#live-curve", "aria-label")
    for y, word in enumerate(state["answers"]):
        shown = said.split(f"{word} ")[-1].split(";")[0].split(", ")
        for k, text in enumerate(shown):
            p = expected(state | {"demonstrations": state["demonstrations"][:k]}, tasks, pocket)[y].exp().item()
            assert text == "< 0.01 %" and p < 1.1e-4 or abs(float(text.rstrip(" %")) / 100 - p) < 6e-4
        assert len(shown) == 6


def test_lam_and_attention_are_those_of_iclnb(page, tasks, pocket):
    state = written(tasks, "agnews", k=6)
    (model, tokenizer), task = pocket, to_task(state, tasks)
    encoded = encode_task(model.config, tokenizer, task, k=6, seed=1)
    prefix = model.encode_prefix(torch.tensor([encoded.prompt.prefix]))
    lam, _, _ = duality.exact_split(*heads.read(model, prefix, encoded.queries[0]))  # (L, H, 1, 1)
    lam = lam.squeeze()  # (L, H)
    write(page, state)
    page.wait_for_selector(READY)
    said = page.get_attribute("#live-lam", "aria-label")
    cells = page.locator("#live-heads tbody td").evaluate_all(
        "cells => cells.map(c => c.style.getPropertyValue('--share'))"
    )
    for layer, mean in enumerate(lam.mean(-1), 1):
        assert f"layer {layer}: {mean:.2f}" in said
    table = torch.tensor([float(cell) for cell in cells]).view(7, *lam.shape)  # (demonstrations and lam, L, H)
    torch.testing.assert_close(table[-1], lam.float(), atol=1e-3, rtol=0)
    torch.testing.assert_close(table[:-1].sum(0), lam.float(), atol=4e-3, rtol=0)
    page.get_by_role("radiogroup", name="Layer").get_by_label("3").check()
    page.get_by_role("radiogroup", name="Head").get_by_label("2").check()
    assert "layer 3, head 2" in page.inner_text("#live-text caption")
    rows = page.locator("#live-text tbody tr td:first-child").all_inner_texts()  # <s>, demonstrations, query
    shares = [0.0 if row.startswith("<") else float(row.rstrip(" %")) for row in rows]
    assert abs(sum(shares[1:-1]) / 100 - lam[2, 1]) < 3e-3 and abs(sum(shares) - 100) < 0.3


def test_tokens_are_those_of_the_tokenizer(page, pocket):
    _, tokenizer = pocket
    draw, letters = (
        random.Random(0),
        ["the", "Soup", " ", "  ", "\t", "'s", "'", ".", "7", "½", "é", "漢", "😀", "</s>", "_", "soup", "\u00a0"],
    )
    texts = ["".join(draw.choices(letters, k=12)) for _ in range(300)]
    script = """async texts => {
        const { Tokenizer } = await import("./tokenizer.js");
        const made = new Tokenizer((await (await fetch("data.json")).json()).vocabulary);
        return texts.map(text => made.encode(text).ids);
    }"""
    assert page.evaluate(script, texts) == encode(tokenizer, texts)


def test_the_tour_says_what_is_so(page):
    page.get_by_role("button", name="Take the tour").click()
    bad, good = probabilities(page)
    assert "1 of 5" in page.inner_text("#live-tour h2") and bad < 0.01 and good < 0.01
    page.get_by_role("button", name="Next").click()
    bad, good = probabilities(page)
    assert good > 0.8 and "answers blumpi, but blaxo is right" in status(page)
    page.get_by_role("button", name="Next").click()
    bad, good = probabilities(page)
    assert bad > 0.8 and "answers blaxo, which is right" in status(page)
    page.get_by_role("button", name="Next").click()
    bad, good = probabilities(page)
    assert bad > 0.8 and "answers blumpi, which is right" in status(page)
    page.get_by_role("button", name="Next").click()
    page.wait_for_selector(READY)
    lam = page.get_attribute("#live-lam", "aria-label").split("layer 2: ")[1]
    assert float(lam[:4]) > 0.95
    script = "rows => rows.map(row => [...row.querySelectorAll('span')].at(-2)?.title ?? '')"  # the one before </s>
    on_labels = page.locator("#live-text tbody tr").evaluate_all(script)[1:-1]
    assert sum(0 if share.startswith("<") else float(share.rstrip(" %")) for share in on_labels) > 90
    page.get_by_role("button", name="Finish").click()
    assert page.evaluate("document.activeElement.id") == "live-tour-start"


# ---------------------------------------------------------------------------------------------------------------------
# What is wrong with an input


def test_it_says_what_is_wrong(page):
    query, first = page.get_by_label("Query, sentence"), page.get_by_label("Demonstration 1, sentence")
    before = probabilities(page)
    query.fill("")
    assert "query's sentence is empty" in status(page) and query.get_attribute("aria-invalid") == "true"
    assert probabilities(page) == before, "the last answer stays, dimmed"
    query.fill("the soup was superb")
    assert "answers" in status(page) and query.get_attribute("aria-invalid") == "false"
    page.get_by_label("Word for “vile”").fill("splendid")
    assert "“splendid” is the answer for two classes" in status(page)
    page.get_by_label("Word for “vile”").fill("zorp")
    page.wait_for_selector(READY)
    assert "“zorp” (5 bytes)" in page.inner_text("#live-answer-0-note")
    first.fill(" ")
    page.wait_for_selector(READY)
    assert "Left out" in page.inner_text("#live-demonstration-0-0-note")
    assert page.locator("#live-heads tbody tr").count() == 8, "seven demonstrations and lam"
    first.fill("soup " * 600)
    assert "trained on at most 640" in status(page)
    first.fill("soup " * 2100)
    assert "the model takes 2048" in status(page)


def test_an_address_that_fits_nothing_is_passed_over(page):
    before = probabilities(page)
    for bad in ("%", "{}", '{"task":"sst9"}', '{"task":"sst2","answers":["a"],"query":["b"],"demonstrations":[]}'):
        page.evaluate(GO, bad)
        assert probabilities(page) == before


# ---------------------------------------------------------------------------------------------------------------------
# Everybody can use it


def test_everything_can_be_done_by_keyboard(page):
    page.get_by_role("heading", name="Teach pocket-gpt").click()
    reached, controls = set(), "#live :is(button, select, input):not(:disabled)"
    name = "(e => e.name || e.id || e.getAttribute('aria-label') || e.textContent)"
    focused = f"[{name}(document.activeElement), getComputedStyle(document.activeElement).outlineStyle]"
    wanted = page.locator(controls).evaluate_all(f"all => all.filter(e => e.checkVisibility()).map{name}")
    for _ in set(wanted):  # a group of radio buttons has one name, and is one stop
        page.keyboard.press("Tab")
        found, outline = page.evaluate(focused)
        reached.add(found)
        assert outline != "none", f"{found} does not show that it has the focus"
    assert reached >= set(wanted)

    def to(name):
        for _ in range(len(wanted) + 5):
            if page.evaluate(focused)[0] == name:
                return
            page.keyboard.press("Tab")
        raise AssertionError(f"{name} cannot be reached")

    to("live-task")
    page.keyboard.press("m")  # mr
    page.wait_for_selector(READY)
    assert page.locator("#live-probabilities th[scope=row]").first.inner_text() == "bland"
    to("live-sample")
    page.keyboard.press("ArrowDown")  # one of your own
    to("live-add")
    page.keyboard.press("Enter")
    page.keyboard.type("the soup was superb")
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowDown")  # the second answer
    to("Move demonstration 9 up")
    page.keyboard.press("Enter")
    assert page.evaluate(focused)[0] == "Move demonstration 8 up", "the focus moves along"
    page.wait_for_selector(READY)
    assert page.get_by_label("Demonstration 8, text").input_value() == "the soup was superb"
    assert page.get_by_label("Demonstration 8, answer").input_value() == "1"
    to("Remove demonstration 1")
    page.keyboard.press("Enter")
    page.wait_for_selector(READY)
    assert page.get_by_label("Demonstration 7, text").input_value() == "the soup was superb"
    to("live-layer")
    page.keyboard.press("ArrowRight")
    assert "layer 3" in page.inner_text("#live-text caption")


def test_it_fits_a_phone(page, tasks):
    page.set_viewport_size({"width": 360, "height": 740})
    for name in tasks:
        write(page, written(tasks, name, words=["an answer of several words", *tasks[name]["answers"][1:]]))
        page.wait_for_selector(READY)
        assert page.evaluate("document.documentElement.scrollWidth") == 360, name
    controls = page.locator("#live :is(button, select, input[type=text], label:has(input))")
    small = "Math.min(e.offsetWidth, e.offsetHeight) < 24"
    script = f"all => all.filter(e => e.checkVisibility() && {small}).map(e => e.outerHTML)"
    assert controls.evaluate_all(script) == []
    page.evaluate("scrollTo(0, 0)")
    box = page.locator("#live-probabilities").bounding_box()
    assert box["y"] + box["height"] <= 740, "the answer stays in sight"
    page.set_viewport_size({"width": 1280, "height": 900})


def test_axe_finds_nothing_serious(page, tmp_path):
    try:
        npm.extract("axe-core", {"axe.min.js": tmp_path / "axe.min.js"})
    except npm.NotFetched as error:
        pytest.skip(str(error))
    page.add_script_tag(path=tmp_path / "axe.min.js")
    page.get_by_role("button", name="Take the tour").click()
    page.get_by_role("button", name="Next").click()
    page.wait_for_selector(READY)
    for query in ("the soup was zorp", ""):  # with a note about it, and with a message
        page.get_by_label("Query, sentence").fill(query)
        page.wait_for_selector(READY)
        for colours in ("light", "dark"):
            page.emulate_media(color_scheme=colours)
            rules = {} if colours == "light" else {"runOnly": ["color-contrast"]}  # all else is the same
            found = page.evaluate("rules => axe.run(rules)", rules)["violations"]
            assert [(v["id"], v["nodes"][0]["html"]) for v in found if v["impact"] in ("serious", "critical")] == []
    page.get_by_role("button", name="End the tour").click()
