"""The built book in headless Chromium: two windows, light and dark, with and without JavaScript.

Skipped where there is no Chromium or no ``_build/html``, unless BOOK_BROWSER is set.
"""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path

import pytest
import yaml
from browser import Browser, chromium

ROOT = Path(__file__).resolve().parents[1]
HTML = ROOT / "_build" / "html"
REQUIRED = bool(os.environ.get("BOOK_BROWSER"))
pytestmark = [
    pytest.mark.skipif(not HTML.is_dir() and not REQUIRED, reason="no _build/html: make html"),
    pytest.mark.skipif(chromium() is None and not REQUIRED, reason="no Chromium on this machine"),
]
PAGES = sorted(
    str(p.relative_to(HTML)) for p in HTML.rglob("*.html")
    if p.name not in ("genindex.html", "index.html", "search.html")
    and not p.relative_to(HTML).parts[0].startswith("_")
)
CHAPTERS = [p for p in PAGES if p.startswith("chapters/") and p.count("/") == 1]
WINDOWS = {"desktop": (1280, 800, 1.0), "phone": (390, 844, 1.6)}

# The works of the ledger and of the landing page, so that their rows can be judged.
OPENED = "document.querySelectorAll('.nclib-ledger details').forEach((d) => { d.open = true; })"

# What is wider than its place. Code and formulas may scroll where they stand.
WIDE = """(() => {
  const found = [];
  const page = document.documentElement;
  if (page.scrollWidth > page.clientWidth + 1) found.push(`page ${page.scrollWidth}`);
  for (const e of document.querySelectorAll(
      '.nclib-card, .nclib-report, .nclib-abstract, .nclib-ledger, .nclib-rows tr, ' +
      '.bd-article figure img')) {
    if (!e.offsetParent) continue;
    const box = e.getBoundingClientRect();
    if (e.scrollWidth > e.clientWidth + 1 && e.clientWidth || box.right > innerWidth + 1)
      found.push(`${e.tagName}.${e.className} ${e.id}`);
  }
  return found;
})()"""

# Text of cards, report and ledger whose contrast with the ground of the page is below 4.5.
FAINT = """(() => {
  const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const rgb = (color) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = (c) => [0.2126, 0.7152, 0.0722].reduce((sum, weight, i) => {
    const v = c[i] / 255;
    return sum + weight * (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  }, 0);
  const ground = (e) => {
    for (; e; e = e.parentElement) {
      const c = rgb(getComputedStyle(e).backgroundColor);
      if (c[3] > 250) return c;
    }
    return [255, 255, 255, 255];
  };
  const found = new Set();
  for (const e of document.querySelectorAll(
      ':is(.nclib-card, .nclib-report, .nclib-ledger) :is(b, small, code, a, div, td)')) {
    if (!e.offsetParent || ![...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()))
      continue;
    const [a, b] = [light(rgb(getComputedStyle(e).color)), light(ground(e))].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) found.add(`${e.tagName}.${e.className} ${e.textContent}`);
  }
  return [...found].slice(0, 5);
})()"""

FIRST_FIGURE = """(() => {
  const image = document.querySelector('.bd-article :is(figure, .cell_output) img, .nclib-cover');
  return image ? image.getBoundingClientRect().top / innerHeight : null;
})()"""

# Bytes of the page and of what it loads, pictures apart.
WEIGHT = """performance.getEntries()
  .filter((e) => ['navigation', 'resource'].includes(e.entryType))
  .filter((e) => !/[.](png|svg|jpg|gif)([?]|$)/.test(e.name))
  .reduce((sum, e) => sum + e.decodedBodySize, 0)"""
MOST = 2_000_000

# Formulas that stand as TeX code or in red, or whose start cannot be seen.
RAW = """[...document.querySelectorAll('.math')].filter((e) =>
  !e.querySelector('.katex') || e.querySelector('.katex-error, [style*="color:#cc0000"]')
  || e.tagName === 'DIV' && e.offsetParent
    && e.querySelector('.katex-html > *').getBoundingClientRect().left
      < e.getBoundingClientRect().left - 1)
  .map((e) => e.textContent.slice(0, 80))"""

GRAY = """[...document.querySelectorAll('.bd-article figure img')].filter((image) => {
  const style = getComputedStyle(image);
  return style.filter !== 'none' || style.backgroundColor !== 'rgba(0, 0, 0, 0)';
}).map((image) => image.alt)"""


@pytest.fixture(scope="module")
def browser():
    with Browser(HTML) as b:
        yield b


@pytest.mark.parametrize("page", PAGES)
def test_page(browser, page):
    """No error, nothing foreign, raw, heavy, sideways or faint, no gray box, the figure early."""
    faults = []
    for javascript in (True, False):
        browser.view(1280, 800)
        errors = browser.open(page, javascript=javascript)
        faults += [f"console: {e}" for e in errors]
        faults += [f"from elsewhere: {u}" for u in browser.requests()
                   if not u.startswith(browser.root)]
        if javascript:
            weight = browser.run(WEIGHT)
            if not 500 < weight <= MOST:
                faults.append(f"{weight} bytes")
        for name, (width, height, screens) in WINDOWS.items():
            for dark in (False, True):
                browser.view(width, height, dark=dark)
                if javascript:
                    theme = "dark" if dark else "light"
                    browser.run(f"document.documentElement.dataset.theme = '{theme}'")
                    faults += [f"{name}: formula: {f}" for f in browser.run(RAW) if not dark]
                browser.run(OPENED)
                where = f"{name}, {'dark' if dark else 'light'}, script {javascript}"
                faults += [f"{where}: wide: {w}" for w in browser.run(WIDE)]
                faults += [f"{where}: faint: {f}" for f in browser.run(FAINT)]
                faults += [f"{where}: ground of {g!r}" for g in browser.run(GRAY)]
                top = browser.run(FIRST_FIGURE)
                if page in CHAPTERS or page == "intro.html":
                    if top is None or top > screens:
                        faults.append(f"{where}: first figure at {top} screens")
    assert faults == []


@pytest.mark.parametrize("page", CHAPTERS)
def test_the_switch_opens_all_code_and_is_remembered(browser, page):
    state = "[...document.querySelectorAll('.bd-article details.hide')].map((d) => d.open)"
    browser.view()
    browser.open(page)
    before = browser.run(state)
    if len(before) < 2:
        pytest.skip("no folded code")
    assert not any(before)
    click = "document.querySelector('.nclib-code-switch').click()"
    browser.run(click)
    assert all(browser.run(state))
    browser.open(page)
    assert all(browser.run(state))
    browser.run(click)
    browser.open(page)
    assert not any(browser.run(state))


@pytest.mark.parametrize("page", CHAPTERS)
def test_open_code_is_short_and_fits_its_place(browser, page):
    browser.view()
    browser.open(page)
    lines = browser.run("""[...document.querySelectorAll('.bd-article .cell > .cell_input pre')]
        .flatMap((e) => e.textContent.trimEnd().split('\\n'))""")
    assert 10 < len(lines) < 150
    everything = browser.run("""[...document.querySelectorAll('.bd-article .cell .cell_input pre')]
        .flatMap((e) => e.textContent.trimEnd().split('\\n'))""")
    assert len(everything) > len(lines) and [w for w in everything if len(w) > 84] == []
    cut = browser.run("""[...document.querySelectorAll('.bd-article .cell > .cell_input pre')]
        .filter((e) => e.scrollWidth > e.clientWidth + 1).map((e) => e.textContent.slice(0, 60))""")
    assert cut == []


TIPS = """(() => {
  const wrong = [];
  const terms = [...document.querySelectorAll('.nclib-term')];
  for (const term of terms) {
    term.focus();
    const tip = document.getElementById(term.getAttribute('aria-describedby'));
    const box = tip.getBoundingClientRect();
    if (!box.width || box.left < 0 || box.right > innerWidth || document.activeElement !== term
        || document.documentElement.scrollWidth > innerWidth)
      wrong.push(`${term.textContent} ${box.left} ${box.right}`);
    term.blur();
    if (tip.getBoundingClientRect().width) wrong.push(`${term.textContent} stays`);
  }
  return [terms.length, wrong];
})()"""


@pytest.mark.parametrize("page", CHAPTERS)
def test_terms_open_on_focus_and_fit_the_window(browser, page):
    browser.open(page)
    for width, height in ((1280, 800), (390, 844)):
        browser.view(width, height)
        count, wrong = browser.run(TIPS)
        assert count >= 5 and wrong == [], (width, wrong)
    browser.open(page, javascript=False)  # the page's own scripts; this test's run
    browser.view()
    assert browser.run("(() => { const term = document.querySelector('.nclib-term'); term.focus();"
                       "return term.nextElementSibling.offsetWidth; })()") > 0


def test_escape_shuts_an_entry(browser):
    browser.view()
    browser.open(CHAPTERS[0])
    width = "document.querySelector('.nclib-tip').offsetWidth"
    browser.run("document.querySelector('.nclib-term').focus()")
    assert browser.run(width) > 0
    for kind in ("keyDown", "keyUp"):
        browser.send("Input.dispatchKeyEvent", type=kind, key="Escape", code="Escape",
                     windowsVirtualKeyCode=27)
    assert browser.run(width) == 0


def test_moving_pictures_rest_where_asked(browser):
    moving = [p for p in PAGES if "nclib-moving" in (HTML / p).read_text(encoding="utf-8")]
    assert moving
    shown = "document.querySelector('picture.nclib-moving img').currentSrc"
    try:
        browser.view(reduced=True)
        browser.open(moving[0], javascript=False)
        assert browser.run(shown).endswith("-still.png")
        browser.view()
        browser.open(moving[0])
        settled = "new Promise((done) => setTimeout(done, 200))"
        browser.run(settled)
        assert not browser.run(shown).endswith("-still.png")
        browser.run("document.querySelector('.nclib-pause').click()")
        browser.run(settled)
        assert browser.run(shown).endswith("-still.png")
    finally:
        browser.view()


def test_the_ledger_is_a_table_without_scripts(browser):
    """Every row can be read, no control stands there that does nothing."""
    browser.view(390, 844)
    browser.open("pages/ledger.html", javascript=False)
    seen = browser.run("""(() => {
      const works = [...document.querySelectorAll('details.nclib-work')];
      works.forEach((work) => { work.open = true; });
      const rows = [...document.querySelectorAll('.nclib-rows tr')];
      return [works.length, rows.length, rows.filter((row) => !row.offsetHeight).length,
        document.querySelector('.nclib-filters').offsetHeight];
    })()""")
    browser.view()
    assert seen[0] >= 5 and seen[1] > 100 and seen[2:] == [0, 0]


def test_a_claim_is_one_click_from_its_row_and_back(browser):
    """From a card to the ledger, where its work opens, and back to the very card."""
    browser.view()
    browser.open(CHAPTERS[0])
    here = browser.run("document.querySelector('.nclib-card').id")
    row = browser.run(f"document.querySelector('#{here} a[href*=\"ledger.html#\"]').href")
    browser.open(row.removeprefix(browser.root))
    shown = browser.run("""(() => {
      const box = document.querySelector(':target').getBoundingClientRect();
      return [box.height > 0 && box.top >= 0 && box.bottom <= innerHeight,
        document.querySelector(':target a[href*="#claim-"]').href];
    })()""")
    assert shown == [True, f"{browser.root}{CHAPTERS[0]}#{here}"]


def test_search_lists_each_page_once(browser):
    browser.view()
    browser.open("search.html?q=collapse")
    browser.run("new Promise((done) => setTimeout(done, 1500))")
    found = browser.run("[...document.querySelectorAll('#search-results li > a')]"
                        ".map((a) => a.href.replace(/[?][^#]*/, ''))")
    assert found and len(found) == len(set(found))
    assert not [f for f in found if "/variants/" in f]


def test_next_runs_through_the_chapters():
    """From the first chapter on, `next` reaches every chapter in the order of the contents."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    wanted = [f"{c['file']}.html" for part in toc["parts"] for c in part["chapters"]
              if c["file"].startswith("chapters/")]
    here, seen = wanted[0], []
    for _ in range(len(PAGES)):
        seen.append(here)
        text = (HTML / here).read_text(encoding="utf-8")
        link = re.search(r'<a class="right-next"\s+href="([^"#]+)"', text)
        if not link:
            break
        here = posixpath.normpath(posixpath.join(posixpath.dirname(here), link[1]))
    assert [p for p in seen if p in wanted] == wanted


def test_figures_are_numbered_within_their_page():
    for page in CHAPTERS:
        text = (HTML / page).read_text(encoding="utf-8")
        numbers = re.findall(r'<span class="caption-number">\s*([^<]*?)\s*</span>', text)
        assert numbers == [f"Figure {i}" for i in range(1, len(numbers) + 1)], page
        assert len(numbers) >= 5, page
