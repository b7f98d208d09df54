// An explorer without a kernel: its controls choose among figures that were drawn when the book was built.
for (const box of document.querySelectorAll(".explorer")) {
  const texts = JSON.parse(box.querySelector("script").textContent);
  const controls = [...box.querySelectorAll("[data-count]")];
  const [image, caption] = [box.querySelector("img"), box.querySelector("p")];

  box.addEventListener("input", () => {
    let index = 0; // the last control changes first
    for (const control of controls) {
      const input = control.querySelector("input:checked, input[type=range]");
      index = index * Number(control.dataset.count) + Number(input.value);
      if (input.type === "range") {
        const value = JSON.parse(control.dataset.values)[input.value];
        control.querySelector("output").textContent = value;
        input.setAttribute("aria-valuetext", value);
      }
    }
    image.src = `${box.dataset.figures}${index}.webp`;
    image.alt = caption.textContent = texts[index];
  });
}
