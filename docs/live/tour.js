// Five steps, each of which writes a prompt and says what to look at. What they claim is tested.

const STEPS = [
  {
    title: "Ask without showing anything",
    shown: 0,
    text: `The query says something bad, and the answers are blaxo for bad and blumpi for good: two words that in
      training stood for something else in every document. Nothing tells the model that one of them should follow.
      It gives both less than one per cent.`,
  },
  {
    title: "Show one demonstration",
    shown: 1,
    text: `A good thing is shown, with its label blumpi. Now the model is quite sure of blumpi for the bad thing as
      well: it has learnt which kind of word follows, and repeats the one it saw. What the word means, it cannot
      know yet.`,
  },
  {
    title: "Show sixteen",
    shown: 16,
    text: `Both words have been seen, with what they stand for, and the model answers blaxo. Follow the two lines:
      where do they change places? The weights are those of the first step. All that changed is the prompt.`,
  },
  {
    title: "Swap the two words",
    shown: 16,
    swapped: true,
    text: `The same sentences, but now blumpi stands for bad and blaxo for good. The answer is swapped too: the model
      does not prefer one of the words. What they mean is taken from the prompt.`,
  },
  {
    title: "See where it looks",
    shown: 16,
    layer: 1,
    text: `In layer 2 nearly all attention is on the demonstrations (λ is close to 1), and there on their labels. For
      given inputs of the layer, a share λ of what a head gives comes from them, exactly: notebook 02 makes this a
      formula, and asks how close it is to gradient descent. Now teach it yourself: give one demonstration the
      wrong label, or write a sentence.`,
  },
];

// show(shown, swapped, layer): writes the prompt of a step.
export function tour(box, show) {
  const start = box.querySelector("#live-tour-start");
  const panel = box.querySelector("#live-tour-step");
  const title = panel.querySelector("h2");
  const text = panel.querySelector("p");
  const [back, next] = panel.querySelectorAll("button");
  let at = -1;
  function go(step) {
    at = step < STEPS.length ? step : -1;
    const open = at >= 0;
    panel.hidden = !open;
    start.hidden = open;
    if (!open) return start.focus();
    title.textContent = `${at + 1} of ${STEPS.length}. ${STEPS[at].title}`;
    text.textContent = STEPS[at].text;
    back.disabled = at === 0;
    next.textContent = at === STEPS.length - 1 ? "Finish" : "Next";
    title.focus();
    show(STEPS[at]);
  }
  start.addEventListener("click", () => go(0));
  panel.addEventListener("click", ({ target }) => {
    if (target.dataset.go) go(target.dataset.go === "0" ? -1 : at + Number(target.dataset.go));
  });
}
