// The page "Teach pocket-gpt": a prompt that the reader writes, and what the model makes of it after every change.

import { Model } from "./model.js";
import { compile } from "./prompt.js";
import { Tokenizer } from "./tokenizer.js";
import { tour } from "./tour.js";
import * as view from "./view.js";

const { make } = view;
const $ = (id) => document.getElementById(`live-${id}`);
const MOST = 32; // demonstrations
const TOKENS = 600; // of queries in one call of the model, so that long ones do not fill the memory
const fetched = async (name) => (await fetch(new URL(name, import.meta.url))).text();

let data, model, tokenizer;
let state; // what the reader has written: task, answers, demonstrations, query, gold (its label, where it is known)
const chosen = { layer: 1, head: null }; // whose attention is shown; null is the mean over heads
let last; // what was answered last, to be drawn again

const task = () => data.tasks[state.task];
const sample = (row) => ({ texts: row.slice(0, -1), label: row.at(-1) });
function shuffled(list) {
  const drawn = list.map((x) => [Math.random(), x]).sort(([a], [b]) => a - b);
  return drawn.map(([, x]) => x);
}

function begin(name, { shown = 8, query = 0, answers = data.tasks[name].answers } = {}) {
  const { train, evaluation } = data.tasks[name];
  const asked = sample(evaluation[query]);
  return {
    task: name,
    answers: [...answers],
    demonstrations: train.slice(0, shown).map(sample),
    query: asked.texts,
    gold: asked.label,
  };
}

// ---------------------------------------------------------------------------------------------------------------------
// The prompt, to be written

function textInput(id, label, value, changed) {
  const input = make("input", {
    id,
    type: "text",
    "aria-label": label,
    "aria-describedby": `${id}-note`,
    spellcheck: "false",
    autocomplete: "off",
  });
  input.value = value;
  input.addEventListener("input", () => changed(input.value));
  return input;
}

const note = (id) => make("p", { id: `${id}-note`, class: "note" });

function button(sign, label, act, disabled = false) {
  const made = make("button", { type: "button", "aria-label": label, title: label, class: "sign" }, sign);
  made.disabled = disabled;
  made.addEventListener("click", act);
  return made;
}

function demonstrationRow(demonstration, i) {
  const id = `live-demonstration-${i}`;
  const called = `Demonstration ${i + 1}`;
  const inputs = demonstration.texts.map((text, f) =>
    textInput(`${id}-${f}`, `${called}, ${task().fields[f]}`, text, (value) =>
      change(() => (demonstration.texts[f] = value)),
    ),
  );
  const label = make(
    "select",
    { "aria-label": `${called}, answer`, class: "label" },
    ...state.answers.map((word, y) => make("option", { value: y }, word)),
  );
  label.value = demonstration.label;
  label.addEventListener("change", () => change(() => (demonstration.label = Number(label.value))));
  const move = (to, name) => () => {
    state.demonstrations.splice(i, 1);
    if (to !== null) state.demonstrations.splice(to, 0, demonstration);
    rewrite();
    const row = $("demonstrations").children[to ?? Math.min(i, state.demonstrations.length - 1)];
    (row?.querySelector(`[aria-label^="${name}"]:not(:disabled)`) ?? $("sample")).focus(); // the focus moves along
  };
  return make(
    "li",
    {},
    make("div", { class: "texts" }, ...inputs.flatMap((input) => [input, note(input.id)])),
    label,
    button("↑", `Move ${called.toLowerCase()} up`, move(i - 1, "Move"), i === 0),
    button("↓", `Move ${called.toLowerCase()} down`, move(i + 1, "Move"), i === state.demonstrations.length - 1),
    button("✕", `Remove ${called.toLowerCase()}`, move(null, "Remove")),
  );
}

// Writes all controls anew from the state.
function rewrite() {
  const { template, answers, fields, train, evaluation } = task();
  $("task").value = state.task;
  $("template").textContent = `${template} ${state.answers[0]}`;
  $("answers").replaceChildren(
    ...state.answers.map((word, y) => {
      const id = `live-answer-${y}`;
      const input = textInput(id, `Word for “${answers[y]}”`, word, (value) => {
        change(() => (state.answers[y] = value));
        for (const option of document.querySelectorAll(`#live-demonstrations option[value="${y}"]`))
          option.textContent = value;
      });
      return make("div", { class: "word" }, make("label", { for: id }, `“${answers[y]}”`), input, note(id));
    }),
  );
  $("demonstrations").replaceChildren(...state.demonstrations.map(demonstrationRow));
  const offered = (rows) =>
    rows
      .slice(0, 32)
      .map((row, i) => make("option", { value: i }, `${state.answers[row.at(-1)]}: ${row.slice(0, -1).join(" / ")}`));
  const own = () => make("option", { value: "own" }, "one of your own");
  $("sample").replaceChildren(make("option", { value: "next" }, "the next sample"), own(), ...offered(train));
  $("add").disabled = state.demonstrations.length >= MOST;
  const place = evaluation.findIndex((row) => row.slice(0, -1).join() === state.query.join());
  $("query-sample").replaceChildren(own(), ...offered(evaluation));
  $("query-sample").value = place < 0 ? "own" : place;
  $("query").replaceChildren(
    ...state.query.flatMap((text, f) => {
      const id = `live-query-${f}`;
      return [
        textInput(id, `Query, ${fields[f]}`, text, (value) =>
          change(() => {
            state.query[f] = value;
            state.gold = null;
            $("query-sample").value = "own";
          }),
        ),
        note(id),
      ];
    }),
  );
  answer();
}

function change(act) {
  act();
  answer();
}

const rewriteWith = (act) => () => {
  act();
  rewrite();
};

function next() {
  const used = new Set(state.demonstrations.map((d) => d.texts.join()));
  return task()
    .train.map(sample)
    .find((d) => !used.has(d.texts.join()));
}

function add() {
  const wanted = $("sample").value;
  const own = { texts: task().fields.map(() => ""), label: 0 };
  state.demonstrations.push(wanted === "own" ? own : wanted === "next" ? next() : sample(task().train[wanted]));
  rewrite();
  $("sample").value = wanted;
  if (wanted === "own") $("demonstrations").lastChild.querySelector("input").focus();
}

// ---------------------------------------------------------------------------------------------------------------------
// The answer, to be shown

function say(notes) {
  for (const place of document.querySelectorAll("#live .note")) {
    const { text = "", wrong = false } = notes.get(place.id.replace(/-note$/, "")) ?? {};
    if (place.textContent !== text) place.textContent = text;
    place.classList.toggle("wrong", wrong);
    place.previousElementSibling.setAttribute("aria-invalid", wrong);
  }
}

let turn = 0;
const waited = (milliseconds) => new Promise((go) => setTimeout(go, milliseconds));

async function answer() {
  const mine = ++turn;
  const { prompt, pieces, tokens, notes, problem, warning } = compile(state, task(), tokenizer, data.limits);
  say(notes);
  box.classList.toggle("stale", Boolean(problem));
  box.setAttribute("aria-busy", !problem);
  if (problem) return void ($("status").textContent = problem);
  await waited(0); // what was typed is shown first
  if (mine !== turn) return;
  const n = prompt.demonstrations.length;
  const started = performance.now();
  const now = await model.ask(prompt, [n]);
  const took = performance.now() - started;
  if (mine !== turn) return;
  const words = [...state.answers];
  const p = now.scores[0].map(Math.exp);
  const single = prompt.answers.every((ids) => ids.length === 1);
  view.showAnswer(words, p, single, `${sentence(words, p, took)} ${warning}`.trim());
  last = { words, pieces, tokens, attention: now.attention };
  showAttention();
  await waited(150); // the line costs more, and can wait for the next letter; nor may an address change too often
  if (mine !== turn) return;
  history.replaceState(null, "", `#${encodeURIComponent(JSON.stringify(state))}`);
  const curve = [];
  const atOnce = Math.ceil(TOKENS / (prompt.query.length + prompt.answers.flat().length));
  while (curve.length < n) {
    const ks = [...Array(n).keys()].slice(curve.length, curve.length + atOnce);
    const { scores } = await model.ask(prompt, ks);
    if (mine !== turn) return;
    curve.push(...scores.map((row) => row.map(Math.exp)));
  }
  last.curve = [...curve, p];
  view.showCurve(words, last.curve);
  box.setAttribute("aria-busy", false);
}

function sentence(words, p, took) {
  const best = view.argmax(p);
  const judged = best === state.gold ? ", which is right" : `, but ${words[state.gold]} is right`;
  const verdict = state.gold === null ? "" : judged;
  const sure = view.total(p) < 0.05 ? "It hardly expects any of these words, and " : "It ";
  return `${sure}answers ${words[best]}${verdict}. (${took.toFixed(0)} ms)`;
}

function showAttention() {
  if (!last) return;
  const { pieces, tokens, attention, words, curve } = last;
  const shown = pieces.filter((piece) => piece.name);
  const on = (weights) => view.total(shown.map(({ from, to }) => view.total(weights.slice(from, to))));
  const lam = attention.map((heads) => heads.map(on));
  view.showLam(lam, on(tokens.map(() => 1)) / tokens.length);
  view.showHeads(pieces, attention, chosen);
  const heads = attention[chosen.layer];
  const weights = chosen.head === null ? heads[0].map((_, t) => view.mean(heads.map((w) => w[t]))) : heads[chosen.head];
  const who = chosen.head === null ? "mean over its heads" : `head ${chosen.head + 1}`;
  view.showText(pieces, tokens, weights, `Attention of the last position in layer ${chosen.layer + 1}, ${who}`);
  if (curve) view.showCurve(words, curve);
}

function radios(box, key, options) {
  box.replaceChildren(
    make("span", {}, key === "layer" ? "Layer" : "Head"),
    ...options.map(([text, value]) => {
      const input = make("input", { type: "radio", name: `live-${key}` });
      input.checked = chosen[key] === value;
      input.addEventListener("change", () => {
        chosen[key] = value;
        showAttention();
      });
      return make("label", {}, input, text);
    }),
  );
}

function attentionOf(layer, head) {
  Object.assign(chosen, { layer, head });
  const numbered = (length) => Array.from({ length }, (_, i) => [`${i + 1}`, i]);
  radios($("layer"), "layer", numbered(data.layers));
  radios($("head"), "head", [["mean", null], ...numbered(data.heads)]);
}

// ---------------------------------------------------------------------------------------------------------------------
// The start

// A state that came with the address, such as a link that a lecturer sends; null where there is none that fits.
function fromAddress(address) {
  try {
    const found = JSON.parse(decodeURIComponent(new URL(address).hash.slice(1)));
    const { fields, answers } = data.tasks[found.task];
    const texts = (list) => list.length === fields.length && list.every((x) => typeof x === "string");
    const isLabel = (y) => Number.isInteger(y) && y in answers;
    const fits =
      found.answers.length === answers.length &&
      found.answers.every((x) => typeof x === "string") &&
      texts(found.query) &&
      found.demonstrations.length <= MOST &&
      found.demonstrations.every((d) => texts(d.texts) && isLabel(d.label));
    return fits ? { ...found, gold: isLabel(found.gold) ? found.gold : null } : null;
  } catch {
    return null;
  }
}

async function start(box) {
  const [panel, text, loaded] = await Promise.all([fetched("panel.html"), fetched("data.json"), Model.load()]);
  [data, model] = [JSON.parse(text), loaded];
  tokenizer = new Tokenizer(data.vocabulary);
  box.innerHTML = panel;
  data.colours.forEach((colour, i) => box.style.setProperty(`--C${i}`, colour));
  $("task").append(
    ...Object.entries(data.tasks).map(([name, { about, answers }]) =>
      make("option", { value: name }, `${name}: ${about}, ${answers.length} answers`),
    ),
  );
  const pressed = (id, act) => $(id).addEventListener("click", rewriteWith(act));
  pressed("swap", () => state.answers.push(state.answers.shift()));
  pressed("meaningless", () => (state.answers = data.meaningless.slice(0, state.answers.length)));
  pressed("own", () => (state.answers = [...task().answers]));
  pressed("shuffle", () => (state.demonstrations = shuffled(state.demonstrations)));
  pressed("redraw", () => {
    const drawn = shuffled(task().train).slice(0, state.demonstrations.length || 8);
    state.demonstrations = drawn.map(sample);
  });
  pressed("clear", () => (state.demonstrations = []));
  $("add").addEventListener("click", add);
  $("task").addEventListener("change", ({ target }) => rewriteWith(() => (state = begin(target.value)))());
  $("query-sample").addEventListener("change", ({ target }) => {
    const row = task().evaluation[target.value];
    const asked = row ? sample(row) : { texts: task().fields.map(() => ""), label: null };
    rewriteWith(() => Object.assign(state, { query: asked.texts, gold: asked.label }))();
    if (!row) $("query").querySelector("input").focus();
  });
  tour($("tour"), ({ shown, swapped = false, layer = 1 }) => {
    const answers = data.meaningless.slice(0, 2);
    state = begin("sst2", { shown, query: 1, answers: swapped ? answers.reverse() : answers });
    attentionOf(layer, null);
    rewrite();
  });
  new ResizeObserver(showAttention).observe($("curve"));
  addEventListener("hashchange", ({ newURL }) => {
    const found = fromAddress(newURL);
    if (found) rewriteWith(() => (state = found))();
  });
  state = fromAddress(location.href) ?? begin("sst2");
  attentionOf(chosen.layer, chosen.head);
  rewrite();
}

const box = document.getElementById("live");
start(box).catch((error) => {
  box.replaceChildren(make("p", { role: "alert" }, `pocket-gpt could not be started: ${error.message}`));
  throw error;
});
