// What the reader has written -> what the model is asked, and what is to be said about it.

// The template with the texts of its fields.
export const fill = ({ template, fields }, texts) =>
  template.replace(/\{(\w+)\}/g, (_, name) => texts[fields.indexOf(name)].trim());

// state: as in live.js; task: its template and fields. Returns the ids of all parts (prompt); the pieces of the text,
// each a range of the tokens; the text of each token; notes by the id of the input that they are about; what is so
// wrong that nothing can be asked (problem); and a warning. The last two may be empty.
export function compile(state, task, tokenizer, limits) {
  const notes = new Map();
  const names = [];
  const problem = (id, text) => (notes.set(id, { text, wrong: true }), text);
  const spelled = (id, text) => {
    const found = tokenizer.encode(` ${text.trim()}`).spelled;
    if (!found.length) return;
    const words = found.map(({ text, bytes }) => `“${text}” (${bytes} bytes)`).join(", ");
    notes.set(id, { text: `Not in pocket-gpt's vocabulary, so it reads these in bytes: ${words}` });
  };
  let wrong = "";
  const words = state.answers.map((word) => word.trim());
  words.forEach((word, y) => {
    spelled(`live-answer-${y}`, word);
    if (!word) wrong ||= problem(`live-answer-${y}`, `The answer for “${task.answers[y]}” is empty: write a word.`);
    else if (words.indexOf(word) < y)
      wrong ||= problem(`live-answer-${y}`, `“${word}” is the answer for two classes: write another word.`);
  });
  const check = (id, texts) => texts.forEach((text, f) => spelled(`${id}-${f}`, text));
  const demonstrations = [];
  state.demonstrations.forEach(({ texts, label }, i) => {
    const id = `live-demonstration-${i}`;
    const empty = texts.findIndex((text) => !text.trim());
    if (empty >= 0)
      return void notes.set(`${id}-${empty}`, { text: `Left out as long as its ${task.fields[empty]} is empty.` });
    check(id, texts);
    names.push([`${i + 1}`, words[label]]);
    demonstrations.push([...tokenizer.encode(`${fill(task, texts)} ${words[label]}`).ids, tokenizer.end]);
  });
  state.query.forEach((text, f) => {
    spelled(`live-query-${f}`, text);
    if (!text.trim())
      wrong ||= problem(`live-query-${f}`, `The query's ${task.fields[f]} is empty: write one, or pick one above.`);
  });
  const query = tokenizer.encode(fill(task, state.query)).ids;
  const answers = words.map((word) => tokenizer.encode(` ${word}`).ids);

  const pieces = [{ from: 0, to: 1 }]; // <s>
  const append = (ids, name) => pieces.push({ name, from: pieces.at(-1).to, to: pieces.at(-1).to + ids.length });
  demonstrations.forEach((ids, i) => append(ids, names[i]));
  append(query);
  const length = pieces.at(-1).to + Math.max(...answers.map((ids) => ids.length));
  if (length > limits.positions)
    wrong ||= `The prompt has ${length} tokens; the model takes ${limits.positions}. Remove or shorten demonstrations.`;
  const far = `The prompt has ${length} tokens; pocket-gpt was trained on at most ${limits.trained}.`;
  const warning = length > limits.trained ? far : "";
  const tokens = tokenizer.show([tokenizer.start, ...demonstrations.flat(), ...query]);
  const prompt = { start: tokenizer.start, demonstrations, query, answers };
  return { prompt, pieces, tokens, notes, problem: wrong, warning };
}
