// pocket-gpt in the browser: one call answers a query after every wanted number of demonstrations.

import * as ort from "./ort/ort.wasm.bundle.min.mjs";

const here = (name) => new URL(name, import.meta.url).href;
const sum = (numbers) => numbers.reduce((a, b) => a + b, 0);

ort.env.wasm.numThreads = 1; // more of them would need headers that a static folder does not send

// The runtime's program, which lies compressed; a server that says so has the browser unpack it before.
async function program() {
  const bytes = await (await fetch(here("ort/ort-wasm-simd-threaded.wasm.gz"))).blob();
  const [first, second] = new Uint8Array(await bytes.slice(0, 2).arrayBuffer());
  if (first !== 0x1f || second !== 0x8b) return bytes.arrayBuffer();
  return new Response(bytes.stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer();
}

export class Model {
  static async load() {
    ort.env.wasm.wasmBinary = await program();
    const model = new Model(
      await ort.InferenceSession.create(here("pocket-gpt.onnx"), { executionProviders: ["wasm"] }),
    );
    const any = { start: 0, demonstrations: [Array(200).fill(1)], query: [1], answers: [[1]] };
    await model.ask(any, [1]); // the first call is slow
    return model;
  }

  constructor(session) {
    this.session = session;
  }

  // scores: for each k of ks, the mean log-probability of each answer's tokens, as in iclnb.few_shot.
  // attention: weights of the query's last token after ks.at(-1) demonstrations, [layer][head][token].
  async ask(prompt, ks) {
    const { ids, positions, mask, at, asked, shown } = layOut(prompt, ks);
    const T = ids.length;
    const { logits, attention } = await this.session.run({
      ids: new ort.Tensor("int64", BigInt64Array.from(ids, BigInt), [1, T]),
      positions: new ort.Tensor("int64", BigInt64Array.from(positions, BigInt), [1, T]),
      mask: new ort.Tensor("bool", mask, [1, 1, T, T]),
      at: new ort.Tensor("int64", BigInt64Array.from(at, BigInt), [at.length]),
    });
    const V = logits.dims[1];
    const rows = at.map((_, i) => logSoftmax(logits.data.subarray(i * V, (i + 1) * V)));
    const scores = asked.map((answers) =>
      answers.map((pairs) => sum(pairs.map(([row, id]) => rows[row][id])) / pairs.length),
    );
    const [L, H] = attention.dims;
    const weights = (l, h) => shown.map((place) => attention.data[(l * H + h) * T + place]);
    return {
      scores,
      attention: Array.from({ length: L }, (_, l) => Array.from({ length: H }, (_, h) => weights(l, h))),
    };
  }
}

// All wanted prompts in one sequence. `<s>` and the demonstrations come once; then for each k the query, which sees the
// first k of them and stands where it would stand behind them; then, of an answer of several tokens, all but the last.
// prompt: start (an id), demonstrations (ids of each, its `</s>` included), query (ids), answers (ids of each).
function layOut({ start, demonstrations, query, answers }, ks) {
  const ids = [start];
  const positions = [0];
  const ends = [1]; // where the first 0, 1, 2, ... demonstrations end
  for (const demonstration of demonstrations) {
    for (const id of demonstration) positions.push(ids.push(id) - 1);
    ends.push(ids.length);
  }
  const sees = ids.map((_, i) => [[0, i + 1]]); // for each token the ranges of tokens that it sees
  const at = [];
  const asked = []; // for each k and answer, which row of logits is about which of its tokens
  let own; // the range of the last query
  const add = (tokens, position, before) => {
    const from = ids.length;
    tokens.forEach((id, i) => {
      ids.push(id);
      positions.push(position + i);
      sees.push([...before, [from, from + i + 1]]);
    });
    return [from, ids.length];
  };
  for (const k of ks) {
    own = add(query, ends[k], [[0, ends[k]]]);
    const row = at.push(own[1] - 1) - 1;
    asked.push(
      answers.map((answer) => {
        const [from, to] = add(answer.slice(0, -1), ends[k] + query.length, [[0, ends[k]], own]);
        const first = at.length;
        for (let i = from; i < to; i++) at.push(i);
        return answer.map((id, i) => [i ? first + i - 1 : row, id]);
      }),
    );
  }
  at.push(own[1] - 1); // whose attention is wanted
  const T = ids.length;
  const mask = new Uint8Array(T * T);
  sees.forEach((ranges, i) => ranges.forEach(([from, to]) => mask.fill(1, i * T + from, i * T + to)));
  const shown = [...Array(ends[ks.at(-1)]).keys(), ...Array.from(query, (_, i) => own[0] + i)];
  return { ids, positions, mask, at, asked, shown };
}

function logSoftmax(logits) {
  const largest = logits.reduce((a, b) => Math.max(a, b));
  const log = largest + Math.log(logits.reduce((all, x) => all + Math.exp(x - largest), 0));
  return logits.map((x) => x - log);
}
