"""The form of a chapter: what storing adds to an executed notebook, and what the book makes of it.

Stored notebooks read well on their own (Colab, GitHub): captions are cells, folded code has a
title, figures are light. The book's staged copy joins captions to figures, names the folds, and
gives every card its seeds and its row in the ledger.
"""

from __future__ import annotations

import base64
import copy
import hashlib
import io
import re
from collections.abc import Iterable, Iterator

import numpy as np
from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell
from PIL import Image

from nclib import cards

from . import records, seeds
from .layout import BookError, Layout, tags
from .plan import INSTALL, nearest

FIGURE_BYTES = 120_000
TITLE = "#@title "
CAPTION = "**Figure.** "
GENERATED = ("badges", "abstract", "cite")
INSTALL_CELL = """try:
    import nclib
except ImportError:  # Colab keeps its torch and numpy; elsewhere all comes along
    import sys

    keep = "--no-deps" if "google.colab" in sys.modules else ""
    url = "git+@URL@"
    %pip install --quiet {keep} "{url}"
else:
    netcat = "this nclib is a netcat: pip uninstall nclib, then run again"
    assert hasattr(nclib, "Claims"), netcat
"""
MARKS = cards.MARK
TWIN = "nclib_twin"  # metadata of an output that stands for the chapter's own picture: its hash
SAME = "As in the chapter: the same picture, to the pixel."
# A claim of another chapter: `[text](slug.ipynb#claim-id)` in a notebook. Cards are no headings, so
# Sphinx does not know them, and the book's page links to them itself.
CLAIM_LINK = re.compile(r"\[([^\[\]]+)\]\(([a-z0-9-]+)\.ipynb#(claim-[a-z0-9-]+)\)")


# --- storing --------------------------------------------------------------------------------------


def palette(data: bytes, limit: int = FIGURE_BYTES) -> bytes:
    """A PNG with at most 96 colors, fewer where it would be larger than ``limit``.

    Transparency stays; an animated PNG is returned as it is.
    """
    picture = Image.open(io.BytesIO(data))
    if getattr(picture, "n_frames", 1) > 1 or picture.mode == "P":
        return data
    rgba = picture.convert("RGBA")
    best = data
    for colors in (96, 64, 32):
        small = rgba.quantize(colors, method=Image.Quantize.FASTOCTREE)
        values = np.frombuffer(small.im.getpalette("RGBA", "RGBA"), np.uint8).copy()
        alpha = values[3::4]
        alpha[alpha > 245], alpha[alpha < 10] = 255, 0
        small.putpalette(values.tobytes(), "RGBA")
        buffer = io.BytesIO()
        small.save(buffer, format="PNG", optimize=True)
        if len(buffer.getvalue()) < len(best):
            best = buffer.getvalue()
        if len(best) <= limit:
            break
    return best


def tidy(nb: NotebookNode) -> NotebookNode:
    """Light figures, Colab's folds for code under a title, cards and report as the record has them.

    In place; returned.
    """
    record = records.of_notebook(nb)
    claims = {c["id"]: c for c in record["claims"]} if record else {}
    for claim in claims.values():
        if len(claim["values"] or ()) > cards.DOTS:
            claim["values"] = None
    for cell in nb.cells:
        if cell.cell_type != "code":
            continue
        if cell.source.startswith(TITLE):
            cell.metadata["cellView"] = "form"
        for output in cell.outputs:
            id = output.get("metadata", {}).get("nclib_claim")
            if id in claims:
                output.data = NotebookNode({
                    "text/plain": cards.card_text(claims[id]),
                    "text/html": cards.card_html(claims[id], record["run"]["slug"]),
                })
            if records.KEY in output.get("metadata", {}) and "data" in output:
                output.data = NotebookNode({
                    "text/plain": cards.report_text(record), "text/html": cards.report_html(record),
                })
    for _, output in _pictures(nb):
        output.data["image/png"] = _light(base64.b64decode(output.data["image/png"]))
    return nb


def _light(data: bytes) -> str:
    return base64.b64encode(palette(data)).decode("ascii")


def moves(png: str) -> bool:
    """Is this base64 text an animated PNG?"""
    return b"acTL" in base64.b64decode(png[:4000])


def abstract_lines(record: dict) -> str:
    """The assertions of the abstract as a Markdown list, each with its verdict."""
    lines = ["**What the abstract asserts, and what was found here**", ""]
    for a in record["abstract"]:
        by = ", ".join(f'<a href="#claim-{i}">{i}</a>' for i in a["claims"]) or a["reason"]
        scope = f" ({cards.SCOPE[a['scope']]})" if a["scope"] else ""
        lines.append(f"- {MARKS[a['verdict']]} **{a['verdict']}**{scope}: {a['text']} {by}")
    lines += ["", cards.score_text(record)]
    return "\n".join(lines)


def nearest_line(layout: Layout, slug: str) -> str:
    """The run nearest to the work's own setting, with its score."""
    variant = nearest(layout, slug)
    if variant is None:
        return ""
    record = records.of_file(layout.stored(slug, variant.name))
    link = f"[{variant.title}](../pages/what-changes/{slug}.md#{variant.name})"
    if record is None:
        return f"nearest to the work's setting: {link}, not run"
    work = cards.score(record)["work"]
    return (f"nearest to the work's setting: {link}, {work['reproduced']} of {work['total']} of "
            "the work's statements reproduced")


def cite_lines(layout: Layout, slug: str, record: dict, url: str) -> str:
    """BibTeX of the work, if the chapter has one, and of the chapter."""
    work = next(e for e in layout.entries if e["slug"] == slug)
    year = next(iter(re.findall(r"\d{4}", work.get("venue", ""))), "")
    where = {"title": work["title"], "author": work.get("authors", "").replace(", ", " and "),
             "year": year, "note": work.get("venue", "")}
    if "arxiv" in work:
        where |= {"eprint": work["arxiv"], "archivePrefix": "arXiv"}
    if "openreview" in work:
        where |= {"url": f"https://openreview.net/forum?id={work['openreview']}"}
    run = record["run"]
    commit, changed, _ = (run.get("commit") or "unknown").partition("+")
    ours = {
        "title": f"Neural Collapse, Reproduced: {slug}",
        "author": "{The authors of Neural Collapse, Reproduced}",
        "url": f"{url}/blob/main/chapters/{slug}.ipynb",
        "note": f"version {run['versions'].get('nclib', 'unknown')}, run at commit "
                f"{commit[:12]}{' with changes' if changed else ''}",
    }

    def entry(key: str, fields: dict) -> str:
        body = ",\n".join(f"  {k} = {{{v}}}" for k, v in fields.items() if v)
        return f"@misc{{{key},\n{body}\n}}"

    both = [] if work.get("synthesis") else [entry(f"{slug}-work", where)]
    text = "\n\n".join([*both, entry(f"{slug}-reproduced", ours)])
    return f"## Cite\n\n```bibtex\n{text}\n```"


def install_cell(url: str) -> str:
    """The first code cell of every notebook: nothing where our nclib is, else it is installed."""
    return INSTALL_CELL.strip().replace("@URL@", url)


def fill(layout: Layout, slug: str, nb: NotebookNode, texts: dict[str, str]) -> bool:
    """Put the generated texts into the cells tagged for them; did anything change?"""
    changed = False
    for cell in nb.cells:
        for tag, text in texts.items():
            kind = "code" if tag == INSTALL else "markdown"
            if cell.cell_type == kind and tag in tags(cell) and cell.source != text:
                cell.source, changed = text, True
    return changed


def named_works(layout: Layout, slug: str, nb: NotebookNode) -> list[str]:
    """Keys of ``references.bib`` that the prose names; its own work first, or all nine.

    Named is what is linked (arXiv, OpenReview, DOI), whose first author is ("Saxe et al."; with the
    year where two entries share one), or a data set.
    """
    prose = "\n".join(
        c.source for c in nb.cells if c.cell_type == "markdown" and "cite" not in tags(c)
    )
    entries = references(layout)
    first = {key: re.search(r"author\s*=\s*\{+([^,}]+),", body)[1] for key, body in entries.items()}
    own = [slug] if slug in entries else [work["slug"] for work in layout.works]
    keys = [key for key in own if key in entries]
    for key, body in entries.items():
        signs = [re.escape(i) for i in re.findall(
            r"\d{4}\.\d{4,5}|(?<=forum\?id=)\w+|10\.\d{4,}/[^\s},]+", body)]
        signs += {"fashion-mnist": ["Fashion-MNIST"], "cifar": ["CIFAR-10"]}.get(key, [])
        year = re.search(r"year\s*=\s*\{(\d{4})", body)[1]
        alone = list(first.values()).count(first[key]) == 1
        when = "" if alone else rf".{{1,40}}{year}"
        signs.append(rf"{first[key]} (?:et al\.|and [A-Z]){when}")
        if key not in keys and re.search("|".join(signs), prose):
            keys.append(key)
    return keys


def references(layout: Layout) -> dict[str, str]:
    """Key and body of each entry of ``references.bib``."""
    file = layout.root / "references.bib"
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    return dict(re.findall(r"(?ms)^@\w+\{([\w-]+),\n(.*?)^\}", text))


# --- staging --------------------------------------------------------------------------------------


def for_book(layout: Layout, slug: str, nb: NotebookNode) -> NotebookNode:
    """The chapter as the book shows it. In place; returned."""
    found = seeds.load(layout, slug)
    record = records.of_notebook(nb)
    claims = {c["id"]: c for c in record["claims"]} if record else {}
    keys = ",".join(named_works(layout, slug, nb))
    cells: list[NotebookNode] = []
    for cell in nb.cells:
        if "cite" in tags(cell) and keys:
            cell.source += ("\n\nWorks and data of this chapter: "
                            f"{{cite:t}}`{keys}`.")
        if cell.cell_type == "markdown" and "caption" in tags(cell) and cells:
            cells[-1:] = _picture_alone(cells[-1])
            _join(cells[-1], linked(cell.source.removeprefix(CAPTION)))
            continue
        told = next((o.metadata["image/png"]["width"] for o in cell.get("outputs", [])
                     if "width" in o.get("metadata", {}).get("image/png", {})), None)
        if told and "figure" in cell.metadata.get("mystnb", {}):  # a caption in the metadata
            cell.metadata["mystnb"].setdefault("image", {})["width"] = f"{told}px"
        if cell.cell_type == "markdown":
            cell.source = linked(cell.source)
        if cell.cell_type == "code":
            _fold(cell)
            for output in cell.outputs:
                id = output.get("metadata", {}).get("nclib_claim")
                if id in claims:
                    output.data["text/html"] = cards.card_html(
                        claims[id], slug, seeds=seeds.of_claim(found, id),
                        ledger="../pages/ledger.html",
                    )
        cells.append(cell)
    nb.cells = cells
    return _answer_first(nb, _live(layout, slug))


def linked(text: str) -> str:
    """Links to claims of other chapters, as the page needs them."""
    return CLAIM_LINK.sub(r'<a href="\2.html#\3">\1</a>', text)


def _live(layout: Layout, slug: str) -> list[NotebookNode]:
    """The chapter's live figure, where it has one, as a cell of the page."""
    folder = layout.root / "pages" / "_static" / "live"
    if not (folder / f"{slug}.js").is_file():
        return []
    scripts = "".join(f'<script src="../_static/live/{name}.js" defer></script>'
                      for name in ("kit", slug))
    source = (f'<div class="nclib-live" data-figure="{slug}"><noscript>A figure with sliders '
              f"stands here; it needs JavaScript.</noscript></div>{scripts}")
    return [new_markdown_cell(source, id="live")]


def _answer_first(nb: NotebookNode, live: list[NotebookNode]) -> NotebookNode:
    """The cover, the assertions and the live figure stand before the code; on the page alone."""
    first = [c for c in nb.cells if "cover" in tags(c) or "abstract" in tags(c)]
    place = next((i for i, c in enumerate(nb.cells) if c.cell_type == "code"), len(nb.cells))
    head = [c for c in nb.cells[:place] if c not in first]
    nb.cells = [*head, *first, *live, *(c for c in nb.cells[place:] if c not in first)]
    return nb


def _fold(cell: NotebookNode) -> None:
    """The title of folded code becomes the book's prompt and leaves the code."""
    if not cell.source.startswith(TITLE):
        return
    title, _, rest = cell.source.partition("\n")
    title = title.removeprefix(TITLE).strip()
    cell.source = rest
    mystnb = cell.metadata.setdefault("mystnb", {})
    mystnb["code_prompt_show"], mystnb["code_prompt_hide"] = title, f"Hide: {title}"


def _pictures(nb: NotebookNode) -> Iterator[tuple[NotebookNode, NotebookNode]]:
    """Every output that is a picture, after its cell."""
    for cell in nb.cells:
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                yield cell, output


def still(nb: NotebookNode) -> NotebookNode:
    """Keep of each animation the first frame, which is its end; in place, returned."""
    for _, output in _pictures(nb):
        if moves(output.data["image/png"]):
            buffer = io.BytesIO()
            picture = io.BytesIO(base64.b64decode(output.data["image/png"]))
            Image.open(picture).convert("RGBA").save(buffer, format="PNG")
            output.data["image/png"] = _light(buffer.getvalue())
    return nb


def without_twins(nb: NotebookNode, chapter: NotebookNode) -> NotebookNode:
    """A variant without the pictures that it shares with its chapter; in place, returned.

    Half of all pictures do not depend on what a variant changes, and each weighs 15 kB: a sentence
    takes their place.

    Raises:
        BookError: the sentence stands for a picture which the chapter does not show (any more).
    """
    chapter = still(copy.deepcopy(chapter))
    known = {(cell.id, _digest(output.data["image/png"])) for cell, output in _pictures(chapter)}
    for cell, output in _pictures(nb):
        own = _digest(output.data["image/png"])
        if (cell.id, own) in known:
            output.data = NotebookNode({"text/plain": SAME})
            output.metadata = NotebookNode({TWIN: own})
    for cell in nb.cells:
        for output in cell.get("outputs", []):
            own = output.get("metadata", {}).get(TWIN)
            if own and (cell.id, own) not in known:
                raise BookError(f"cell {cell.id} stands for a picture that the chapter does not "
                                "show: run it again")
    return nb


def _digest(png: str) -> str:
    return hashlib.sha256(base64.b64decode(png)).hexdigest()[:16]


def _picture_alone(cell: NotebookNode) -> list[NotebookNode]:
    """The cell, its picture in a cell of its own: a caption is put under every output of a cell."""
    pictures = [o for o in cell.outputs if "image/png" in o.get("data", {})]
    others = [o for o in cell.outputs if o not in pictures]
    if not others or not pictures:
        return [cell]
    alone = copy.deepcopy(cell)
    alone.id, alone.source, alone.outputs = f"{cell.id}-picture", "# its picture", pictures
    alone.metadata["tags"] = ["remove-input"]
    cell.outputs = others
    cell.metadata.pop("mystnb", None)
    return [cell, alone]


def _join(cell: NotebookNode, caption: str) -> None:
    """A caption cell becomes the caption of the figure before it, at the figure's own width."""
    mystnb = cell.metadata.setdefault("mystnb", {})
    text = " ".join(caption.split())
    mystnb.setdefault("figure", {})["caption"] = text
    width = next(iter(widths(cell.get("outputs", []))), None)
    if width:
        mystnb.setdefault("image", {})["width"] = f"{width}px"


def widths(outputs: Iterable) -> list[int]:
    """Width on the page of each PNG, from the output's metadata or half its pixels."""
    result = []
    for output in outputs:
        png = output.get("data", {}).get("image/png")
        if png:
            told = output.get("metadata", {}).get("image/png", {}).get("width")
            pixels = Image.open(io.BytesIO(base64.b64decode(png))).width
            result.append(int(told or (pixels // 2 if pixels > 900 else pixels)))
    return result
