"""What the book needs of Sphinx beyond its settings. `_config.yml` loads it.

- Figures are numbered within their page.
- A moving picture gets a still twin, its first frame, shown where the reader prefers reduced motion
  and on paper. `book.js` uses the same twin to pause it.
- In a checkout (`jupyter-book build .`) the generated pages are written first, and chapters are
  shown as `make html` shows them from its stage.
- Each page says where it is published, what it is about and which picture stands for it; a sitemap,
  a robots file and a page for wrong addresses are written beside the pages.
- A page loads little and nothing from elsewhere: formulas are set by the copy of KaTeX in
  `_static/katex`, icons are drawn in `custom.css`, the search index belongs to the search page, and
  scripts of a live-code service that this book does not offer are left out.
- Folded code is named by its own title.
- In a chapter, a term of the glossary shows its entry on hover, focus and touch where a section
  first uses it; in the bibliography each work names the pages that cite it.
"""

from __future__ import annotations

import html
import os
import posixpath
import re
import struct
import sys
import time
import tomllib
from pathlib import Path
from urllib.parse import unquote

import nbformat
from docutils import nodes

SIGNATURE = b"\x89PNG\r\n\x1a\n"
ANIMATION = (b"acTL", b"fcTL", b"fdAT")
IMAGE = re.compile(r'<img\b[^>]*?\bsrc="([^"]+\.png)"[^>]*?>')
ICONS = re.compile(r"(?:<!--[^>]*custom icons\s*-->\s*)?<script[^>]*fontawesome[^>]*></script>")
UNUSED = re.compile(r"thebe|mathjax", re.IGNORECASE)
LIVE_CODE = re.compile(
    r'(?s)<script type="text/x-thebe-config">.*?</script>|<script>kernelName = [^<]*</script>'
)
DESIGN = re.compile(r'class="[^"]*\bsd-')  # grids, cards and tabs of sphinx-design
MATH = re.compile(r'<(?:span|div) class="math\b')
GLOSSARY = "pages/glossary"
UNGLOSSED = (nodes.title, nodes.rubric, nodes.reference, nodes.literal, nodes.literal_block,
             nodes.math, nodes.math_block, nodes.raw, nodes.table, nodes.comment)
SUMMARY = 'summary aria-label="Toggle hidden content"'


def chunks(data: bytes):
    """Type and whole bytes of each chunk of a PNG file."""
    at = len(SIGNATURE)
    while at + 12 <= len(data):
        size = struct.unpack(">I", data[at : at + 4])[0] + 12
        yield data[at + 4 : at + 8], data[at : at + size]
        at += size


def still(data: bytes) -> bytes | None:
    """The first picture of an animated PNG as a file of its own; None for any other file."""
    if not data.startswith(SIGNATURE):
        return None
    parts = list(chunks(data))
    if not any(kind == b"acTL" for kind, _ in parts):
        return None
    return SIGNATURE + b"".join(chunk for kind, chunk in parts if kind not in ANIMATION)


def prepare(app, config) -> None:
    """In a checkout: write the generated pages, and show chapters in the form of the book."""
    theme = getattr(config, "html_theme_options", {})
    if not str(theme.get("repository_url", "")).startswith("https://github.com/"):
        theme.get("launch_buttons", {}).pop("colab_url", None)  # Colab opens no other host
    if not getattr(config, "html_baseurl", ""):
        config.html_baseurl = published_at(str(theme.get("repository_url", "")))
    root = Path(app.srcdir)
    if (root / "pyproject.toml").is_file():
        version = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]["version"]
        now = float(os.environ.get("SOURCE_DATE_EPOCH", time.time()))
        theme["extra_footer"] = theme.get("extra_footer", "") + (
            f"<p>Version {version}, built {time.strftime('%Y-%m-%d', time.gmtime(now))}.</p>")
    if not (root / "chapters" / "variants").is_dir():
        return  # the stage of `make html`, where this has been done
    sys.path.insert(0, str(root))
    from reproduce import changes, cost, form, found, ledger, trust
    from reproduce.layout import Layout, dumps

    layout = Layout(root)
    ledger.write_ledger(layout, layout)
    found.write_page(layout, layout)
    changes.write_pages(layout, layout)
    trust.write_page(layout, layout)
    cost.write_page(layout, layout)

    def shown(app, docname: str, source: list[str]) -> None:
        folder, _, slug = docname.partition("/")
        notebook = folder == "pages" and any(slug == p.stem for p in layout.notebooks)
        if notebook or (folder == "chapters" and slug in layout.slugs):
            nb = nbformat.reads(source[0], as_version=nbformat.NO_CONVERT)
            source[0] = dumps(form.for_book(layout, slug, nb))

    app.connect("source-read", shown)


def published_at(repository: str) -> str:
    """Where GitHub publishes the pages of a repository; empty for another host."""
    match = re.fullmatch(r"https://github\.com/([\w.-]+)/([\w.-]+?)/?", repository)
    return f"https://{match[1].lower()}.github.io/{match[2]}/" if match else ""


def describe(app, pagename: str, context: dict, doctree) -> str:
    """Tags in the head: description, canonical address, and the card that a link is shown as."""
    if doctree is None:
        return ""
    texts = (" ".join(p.astext().split()) for p in doctree.findall(nodes.paragraph))
    text = next((t for t in texts if len(t) > 60), "")
    about = text if len(text) <= 200 else text[:200].rsplit(" ", 1)[0] + " …"
    base, title = app.config.html_baseurl, re.sub(r"<[^>]+>", "", context.get("title", ""))
    tags = [("name", "description", about), ("property", "og:type", "article"),
            ("property", "og:title", html.unescape(title)),
            ("property", "og:description", about),
            ("property", "og:site_name", app.config.html_title or app.config.project),
            ("name", "twitter:card", "summary_large_image")]
    if base:
        tags.append(("property", "og:url", f"{base}{pagename}.html"))
        picture = IMAGE.search(context.get("body") or "")
        path, alt = "_static/cover.png", "Four classes collapse to the corners of a tetrahedron."
        if picture:
            path = posixpath.normpath(posixpath.join(posixpath.dirname(pagename), picture[1]))
            alt = html.unescape(next(iter(re.findall(r'alt="([^"]*)"', picture[0])), ""))
        tags += [("property", "og:image", base + path), ("property", "og:image:alt", alt)]
    return "".join(f'<meta {kind}="{name}" content="{html.escape(text)}" />\n'
                   for kind, name, text in tags if text)


LOST = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Not found</title>
<meta name="viewport" content="width=device-width,initial-scale=1"><body
style="font:1.1rem/1.6 sans-serif;max-width:36rem;margin:4rem auto;padding:0 1rem">
<h1>No such page</h1><p>The address may be old: chapters and pages keep their names, claims keep
their ids. <a href="{base}intro.html">Contents</a> · <a href="{base}pages/ledger.html">Ledger of all
claims</a></p></html>
"""


def write_beside(app, error) -> None:
    """Sitemap, robots file and the page for wrong addresses."""
    base = app.config.html_baseurl
    if error is not None or not base or app.builder.name != "html":
        return
    out = Path(app.outdir)
    pages = sorted(app.env.found_docs)
    places = "".join(f"<url><loc>{html.escape(base + p)}.html</loc></url>\n" for p in pages)
    (out / "sitemap.xml").write_text(
        '<?xml version="1.0" encoding="utf-8"?>\n'
        f'<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">\n{places}</urlset>\n',
        encoding="utf-8")
    (out / "robots.txt").write_text(f"User-agent: *\nAllow: /\nSitemap: {base}sitemap.xml\n")
    (out / "404.html").write_text(LOST.format(base=base), encoding="utf-8")


class gloss(nodes.inline):
    """A term in running text; ``entry`` is the HTML of its definition, ``tip`` the id of that."""


def visit_gloss(self, node) -> None:
    self.body.append('<span class="nclib-gloss"><span class="nclib-term" tabindex="0" '
                     f'aria-describedby="{node["tip"]}">')


def depart_gloss(self, node) -> None:
    self.body.append(f'</span><span class="nclib-tip" role="tooltip" id="{node["tip"]}">'
                     f'{node["entry"]}</span></span>')


def entry(definition: nodes.Node) -> str:
    """Words and formulas of a definition as HTML."""
    parts = [f'<span class="math notranslate nohighlight">\\({html.escape(n.astext())}\\)</span>'
             if isinstance(n.parent, nodes.math) else html.escape(n.astext())
             for n in definition.findall(nodes.Text)]
    return " ".join("".join(parts).split())


def spellings(term: str) -> list[str]:
    """Long form and abbreviation of "Long form (LF)"; each of "NC1, NC2"."""
    match = re.fullmatch(r"(.+) \((\w+)\)", term)
    return [match[1], match[2]] if match else term.split(", ")


def pattern(words: str) -> str:
    """An abbreviation as it is written, a word in either case; with or without a plural's s."""
    if sum(c.isupper() for c in words) > 1 and " " not in words:
        return re.escape(words) + "s?"
    first = f"[{words[0].upper()}{words[0].lower()}]"
    return first + re.escape(words[1:]).replace(r"\ ", r"[\s-]") + "s?"


def glossary(env) -> tuple[re.Pattern, list[tuple[str, str]]] | None:
    """A pattern with one group a spelling, and for each group its key and its entry."""
    if GLOSSARY not in env.found_docs:
        return None
    entries: dict[str, tuple[str, str]] = {}
    for item in env.get_doctree(GLOSSARY).findall(nodes.definition_list_item):
        terms = [t.astext() for t in item.findall(nodes.term)]
        text = entry(next(item.findall(nodes.definition)))
        for term in terms:
            entries |= {words: (terms[0], text) for words in spellings(term)}
    order = sorted(entries, key=len, reverse=True)
    found = "|".join(f"({pattern(words)})" for words in order)
    return re.compile(rf"(?<![\w-])(?:{found})(?![\w-])"), [entries[words] for words in order]


def explain(app, doctree, docname: str) -> None:
    """Mark the terms of the glossary where a section of a chapter first uses them."""
    if not docname.startswith("chapters/") or app.builder.format != "html":
        return
    if not hasattr(app, "nclib_glossary"):
        app.nclib_glossary = glossary(app.env)
    if app.nclib_glossary is None:
        return
    terms, entries = app.nclib_glossary
    seen: dict[int, set[str]] = {}
    count = 0
    for text in list(doctree.findall(nodes.Text)):
        above = list(parents(text))
        if any(isinstance(n, UNGLOSSED) for n in above) or in_raw_tag(text):
            continue
        sections = [n for n in above if isinstance(n, nodes.section)]
        known = seen.setdefault(id(sections[-2 if len(sections) > 1 else -1]) if sections else 0,
                                set())
        parts, at = [], 0
        for match in terms.finditer(text):
            key, told = entries[match.lastindex - 1]
            if key in known:
                continue
            known.add(key)
            count += 1
            mark = gloss("", match[0], tip=f"nclib-tip-{count}", entry=told)
            parts += [nodes.Text(text[at : match.start()]), mark]
            at = match.end()
        if parts:
            text.parent.replace(text, [*parts, nodes.Text(text[at:])])


def in_raw_tag(text: nodes.Text) -> bool:
    """Does the text stand in an element that was written as HTML, such as a link?"""
    siblings = text.parent.children
    before = siblings[: siblings.index(text)]
    raw = next((n.astext() for n in reversed(before) if isinstance(n, nodes.raw)), "</")
    return not raw.startswith("</") and not raw.endswith("/>")


def cited_in(app, doctree, docname: str) -> None:
    """In the bibliography, the pages that cite a work follow its entry."""
    domain = app.env.domains.get("cite")
    if domain is None or app.builder.format != "html":
        return
    ids = {c.citation_id: c.key for c in domain.citations}
    for citation in doctree.findall(nodes.citation):
        key = next((ids[i] for i in citation["ids"] if i in ids), None)
        places = {r.docname: r.citation_ref_id for r in reversed(domain.citation_refs)
                  if key in {target.key for target in r.targets}}
        pages = sorted(places, key=lambda page: (not page.startswith("chapters/"), page))
        line = nodes.paragraph("", "Cited in: ", classes=["nclib-cited"])
        for i, page in enumerate(pages):
            link = nodes.reference("", clean(app.env.titles[page].astext()), internal=True,
                                   refuri=f"{app.builder.get_relative_uri(docname, page)}"
                                          f"#{places[page]}")
            line += [nodes.Text(" · ")] * (i > 0) + [link]
        if pages:
            citation += line


def clean(title: str) -> str:
    """A title without its second half."""
    return title.split(": ")[0]


def parents(node):
    """The nodes around a node, the nearest first."""
    while node.parent is not None:
        node = node.parent
        yield node


def number_within_pages(app, env) -> list[str]:
    """Figure 1 is the first figure of every page."""
    for kinds in env.toc_fignumbers.values():
        for numbers in kinds.values():
            for count, name in enumerate(sorted(numbers, key=numbers.get), 1):
                numbers[name] = (count,)
    return []


def without_icons(head: str) -> str:
    """The theme's part of the head without its icon script (`layout.html` calls this)."""
    return ICONS.sub("", head)


def lighten(app, context: dict) -> None:
    """Drop the styles and scripts that no page of this book uses; formulas bring KaTeX."""

    def wanted(asset) -> bool:
        told = f"{getattr(asset, 'filename', asset)}{getattr(asset, 'attributes', {}).get('body')}"
        return not UNUSED.search(told) and not (plain and "design" in told)

    context["nclib_without_icons"] = without_icons
    context["body"] = LIVE_CODE.sub("", context.get("body") or "")
    if MATH.search(context["body"]):
        app.add_css_file("katex/katex.min.css")
        app.add_js_file("katex/katex.min.js", defer="defer")
    plain = not DESIGN.search(context["body"])
    for kind in ("script_files", "css_files"):
        context[kind] = [asset for asset in context.get(kind, []) if wanted(asset)]


def finish(app, pagename, templatename, context, doctree) -> None:
    """The last touches to the HTML of one page."""
    lighten(app, context)
    context["metatags"] = context.get("metatags", "") + describe(app, pagename, context, doctree)
    site = getattr(app.env, "external_site_map", {})
    if pagename in site and site[pagename].title:
        context["title"] = site[pagename].title  # for tabs; the page keeps its heading
    if not context.get("body"):
        return
    files = {name: Path(app.srcdir, source) for source, name in app.builder.images.items()}

    def moving(match: re.Match) -> str:
        address = unquote(match[1])
        source = files.get(posixpath.basename(address))
        frame = still(source.read_bytes()) if source and source.is_file() else None
        if frame is None:
            return match[0]
        twin = f"{posixpath.splitext(match[1])[0]}-still.png"
        target = Path(app.outdir, posixpath.dirname(pagename), unquote(twin))
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(frame)
        return (
            '<picture class="nclib-moving"><source media="(prefers-reduced-motion: reduce), print" '
            f'srcset="{twin}">{match[0]}</picture>'
        )

    context["body"] = IMAGE.sub(moving, context["body"]).replace(SUMMARY, "summary")


def setup(app) -> dict:
    app.connect("config-inited", prepare, priority=100)
    app.connect("env-get-updated", number_within_pages, priority=900)
    app.connect("doctree-resolved", explain)
    app.connect("doctree-resolved", cited_in)
    app.connect("html-page-context", finish, priority=900)
    app.add_node(gloss, html=(visit_gloss, depart_gloss))
    app.connect("build-finished", write_beside)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
