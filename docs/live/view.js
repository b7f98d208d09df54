// What the page shows of an answer: numbers, lines, and the prompt coloured by attention.

const MARKERS = [
  // of the answers, as in the notebooks' figures: circle, square, diamond, two triangles
  "M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0",
  "M-3.5,-3.5h7v7h-7z",
  "M0,-5l4.5,5l-4.5,5l-4.5,-5z",
  "M0,-4.5l4.5,8h-9z",
  "M0,4.5l4.5,-8h-9z",
];
const $ = (id) => document.getElementById(`live-${id}`);

export const percent = (share) => (share < 0.0001 ? "< 0.01 %" : `${(100 * share).toFixed(share < 0.0995 ? 2 : 1)} %`);
export const total = (numbers) => numbers.reduce((a, b) => a + b, 0);
export const mean = (numbers) => total(numbers) / numbers.length;
export const argmax = (numbers) => numbers.indexOf(Math.max(...numbers));

// A new element: its name, its attributes, and what is in it.
export function make(name, attributes = {}, ...content) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...content);
  return element;
}

function drawing(box, width, height, label, content) {
  box.setAttribute("role", "img");
  box.setAttribute("aria-label", label);
  const size = `width="${width}" height="${height}" viewBox="0 0 ${width} ${height}"`;
  box.innerHTML = `<svg ${size} aria-hidden="true">${content}</svg>`;
}

const marker = (i, x, y) => `<path class="mark c${i}" d="${MARKERS[i]}" transform="translate(${x},${y})"/>`;
const label = (x, y, text, anchor = "middle") => `<text x="${x}" y="${y}" text-anchor="${anchor}">${text}</text>`;
const line = (points, kind) => `<polyline class="${kind}" points="${points.map((p) => p.join()).join(" ")}"/>`;

// A frame whose y axis is a share from 0 to 1; `at` places x among `count` steps, and y.
function frame(box, count, xlabel, ylabel) {
  const [width, height] = [Math.max(box.clientWidth, 240), 190];
  const { left, right, top, bottom } = { left: 44, right: 12, top: 20, bottom: 38 };
  const x = (i) => left + ((width - left - right) * i) / Math.max(count - 1, 1);
  const y = (share) => top + (height - top - bottom) * (1 - share);
  let axes = label(4, 12, ylabel, "start") + label((left + width - right) / 2, height - 4, xlabel);
  for (const share of [0, 0.25, 0.5, 0.75, 1]) {
    axes += `<path class="grid" d="M${left - 6},${y(share)}H${width - right}"/>`;
    axes += label(left - 10, y(share) + 4, share, "end");
  }
  return { width, height, axes, at: (i, share) => [+x(i).toFixed(1), +y(share).toFixed(1)], x, base: y(0) };
}

// probabilities: of each answer; single: whether every answer is one token, so that what is left over is other tokens'.
export function showAnswer(words, probabilities, single, sentence) {
  $("status").textContent = sentence;
  const row = (key, word, p, kind) =>
    make(
      "tr",
      { class: kind },
      make("th", { scope: "row" }, key, word),
      make("td", { class: "bar" }, make("span", { style: `width:${100 * p}%` })),
      make("td", {}, make("data", { value: p }, percent(p))),
    );
  const rows = words.map((word, i) => {
    const key = make("span", { class: "key" });
    key.innerHTML = `<svg width="12" height="12" viewBox="-6 -6 12 12" aria-hidden="true">${marker(i, 0, 0)}</svg>`;
    return row(key, word, probabilities[i], `c${i}${i === argmax(probabilities) ? " most" : ""}`);
  });
  if (single) rows.push(row("", "other tokens", Math.max(0, 1 - total(probabilities)), "rest"));
  $("probabilities").tBodies[0].replaceChildren(...rows);
}

// curve: for k = 0, 1, ... demonstrations, the probability of each answer.
export function showCurve(words, curve) {
  const { width, height, axes, at, x, base } = frame($("curve"), curve.length, "demonstrations", "probability");
  const every = Math.ceil(curve.length / Math.floor(width / 40)); // numbers below the axis must not touch
  let content = axes + curve.map((_, k) => (k % every ? "" : label(x(k), base + 16, k))).join("");
  words.forEach((_, i) => {
    const points = curve.map((p, k) => at(k, p[i]));
    content += line(points, `line c${i}`) + points.map((point) => marker(i, ...point)).join("");
  });
  const last = curve.at(-1);
  const best = argmax(last);
  const end = `After ${curve.length - 1} demonstrations ${words[best]} has ${percent(last[best])}.`;
  const numbers = words.map((w, i) => `${w} ${curve.map((p) => percent(p[i])).join(", ")}`);
  drawing($("curve"), width, height, `${end} By number of demonstrations: ${numbers.join("; ")}`, content);
}

// lam: [layer][head]; share: of the tokens that are the demonstrations'.
export function showLam(lam, share) {
  const { width, height, axes, at, x, base } = frame($("lam"), lam.length + 1, "layer", "share λ");
  const place = (l, value) => at(l + 0.5, value);
  let content = axes + lam.map((_, l) => label(x(l + 0.5), base + 16, l + 1)).join("");
  content += line([at(0, share), at(lam.length, share)], "dashed");
  const means = lam.map((heads, l) => place(l, mean(heads)));
  content += line(means, "line c0");
  lam.forEach((heads, l) => {
    content += marker(0, ...means[l]);
    for (const [cx, cy] of heads.map((value) => place(l, value))) {
      content += `<circle class="dot" cx="${cx}" cy="${cy}" r="2.5"/>`;
    }
  });
  const said = lam.map((heads, l) => `layer ${l + 1}: ${mean(heads).toFixed(2)}`).join(", ");
  const even = `the demonstrations' share of the tokens: ${share.toFixed(2)}`;
  drawing($("lam"), width, height, `lam, mean over heads: ${said}; ${even}`, content);
}

// pieces: of the prompt, each with the range [from, to) of its tokens; a demonstration's name is its number and answer.
export function showHeads(pieces, attention, chosen) {
  const columns = attention.flatMap((heads, l) => heads.map((weights, h) => ({ l, h, weights })));
  const on = ({ l, h }) => (l === chosen.layer && (chosen.head === null || h === chosen.head) ? "on" : "");
  const numbers = columns.map((c) =>
    make("th", { scope: "col", class: on(c) }, make("span", { class: "hidden" }, "head"), `${c.h + 1}`),
  );
  const layers = attention.map((heads, l) =>
    make("th", { colspan: heads.length, scope: "colgroup" }, `layer ${l + 1}`),
  );
  const cell = (share) =>
    make(
      "td",
      { style: `--share:${share.toFixed(3)}`, title: percent(share) },
      make("span", { class: "hidden" }, percent(share)),
    );
  const row = (name, share) =>
    make("tr", {}, make("th", { scope: "row" }, ...name), ...columns.map((c) => cell(share(c.weights))));
  const shown = pieces.filter((piece) => piece.name);
  const inside = (weights, { from, to }) => total(weights.slice(from, to));
  const rows = shown.map((piece) => {
    const [number, word] = piece.name;
    return row([number, make("span", { class: "wide" }, ` ${word}`)], (weights) => inside(weights, piece));
  });
  $("heads").replaceChildren(
    make("caption", { class: "hidden" }, "Attention on each demonstration, by layer and head"),
    make("thead", {}, make("tr", {}, make("td"), ...layers), make("tr", {}, make("td"), ...numbers)),
    make(
      "tbody",
      {},
      ...rows,
      row(["λ"], (weights) => total(shown.map((piece) => inside(weights, piece)))),
    ),
  );
}

// The prompt, a piece a line, each token darker the more attention it gets; weights: of each token.
export function showText(pieces, tokens, weights, caption) {
  const largest = Math.max(...weights);
  const rows = pieces.map(({ from, to }) => {
    const spans = tokens.slice(from, to).flatMap((token, i) => [
      token.startsWith(" ") ? " " : "", // where a line may break
      make(
        "span",
        { style: `--share:${(weights[from + i] / largest).toFixed(3)}`, title: percent(weights[from + i]) },
        token.trimStart(),
      ),
    ]);
    return make("tr", {}, make("td", {}, percent(total(weights.slice(from, to)))), make("td", {}, ...spans));
  });
  $("text").replaceChildren(
    make("caption", {}, caption),
    make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "attention"), make("th", { scope: "col" }, "text"))),
    make("tbody", {}, ...rows),
  );
}
