// One switch on a chapter for all its folded code; the choice is remembered.
document.addEventListener("DOMContentLoaded", () => {
  const folds = [...document.querySelectorAll(".bd-article div.cell details.hide")];
  const title = document.querySelector(".bd-article h1");
  if (!folds.length || !title) return;
  const key = "nclib-show-code";
  const button = document.createElement("button");
  button.type = "button";
  button.className = "nclib-code-switch";
  const set = (open) => {
    folds.forEach((fold) => { fold.open = open; });
    button.textContent = open ? "Hide all code" : "Show all code";
    button.setAttribute("aria-pressed", String(open));
  };
  let open = false;
  try { open = localStorage.getItem(key) === "1"; } catch { /* no storage: start folded */ }
  button.addEventListener("click", () => {
    open = !open;
    try { localStorage.setItem(key, open ? "1" : "0"); } catch { /* not remembered */ }
    set(open);
  });
  set(open);
  title.after(button);
});

// Animations stop where the reader asks for less motion, and on a click.
document.addEventListener("DOMContentLoaded", () => {
  const still = window.matchMedia("(prefers-reduced-motion: reduce)");
  document.querySelectorAll(".bd-article img").forEach((img) => {
    const check = async () => {
      const head = new Uint8Array(await (await fetch(img.src)).arrayBuffer(), 0, 64);
      return String.fromCharCode(...head).includes("acTL");
    };
    const toggle = () => {
      if (img.dataset.moving) {
        img.src = img.dataset.moving;
        delete img.dataset.moving;
        return;
      }
      const canvas = document.createElement("canvas");
      canvas.width = img.naturalWidth;
      canvas.height = img.naturalHeight;
      canvas.getContext("2d").drawImage(img, 0, 0);  // an <img> draws its first frame
      img.dataset.moving = img.src;
      img.src = canvas.toDataURL();
    };
    check().then((moving) => {
      if (!moving) return;
      img.title = "Click to pause or go on";
      img.style.cursor = "pointer";
      img.addEventListener("click", toggle);
      if (still.matches) (img.complete ? toggle() : img.addEventListener("load", toggle, { once: true }));
    }).catch(() => { /* opened from a file: no fetch, the animation just runs */ });
  });
});
