// Filters and search of the ledger. Without it the page is a plain table.
(() => {
  const ledger = document.querySelector(".nclib-ledger");
  if (!ledger) return;
  const bar = ledger.querySelector(".nclib-filters");
  const rows = [...ledger.querySelectorAll(".nclib-rows tr")];
  const texts = rows.map((row) => row.querySelector(".nclib-what").textContent.toLowerCase());
  const count = bar.querySelector(".nclib-count");
  const search = bar.querySelector("input");
  const chosen = {};
  let wasAsked = false;
  bar.hidden = false;

  function draw() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    rows.forEach((row, i) => {
      const fits =
        Object.entries(chosen).every(([key, value]) => !value || row.dataset[key] === value) &&
        words.every((word) => texts[i].includes(word));
      row.hidden = !fits;
      shown += fits;
    });
    const asked = words.length > 0 || Object.values(chosen).some(Boolean);
    ledger.querySelectorAll(".nclib-work").forEach((section) => {
      section.hidden = ![...section.querySelectorAll("tr")].some((row) => !row.hidden);
      if (asked !== wasAsked) section.open = asked;
    });
    wasAsked = asked;
    count.textContent = `${shown} of ${rows.length} claims`;
  }

  bar.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    const { key, value } = button.dataset;
    chosen[key] = chosen[key] === value ? "" : value;
    bar.querySelectorAll(`button[data-key="${key}"]`).forEach((other) => {
      other.setAttribute("aria-pressed", String(other.dataset.value === chosen[key]));
    });
    draw();
  });
  bar.querySelector("select").addEventListener("change", (event) => {
    chosen.work = event.target.value;
    draw();
  });
  search.addEventListener("input", draw);
  draw();

  // A permanent link opens the work that holds its claim.
  function open() {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    const work = target?.closest(".nclib-work");
    if (!work || work.open) return;
    work.open = true;
    target.scrollIntoView();
  }
  addEventListener("hashchange", open);
  open();
})();
