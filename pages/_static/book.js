/* Formulas, terms, and two switches: all folded code of a chapter, and moving pictures. The pages
   read without them. */

// The color scheme is set before the first paint, not after the theme's own script has loaded.
{
  const root = document.documentElement.dataset;
  root.mode ||= "auto";
  root.theme ||= matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
}

const nclibMemory = {
  get(key) {
    try { return localStorage.getItem(key); } catch { return null; }
  },
  set(key, value) {
    try { localStorage.setItem(key, value); } catch { /* private mode: forget */ }
  },
};

/* --- formulas: Sphinx writes \\(…\\) and \\[…\\]; KaTeX lies beside this file --- */

function nclibMath() {
  if (!window.katex) return;
  for (const place of document.querySelectorAll("span.math, div.math")) {
    const tex = place.textContent.trim().replace(/^\\[([]|\\[)\]]$/g, "");
    katex.render(tex, place, { displayMode: place.tagName === "DIV", throwOnError: false });
  }
}

/* --- terms: an entry stays inside the window, and Escape shuts it --- */

function nclibTerm(term) {
  const tip = term.querySelector(".nclib-tip");
  const place = () => {
    term.classList.remove("nclib-shut");
    term.style.removeProperty("--nclib-shift");
    const over = tip.getBoundingClientRect().right - document.documentElement.clientWidth + 8;
    if (over > 0) term.style.setProperty("--nclib-shift", `${-over}px`);
  };
  term.addEventListener("mouseenter", place);
  term.addEventListener("focusin", place);
}

addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  document.querySelectorAll(".nclib-gloss").forEach((term) => term.classList.add("nclib-shut"));
});

/* --- show all code --- */

function nclibCodeSwitch() {
  const folded = [...document.querySelectorAll(".bd-article .cell details.hide.above-input")];
  if (folded.length < 2) return;
  const button = document.createElement("button");
  button.type = "button";
  button.className = "btn btn-sm nclib-code-switch";
  const draw = (open) => {
    button.setAttribute("aria-pressed", open);
    button.title = open ? "Fold the code of this page" : "Open the code of this page";
    button.innerHTML =
      `<span aria-hidden="true">&lt;/&gt;</span> <span>${open ? "Hide code" : "Show all code"}</span>`;
  };
  const set = (open) => {
    for (const details of folded) details.open = open;
    draw(open);
  };
  button.addEventListener("click", () => {
    const open = button.getAttribute("aria-pressed") !== "true";
    // What is being read stays where it is, though the code above it grows or shrinks.
    const read = [...document.querySelectorAll(".bd-article :is(h1, h2, h3, p, figure, .cell)")]
      .find((e) => e.getBoundingClientRect().bottom > 80 && !e.closest("details"));
    const before = read?.getBoundingClientRect().top;
    set(open);
    nclibMemory.set("nclib-code", open ? "all" : "folded");
    if (read) scrollBy({ top: read.getBoundingClientRect().top - before, behavior: "instant" });
  });
  const bar = document.querySelector(".article-header-buttons");
  if (bar) bar.prepend(button);
  else document.querySelector(".bd-article h1")?.after(button);
  if (nclibMemory.get("nclib-code") === "all") set(true);
  else draw(false);
}

/* --- moving pictures: the still twin in place of the moving one --- */

function nclibPause(picture) {
  const source = picture.querySelector("source");
  const reduced = matchMedia("(prefers-reduced-motion: reduce)");
  const button = document.createElement("button");
  button.type = "button";
  button.className = "nclib-pause";
  const set = (paused) => {
    source.media = paused ? "all" : "print";
    button.textContent = paused ? "▶ Play" : "❚❚ Pause";
    button.setAttribute("aria-pressed", paused);
  };
  button.addEventListener("click", () => set(button.getAttribute("aria-pressed") !== "true"));
  reduced.addEventListener("change", () => set(reduced.matches));
  const frame = document.createElement("span");
  frame.className = "nclib-frame";
  const shown = picture.closest("a") ?? picture;
  shown.replaceWith(frame);
  frame.append(shown, button);
  set(reduced.matches);
}

document.addEventListener("DOMContentLoaded", () => {
  nclibMath();
  document.querySelectorAll(".nclib-gloss").forEach(nclibTerm);
  nclibCodeSwitch();
  document.querySelectorAll("picture.nclib-moving").forEach(nclibPause);
});
