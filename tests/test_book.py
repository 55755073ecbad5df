"""The built book: every page is there, every picture is described, search and Colab work.

Needs ``_build/html`` (``make html``). Without it the tests are skipped, unless BOOK_REQUIRED is
set, as ``make test`` does.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import re
import tomllib
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
HTML = ROOT / "_build" / "html"
TOC = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
URL = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["repository"]["url"]

pytestmark = pytest.mark.skipif(
    not HTML.is_dir() and not os.environ.get("BOOK_REQUIRED"), reason="no _build/html: make html"
)


def files(entries):
    for entry in entries:
        if "file" in entry:
            yield entry["file"]
        for key in ("parts", "chapters", "sections"):
            yield from files(entry.get(key, []))


PAGES = [TOC["root"], *files([TOC])]
CHAPTERS = [p for p in PAGES if re.fullmatch(r"chapters/[^/]+", p)]


FOREIGN = re.compile(r"(?:https?:)?//")


class Page(HTMLParser):
    """Images, links, targets of one page, and the files that a browser loads to show it."""

    def __init__(self, content):
        super().__init__()
        self.images, self.links, self.ids, self.loads = [], [], set(), []
        self.feed(content)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag in ("script", "img", "iframe", "source", "video", "audio", "embed", "input"):
            self.loads += [attrs[k] for k in ("src", "srcset") if attrs.get(k)]
        if tag == "link" and {"stylesheet", "icon", "preload", "preconnect", "dns-prefetch"} & set(
            (attrs.get("rel") or "").split()
        ):
            self.loads.append(attrs["href"])
        if tag == "img":
            self.images.append(attrs)
        if tag == "a" and attrs.get("href"):
            self.links.append(attrs["href"])
        if attrs.get("id"):
            self.ids.add(attrs["id"])


def html(page):
    return (HTML / f"{page}.html").read_text(encoding="utf-8")


@functools.cache
def parsed(file):
    return Page(Path(file).read_text(encoding="utf-8"))


def read(page):
    return parsed(HTML / f"{page}.html")


def undescribed(images):
    """Images without alt text, or with a file path for one. Empty alt marks decoration."""
    return [
        i
        for i in images
        if "alt" not in i
        or i["alt"] is None
        or re.search(r"\.(png|jpe?g|gif|svg)$|^_images/|^data:", i["alt"].strip(), re.IGNORECASE)
    ]


@pytest.mark.parametrize("page", PAGES)
def test_page_exists(page):
    assert (HTML / f"{page}.html").is_file()
    assert len(html(page)) > 5000


def test_front_door():
    assert (HTML / "index.html").is_file()


@pytest.mark.parametrize("page", PAGES)
def test_images_are_described_and_there(page):
    found = read(page).images
    assert undescribed(found) == []
    for image in found:
        source = urlsplit(image["src"])
        if not source.scheme:
            assert ((HTML / page).parent / unquote(source.path)).resolve().is_file(), image["src"]


@pytest.mark.parametrize("page", PAGES)
def test_local_links_lead_somewhere(page):
    here = read(page)
    dead = []
    for link in here.links:
        parts = urlsplit(link)
        if parts.scheme or parts.netloc or link.startswith("#"):
            continue
        target = ((HTML / page).parent / unquote(parts.path)).resolve()
        if not target.is_file():
            dead.append(link)
        elif parts.fragment and target.suffix == ".html":
            if unquote(parts.fragment) not in parsed(target).ids:
                dead.append(link)
    assert dead == []


@pytest.mark.parametrize("page", CHAPTERS)
def test_chapter_figures_have_captions(page):
    notebook = json.loads((ROOT / f"{page}.ipynb").read_text(encoding="utf-8"))
    figures = [
        c
        for c in notebook["cells"]
        if any("image/png" in o.get("data", {}) for o in c.get("outputs", []))
        and not {"remove-cell", "remove-output"} & set(c["metadata"].get("tags", []))
    ]
    assert html(page).count("<figcaption") >= len(figures)
    for figure in re.findall(r"(?s)<figure.*?</figure>", html(page)):
        assert "nclib-card" not in figure, "a claim's card stands in a figure"


@pytest.mark.parametrize("page", CHAPTERS)
def test_chapter_opens_in_colab(page):
    where = URL.removeprefix("https://github.com/")
    link = f"https://colab.research.google.com/github/{where}/blob/main/{page}.ipynb"
    # Twice: the badge in the text and the launch button of the page.
    assert html(page).count(link) >= 2


@pytest.mark.parametrize("page", CHAPTERS)
def test_chapter_can_be_downloaded(page):
    assert (HTML / "_sources" / f"{page}.ipynb").is_file()
    assert f"_sources/{page}.ipynb" in html(page)


@pytest.mark.parametrize("page", CHAPTERS)
def test_claims_table_is_shown(page):
    assert re.search('class="nclib-(claims|report)"', html(page))


def test_pages_say_what_they_are_and_where():
    owner, name = URL.removeprefix("https://github.com/").split("/")
    base = f"https://{owner.lower()}.github.io/{name}/"
    for page in PAGES:
        head = html(page).split("</head>", 1)[0]
        assert f'<link rel="canonical" href="{base}{page}.html"' in head, page
        assert re.search(r'<meta name="description" content="[^"]{20,}"', head), page
        assert '<meta property="og:title"' in head, page
        title = re.search(r"(?s)<title>(.*?)</title>", head)[1].split(" &#8212; ")[0]
        assert len(title) <= 45, title
    for page in PAGES:
        image = re.search(r'property="og:image" content="([^"]+)"', html(page))[1]
        assert (HTML / image.removeprefix(base)).is_file(), page
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    for page in PAGES:
        assert f"Version {version}, built 20" in html(page), page
    places = set(re.findall(r"<loc>([^<]+)</loc>", (HTML / "sitemap.xml").read_text()))
    assert {f"{base}{page}.html" for page in PAGES} <= places
    assert f"{base}sitemap.xml" in (HTML / "robots.txt").read_text()
    assert "No such page" in (HTML / "404.html").read_text()


def text_of(page):
    article = html(page).split("<article", 1)[1].split("</article>", 1)[0]
    article = re.sub(r"(?s)<(script|style|pre).*?</\1>", " ", article)
    article = re.sub(r'(?s)<span class="nclib-tip".*?</span></span>', "", article)
    return re.sub(r"<[^>]+>", " ", article).split()


def test_no_page_is_a_copy_of_another():
    """Share of a page's runs of eight words that another page has too."""
    runs = {}
    for page in PAGES:
        words = text_of(page)
        runs[page] = {tuple(words[i:i + 8]) for i in range(len(words) - 7)}
    for a in PAGES:
        for b in PAGES:
            if a != b and len(runs[a]) > 200:
                assert len(runs[a] & runs[b]) < 0.5 * len(runs[a]), (a, b)


def test_every_claim_leads_to_its_row_and_back():
    ledger = html("pages/ledger")
    rows = set(re.findall(r'<tr id="([^"]+)"', ledger))
    assert rows
    for page in CHAPTERS:
        slug, here = page.split("/")[1], html(page)
        for id in [r.split("--", 1)[1] for r in rows if r.startswith(f"{slug}--")]:
            assert f'id="claim-{id}"' in here, id
            assert f"../pages/ledger.html#{slug}--{id}" in here, id
            assert f"../chapters/{slug}.html#claim-{id}" in ledger


@pytest.mark.parametrize("page", PAGES)
def test_no_directive_was_left_unread(page):
    article = html(page).split("<article", 1)[1].split("</article>", 1)[0]
    article = re.sub(r"(?s)<pre.*?</pre>|<code.*?</code>", "", article)
    assert not re.search(
        r"\{(?:image|figure|bibliography|cite|doc|ref)\}|^:::", article, re.MULTILINE
    )


def test_search_knows_every_page():
    index = (HTML / "searchindex.js").read_text(encoding="utf-8")
    data = json.loads(index[index.index("{") : index.rindex("}") + 1])
    assert set(PAGES) <= set(data["docnames"])
    assert (HTML / "search.html").is_file()


def test_dark_mode_and_style():
    content = html(TOC["root"])
    assert "theme-switch-button" in content
    assert "custom.css" in content
    style = (HTML / "_static" / "custom.css").read_text(encoding="utf-8")
    assert 'data-theme="dark"' in style and "nclib-card" in style


@pytest.mark.parametrize("page", [*PAGES, "search", "genindex"])
def test_nothing_comes_from_another_host(page):
    loads = read(page).loads
    assert [u for u in loads if FOREIGN.match(u)] == []
    assert not re.search(r"fontawesome|thebe|mathjax", " ".join(loads), re.IGNORECASE)
    assert ("searchindex.js" in " ".join(loads)) is (page == "search")
    for load in loads:
        file = ((HTML / page).parent / unquote(urlsplit(load).path)).resolve()
        assert load.startswith("data:") or file.is_file(), load
        if file.suffix == ".css":
            style = re.sub(r"(?s)/\*.*?\*/", "", file.read_text(encoding="utf-8"))
            assert not re.search(r"(?:url\(|@import)\s*['\"]?(?:https?:)?//", style), load


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_light(page):
    """HTML, styles and scripts of one page in at most 2 MB; fonts are counted in the browser."""
    files = {((HTML / page).parent / unquote(urlsplit(u).path)).resolve()
             for u in read(page).loads}
    text = sum(f.stat().st_size for f in files if f.suffix in (".css", ".js"))
    assert len(html(page).encode()) + text <= 2_000_000


def test_formulas_are_set_by_the_copy_that_is_named():
    folder = ROOT / "pages" / "_static" / "katex"
    told = (folder / "VERSION.txt").read_text(encoding="utf-8")
    version = re.search(r"KaTeX (\d+\.\d+\.\d+)", told)[1]
    assert f'"{version}"' in (folder / "katex.min.js").read_text(encoding="utf-8")
    style = (folder / "katex.min.css").read_text(encoding="utf-8")
    for font in re.findall(r"url\((fonts/[^)]+\.woff2)\)", style):
        assert (folder / font).is_file(), font
    loads = " ".join(read("pages/notation").loads)
    assert "katex.min.js" in loads and "katex.min.css" in loads
    assert "katex" not in " ".join(read("pages/ledger").loads)


@pytest.mark.parametrize("page", CHAPTERS)
def test_terms_of_the_glossary_are_explained(page):
    content = html(page)
    tips = re.findall(r'aria-describedby="(nclib-tip-\d+)"', content)
    assert len(tips) >= 5 and len(tips) == len(set(tips))
    for tip in tips:
        assert re.search(rf'role="tooltip" id="{tip}">[^<]*\w', content), tip
    for kind in ("h1", "h2", "h3", "a", "code", "pre", "table", "summary"):
        for inside in re.findall(rf"(?s)<{kind}\b[^>]*>(.*?)</{kind}>", content):
            assert "nclib-term" not in inside, (kind, inside[:80])


@functools.cache
def extension():
    spec = importlib.util.spec_from_file_location(
        "nclib_book", ROOT / "pages" / "_ext" / "nclib_book.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("term", "text", "found"),
    [
        ("Simplex ETF", "two simplex ETFs meet", "simplex ETFs"),
        ("Equiangular tight frame (ETF)", "an ETF", "ETF"),
        ("Equiangular tight frame (ETF)", "etf", None),
        ("Unconstrained features model (UFM)", "the unconstrained-features model",
         "unconstrained-features model"),
        ("Long tail", "a long-tail set", "long-tail"),
        ("NC1, NC2", "DNC1 and NC2", "NC2"),
        ("Stand-in", "stand-ins", "stand-ins"),
        ("Control", "controlled", None),
        ("Balanced", "unbalanced", None),
    ],
)
def test_a_term_is_found_as_it_is_spelled(term, text, found):
    ext = extension()
    either = "|".join(ext.pattern(words) for words in ext.spellings(term))
    match = re.search(rf"(?<![\w-])(?:{either})(?![\w-])", text)
    assert (match[0] if match else None) == found


@pytest.mark.parametrize("page", CHAPTERS)
def test_a_chapter_cites_its_work_and_is_named_in_the_bibliography(page):
    slug = page.split("/")[1]
    links = [h for h in read(page).links if h.startswith("../pages/bibliography.html#")]
    assert links
    bibliography = html("pages/bibliography")
    entries = re.findall(r'(?s)<div class="citation" id="([^"]+)".*?</div>', bibliography)
    for link in links:
        assert link.split("#")[1] in entries
    back = [h for h in read("pages/bibliography").links if f"chapters/{slug}.html#" in h]
    assert len(back) >= len(set(links))
    for link in back:
        assert link.split("#")[1] in read(page).ids


def test_every_work_that_a_chapter_links_is_in_the_bibliography():
    bib = (ROOT / "references.bib").read_text(encoding="utf-8")
    for page in CHAPTERS:
        cells = json.loads((ROOT / f"{page}.ipynb").read_text(encoding="utf-8"))["cells"]
        prose = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
        for number in re.findall(r"arxiv\.org/abs/(\d{4}\.\d{4,5})", prose):
            assert number in bib, (page, number)


def test_bibliography_lists_the_works():
    works = yaml.safe_load((ROOT / "chapters" / "works.yml").read_text(encoding="utf-8"))
    content = " ".join(re.sub(r"<[^>]+>", "", html("pages/bibliography")).split()).lower()
    for work in (w for w in works if not w.get("synthesis")):
        assert work["title"].split(":")[0].lower() in content, work["slug"]


@pytest.mark.parametrize(
    ("image", "bad"),
    [
        ({"src": "a.png"}, True),
        ({"src": "a.png", "alt": None}, True),
        ({"src": "a.png", "alt": "../_images/a.png"}, True),
        ({"src": "a.png", "alt": "Two lines cross"}, False),
        ({"src": "a.png", "alt": ""}, False),
    ],
)
def test_the_alt_rule_can_fail(image, bad):
    assert bool(undescribed([image])) is bad


def test_the_print_of_all_pages_is_one_document():
    """Order of the contents, ids of its own, links that stay inside or lead to the web."""
    from reproduce import pdf
    from reproduce.layout import Layout

    document = pdf.whole(Layout(ROOT), HTML)
    whole = Page(document)
    sheets = re.findall(r'<article class="bd-article nclib-sheet" id="([^"]+)"', document)
    assert sheets == [pdf.name(page) for page in PAGES]
    ids = re.findall(r'<[a-zA-Z][^>]*\sid="([^"]+)"', document)
    assert len(ids) == len(set(ids))
    for link in whole.links:
        if link.startswith("#"):
            assert unquote(link[1:]) in whole.ids, link
        else:
            assert urlsplit(link).scheme in ("https", "http", "mailto"), link
    for load in whole.loads:
        assert load.startswith("data:") or (HTML / load.split("?")[0]).is_file(), load


def test_the_pdf_where_it_was_printed():
    from reproduce import pdf

    file = HTML / pdf.NAME
    if not file.is_file():
        pytest.skip("no PDF: make pdf")
    data = file.read_bytes()
    assert data.startswith(b"%PDF") and b"/Outlines" in data
    assert pdf.count(data) >= 3 * len(PAGES)
    assert f'href="{pdf.NAME}"' in html("intro")
