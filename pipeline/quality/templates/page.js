"use strict";
// The page is complete without this: it adds filters, sliders and large pictures.
(() => {
  const make = (name, properties, ...children) => {
    const node = Object.assign(document.createElement(name), properties);
    node.append(...children);
    return node;
  };

  // Two pictures of the same thing become one, with a slider between them.
  const slide = (card) => {
    const frame = card.querySelector(".frame");
    const [left, right] = [...card.querySelectorAll(".layer > .tag")].map((tag) => tag.textContent);
    const range = make("input", { type: "range", min: 0, max: 100, value: 50 });
    range.setAttribute("aria-label", `Share of the picture that shows ${left} instead of ${right}`);
    range.addEventListener("input", () => frame.style.setProperty("--cut", `${range.value}%`));
    card.querySelector(".slider")?.remove();
    frame.after(make("div", { className: "slider" }, make("span", { textContent: left }), range, make("span", { textContent: right })));
    card.classList.add("sliding");
  };

  // A click or Enter shows a card large. Escape closes it, as every dialog.
  const dialog = make("dialog", {});
  document.body.append(dialog);
  const enlarge = (card) => {
    const large = card.cloneNode(true);
    large.querySelectorAll("button.zoom").forEach((button) => button.replaceWith(...button.childNodes));
    large.querySelectorAll("img").forEach((image) => { image.loading = "eager"; });
    const close = make("button", { className: "close", textContent: "Close", type: "button" });
    close.addEventListener("click", () => dialog.close());
    dialog.setAttribute("aria-label", card.querySelector(".name").textContent);
    dialog.replaceChildren(close, large);
    if (large.classList.contains("compare")) slide(large);
    dialog.showModal();
  };
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });

  for (const card of document.querySelectorAll(".card")) {
    if (card.classList.contains("compare")) slide(card);
    const image = card.querySelector("img");
    if (!image) continue;
    const button = make("button", { className: "zoom", type: "button" });
    button.setAttribute("aria-label", `Enlarge ${card.querySelector(".name").textContent}`);
    image.replaceWith(button);
    button.append(image);
    button.addEventListener("click", () => enlarge(card));
  }

  // A field above many pictures or rows shows those with all its words.
  document.querySelectorAll("[data-filter]").forEach((box, place) => {
    const isImages = box.dataset.filter === "images";
    const items = [...box.querySelectorAll(isImages ? ".card" : "tbody tr")];
    const words = items.map((item) => (item.dataset.words || item.textContent).toLowerCase());
    const field = make("input", { type: "search", id: `filter-${place}` });
    const label = make("label", { htmlFor: field.id, textContent: isImages ? "Filter by name or class" : "Filter rows" });
    const count = make("output", { textContent: `${items.length}` });
    field.addEventListener("input", () => {
      const wanted = field.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      items.forEach((item, index) => {
        item.hidden = !wanted.every((word) => words[index].includes(word));
        shown += !item.hidden;
      });
      count.textContent = wanted.length ? `${shown} of ${items.length}` : `${items.length}`;
    });
    box.before(make("div", { className: "filter" }, label, field, count));
  });
})();
