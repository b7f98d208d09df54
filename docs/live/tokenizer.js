// Text -> token ids: a word of pocket-gpt's language is one token, anything else is spelled in bytes.

// How GPT-2 cuts a text into pieces; the space before a word belongs to it.
const PIECES = /'(?:s|t|re|ve|m|ll|d)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+/gu;

export class Tokenizer {
  constructor({ start, end, words, bytes }) {
    this.start = start; // <s>, before everything
    this.end = end; // </s>, after each demonstration
    this.words = new Map(Object.entries(words));
    this.bytes = bytes;
    this.texts = new Map([[start, "<s>"], [end, "</s>"], ...Object.entries(words).map(([word, id]) => [id, word])]);
  }

  // ids: the tokens; spelled: the pieces that are no word of the language, each with its number of bytes.
  encode(text) {
    const ids = [],
      spelled = [];
    for (const [piece] of text.matchAll(PIECES)) {
      const word = this.words.get(piece);
      const bytes = word === undefined ? [...new TextEncoder().encode(piece)] : [];
      ids.push(...(word === undefined ? bytes.map((byte) => this.bytes[byte]) : [word]));
      if (bytes.length > 1) spelled.push({ text: piece.trim(), bytes: bytes.length });
    }
    return { ids, spelled };
  }

  // What is shown of each token, in order; bytes of one character are shown as it, at the first of them.
  show(ids) {
    const shown = ids.map((id) => this.texts.get(id) ?? "");
    const byte = ids.map((id) => this.bytes.indexOf(id));
    for (let i = 0, j; i < ids.length; i = j) {
      for (j = i + 1; byte[i] >= 0 && (byte[j] & 0xc0) === 0x80; j++);
      if (byte[i] >= 0) shown[i] = new TextDecoder().decode(Uint8Array.from(byte.slice(i, j)));
    }
    return shown;
  }
}
