"""The built book as one PDF: its articles in the order of ``_toc.yml``, printed by a Chromium."""

from __future__ import annotations

import datetime
import html
import os
import posixpath
import re
import shutil
import subprocess
import tempfile
import tomllib
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from .book import pages
from .layout import BookError, Layout, read_yaml
from .run import say

NAME = "neural-collapse-reproduced.pdf"
PLACE = re.compile(r'<span class="nclib-pdf">.*?</span>')
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
TAG = re.compile(r"<[a-zA-Z][^>]*>")
ADDRESS = re.compile(r'\s(id|href|src|srcset|aria-describedby|aria-labelledby)="([^"]*)"')
DROPPED = re.compile(
    r'(?s)<a class="headerlink".*?</a>'
    r'|<span class="nclib-tip".*?</span></span>'
    r"|<noscript>.*?</noscript>"
    r'|<script\b[^>]*ledger\.js[^>]*></script>'
)

STYLE = """
@page { size: A4; margin: 17mm 16mm 19mm; @bottom-center { content: counter(page);
  font: 8pt sans-serif; color: #555; } }
@page :first { @bottom-center { content: none; } }
html { font-size: 12px; }
body, .bd-main, .bd-content, .bd-article-container { display: block; margin: 0; padding: 0;
  max-width: none; width: auto; background: white; }
.bd-article-container .bd-article { padding: 0; max-width: none; overflow: visible; }
.nclib-sheet { break-before: page; }
.nclib-front { padding-top: 60mm; text-align: center; }
.nclib-front h1 { font-size: 2.6rem; }
.nclib-contents ul { list-style: none; padding: 0; }
.nclib-contents a { color: inherit; text-decoration: none; }
h1, h2, h3, h4, summary { break-after: avoid; }
figure, .nclib-card, .nclib-live, tr, li, .cell_input, div.highlight { break-inside: avoid; }
.bd-article div.highlight pre, .bd-article .cell_output pre { font-size: 0.72rem;
  white-space: pre-wrap; }
.bd-article.bd-article h1 { display: block !important; }
.bd-article.bd-article img { max-width: 130mm !important; }
.bd-article .pst-scrollable-table-container { overflow: hidden; }
.bd-article div.math { overflow: hidden; break-inside: avoid; }
.bd-article table.table { min-width: 0 !important; font-size: 0.8rem; }
.nclib-run { border: 0; }
summary::marker { font-size: 0.8em; }
"""
MATH = """
addEventListener("DOMContentLoaded", () => {
  for (const place of document.querySelectorAll("span.math, div.math")) {
    const tex = place.textContent.trim().replace(/^\\\\[([]|\\\\[)\\]]$/g, "");
    katex.render(tex, place, { displayMode: place.tagName === "DIV", throwOnError: false });
  }
});
"""


def chromium() -> str | None:
    """Path of a Chromium: ``$CHROMIUM``, else the first that ``PATH`` holds."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)


def name(page: str) -> str:
    return page.replace("/", "-")


def rewritten(article: str, page: str, known: set[str], base: str) -> str:
    """An article with ids of its own, and with links that stay inside the one document."""
    here = posixpath.dirname(page)

    def link(target: str) -> str:
        parts = urlsplit(target)
        if parts.scheme or parts.netloc:
            return target
        path = posixpath.join(here, parts.path) if parts.path else f"{page}.html"
        path = posixpath.normpath(path)
        if path.removesuffix(".html") in known:
            other = name(path.removesuffix(".html"))
            return f"#{other}--{parts.fragment}" if parts.fragment else f"#{other}"
        return base + path + (f"#{parts.fragment}" if parts.fragment else "")

    def attribute(match: re.Match) -> str:
        key, value = match[1], html.unescape(match[2])
        if key in ("id", "aria-describedby", "aria-labelledby"):
            value = f"{name(page)}--{value}"
        elif key == "href":
            value = link(value)
        elif not urlsplit(value).scheme:
            value = posixpath.normpath(posixpath.join(here, value))
        return f' {key}="{html.escape(value)}"'

    return TAG.sub(lambda tag: ADDRESS.sub(attribute, tag[0]), article)


def whole(layout: Layout, folder: Path) -> str:
    """One HTML document of all built pages, for printing."""
    toc = read_yaml(layout.root / "_toc.yml")
    config = read_yaml(layout.root / "_config.yml")
    version = tomllib.loads((layout.root / "pyproject.toml").read_text())["project"]["version"]
    names = list(pages(layout))
    built = {page: (folder / f"{page}.html").read_text(encoding="utf-8") for page in names}
    canonical = re.search(r'<link rel="canonical" href="([^"]*?)intro\.html"', built[toc["root"]])
    base = canonical[1] if canonical else ""
    titles = {page: html.unescape(re.sub(r"<[^>]+>", "", re.search(
        r"(?s)<h1>(.*?)(?:<a class=.headerlink|</h1>)", text)[1])) for page, text in built.items()}
    sheets = []
    for page, text in built.items():
        article = text.split('<article class="bd-article">', 1)[1].split("</article>", 1)[0]
        article = DROPPED.sub("", article)
        if not page.startswith("chapters/"):
            article = article.replace("<details", "<details open")
        sheets.append(f'<article class="bd-article nclib-sheet" id="{name(page)}">'
                      f"{rewritten(article, page, set(names), base)}</article>")

    def entry(page: str) -> str:
        return f'<li><a href="#{name(page)}">{html.escape(titles[page])}</a></li>'

    contents = entry(toc["root"])
    for part in toc["parts"]:
        inside = "".join(entry(chapter["file"]) for chapter in part["chapters"])
        contents += f"<li><b>{html.escape(part['caption'])}</b><ul>{inside}</ul></li>"
    styles: dict[str, None] = {}
    for page, text in built.items():
        for tag in re.findall(r"<link\b[^>]*>", text):
            href = re.search(r'href="([^"?]*)', tag)[1]
            if 'rel="stylesheet"' in tag:
                styles[posixpath.normpath(posixpath.join(posixpath.dirname(page), href))] = None
    links = "".join(f'<link rel="stylesheet" href="{style}">' for style in styles)
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    front = (f'<header class="nclib-front"><h1>{html.escape(config["title"])}</h1>'
             f"<p>{html.escape(config['author'])}</p><p>Version {version}, printed {date}</p>"
             f'<p><a href="{base}">{base}</a></p>{config["html"]["extra_footer"]}</header>')
    return (
        f'<!doctype html><html lang="en" data-theme="light" data-mode="light"><head>'
        f'<meta charset="utf-8"><title>{html.escape(config["title"])}</title>{links}'
        f"<style>{STYLE}</style><script defer src=\"_static/katex/katex.min.js\"></script>"
        f"<script>{MATH}</script></head><body>{front}"
        '<div class="bd-main"><div class="bd-content"><div class="bd-article-container">'
        f'<nav class="bd-article nclib-sheet nclib-contents"><h1>Contents</h1><ul>{contents}</ul>'
        f'</nav>{"".join(sheets)}</div></div></div></body></html>'
    )


def count(data: bytes) -> int:
    """Pages of a PDF as Chromium writes it."""
    return len(re.findall(rb"/Type\s*/Page\b(?!s)", data))


def printed(folder: Path, document: str, target: Path, timeout: float = 600) -> None:
    """Print an HTML document, whose files lie in ``folder``, to ``target``.

    Raises:
        BookError: no Chromium, or it printed nothing in time.
    """
    browser = chromium()
    if browser is None:
        raise BookError("no Chromium was found; set CHROMIUM to the path of one")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        source = folder / "_print.html"
        source.write_text(document, encoding="utf-8")
        command = [
            browser, "--headless=new", "--disable-gpu", "--no-first-run", "--disable-extensions",
            "--disable-dev-shm-usage", "--allow-file-access-from-files",
            "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={profile}",
            "--virtual-time-budget=20000", "--no-pdf-header-footer",
            "--generate-pdf-document-outline", f"--print-to-pdf={target}", source.as_uri(),
        ]
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            command.insert(1, "--no-sandbox")  # Chromium refuses to run as root with it
        target.unlink(missing_ok=True)
        try:
            subprocess.run(command, capture_output=True, timeout=timeout, check=False)
        except subprocess.TimeoutExpired:
            raise BookError(f"nothing was printed in {timeout:g} s") from None
        finally:
            source.unlink()
    if not target.is_file() or not target.read_bytes().startswith(b"%PDF"):
        raise BookError(f"{browser} printed nothing")


def write(layout: Layout, make: Callable[[Path, str, Path], None] = printed) -> Path:
    """Print ``_build/html`` to one PDF beside its pages, and link it from the landing page.

    Raises:
        BookError: the book is not built, or cannot be printed.
    """
    folder = layout.build / "html"
    landing = folder / "intro.html"
    if not landing.is_file():
        raise BookError("no book in _build/html: make html first")
    target = folder / NAME
    make(folder, whole(layout, folder), target)
    data = target.read_bytes()
    told = f"{count(data)} pages, {len(data) / 1e6:.0f} MB"
    text = landing.read_text(encoding="utf-8")
    link = f'Or all of it as <a href="{NAME}">one PDF</a> ({told}).'
    landing.write_text(PLACE.sub(f'<span class="nclib-pdf">{link}</span>', text), encoding="utf-8")
    say(f"{target}: {told}")
    return target
